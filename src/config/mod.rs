//! Configuration: what the operator asked for, read once and typed.
//!
//! Split by who must agree: `cluster` holds what all members share, `process` what may differ.
//! Everything is a function of arguments, variables and a file's text that are passed in; nothing here looks at the
//! machine, a file or the environment, so whether a port is free or a core exists is not known here.
//!
//! Invariant: a `Config` that `parse` returned passed `validate`.
//! Compatibility: flag names, variables, defaults, syntax and exit codes are etcd 3.7's, and the names of 3.4 to
//! 3.6 are taken too. What would be a lie if it was ignored is refused by name: a `--client-cert-auth` that is
//! taken and forgotten would be an open door. What asks for nothing that exists here is taken with a warning.

mod address;
mod auth;
mod auto_compaction;
mod cipher_suites;
mod cluster;
mod commands;
mod completion;
mod demo;
mod discovery;
mod doctor;
mod features;
mod file;
mod flags;
mod gateway;
mod grpc_proxy;
mod help;
mod listener;
mod man;
mod member_urls;
mod nearest;
mod parse;
mod placement;
mod process;
mod proxy_flags;
mod reasons;
mod tls;
mod tool;
mod url;
mod value;
mod words;

#[cfg(test)]
mod tests;

pub use address::Address;
pub use auth::{AuthConfig, JwtConfig, SignMethod, TokenConfig};
pub use auto_compaction::AutoCompaction;
pub use cipher_suites::CipherSuite;
pub use cluster::{
    Bootstrap, ClusterConfig, ELECTION_MS_MAX, FirstMembers, InitialClusterState, LEARNERS_MAX_LIMIT,
    REQUEST_BYTES_MAX_LIMIT, TXN_OPS_MAX_LIMIT,
};
pub use demo::Demo;
pub use discovery::{Credentials, InitialCluster, ServiceDiscovery, SrvDiscovery};
pub use doctor::{Doctor, parse_cores};
pub use features::FeatureGates;
pub use file::CONFIG_FILE_BYTES_MAX;
pub use gateway::Gateway;
pub use grpc_proxy::GrpcProxy;
pub use help::{BUILD, COMMIT, ETCD_API_VERSION};
pub use listener::{Encryption, Listener};
pub use member_urls::{MemberUrls, parse_members};
pub use parse::Refused;
pub use placement::{Placement, Plan};
pub use process::{
    Keepalive, LogConfig, LogFormat, LogLevel, LogOutput, LogRotation, METADATA_BYTES_LIMIT, ProcessConfig,
    WalSync, WebConfig,
};
pub use tls::{PairFiles, Security, TlsConfig, TlsPolicy, TlsVersion};
pub use tool::{Format, Recover, Restore, Tool, parse as parse_tool};
pub use url::{Url, UrlError};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub cluster: ClusterConfig,
    pub process: ProcessConfig,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Start. The warnings are for the log, which exists only after this.
    Run { config: Box<Config>, warnings: Vec<String> },
    /// Print this to standard output and exit with 0.
    Print(String),
    /// Print the table of metrics and exit with 0.
    PrintMetrics,
    /// Print the message to standard error and exit with the code.
    Refused(Refused),
}

/// Reads arguments (without the program's own name) and the environment. `read_file` gives the text of the
/// file that they name, if they name one, of `CONFIG_FILE_BYTES_MAX` at most; or why there is none.
pub fn parse(
    args: impl IntoIterator<Item = String>,
    variables: impl IntoIterator<Item = (String, String)>,
    read_file: impl FnOnce(&str) -> Result<String, String>,
) -> Parsed {
    match read(args, variables, read_file) {
        Ok(parsed) => parsed,
        Err(refused) => Parsed::Refused(refused),
    }
}

fn read(
    args: impl IntoIterator<Item = String>,
    variables: impl IntoIterator<Item = (String, String)>,
    read_file: impl FnOnce(&str) -> Result<String, String>,
) -> Result<Parsed, Refused> {
    let (settings, mut warnings) = parse::settings(args, variables, read_file)?;
    if settings.boolean("help")? {
        return Ok(Parsed::Print(help::help()));
    }
    if settings.boolean("help-markdown")? {
        return Ok(Parsed::Print(help::markdown()));
    }
    if settings.boolean("help-metrics")? {
        return Ok(Parsed::PrintMetrics);
    }
    if settings.boolean("version")? {
        return Ok(Parsed::Print(help::version()));
    }
    let process = ProcessConfig::read(&settings)?;
    let config = Config { cluster: ClusterConfig::read(&settings, &process)?, process };
    config.validate()?;
    warnings.extend(process::remarks(&settings)?);
    warnings.extend(config.process.warnings(&settings));
    warnings.extend(config.cluster.warnings());
    Ok(Parsed::Run { config: Box::new(config), warnings })
}

impl Config {
    /// Refuses values that contradict each other.
    fn validate(&self) -> Result<(), Refused> {
        self.cluster.validate()?;
        self.process.validate()
    }
}
