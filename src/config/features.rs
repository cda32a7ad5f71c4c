//! `--feature-gates`: what is tried before it is for everyone, as etcd calls it.
//!
//! Syntax and names are etcd 3.7's: `Name=true,Other=false`, the last of two equal names wins. A gate
//! whose other position asks for something this version lacks is refused by name; one that only
//! chooses between ways inside etcd is taken and has no effect.

use super::flags::GATES_FLAG as FLAG;
use super::parse::{Refused, Settings};
use super::value;

/// The gates that this version acts on, with etcd's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeatureGates {
    /// Compare data with the other members before serving.
    pub initial_corrupt_check: bool,
    /// The leader compares what a compaction left, every `--compact-hash-check-time`.
    pub compact_hash_check: bool,
}

/// What a gate means here.
enum Gate {
    Used(fn(&mut FeatureGates) -> &mut bool),
    /// Either position is granted: there is nothing to choose.
    Harmless,
    /// Only this position is granted.
    Only(bool),
}

/// Gates whose default in etcd is open; all of them are beta there.
const BETA: [&str; 2] = ["TxnModeWriteWithSharedBuffer", "FastLeaseKeepAlive"];

const GATES: [(&str, Gate); 11] = [
    ("InitialCorruptCheck", Gate::Used(|gates| &mut gates.initial_corrupt_check)),
    ("CompactHashCheck", Gate::Used(|gates| &mut gates.compact_hash_check)),
    // Nothing is defragmented, so the service never stops for it.
    ("StopGRPCServiceOnDefrag", Gate::Harmless),
    ("TxnModeWriteWithSharedBuffer", Gate::Harmless),
    // What a lease has left is remembered whatever is asked.
    ("LeaseCheckpoint", Gate::Harmless),
    ("LeaseCheckpointPersist", Gate::Harmless),
    ("SetMemberLocalAddr", Gate::Only(false)),
    // A keep-alive waits for the leader's confirmation and for nothing else, in either position.
    ("FastLeaseKeepAlive", Gate::Harmless),
    ("PriorityRequest", Gate::Only(false)),
    // Some of all alpha gates are not granted.
    ("AllAlpha", Gate::Only(false)),
    ("AllBeta", Gate::Only(true)),
];

impl FeatureGates {
    /// Every gate with etcd's word for its stage, and whether it is open here. What a gate without effect was set to
    /// is not kept: it has etcd's default.
    pub fn all(mut self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        GATES.iter().filter(|(name, _)| !name.starts_with("All")).map(move |(name, gate)| {
            let is_beta = BETA.contains(name);
            let is_open = match gate {
                Gate::Used(field) => *field(&mut self),
                Gate::Harmless | Gate::Only(_) => is_beta,
            };
            (*name, if is_beta { "BETA" } else { "ALPHA" }, is_open)
        })
    }

    pub(super) fn read(settings: &Settings) -> Result<Self, Refused> {
        let mut gates = Self::default();
        for part in settings.text(FLAG).split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let invalid = |reason: String| settings.invalid(FLAG, &reason);
            let Some((name, position)) = part.split_once('=') else {
                return Err(invalid(format!("missing bool value for {part}")));
            };
            let (name, position) = (name.trim(), position.trim());
            let Some(is_open) = value::parse_bool(position) else {
                return Err(invalid(format!("invalid value of {name}={position}")));
            };
            match GATES.iter().find(|(known, _)| *known == name) {
                None => return Err(invalid(format!("unrecognized feature gate: {name}"))),
                Some((_, Gate::Used(field))) => *field(&mut gates) = is_open,
                Some((_, Gate::Harmless)) => {}
                Some((_, Gate::Only(granted))) if *granted == is_open => {}
                Some((_, Gate::Only(_))) => {
                    return Err(invalid(format!("{name}={is_open} is not supported by Pinion yet")));
                }
            }
        }
        Ok(gates)
    }
}
