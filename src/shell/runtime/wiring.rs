//! Which rings join which roles: made once before the executors start, from the placement plan.
//!
//! Each role gets one struct of ports. Whether a port leads to the same executor or to another core
//! is decided here and nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::metrics::{Name, Report};
use crate::replica::exchange::{ToRaft, ToShard, ToStore};
use crate::shell::runtime::mesh::{self, Doorbell, Receiver, Sender, SharedBell, SharedRing};
use crate::shell::runtime::placement::{Core, Role};
use crate::shell::runtime::scrape::{SCRAPES_MAX, Scrape, Scraper};

/// Messages that may wait between two roles. A shard whose ring is full stops reading its sockets.
const RING_MESSAGES_MAX: usize = 4096;

/// Where scrapes come, and what of the executor is told with the role's answer.
#[derive(Debug)]
pub(in crate::shell) struct Scrapes {
    ring: Arc<SharedRing<Scrape>>,
    role: Role,
    /// The core and the roles of the executor, at the first of its roles.
    executor: Option<(Core, String)>,
}

impl Scrapes {
    /// Those of a role that come on `ring`; `executor` is told with its answers.
    pub(in crate::shell) fn of(
        ring: Arc<SharedRing<Scrape>>,
        role: Role,
        executor: Option<(Core, String)>,
    ) -> Self {
        Self { ring, role, executor }
    }

    /// Whether nobody asks.
    pub(in crate::shell) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The next question.
    pub(in crate::shell) fn take(&self) -> Option<Scrape> {
        self.ring.take()
    }

    /// A report with what is known here: messages that wait for the role, and the executor's work so far.
    pub(in crate::shell) fn begin_report(
        &self,
        scrape: &Scrape,
        waiting: impl Iterator<Item = usize>,
    ) -> Report {
        let mut report = scrape.begin();
        report.count(Name::RingMessages, [self.role.to_string().into()], waiting.sum::<usize>() as u64);
        if let Some((core, roles)) = &self.executor {
            let busy = glommio::executor().executor_stats().total_runtime();
            report.number(
                Name::CoreBusy,
                [core.to_string().into(), roles.clone().into()],
                busy.as_secs_f64(),
            );
        }
        report
    }
}

/// What a client shard is joined to.
#[derive(Debug)]
pub(in crate::shell) struct ShardPorts {
    pub bell: Doorbell,
    pub scrapes: Scrapes,
    pub to_raft: Sender<ToRaft>,
    pub to_store: Sender<ToStore>,
    pub inbox: Vec<Receiver<ToShard>>,
}

/// What raft is joined to.
#[derive(Debug)]
pub(in crate::shell) struct RaftPorts {
    pub bell: Doorbell,
    pub scrapes: Scrapes,
    pub inbox: Vec<Receiver<ToRaft>>,
    pub to_store: Sender<ToStore>,
    /// By shard number.
    pub to_shards: Vec<Sender<ToShard>>,
}

/// What the store is joined to.
#[derive(Debug)]
pub(in crate::shell) struct StorePorts {
    pub bell: Doorbell,
    pub scrapes: Scrapes,
    pub inbox: Vec<Receiver<ToStore>>,
    pub to_raft: Sender<ToRaft>,
    /// By shard number.
    pub to_shards: Vec<Sender<ToShard>>,
}

/// The ports of the roles on one executor.
#[derive(Debug, Default)]
pub(in crate::shell) struct Ports {
    pub shards: Vec<(usize, ShardPorts)>,
    pub raft: Option<RaftPorts>,
    pub store: Option<StorePorts>,
}

/// Everything that crosses executors. Cloned into each of them.
#[derive(Debug, Clone)]
pub(in crate::shell) struct Wiring {
    shards: usize,
    bells: BTreeMap<Role, Arc<SharedBell>>,
    scrapes: BTreeMap<Role, Arc<SharedRing<Scrape>>>,
    to_raft: BTreeMap<Role, Arc<SharedRing<ToRaft>>>,
    to_store: BTreeMap<Role, Arc<SharedRing<ToStore>>>,
    to_shards: BTreeMap<(Role, Role), Arc<SharedRing<ToShard>>>,
}

impl Wiring {
    /// Rings for the roles of `executors`, shards being numbered from 0 without a gap.
    #[must_use]
    pub(in crate::shell) fn new<'a>(executors: impl Iterator<Item = &'a [Role]> + Clone) -> Self {
        let mut bells = BTreeMap::new();
        let mut executor_of = BTreeMap::new();
        for (executor, roles) in executors.enumerate() {
            for &role in roles {
                bells.insert(role, Arc::<SharedBell>::default());
                executor_of.insert(role, executor);
            }
        }
        let mut wiring = Self {
            shards: executor_of.len() - 2,
            scrapes: bells
                .iter()
                .map(|(role, bell)| (*role, SharedRing::new(SCRAPES_MAX, Arc::clone(bell))))
                .collect(),
            bells,
            to_raft: BTreeMap::new(),
            to_store: BTreeMap::new(),
            to_shards: BTreeMap::new(),
        };
        let is_apart = |a: Role, b: Role| executor_of[&a] != executor_of[&b];
        for from in wiring.producers_to(Role::Raft) {
            if is_apart(from, Role::Raft) {
                wiring.to_raft.insert(from, SharedRing::new(RING_MESSAGES_MAX, wiring.bell(Role::Raft)));
            }
        }
        for from in wiring.producers_to(Role::Store) {
            if is_apart(from, Role::Store) {
                wiring.to_store.insert(from, SharedRing::new(RING_MESSAGES_MAX, wiring.bell(Role::Store)));
            }
        }
        for shard in (0..wiring.shards).map(Role::Shard) {
            for from in [Role::Raft, Role::Store] {
                if is_apart(from, shard) {
                    let ring = SharedRing::new(RING_MESSAGES_MAX, wiring.bell(shard));
                    wiring.to_shards.insert((from, shard), ring);
                }
            }
        }
        wiring
    }

    /// The bell other threads ring to wake `role`.
    #[must_use]
    pub(in crate::shell) fn bell(&self, role: Role) -> Arc<SharedBell> {
        Arc::clone(&self.bells[&role])
    }

    /// The bells of all client shards.
    #[must_use]
    pub(in crate::shell) fn shard_bells(&self) -> Vec<Arc<SharedBell>> {
        (0..self.shards).map(|shard| self.bell(Role::Shard(shard))).collect()
    }

    /// The ways on which all roles with an executor are asked what they have counted.
    #[must_use]
    pub(in crate::shell) fn scraper(&self) -> Scraper {
        let mut scraper = Scraper::default();
        for (role, ring) in &self.scrapes {
            let ring = Arc::clone(ring);
            scraper.add(role.to_string(), move |scrape| ring.send(scrape).is_ok());
        }
        scraper
    }

    fn scrapes(&self, role: Role, core: Core, here: &[Role]) -> Scrapes {
        let is_first = here.iter().min() == Some(&role);
        let roles = || here.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        Scrapes { ring: Arc::clone(&self.scrapes[&role]), role, executor: is_first.then(|| (core, roles())) }
    }

    fn producers_to(&self, role: Role) -> Vec<Role> {
        let other = if role == Role::Raft { Role::Store } else { Role::Raft };
        (0..self.shards).map(Role::Shard).chain([other]).collect()
    }

    /// Builds the ports of the executor that runs `here` on `core`. Call it on that executor.
    #[must_use]
    pub(in crate::shell) fn ports(&self, core: Core, here: &[Role]) -> Ports {
        let doorbells: BTreeMap<Role, Doorbell> =
            here.iter().map(|&role| (role, Doorbell::new(self.bell(role)))).collect();
        let mut raft_in = Ends::default();
        for from in self.producers_to(Role::Raft) {
            raft_in.join(from, Role::Raft, self.to_raft.get(&from), &doorbells);
        }
        let mut store_in = Ends::default();
        for from in self.producers_to(Role::Store) {
            store_in.join(from, Role::Store, self.to_store.get(&from), &doorbells);
        }
        let mut to_shards = Ends::default();
        for shard in (0..self.shards).map(Role::Shard) {
            for from in [Role::Raft, Role::Store] {
                to_shards.join(from, shard, self.to_shards.get(&(from, shard)), &doorbells);
            }
        }
        let mut ports = Ports::default();
        for &role in here {
            let bell = doorbells[&role].clone();
            let scrapes = self.scrapes(role, core, here);
            match role {
                Role::Shard(shard) => ports.shards.push((
                    shard,
                    ShardPorts {
                        bell,
                        scrapes,
                        to_raft: raft_in.sender(role, Role::Raft),
                        to_store: store_in.sender(role, Role::Store),
                        inbox: to_shards.receivers(role),
                    },
                )),
                Role::Raft => {
                    ports.raft = Some(RaftPorts {
                        bell,
                        scrapes,
                        inbox: raft_in.receivers(role),
                        to_store: store_in.sender(role, Role::Store),
                        to_shards: self.shard_senders(role, &mut to_shards),
                    });
                }
                Role::Store => {
                    ports.store = Some(StorePorts {
                        bell,
                        scrapes,
                        inbox: store_in.receivers(role),
                        to_raft: raft_in.sender(role, Role::Raft),
                        to_shards: self.shard_senders(role, &mut to_shards),
                    });
                }
            }
        }
        ports
    }

    fn shard_senders(&self, from: Role, to_shards: &mut Ends<ToShard>) -> Vec<Sender<ToShard>> {
        (0..self.shards).map(|shard| to_shards.sender(from, Role::Shard(shard))).collect()
    }
}

/// The ends of one kind of ring that belong to this executor.
struct Ends<T> {
    senders: BTreeMap<(Role, Role), Sender<T>>,
    receivers: BTreeMap<(Role, Role), Receiver<T>>,
}

impl<T> Default for Ends<T> {
    fn default() -> Self {
        Self { senders: BTreeMap::new(), receivers: BTreeMap::new() }
    }
}

impl<T> Ends<T> {
    fn join(
        &mut self,
        from: Role,
        to: Role,
        shared: Option<&Arc<SharedRing<T>>>,
        here: &BTreeMap<Role, Doorbell>,
    ) {
        if let Some(ring) = shared {
            if here.contains_key(&from) {
                self.senders.insert((from, to), mesh::shared_sender(ring));
            }
            if here.contains_key(&to) {
                self.receivers.insert((to, from), mesh::shared_receiver(ring));
            }
        } else if let Some(bell) = here.get(&to) {
            let (sender, receiver) = mesh::local(RING_MESSAGES_MAX, bell);
            self.senders.insert((from, to), sender);
            self.receivers.insert((to, from), receiver);
        }
    }

    fn sender(&mut self, from: Role, to: Role) -> Sender<T> {
        self.senders.remove(&(from, to)).expect("every pair of roles was joined, and each end is taken once")
    }

    fn receivers(&mut self, to: Role) -> Vec<Receiver<T>> {
        let all = std::mem::take(&mut self.receivers);
        let (mine, others) = all.into_iter().partition(|((consumer, _from), _receiver)| *consumer == to);
        self.receivers = others;
        mine.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Placement;
    use crate::shell::runtime::placement::{executors, plan};

    #[test]
    fn every_role_gets_all_its_ports_under_any_plan() {
        for wish in [
            "shards=0;raft=0;log=0;store=0",
            "shards=0;raft=0;log=1;store=1",
            "shards=0,1;raft=0;log=1;store=1",
            "shards=2,3,4;raft=0;log=0;store=1",
        ] {
            let plan = plan(&Placement::parse(wish).unwrap(), &[0, 1, 2, 3, 4]).unwrap();
            let executors = executors(&plan);
            let wiring = Wiring::new(executors.values().map(Vec::as_slice));
            let mut seen = 0;
            for (&core, roles) in &executors {
                let ports = wiring.ports(core, roles);
                for (_shard, ports) in &ports.shards {
                    assert_eq!(ports.inbox.len(), 2);
                    seen += 1;
                }
                if let Some(raft) = &ports.raft {
                    assert_eq!(
                        (raft.inbox.len(), raft.to_shards.len()),
                        (plan.shards.len() + 1, plan.shards.len())
                    );
                    seen += 1;
                }
                if let Some(store) = &ports.store {
                    assert_eq!(
                        (store.inbox.len(), store.to_shards.len()),
                        (plan.shards.len() + 1, plan.shards.len())
                    );
                    seen += 1;
                }
            }
            assert_eq!(seen, plan.shards.len() + 2);
        }
    }
}
