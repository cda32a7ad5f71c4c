//! `gateway start`: what is forwarded, and to whom.
//!
//! Compatibility: etcd's flags and defaults. Other than there, an endpoint that is no `host:port` is refused at once,
//! and `--retry-delay=0s` is etcd's own five minutes said aloud.

use std::path::PathBuf;
use std::time::Duration;

use super::parse::Refused;
use super::value::parse_duration;
use super::words::{Words, is_help};
use super::{LogConfig, Parsed, Security, SrvDiscovery, TlsPolicy, Url};

/// A gateway's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// At least one. Schemes do not matter: bytes are forwarded as they come.
    pub endpoints: Vec<Url>,
    /// Where to ask for endpoints first.
    pub discovery: Option<SrvDiscovery>,
    /// Endpoints that DNS lists are taken as they are.
    pub insecure_discovery: bool,
    /// By what endpoints that DNS lists are verified.
    pub security: Security,
    pub policy: TlsPolicy,
    /// Where clients come.
    pub listen: Url,
    /// How often endpoints that did not answer are tried again.
    pub retry_delay: Duration,
    pub log: LogConfig,
}

/// etcd's, for a delay of zero.
const RETRY_DELAY_OF_ZERO: Duration = Duration::from_secs(300);

pub(super) const USAGE: &str = "\
pinion gateway start [flags]: forwards TCP connections to the members of a cluster.

Put it on the machine of an application that knows one address only. Each connection that comes to --listen-addr is
connected with one endpoint, and bytes go both ways as they are: TLS is between the client and the member, so their
certificates have to name the address that the client dials. Endpoints take turns. One that cannot be dialed gets no
connections until it answers again, which is tried every --retry-delay; connections that there are stay where they are.
With systemd: Type=notify. SIGTERM and SIGINT end it, and its connections with it.

  --endpoints host:port,...     members, by any of their client URLs; a scheme is left out [127.0.0.1:2379]
  --listen-addr host:port       where clients come [127.0.0.1:23790]
  --retry-delay duration        how often endpoints that did not answer are tried again [1m0s]
  --discovery-srv domain        ask DNS for the members instead, once, at the start: the SRV records
                                _etcd-client-ssl._tcp.domain and _etcd-client._tcp.domain. The lowest priority that
                                answers gets all connections, by weight. Without records: --endpoints
  --discovery-srv-name name     ask for _etcd-client-ssl-name and _etcd-client-name
  --trusted-ca-file path        endpoints from DNS are dialed by TLS once; who has no certificate for the domain by this
                                CA is left out, and so is who has no TLS
  --insecure-discovery          take the endpoints from DNS as they are

Example: pinion gateway start --endpoints=m1.example.com:2379,m2.example.com:2379 --retry-delay=10s
";

/// Reads what stands behind `gateway`. None: the usage is asked for.
pub(super) fn parse(args: &[String]) -> Result<Option<Gateway>, Refused> {
    let rest = match args.split_first() {
        None => return Err(Refused::usage(format!("gateway: there is `start`\n{USAGE}"))),
        Some((first, _)) if is_help(first) => return Ok(None),
        Some((first, rest)) if first == "start" => rest,
        Some((first, _)) => {
            return Err(Refused::usage(format!("gateway {first}: there is `start`\n{USAGE}")));
        }
    };
    if rest.iter().any(|arg| is_help(arg)) {
        return Ok(None);
    }
    let mut words = Words::read(rest, &["insecure-discovery"])?;
    let endpoints = words.take("endpoints")?.unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let endpoints = endpoints
        .split(',')
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty())
        .map(|endpoint| address(endpoint).map_err(|error| invalid("endpoints", &error)))
        .collect::<Result<Vec<Url>, Refused>>()?;
    if endpoints.is_empty() {
        return Err(Refused::usage("--endpoints: no endpoints found"));
    }
    let listen = words.take("listen-addr")?.unwrap_or_else(|| "127.0.0.1:23790".to_owned());
    // As Go reads it: no host is every address of this host.
    let listen = if listen.starts_with(':') { format!("0.0.0.0{listen}") } else { listen };
    let listen = address(&listen).map_err(|error| {
        Refused::usage(format!("failed to validate listen address: --listen-addr: {error}"))
    })?;
    let retry_delay = match words.take("retry-delay")? {
        None => Duration::from_secs(60),
        Some(text) => match parse_duration(&text).map_err(|error| invalid("retry-delay", &error))? {
            Duration::ZERO => RETRY_DELAY_OF_ZERO,
            delay => delay,
        },
    };
    let suffix = words.take("discovery-srv-name")?.unwrap_or_default();
    let discovery = words.take("discovery-srv")?.filter(|domain| !domain.is_empty());
    let insecure_discovery = words.take_flag("insecure-discovery")?;
    let trusted_ca = words.take("trusted-ca-file")?.filter(|path| !path.is_empty()).map(PathBuf::from);
    words.end("gateway start")?;
    if let Some(word) = words.positional.first() {
        return Err(Refused::usage(format!(
            "gateway start takes flags only, and there is {word:?}\n{USAGE}"
        )));
    }
    let Parsed::Run { config, .. } = super::parse(Vec::new(), [], |_| Err("it is not read here".to_owned()))
    else {
        unreachable!("no flag was given");
    };
    let security = Security {
        trusted_ca,
        // Whoever answers for a domain is to have a certificate for it.
        server_name: discovery.as_deref().map(|domain| domain.trim_end_matches('.').to_owned()),
        ..Security::none("--trusted-ca-file")
    };
    Ok(Some(Gateway {
        endpoints,
        discovery: discovery.map(|domain| SrvDiscovery { domain, service_suffix: suffix }),
        insecure_discovery,
        security,
        policy: config.process.tls.policy.clone(),
        listen,
        retry_delay,
        log: config.process.log.clone(),
    }))
}

/// `host:port`, behind a scheme or not.
fn address(text: &str) -> Result<Url, String> {
    let bare = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    if bare.contains("://") {
        return Err(format!("{text}: only TCP is forwarded; write host:port"));
    }
    Url::parse(&format!("http://{bare}")).map_err(|error| error.to_string())
}

fn invalid(name: &str, error: &str) -> Refused {
    Refused::usage(format!("--{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::commands::COMMANDS;

    fn parsed(line: &str) -> Result<Gateway, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&args) {
            Ok(Some(gateway)) => Ok(gateway),
            Ok(None) => panic!("{line} is no cry for help"),
            Err(refused) => Err(refused.message),
        }
    }

    #[test]
    fn defaults_are_etcds() {
        let plain = parsed("start").unwrap();
        assert_eq!(plain.endpoints[0].authority(), "127.0.0.1:2379");
        assert_eq!(
            (plain.listen.authority(), plain.retry_delay),
            ("127.0.0.1:23790".to_owned(), Duration::from_secs(60))
        );
        assert_eq!((plain.discovery, plain.insecure_discovery), (None, false));
    }

    #[test]
    fn schemes_are_left_out_and_flags_come_in_any_form() {
        let told = parsed(
            "start --endpoints=http://a:1,https://b:2,[::1]:3 --listen-addr :4 -retry-delay=1s --discovery-srv x.org. \
             --discovery-srv-name=s --insecure-discovery --trusted-ca-file=ca",
        )
        .unwrap();
        let endpoints: Vec<_> = told.endpoints.iter().map(Url::authority).collect();
        assert_eq!(endpoints, ["a:1", "b:2", "[::1]:3"]);
        assert_eq!(
            (told.listen.authority(), told.retry_delay),
            ("0.0.0.0:4".to_owned(), Duration::from_secs(1))
        );
        assert_eq!(told.security.server_name.as_deref(), Some("x.org"));
        assert!(told.insecure_discovery && told.security.trusted_ca.is_some());
        assert_eq!(parsed("start --retry-delay=0s").unwrap().retry_delay, RETRY_DELAY_OF_ZERO);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, words) in [
            ("", "there is `start`"),
            ("stop", "gateway stop"),
            ("start --endpoints=a", "host:port"),
            ("start --endpoints=unix://a", "only TCP"),
            ("start --endpoints=,", "no endpoints found"),
            ("start --listen-addr=a", "failed to validate listen address"),
            ("start --retry-delay=soon", "--retry-delay"),
            ("start --nonsense=1", "-nonsense"),
            ("start 127.0.0.1:2379", "flags only"),
        ] {
            let refusal = parsed(line).unwrap_err();
            assert!(refusal.contains(words), "{line}: {refusal}");
        }
    }

    #[test]
    fn help_tells_every_flag() {
        let args = ["start".to_owned(), "--help".to_owned()];
        assert_eq!(parse(&args).map_err(|refused| refused.message), Ok(None));
        let command = COMMANDS.iter().find(|command| command.words == "gateway start").unwrap();
        for flag in command.flags {
            assert!(
                USAGE.contains(&format!("--{flag} ")) || USAGE.contains(&format!("--{flag}\n")),
                "{flag}"
            );
        }
    }
}
