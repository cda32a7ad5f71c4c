//! How long nobody's write is accepted after a fault, with default flags and nothing between the members.
//!
//! Measured by probes: through every member a write is begun every few milliseconds, each for itself.
//! The time is from the fault to the first answer to a write that was begun after it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use pinion_kit::Cluster;
use pinion_kit::client::{CallError, Client};
use tokio::time::Instant;

/// Between the beginnings of two probes through one member.
const EVERY: Duration = Duration::from_millis(5);

/// A probe that is not answered by then was in vain.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// What is done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    KillLeader,
    FreezeLeader,
    KillFollower,
}

/// Times to the next accepted write, in microseconds.
pub struct Outage {
    pub any: Histogram<u64>,
    /// The last of the members that live.
    pub all: Histogram<u64>,
}

struct Probe {
    member: usize,
    begun: Instant,
    answered: Instant,
}

/// Writes through each member all the time.
struct Probes {
    accepted: RefCell<Vec<Probe>>,
    is_over: Cell<bool>,
}

impl Probes {
    fn start(cluster: &Cluster) -> Rc<Self> {
        let probes = Rc::new(Self { accepted: RefCell::default(), is_over: Cell::default() });
        for member in 0..cluster.count() {
            let (probes, port) = (Rc::clone(&probes), cluster.client_port(member));
            tokio::task::spawn_local(probes.run(member, port));
        }
        probes
    }

    async fn run(self: Rc<Self>, member: usize, port: u16) {
        while !self.is_over.get() {
            let Ok(Ok(client)) = tokio::time::timeout(EVERY * 20, Client::connect(port)).await else {
                tokio::time::sleep(EVERY).await;
                continue;
            };
            let is_broken = Rc::new(Cell::new(false));
            while !self.is_over.get() && !is_broken.get() {
                let (probes, client, is_broken) = (Rc::clone(&self), client.clone(), Rc::clone(&is_broken));
                tokio::task::spawn_local(async move {
                    let begun = Instant::now();
                    let put = client.put_kv("probe", "x");
                    match tokio::time::timeout(PROBE_DEADLINE, put).await {
                        Ok(Ok(_)) => {
                            let probe = Probe { member, begun, answered: Instant::now() };
                            probes.accepted.borrow_mut().push(probe);
                        }
                        Ok(Err(CallError::Transport(_))) => is_broken.set(true),
                        _ => {}
                    }
                });
                tokio::time::sleep(EVERY).await;
            }
        }
    }

    /// When the first write was accepted that was begun after `since`, through each member.
    fn accepted_since(&self, since: Instant, count: usize) -> Vec<Option<Duration>> {
        let accepted = self.accepted.borrow();
        let first = |member| {
            let of = accepted.iter().filter(|probe| probe.member == member && since <= probe.begun);
            of.map(|probe| probe.answered - since).min()
        };
        (0..count).map(first).collect()
    }
}

/// Strikes `rounds` times, and undoes it each time.
pub async fn measure(cluster: &mut Cluster, blow: Blow, rounds: u64) -> Outage {
    let new = || Histogram::new(3).unwrap();
    let mut outage = Outage { any: new(), all: new() };
    for _ in 0..rounds {
        let probes = Probes::start(cluster);
        let leader = cluster.leader().await;
        let victim = if blow == Blow::KillFollower { (leader + 1) % cluster.count() } else { leader };
        wait_accepted(cluster, &probes, Instant::now(), None).await;
        let struck = Instant::now();
        match blow {
            Blow::KillLeader | Blow::KillFollower => cluster.kill(victim),
            Blow::FreezeLeader => cluster.signal(victim, "STOP"),
        }
        let accepted = wait_accepted(cluster, &probes, struck, Some(victim)).await;
        probes.is_over.set(true);
        let living: Vec<Duration> =
            (0..).zip(accepted).filter(|(m, _)| *m != victim).filter_map(|(_, at)| at).collect();
        let micros = |time: Option<&Duration>| u64::try_from(time.unwrap().as_micros()).unwrap();
        outage.any.record(micros(living.iter().min())).unwrap();
        outage.all.record(micros(living.iter().max())).unwrap();
        match blow {
            Blow::KillLeader | Blow::KillFollower => cluster.spawn(victim),
            Blow::FreezeLeader => cluster.signal(victim, "CONT"),
        }
        cluster.settle().await;
    }
    outage
}

/// Waits until every member but `without` has accepted a write that was begun after `since`.
async fn wait_accepted(
    cluster: &Cluster,
    probes: &Probes,
    since: Instant,
    without: Option<usize>,
) -> Vec<Option<Duration>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let accepted = probes.accepted_since(since, cluster.count());
        if (0..).zip(&accepted).all(|(member, at)| at.is_some() || without == Some(member)) {
            return accepted;
        }
        assert!(Instant::now() < deadline, "no write is accepted: {accepted:?}\n{}", cluster.all_output());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
