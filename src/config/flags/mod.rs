//! The table of every flag: name, kind, default, meaning, and whether this version acts on it.
//!
//! Parser, environment, `--help` and the refusals all read this one table, so a flag cannot be
//! known to one and not to another. Names and defaults are etcd 3.7's; `Group::Pinion` holds ours,
//! whose variables begin with `PINION_`, so that no later etcd can give them a second meaning.
//!
//! Not clap: Go's syntax (one dash or two, `-flag` alone only for booleans), etcd's exit codes, and
//! flags that are refused unless they have their default would each have to be worked around.

mod clustering;
mod flag;
mod limits;
mod logging;
mod member;
mod older;
mod ours;
mod security;

pub(super) use flag::{FILE_FLAG, Flag, GATES_FLAG, Group, Kind, Support};

/// The flag of that name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// What `--low-latency` puts in the place of other flags' defaults. The pulse bounds how long an idle
/// executor can oversleep by 10 ms (`shell/runtime/pulse.rs`), so a shorter tick would promise what the runtime
/// does not keep; etcd's ratio of ten ticks to an election stays.
pub(super) static LOW_LATENCY: &[(&str, &str)] =
    &[("heartbeat-interval", "10"), ("election-timeout", "100"), ("spin-before-park", "200us")];

/// Every flag, in the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    TABLES.into_iter().flatten()
}

/// The table, a part for each subject.
static TABLES: [&[Flag]; 7] = [
    member::FLAGS,
    clustering::FLAGS,
    limits::FLAGS,
    security::FLAGS,
    logging::FLAGS,
    ours::FLAGS,
    older::FLAGS,
];
