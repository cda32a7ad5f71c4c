//! One flag as the tables tell it, and the words that they are written in.

/// Where `--help` shows the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Group {
    Member,
    Clustering,
    Limits,
    Security,
    Auth,
    Logging,
    Pinion,
    Other,
}

/// How the flag's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    Bool,
    Text,
    Number,
    Duration,
    Urls,
}

/// What this version does with the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Support {
    /// Acted on.
    Used,
    /// Refused by name, with the reason, unless the value is the default or one of these, which ask for
    /// nothing that is missing.
    Missing { harmless: &'static [&'static str], because: &'static str },
    /// Any value is taken, or any of these words if there are some, and has no effect: it asks for
    /// nothing that is missing. Whoever gives another than the default is told so, and why.
    Moot { words: &'static [&'static str], because: &'static str },
    /// Accepted and without effect, as in etcd.
    Ignored,
    /// An older name of another flag.
    Renamed { to: &'static str },
    /// An older boolean: true gives another flag this text.
    StandsFor { to: &'static str, text: &'static str },
    /// An older boolean for one of `--feature-gates`.
    Gate(&'static str),
}

/// One flag.
#[derive(Debug)]
pub(in crate::config) struct Flag {
    pub(in crate::config) name: &'static str,
    pub(in crate::config) group: Group,
    pub(in crate::config) kind: Kind,
    pub(in crate::config) default: &'static str,
    pub(in crate::config) support: Support,
    /// Meaning and consequence; empty for what is not acted on.
    pub(in crate::config) help: &'static str,
}

impl Flag {
    /// The environment variable that sets the flag when the command line does not.
    pub(in crate::config) fn variable(&self) -> String {
        let prefix = if self.group == Group::Pinion { "PINION_" } else { "ETCD_" };
        format!("{prefix}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The flag that names a configuration file.
pub(in crate::config) const FILE_FLAG: &str = "config-file";

/// The flag that opens and closes gates.
pub(in crate::config) const GATES_FLAG: &str = "feature-gates";

pub(super) const fn used(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, group, kind, default, support: Support::Used, help }
}

pub(super) const fn missing_but(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    harmless: &'static [&'static str],
    because: &'static str,
) -> Flag {
    let support = Support::Missing { harmless, because };
    Flag { name, group: Group::Other, kind, default, support, help: "" }
}

pub(super) const fn renamed(name: &'static str, kind: Kind, to: &'static str) -> Flag {
    Flag { name, group: Group::Other, kind, default: "", support: Support::Renamed { to }, help: "" }
}

pub(super) const fn gate(name: &'static str, gate: &'static str) -> Flag {
    Flag { name, group: Group::Other, kind: Kind::Bool, default: "", support: Support::Gate(gate), help: "" }
}

pub(super) const fn moot(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    because: &'static str,
) -> Flag {
    moot_word(name, kind, default, &[], because)
}

pub(super) const fn moot_word(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    words: &'static [&'static str],
    because: &'static str,
) -> Flag {
    Flag { name, group: Group::Other, kind, default, support: Support::Moot { words, because }, help: "" }
}

pub(super) const fn ignored(name: &'static str, kind: Kind) -> Flag {
    Flag { name, group: Group::Other, kind, default: "", support: Support::Ignored, help: "" }
}
