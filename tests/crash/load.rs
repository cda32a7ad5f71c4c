//! The load that is running when the kill comes: several connections, many calls in flight on each.

use std::cell::RefCell;
use std::rc::Rc;

use pinion_kit::Server;
use pinion_kit::client::{CallError, Client};
use pinion_kit::judge::ledger::{Content, KeyState, Ledger, key_name, pair_names, register_name, value};
use pinion_kit::pb::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;

pub type Shared = Rc<RefCell<Ledger>>;

const CONNECTIONS: u64 = 4;
const IN_FLIGHT: u64 = 8;

/// How far behind the newest revision a compaction stays, so that reads at recent ones still work.
const COMPACT_BEHIND: i64 = 100;

/// Starts the tasks; each ends when its connection does.
pub async fn start(server: &Server, ledger: Shared, rng: &mut StdRng) -> Vec<JoinHandle<()>> {
    ledger.borrow_mut().kills_count += 1;
    let mut tasks = Vec::new();
    for connection in 0..CONNECTIONS {
        let client = server.connect().await;
        for slot in 0..IN_FLIGHT {
            let worker = Worker {
                client: client.clone(),
                ledger: Rc::clone(&ledger),
                task: connection * IN_FLIGHT + slot,
                rng: StdRng::seed_from_u64(rng.random()),
            };
            tasks.push(tokio::task::spawn_local(worker.run()));
        }
    }
    tasks
}

struct Worker {
    client: Client,
    ledger: Shared,
    task: u64,
    rng: StdRng,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let done = match self.rng.random_range(0..100) {
                0..45 => self.put_new_key().await,
                45..65 => self.put_pair().await,
                65..80 => self.put_register().await,
                80..90 => self.delete_key().await,
                90..99 => self.get_key().await,
                _ => self.compact().await,
            };
            match done {
                Ok(()) => {}
                Err(CallError::Transport(_)) => return, // the kill: what was in flight stays in doubt
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn put_new_key(&mut self) -> Result<(), CallError> {
        let id = self.ledger.borrow_mut().take_id();
        self.ledger.borrow_mut().keys.insert(id, KeyState::PutSent);
        let request =
            pb::PutRequest { key: key_name(id).into(), value: value(id).into(), ..Default::default() };
        let revision = revision(self.client.put(&request).await?.header);
        let mut ledger = self.ledger.borrow_mut();
        ledger.acknowledge(revision);
        ledger.keys.insert(id, KeyState::Put { revision });
        Ok(())
    }

    async fn put_pair(&mut self) -> Result<(), CallError> {
        let id = self.ledger.borrow_mut().take_id();
        self.ledger.borrow_mut().pairs.insert(id, None);
        let put = |name: String| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: name.into(),
                value: value(id).into(),
                ..Default::default()
            })),
        };
        let request = pb::TxnRequest { success: pair_names(id).map(put).to_vec(), ..Default::default() };
        let revision = revision(self.client.txn(&request).await?.header);
        let mut ledger = self.ledger.borrow_mut();
        ledger.acknowledge(revision);
        ledger.pairs.insert(id, Some(revision));
        Ok(())
    }

    async fn put_register(&mut self) -> Result<(), CallError> {
        let number = {
            let mut ledger = self.ledger.borrow_mut();
            let register = ledger.registers.entry(self.task).or_default();
            register.sent += 1;
            register.sent
        };
        let answer = self.client.put_kv(&register_name(self.task), &number.to_string()).await?;
        let mut ledger = self.ledger.borrow_mut();
        ledger.acknowledge(revision(answer.header));
        ledger.registers.entry(self.task).or_default().acknowledged = number;
        Ok(())
    }

    async fn delete_key(&mut self) -> Result<(), CallError> {
        let Some((id, put_at)) = self.some_live_key() else { return Ok(()) };
        self.ledger.borrow_mut().keys.insert(id, KeyState::DeleteSent { revision: put_at });
        let request = pb::DeleteRangeRequest { key: key_name(id).into(), ..Default::default() };
        let answer = self.client.delete(&request).await?;
        assert_eq!(answer.deleted, 1, "{} was acknowledged at {put_at} and not deleted", key_name(id));
        let mut ledger = self.ledger.borrow_mut();
        ledger.acknowledge(revision(answer.header));
        ledger.keys.insert(id, KeyState::Deleted);
        Ok(())
    }

    async fn get_key(&mut self) -> Result<(), CallError> {
        let Some((id, put_at)) = self.some_live_key() else { return Ok(()) };
        let found = self.client.get(&key_name(id)).await?;
        // Another task may have sent its delete meanwhile; then nothing is known.
        if self.ledger.borrow().keys[&id] == (KeyState::Put { revision: put_at }) {
            assert_eq!(found.as_deref(), Some(&*value(id)), "{} acknowledged at {put_at}", key_name(id));
        }
        Ok(())
    }

    async fn compact(&mut self) -> Result<(), CallError> {
        let revision = self.ledger.borrow().revision_max() - COMPACT_BEHIND;
        if revision <= self.ledger.borrow().compacted {
            return Ok(());
        }
        {
            let mut ledger = self.ledger.borrow_mut();
            ledger.compaction_sent = ledger.compaction_sent.max(revision);
        }
        let request = pb::CompactionRequest { revision, physical: false };
        match self.client.compact(&request).await {
            Ok(_) => {
                let mut ledger = self.ledger.borrow_mut();
                ledger.compacted = ledger.compacted.max(revision);
                Ok(())
            }
            // Another task was faster.
            Err(CallError::Status { code: 11, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn some_live_key(&mut self) -> Option<(u64, i64)> {
        let near = self.rng.random_range(0..=self.ledger.borrow_mut().take_id());
        self.ledger.borrow().live_key(near)
    }
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

/// Reads the whole store and compares.
pub async fn check(server: &Server, ledger: &Shared) {
    let client = &server.connect().await;
    let mut content = Content::new();
    let mut at = 0;
    for prefix in ["k/", "p/", "r/"] {
        let answer = match client.prefix(prefix).await {
            Ok(answer) => answer,
            Err(error) => panic!("reading {prefix}: {error}\n{}", server.diagnosis().await),
        };
        at = revision(answer.header);
        for kv in answer.kvs {
            let name = String::from_utf8(kv.key.to_vec()).unwrap();
            content.insert(name, (kv.value.to_vec(), kv.mod_revision));
        }
    }
    let (compacted, sent) = (ledger.borrow().compacted, ledger.borrow().compaction_sent);
    ledger.borrow_mut().settle(at, content).unwrap_or_else(|broken| panic!("after the kill: {broken}"));
    if compacted > 1 {
        let read_at = |revision| {
            let request = pb::RangeRequest { key: "r/000".into(), revision, ..Default::default() };
            async move { client.range(&request).await }
        };
        let newest = read_at(sent).await;
        if newest == Err(CallError::Deadline) {
            panic!("reading at {sent}: no answer\n{}", server.diagnosis().await);
        }
        assert!(newest.is_ok(), "unreadable at {sent}, and no compaction went further: {newest:?}");
        match read_at(compacted - 1).await {
            Err(CallError::Status { code: 11, message }) => {
                assert!(message.contains("compacted"), "{message}")
            }
            other => panic!("an acknowledged compaction at {compacted} is forgotten: {other:?}"),
        }
    }
}
