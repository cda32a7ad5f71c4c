//! Which role runs on which core, as the operator asked for it.
//!
//! Only the wish is here. Whether the machine has those cores, and what `auto` means on it, is
//! decided where the machine can be asked: in the shell.

use std::fmt;

/// `--placement`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// Chosen from the number of cores the process may use.
    Auto,
    /// As given.
    Plan(Plan),
}

/// The core of each role. Roles may share a core: those on one core also share its executor, except
/// the log writer, which blocks and so always has a thread of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One client shard each.
    pub shards: Vec<usize>,
    pub raft: usize,
    pub log: usize,
    pub store: usize,
}

/// Linux's own bound on CPU numbers (`CPU_SETSIZE`); larger ones cannot be pinned.
const CORE_MAX: usize = 1023;

impl Placement {
    /// Reads `auto` or `shards=2,3;raft=0;log=0;store=1`. Every role must be named once.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (mut shards, mut raft, mut log, mut store) = (None, None, None, None);
        for part in text.split(';') {
            let Some((role, cores)) = part.split_once('=') else {
                return Err(format!(
                    "{part:?} is not role=core; expected auto or shards=2,3;raft=0;log=0;store=1"
                ));
            };
            let cores = cores.split(',').map(parse_core).collect::<Result<Vec<usize>, String>>()?;
            let slot = match role.trim() {
                "shards" => &mut shards,
                "raft" => &mut raft,
                "log" => &mut log,
                "store" => &mut store,
                other => return Err(format!("no role {other:?}: roles are shards, raft, log and store")),
            };
            if slot.replace(cores).is_some() {
                return Err(format!("{role} is placed twice"));
            }
        }
        let roles = [("shards", &shards), ("raft", &raft), ("log", &log), ("store", &store)];
        let unplaced = roles.iter().filter(|(_, cores)| cores.is_none());
        let unplaced: Vec<String> = unplaced.map(|(role, _)| format!("{role} is not placed")).collect();
        if !unplaced.is_empty() {
            return Err(format!(
                "{}: every role needs a core, as in shards=2,3;raft=0;log=0;store=1 (shards lists cores, one for \
                 each client shard, and not how many there are)",
                unplaced.join(", ")
            ));
        }
        let shards = shards.unwrap_or_default();
        for (slot, core) in shards.iter().enumerate() {
            if shards[..slot].contains(core) {
                return Err(format!("two client shards on core {core}: they would only take turns"));
            }
        }
        Ok(Self::Plan(Plan {
            shards,
            raft: one("raft", raft)?,
            log: one("log", log)?,
            store: one("store", store)?,
        }))
    }
}

fn one(role: &str, cores: Option<Vec<usize>>) -> Result<usize, String> {
    match cores.unwrap_or_default()[..] {
        [core] => Ok(core),
        ref cores => Err(format!("{role} runs on one core, not on {}", cores.len())),
    }
}

fn parse_core(text: &str) -> Result<usize, String> {
    let core: usize = text.trim().parse().map_err(|_| format!("{text:?} is not a core number"))?;
    if core > CORE_MAX {
        return Err(format!("core {core} is above {CORE_MAX}"));
    }
    Ok(core)
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Plan(plan) => plan.fmt(f),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("shards=")?;
        for (slot, core) in self.shards.iter().enumerate() {
            write!(f, "{}{core}", if slot == 0 { "" } else { "," })?;
        }
        write!(f, ";raft={};log={};store={}", self.raft, self.log, self.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_reads_and_prints_the_same() {
        for text in ["auto", "shards=2,3;raft=0;log=0;store=1", "shards=0;raft=0;log=0;store=0"] {
            assert_eq!(Placement::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn incomplete_or_contradicting_plan_is_refused() {
        for (text, reason) in [
            ("", "not role=core"),
            ("Auto", "not role=core"),
            ("shards=0;raft=0;log=0", "store is not placed"),
            ("raft=0;log=0;store=0", "shards is not placed: every role needs a core"),
            (
                "shards=9",
                "raft is not placed, log is not placed, store is not placed: every role needs a core",
            ),
            ("shards=9", "shards lists cores, one for each client shard, and not how many there are"),
            ("shards=1,1;raft=0;log=0;store=0", "two client shards on core 1"),
            ("shards=1;raft=0,1;log=0;store=0", "raft runs on one core"),
            ("shards=1;shards=2;raft=0;log=0;store=0", "placed twice"),
            ("shards=1;raft=0;log=0;store=0;watch=1", "no role"),
            ("shards=x;raft=0;log=0;store=0", "not a core number"),
            ("shards=1024;raft=0;log=0;store=0", "above 1023"),
        ] {
            let error = Placement::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?} gave {error:?}");
        }
    }
}
