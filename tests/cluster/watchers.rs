//! Watchers on every member, through everything that fails, and the history that they were told.
//!
//! One on each member watches everything from the beginning. Together they know the whole history, also
//! what is compacted later, and when each revision was first heard of; two that tell a revision
//! differently are a divergence at once. The others watch all sorts of ranges, come from the past, ask how
//! far they are, and when their stream breaks or falls silent go on where they stopped, on any member.
//! What each was told is judged by the kit's judge.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use pinion_kit::client::{CallError, Client};
use pinion_kit::judge::history::Moment;
use pinion_kit::judge::watch::{History, Interest, Life, Told as Heard, Violation, check, revision_of};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::mvccpb::Event;
use pinion_kit::server_is_etcd;
use pinion_kit::stream::{Answers, Requests};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::load::{CALL_DEADLINE, RECONNECT, Shared};

/// A stream on which nothing comes for as long is left, since something is always written.
const SILENCE: Duration = Duration::from_millis(1_500);

/// When all is well every watcher has been told everything by then.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// What the watchers of everything were told, put together.
#[derive(Default)]
pub struct Told {
    revisions: RefCell<BTreeMap<i64, (Vec<Event>, Moment)>>,
    /// All revisions up to here are known.
    whole_to: Cell<i64>,
    lives: RefCell<Vec<Life>>,
    resumed: Cell<u64>,
    overtaken: Cell<u64>,
}

/// What became of the watchers, when nothing was wrong with it.
#[derive(Debug, Clone, Copy, Default)]
#[expect(dead_code, reason = "printed")]
pub struct Tally {
    pub watchers: u64,
    pub events: u64,
    pub resumed: u64,
    pub overtaken_by_compaction: u64,
}

impl Told {
    /// All revisions up to here are known.
    pub fn whole_to(&self) -> i64 {
        self.whole_to.get().max(1)
    }

    fn add(&self, events: &[Event], now: Moment) {
        let mut revisions = self.revisions.borrow_mut();
        for revision in events.chunk_by(|a, b| revision_of(a) == revision_of(b)) {
            let number = revision_of(&revision[0]);
            let (known, _) = revisions.entry(number).or_insert_with(|| (revision.to_vec(), now));
            assert!(known == revision, "members differ at revision {number}: {known:?} and {revision:?}");
        }
        let mut whole_to = self.whole_to();
        while revisions.contains_key(&(whole_to + 1)) {
            whole_to += 1;
        }
        self.whole_to.set(whole_to);
    }

    /// Everything that happened, in order.
    pub fn events(&self) -> Vec<Event> {
        self.revisions.borrow().values().flat_map(|(events, _)| events.clone()).collect()
    }

    /// When each revision was first heard of.
    pub fn moments(&self) -> BTreeMap<i64, Moment> {
        self.revisions.borrow().iter().map(|(revision, (_, moment))| (*revision, *moment)).collect()
    }

    /// Judges what every watcher was told.
    ///
    /// # Errors
    /// The first broken guarantee, with the watcher.
    pub fn judge(&self) -> Result<Tally, String> {
        let mut history = History::default();
        for event in self.events() {
            history.add(event)?;
        }
        let mut tally = Tally {
            resumed: self.resumed.get(),
            overtaken_by_compaction: self.overtaken.get(),
            ..Tally::default()
        };
        for life in self.lives.borrow().iter() {
            tally.watchers += 1;
            tally.events += check(&history, life).map_err(|Violation { rule, what, at, .. }| {
                let from = at.saturating_sub(4);
                let around: Vec<String> =
                    life.told.iter().skip(from).take(8).map(|told| format!("{told:.600?}")).collect();
                format!(
                    "{rule:?}: {what}\nwatcher {:?} from {}, message {at}; from {from} on:\n{}",
                    life.interest,
                    life.start_revision,
                    around.join("\n")
                )
            })?;
        }
        Ok(tally)
    }
}

/// The watchers of a cluster.
pub struct Watchers {
    tasks: Vec<JoinHandle<()>>,
    /// Revisions of the last put and the last deletion that every watcher must be told.
    last: watch::Sender<Option<(i64, i64)>>,
}

impl Watchers {
    pub fn start(
        ports: &Rc<[u16]>,
        shared: &Rc<Shared>,
        told: &Rc<Told>,
        rng: impl Fn(u64) -> StdRng,
    ) -> Self {
        let last = watch::Sender::new(None);
        let stream = |number: usize| Streaming {
            ports: Rc::clone(ports),
            member: number % ports.len(),
            is_of_everything: number < ports.len(),
            shared: Rc::clone(shared),
            told: Rc::clone(told),
            last: last.subscribe(),
            rng: rng(number as u64),
            watchers: Vec::new(),
            next_id: 0,
        };
        let tasks = (0..2 * ports.len()).map(|number| tokio::task::spawn_local(stream(number).run()));
        Self { tasks: tasks.collect(), last }
    }

    /// Waits until every watcher has been told everything up to these revisions.
    pub async fn finish(self, last: (i64, i64)) {
        self.last.send_replace(Some(last));
        let all = async {
            for task in self.tasks {
                task.await.expect("a watcher was told something impossible");
            }
        };
        tokio::time::timeout(END_DEADLINE, all).await.expect("a watcher is not told the end");
    }
}

/// The code of a status that no server sends.
const SILENT: u32 = 0;

fn is_silence(error: &CallError) -> bool {
    matches!(error, CallError::Status { code: SILENT, .. })
}

/// A client with one stream at a time.
struct Streaming {
    ports: Rc<[u16]>,
    member: usize,
    /// Stays with its member, for the history.
    is_of_everything: bool,
    shared: Rc<Shared>,
    told: Rc<Told>,
    last: watch::Receiver<Option<(i64, i64)>>,
    rng: StdRng,
    watchers: Vec<Watcher>,
    next_id: i64,
}

struct Watcher {
    life: Life,
    id: i64,
    /// The next revision to ask for, once it is known.
    next: Option<i64>,
    is_created: bool,
    progress_notify: bool,
    fragment: bool,
}

impl Streaming {
    async fn run(mut self) {
        let count = if self.is_of_everything { 1 } else { self.rng.random_range(1..4) };
        for _ in 0..count {
            let watcher = self.new_watcher(None);
            self.watchers.push(watcher);
        }
        while !self.is_complete() {
            let connect = tokio::time::timeout(CALL_DEADLINE, Client::connect(self.ports[self.member])).await;
            match connect {
                Ok(Ok(client)) => {
                    match self.stream(client).await {
                        // Nothing may have happened that one of them wants to hear of.
                        Err(error) if is_silence(&error) && !self.asks_for_progress() => {}
                        Err(error) => self.shared.note_error(&error),
                        Ok(()) => {}
                    }
                    self.resume();
                }
                _ => tokio::time::sleep(RECONNECT).await,
            }
            if !self.is_of_everything {
                self.member = self.rng.random_range(0..self.ports.len());
            }
        }
        let lives = self.watchers.into_iter().map(|watcher| watcher.life);
        self.told.lives.borrow_mut().extend(lives);
    }

    /// Whether some news comes at each interval of progress notifications.
    fn asks_for_progress(&self) -> bool {
        self.watchers.iter().any(|watcher| watcher.progress_notify)
    }

    fn resume(&mut self) {
        for watcher in &mut self.watchers {
            // Its first response may be lost with the stream: then it began where it says itself.
            if let Some(next) = watcher.next {
                watcher.life.told.push(Heard::Resumed(next));
            }
            self.told.resumed.set(self.told.resumed.get() + 1);
        }
    }

    /// A watcher from a revision, or from anywhere.
    fn new_watcher(&mut self, from: Option<i64>) -> Watcher {
        let rng = &mut self.rng;
        let is_of_everything = self.is_of_everything;
        let (key, range_end): (Bytes, Bytes) = match rng.random_range(0..5) {
            _ if is_of_everything => ("\0".into(), "\0".into()),
            0 => (format!("k{}", rng.random_range(0..10)).into(), Bytes::new()),
            1 => ("k3".into(), "k8".into()),
            2 => ("k5".into(), "\0".into()),
            3 => ("k".into(), "l".into()),
            _ => ("\0".into(), "\0".into()),
        };
        let filter = if is_of_everything { 9 } else { rng.random_range(0..10) };
        let past = (self.told.whole_to() - rng.random_range(0..50)).max(1);
        let next =
            from.or(if is_of_everything { Some(1) } else { [None, Some(past)][rng.random_range(0..2)] });
        let interest = Interest {
            key,
            range_end,
            no_put: filter == 0,
            no_delete: filter == 1,
            prev_kv: !is_of_everything && rng.random_ratio(1, 2),
        };
        Watcher {
            life: Life { interest, start_revision: next.unwrap_or(0), told: Vec::new(), complete_to: None },
            id: 0,
            next,
            is_created: false,
            progress_notify: rng.random_ratio(1, 3),
            fragment: !is_of_everything && rng.random_ratio(1, 3),
        }
    }

    fn create(&mut self, place: usize, requests: &mut Requests<pb::WatchRequest>) -> Result<(), CallError> {
        self.next_id += 1;
        let watcher = &mut self.watchers[place];
        watcher.id = self.next_id;
        watcher.is_created = false;
        let interest = &watcher.life.interest;
        let no = [(interest.no_put, 0), (interest.no_delete, 1)];
        requests.create(pb::WatchCreateRequest {
            key: interest.key.clone(),
            range_end: interest.range_end.clone(),
            start_revision: watcher.next.unwrap_or(0),
            progress_notify: watcher.progress_notify,
            filters: no.into_iter().filter_map(|(is_set, filter)| is_set.then_some(filter)).collect(),
            prev_kv: interest.prev_kv,
            watch_id: watcher.id,
            fragment: watcher.fragment,
        })
    }

    /// One stream, until it breaks, its client leaves it, or every watcher has been told everything.
    async fn stream(&mut self, client: Client) -> Result<(), CallError> {
        let needs_leader = !self.is_of_everything && self.rng.random_ratio(1, 3);
        let client = if needs_leader { client.requiring_leader() } else { client };
        let (mut requests, mut answers) = client.watch().await?;
        for place in 0..self.watchers.len() {
            self.create(place, &mut requests)?;
        }
        let mut responses_left = self.rng.random_range(20..800);
        while !self.is_complete() {
            if responses_left == 0 && !self.is_of_everything && self.last.borrow().is_none() {
                return Ok(());
            }
            responses_left = u32::saturating_sub(responses_left, 1);
            let Some(response) = self.next_response(&mut answers).await? else { continue };
            if !self.take(&response, &mut requests)? {
                return Ok(());
            }
            // etcd before 3.4.25 answers it without regard to its watchers.
            if !server_is_etcd() && self.rng.random_ratio(1, 30) {
                requests.progress()?;
            }
        }
        Ok(())
    }

    /// `None`: nothing came, but the end of all writing is known now.
    async fn next_response(
        &mut self,
        answers: &mut Answers<pb::WatchResponse>,
    ) -> Result<Option<pb::WatchResponse>, CallError> {
        tokio::select! {
            response = tokio::time::timeout(SILENCE, answers.next_unbounded()) => match response {
                Ok(response) => Ok(Some(response?.ok_or_else(|| CallError::Transport("ended".to_owned()))?)),
                Err(_silent) => Err(CallError::Status { code: SILENT, message: format!("a watch silent for {SILENCE:?}") }),
            },
            _ = self.last.changed() => Ok(None),
        }
    }

    /// Whether the stream goes on.
    fn take(
        &mut self,
        response: &pb::WatchResponse,
        requests: &mut Requests<pb::WatchRequest>,
    ) -> Result<bool, CallError> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.watch_id == -1 && !response.created {
            if response.canceled {
                return Ok(false);
            }
            for watcher in self.watchers.iter_mut().filter(|watcher| watcher.is_created) {
                watcher.bookmark(revision);
            }
            return Ok(true);
        }
        let Some(place) = self.watchers.iter().position(|watcher| watcher.id == response.watch_id) else {
            // Of one that a compaction ended.
            assert!(response.canceled, "a response for a watcher that is gone: {response:?}");
            return Ok(true);
        };
        let (compacted, now) = (self.shared.compacting(), self.shared.now());
        let watcher = &mut self.watchers[place];
        if response.canceled {
            if response.compact_revision == 0 {
                let what = format!("watch canceled: {}", response.cancel_reason);
                self.shared.note_error(&CallError::Status { code: 0, message: what });
                return Ok(false);
            }
            assert!(response.compact_revision <= compacted, "compacted by nobody: {response:?}");
            watcher.life.told.push(Heard::Compacted(response.compact_revision));
            self.told.overtaken.set(self.told.overtaken.get() + 1);
            let next = self.new_watcher(Some(response.compact_revision));
            let ended = std::mem::replace(&mut self.watchers[place], next);
            self.told.lives.borrow_mut().push(ended.life);
            self.create(place, requests)?;
        } else if response.created {
            assert!(!watcher.is_created, "created twice: {response:?}");
            watcher.is_created = true;
            if watcher.next.is_none() {
                watcher.next = Some(revision + 1);
                watcher.life.start_revision = revision + 1;
            }
        } else if response.events.is_empty() {
            watcher.bookmark(revision);
        } else {
            assert!(watcher.is_created, "events before the created response: {response:?}");
            let last = response.events.last().map_or(0, revision_of);
            if !response.fragment {
                watcher.next = Some(last + 1);
            }
            let (events, fragment) = (response.events.clone(), response.fragment);
            if self.is_of_everything {
                self.told.add(&events, now);
            }
            watcher.life.told.push(Heard::Events { events, fragment, compacted });
        }
        Ok(true)
    }

    fn is_complete(&mut self) -> bool {
        let Some((put, deleted)) = *self.last.borrow_and_update() else { return false };
        for watcher in &mut self.watchers {
            let end = if watcher.life.interest.no_delete { put } else { deleted };
            if watcher.next.is_none_or(|next| next <= end) {
                return false;
            }
            watcher.life.complete_to = Some(end);
        }
        true
    }
}

impl Watcher {
    fn bookmark(&mut self, revision: i64) {
        self.life.told.push(Heard::Progress(revision));
        if !server_is_etcd() {
            // Whoever trusts a bookmark begins again after it.
            self.next = self.next.map(|next| next.max(revision + 1));
        }
    }
}
