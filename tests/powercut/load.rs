//! The load that is recorded, and what it was promised at which point of the recording.

use std::cell::RefCell;
use std::rc::Rc;

use pinion_kit::Server;
use pinion_kit::client::{CallError, Client};
use pinion_kit::judge::ledger::{KeyState, Ledger, key_name, pair_names, register_name, value};
use pinion_kit::mount::Position;
use pinion_kit::pb::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const CONNECTIONS: u64 = 3;
const IN_FLIGHT: u64 = 6;

/// How far behind the newest revision a compaction stays.
const COMPACT_BEHIND: i64 = 40;

/// What a client did or learnt.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    PutSent { id: u64 },
    PutDone { id: u64, revision: i64 },
    PairSent { id: u64 },
    PairDone { id: u64, revision: i64 },
    RegisterSent { task: u64, number: u64 },
    RegisterDone { task: u64, number: u64, revision: i64 },
    DeleteSent { id: u64, put_at: i64 },
    DeleteDone { id: u64, revision: i64 },
    CompactSent { revision: i64 },
    CompactDone { revision: i64 },
}

impl Event {
    fn note(self, ledger: &mut Ledger) {
        match self {
            Self::PutSent { id } => drop(ledger.keys.insert(id, KeyState::PutSent)),
            Self::PutDone { id, revision } => {
                ledger.acknowledge(revision);
                ledger.keys.insert(id, KeyState::Put { revision });
            }
            Self::PairSent { id } => drop(ledger.pairs.insert(id, None)),
            Self::PairDone { id, revision } => {
                ledger.acknowledge(revision);
                ledger.pairs.insert(id, Some(revision));
            }
            Self::RegisterSent { task, number } => ledger.registers.entry(task).or_default().sent = number,
            Self::RegisterDone { task, number, revision } => {
                ledger.acknowledge(revision);
                ledger.registers.entry(task).or_default().acknowledged = number;
            }
            Self::DeleteSent { id, put_at } => {
                ledger.keys.insert(id, KeyState::DeleteSent { revision: put_at });
            }
            Self::DeleteDone { id, revision } => {
                ledger.acknowledge(revision);
                ledger.keys.insert(id, KeyState::Deleted);
            }
            Self::CompactSent { revision } => {
                ledger.compaction_sent = ledger.compaction_sent.max(revision);
            }
            Self::CompactDone { revision } => ledger.compacted = ledger.compacted.max(revision),
        }
    }
}

/// All events, each with the number of disk operations before it was noticed: an acknowledgement
/// noted at a position was given before any later operation was asked for.
#[derive(Debug, Clone)]
pub struct History {
    base: Ledger,
    events: Vec<(usize, Event)>,
}

impl History {
    /// What must and may be there when power fails after `position` operations.
    pub fn ledger_at(&self, position: usize) -> Ledger {
        let mut ledger = self.base.clone();
        for (at, event) in &self.events {
            if position < *at {
                break;
            }
            event.note(&mut ledger);
        }
        ledger
    }

    /// The position at which half of the load was done.
    pub fn middle(&self) -> usize {
        self.events[self.events.len() / 2].0
    }

    pub fn acknowledged_count(&self) -> u64 {
        self.ledger_at(usize::MAX).acks_count - self.base.acks_count
    }
}

struct Book {
    ledger: Ledger,
    history: History,
    position: Position,
    ops_left: u64,
}

type Shared = Rc<RefCell<Book>>;

impl Book {
    fn note(&mut self, event: Event) {
        let position = self.position.now();
        self.history.events.push((position, event));
        event.note(&mut self.ledger);
    }
}

/// Runs `ops` calls to their end. `base` is what the server holds already.
pub async fn run(server: &Server, base: Ledger, position: Position, ops: u64, rng: &mut StdRng) -> History {
    let history = History { base: base.clone(), events: Vec::new() };
    let book = Rc::new(RefCell::new(Book { ledger: base, history, position, ops_left: ops }));
    let mut tasks = Vec::new();
    for connection in 0..CONNECTIONS {
        let client = server.connect().await;
        for slot in 0..IN_FLIGHT {
            let worker = Worker {
                client: client.clone(),
                book: Rc::clone(&book),
                task: connection * IN_FLIGHT + slot,
                rng: StdRng::seed_from_u64(rng.random()),
            };
            tasks.push(tokio::task::spawn_local(worker.run()));
        }
    }
    for task in tasks {
        task.await.expect("a worker panicked");
    }
    Rc::into_inner(book).expect("the workers are gone").into_inner().history
}

struct Worker {
    client: Client,
    book: Shared,
    task: u64,
    rng: StdRng,
}

impl Worker {
    async fn run(mut self) {
        while self.take_op() {
            let done = match self.rng.random_range(0..100) {
                0..35 => self.put_new_key().await,
                35..55 => self.put_pair().await,
                55..75 => self.put_register().await,
                75..95 => self.delete_key().await,
                _ => self.compact().await,
            };
            done.unwrap_or_else(|error| panic!("the recorded server: {error}"));
        }
    }

    fn take_op(&self) -> bool {
        let mut book = self.book.borrow_mut();
        let is_left = 0 < book.ops_left;
        book.ops_left = book.ops_left.saturating_sub(1);
        is_left
    }

    fn note(&self, event: Event) {
        self.book.borrow_mut().note(event);
    }

    async fn put_new_key(&mut self) -> Result<(), CallError> {
        let id = self.book.borrow_mut().ledger.take_id();
        self.note(Event::PutSent { id });
        let request =
            pb::PutRequest { key: key_name(id).into(), value: value(id).into(), ..Default::default() };
        let revision = revision(self.client.put(&request).await?.header);
        self.note(Event::PutDone { id, revision });
        Ok(())
    }

    async fn put_pair(&mut self) -> Result<(), CallError> {
        let id = self.book.borrow_mut().ledger.take_id();
        self.note(Event::PairSent { id });
        let put = |name: String| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: name.into(),
                value: value(id).into(),
                ..Default::default()
            })),
        };
        let request = pb::TxnRequest { success: pair_names(id).map(put).to_vec(), ..Default::default() };
        let revision = revision(self.client.txn(&request).await?.header);
        self.note(Event::PairDone { id, revision });
        Ok(())
    }

    async fn put_register(&mut self) -> Result<(), CallError> {
        let task = self.task;
        let number = self.book.borrow().ledger.registers.get(&task).map_or(0, |register| register.sent) + 1;
        self.note(Event::RegisterSent { task, number });
        let answer = self.client.put_kv(&register_name(task), &number.to_string()).await?;
        self.note(Event::RegisterDone { task, number, revision: revision(answer.header) });
        Ok(())
    }

    async fn delete_key(&mut self) -> Result<(), CallError> {
        let near = self.rng.random_range(0..=self.book.borrow_mut().ledger.take_id());
        let Some((id, put_at)) = self.book.borrow().ledger.live_key(near) else { return Ok(()) };
        self.note(Event::DeleteSent { id, put_at });
        let request = pb::DeleteRangeRequest { key: key_name(id).into(), ..Default::default() };
        let answer = self.client.delete(&request).await?;
        assert_eq!(answer.deleted, 1, "{} was acknowledged at {put_at} and not deleted", key_name(id));
        self.note(Event::DeleteDone { id, revision: revision(answer.header) });
        Ok(())
    }

    async fn compact(&mut self) -> Result<(), CallError> {
        let revision = self.book.borrow().ledger.revision_max() - COMPACT_BEHIND;
        if revision <= self.book.borrow().ledger.compaction_sent {
            return Ok(());
        }
        self.note(Event::CompactSent { revision });
        let request = pb::CompactionRequest { revision, physical: false };
        match self.client.compact(&request).await {
            Ok(_) => self.note(Event::CompactDone { revision }),
            // A later one overtook it.
            Err(CallError::Status { code: 11, .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}
