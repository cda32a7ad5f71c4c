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
//!
//! A core is dedicated to one member only: each claims the cores of its executors for as long as it
//! runs. Where several members share a machine, `auto` pins the first that starts; the others find
//! their cores claimed and run *unpinned*: the kernel places their threads, nobody spins, and they use
//! as many executors as a third of the cores would get. Three members that all pin themselves to the
//! same two cores of a machine leave the others idle (66 k instead of 100 k puts/s on two cores).
//!
//! A claim is a socket of that name in Linux's abstract name space: taken at once or not at all, and
//! gone with the process however it ends. It is advice between members, no more: in another network
//! namespace it is not seen, and whoever squats on the names costs a member its pinning, not its service.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::config::{Placement, Plan};
use crate::types::ticket;

/// What an executor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::shell) enum Role {
    /// Client shard number `n`, from 0.
    Shard(usize),
    Raft,
    Store,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shard(shard) => write!(f, "shard-{shard}"),
            Self::Raft => f.write_str("raft"),
            Self::Store => f.write_str("store"),
        }
    }
}

/// A core of the machine, as the kernel numbers it.
pub(in crate::shell) type Core = usize;

/// Why a plan cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::shell) enum PlanError {
    #[error("--placement: core {core} is not one of the cores this process may use ({allowed})")]
    CoreNotAllowed { core: Core, allowed: String },
    #[error("--placement: {shards} client shards, at most {SHARDS_MAX} are possible")]
    TooManyShards { shards: usize },
    #[error("this process may not use any core")]
    NoCores,
}

/// Client shards at most: more than any machine has cores to spare, and few enough for a ticket.
pub(in crate::shell) const SHARDS_MAX: usize = 255;
const _: () = assert!(SHARDS_MAX <= ticket::SHARDS_MAX as usize);

/// A plan as it is carried out.
#[derive(Debug)]
pub(in crate::shell) struct Placed {
    /// Unpinned, its cores only tell which roles share an executor.
    pub plan: Plan,
    /// Threads are pinned to the plan's cores; otherwise the kernel places them.
    pub pinned: bool,
    /// Held for as long as the member runs.
    _claims: Claims,
}

/// The plan for the cores this process may use: the operator's own, or the table's if nobody else has
/// claimed its cores. What the operator asks for is done even then, and said.
///
/// # Errors
/// As [`plan`].
pub(in crate::shell) fn place(wish: &Placement, allowed: &[Core]) -> Result<Placed, PlanError> {
    let plan = plan(wish, allowed)?;
    let claims = Claims::of(executors(&plan).into_keys());
    let Some(taken) = claims.taken else {
        return Ok(Placed { plan, pinned: true, _claims: claims });
    };
    if *wish != Placement::Auto {
        tracing::warn!(core = taken, "another member on this machine runs on a core of --placement");
        return Ok(Placed { plan, pinned: true, _claims: claims });
    }
    tracing::info!(
        core = taken,
        "another member on this machine has claimed a core that this one would use: running unpinned. \
         --placement gives each its own"
    );
    let share = &allowed[..allowed.len().div_ceil(MEMBERS_ON_ONE_MACHINE)];
    Ok(Placed { plan: auto(share)?, pinned: false, _claims: Claims::default() })
}

/// How many members a machine is taken to have when it has more than one.
const MEMBERS_ON_ONE_MACHINE: usize = 3;

/// Cores that other members keep away from.
#[derive(Debug, Default)]
struct Claims {
    held: Vec<UnixListener>,
    /// One that somebody else holds.
    taken: Option<Core>,
}

impl Claims {
    fn of(cores: impl IntoIterator<Item = Core>) -> Self {
        let mut claims = Self::default();
        for core in cores {
            let name = SocketAddr::from_abstract_name(format!("pinion-core-{core}"));
            match name.and_then(|name| UnixListener::bind_addr(&name)) {
                Ok(claim) => claims.held.push(claim),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => claims.taken = Some(core),
                // Where there are no such sockets there is nobody to agree with.
                Err(error) => tracing::debug!(core, %error, "the core could not be claimed"),
            }
        }
        claims
    }
}

/// The operator's own plan, or the table's.
///
/// # Errors
/// [`PlanError`] when the wish names a core that is not in `allowed`.
pub(in crate::shell) fn plan(wish: &Placement, allowed: &[Core]) -> Result<Plan, PlanError> {
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
pub(in crate::shell) fn executors(plan: &Plan) -> BTreeMap<Core, Vec<Role>> {
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
    fn the_second_member_on_the_same_cores_runs_unpinned_until_the_first_has_ended() {
        // Cores that no machine has, so that no member that runs meanwhile has claimed them.
        let cores: Vec<Core> = (5000..5006).collect();
        let first = place(&Placement::Auto, &cores).unwrap();
        assert!(first.pinned);
        let second = place(&Placement::Auto, &cores).unwrap();
        assert!(!second.pinned);
        assert_eq!(executors(&second.plan).len(), 1, "a third of six cores");
        let insists = place(&Placement::Plan(first.plan.clone()), &cores).unwrap();
        assert!(insists.pinned && insists.plan == first.plan);
        drop((first, insists));
        assert!(place(&Placement::Auto, &cores).unwrap().pinned);
    }

    #[test]
    fn a_plan_on_a_core_the_process_may_not_use_is_refused() {
        let wish = Placement::parse("shards=2,3;raft=0;log=0;store=1").unwrap();
        plan(&wish, &[0, 1, 2, 3]).unwrap();
        assert!(matches!(plan(&wish, &[0, 1, 2]), Err(PlanError::CoreNotAllowed { core: 3, .. })));
    }
}
