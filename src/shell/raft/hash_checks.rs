//! Comparing data between members: who is asked when, and what follows.
//!
//! A part of the raft role. A comparison is a task of its own: it asks the store for this member's hash,
//! the other members for theirs, and leaves its findings for the role's loop. The members' questions to
//! this one become reads of the store here, linearizable ones. What findings mean is decided in
//! `replica::hash_check`.
//!
//! Bounds: one comparison at a time; `QUESTIONS_MAX` questions of others at a time, since each makes the
//! store read all it has; every question has an end in time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use prost::Message as _;

use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::replica::hash_check::{Findings, HashReport};
use crate::request::{Answer, Query, Refusal};
use crate::shell::peer::{IncomingCall, Reply as PeerReply, Transport};
use crate::shell::runtime::mesh::Doorbell;
use crate::types::{Caller, MemberId, Ticket};

/// A call between members: `pinion.peer.v1.HashQuestion`, answered by `HashAnswer`.
pub(in crate::shell) const CALL_HASH_KV: u32 = 8;

/// How long a member may take for its hash: ten times what 10 GiB of keys take.
const PERIODIC_PATIENCE: Duration = Duration::from_secs(60);

/// The same at a start, which waits for it.
const INITIAL_PATIENCE: Duration = Duration::from_secs(10);

/// Questions of others that the store has at once.
const QUESTIONS_MAX: usize = 16;

/// Attempts at one comparison, and the pause between them: a compaction may come in between.
const ATTEMPTS: u32 = 3;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// When members are compared.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::shell) struct HashCheckConfig {
    /// `--corrupt-check-time`; zero is never.
    pub period: Duration,
    /// `--compact-hash-check-time`, where the gate CompactHashCheck is open; else zero.
    pub compact_period: Duration,
}

/// Why members are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Occasion {
    /// This member is about to serve.
    Start,
    /// The leader does so from time to time.
    Period,
    /// As `Period`, of the last compaction alone.
    Compaction,
}

/// Whoever waits for a hash of this member.
enum Waiting {
    Peer(PeerReply),
    Own(Rc<Slot>),
}

#[derive(Default)]
struct Slot {
    told: RefCell<Option<HashReport>>,
    waker: RefCell<Option<std::task::Waker>>,
}

/// A read that the role is to carry out.
pub(in crate::shell) struct Asked {
    pub ticket: Ticket,
    pub query: Query,
    pub linearizable: bool,
}

#[derive(Default)]
struct Shared {
    asked: RefCell<VecDeque<Asked>>,
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    last_number: Cell<u64>,
    peers_waiting: Cell<usize>,
    is_running: Cell<bool>,
    due: Cell<Option<Occasion>>,
    /// None in it: there was no own hash, and so no comparison.
    found: RefCell<Option<(Occasion, Result<Findings, String>)>>,
    /// The last compaction that all members were seen to agree on.
    checked_compaction: Cell<i64>,
}

/// See the module.
#[derive(Clone)]
pub(in crate::shell) struct HashChecks {
    shared: Rc<Shared>,
    transport: Rc<Transport>,
    bell: Doorbell,
}

impl HashChecks {
    /// The clocks of its periods run from now on.
    #[must_use]
    pub(in crate::shell) fn new(config: HashCheckConfig, transport: Rc<Transport>, bell: Doorbell) -> Self {
        let checks = Self { shared: Rc::default(), transport, bell };
        for (period, occasion) in
            [(config.period, Occasion::Period), (config.compact_period, Occasion::Compaction)]
        {
            if period.is_zero() {
                continue;
            }
            let (shared, bell) = (Rc::clone(&checks.shared), checks.bell.clone());
            glommio::spawn_local(async move {
                loop {
                    glommio::timer::sleep(period).await;
                    // The one that finds the place taken comes again.
                    if shared.due.get().is_none() {
                        shared.due.set(Some(occasion));
                        bell.ring();
                    }
                }
            })
            .detach();
        }
        checks
    }

    /// Whether `take_due`, `take_asked` or `take_found` has something.
    pub(in crate::shell) fn has_work(&self) -> bool {
        let shared = &self.shared;
        let is_due = shared.due.get().is_some() && !shared.is_running.get();
        is_due || !shared.asked.borrow().is_empty() || shared.found.borrow().is_some()
    }

    /// Whether none is under way.
    pub(in crate::shell) fn may_start(&self) -> bool {
        !self.shared.is_running.get() && self.shared.found.borrow().is_none()
    }

    /// The comparison that is due, if none is under way.
    pub(in crate::shell) fn take_due(&self) -> Option<Occasion> {
        if self.shared.is_running.get() { None } else { self.shared.due.take() }
    }

    /// The next read for the store.
    pub(in crate::shell) fn take_asked(&self) -> Option<Asked> {
        self.shared.asked.borrow_mut().pop_front()
    }

    /// What a comparison found; an error says why there was none.
    pub(in crate::shell) fn take_found(&self) -> Option<(Occasion, Result<Findings, String>)> {
        self.shared.found.take()
    }

    /// A question of another member.
    pub(in crate::shell) fn on_call(&self, call: IncomingCall) {
        let question = match peer::HashQuestion::decode(call.body) {
            Ok(question) if 0 < question.revision => question,
            Ok(question) => return call.reply.fail(&format!("no revision: {}", question.revision)),
            Err(error) => return call.reply.fail(&format!("the question does not decode: {error}")),
        };
        if QUESTIONS_MAX <= self.shared.peers_waiting.get() {
            return call.reply.fail("too many questions under way");
        }
        self.shared.peers_waiting.set(self.shared.peers_waiting.get() + 1);
        let query = Query::HashKv(pb::HashKvRequest { revision: question.revision });
        self.shared.ask(query, true, Waiting::Peer(call.reply));
        self.bell.ring();
    }

    /// The answer to the read with this number, or why there is none.
    pub(in crate::shell) fn on_answer(&self, number: u64, result: Result<Answer, Refusal>) {
        let Some(waiting) = self.shared.waiting.borrow_mut().remove(&number) else { return };
        let told = match result {
            Ok(answer) => HashReport::from_outcome(answer.outcome),
            Err(refusal) => HashReport::Nothing(format!("{refusal:?}")),
        };
        match waiting {
            Waiting::Peer(reply) => {
                self.shared.peers_waiting.set(self.shared.peers_waiting.get() - 1);
                match (told.encode(), &told) {
                    (Some(body), _) => reply.succeed(body),
                    (None, HashReport::Nothing(reason)) => reply.fail(reason),
                    (None, _) => unreachable!("only a reason has no wire form"),
                }
            }
            Waiting::Own(slot) => {
                slot.told.replace(Some(told));
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Compares this member with `others`, which are all other members. `take_found` tells.
    pub(in crate::shell) fn start(&self, occasion: Occasion, own: MemberId, others: Vec<MemberId>) {
        assert!(!self.shared.is_running.replace(true), "one comparison at a time");
        let checks = self.clone();
        glommio::spawn_local(async move {
            let found = checks.compare(occasion, own, &others).await;
            checks.shared.is_running.set(false);
            if let Some(found) = found {
                checks.shared.found.replace(Some((occasion, found)));
            }
            checks.bell.ring();
        })
        .detach();
    }

    /// None: there is nothing new to compare.
    async fn compare(
        &self,
        occasion: Occasion,
        own: MemberId,
        others: &[MemberId],
    ) -> Option<Result<Findings, String>> {
        let query = || match occasion {
            Occasion::Start | Occasion::Period => Query::HashKv(pb::HashKvRequest::default()),
            Occasion::Compaction => Query::HashCompacted,
        };
        let mut attempt = 1;
        loop {
            let fingerprint = match self.ask_own(query()).await {
                HashReport::Hash(fingerprint) => fingerprint,
                // Nothing was ever compacted.
                HashReport::Compacted if occasion == Occasion::Compaction => return None,
                HashReport::Nothing(reason) => return Some(Err(reason)),
                other => return Some(Err(format!("this member's own hash: {other:?}"))),
            };
            if occasion == Occasion::Compaction
                && fingerprint.revision == self.shared.checked_compaction.get()
            {
                return None;
            }
            let asked = others.iter().map(|&member| async move {
                (member, self.ask_peer(occasion, member, fingerprint.revision).await)
            });
            let findings = Findings::new(own, fingerprint, join_all(asked).await);
            if !findings.is_overtaken() || attempt == ATTEMPTS {
                if occasion == Occasion::Compaction && findings.agree() && findings.is_complete() {
                    self.shared.checked_compaction.set(fingerprint.revision);
                }
                return Some(Ok(findings));
            }
            attempt += 1;
            glommio::timer::sleep(ATTEMPT_PAUSE).await;
        }
    }

    async fn ask_own(&self, query: Query) -> HashReport {
        let slot = Rc::<Slot>::default();
        self.shared.ask(query, false, Waiting::Own(Rc::clone(&slot)));
        self.bell.ring();
        std::future::poll_fn(|cx| match slot.told.take() {
            Some(told) => std::task::Poll::Ready(told),
            None => {
                slot.waker.replace(Some(cx.waker().clone()));
                std::task::Poll::Pending
            }
        })
        .await
    }

    async fn ask_peer(&self, occasion: Occasion, member: MemberId, revision: i64) -> HashReport {
        let patience = if occasion == Occasion::Start { INITIAL_PATIENCE } else { PERIODIC_PATIENCE };
        let question = peer::HashQuestion { revision }.encode_to_vec();
        match self.transport.call(member, CALL_HASH_KV, question.into(), patience).await {
            Ok(body) => HashReport::decode(body, revision),
            Err(error) => HashReport::Nothing(error.to_string()),
        }
    }
}

/// Says in the log what a comparison found. Returns whether this member may serve, or why not.
pub(in crate::shell) fn report(
    occasion: Occasion,
    own: MemberId,
    found: &Result<Findings, String>,
) -> Result<(), String> {
    let findings = match found {
        Ok(findings) => findings,
        Err(reason) => {
            tracing::warn!(?occasion, reason, "data was not compared between members");
            return Ok(());
        }
    };
    for (member, reason) in &findings.unchecked {
        tracing::warn!(?occasion, %member, reason, "could not compare data with this member; it was not checked");
    }
    let compared: usize = findings.groups.values().map(Vec::len).sum();
    if findings.agree() {
        let revision = findings.own.revision;
        tracing::info!(
            ?occasion,
            revision,
            compared,
            unchecked = findings.unchecked.len(),
            "data is the same"
        );
        return Ok(());
    }
    let suspects: Vec<String> = findings.suspects().iter().map(ToString::to_string).collect();
    let found = findings.describe();
    tracing::error!(
        ?occasion,
        found,
        suspects = suspects.join(","),
        "members hold different data. Suspect 0: no majority agrees, so nobody can say who is wrong. Remove a \
         suspect from the cluster and add it again with an empty data directory, then disarm the alarm"
    );
    if findings.clears_asker() {
        return Ok(());
    }
    Err(format!(
        "the data of this member, {own}, differs from that of others: {found}. Remove it from the cluster and \
         add it again with an empty --data-dir, or restore the cluster from a backup"
    ))
}

impl Shared {
    fn ask(&self, query: Query, linearizable: bool, waiting: Waiting) {
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        self.waiting.borrow_mut().insert(number, waiting);
        self.asked.borrow_mut().push_back(Asked { ticket: Caller::Raft(number).into(), query, linearizable });
    }
}
