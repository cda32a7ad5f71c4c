//! Clients that write and read through every member, and note what they asked and were told.
//!
//! A client does one call after another. One that is not answered in time, or with an error, stays in
//! the history as unknown, whatever the error says: the checker looks for what became of it. Then the
//! client goes on, on a new connection if the old one is gone.
//!
//! Beside these workers there are a client that compacts, clients that hold leases (`lease_load.rs`) or take
//! turns under a lock (`lock_load.rs`), and watchers on every member (`watchers.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pinion_kit::Cluster;
use pinion_kit::client::{CallError, Client};
use pinion_kit::judge::history::{Answer, Call, Found, LEASED, Moment, Op};
use pinion_kit::pb::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::lease_load::{Holder, TTL_S};
use crate::lock_load::{Contender, Hold};
use crate::watchers::{Told, Watchers};

/// A client gives up a call after this.
pub const CALL_DEADLINE: Duration = Duration::from_millis(1_500);

/// A cluster whose majority works accepts a write by then.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// Between attempts to connect.
pub const RECONNECT: Duration = Duration::from_millis(10);

/// Between compactions.
const COMPACT: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// How far a compaction stays behind what the watchers of everything were told, at most.
const UNCOMPACTED: i64 = 60;

/// How long after its time a lease may end when all is well: the leader's ticks, its way through the log,
/// and a loaded machine.
pub const LEASE_SLACK: Duration = Duration::from_secs(3);

const KEYS: u32 = 10;

/// The clients and what they have noted.
pub struct Load {
    tasks: Vec<JoinHandle<()>>,
    watchers: Watchers,
    holds: Rc<RefCell<Vec<Hold>>>,
    shared: Rc<Shared>,
}

/// What all clients have in common.
pub struct Shared {
    began: Instant,
    ops: RefCell<Vec<Op>>,
    connections: Cell<u64>,
    values: Cell<u64>,
    leases: Cell<i64>,
    errors: RefCell<BTreeMap<String, u64>>,
    is_over: Cell<bool>,
    /// No compaction beyond this revision has been asked for.
    compacting: Cell<i64>,
    told: Rc<Told>,
}

impl Shared {
    pub fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    pub fn compacting(&self) -> i64 {
        self.compacting.get()
    }

    pub fn next_connection(&self) -> u64 {
        next(&self.connections)
    }

    pub fn next_value(&self) -> String {
        format!("v{}", next(&self.values))
    }

    pub fn next_lease(&self) -> i64 {
        self.leases.set(self.leases.get() + 1);
        self.leases.get()
    }

    /// Counts an error that a client saw.
    pub fn note_error(&self, error: &CallError) {
        let what = match error {
            CallError::Transport(_) => "connection".to_owned(),
            CallError::Deadline => format!("no answer within {CALL_DEADLINE:?}"),
            status => status.to_string(),
        };
        *self.errors.borrow_mut().entry(what).or_default() += 1;
    }

    /// Makes a call and notes what was asked and answered.
    pub async fn noted(
        &self,
        connection: u64,
        member: usize,
        call: Call,
        asked: impl Future<Output = Result<Answer, CallError>>,
    ) -> Result<Answer, CallError> {
        let number = {
            let mut ops = self.ops.borrow_mut();
            let invoked = self.now();
            ops.push(Op { connection, member, invoked, completed: None, call, answer: None });
            ops.len() - 1
        };
        let answer = tokio::time::timeout(CALL_DEADLINE, asked).await.unwrap_or(Err(CallError::Deadline));
        match &answer {
            Ok(answer) => {
                let op = &mut self.ops.borrow_mut()[number];
                op.completed = Some(self.now());
                op.answer = Some(answer.clone());
            }
            Err(error) => self.note_error(error),
        }
        answer
    }
}

fn next(counter: &Cell<u64>) -> u64 {
    counter.set(counter.get() + 1);
    counter.get()
}

/// What the clients saw.
pub struct Record {
    pub ops: Vec<Op>,
    /// How often each error came.
    pub errors: BTreeMap<String, u64>,
    pub told: Rc<Told>,
    /// Every turn under the lock.
    pub holds: Vec<Hold>,
    /// From when on nothing failed any more.
    pub healed: Moment,
    /// No compaction beyond this revision was asked for.
    pub compacting: i64,
}

impl Load {
    /// Starts `clients_each` clients of each member, which pause up to `pause_most` between calls, and
    /// the others.
    pub fn start(cluster: &Cluster, clients_each: usize, pause_most: Duration, seed: u64) -> Self {
        let told = Rc::new(Told::default());
        let shared = Rc::new(Shared {
            began: Instant::now(),
            ops: RefCell::default(),
            connections: Cell::default(),
            values: Cell::default(),
            leases: Cell::default(),
            errors: RefCell::default(),
            is_over: Cell::default(),
            compacting: Cell::default(),
            told: Rc::clone(&told),
        });
        let ports: Rc<[u16]> = (0..cluster.count()).map(|member| cluster.client_port(member)).collect();
        let rng = |number: u64| StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number));
        let watchers = Watchers::start(&ports, &shared, &told, |number| rng(900 + number));
        let clients = (0..cluster.count()).flat_map(|member| (0..clients_each).map(move |_| member));
        let start = |(number, member): (u64, usize)| {
            let client = Worker {
                member,
                port: ports[member],
                shared: Rc::clone(&shared),
                rng: rng(number),
                pause_most,
                newest: BTreeMap::new(),
                newest_revision: 1,
            };
            tokio::task::spawn_local(client.run())
        };
        let mut tasks: Vec<_> = (0..).zip(clients).map(start).collect();
        tasks.push(tokio::task::spawn_local(compact(Rc::clone(&ports), Rc::clone(&shared), rng(800))));
        for (number, member) in (700..).zip(0..cluster.count()) {
            let (ports, shared) = (Rc::clone(&ports), Rc::clone(&shared));
            let holder = Holder { member, ports, shared, rng: rng(number) };
            tasks.push(tokio::task::spawn_local(holder.run()));
        }
        let holds = Rc::new(RefCell::default());
        for (number, member) in (600..).zip(0..cluster.count()) {
            let (ports, shared, holds) = (Rc::clone(&ports), Rc::clone(&shared), Rc::clone(&holds));
            let contender = Contender { member, ports, shared, holds, rng: rng(number) };
            tasks.push(tokio::task::spawn_local(contender.run()));
        }
        Self { tasks, watchers, holds, shared }
    }

    /// Calls noted so far.
    pub fn calls(&self) -> usize {
        self.shared.ops.borrow().len()
    }

    /// Waits for a write that was asked after this call to be answered.
    pub async fn wait_write(&self) {
        let (from, began) = (self.calls(), Instant::now());
        let is_written = |op: &Op| matches!(op.answer, Some(Answer::Written { .. }));
        while !self.shared.ops.borrow()[from..].iter().any(is_written) {
            assert!(self.tasks.iter().any(|task| !task.is_finished()), "no client is left");
            let errors = self.shared.errors.borrow();
            assert!(began.elapsed() < WRITE_DEADLINE, "no write is accepted any more; errors: {errors:?}");
            drop(errors);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends the clients, now that nothing fails any more, waits for what must still come, and hands out
    /// what they have noted.
    pub async fn finish(self, cluster: &Cluster) -> Record {
        let healed = self.shared.now();
        self.shared.is_over.set(true);
        for task in self.tasks {
            task.await.expect("a client saw an impossible answer");
        }
        let client = cluster.server(0).connect().await;
        // Nobody keeps the leases alive any more.
        let bound = Duration::from_secs(TTL_S) + CALL_DEADLINE + LEASE_SLACK;
        let over = Instant::now() + bound;
        while !client.prefix(LEASED).await.expect("all is well").kvs.is_empty() {
            assert!(Instant::now() < over, "leases live on {bound:?} after all keep-alives ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Something that every watcher has to be told.
        let connection = self.shared.next_connection();
        let keys = (0..KEYS).map(|number| format!("k{number}")).collect();
        let mut ends = Vec::new();
        for call in [Call::PutAll { keys, value: self.shared.next_value() }, Call::DeleteAll] {
            let answer = self.shared.noted(connection, 0, call.clone(), ask(&client, &call)).await;
            ends.push(answer.expect("all is well").revision().expect("it wrote"));
        }
        self.watchers.finish((ends[0], ends[1])).await;
        Record {
            ops: self.shared.ops.take(),
            errors: self.shared.errors.take(),
            told: Rc::clone(&self.shared.told),
            holds: self.holds.take(),
            healed,
            compacting: self.shared.compacting(),
        }
    }
}

/// Compacts what the watchers of everything have been told, so that the history stays known.
async fn compact(ports: Rc<[u16]>, shared: Rc<Shared>, mut rng: StdRng) {
    while !shared.is_over() {
        tokio::time::sleep(rng.random_range(COMPACT[0]..COMPACT[1])).await;
        let member = rng.random_range(0..ports.len());
        // Now and then one that was done already.
        let revision = shared.told.whole_to() - rng.random_range(0..UNCOMPACTED);
        if revision < 1 {
            continue;
        }
        let connect = tokio::time::timeout(CALL_DEADLINE, Client::connect(ports[member])).await;
        let Ok(Ok(client)) = connect else { continue };
        shared.compacting.set(shared.compacting.get().max(revision));
        let physical = rng.random_ratio(1, 4);
        let compact = async {
            match client.compact(&pb::CompactionRequest { revision, physical }).await {
                Ok(answer) => Ok(Answer::Compacts { revision: self::revision(answer.header) }),
                Err(error) => of_the_past(error),
            }
        };
        let connection = shared.next_connection();
        shared.noted(connection, member, Call::Compact { revision }, compact).await.ok();
    }
}

/// An error that is an answer.
fn of_the_past(error: CallError) -> Result<Answer, CallError> {
    match &error {
        CallError::Status { message, .. } if message.ends_with("required revision has been compacted") => {
            Ok(Answer::Compacted)
        }
        CallError::Status { message, .. } if message.ends_with("required revision is a future revision") => {
            Ok(Answer::Future)
        }
        _ => Err(error),
    }
}

struct Worker {
    member: usize,
    port: u16,
    shared: Rc<Shared>,
    rng: StdRng,
    pause_most: Duration,
    /// Where this client saw each key last, to compare with.
    newest: BTreeMap<String, i64>,
    newest_revision: i64,
}

impl Worker {
    async fn run(mut self) {
        while !self.shared.is_over.get() {
            let connect = tokio::time::timeout(CALL_DEADLINE, Client::connect(self.port)).await;
            let Ok(Ok(client)) = connect else {
                tokio::time::sleep(RECONNECT).await;
                continue;
            };
            let connection = self.shared.next_connection();
            while !self.shared.is_over.get() {
                if let Err(CallError::Transport(_)) = self.one_call(&client, connection).await {
                    break;
                }
                tokio::time::sleep(self.rng.random_range(Duration::ZERO..=self.pause_most)).await;
            }
        }
    }

    async fn one_call(&mut self, client: &Client, connection: u64) -> Result<(), CallError> {
        let call = self.choose();
        let asked = ask(client, &call);
        let answer = self.shared.noted(connection, self.member, call.clone(), asked).await?;
        self.learn(&call, &answer);
        Ok(())
    }

    fn choose(&mut self) -> Call {
        let key = format!("k{}", self.rng.random_range(0..KEYS));
        let value = self.shared.next_value();
        match self.rng.random_range(0..100) {
            0..40 => Call::Put { key, value },
            40..50 => Call::PutAll { keys: vec!["k0".to_owned(), "pair".to_owned()], value },
            50..65 => {
                let expected = self.newest.get(&key).copied().unwrap_or(0);
                Call::Cas { key, expected, value }
            }
            65..70 => Call::Delete { key },
            70..76 => Call::ReadAt { revision: (self.newest_revision - self.rng.random_range(0..80)).max(1) },
            roll => Call::Read { serializable: 90 <= roll },
        }
    }

    fn learn(&mut self, call: &Call, answer: &Answer) {
        self.newest_revision = self.newest_revision.max(answer.revision().unwrap_or(1));
        match (call, answer) {
            (Call::Read { serializable: false }, Answer::Read { found, .. }) => {
                self.newest = found.iter().map(|(key, found)| (key.clone(), found.modified)).collect();
            }
            (Call::Put { key, .. } | Call::Cas { key, .. }, Answer::Written { revision }) => {
                self.newest.insert(key.clone(), *revision);
            }
            (Call::Cas { key, .. }, Answer::Unequal { found, .. }) => {
                self.newest.insert(key.clone(), found.as_ref().map_or(0, |found| found.modified));
            }
            _ => {}
        }
    }
}

pub fn put_request(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn put_op(key: &str, value: &str) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put_request(key, value))) }
}

pub fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

async fn ask(client: &Client, call: &Call) -> Result<Answer, CallError> {
    match call {
        Call::Put { key, value } => {
            let answer = client.put(&put_request(key, value)).await?;
            Ok(Answer::Written { revision: revision(answer.header) })
        }
        Call::PutAll { keys, value } => {
            let success = keys.iter().map(|key| put_op(key, value)).collect();
            let answer = client.txn(&pb::TxnRequest { success, ..Default::default() }).await?;
            Ok(Answer::Written { revision: revision(answer.header) })
        }
        Call::Cas { key, expected, value } => {
            let compare = pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.clone().into(),
                target_union: Some(TargetUnion::ModRevision(*expected)),
                ..Default::default()
            };
            let get = pb::RangeRequest { key: key.clone().into(), ..Default::default() };
            let get = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(get)) };
            let request = pb::TxnRequest {
                compare: vec![compare],
                success: vec![put_op(key, value)],
                failure: vec![get],
            };
            let answer = client.txn(&request).await?;
            let revision = revision(answer.header);
            if answer.succeeded {
                return Ok(Answer::Written { revision });
            }
            let Some(pb::response_op::Response::ResponseRange(range)) =
                answer.responses.into_iter().next().and_then(|response| response.response)
            else {
                panic!("a failed compare answers with what its get found");
            };
            Ok(Answer::Unequal { revision, found: range.kvs.first().map(Found::from) })
        }
        Call::Delete { key } => {
            let request = pb::DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
            let answer = client.delete(&request).await?;
            let revision = revision(answer.header);
            match answer.deleted {
                0 => Ok(Answer::NothingDeleted { revision }),
                _ => Ok(Answer::Written { revision }),
            }
        }
        Call::DeleteAll => {
            let request =
                pb::DeleteRangeRequest { key: "k".into(), range_end: LEASED.into(), ..Default::default() };
            let pair = pb::DeleteRangeRequest { key: "pair".into(), ..Default::default() };
            let delete = |request| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestDeleteRange(request)),
            };
            let success = vec![delete(request), delete(pair)];
            let answer = client.txn(&pb::TxnRequest { success, ..Default::default() }).await?;
            Ok(Answer::Written { revision: revision(answer.header) })
        }
        Call::Read { .. } | Call::ReadAt { .. } => {
            let request = pb::RangeRequest {
                key: vec![0].into(),
                range_end: vec![0].into(),
                serializable: *call == Call::Read { serializable: true },
                revision: if let Call::ReadAt { revision } = call { *revision } else { 0 },
                ..Default::default()
            };
            let answer = match client.range(&request).await {
                Ok(answer) => answer,
                Err(error) => return of_the_past(error),
            };
            let name = |kv: &pinion_kit::pb::mvccpb::KeyValue| String::from_utf8(kv.key.to_vec()).unwrap();
            let revision = revision(answer.header);
            let found = answer.kvs.iter().map(|kv| (name(kv), Found::from(kv))).collect();
            Ok(Answer::Read { revision, found })
        }
        Call::Compact { .. }
        | Call::Grant { .. }
        | Call::KeepAlive { .. }
        | Call::PutLeased { .. }
        | Call::Revoke { .. } => unreachable!("other clients' calls"),
    }
}
