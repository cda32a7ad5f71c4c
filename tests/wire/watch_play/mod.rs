//! Plays the same steps against the reference and the subject, and compares what their calls and their
//! watchers said.
//!
//! Nothing sleeps to let things settle. Each side has one watcher over everything, from the beginning:
//! once it has shown the last revision, the changes are known, and so is how many events every other
//! watcher must get; the player waits for just those. Messages beyond them show in the next comparison,
//! or at the end.

mod leases;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use pinion::types::key_range::KeyRange;
use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::mvccpb::Event;
use pinion_kit::pb::v3electionpb as election;
use pinion_kit::pb::v3lockpb as lock;
use pinion_kit::{Launch, Server, WorkDir};

use crate::ask;
use crate::compare::{self, Answer};
use crate::generate::Request;
use crate::watch_log::{self, Control, Entry, Logs, is_canceled, is_event, mod_revision};
use crate::watch_script::{Step, World};
use crate::watch_side::{NO_ANSWER, Said, Stream, Translation, header, said};

/// How often a server that may leave a progress request unanswered is asked again.
const PROGRESS_RETRY: Duration = Duration::from_millis(250);

/// Ids of the player's own watchers: no script uses them.
const BARRIER_ID: i64 = 1 << 40;

/// Never written by a script.
const SENTINEL: &[u8] = b"~sentinel";

const NAMES: [&str; 2] = ["reference", "subject"];

struct Side {
    server: Server,
    client: Client,
    everything: Stream,
    streams: BTreeMap<usize, Stream>,
    translate: Translation,
    election_keys: BTreeMap<Bytes, election::LeaderKey>,
}

/// A watcher that was created and not cancelled by its client.
struct Watcher {
    request: pb::WatchCreateRequest,
    /// The first revision it asked for.
    from: i64,
    /// A compaction has ended it, but its id stays taken.
    is_compacted: bool,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        // The watch service reads an empty key as the lowest one.
        let key = if self.request.key.is_empty() { &b"\0"[..] } else { &self.request.key };
        let is_filtered = self.request.filters.contains(&event.r#type);
        !self.is_compacted
            && !is_filtered
            && self.from <= kv.mod_revision
            && KeyRange::new(key, &self.request.range_end).contains(&kv.key)
    }
}

/// What must arrive at one id of one stream, over all watchers that had it.
#[derive(Default)]
struct Due {
    events: usize,
    canceled: usize,
}

#[derive(Default)]
pub struct Tally {
    pub steps: u64,
    pub watchers: u64,
    pub events: u64,
    pub messages: u64,
    pub errors: u64,
    pub progress_answers: u64,
    pub compactions: u64,
}

pub struct Player {
    sides: [Side; 2],
    world: World,
    history: Vec<Event>,
    history_seen: usize,
    watchers: BTreeMap<(usize, i64), Watcher>,
    due: BTreeMap<(usize, i64), Due>,
    half_closed: BTreeSet<usize>,
    opened: usize,
    barriers: Cell<i64>,
    /// The last value of each key, also of deleted ones.
    values: BTreeMap<Bytes, Bytes>,
    pub tally: Tally,
    /// For the test of the comparison: spoils what the subject said before it is compared.
    pub spoil: fn(&mut Vec<Entry>),
}

impl Player {
    pub async fn start(reference: &std::path::Path, work: &WorkDir) -> Self {
        let quick = |launch: Launch| launch.flag("--heartbeat-interval=10").flag("--election-timeout=100");
        let reference = quick(Launch::binary(reference, work.join("reference"))).start().await;
        let subject = quick(Launch::new(work.join("subject"))).start().await;
        let sides = [Side::new(reference).await, Side::new(subject).await];
        Self {
            sides,
            world: World { revision: 1, ..World::default() },
            history: Vec::new(),
            history_seen: 0,
            watchers: BTreeMap::new(),
            due: BTreeMap::new(),
            half_closed: BTreeSet::new(),
            opened: 0,
            barriers: Cell::new(0),
            values: BTreeMap::new(),
            tally: Tally::default(),
            spoil: |_| {},
        }
    }

    pub fn world(&mut self) -> &World {
        let sides = &self.sides;
        self.world.streams = sides[0]
            .streams
            .keys()
            .map(|stream| {
                let ids = self.watchers.keys().filter(|(of, _)| of == stream).map(|(_, id)| *id).collect();
                (*stream, !self.half_closed.contains(stream), ids)
            })
            .collect();
        &self.world
    }

    /// One step, and everything that follows from it on both sides.
    pub async fn play(&mut self, step: &Step) -> Result<(), String> {
        self.tally.steps += 1;
        match step {
            Step::Kv(request) => self.kv(request).await?,
            Step::Create { stream, request } => self.create(*stream, request).await?,
            Step::Cancel { stream, id } => self.cancel(*stream, *id).await?,
            Step::Progress { stream } => self.progress(*stream).await?,
            Step::Nothing { stream } => {
                let stream = self.opened_stream(*stream).await;
                if self.may_send(stream) {
                    for side in &mut self.sides {
                        let nothing = pb::WatchRequest { request_union: None };
                        side.stream(stream).requests.send(&nothing).map_err(|error| error.to_string())?;
                    }
                    self.barrier(stream).await?;
                }
            }
            Step::HalfClose { stream } => {
                if *stream != usize::MAX && self.may_send(*stream) {
                    for side in &mut self.sides {
                        let requests = &mut side.stream(*stream).requests;
                        requests.half_close().map_err(|error| error.to_string())?;
                    }
                    self.half_closed.insert(*stream);
                }
            }
            Step::Reset { stream } => self.reset(*stream).await?,
            Step::Grant { .. }
            | Step::GrantAndRevoke { .. }
            | Step::Revoke { .. }
            | Step::KeepAlive { .. }
            | Step::TimeToLive { .. }
            | Step::Leases
            | Step::Expire { .. } => self.lease(step).await?,
            Step::Lock { .. } | Step::AbandonLock { .. } | Step::Unlock { .. } => self.lock(step).await?,
            Step::Campaign { .. }
            | Step::Proclaim { .. }
            | Step::Leader { .. }
            | Step::Resign { .. }
            | Step::Observe { .. } => self.election(step).await?,
        }
        self.settle(false).await
    }

    /// Everything that is still open has been delivered, and nothing else.
    pub async fn finish(&mut self) -> Result<(), String> {
        let streams: Vec<usize> = self.sides[0].streams.keys().copied().collect();
        self.synced_barrier().await?;
        for stream in streams {
            if !self.half_closed.contains(&stream) {
                self.barrier(stream).await?;
            }
        }
        self.settle(true).await?;
        for side in &mut self.sides {
            assert!(side.server.is_running(), "a server ended: {}", side.server.output());
        }
        Ok(())
    }

    /// What each watcher of the subject's open streams was told.
    pub fn logs(&self) -> Vec<Vec<Entry>> {
        let streams = self.sides[1].streams.values();
        streams.flat_map(|stream| stream.logs.by_watcher.values().cloned()).collect()
    }

    fn may_send(&self, stream: usize) -> bool {
        self.sides[0].streams.contains_key(&stream) && !self.half_closed.contains(&stream)
    }

    async fn opened_stream(&mut self, stream: usize) -> usize {
        if stream != usize::MAX {
            return stream;
        }
        let stream = self.opened;
        self.opened += 1;
        for side in &mut self.sides {
            let opened = Stream::open(&side.client).await;
            side.streams.insert(stream, opened);
        }
        stream
    }

    async fn kv(&mut self, request: &Request) -> Result<(), String> {
        if let Request::Compact(_) = request {
            // A watcher that is behind would race with the compaction.
            self.synced_barrier().await?;
            self.settle(false).await?;
        }
        let asked = self.sides[1].translated(request);
        let (reference, subject) =
            tokio::join!(ask(&self.sides[0].client, request), ask(&self.sides[1].client, &asked));
        let mut subject = subject;
        self.sides[1].translate.answer(&mut subject);
        compare::compare(request, &reference, &subject)?;
        let header = match &reference {
            Answer::Range(answer) => &answer.header,
            Answer::Put(answer) => &answer.header,
            Answer::Delete(answer) => &answer.header,
            Answer::Txn(answer) => &answer.header,
            Answer::Compact(answer) => {
                let Request::Compact(request) = request else { unreachable!("the answer fits") };
                self.world.compacted = request.revision;
                self.tally.compactions += 1;
                &answer.header
            }
            Answer::Error { .. } | Answer::Broken(_) => {
                self.tally.errors += 1;
                return Ok(());
            }
        };
        self.reached(header.as_ref().map_or(0, |header| header.revision));
        Ok(())
    }

    fn reached(&mut self, revision: i64) {
        self.world.revision = self.world.revision.max(revision);
    }

    async fn create(&mut self, stream: usize, request: &pb::WatchCreateRequest) -> Result<(), String> {
        let stream = self.opened_stream(stream).await;
        if !self.may_send(stream) {
            return Ok(());
        }
        let mut request = request.clone();
        let deleted_at_compacted =
            |event: &Event| event.r#type == 1 && mod_revision(event) == self.world.compacted;
        if request.start_revision == self.world.compacted && self.history.iter().any(deleted_at_compacted) {
            request.start_revision += 1;
        }
        let mut answers = Vec::new();
        for (side, name) in self.sides.iter_mut().zip(NAMES) {
            let translate = side.translate.clone();
            let watch = side.stream(stream);
            let before = watch.logs.created.len();
            watch.requests.create(request.clone()).map_err(|error| error.to_string())?;
            let created = |logs: &Logs| logs.created.len() > before;
            watch.until(&format!("{name}: the answer to {request:?}"), &translate, created).await?;
            answers.push(watch.logs.created[before].clone());
        }
        self.tally.watchers += 1;
        let [(reference_id, reference), (subject_id, subject)] = &answers[..] else {
            unreachable!("two sides")
        };
        if request.start_revision < 0 {
            let refused = Control {
                header_revision: self.world.revision,
                header_has_ids: true,
                canceled: true,
                compact_revision: 0,
                reason: "etcdserver: mvcc: required revision has been compacted".to_owned(),
            };
            let as_target = (*subject_id, subject) == (-1, &refused);
            let as_reference = (subject_id, subject) == (reference_id, reference);
            if !as_target && !as_reference {
                return Err(format!("a negative start: subject says {subject_id}, {subject:?}"));
            }
            return self.forget_negative(stream, &request, *reference_id, as_target).await;
        }
        if (reference_id, reference) != (subject_id, subject) {
            return Err(format!(
                "created: reference {reference_id}, {reference:?}, subject {subject_id}, {subject:?}"
            ));
        }
        if reference.canceled {
            self.tally.errors += 1;
            return Ok(());
        }
        let id = *reference_id;
        let from = if request.start_revision == 0 { self.world.revision + 1 } else { request.start_revision };
        let is_compacted = from < self.world.compacted;
        let watcher = Watcher { request, from, is_compacted };
        let due = self.due.entry((stream, id)).or_default();
        due.canceled += usize::from(is_compacted);
        due.events += self.history.iter().filter(|event| watcher.wants(event)).count();
        if self.watchers.insert((stream, id), watcher).is_some() {
            return Err(format!("id {id} was given although it is in use"));
        }
        Ok(())
    }

    /// Takes back, on a side that allowed it, a watcher that started at a negative revision.
    async fn forget_negative(
        &mut self,
        stream: usize,
        request: &pb::WatchCreateRequest,
        id: i64,
        only_reference: bool,
    ) -> Result<(), String> {
        let sides = if only_reference { 1 } else { 2 };
        for (side, name) in self.sides.iter_mut().zip(NAMES).take(sides) {
            let translate = side.translate.clone();
            let watch = side.stream(stream);
            if watch.logs.created.last().is_some_and(|(_, created)| created.canceled) {
                continue;
            }
            watch.requests.cancel(id).map_err(|error| error.to_string())?;
            let last_is_cancel = |logs: &Logs| logs.by_watcher[&id].last().is_some_and(is_canceled);
            watch.until(&format!("{name}: the end of {request:?}"), &translate, last_is_cancel).await?;
        }
        // What it said meanwhile depends on the race with its cancel, and its id has been used up on
        // one side: the stream goes out of the game.
        self.drop_stream(stream);
        Ok(())
    }

    async fn cancel(&mut self, stream: usize, id: i64) -> Result<(), String> {
        let stream = self.opened_stream(stream).await;
        if !self.may_send(stream) {
            return Ok(());
        }
        self.settle(false).await?;
        for side in &mut self.sides {
            side.stream(stream).requests.cancel(id).map_err(|error| error.to_string())?;
        }
        if self.watchers.remove(&(stream, id)).is_some() {
            self.due.entry((stream, id)).or_default().canceled += 1;
        }
        self.settle(false).await?;
        self.barrier(stream).await
    }

    /// See the masks in `watch_log.rs`.
    async fn progress(&mut self, stream: usize) -> Result<(), String> {
        let stream = self.opened_stream(stream).await;
        if !self.may_send(stream) {
            return Ok(());
        }
        self.synced_barrier().await?;
        self.settle(false).await?;
        let revision = self.world.revision;
        let mut watchers = self.watchers.iter().filter(|((of, _), _)| *of == stream).peekable();
        let must_answer = watchers.peek().is_some()
            && watchers.all(|(_, watcher)| !watcher.is_compacted && watcher.from <= revision + 1);
        let mut answers: Vec<Option<Control>> = Vec::new();
        for (side, name) in self.sides.iter_mut().zip(NAMES) {
            let translate = side.translate.clone();
            let watch = side.stream(stream);
            watch.logs.progress.clear();
            let mut asked = 0;
            while watch.logs.progress.is_empty() && asked < 40 {
                asked += 1;
                watch.requests.progress().map_err(|error| error.to_string())?;
                if !must_answer {
                    break;
                }
                let answered = |logs: &Logs| !logs.progress.is_empty();
                // A server may leave it unanswered until it has seen that all watchers are synced.
                let what = format!("{name}: progress");
                let answer = watch.until(&what, &translate, answered);
                if let Ok(answer) = tokio::time::timeout(PROGRESS_RETRY, answer).await {
                    answer?;
                }
            }
            answers.push(watch.logs.progress.first().cloned());
        }
        // Whatever it was, it comes before this.
        self.barrier(stream).await?;
        if must_answer {
            if answers[0] != answers[1] || answers[0].is_none() {
                return Err(format!("progress: reference {:?}, subject {:?}", answers[0], answers[1]));
            }
            self.tally.progress_answers += 1;
            return Ok(());
        }
        let [reference, subject] =
            [0, 1].map(|side: usize| self.sides[side].streams[&stream].logs.progress.first().cloned());
        if subject.is_some() && subject != reference {
            return Err(format!(
                "progress where 3.7 says nothing: reference {reference:?}, subject {subject:?}"
            ));
        }
        Ok(())
    }

    async fn reset(&mut self, stream: usize) -> Result<(), String> {
        if stream == usize::MAX || !self.sides[0].streams.contains_key(&stream) {
            return Ok(());
        }
        self.settle(false).await?;
        self.compare_stream(stream, true)?;
        self.drop_stream(stream);
        Ok(())
    }

    fn drop_stream(&mut self, stream: usize) {
        for side in &mut self.sides {
            side.streams.remove(&stream);
        }
        self.watchers.retain(|(of, _), _| *of != stream);
        self.due.retain(|(of, _), _| *of != stream);
    }

    /// All that the stream's control messages asked for before has been answered.
    async fn barrier(&mut self, stream: usize) -> Result<(), String> {
        self.barriers.set(self.barriers.get() + 1);
        let id = BARRIER_ID + self.barriers.get();
        for (side, name) in self.sides.iter_mut().zip(NAMES) {
            let translate = side.translate.clone();
            let watch = side.stream(stream);
            let request =
                pb::WatchCreateRequest { key: "~barrier".into(), watch_id: id, ..Default::default() };
            watch.requests.create(request).map_err(|error| error.to_string())?;
            watch.requests.cancel(id).map_err(|error| error.to_string())?;
            let passed = |logs: &Logs| logs.count(id, is_canceled) == 1;
            watch.until(&format!("{name}: a barrier"), &translate, passed).await?;
        }
        Ok(())
    }

    /// All watchers that have been created are synced: etcd takes all that are behind in one round, and
    /// a watcher of ours that came after them has been through one. Costs a revision.
    async fn synced_barrier(&mut self) -> Result<(), String> {
        self.barriers.set(self.barriers.get() + 1);
        let id = BARRIER_ID + self.barriers.get();
        let mut revisions = Vec::new();
        for side in &mut self.sides {
            let put = pb::PutRequest { key: SENTINEL.into(), ..Default::default() };
            let answer = side.client.put(&put).await.map_err(|error| error.to_string())?;
            revisions.push(answer.header.unwrap_or_default().revision);
        }
        compare_said("sentinel", &revisions[0], &revisions[1])?;
        self.reached(revisions[0]);
        for (side, name) in self.sides.iter_mut().zip(NAMES) {
            let request = pb::WatchCreateRequest {
                key: SENTINEL.into(),
                watch_id: id,
                start_revision: revisions[0],
                ..Default::default()
            };
            side.everything.requests.create(request).map_err(|error| error.to_string())?;
            let synced = |logs: &Logs| logs.count(id, is_event) > 0;
            side.everything.until(&format!("{name}: the sentinel"), &side.translate, synced).await?;
            side.everything.requests.cancel(id).map_err(|error| error.to_string())?;
            let gone = |logs: &Logs| logs.count(id, is_canceled) > 0;
            side.everything.until(&format!("{name}: its end"), &side.translate, gone).await?;
        }
        Ok(())
    }

    /// Waits until every watcher has got what it must get, and compares.
    async fn settle(&mut self, complete: bool) -> Result<(), String> {
        let revision = self.world.revision;
        for (side, name) in self.sides.iter_mut().zip(NAMES) {
            let shown = |logs: &Logs| {
                revision == 1 || matches!(last_event(logs), Some(event) if mod_revision(event) >= revision)
            };
            side.everything.until(&format!("{name}: revision {revision}"), &side.translate, shown).await?;
        }
        let [reference, subject] =
            [0, 1].map(|side: usize| self.sides[side].everything.logs.by_watcher[&0].as_slice());
        watch_log::compare(&reference[self.history_seen..], &subject[self.history_seen..], complete)
            .map_err(|difference| format!("the watcher of everything: {difference}"))?;
        let both = reference.len().min(subject.len());
        let new: Vec<Event> = reference[self.history_seen..both]
            .iter()
            .filter_map(
                |entry| if let Entry::Event { event, .. } = entry { Some(event.clone()) } else { None },
            )
            .collect();
        self.history_seen = both;
        for (place, watcher) in &self.watchers {
            let due = self.due.entry(*place).or_default();
            due.events += new.iter().filter(|event| watcher.wants(event)).count();
        }
        self.tally.events += new.len() as u64;
        for event in new {
            self.reached(mod_revision(&event));
            self.world_learns(&event);
            self.history.push(event);
        }
        for (side, name) in self.sides.iter_mut().zip(NAMES) {
            for ((stream, id), due) in &self.due {
                let watch = side.streams.get_mut(stream).expect("streams that are gone are owed nothing");
                let arrived = |logs: &Logs| {
                    logs.count(*id, is_event) >= due.events && logs.count(*id, is_canceled) >= due.canceled
                };
                let what = format!(
                    "{name}: stream {stream}, watcher {id}: {} events and {} cancels",
                    due.events, due.canceled
                );
                if let Err(error) = watch.until(&what, &side.translate, arrived).await {
                    let (events, canceled) =
                        (watch.logs.count(*id, is_event), watch.logs.count(*id, is_canceled));
                    return Err(format!("{error}; there are {events} and {canceled}"));
                }
            }
        }
        let streams: Vec<usize> = self.sides[0].streams.keys().copied().collect();
        for stream in streams {
            self.compare_stream(stream, complete)?;
        }
        Ok(())
    }

    fn compare_stream(&mut self, stream: usize, complete: bool) -> Result<(), String> {
        let ids: BTreeSet<i64> = self
            .sides
            .iter()
            .flat_map(|side| side.streams[&stream].logs.by_watcher.keys().copied())
            .filter(|id| *id < BARRIER_ID || *id == i64::MAX)
            .collect();
        for id in ids {
            let [reference, subject] = [0, 1].map(|side: usize| {
                self.sides[side].streams[&stream].logs.by_watcher.get(&id).map_or(&[][..], Vec::as_slice)
            });
            let mut spoiled = subject.to_vec();
            (self.spoil)(&mut spoiled);
            watch_log::compare(reference, &spoiled, complete)
                .map_err(|difference| format!("stream {stream}, watcher {id}: {difference}"))?;
            if complete {
                self.tally.messages += reference.len() as u64;
                let due = self.due.get(&(stream, id)).map_or(0, |due| due.events);
                let events = reference.iter().filter(|entry| is_event(entry)).count();
                compare_said(&format!("stream {stream}, watcher {id}: events by rule"), &due, &events)?;
            }
        }
        Ok(())
    }

    /// Follows who holds which lock, so that the script can contend for it.
    fn world_learns(&mut self, event: &Event) {
        let Some(kv) = &event.kv else { return };
        self.world.held.retain(|(_, key)| *key != kv.key);
        self.values.insert(kv.key.clone(), kv.value.clone());
        if event.r#type == 0
            && kv.lease != 0
            && let Some(slash) = kv.key.iter().rposition(|byte| *byte == b'/')
            && kv.key[slash..] == *own_suffix(kv.lease).as_bytes()
        {
            self.world.held.push((kv.key.slice(..slash), kv.key.clone()));
        }
    }

    /// Compares two answers and learns the revision.
    fn compare_answers(&mut self, what: &str, answers: [Said; 2]) -> Result<(), String> {
        let [reference, subject] = &answers;
        if let Some((code, text)) = &reference.error {
            if *code == NO_ANSWER {
                return Err(format!("{what}: the reference gave no answer: {text}"));
            }
            self.tally.errors += 1;
        }
        compare_said(what, reference, subject)?;
        if let Some(header) = &reference.header {
            let revision = header.header_revision;
            self.reached(revision);
        }
        Ok(())
    }
}

impl Side {
    async fn new(server: Server) -> Self {
        let client = server.connect().await;
        // On a connection of its own: megabytes on the other streams do not hold it up.
        let mut everything = Stream::open(&server.connect().await).await;
        let all = pb::WatchCreateRequest {
            key: b"\0"[..].into(),
            range_end: b"\0"[..].into(),
            prev_kv: true,
            ..Default::default()
        };
        everything.requests.create(all).expect("the stream is open");
        let created = |logs: &Logs| !logs.created.is_empty();
        everything
            .until("the watcher of everything", &Translation::default(), created)
            .await
            .expect("a watcher is created");
        Self {
            server,
            client,
            everything,
            streams: BTreeMap::new(),
            translate: Translation::default(),
            election_keys: BTreeMap::new(),
        }
    }

    fn stream(&mut self, stream: usize) -> &mut Stream {
        self.streams.get_mut(&stream).expect("the player opened it on both sides")
    }

    /// The request with this side's numbers of leases.
    fn translated(&self, request: &Request) -> Request {
        let mut request = request.clone();
        match &mut request {
            Request::Put(put) => put.lease = self.translate.back(put.lease),
            Request::Txn(txn) => {
                for op in txn.success.iter_mut().chain(&mut txn.failure) {
                    if let Some(pb::request_op::Request::RequestPut(put)) = &mut op.request {
                        put.lease = self.translate.back(put.lease);
                    }
                }
            }
            Request::Range(_) | Request::Delete(_) | Request::Compact(_) => {}
        }
        request
    }

    fn translate_back_key(&self, key: &Bytes) -> Bytes {
        let back: BTreeMap<i64, i64> = self.translate.leases.iter().map(|(a, b)| (*b, *a)).collect();
        Translation { leases: back }.key(key)
    }

    fn leader_key(&self, name: &Bytes, wrong: i64) -> Option<election::LeaderKey> {
        let mut leader = self.election_keys.get(name).cloned()?;
        leader.rev += wrong;
        Some(leader)
    }

    fn leader(&self, answer: election::LeaderResponse) -> Said {
        let mut kv = answer.kv;
        kv.iter_mut().for_each(|kv| self.translate.kv(kv));
        Said { header: header(answer.header), kv, ..Said::default() }
    }
}

/// The end of the key under which a lease waits for a lock: its number as Go prints it, sign included.
fn own_suffix(lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("/{sign}{:x}", lease.unsigned_abs())
}

fn last_event(logs: &Logs) -> Option<&Event> {
    logs.by_watcher.get(&0)?.iter().rev().find_map(|entry| match entry {
        Entry::Event { event, .. } => Some(event),
        _ => None,
    })
}

fn compare_said<T: PartialEq + std::fmt::Debug>(what: &str, a: &T, b: &T) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what}: reference {a:?}, subject {b:?}")) }
}
