//! Which role runs on which core.
//!
//! A plan names the core of every role. Roles that share a core share one executor and exchange
//! messages without atomics; the log writer is always a thread of its own, since it blocks.
//!
//! | cores | plan of `auto` |
//! |---|---|
//! | 1 | all on it |
//! | 2 | client shard, raft and store on the first, the log writer on the second |
//! | n ≥ 3 | log, raft, store on one core each as far as they go, client shards on the rest |

use std::collections::BTreeMap;
use std::fmt;

/// What an executor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Client shard number `n`, from 0.
    Shard(usize),
    Raft,
    Store,
}

/// A core of the machine, as the kernel numbers it.
pub type Core = usize;

/// The placement plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Core of each client shard.
    pub shards: Vec<Core>,
    pub raft: Core,
    pub log: Core,
    pub store: Core,
}

/// Why a plan cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("--placement {plan:?}: expected `auto` or `shards=C,C…;raft=C;log=C;store=C` with core numbers")]
    Syntax { plan: String },
    #[error("--placement: core {core} is not one of the cores this process may use ({allowed})")]
    CoreNotAllowed { core: Core, allowed: String },
    #[error("this process may not use any core")]
    NoCores,
}

/// Client shards at most: the shard number is a byte of the ticket.
pub const SHARDS_MAX: usize = 255;

impl Plan {
    /// The plan for the cores this process may use, or the one the operator wrote.
    ///
    /// # Errors
    /// [`PlanError`] when the text is not a plan or names a core that is not in `allowed`.
    pub fn new(text: &str, allowed: &[Core]) -> Result<Self, PlanError> {
        if text == "auto" {
            return Self::auto(allowed);
        }
        let plan = Self::parse(text).ok_or_else(|| PlanError::Syntax { plan: text.to_owned() })?;
        let named = plan.shards.iter().chain([&plan.raft, &plan.log, &plan.store]);
        for &core in named {
            if !allowed.contains(&core) {
                let allowed = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                return Err(PlanError::CoreNotAllowed { core, allowed });
            }
        }
        Ok(plan)
    }

    fn auto(allowed: &[Core]) -> Result<Self, PlanError> {
        Ok(match *allowed {
            [] => return Err(PlanError::NoCores),
            [only] => Self { shards: vec![only], raft: only, log: only, store: only },
            [first, second] => Self { shards: vec![first], raft: first, log: second, store: first },
            // The log writer sleeps in the disk most of its time, so raft shares its core.
            [first, second, third] => Self { shards: vec![first], raft: second, log: second, store: third },
            [log, raft, store, ref rest @ ..] => {
                Self { shards: rest.iter().copied().take(SHARDS_MAX).collect(), raft, log, store }
            }
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = BTreeMap::new();
        for part in text.split(';') {
            let (role, cores) = part.split_once('=')?;
            let cores =
                cores.split(',').map(|core| core.trim().parse().ok()).collect::<Option<Vec<Core>>>()?;
            if parts.insert(role.trim(), cores).is_some() {
                return None;
            }
        }
        let mut one = |role| match parts.remove(role)?.as_slice() {
            [core] => Some(*core),
            _ => None,
        };
        let (raft, log, store) = (one("raft")?, one("log")?, one("store")?);
        let shards = parts.remove("shards").filter(|shards| (1..=SHARDS_MAX).contains(&shards.len()))?;
        parts.is_empty().then_some(Self { shards, raft, log, store })
    }

    /// The executors of the plan: each core with its roles, in a fixed order. Client shards on one
    /// core stay separate shards of one executor.
    #[must_use]
    pub fn executors(&self) -> BTreeMap<Core, Vec<Role>> {
        let mut executors = BTreeMap::<Core, Vec<Role>>::new();
        for (shard, &core) in self.shards.iter().enumerate() {
            executors.entry(core).or_default().push(Role::Shard(shard));
        }
        executors.entry(self.raft).or_default().push(Role::Raft);
        executors.entry(self.store).or_default().push(Role::Store);
        executors
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        write!(f, "shards={shards};raft={};log={};store={}", self.raft, self.log, self.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_gives_every_role_a_core_for_any_number_of_cores() {
        for cores in 1..10 {
            let allowed: Vec<Core> = (0..cores).collect();
            let plan = Plan::new("auto", &allowed).unwrap();
            assert!(!plan.shards.is_empty());
            let roles: usize = plan.executors().values().map(Vec::len).sum();
            assert_eq!(roles, plan.shards.len() + 2);
        }
    }

    #[test]
    fn a_written_plan_round_trips_and_nonsense_is_refused() {
        let text = "shards=2,3;raft=0;log=0;store=1";
        assert_eq!(Plan::new(text, &[0, 1, 2, 3]).unwrap().to_string(), text);
        for bad in
            ["", "shards=", "shards=1;raft=0;log=0", "raft=0;log=0;store=0", "shards=a;raft=0;log=0;store=0"]
        {
            assert!(matches!(Plan::new(bad, &[0, 1]), Err(PlanError::Syntax { .. })), "{bad}");
        }
        assert!(matches!(Plan::new(text, &[0, 1, 2]), Err(PlanError::CoreNotAllowed { core: 3, .. })));
    }
}
