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

use crate::config::{Placement, Plan};

/// What an executor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Client shard number `n`, from 0.
    Shard(usize),
    Raft,
    Store,
}

/// A core of the machine, as the kernel numbers it.
pub(super) type Core = usize;

/// Why a plan cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    #[error("--placement: core {core} is not one of the cores this process may use ({allowed})")]
    CoreNotAllowed { core: Core, allowed: String },
    #[error("--placement: {shards} client shards, at most {SHARDS_MAX} are possible")]
    TooManyShards { shards: usize },
    #[error("this process may not use any core")]
    NoCores,
}

/// Client shards at most: the shard number is a byte of the ticket.
pub(super) const SHARDS_MAX: usize = 255;

/// The plan for the cores this process may use: the operator's own, or the table's.
///
/// # Errors
/// [`PlanError`] when the wish names a core that is not in `allowed`.
pub(super) fn plan(wish: &Placement, allowed: &[Core]) -> Result<Plan, PlanError> {
    let plan = match wish {
        Placement::Auto => return auto(allowed),
        Placement::Plan(plan) => plan.clone(),
    };
    if plan.shards.len() > SHARDS_MAX {
        return Err(PlanError::TooManyShards { shards: plan.shards.len() });
    }
    for &core in plan.shards.iter().chain([&plan.raft, &plan.log, &plan.store]) {
        if !allowed.contains(&core) {
            let allowed = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            return Err(PlanError::CoreNotAllowed { core, allowed });
        }
    }
    Ok(plan)
}

fn auto(allowed: &[Core]) -> Result<Plan, PlanError> {
    Ok(match *allowed {
        [] => return Err(PlanError::NoCores),
        [only] => Plan { shards: vec![only], raft: only, log: only, store: only },
        [first, second] => Plan { shards: vec![first], raft: first, log: second, store: first },
        // The log writer sleeps in the disk most of its time, so raft shares its core.
        [first, second, third] => Plan { shards: vec![first], raft: second, log: second, store: third },
        [log, raft, store, ref rest @ ..] => {
            Plan { shards: rest.iter().copied().take(SHARDS_MAX).collect(), raft, log, store }
        }
    })
}

/// The executors of a plan: each core with its roles, in a fixed order.
#[must_use]
pub(super) fn executors(plan: &Plan) -> BTreeMap<Core, Vec<Role>> {
    let mut executors = BTreeMap::<Core, Vec<Role>>::new();
    for (shard, &core) in plan.shards.iter().enumerate() {
        executors.entry(core).or_default().push(Role::Shard(shard));
    }
    executors.entry(plan.raft).or_default().push(Role::Raft);
    executors.entry(plan.store).or_default().push(Role::Store);
    executors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_gives_every_role_a_core_for_any_number_of_cores() {
        for cores in 1..10 {
            let allowed: Vec<Core> = (0..cores).collect();
            let plan = plan(&Placement::Auto, &allowed).unwrap();
            assert!(!plan.shards.is_empty());
            let roles: usize = executors(&plan).values().map(Vec::len).sum();
            assert_eq!(roles, plan.shards.len() + 2);
        }
    }

    #[test]
    fn a_plan_on_a_core_the_process_may_not_use_is_refused() {
        let wish = Placement::parse("shards=2,3;raft=0;log=0;store=1").unwrap();
        plan(&wish, &[0, 1, 2, 3]).unwrap();
        assert!(matches!(plan(&wish, &[0, 1, 2]), Err(PlanError::CoreNotAllowed { core: 3, .. })));
    }
}
