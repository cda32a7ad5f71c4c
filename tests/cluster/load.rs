//! Clients that write and read through every member, and note what they asked and were told.
//!
//! A client does one call after another. One that is not answered in time, or with an error, stays in
//! the history as unknown, whatever the error says: the checker looks for what became of it. Then the
//! client goes on, on a new connection if the old one is gone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pinion::pb::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::client::{CallError, Client};
use crate::history::{Answer, Call, Moment, Op};
use crate::members::{Cluster, found};

/// A client gives up a call after this.
const CALL_DEADLINE: Duration = Duration::from_millis(1_500);

/// A cluster whose majority works accepts a write by then.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// Between attempts to connect.
const RECONNECT: Duration = Duration::from_millis(10);

const KEYS: u32 = 10;

/// The clients and what they have noted.
pub struct Load {
    tasks: Vec<JoinHandle<()>>,
    shared: Rc<Shared>,
}

struct Shared {
    began: Instant,
    ops: RefCell<Vec<Op>>,
    connections: Cell<u64>,
    values: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
    is_over: Cell<bool>,
}

impl Shared {
    fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
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
}

impl Load {
    /// Starts `clients_each` clients of each member, which pause up to `pause_most` between calls.
    pub fn start(cluster: &Cluster, clients_each: usize, pause_most: Duration, seed: u64) -> Self {
        let shared = Rc::new(Shared {
            began: Instant::now(),
            ops: RefCell::default(),
            connections: Cell::default(),
            values: Cell::default(),
            errors: RefCell::default(),
            is_over: Cell::default(),
        });
        let clients = (0..cluster.count()).flat_map(|member| (0..clients_each).map(move |_| member));
        let start = |(number, member)| {
            let client = Worker {
                member,
                port: cluster.client_port(member),
                shared: Rc::clone(&shared),
                rng: StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number)),
                pause_most,
                newest: BTreeMap::new(),
            };
            tokio::task::spawn_local(client.run())
        };
        let tasks = (0..).zip(clients).map(start).collect();
        Self { tasks, shared }
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

    /// Ends the clients and hands out what they have noted.
    pub async fn finish(self) -> Record {
        self.shared.is_over.set(true);
        for task in self.tasks {
            task.await.expect("a client saw an impossible answer");
        }
        Record { ops: self.shared.ops.take(), errors: self.shared.errors.take() }
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
}

impl Worker {
    async fn run(mut self) {
        while !self.shared.is_over.get() {
            let connect = tokio::time::timeout(CALL_DEADLINE, Client::connect(self.port)).await;
            let Ok(Ok(client)) = connect else {
                tokio::time::sleep(RECONNECT).await;
                continue;
            };
            let connection = next(&self.shared.connections);
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
        let number = {
            let mut ops = self.shared.ops.borrow_mut();
            let invoked = self.shared.now();
            ops.push(Op {
                connection,
                member: self.member,
                invoked,
                completed: None,
                call: call.clone(),
                answer: None,
            });
            ops.len() - 1
        };
        let answer = tokio::time::timeout(CALL_DEADLINE, ask(client, &call)).await;
        match answer.unwrap_or(Err(CallError::Deadline)) {
            Ok(answer) => {
                self.learn(&call, &answer);
                let op = &mut self.shared.ops.borrow_mut()[number];
                op.completed = Some(self.shared.now());
                op.answer = Some(answer);
                Ok(())
            }
            Err(error) => {
                let what = match &error {
                    CallError::Transport(_) => "connection".to_owned(),
                    CallError::Deadline => format!("no answer within {CALL_DEADLINE:?}"),
                    status => status.to_string(),
                };
                *self.shared.errors.borrow_mut().entry(what).or_default() += 1;
                Err(error)
            }
        }
    }

    fn choose(&mut self) -> Call {
        let key = format!("k{}", self.rng.random_range(0..KEYS));
        let value = format!("v{}", next(&self.shared.values));
        match self.rng.random_range(0..100) {
            0..40 => Call::Put { key, value },
            40..50 => Call::PutPair { keys: ["k0".to_owned(), "pair".to_owned()], value },
            50..65 => {
                let expected = self.newest.get(&key).copied().unwrap_or(0);
                Call::Cas { key, expected, value }
            }
            65..70 => Call::Delete { key },
            roll => Call::Read { serializable: 90 <= roll },
        }
    }

    fn learn(&mut self, call: &Call, answer: &Answer) {
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

fn put_request(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn put_op(key: &str, value: &str) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put_request(key, value))) }
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

async fn ask(client: &Client, call: &Call) -> Result<Answer, CallError> {
    match call {
        Call::Put { key, value } => {
            let answer = client.put(&put_request(key, value)).await?;
            Ok(Answer::Written { revision: revision(answer.header) })
        }
        Call::PutPair { keys, value } => {
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
            Ok(Answer::Unequal { revision, found: range.kvs.first().map(found) })
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
        Call::Read { serializable } => {
            let request = pb::RangeRequest {
                key: vec![0].into(),
                range_end: vec![0].into(),
                serializable: *serializable,
                ..Default::default()
            };
            let answer = client.range(&request).await?;
            let name = |kv: &pinion::pb::mvccpb::KeyValue| String::from_utf8(kv.key.to_vec()).unwrap();
            let revision = revision(answer.header);
            let found = answer.kvs.iter().map(|kv| (name(kv), found(kv))).collect();
            Ok(Answer::Read { revision, found })
        }
    }
}
