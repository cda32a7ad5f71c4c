//! Why a demo does not start, in words for whoever typed it.

use std::io;
use std::path::PathBuf;

/// Why a demo does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum DemoError {
    #[error("{} cannot hold the demo's directory (--dir picks another one)", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "{} has {free_mib} MiB left, and three members need 1024 (--dir picks another directory)",
        path.display()
    )]
    NoSpace { path: PathBuf, free_mib: u64 },
    #[error(
        "port {port} of this machine cannot be used (--port picks others; without it free ones are found)"
    )]
    Port { port: u16, source: io::Error },
    #[error("cannot start {what}")]
    Start { what: &'static str, source: io::Error },
    #[error("{name} has ended before it served; its last line: {line}")]
    Ended { name: String, line: String },
    #[error("{name} does not serve after 30 s; its last line: {line}")]
    Late { name: String, line: String },
    #[error("the first values were not accepted")]
    Data { source: io::Error },
}
