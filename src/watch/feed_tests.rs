//! The feed by example, and beside a plain list of everything that ever happened.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::pb::mvccpb;
use crate::types::{KeyRange, Slice};
use crate::watch::history::{SLICE, Way};
use crate::watch::{CatchUp, Token};

const SMALL: Budget = Budget { records: 48, bytes: 2_000 };
const ALL: Budget = Budget { records: u64::MAX, bytes: usize::MAX };

fn range(key: &[u8], end: &[u8]) -> WatchRange {
    WatchRange::new(Bytes::copy_from_slice(key), Bytes::copy_from_slice(end))
}

fn one(key: &str) -> WatchRange {
    range(key.as_bytes(), b"")
}

fn everything() -> WatchRange {
    range(b"", b"\0")
}

fn put(store: &mut Store, key: &str, value: &[u8]) {
    let mut txn = store.begin();
    txn.put(key.as_bytes(), value, 0);
    txn.commit();
}

fn subscribe(feed: &mut Feed, store: &Store, shard: u16, range: WatchRange, previous: bool) {
    let notice = feed.on_order(shard, Order::Subscribe { token: Token(0), range, previous }, store);
    assert!(matches!(notice, Some(Notice::Subscribed { .. })));
}

fn unsubscribe(feed: &mut Feed, store: &Store, shard: u16, range: WatchRange, previous: bool) {
    let notice = feed.on_order(shard, Order::Unsubscribe { token: Token(0), range, previous }, store);
    assert!(matches!(notice, Some(Notice::Unsubscribed { .. })));
}

fn catch_up(token: u64, from: i64, ranges: &[(WatchRange, bool)]) -> CatchUp {
    CatchUp { token: Token(token), from, ranges: ranges.to_vec(), watchers: 1 }
}

fn collected(feed: &mut Feed, store: &Store) -> Vec<(u16, Batch)> {
    let mut batches = Vec::new();
    feed.collect(store, |shard, batch| batches.push((shard, batch)));
    batches
}

fn worked(feed: &mut Feed, store: &Store) -> Vec<(u16, Notice)> {
    let mut notices = Vec::new();
    feed.work(store, &mut Slice::new(), |shard, notice| notices.push((shard, notice)));
    notices
}

/// As a client decodes it.
fn decoded(event: &Event) -> mvccpb::Event {
    let bytes = [&*event.body, &*event.previous].concat();
    let message = mvccpb::Event::decode(&*bytes).unwrap();
    assert_eq!(message.encode_to_vec(), bytes, "the bytes are those of a generic encoder");
    let kv = message.kv.as_ref().unwrap();
    assert_eq!((&*event.key, event.revision), (&*kv.key, kv.mod_revision));
    assert_eq!(event.is_delete, message.r#type == 1);
    message
}

#[test]
fn a_put_carries_its_whole_version_and_a_delete_its_key_and_revision() {
    let mut store = Store::new();
    let mut feed = Feed::new(1, 1);
    subscribe(&mut feed, &store, 0, everything(), true);
    let mut txn = store.begin();
    txn.put(b"a", b"1", -7);
    txn.commit();
    put(&mut store, "a", b"2");
    let mut txn = store.begin();
    txn.delete_range(KeyRange::One(b"a"), |_| {});
    txn.commit();
    let batches = collected(&mut feed, &store);
    assert_eq!(batches.len(), 1);
    let (shard, batch) = &batches[0];
    assert_eq!((*shard, batch.after, batch.through), (0, 1, 4));
    let kv = |create_revision, mod_revision, version, value: &[u8], lease| mvccpb::KeyValue {
        key: b"a".to_vec().into(),
        create_revision,
        mod_revision,
        version,
        value: value.to_vec().into(),
        lease,
    };
    let (first, second) = (kv(2, 2, 1, b"1", -7), kv(2, 3, 2, b"2", 0));
    let expected = [
        mvccpb::Event { r#type: 0, kv: Some(first.clone()), prev_kv: None },
        mvccpb::Event { r#type: 0, kv: Some(second.clone()), prev_kv: Some(first) },
        mvccpb::Event { r#type: 1, kv: Some(kv(0, 4, 0, b"", 0)), prev_kv: Some(second) },
    ];
    assert_eq!(batch.events.iter().map(decoded).collect::<Vec<_>>(), expected);
}

#[test]
fn a_large_write_is_encoded_before_it_is_committed_and_handed_out_with_its_revision() {
    for seed in 0..50 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut stores = [Store::new(), Store::new()];
        let mut feeds = [Feed::new(2, 1), Feed::new(2, 1)];
        for (store, feed) in stores.iter_mut().zip(&mut feeds) {
            subscribe(feed, store, 0, range(b"k2", b"k7"), true);
            for number in 0..10 {
                put(store, &format!("k{number}"), b"before");
            }
        }
        let write = |store: &mut Store| {
            let mut txn = store.begin();
            txn.put(b"k1", b"1", 0);
            txn.delete_range(KeyRange::From(b"k3"), |_| {});
            txn.put(b"k5", b"2", 0);
            txn.suspend()
        };
        let [sliced, whole] = &mut stores;
        let [prepared, at_once] = &mut feeds;
        let is_collected = random.random_range(0..2) == 0;
        if is_collected {
            assert_eq!(collected(prepared, sliced), collected(at_once, whole));
        }
        let open = write(whole);
        whole.resume(open).commit();
        let expected = collected(at_once, whole);

        let open = write(sliced);
        let mut asked = 0;
        while !prepared.prepare(sliced, &mut crate::types::Slice::of(random.random_range(1..1_000))) {
            assert!(is_collected || collected(prepared, sliced).iter().all(|(_, batch)| batch.through == 11));
            if !prepared.is_preparing() {
                continue; // Nothing of it is encoded.
            }
            // What it is told, and what is subscribed now, has the write behind it.
            let order = if asked == 0 {
                Order::Subscribe { token: Token(9), range: one("k5"), previous: false }
            } else {
                Order::Ask { token: Token(asked) }
            };
            assert!(prepared.on_order(1, order, sliced).is_none());
            asked += 1;
            assert!(!prepared.has_work() && worked(prepared, sliced).is_empty());
        }
        sliced.resume(open).commit();
        let found = collected(prepared, sliced);
        // Another shard may share it: events are compared, not pieces.
        let events = |batches: &[(u16, Batch)]| {
            let of_last = batches.last().map(|(shard, batch)| (*shard, batch.through, batch.events.clone()));
            of_last.map(|(shard, through, events)| {
                let last = events.iter().filter(|event| event.revision == through).map(decoded);
                (shard, through, last.collect::<Vec<_>>())
            })
        };
        assert_eq!(events(&found), events(&expected), "seed {seed}");
        if 0 < asked {
            let notices = worked(prepared, sliced);
            assert_eq!(notices.len() as u64, asked);
            assert!(matches!(notices[0], (1, Notice::Subscribed { current: 12, .. })), "{notices:?}");
        }
    }
}

#[test]
fn a_jump_is_told_to_all_shards_and_waiting_orders_are_answered_from_the_new_history() {
    let mut old = Store::new();
    let mut feed = Feed::new(2, 1);
    subscribe(&mut feed, &old, 1, one("k"), false);
    put(&mut old, "k", b"1");
    assert_eq!(collected(&mut feed, &old).len(), 1);
    assert_eq!(feed.on_order(1, Order::CatchUp(catch_up(7, 2, &[(one("k"), false)])), &old), None);
    let mut new = Store::new();
    for value in [b"1", b"2", b"3"] {
        put(&mut new, "k", value);
    }
    let mut told = Vec::new();
    feed.jump(&new, |shard, notice| told.push((shard, notice)));
    let jumped = || Notice::Jumped { from: 2, current: 4 };
    assert_eq!(told, [(0, jumped()), (1, jumped())]);
    assert_eq!(collected(&mut feed, &new), [], "what was jumped over is in no batch");
    let answers = worked(&mut feed, &new);
    let [(1, Notice::CaughtUp { token: Token(7), batch, current: 4 })] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(batch.events.iter().map(|event| event.revision).collect::<Vec<_>>(), [2, 3, 4]);
    put(&mut new, "k", b"4");
    let batches = collected(&mut feed, &new);
    assert_eq!((batches[0].1.after, batches[0].1.through), (4, 5));
}

#[test]
fn a_change_is_encoded_once_for_all_shards_and_previous_goes_to_those_who_asked() {
    let mut store = Store::new();
    put(&mut store, "k", b"old");
    let mut feed = Feed::new(4, store.current_revision());
    subscribe(&mut feed, &store, 0, one("k"), false);
    subscribe(&mut feed, &store, 1, one("k"), false);
    subscribe(&mut feed, &store, 1, range(b"a", b"z"), true);
    subscribe(&mut feed, &store, 2, one("other"), true);
    put(&mut store, "k", b"new");
    let batches = collected(&mut feed, &store);
    let shards: Vec<u16> = batches.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(shards, [0, 1], "only who subscribed the key");
    let (left, right) = (&batches[0].1.events[0], &batches[1].1.events[0]);
    assert_eq!(left.body.as_ptr(), right.body.as_ptr(), "one encoding, shared");
    assert!(left.body.as_ptr_range().contains(&left.key.as_ptr()), "the key is a part of it");
    assert!(left.previous.is_empty());
    assert_eq!(&*decoded(right).prev_kv.unwrap().value, b"old");
}

#[test]
fn a_subscription_counts_until_each_of_it_is_taken_back() {
    let mut store = Store::new();
    let mut feed = Feed::new(1, 1);
    subscribe(&mut feed, &store, 0, one("k"), false);
    subscribe(&mut feed, &store, 0, one("k"), false);
    subscribe(&mut feed, &store, 0, one("k"), true);
    let mut previous_of = |feed: &mut Feed| {
        put(&mut store, "k", b"v");
        let batches = collected(feed, &store);
        let event = batches.first().map(|(_, batch)| batch.events[0].clone());
        (event.map(|event| !event.previous.is_empty()), store.current_revision())
    };
    assert_eq!(previous_of(&mut feed), (Some(false), 2), "a creation replaces nothing");
    assert_eq!(previous_of(&mut feed), (Some(true), 3));
    let gone = |feed: &mut Feed, previous| {
        feed.unsubscribe(0, &one("k"), previous);
    };
    gone(&mut feed, true);
    assert_eq!(previous_of(&mut feed), (Some(false), 4));
    gone(&mut feed, false);
    assert_eq!(previous_of(&mut feed), (Some(false), 5));
    gone(&mut feed, false);
    assert_eq!(previous_of(&mut feed), (None, 6));
    assert!(feed.index.is_empty());
}

#[test]
#[should_panic(expected = "only what is subscribed is taken back")]
fn taking_back_what_was_not_subscribed_is_a_bug() {
    let store = Store::new();
    let mut feed = Feed::new(1, 1);
    unsubscribe(&mut feed, &store, 0, one("k"), false);
}

#[test]
fn a_compaction_in_the_same_group_takes_no_event_from_who_was_subscribed() {
    let mut store = Store::new();
    let mut feed = Feed::new(1, 1);
    subscribe(&mut feed, &store, 0, one("k"), true);
    for value in [b"1", b"2", b"3"] {
        put(&mut store, "k", value);
    }
    let mut batches = collected(&mut feed, &store);
    store.compact(4);
    while !store.compact_slice(1_000) {}
    put(&mut store, "k", b"4");
    batches.extend(collected(&mut feed, &store));
    let events: Vec<_> = batches.iter().flat_map(|(_, batch)| &batch.events).map(decoded).collect();
    let values: Vec<_> = events.iter().map(|event| event.kv.as_ref().unwrap().value.clone()).collect();
    let previous: Vec<_> =
        events.iter().map(|event| event.prev_kv.clone().map(|kv| kv.value.clone())).collect();
    assert_eq!(values, ["1", "2", "3", "4"]);
    assert_eq!(previous, [None, Some("1".into()), Some("2".into()), Some("3".into())]);
    assert_eq!(
        batches.iter().map(|(_, batch)| (batch.after, batch.through)).collect::<Vec<_>>(),
        [(1, 4), (4, 5)]
    );
}

#[test]
#[should_panic(expected = "compacted at 4, collected up to 1")]
fn compacting_what_was_not_collected_stops_the_process_rather_than_lose_an_event() {
    let mut store = Store::new();
    let mut feed = Feed::new(1, 1);
    subscribe(&mut feed, &store, 0, one("k"), false);
    for value in [b"1", b"2", b"3"] {
        put(&mut store, "k", value);
    }
    store.compact(4);
    collected(&mut feed, &store);
}

#[test]
fn a_long_revision_of_the_past_is_one_answer_that_is_read_in_many_slices_beside_other_work() {
    const KEYS: usize = 30_000;
    let mut store = Store::new();
    let mut txn = store.begin();
    for number in 0..KEYS {
        txn.put(format!("k{number:05}").as_bytes(), b"v", 0);
    }
    txn.commit();
    let mut feed = Feed::new(2, store.current_revision());
    subscribe(&mut feed, &store, 1, one("other"), false);
    let order = |token| {
        let ranges = vec![(WatchRange::new(Bytes::from_static(b"k"), Bytes::from_static(b"l")), false)];
        Order::CatchUp(CatchUp { token: Token(token), from: 2, ranges, watchers: 1 })
    };
    assert!(feed.on_order(0, order(7), &store).is_none());
    // What the shard asks behind it waits; another shard's answers and batches do not.
    assert!(feed.on_order(0, Order::Ask { token: Token(8) }, &store).is_none());
    let (mut told, mut goes) = (Vec::new(), 0);
    while told.len() < 2 {
        feed.work(&store, &mut Slice::new(), |shard, notice| told.push((shard, notice)));
        goes += 1;
        assert!(goes < 100);
        if told.is_empty() {
            assert!(matches!(
                feed.on_order(1, Order::Ask { token: Token(goes) }, &store),
                Some(Notice::Standing { .. })
            ));
            put(&mut store, "other", b"v");
            assert_eq!(collected(&mut feed, &store).len(), 1);
        }
    }
    assert!(KEYS as u64 / 4_096 < goes, "{goes} goes");
    let current = store.current_revision();
    let Notice::CaughtUp { token: Token(7), batch, current: stands_at } = &told[0].1 else {
        panic!("{told:?}")
    };
    assert_eq!((batch.after, batch.through, *stands_at), (1, 2, current));
    let keys = (0..KEYS).map(|number| Bytes::from(format!("k{number:05}")));
    assert!(batch.events.iter().map(|event| event.key.clone()).eq(keys));
    assert!(matches!(told[1], (0, Notice::Standing { token: Token(8), .. })));
    // History that is compacted meanwhile is told to be gone, or read anew: never a part of a revision.
    for (compacted, is_gone) in [(2, false), (3, true)] {
        assert!(feed.on_order(0, order(9), &store).is_none());
        feed.work(&store, &mut Slice::new(), |_, notice| panic!("{notice:?}"));
        store.compact(compacted);
        while !store.compact_slice(1_000) {}
        let mut told = Vec::new();
        while told.is_empty() {
            feed.work(&store, &mut Slice::new(), |_, notice| told.push(notice));
        }
        match &told[0] {
            Notice::Overtaken { compacted: 3, .. } if is_gone => {}
            Notice::CaughtUp { batch, .. } if !is_gone => assert_eq!(batch.events.len(), KEYS),
            other => panic!("compacted at {compacted}: {other:?}"),
        }
    }
}

#[test]
fn history_from_the_compact_revision_is_there_and_one_before_is_overtaken() {
    let mut store = Store::new();
    for value in [b"1", b"2", b"3"] {
        put(&mut store, "k", value);
    }
    let mut feed = Feed::new(1, 4);
    let wanted = [(one("k"), true)];
    for (token, from) in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 9)] {
        assert_eq!(feed.on_order(0, Order::CatchUp(catch_up(token, from, &wanted)), &store), None);
    }
    store.compact(3);
    let overtaken = Notice::Overtaken { token: Token(1), compacted: 3 };
    assert_eq!(worked(&mut feed, &store), [(0, overtaken)], "it waited while the history went");
    let mut caught_up = |token| match worked(&mut feed, &store).remove(0) {
        (0, Notice::CaughtUp { token: of, batch, current: 4 }) if of == Token(token) => batch,
        other => panic!("{other:?}"),
    };
    let batch = caught_up(2);
    assert_eq!((batch.after, batch.through), (2, 4));
    let previous: Vec<_> = batch.events.iter().map(|event| decoded(event).prev_kv).collect();
    assert_eq!(previous[0], None, "revision 2 is compacted");
    assert_eq!(&*previous[1].as_ref().unwrap().value, b"2");
    assert_eq!(caught_up(3).events.len(), 1);
    assert_eq!(caught_up(4), Batch { after: 4, through: 4, events: vec![] });
    assert_eq!(caught_up(5), Batch { after: 8, through: 4, events: vec![] });
    assert!(!feed.has_work());
}

#[test]
fn a_shard_with_many_orders_delays_only_itself_and_keeps_their_order() {
    let mut store = Store::new();
    put(&mut store, "k", b"v");
    let mut feed = Feed::new(3, 2);
    for token in 0..5 {
        assert_eq!(feed.on_order(0, Order::CatchUp(catch_up(token, 2, &[])), &store), None);
    }
    assert_eq!(feed.on_order(0, Order::Ask { token: Token(5) }, &store), None, "behind what waits");
    assert_eq!(feed.on_order(2, Order::CatchUp(catch_up(6, 2, &[])), &store), None);
    let asked = feed.on_order(1, Order::Ask { token: Token(7) }, &store);
    assert_eq!(asked, Some(Notice::Standing { token: Token(7), current: 2 }));
    let mut answers = Vec::new();
    while feed.has_work() {
        let notices = worked(&mut feed, &store);
        let history = notices.iter().filter(|(_, notice)| matches!(notice, Notice::CaughtUp { .. }));
        assert_eq!(history.count(), 1, "one slice a call");
        answers.extend(notices.into_iter().map(|(shard, notice)| (shard, token_of(&notice))));
    }
    assert_eq!(answers, [(0, 0), (2, 6), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]);
}

fn token_of(notice: &Notice) -> u64 {
    match notice {
        Notice::Subscribed { token, .. }
        | Notice::Unsubscribed { token, .. }
        | Notice::Standing { token, .. }
        | Notice::CaughtUp { token, .. }
        | Notice::Overtaken { token, .. } => token.0,
        Notice::Batch(_) | Notice::Part { .. } | Notice::Jumped { .. } => panic!("no answer: {notice:?}"),
    }
}

#[test]
fn a_revision_is_one_answer_however_large() {
    let mut store = Store::new();
    let mut txn = store.begin();
    for number in 0..10_000 {
        txn.put(format!("{number:05}").as_bytes(), b"", 0);
    }
    txn.commit();
    put(&mut store, "z", b"");
    let mut feed = Feed::new(1, 3);
    assert_eq!(feed.on_order(0, Order::CatchUp(catch_up(1, 2, &[(everything(), false)])), &store), None);
    let mut answers = std::iter::repeat_with(|| worked(&mut feed, &store)).take(10).flatten();
    let Some((0, Notice::CaughtUp { batch, current: 3, .. })) = answers.next() else {
        panic!("no answer");
    };
    assert_eq!((batch.after, batch.through, batch.events.len()), (1, 2, 10_000));
}

#[test]
fn no_event_holds_more_than_a_piece_beside_itself() {
    let mut store = Store::new();
    let mut feed = Feed::new(1, 1);
    subscribe(&mut feed, &store, 0, everything(), false);
    let large = vec![7; 100 << 10];
    for number in 0..100_u8 {
        put(&mut store, &format!("{number:03}"), if number % 40 == 39 { &large } else { &large[..3_000] });
    }
    let batches = collected(&mut feed, &store);
    let events = &batches[0].1.events;
    assert_eq!(events.len(), 100);
    // Events of one piece lie side by side.
    let (mut piece, mut pieces) = (0, 1);
    for pair in events.windows(2) {
        piece += pair[0].body.len();
        let joined = pair[0].body.as_ptr_range().end == pair[1].body.as_ptr();
        assert!(!joined || pair[1].body.len() < 5_000 && pair[0].body.len() < 5_000);
        assert!(piece <= 64 << 10 || !joined);
        if !joined {
            (piece, pieces) = (0, pieces + 1);
        }
    }
    assert!((6..=10).contains(&pieces), "{pieces} pieces");
}

/// What happened to a key.
#[derive(Debug, Clone)]
struct Happened {
    revision: i64,
    key: Vec<u8>,
    kv: mvccpb::KeyValue,
    is_delete: bool,
    previous: Option<mvccpb::KeyValue>,
    /// The same revision changed the key again.
    is_superseded: bool,
}

/// Everything that ever happened, in order.
#[derive(Debug, Default)]
struct History {
    all: Vec<Happened>,
    alive: BTreeMap<Vec<u8>, mvccpb::KeyValue>,
}

impl History {
    /// What a watcher of `ranges` gets of `revisions` while the compact revision is `compacted`.
    fn of(
        &self,
        ranges: &[(WatchRange, bool)],
        revisions: std::ops::RangeInclusive<i64>,
        compacted: i64,
    ) -> Vec<mvccpb::Event> {
        let mut events = Vec::new();
        for happened in &self.all {
            let matching = || ranges.iter().filter(|(range, _)| range.keys().contains(&happened.key));
            let is_kept = compacted < happened.revision || !happened.is_superseded;
            if revisions.contains(&happened.revision) && matching().next().is_some() && is_kept {
                let creates = !happened.is_delete && happened.kv.create_revision == happened.revision;
                let with_previous =
                    matching().any(|(_, previous)| *previous) && compacted < happened.revision && !creates;
                events.push(mvccpb::Event {
                    r#type: i32::from(happened.is_delete),
                    kv: Some(happened.kv.clone()),
                    prev_kv: happened.previous.clone().filter(|_| with_previous),
                });
            }
        }
        events
    }
}

/// The feed, its store, and what both should do.
struct Model {
    random: StdRng,
    letters: u8,
    store: Store,
    feed: Feed,
    history: History,
    subscribed: Vec<Vec<(WatchRange, bool)>>,
    /// Orders that wait for their answer.
    waiting: Vec<VecDeque<Order>>,
    tokens: u64,
    events: usize,
    slices: usize,
    look_ups: usize,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let shards = random.random_range(1..4);
        let mut feed = Feed::new(shards, 1);
        feed.budget = if random.random_bool(0.8) { SMALL } else { SLICE };
        Self {
            letters: random.random_range(1..8),
            random,
            store: Store::new(),
            feed,
            history: History::default(),
            subscribed: vec![Vec::new(); shards],
            waiting: vec![VecDeque::new(); shards],
            tokens: 0,
            events: 0,
            slices: 0,
            look_ups: 0,
        }
    }

    /// Some keys are far more likely than others.
    fn key(&mut self) -> Vec<u8> {
        let length = self.random.random_range(1..3);
        let letters = self.letters;
        (0..length)
            .map(|_| b'a' + self.random.random_range(0..letters).min(self.random.random_range(0..letters)))
            .collect()
    }

    fn range(&mut self) -> WatchRange {
        let (key, end) = (self.key(), self.key());
        match self.random.random_range(0..6) {
            0 => range(&key, b"\0"),
            1 => everything(),
            2 => range(&key, &end),
            _ => range(&key, b""),
        }
    }

    fn shard(&mut self) -> usize {
        self.random.random_range(0..self.subscribed.len())
    }

    /// A group of transactions and compactions, collected as the shell does it.
    fn group(&mut self) {
        for _ in 0..self.random.random_range(1..12) {
            let current = self.store.current_revision();
            if self.random.random_bool(0.02) && self.store.compact_revision() < current {
                self.collect();
                let low = (self.store.compact_revision() + 1).max(current - 200);
                self.store.compact(self.random.random_range(low..=current));
            } else {
                self.transaction();
            }
        }
        self.collect();
    }

    fn transaction(&mut self) {
        let count = self.random.random_range(1..4);
        let operations: Vec<_> = (0..count)
            .map(|_| {
                let delete_to = self.random.random_bool(0.3).then(|| self.range());
                let value = vec![b'v'; self.random.random_range(0..40)];
                (self.key(), delete_to, value, self.random.random_range(-1..2))
            })
            .collect();
        let Self { store, history, .. } = self;
        let revision = store.current_revision() + 1;
        let before = history.alive.clone();
        let first = history.all.len();
        let mut txn = store.begin();
        for (key, deleted, value, lease) in operations {
            if let Some(range) = deleted {
                txn.delete_range(range.keys(), |version| {
                    let key = version.key.to_vec();
                    let kv = mvccpb::KeyValue {
                        key: key.clone().into(),
                        mod_revision: revision,
                        ..Default::default()
                    };
                    history.alive.remove(&key);
                    let previous = before.get(&key).cloned();
                    let is_superseded = false;
                    history.all.push(Happened {
                        revision,
                        key,
                        kv,
                        is_delete: true,
                        previous,
                        is_superseded,
                    });
                });
                continue;
            }
            txn.put(&key, &value, lease);
            let old = history.alive.get(&key);
            let kv = mvccpb::KeyValue {
                key: key.clone().into(),
                create_revision: old.map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.map_or(1, |old| old.version + 1),
                value: value.into(),
                lease,
            };
            history.alive.insert(key.clone(), kv.clone());
            let previous = before.get(&key).cloned();
            let is_superseded = false;
            history.all.push(Happened { revision, key, kv, is_delete: false, previous, is_superseded });
        }
        txn.commit();
        for slot in first..history.all.len() {
            let key = &history.all[slot].key;
            let again = history.all[slot + 1..].iter().any(|later| later.key == *key);
            history.all[slot].is_superseded = again;
        }
    }

    /// Collects, and compares with what each shard subscribed.
    fn collect(&mut self) {
        let (after, current) = (self.feed.through, self.store.current_revision());
        let mut batches = BTreeMap::new();
        self.feed.collect(&self.store, |shard, batch| {
            assert!(batches.insert(usize::from(shard), batch).is_none(), "one batch a shard");
        });
        for (shard, ranges) in self.subscribed.iter().enumerate() {
            let expected = self.history.of(ranges, after + 1..=current, self.store.compact_revision());
            let batch = batches.remove(&shard);
            assert_eq!(batch.is_some(), !expected.is_empty());
            if let Some(batch) = batch {
                assert_eq!((batch.after, batch.through), (after, current));
                assert_eq!(batch.events.iter().map(decoded).collect::<Vec<_>>(), expected);
                self.events += batch.events.len();
            }
        }
    }

    fn order(&mut self) {
        let shard = self.shard();
        self.tokens += 1;
        let token = Token(self.tokens);
        let order = match self.random.random_range(0..10) {
            0..3 => Order::Subscribe { token, range: self.range(), previous: self.random.random_bool(0.4) },
            // Taken back only when it is not about to be subscribed or taken back already.
            3..6 if !self.subscribed[shard].is_empty() && self.waiting[shard].is_empty() => {
                let slot = self.random.random_range(0..self.subscribed[shard].len());
                let (range, previous) = self.subscribed[shard][slot].clone();
                Order::Unsubscribe { token, range, previous }
            }
            6 => Order::Ask { token },
            _ => {
                let current = self.store.current_revision();
                let low = (self.store.compact_revision() - 3).max(-1);
                let from = self.random.random_range(low..=current + 2);
                let few = self.random.random_bool(0.5);
                let ranges = (0..self.random.random_range(0..if few { 3 } else { 20 }))
                    .map(|_| {
                        let range = if few { range(&self.key(), b"") } else { self.range() };
                        (range, self.random.random_bool(0.4))
                    })
                    .collect();
                Order::CatchUp(CatchUp { token, from, ranges, watchers: 1 })
            }
        };
        let number = u16::try_from(shard).unwrap();
        self.waiting[shard].push_back(order.clone());
        if let Some(notice) = self.feed.on_order(number, order, &self.store) {
            assert_eq!(self.waiting[shard].len(), 1, "nothing is answered before what came before");
            self.answered(shard, &notice);
        }
    }

    fn work(&mut self) {
        for (shard, notice) in worked(&mut self.feed, &self.store) {
            self.answered(usize::from(shard), &notice);
        }
        assert_eq!(self.feed.has_work(), self.waiting.iter().any(|orders| !orders.is_empty()));
    }

    /// The answer to the oldest order of the shard.
    fn answered(&mut self, shard: usize, notice: &Notice) {
        let now = self.store.current_revision();
        let oldest = self.store.compact_revision();
        match (self.waiting[shard].pop_front().unwrap(), notice) {
            (
                Order::Subscribe { token, range, previous },
                &Notice::Subscribed { token: of, current, compacted },
            ) => {
                assert_eq!((of, current, compacted), (token, now, oldest));
                self.subscribed[shard].push((range, previous));
            }
            (Order::Unsubscribe { token, range, previous }, &Notice::Unsubscribed { token: of, current }) => {
                assert_eq!((of, current), (token, now));
                let known =
                    self.subscribed[shard].iter().position(|known| *known == (range.clone(), previous));
                self.subscribed[shard].swap_remove(known.unwrap());
            }
            (Order::Ask { token }, &Notice::Standing { token: of, current }) => {
                assert_eq!((of, current), (token, now));
            }
            (Order::CatchUp(order), &Notice::Overtaken { token, compacted }) => {
                assert_eq!((token, compacted), (order.token, oldest));
                assert!(order.from < oldest);
            }
            (Order::CatchUp(order), Notice::CaughtUp { token, batch, current }) => {
                assert_eq!((*token, *current, batch.after), (order.token, now, order.from - 1));
                assert!(oldest <= order.from);
                assert!(batch.through <= now);
                assert!(order.from <= batch.through || (now < order.from && batch.through == now));
                let expected = self.history.of(&order.ranges, order.from..=batch.through, oldest);
                assert_eq!(batch.events.iter().map(decoded).collect::<Vec<_>>(), expected, "{order:?}");
                self.slices += 1;
                self.events += batch.events.len();
                self.compare_ways(&order);
            }
            (order, notice) => panic!("{order:?} was answered {notice:?}"),
        }
    }

    /// Both ways through the past find the same.
    fn compare_ways(&mut self, order: &CatchUp) {
        let is_one = |(range, _): &(WatchRange, bool)| matches!(range.keys(), KeyRange::One(_));
        let current = self.store.current_revision();
        if current < order.from || !order.ranges.iter().all(is_one) {
            return;
        }
        self.look_ups += usize::from(history::way(order, &self.store, self.feed.budget) == Way::LookUp);
        let mut found =
            |way, budget| history::slice(order, &self.store, &mut self.feed.encoder, budget, current, way);
        let all = found(Way::Walk, ALL);
        assert_eq!(all.through, current);
        assert_eq!(found(Way::LookUp, ALL), all);
        let part = found(Way::LookUp, SMALL);
        let expected = all.events.iter().take_while(|event| event.revision <= part.through);
        assert_eq!(part.events.iter().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob, not configuration")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// `PINION_MODEL_OPS` sets the number of operations, `PINION_MODEL_SEED` replays one seed.
#[test]
fn every_shard_gets_every_change_of_its_ranges_once_in_order_and_whole() {
    let only = setting("PINION_MODEL_SEED");
    let steps_max = setting("PINION_MODEL_OPS").unwrap_or(12_000);
    let (mut steps, mut seed) = (0, only.unwrap_or(0));
    let (mut events, mut slices, mut look_ups) = (0, 0, 0);
    while steps < steps_max {
        println!("replay: PINION_MODEL_SEED={seed}");
        let mut model = Model::new(seed);
        for _ in 0..400 {
            match model.random.random_range(0..10) {
                0..3 => model.group(),
                3..7 => model.order(),
                7 => drop(model.store.compact_slice(20)),
                _ => model.work(),
            }
        }
        while model.feed.has_work() {
            model.work();
        }
        steps += 400;
        events += model.events;
        slices += model.slices;
        look_ups += model.look_ups;
        if only.is_some() {
            break;
        }
        seed += 1;
    }
    println!("{steps} steps, {events} events, {slices} slices, {look_ups} found by look-up: no difference");
    assert!(only.is_some() || 20 < look_ups, "look-ups are met: {look_ups}");
}
