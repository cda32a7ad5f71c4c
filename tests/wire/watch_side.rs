//! One side's half of the play: its watch streams as they are read, its answers in one form, and the
//! numbers of leases that it chose, translated to the reference's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::mvccpb::KeyValue;
use pinion_kit::stream::Requests;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::compare::Answer;
use crate::watch_log::{Control, Logs};

/// Far above the 100 ms after which etcd looks after watchers that are behind.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// What a stream delivered and nobody has looked at yet.
#[derive(Default)]
struct Inbox {
    received: RefCell<Vec<pb::WatchResponse>>,
    ended: RefCell<Option<String>>,
    changed: Notify,
}

/// One watch stream of one side, read by a task as fast as it comes.
pub struct Stream {
    pub requests: Requests<pb::WatchRequest>,
    inbox: Rc<Inbox>,
    reader: JoinHandle<()>,
    pub logs: Logs,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Stream {
    pub async fn open(client: &Client) -> Self {
        let (requests, mut answers) = client.watch().await.expect("a watch stream opens");
        let inbox = Rc::new(Inbox::default());
        let filled = Rc::clone(&inbox);
        let reader = tokio::task::spawn_local(async move {
            loop {
                let next = answers.next_unbounded().await;
                match next {
                    Ok(Some(response)) => filled.received.borrow_mut().push(response),
                    end => {
                        *filled.ended.borrow_mut() = Some(format!("{end:?}"));
                        filled.changed.notify_one();
                        return;
                    }
                }
                filled.changed.notify_one();
            }
        });
        Self { requests, inbox, reader, logs: Logs::default() }
    }

    /// Waits until the logs fulfil `done`.
    pub async fn until(
        &mut self,
        what: &str,
        translate: &Translation,
        done: impl Fn(&Logs) -> bool,
    ) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + SETTLE_DEADLINE;
        loop {
            let received = std::mem::take(&mut *self.inbox.received.borrow_mut());
            for mut response in received {
                translate.response(&mut response);
                self.logs.add(&response)?;
            }
            if done(&self.logs) {
                return Ok(());
            }
            if let Some(end) = &*self.inbox.ended.borrow() {
                return Err(format!("{what}: the stream ended: {end}"));
            }
            if tokio::time::timeout_at(deadline, self.inbox.changed.notified()).await.is_err() {
                return Err(format!("{what}: not within {SETTLE_DEADLINE:?}"));
            }
        }
    }
}

/// The leases that the subject numbered by itself, by its number; each with the reference's.
#[derive(Default, Clone)]
pub struct Translation {
    pub leases: BTreeMap<i64, i64>,
}

impl Translation {
    pub fn lease(&self, id: i64) -> i64 {
        self.leases.get(&id).copied().unwrap_or(id)
    }

    /// Keys of locks end in the lease's number.
    pub fn key(&self, key: &Bytes) -> Bytes {
        let Some(slash) = key.iter().rposition(|byte| *byte == b'/') else { return key.clone() };
        let suffix = std::str::from_utf8(&key[slash + 1..]).ok();
        let id = suffix.and_then(|hex| u64::from_str_radix(hex, 16).ok()).map(u64::cast_signed);
        match id.and_then(|id| self.leases.get(&id)) {
            None => key.clone(),
            Some(id) => {
                let mut translated = key[..=slash].to_vec();
                translated.extend_from_slice(format!("{id:x}").as_bytes());
                translated.into()
            }
        }
    }

    pub fn kv(&self, kv: &mut KeyValue) {
        kv.lease = self.lease(kv.lease);
        kv.key = self.key(&kv.key);
    }

    pub fn response(&self, response: &mut pb::WatchResponse) {
        for event in &mut response.events {
            event.kv.iter_mut().chain(&mut event.prev_kv).for_each(|kv| self.kv(kv));
        }
    }

    pub fn answer(&self, answer: &mut Answer) {
        match answer {
            Answer::Range(answer) => answer.kvs.iter_mut().for_each(|kv| self.kv(kv)),
            Answer::Put(answer) => answer.prev_kv.iter_mut().for_each(|kv| self.kv(kv)),
            Answer::Delete(answer) => answer.prev_kvs.iter_mut().for_each(|kv| self.kv(kv)),
            Answer::Txn(answer) => self.txn(answer),
            Answer::Compact(_) | Answer::Error { .. } | Answer::Broken(_) => {}
        }
    }

    pub fn txn(&self, answer: &mut pb::TxnResponse) {
        use pb::response_op::Response;
        for op in &mut answer.responses {
            match &mut op.response {
                Some(Response::ResponseRange(answer)) => answer.kvs.iter_mut().for_each(|kv| self.kv(kv)),
                Some(Response::ResponsePut(answer)) => answer.prev_kv.iter_mut().for_each(|kv| self.kv(kv)),
                Some(Response::ResponseDeleteRange(answer)) => {
                    answer.prev_kvs.iter_mut().for_each(|kv| self.kv(kv));
                }
                Some(Response::ResponseTxn(answer)) => self.txn(answer),
                None => {}
            }
        }
    }

    /// The subject's number of a lease that the script knows by the reference's.
    pub fn back(&self, id: i64) -> i64 {
        self.leases.iter().find(|(_, reference)| **reference == id).map_or(id, |(subject, _)| *subject)
    }
}

/// Stands where a status code would, had there been a status.
pub const NO_ANSWER: u32 = u32::MAX;

/// An answer of the lease, lock and election services, whichever fields it has.
#[derive(Debug, Default, PartialEq)]
pub struct Said {
    pub error: Option<(u32, String)>,
    pub header: Option<Control>,
    pub id: i64,
    pub ttl: i64,
    pub granted_ttl: i64,
    pub keys: Vec<Bytes>,
    pub leases: Vec<i64>,
    pub text: String,
    pub key: Bytes,
    pub name: Bytes,
    pub rev: i64,
    pub kv: Option<KeyValue>,
}

pub fn said<A>(answer: Result<A, CallError>, fields: impl FnOnce(A) -> Said) -> Said {
    match answer {
        Ok(answer) => fields(answer),
        Err(CallError::Status { code, message }) => Said { error: Some((code, message)), ..Said::default() },
        Err(error) => Said { error: Some((NO_ANSWER, error.to_string())), ..Said::default() },
    }
}

#[expect(clippy::unnecessary_wraps, reason = "fits the field")]
pub fn header(header: Option<pb::ResponseHeader>) -> Option<Control> {
    Some(Control::of(&pb::WatchResponse { header, ..Default::default() }))
}
