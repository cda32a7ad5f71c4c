//! A feed in front of a member that is a few lines long, and hubs behind it.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::pb::mvccpb;
use crate::types::Slice;
use crate::watch::{Hub, HubLimits, Response, Sink, StreamId};

/// A watch at the member.
#[derive(Debug, Clone)]
struct MemberWatch {
    range: WatchRange,
    next: i64,
    /// 0: from now on.
    start: i64,
    previous: bool,
}

/// A member: its history, and the streams that it has.
#[derive(Debug, Default)]
struct Member {
    cluster: u64,
    revision: i64,
    compacted: i64,
    /// By revision: several keys may change in one.
    history: Vec<(i64, Bytes, bool)>,
    streams: BTreeMap<u64, BTreeMap<i64, MemberWatch>>,
    /// What it has said and nobody has taken yet.
    said: VecDeque<(u64, Bytes)>,
    creations: usize,
}

impl Member {
    fn new() -> Self {
        Self { cluster: 7, revision: 1, ..Self::default() }
    }

    fn change(&mut self, keys: &[&str], is_delete: bool) {
        self.revision += 1;
        for key in keys {
            self.history.push((self.revision, Bytes::copy_from_slice(key.as_bytes()), is_delete));
        }
    }

    fn say(&mut self, stream: u64, response: pb::WatchResponse) {
        let header = pb::ResponseHeader {
            cluster_id: self.cluster,
            member_id: 3,
            revision: response.header.map_or(self.revision, |header| header.revision),
            raft_term: 5,
        };
        let response = pb::WatchResponse { header: Some(header), ..response };
        self.said.push_back((stream, response.encode_to_vec().into()));
    }

    fn hear(&mut self, stream: u64, request: pb::WatchRequest) {
        match request.request_union.unwrap() {
            RequestUnion::CreateRequest(create) => {
                self.creations += 1;
                assert!(create.fragment && create.watch_id != 0);
                let next = if create.start_revision == 0 { self.revision + 1 } else { create.start_revision };
                let id = create.watch_id;
                let range = WatchRange::new(create.key, create.range_end);
                let watch =
                    MemberWatch { range, next, start: create.start_revision, previous: create.prev_kv };
                let before = self.streams.get_mut(&stream).unwrap().insert(id, watch);
                assert!(before.is_none());
                self.say(stream, pb::WatchResponse { watch_id: id, created: true, ..Default::default() });
            }
            RequestUnion::CancelRequest(cancel) => {
                self.streams.get_mut(&stream).unwrap().remove(&cancel.watch_id);
                let canceled =
                    pb::WatchResponse { watch_id: cancel.watch_id, canceled: true, ..Default::default() };
                self.say(stream, canceled);
            }
            RequestUnion::ProgressRequest(_) => {
                // As members do: one that begins in the future is not there yet.
                let is_synced =
                    |watch: &MemberWatch| self.revision < watch.next && watch.start <= self.revision;
                let is_synced = self.streams[&stream].values().all(is_synced);
                if is_synced {
                    self.say(stream, pb::WatchResponse { watch_id: -1, ..Default::default() });
                }
            }
        }
    }

    /// Tells one watch what it has not been told, `count` changes at most; a revision may be cut in two.
    fn tell(&mut self, stream: u64, id: i64, count: usize) {
        let Some(watch) = self.streams.get(&stream).and_then(|watches| watches.get(&id)).cloned() else {
            return;
        };
        if watch.next < self.compacted {
            self.streams.get_mut(&stream).unwrap().remove(&id);
            let canceled = pb::WatchResponse {
                watch_id: id,
                canceled: true,
                compact_revision: self.compacted,
                ..Default::default()
            };
            return self.say(stream, canceled);
        }
        let concerns =
            |change: &&(i64, Bytes, bool)| watch.next <= change.0 && watch.range.keys().contains(&change.1);
        let changes: Vec<_> = self.history.iter().filter(concerns).cloned().collect();
        let mut end = count.min(changes.len());
        let next = match changes.get(end) {
            None => self.revision + 1,
            // The rest of a revision comes in fragments, one behind the other.
            Some(&(revision, ..)) => {
                end = changes.partition_point(|(of, ..)| *of < revision);
                if end == 0 {
                    end = changes.partition_point(|(of, ..)| *of <= revision);
                    revision + 1
                } else {
                    revision
                }
            }
        };
        let event = |(revision, key, is_delete): &(i64, Bytes, bool)| mvccpb::Event {
            r#type: i32::from(*is_delete),
            kv: Some(mvccpb::KeyValue { key: key.clone(), mod_revision: *revision, ..Default::default() }),
            prev_kv: watch.previous.then(|| mvccpb::KeyValue { key: key.clone(), ..Default::default() }),
        };
        let events: Vec<_> = changes[..end].iter().map(event).collect();
        for (number, part) in events.chunks(2).enumerate() {
            let fragment = (number + 1) * 2 < events.len();
            let told =
                pb::WatchResponse { watch_id: id, fragment, events: part.to_vec(), ..Default::default() };
            self.say(stream, told);
        }
        self.streams.get_mut(&stream).unwrap().get_mut(&id).unwrap().next = next;
    }

    fn tell_all(&mut self) {
        let all: Vec<(u64, i64)> = self
            .streams
            .iter()
            .flat_map(|(stream, watches)| watches.keys().map(|id| (*stream, *id)))
            .collect();
        all.into_iter().for_each(|(stream, id)| self.tell(stream, id, usize::MAX));
    }
}

/// A feed and its member.
struct Scene {
    feed: RemoteFeed,
    member: Member,
    now_ms: u64,
    told: Vec<(u16, Notice)>,
    renewed: Vec<String>,
}

impl Scene {
    fn new(shards: usize) -> Self {
        let (feed, member) = (RemoteFeed::new(shards), Member::new());
        Self { feed, member, now_ms: 0, told: Vec::new(), renewed: Vec::new() }
    }

    fn carry_out(&mut self) {
        while let Some(act) = self.feed.take_act() {
            match act {
                Act::Open { stream } => {
                    self.member.streams.insert(stream, BTreeMap::new());
                    self.feed.on_opened(stream);
                }
                Act::Send { stream, request } if self.member.streams.contains_key(&stream) => {
                    self.member.hear(stream, request);
                }
                Act::Send { .. } => {}
                Act::Close { stream } => drop(self.member.streams.remove(&stream)),
                Act::AskPresent => self.feed.on_present(self.member.revision),
                Act::Tell { shard, notice } => self.told.push((shard, notice)),
                Act::Renew { reason } => self.renewed.push(reason),
            }
        }
    }

    fn hear_one(&mut self) -> bool {
        let Some((stream, bytes)) = self.member.said.pop_front() else { return false };
        if self.member.streams.contains_key(&stream) {
            self.feed.on_received(stream, Received::read(&bytes).unwrap());
            self.carry_out();
        }
        true
    }

    fn hear(&mut self) {
        while self.hear_one() {}
    }

    fn order(&mut self, shard: u16, order: Order, floor: i64) {
        self.feed.on_order(shard, order, floor);
        self.carry_out();
    }

    fn subscribe(&mut self, shard: u16, token: u64, range: &WatchRange, previous: bool) {
        self.order(shard, Order::Subscribe { token: Token(token), range: range.clone(), previous }, 0);
    }

    fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.feed.on_tick(self.now_ms);
        self.carry_out();
    }

    /// The trunk breaks.
    fn break_streams(&mut self) {
        let streams: Vec<u64> = self.member.streams.keys().copied().collect();
        self.member.streams.clear();
        streams.into_iter().for_each(|stream| self.feed.on_ended(stream));
        self.carry_out();
    }

    fn take_told(&mut self) -> Vec<(u16, Notice)> {
        std::mem::take(&mut self.told)
    }
}

fn range(from: &'static str, end: &'static str) -> WatchRange {
    WatchRange::new(from.into(), end.into())
}

fn parts(told: &[(u16, Notice)]) -> Vec<(u16, Vec<i64>)> {
    let revisions = |(shard, notice): &(u16, Notice)| match notice {
        Notice::Part { batch, .. } => {
            Some((*shard, batch.events.iter().map(|event| event.revision).collect()))
        }
        _ => None,
    };
    told.iter().filter_map(revisions).collect()
}

#[test]
fn ten_thousand_subscriptions_of_a_range_are_one_watch_at_the_member_and_each_is_answered() {
    let mut scene = Scene::new(2);
    let keys = range("a", "b");
    for number in 0..10_000 {
        scene.subscribe(number % 2, number.into(), &keys, false);
    }
    scene.hear();
    assert_eq!(scene.member.creations, 1);
    let told = scene.take_told();
    assert_eq!(told.len(), 10_000);
    for (number, (_, notice)) in (0..).step_by(2).chain((1..).step_by(2)).zip(&told).take(5_000) {
        assert_eq!(*notice, Notice::Subscribed { token: Token(number), current: 1, compacted: 0 });
    }
    scene.member.change(&["a1"], false);
    scene.member.tell_all();
    scene.hear();
    assert_eq!(parts(&scene.take_told()), [(0, vec![2]), (1, vec![2])]);
    for number in 0..10_000 {
        let order = Order::Unsubscribe { token: Token(number), range: keys.clone(), previous: false };
        scene.order(u16::try_from(number % 2).unwrap(), order, 0);
    }
    scene.hear();
    assert!(scene.member.streams.values().all(BTreeMap::is_empty), "nobody wants it any more");
}

#[test]
fn a_change_is_told_when_the_member_has_said_that_all_before_it_was() {
    let mut scene = Scene::new(1);
    let (first, second) = (range("a", "b"), range("b", "c"));
    scene.subscribe(0, 1, &first, false);
    scene.subscribe(0, 2, &second, false);
    scene.hear();
    scene.take_told();
    scene.member.change(&["a1"], false);
    scene.member.change(&["b1"], false);
    // The second range's comes first, and the member is asked.
    scene.member.tell(1, 2, 9);
    scene.hear_one();
    assert_eq!(scene.take_told(), [], "something older may be on its way");
    scene.member.tell(1, 1, 9);
    scene.hear();
    // It was not ready to answer then, and is asked again.
    scene.tick(ASK_PAUSE_MS);
    scene.hear();
    let told = scene.take_told();
    assert_eq!(parts(&told), [(0, vec![2]), (0, vec![3])]);
    assert_eq!(told.last(), Some(&(0, Notice::Batch(Batch { after: 1, through: 3, events: Vec::new() }))));
}

#[test]
fn nobody_is_told_of_a_creation_older_than_what_was_committed_when_it_was_asked_for() {
    let mut scene = Scene::new(1);
    let order = Order::Subscribe { token: Token(1), range: range("a", ""), previous: false };
    scene.order(0, order, 3);
    scene.hear();
    scene.order(0, Order::Ask { token: Token(2) }, 0);
    scene.hear();
    assert_eq!(scene.take_told(), [], "the member stands at 1");
    scene.member.change(&["x"], false);
    scene.member.change(&["x"], false);
    scene.member.tell_all();
    scene.tick(BEHIND_PAUSE_MS);
    scene.hear();
    let subscribed = Notice::Subscribed { token: Token(1), current: 3, compacted: 0 };
    let standing = Notice::Standing { token: Token(2), current: 3 };
    assert_eq!(scene.take_told(), [(0, subscribed), (0, standing)]);
    // A revision that never comes is waited for no longer than so long.
    scene.order(0, Order::Ask { token: Token(3) }, 1 << 40);
    scene.hear();
    assert_eq!(scene.take_told(), []);
    scene.tick(FLOOR_PATIENCE_MS);
    scene.hear();
    assert_eq!(scene.take_told(), [(0, Notice::Standing { token: Token(3), current: 3 })]);
}

#[test]
fn a_broken_trunk_goes_on_behind_the_last_barrier_and_tells_nothing_twice() {
    let mut scene = Scene::new(1);
    let keys = range("a", "b");
    scene.subscribe(0, 1, &keys, false);
    scene.hear();
    scene.take_told();
    scene.member.change(&["a1"], false);
    scene.member.tell_all();
    scene.hear();
    assert_eq!(parts(&scene.take_told()), [(0, vec![2])]);
    scene.member.change(&["a2"], false);
    scene.member.tell_all();
    // It is held, and the barrier never comes.
    scene.hear_one();
    scene.break_streams();
    scene.member.change(&["a3"], false);
    scene.tick(OPEN_PAUSE_MS);
    scene.member.tell_all();
    scene.hear();
    scene.tick(ASK_PAUSE_MS);
    scene.hear();
    assert_eq!(parts(&scene.take_told()), [(0, vec![3, 4])]);
    assert_eq!(scene.renewed, [""; 0]);
}

#[test]
fn whoever_wants_the_previous_version_later_gets_it_and_nobody_loses_a_change() {
    let mut scene = Scene::new(1);
    let keys = range("a", "b");
    scene.subscribe(0, 1, &keys, false);
    scene.hear();
    scene.member.change(&["a1"], false);
    scene.member.tell_all();
    scene.hear_one();
    scene.subscribe(0, 2, &keys, true);
    scene.member.tell_all();
    scene.hear();
    scene.tick(ASK_PAUSE_MS);
    scene.hear();
    let told = scene.take_told();
    assert_eq!(parts(&told), [(0, vec![2])]);
    let with_previous = told.iter().any(
        |(_, notice)| matches!(notice, Notice::Part { batch, .. } if !batch.events[0].previous.is_empty()),
    );
    assert!(with_previous);
    assert_eq!(scene.member.streams.values().map(BTreeMap::len).sum::<usize>(), 1, "one watch, still");
}

#[test]
fn a_trunk_that_breaks_while_nothing_happens_answers_orders_all_the_same() {
    let mut scene = Scene::new(1);
    let keys = range("a", "b");
    scene.subscribe(0, 1, &keys, false);
    scene.hear();
    scene.member.change(&["a1"], false);
    scene.member.tell_all();
    scene.hear();
    scene.take_told();
    scene.break_streams();
    scene.order(0, Order::Ask { token: Token(2) }, 0);
    scene.subscribe(0, 3, &keys, true);
    for _ in 0..10 {
        scene.tick(OPEN_PAUSE_MS);
        scene.member.tell_all();
        scene.hear();
    }
    let subscribed = Notice::Subscribed { token: Token(3), current: 2, compacted: 0 };
    assert_eq!(scene.take_told(), [(0, Notice::Standing { token: Token(2), current: 2 }), (0, subscribed)]);
}

#[test]
fn too_much_to_hold_is_thrown_away_and_read_as_history() {
    let mut scene = Scene::new(1);
    let keys = range("a", "b");
    scene.subscribe(0, 1, &keys, false);
    scene.hear();
    scene.take_told();
    let stream = *scene.member.streams.keys().next().unwrap();
    let header = pb::ResponseHeader { cluster_id: 7, ..Default::default() };
    for revision in 2..=40 {
        let body = Bytes::from(vec![0; 1 << 20]);
        let event = Event { revision, key: "a".into(), is_delete: false, body, previous: Bytes::new() };
        let received = Received { header, watch_id: 1, events: vec![event], ..Received::default() };
        scene.feed.on_received(stream, received);
        assert!(scene.feed.held_bytes <= HELD_BYTES_MAX);
    }
    scene.carry_out();
    scene.member.said.clear();
    scene.member.revision = 40;
    scene.member.say(stream, pb::WatchResponse { watch_id: -1, ..Default::default() });
    scene.hear();
    assert_eq!(scene.take_told(), [(0, Notice::Jumped { from: 1, current: 40 })]);
}

#[test]
fn what_cannot_be_gone_on_with_ends_all_with_a_word() {
    let subscribed = || {
        let mut scene = Scene::new(1);
        scene.member.revision = 10;
        scene.subscribe(0, 1, &range("a", "b"), false);
        scene.hear();
        assert!(scene.renewed.is_empty() && scene.feed.current == 10);
        scene
    };
    let again = |scene: &mut Scene| {
        scene.break_streams();
        scene.tick(OPEN_PAUSE_MS);
        scene.member.tell_all();
        scene.hear();
    };
    let mut older = subscribed();
    older.member.revision = 9;
    again(&mut older);
    assert_eq!(older.renewed, [OLDER]);
    let mut others = subscribed();
    others.member.cluster = 8;
    again(&mut others);
    assert_eq!(others.renewed, [OTHERS]);
    let mut compacted = subscribed();
    (compacted.member.revision, compacted.member.compacted) = (20, 15);
    again(&mut compacted);
    assert_eq!(compacted.renewed, [COMPACTED]);
    let mut denied = subscribed();
    let denial = pb::WatchResponse {
        watch_id: 1,
        canceled: true,
        cancel_reason: "etcdserver: permission denied".into(),
        ..Default::default()
    };
    denied.member.say(1, denial);
    denied.hear();
    assert_eq!(denied.renewed, ["etcdserver: permission denied"]);
    for (revision, key) in [(10, "a"), (11, "z"), (-1, "a")] {
        let mut liar = subscribed();
        let kv = mvccpb::KeyValue { key: key.into(), mod_revision: revision, ..Default::default() };
        let event = mvccpb::Event { kv: Some(kv), ..Default::default() };
        liar.member.say(1, pb::WatchResponse { watch_id: 1, events: vec![event], ..Default::default() });
        liar.hear();
        assert_eq!(liar.renewed, [IMPOSSIBLE], "{revision} {key}");
        // It begins anew.
        liar.tick(OPEN_PAUSE_MS);
        liar.subscribe(0, 2, &range("a", "b"), false);
        liar.hear();
        let subscribed = Notice::Subscribed { token: Token(2), current: 10, compacted: 0 };
        assert_eq!(liar.told.last(), Some(&(0, subscribed)));
    }
}

#[test]
fn a_member_that_answers_no_more_is_left_for_another() {
    let mut scene = Scene::new(1);
    scene.subscribe(0, 1, &range("a", "b"), false);
    scene.member.said.clear();
    let first: Vec<u64> = scene.member.streams.keys().copied().collect();
    for _ in 0..3 {
        scene.tick(STUCK_MS / 2);
    }
    let second: Vec<u64> = scene.member.streams.keys().copied().collect();
    assert!(!second.is_empty() && first != second, "{first:?} {second:?}");
    scene.hear();
    assert_eq!(scene.take_told().len(), 1);
}

// Hubs behind the feed.

#[derive(Default)]
struct Told {
    created: BTreeMap<(StreamId, i64), i64>,
    events: BTreeMap<(StreamId, i64), Vec<(i64, Bytes)>>,
    canceled: BTreeMap<(StreamId, i64), i64>,
    /// The newest revision that a progress answer spoke of.
    progress: BTreeMap<StreamId, i64>,
    is_full: bool,
}

impl Sink for Told {
    fn has_room(&self, _stream: StreamId) -> bool {
        !self.is_full
    }

    fn push(&mut self, stream: StreamId, response: &Response<'_>) {
        let id = (stream, response.watch_id);
        if response.created {
            self.created.insert(id, response.revision);
        } else if response.canceled {
            self.canceled.insert(id, response.compact_revision);
        } else if response.watch_id == -1 {
            self.progress.insert(stream, response.revision);
        }
        let told = self.events.entry(id).or_default();
        for event in response.events.iter() {
            assert!(!response.previous || !event.previous.is_empty());
            told.push((event.revision, event.key.clone()));
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

const LIMITS: HubLimits =
    HubLimits { fragment_bytes: 1 << 20, watcher_bytes_max: usize::MAX, is_by_range: true };

/// A watcher as its client asked for it.
struct Asked {
    stream: StreamId,
    range: WatchRange,
    start: i64,
}

struct Run {
    scene: Scene,
    hubs: Vec<Hub>,
    told: Vec<Told>,
    streams: Vec<Vec<StreamId>>,
    asked: Vec<BTreeMap<(StreamId, i64), Asked>>,
}

impl Run {
    fn new() -> Self {
        let mut hubs = vec![Hub::new(LIMITS), Hub::new(LIMITS)];
        let streams = hubs.iter_mut().map(|hub| vec![hub.open(), hub.open()]).collect();
        Self {
            scene: Scene::new(2),
            hubs,
            told: vec![Told::default(), Told::default()],
            streams,
            asked: vec![BTreeMap::new(), BTreeMap::new()],
        }
    }

    fn settle(&mut self) {
        loop {
            for (shard, notice) in self.scene.take_told() {
                self.hubs[usize::from(shard)].on_notice(notice);
            }
            let mut is_done = true;
            for (shard, hub) in (0_u16..).zip(&mut self.hubs) {
                hub.work(&mut Slice::of(u64::MAX / 2), &mut self.told[usize::from(shard)]);
                while let Some(order) = hub.next_order() {
                    is_done = false;
                    self.scene.order(shard, order, 0);
                }
            }
            if is_done && self.scene.told.is_empty() {
                return;
            }
        }
    }

    /// Whatever is on its way arrives.
    fn arrive(&mut self) {
        for _ in 0..50 {
            self.settle();
            self.scene.member.tell_all();
            self.scene.hear();
            self.scene.tick(OPEN_PAUSE_MS);
        }
        self.settle();
    }

    fn step(&mut self, random: &mut Random) {
        let keys = ["a", "b", "c", "d"];
        match random.below(20) {
            0..6 => {
                let key = keys[random.below(4)];
                let keys = if random.below(4) == 0 { &["a", "b", "c"][..] } else { &[key][..] };
                self.scene.member.change(keys, random.below(5) == 0);
            }
            6..9 => {
                let shard = random.below(2);
                let stream = self.streams[shard][random.below(2)];
                let (from, end) = [("a", "c"), ("b", "d"), ("a", ""), ("c", "\0")][random.below(4)];
                let current = usize::try_from(self.scene.member.revision).unwrap();
                let start = if random.below(2) == 0 { 0 } else { 1 + random.below(current + 3) };
                let watch_id = i64::try_from(self.asked[shard].len()).unwrap() + 1;
                let create = pb::WatchCreateRequest {
                    key: from.into(),
                    range_end: end.into(),
                    start_revision: i64::try_from(start).unwrap(),
                    prev_kv: random.below(3) == 0,
                    watch_id,
                    ..Default::default()
                };
                let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
                self.hubs[shard].on_request(stream, request);
                let asked = Asked { stream, range: range(from, end), start: i64::try_from(start).unwrap() };
                self.asked[shard].insert((stream, watch_id), asked);
            }
            9 => {
                let shard = random.below(2);
                let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                let request = pb::WatchRequest { request_union: Some(progress) };
                self.hubs[shard].on_request(self.streams[shard][0], request);
            }
            10..16 => {
                let all: Vec<(u64, i64)> = self
                    .scene
                    .member
                    .streams
                    .iter()
                    .flat_map(|(stream, watches)| watches.keys().map(|id| (*stream, *id)))
                    .collect();
                if !all.is_empty() {
                    let (stream, id) = all[random.below(all.len())];
                    self.scene.member.tell(stream, id, 1 + random.below(4));
                }
                self.scene.hear_one();
            }
            16 => self.scene.tick(ASK_PAUSE_MS),
            17 => {
                let shard = random.below(2);
                self.told[shard].is_full ^= true;
                if !self.told[shard].is_full {
                    self.streams[shard].iter().for_each(|stream| self.hubs[shard].on_room(*stream));
                }
            }
            18 if random.below(4) == 0 => self.scene.break_streams(),
            _ => self.scene.hear(),
        }
        self.settle();
    }
}

#[test]
fn every_watcher_gets_every_change_of_its_range_once_in_order_whatever_breaks_and_overlaps() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut run = Run::new();
        for _ in 0..150 {
            run.step(&mut random);
        }
        for (shard, told) in run.told.iter_mut().enumerate() {
            told.is_full = false;
            run.streams[shard].iter().for_each(|stream| run.hubs[shard].on_room(*stream));
        }
        run.arrive();
        assert!(run.scene.renewed.is_empty(), "seed {seed}: {:?}", run.scene.renewed);
        for (told, asked) in run.told.iter().zip(&run.asked) {
            for (id, Asked { stream, range, start }) in asked {
                let created = *told.created.get(id).unwrap_or_else(|| panic!("seed {seed}: {id:?} waits"));
                let from = if *start == 0 { created + 1 } else { *start };
                let expected: Vec<_> = run
                    .scene
                    .member
                    .history
                    .iter()
                    .filter(|(revision, key, _)| from <= *revision && range.keys().contains(key))
                    .map(|(revision, key, _)| (*revision, key.clone()))
                    .collect();
                let got = told.events.get(id).cloned().unwrap_or_default();
                assert_eq!(got, expected, "seed {seed}: {id:?} of {stream:?}, {range:?} from {from}");
            }
        }
        let at_member = run.scene.member.streams.values().map(BTreeMap::len).sum::<usize>();
        assert!(at_member <= 4, "seed {seed}: {at_member} watches of 4 ranges");
    }
}

#[test]
fn a_watcher_that_begins_before_what_is_compacted_is_told_so_and_others_watch_on() {
    let mut run = Run::new();
    for _ in 0..10 {
        run.scene.member.change(&["a"], false);
    }
    run.scene.member.compacted = 6;
    let stream = run.streams[0][0];
    for (watch_id, start) in [(1, 3), (2, 7), (3, 0)] {
        let create =
            pb::WatchCreateRequest { key: "a".into(), watch_id, start_revision: start, ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        run.hubs[0].on_request(stream, request);
    }
    run.arrive();
    run.scene.member.change(&["a"], false);
    run.arrive();
    let told = &run.told[0];
    assert_eq!(told.canceled.get(&(stream, 1)), Some(&6));
    let revisions = |id| told.events[&(stream, id)].iter().map(|(revision, _)| *revision).collect::<Vec<_>>();
    assert_eq!((revisions(2), revisions(3)), ((7..=12).collect(), vec![12]));
    assert_eq!(told.created[&(stream, 3)], 11);
    assert!(run.scene.renewed.is_empty());
}
