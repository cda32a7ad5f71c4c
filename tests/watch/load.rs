//! One round: a server, its writers, and clients that watch in every way a client may.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use pinion_kit::client::Client;
use pinion_kit::judge::watch::{
    History, Interest, Life, Rule, Told, Violation, check, is_delete, revision_of,
};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::mvccpb::{Event, KeyValue};
use pinion_kit::stream::{Answers, Requests};
use pinion_kit::{Launch, WorkDir, server_is_etcd};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;

const KEYS: u32 = 50;
const WRITERS: u64 = 4;
const WRITES_PER_WRITER: u32 = 500;
/// Streams, each with one to four watchers.
const STREAMS: u64 = 16;
/// One writer compacts after that many of its writes.
const WRITES_PER_COMPACTION: u32 = 60;

#[derive(Debug, Default)]
pub struct Tally {
    pub events: u64,
    pub watchers: u64,
    pub resumes: u64,
    pub compactions: u64,
    pub compacted_watchers: u64,
    pub bookmarks: u64,
    pub slow_streams: u64,
    pub revisions: u64,
    /// Bookmarks that were ahead of their events; only etcd before 3.4.25 may have any.
    pub bookmarks_ahead: u64,
    /// Watchers that the installed etcd failed in a way that `is_seen_of_etcd` tells apart.
    pub seen_of_etcd: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.watchers += other.watchers;
        self.resumes += other.resumes;
        self.compactions += other.compactions;
        self.compacted_watchers += other.compacted_watchers;
        self.bookmarks += other.bookmarks;
        self.slow_streams += other.slow_streams;
        self.revisions += other.revisions;
        self.bookmarks_ahead += other.bookmarks_ahead;
        self.seen_of_etcd += other.seen_of_etcd;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} revisions, {} events told to {} watchers, {} resumes, {} slow streams, {} bookmarks, \
             {} compactions that ended {} watchers",
            self.revisions,
            self.events,
            self.watchers,
            self.resumes,
            self.slow_streams,
            self.bookmarks,
            self.compactions,
            self.compacted_watchers
        )?;
        if self.bookmarks_ahead > 0 {
            write!(f, "; {} watchers with a bookmark ahead of its events", self.bookmarks_ahead)?;
        }
        if self.seen_of_etcd > 0 {
            write!(
                f,
                "; {} watchers that etcd failed in one of the two ways it is seen to",
                self.seen_of_etcd
            )?;
        }
        Ok(())
    }
}

fn key(number: u32) -> Bytes {
    format!("k/{number:02}").into()
}

/// What the tasks of a round share.
struct Round {
    port: u16,
    /// The last revision that the watcher of everything has seen.
    seen: watch::Sender<i64>,
    /// The revisions of the last put and the last deletion of every key, once they are written.
    last: watch::Sender<Option<(i64, i64)>>,
    /// No compaction beyond this revision has been asked for.
    compacting: Cell<i64>,
    /// Every compaction up to this revision has been answered.
    compacted: Cell<i64>,
    acks: RefCell<Vec<Ack>>,
    lives: RefCell<Vec<Life>>,
    tally: RefCell<Tally>,
}

impl Round {
    /// The installed etcd forgets deletions of just the compacted revision, which later ones keep for
    /// watchers that start there; so it is only told to compact where something was put.
    fn put_at_or_before(&self, revision: i64) -> i64 {
        let acks = self.acks.borrow();
        let puts = acks.iter().filter(|ack| matches!(ack.what, Written::Put { .. }));
        puts.map(|ack| ack.revision).filter(|put| *put <= revision).max().unwrap_or(0)
    }
}

/// A write that was acknowledged.
struct Ack {
    revision: i64,
    what: Written,
}

enum Written {
    Put { key: Bytes, value: Bytes },
    Deleted { count: i64 },
}

/// Runs one round and judges it.
pub async fn round(seed: u64) -> Tally {
    let work = WorkDir::new();
    let interval = if server_is_etcd() { "--experimental-watch-progress" } else { "--watch-progress" };
    let server = Launch::new(work.join("data"))
        .flag("--heartbeat-interval=10")
        .flag("--election-timeout=100")
        .flag(format!("{interval}-notify-interval=100ms"))
        .start()
        .await;
    let round = Rc::new(Round {
        port: server.client_port(),
        seen: watch::Sender::new(1),
        last: watch::Sender::new(None),
        compacting: Cell::new(0),
        compacted: Cell::new(0),
        acks: RefCell::default(),
        lives: RefCell::default(),
        tally: RefCell::default(),
    });
    let reference = tokio::task::spawn_local(watch_everything(Rc::clone(&round)));
    let writers: Vec<_> =
        (0..WRITERS).map(|number| tokio::task::spawn_local(write(Rc::clone(&round), number, seed))).collect();
    let watchers: Vec<_> = (0..STREAMS)
        .map(|number| {
            let rng = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
            tokio::task::spawn_local(Watching::new(Rc::clone(&round), rng).run())
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer failed");
    }
    write_last(&round).await;
    for watcher in watchers {
        watcher.await.expect("a watcher failed");
    }
    let history = reference.await.expect("the watcher of everything failed");
    cross_check(&round, &history).await;
    drop(server);
    judge(&round, &history, seed)
}

fn judge(round: &Round, history: &History, seed: u64) -> Tally {
    let mut tally = round.tally.take();
    tally.revisions = history.last_revision().cast_unsigned();
    for mut life in round.lives.take() {
        let mut judged = check(history, &life);
        if let Err(violation) = &judged
            && (violation.rule == Rule::Bookmarkable || violation.rule == Rule::Kept)
            && server_is_etcd()
        {
            // The installed etcd answers a progress request without regard to its watchers. Without
            // these answers the rest must hold.
            tally.bookmarks_ahead += 1;
            life.told.retain(|told| !matches!(told, Told::Progress(_)));
            judged = check(history, &life);
        }
        match judged {
            Ok(events) => tally.events += events,
            Err(violation) if server_is_etcd() && is_seen_of_etcd(&violation, &life) => {
                println!(
                    "etcd, seed {seed}: {:?}: {:.100}, at message {} of {}",
                    violation.rule,
                    violation.what,
                    violation.at,
                    life.told.len()
                );
                tally.seen_of_etcd += 1;
            }
            Err(violation) => {
                let from = violation.at.saturating_sub(8);
                let around = life.told.iter().skip(from).take(12).map(shown).collect::<Vec<_>>();
                panic!(
                    "seed {seed}: {violation}\nwatcher: {:?} from revision {}, complete to {:?}\n\
                     message {} of {}; from {from} on: {}",
                    life.interest,
                    life.start_revision,
                    life.complete_to,
                    violation.at,
                    life.told.len(),
                    around.join("\n      ")
                );
            }
        }
        tally.watchers += 1;
    }
    tally
}

/// Two things the installed etcd was seen to do, told apart by what they leave behind. What is still on
/// its way when a client cancels lacks the previous values that were asked for. And a watcher that is
/// behind can be told what follows a compaction, without the changes that the compaction removed and
/// without being cancelled.
fn is_seen_of_etcd(violation: &Violation, life: &Life) -> bool {
    let Some(Told::Events { events, compacted, .. }) = life.told.get(violation.at) else { return false };
    match violation.rule {
        Rule::PreviousValue => {
            // The last thing it said or was told before this, events aside.
            let mut before = life.told[..violation.at].iter().rev();
            let last = before.find(|told| matches!(told, Told::Cancelling | Told::Resumed(_)));
            matches!(last, Some(Told::Cancelling)) && events.iter().all(|event| event.prev_kv.is_none())
        }
        Rule::Reliable | Rule::Resumable => violation.missing.is_some_and(|missing| missing <= *compacted),
        _ => false,
    }
}

fn shown(told: &Told) -> String {
    match told {
        Told::Events { events, fragment, compacted } => {
            let (first, last) = (events.first().map_or(0, revision_of), events.last().map_or(0, revision_of));
            format!(
                "{} events, {} with their previous value, revisions {first} to {last}, fragment {fragment}, \
                 compacted {compacted}",
                events.len(),
                events.iter().filter(|event| event.prev_kv.is_some()).count()
            )
        }
        other => format!("{other:?}"),
    }
}

/// The history, from a watcher that began before the first write and never went away.
async fn watch_everything(round: Rc<Round>) -> History {
    let client = Client::connect(round.port).await.unwrap();
    let (mut requests, mut answers) = client.watch().await.unwrap();
    let all = pb::WatchCreateRequest {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        start_revision: 1,
        ..Default::default()
    };
    requests.create(all).unwrap();
    let mut history = History::default();
    let mut last = round.last.subscribe();
    loop {
        if last.borrow_and_update().is_some_and(|(_, last)| last <= history.last_revision()) {
            return history;
        }
        let response = tokio::select! {
            response = answers.next_unbounded() => response.unwrap().expect("the stream goes on"),
            known = last.changed() => {
                known.unwrap();
                continue;
            }
        };
        assert!(!response.canceled, "{response:?}");
        for event in response.events {
            history.add(event).unwrap_or_else(|error| panic!("the history is none: {error}"));
        }
        round.seen.send_replace(history.last_revision());
    }
}

async fn write(round: Rc<Round>, number: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ (number + 1) << 48);
    let client = Client::connect(round.port).await.unwrap();
    for count in 0..WRITES_PER_WRITER {
        match rng.random_range(0..100) {
            0..60 => {
                let put = random_put(&mut rng, 0);
                let (key, value) = (put.key.clone(), put.value.clone());
                let revision = client.put(&put).await.unwrap().header.unwrap().revision;
                round.acks.borrow_mut().push(Ack { revision, what: Written::Put { key, value } });
            }
            60..78 => {
                let first = rng.random_range(0..KEYS);
                let range_end =
                    if rng.random_ratio(1, 8) { key(first + rng.random_range(1..6)) } else { Bytes::new() };
                let request = pb::DeleteRangeRequest { key: key(first), range_end, prev_kv: false };
                let answer = client.delete(&request).await.unwrap();
                if answer.deleted > 0 {
                    let revision = answer.header.unwrap().revision;
                    let what = Written::Deleted { count: answer.deleted };
                    round.acks.borrow_mut().push(Ack { revision, what });
                }
            }
            78..95 => drop(client.txn(&random_txn(&mut rng)).await.unwrap()),
            _ => {
                let grant = pb::LeaseGrantRequest { ttl: 600, id: 0 };
                let lease = client.lease_grant(&grant).await.unwrap().id;
                for _ in 0..rng.random_range(0..4) {
                    client.put(&random_put(&mut rng, lease)).await.unwrap();
                }
                client.lease_revoke(lease).await.unwrap();
            }
        }
        if number == 0 && count % WRITES_PER_COMPACTION == WRITES_PER_COMPACTION - 1 {
            let seen = *round.seen.borrow();
            let mut revision = (seen - rng.random_range(0..150)).max(round.compacted.get() + 1);
            if server_is_etcd() {
                revision = round.put_at_or_before(revision);
            }
            if round.compacted.get() < revision && revision <= seen {
                round.compacting.set(revision);
                let request = pb::CompactionRequest { revision, physical: rng.random_ratio(1, 2) };
                client.compact(&request).await.unwrap();
                round.compacted.set(revision);
                round.tally.borrow_mut().compactions += 1;
            }
        }
    }
}

fn random_put(rng: &mut StdRng, lease: i64) -> pb::PutRequest {
    let bytes = if rng.random_ratio(1, 20) { 8_000 } else { rng.random_range(0..100) };
    pb::PutRequest {
        key: key(rng.random_range(0..KEYS)),
        value: vec![rng.random(); bytes].into(),
        lease,
        ..Default::default()
    }
}

/// Puts and deletions of several keys in one revision.
fn random_txn(rng: &mut StdRng) -> pb::TxnRequest {
    use pb::request_op::Request as Op;
    let mut number = rng.random_range(0..KEYS / 2);
    let mut success = Vec::new();
    for _ in 0..rng.random_range(2..8) {
        let op = if rng.random_ratio(1, 4) {
            Op::RequestDeleteRange(pb::DeleteRangeRequest { key: key(number), ..Default::default() })
        } else {
            Op::RequestPut(pb::PutRequest { key: key(number), ..random_put(rng, 0) })
        };
        success.push(pb::RequestOp { request: Some(op) });
        // Each key once.
        number += rng.random_range(1..4);
    }
    pb::TxnRequest { success, ..Default::default() }
}

/// Every key is put and then deleted, so that every watcher knows when it has seen everything.
async fn write_last(round: &Round) {
    use pb::request_op::Request as Op;
    let client = Client::connect(round.port).await.unwrap();
    let op = |number| {
        let put = pb::PutRequest { key: key(number), value: "last".into(), ..Default::default() };
        pb::RequestOp { request: Some(Op::RequestPut(put)) }
    };
    let txn = pb::TxnRequest { success: (0..KEYS).map(op).collect(), ..Default::default() };
    let put = client.txn(&txn).await.unwrap().header.unwrap().revision;
    let all = pb::DeleteRangeRequest { key: "k/".into(), range_end: "k0".into(), prev_kv: false };
    let deleted = client.delete(&all).await.unwrap().header.unwrap().revision;
    round.last.send_replace(Some((put, deleted)));
}

/// The history is not only what watchers say: acknowledged writes are in it, and reads agree with it.
async fn cross_check(round: &Round, history: &History) {
    for ack in &*round.acks.borrow() {
        let mut at = history.events.iter().skip_while(|event| revision_of(event) < ack.revision);
        let found = match &ack.what {
            Written::Put { key, value } => at.next().is_some_and(|event| {
                let kv = event.kv.as_ref().unwrap();
                !is_delete(event) && (kv.mod_revision, &kv.key, &kv.value) == (ack.revision, key, value)
            }),
            Written::Deleted { count } => {
                let events = at.take_while(|event| revision_of(event) == ack.revision);
                events.filter(|event| is_delete(event)).count() as i64 == *count
            }
        };
        assert!(found, "the acknowledged write of revision {} is not in the history", ack.revision);
    }
    let client = Client::connect(round.port).await.unwrap();
    let (from, to) = (round.compacted.get().max(1), history.last_revision());
    for sample in 0..=5 {
        let revision = from + (to - from) * sample / 5;
        let request = pb::RangeRequest {
            key: b"\0"[..].into(),
            range_end: b"\0"[..].into(),
            revision,
            ..Default::default()
        };
        let read = client.range(&request).await.unwrap().kvs;
        let mut state: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        for event in history.events.iter().take_while(|event| revision_of(event) <= revision) {
            let kv = event.kv.clone().unwrap();
            if is_delete(event) {
                state.remove(&kv.key);
            } else {
                state.insert(kv.key.clone(), kv);
            }
        }
        assert!(read.iter().eq(state.values()), "a read at revision {revision} disagrees with the history");
        if revision == to {
            assert!(read.iter().eq(history.current().values()), "so does the present");
        }
    }
}

/// A client with one stream of a few watchers.
struct Watching {
    round: Rc<Round>,
    rng: StdRng,
    last: watch::Receiver<Option<(i64, i64)>>,
    watchers: Vec<Watcher>,
    next_id: i64,
    /// Ids that a compaction ended and whose cancel the server may still answer.
    ended: BTreeSet<i64>,
}

struct Watcher {
    life: Life,
    id: i64,
    /// The next revision to ask for, once it is known.
    next: Option<i64>,
    is_created: bool,
    progress_notify: bool,
    fragment: bool,
    /// The client asked for its end.
    is_cancelled: bool,
}

impl Watching {
    fn new(round: Rc<Round>, rng: StdRng) -> Self {
        let last = round.last.subscribe();
        Self { round, rng, last, watchers: Vec::new(), next_id: 1, ended: BTreeSet::new() }
    }

    async fn run(mut self) {
        for _ in 0..self.rng.random_range(1..5) {
            let watcher = self.new_watcher();
            self.watchers.push(watcher);
        }
        let is_slow = self.rng.random_ratio(1, 3);
        let window = if is_slow { 4_096 << self.rng.random_range(0..3) } else { 1 << 20 };
        self.round.tally.borrow_mut().slow_streams += u64::from(is_slow);
        let mut client = Client::connect_with_window(self.round.port, window).await.unwrap();
        loop {
            if self.stream(&client, is_slow).await {
                break;
            }
            for watcher in &mut self.watchers {
                // Its first response may be lost with the stream: then it began where it says itself.
                if let Some(next) = watcher.next {
                    watcher.life.told.push(Told::Resumed(next));
                }
            }
            self.round.tally.borrow_mut().resumes += 1;
            if self.rng.random_ratio(1, 3) {
                client = Client::connect_with_window(self.round.port, window).await.unwrap();
            }
        }
        for watcher in self.watchers {
            self.round.lives.borrow_mut().push(watcher.life);
        }
    }

    fn new_watcher(&mut self) -> Watcher {
        let rng = &mut self.rng;
        let first = rng.random_range(0..KEYS);
        let range_end = match rng.random_range(0..6) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            2 | 3 => key(rng.random_range(first..KEYS) + 1),
            _ => "k0".into(),
        };
        let key = if range_end == "k0" { "k/".into() } else { key(first) };
        let (no_put, no_delete) =
            [(true, false), (false, true), (false, false)][rng.random_range(0..9).min(2)];
        let interest = Interest { key, range_end, no_put, no_delete, prev_kv: rng.random_ratio(1, 2) };
        let seen = *self.round.seen.borrow();
        let compacted = self.round.compacted.get().max(1);
        let next = match rng.random_range(0..3) {
            0 => None,
            1 => Some(rng.random_range(compacted..=seen.max(compacted))),
            _ => Some((seen - rng.random_range(0..30)).max(compacted)),
        };
        Watcher {
            life: Life { interest, start_revision: next.unwrap_or(0), told: Vec::new(), complete_to: None },
            id: 0,
            next,
            is_created: false,
            progress_notify: rng.random_ratio(1, 3),
            fragment: rng.random_ratio(1, 3),
            is_cancelled: false,
        }
    }

    fn create(&mut self, place: usize, requests: &mut Requests<pb::WatchRequest>) {
        let watcher = &mut self.watchers[place];
        watcher.id = self.next_id;
        watcher.is_created = false;
        watcher.is_cancelled = false;
        self.next_id += 1;
        let interest = &watcher.life.interest;
        let mut filters = Vec::new();
        if interest.no_put {
            filters.push(0);
        }
        if interest.no_delete {
            filters.push(1);
        }
        let request = pb::WatchCreateRequest {
            key: interest.key.clone(),
            range_end: interest.range_end.clone(),
            start_revision: watcher.next.unwrap_or(0),
            progress_notify: watcher.progress_notify,
            filters,
            prev_kv: interest.prev_kv,
            watch_id: watcher.id,
            fragment: watcher.fragment,
        };
        requests.create(request).unwrap();
    }

    /// One stream, until the client leaves it. Whether every watcher has seen everything.
    async fn stream(&mut self, client: &Client, is_slow: bool) -> bool {
        let (mut requests, mut answers) = client.watch().await.unwrap();
        for place in 0..self.watchers.len() {
            self.create(place, &mut requests);
        }
        let mut responses_left = self.rng.random_range(5..400);
        loop {
            if self.is_complete() {
                return true;
            }
            if responses_left == 0 && self.last.borrow().is_none() {
                if self.rng.random_ratio(1, 2) {
                    requests.reset();
                }
                return false;
            }
            responses_left = u32::saturating_sub(responses_left, 1);
            let Some(response) = self.next_response(&mut answers).await else { continue };
            self.take(&response, &mut requests);
            self.act(&mut requests, is_slow).await;
        }
    }

    /// `None`: nothing came, but the end of all writing is known now.
    async fn next_response(&mut self, answers: &mut Answers<pb::WatchResponse>) -> Option<pb::WatchResponse> {
        tokio::select! {
            response = answers.next_unbounded() => Some(response.unwrap().expect("the stream goes on")),
            _ = self.last.changed() => None,
        }
    }

    /// What a client does between two responses, now and then.
    async fn act(&mut self, requests: &mut Requests<pb::WatchRequest>, is_slow: bool) {
        match self.rng.random_range(0..100) {
            0..3 => requests.progress().unwrap(),
            3 => {
                let place = self.rng.random_range(0..self.watchers.len());
                let watcher = &mut self.watchers[place];
                if watcher.is_created && !watcher.is_cancelled && self.last.borrow().is_none() {
                    requests.cancel(watcher.id).unwrap();
                    watcher.is_cancelled = true;
                    watcher.life.told.push(Told::Cancelling);
                }
            }
            4..10 if is_slow => {
                // Reads nothing until the others have gone on for a while.
                let mut seen = self.round.seen.subscribe();
                let until = *seen.borrow() + self.rng.random_range(1..200);
                let last = &mut self.last;
                tokio::select! {
                    gone_on = seen.wait_for(|seen| *seen >= until) => drop(gone_on.unwrap()),
                    known = last.wait_for(Option::is_some) => drop(known.unwrap()),
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, response: &pb::WatchResponse, requests: &mut Requests<pb::WatchRequest>) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let compacted = self.round.compacting.get();
        if response.watch_id == -1 && !response.created {
            assert!(response.events.is_empty() && !response.canceled, "{response:?}");
            self.round.tally.borrow_mut().bookmarks += 1;
            for watcher in self.watchers.iter_mut().filter(|watcher| watcher.is_created) {
                watcher.bookmark(revision);
            }
            return;
        }
        let Some(place) = self.watchers.iter().position(|watcher| watcher.id == response.watch_id) else {
            let is_answer = response.canceled && self.ended.contains(&response.watch_id);
            assert!(is_answer, "a response for a watcher that is gone: {response:?}");
            return;
        };
        let watcher = &mut self.watchers[place];
        if response.created {
            assert!(!response.canceled && !watcher.is_created, "{response:?}");
            watcher.is_created = true;
            if watcher.next.is_none() {
                watcher.next = Some(revision + 1);
                watcher.life.start_revision = revision + 1;
            }
        } else if response.canceled {
            let by_compaction = response.compact_revision != 0;
            assert!(by_compaction || watcher.is_cancelled, "{response:?}");
            if by_compaction {
                watcher.life.told.push(Told::Compacted(response.compact_revision));
                self.round.tally.borrow_mut().compacted_watchers += 1;
                assert!(response.compact_revision <= compacted, "{response:?}");
            }
            let was_cancelled = watcher.is_cancelled;
            let mut next = self.new_watcher();
            if by_compaction {
                next.next = Some(response.compact_revision);
                next.life.start_revision = response.compact_revision;
            }
            let ended = std::mem::replace(&mut self.watchers[place], next);
            let ended_id = ended.id;
            self.round.lives.borrow_mut().push(ended.life);
            if by_compaction {
                // The id stays taken, and progress unanswered, until the client says so.
                if !was_cancelled {
                    requests.cancel(ended_id).unwrap();
                }
                self.ended.insert(ended_id);
            }
            self.create(place, requests);
        } else if response.events.is_empty() {
            self.round.tally.borrow_mut().bookmarks += 1;
            watcher.bookmark(revision);
        } else {
            assert!(watcher.is_created, "events before the created response: {response:?}");
            let last = response.events.last().map_or(0, revision_of);
            if !response.fragment {
                watcher.next = Some(last + 1);
            }
            let events: Vec<Event> = response.events.clone();
            watcher.life.told.push(Told::Events { events, fragment: response.fragment, compacted });
        }
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
        self.life.told.push(Told::Progress(revision));
        if server_is_etcd() {
            return;
        }
        // Whoever trusts a bookmark begins again after it.
        self.next = self.next.map(|next| next.max(revision + 1));
    }
}
