//! `demo`: three members on this machine, for a look.

use std::path::PathBuf;

use super::parse::Refused;
use super::words::{Words, is_help};

/// A demo's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demo {
    /// Client port of the first member; the others' follow from it. None: ports that are free.
    pub port: Option<u16>,
    /// Where the directory with all data is made. None: where temporary files go.
    pub dir: Option<PathBuf>,
}

/// Highest first port: the last of the six ports is 21 above it.
const PORT_MAX: i64 = u16::MAX as i64 - 21;

/// Reads the arguments behind `demo`. None: the usage is asked for.
pub(super) fn parse(args: &[String]) -> Result<Option<Demo>, Refused> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(None);
    }
    let mut words = Words::read(args, &[])?;
    let port = match words.take_number("port")? {
        None => None,
        Some(port) => match u16::try_from(port) {
            Ok(checked) if checked != 0 && port <= PORT_MAX => Some(checked),
            _ => return Err(Refused::usage(format!("--port={port}: expected a port from 1 to {PORT_MAX}"))),
        },
    };
    let dir = words.take("dir")?.filter(|dir| !dir.is_empty()).map(PathBuf::from);
    words.end("demo")?;
    match words.positional.first() {
        Some(word) => Err(Refused::usage(format!("demo takes flags only, and there is {word:?}"))),
        None => Ok(Some(Demo { port, dir })),
    }
}
