//! `doctor`: what to look at on this host.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::parse::Refused;
use super::words::{Words, is_help};

/// A doctor's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doctor {
    /// Where the data will be; the nearest directory above it that exists is looked at.
    pub data_dir: PathBuf,
    /// Cores that roles are to be pinned to.
    pub cores: BTreeSet<u32>,
    /// Peers as `host:port`, which are dialed.
    pub peers: Vec<String>,
    pub is_json: bool,
    /// Change the host where a check says how.
    pub apply: bool,
    /// Where a unit for systemd is written that fits the host. The file must not exist.
    pub unit: Option<PathBuf>,
}

/// Peers that are dialed at most.
const PEERS_MAX: usize = 64;

/// Highest number of a core; Linux has at most 8,192, and a longer range is a typing error.
const CORE_MAX: u32 = 8_191;

/// Reads Linux's list form, `0-2,5`. White space around is left out, and empty text is an empty list.
#[must_use]
pub fn parse_cores(text: &str) -> Option<BTreeSet<u32>> {
    let mut cores = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || CORE_MAX < last {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// Reads the arguments behind `doctor`. None: the usage is asked for.
pub(super) fn parse(args: &[String]) -> Result<Option<Doctor>, Refused> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(None);
    }
    let mut words = Words::read(args, &["apply"])?;
    let data_dir = words.take("data-dir")?.unwrap_or_else(|| "default.etcd".to_owned());
    let cores = words.take("cores")?.unwrap_or_default();
    let cores = parse_cores(&cores).ok_or_else(|| {
        Refused::usage(format!("--cores={cores}: expected core numbers and ranges such as 0-2,5"))
    })?;
    let peers = words.take("peers")?.unwrap_or_default();
    let peers: Vec<String> =
        peers.split(',').map(str::trim).filter(|peer| !peer.is_empty()).map(str::to_owned).collect();
    let is_address = |peer: &String| {
        peer.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if let Some(peer) = peers.iter().find(|peer| !is_address(peer)) {
        return Err(Refused::usage(format!("--peers: {peer:?} is no host:port")));
    }
    if PEERS_MAX < peers.len() {
        return Err(Refused::usage(format!("--peers: at most {PEERS_MAX}")));
    }
    let (short, long) = (words.take("w")?, words.take("write-out")?);
    let is_json = match long.or(short).as_deref() {
        None | Some("simple") => false,
        Some("json") => true,
        Some(other) => {
            return Err(Refused::usage(format!("--write-out={other}: doctor has simple and json")));
        }
    };
    let apply = words.take_flag("apply")?;
    let unit = words.take("unit")?.filter(|file| !file.is_empty()).map(PathBuf::from);
    words.end("doctor")?;
    if let Some(word) = words.positional.first() {
        return Err(Refused::usage(format!("doctor takes flags only, and there is {word:?}")));
    }
    Ok(Some(Doctor { data_dir: data_dir.into(), cores, peers, is_json, apply, unit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_as_the_kernel_writes_them() {
        let cores = |text: &str| parse_cores(text).map(|cores| cores.into_iter().collect::<Vec<_>>());
        assert_eq!(cores("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cores(""), Some(vec![]));
        for text in ["2-1", "x", "0-9999999", "-1"] {
            assert_eq!(cores(text), None, "{text}");
        }
    }
}
