//! Every row of etcd's watch contract, one by one: a hub, a model store, and the answers as told.

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::model_tests::{ModelFeed, ModelStore};
use super::super::wire;
use super::*;
use crate::types::Slice;
use crate::types::limits::{KEY_NS, SLICE_NS, TURN_NS_IN_COMPANY};

/// A response as it was pushed, with what the table is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Said {
    watch_id: i64,
    revision: i64,
    created: bool,
    canceled: bool,
    compact_revision: i64,
    cancel_reason: &'static str,
    fragment: bool,
    /// Revision, key, whether it is a delete, bytes of `prev_kv`.
    events: Vec<(i64, String, bool, bool)>,
    bytes: usize,
    /// Events that were looked at when it was written.
    span: usize,
}

#[derive(Default)]
struct Lists {
    said: BTreeMap<StreamId, Vec<Said>>,
    full: BTreeMap<StreamId, usize>,
    asked: Cell<usize>,
}

impl Sink for Lists {
    fn has_room(&self, stream: StreamId) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.full.get(&stream).is_none_or(|&left| left > 0)
    }

    fn push(&mut self, stream: StreamId, response: &Response<'_>) {
        if let Some(left) = self.full.get_mut(&stream) {
            *left = left.saturating_sub(1);
        }
        let events = response.events.iter().map(|event| {
            let key = String::from_utf8(event.key.to_vec()).unwrap();
            (event.revision, key, event.is_delete, response.previous && !event.previous.is_empty())
        });
        self.said.entry(stream).or_default().push(Said {
            watch_id: response.watch_id,
            revision: response.revision,
            created: response.created,
            canceled: response.canceled,
            compact_revision: response.compact_revision,
            cancel_reason: response.cancel_reason,
            fragment: response.fragment,
            events: events.collect(),
            bytes: wire::encoded_len(response),
            span: if response.joined.is_empty() { response.events.span() } else { 0 },
        });
    }
}

struct Scene {
    hub: Hub,
    store: ModelStore,
    feed: ModelFeed,
    lists: Lists,
    slice_revisions: i64,
}

const LIMITS: HubLimits =
    HubLimits { fragment_bytes: 2 << 20, watcher_bytes_max: usize::MAX, is_by_range: false };

impl Scene {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: HubLimits) -> Self {
        Self {
            hub: Hub::new(limits),
            store: ModelStore::new(),
            feed: ModelFeed::default(),
            lists: Lists::default(),
            slice_revisions: 1_000,
        }
    }

    /// A scene whose store stands at `revision`, every one a put of `k`.
    fn at(revision: i64) -> Self {
        let mut scene = Self::new();
        scene.puts(revision - 1);
        scene
    }

    fn puts(&mut self, count: i64) {
        for _ in 0..count {
            self.write(&[("k", Some("v"))]);
        }
    }

    /// One revision, in a batch of its own.
    fn write(&mut self, writes: &[(&str, Option<&str>)]) {
        self.write_group(&[writes]);
    }

    /// Several revisions in one batch.
    fn write_group(&mut self, revisions: &[&[(&str, Option<&str>)]]) {
        let after = self.store.current();
        for writes in revisions {
            let writes: Vec<(&[u8], Option<Vec<u8>>)> =
                writes.iter().map(|(key, value)| (key.as_bytes(), value.map(Into::into))).collect();
            self.store.write(&writes);
        }
        self.feed.on_applied(&self.store, after);
    }

    fn ask(&mut self, stream: StreamId, union: RequestUnion) {
        self.hub.on_request(stream, pb::WatchRequest { request_union: Some(union) });
    }

    fn create(&mut self, stream: StreamId, create: pb::WatchCreateRequest) {
        self.ask(stream, RequestUnion::CreateRequest(create));
    }

    fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        self.ask(stream, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
    }

    fn progress(&mut self, stream: StreamId) {
        self.ask(stream, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }

    /// The store answers what it was asked.
    fn store_answers(&mut self) {
        while let Some(order) = self.hub.next_order() {
            self.feed.on_order(&self.store, order, self.slice_revisions);
        }
    }

    fn deliver(&mut self) -> bool {
        let mut any = false;
        while let Some(notice) = self.feed.notices.pop_front() {
            self.hub.on_notice(notice);
        }
        while self.hub.has_work() {
            self.hub.work(&mut Slice::unbounded(), &mut self.lists);
            any = true;
        }
        self.hub.check_invariants();
        any
    }

    /// Tells the hub, which carries it out at once.
    fn tell(&mut self, notice: Notice) {
        self.hub.on_notice(notice);
        self.hub.work(&mut Slice::unbounded(), &mut self.lists);
    }

    /// Everything moves until nothing does; what the stream was told since the last time.
    fn said(&mut self, stream: StreamId) -> Vec<Said> {
        loop {
            self.store_answers();
            if !self.deliver() {
                return self.lists.said.remove(&stream).unwrap_or_default();
            }
        }
    }

    fn watch(&mut self, stream: StreamId, create: pb::WatchCreateRequest) -> i64 {
        self.create(stream, create);
        let said = self.said(stream);
        assert!(said[0].created && !said[0].canceled, "{said:?}");
        assert!(said.len() == 1, "{said:?}");
        said[0].watch_id
    }

    fn set_room(&mut self, stream: StreamId, pushes: usize) {
        self.lists.full.insert(stream, pushes);
        if pushes > 0 {
            self.hub.on_room(stream);
        }
    }
}

fn on(key: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), ..Default::default() }
}

fn from(key: &'static str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { start_revision, ..on(key) }
}

fn created(watch_id: i64, revision: i64) -> Said {
    Said { watch_id, revision, created: true, bytes: 0, ..Said::default() }
}

fn canceled(watch_id: i64, revision: i64) -> Said {
    Said { watch_id, revision, canceled: true, ..Said::default() }
}

fn refused(revision: i64, cancel_reason: &'static str) -> Said {
    Said { watch_id: -1, revision, created: true, canceled: true, cancel_reason, ..Said::default() }
}

fn overtaken(watch_id: i64, compact_revision: i64) -> Said {
    Said { watch_id, canceled: true, compact_revision, ..Said::default() }
}

/// Puts of `k`.
fn puts(watch_id: i64, header: i64, revisions: std::ops::RangeInclusive<i64>) -> Said {
    let events = revisions.map(|revision| (revision, "k".to_owned(), false, false)).collect();
    Said { watch_id, revision: header, events, ..Said::default() }
}

/// Without sizes, which few tests are about.
fn plain(said: Vec<Said>) -> Vec<Said> {
    said.into_iter().map(|said| Said { bytes: 0, span: 0, ..said }).collect()
}

#[test]
fn a_watcher_from_now_is_created_at_the_current_revision_and_gets_what_comes_after() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.create(stream, on("k"));
    assert_eq!(plain(scene.said(stream)), [created(0, 5)]);
    scene.puts(1);
    assert_eq!(plain(scene.said(stream)), [puts(0, 6, 6..=6)]);
}

#[test]
fn revisions_of_one_batch_share_a_response_with_the_last_ones_revision() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.watch(stream, on("k"));
    scene.write_group(&[&[("k", Some("1"))], &[("k", Some("2"))], &[("other", Some("3"))]]);
    assert_eq!(plain(scene.said(stream)), [puts(0, 7, 6..=7)]);
}

#[test]
fn an_empty_key_is_the_smallest_key_and_with_an_end_of_zero_all_keys() {
    let mut scene = Scene::at(2);
    let stream = scene.hub.open();
    scene.watch(stream, on(""));
    scene.watch(stream, pb::WatchCreateRequest { range_end: Bytes::from_static(b"\0"), ..on("") });
    scene.write(&[("k", Some("v"))]);
    assert_eq!(plain(scene.said(stream)), [puts(1, 3, 3..=3)]);
    scene.write(&[("\0", Some("v"))]);
    let ids: Vec<i64> = scene.said(stream).iter().map(|said| said.watch_id).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
}

#[test]
fn a_start_in_the_past_is_replayed_inclusively_with_the_current_revision_in_the_header() {
    for start in [2, 3, 5] {
        let mut scene = Scene::at(5);
        let stream = scene.hub.open();
        scene.create(stream, from("k", start));
        assert_eq!(plain(scene.said(stream)), [created(0, 5), puts(0, 5, start..=5)]);
        scene.puts(1);
        assert_eq!(plain(scene.said(stream)), [puts(0, 6, 6..=6)]);
    }
}

#[test]
fn a_start_in_the_future_waits_and_gets_nothing_older() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.create(stream, from("k", 8));
    scene.puts(2);
    assert_eq!(plain(scene.said(stream)), [created(0, 7)]);
    scene.write_group(&[&[("k", Some("8"))], &[("k", Some("9"))]]);
    assert_eq!(plain(scene.said(stream)), [puts(0, 9, 8..=9)]);
    scene.watch(stream, from("k", 12));
    // One batch reaches over the start: what is before it is not for this watcher.
    scene.write_group(&[&[("k", Some("10"))], &[("k", Some("11"))], &[("k", Some("12"))]]);
    assert_eq!(plain(scene.said(stream)), [puts(0, 12, 10..=12), puts(1, 12, 12..=12)]);
}

#[test]
fn bad_creations_are_created_and_canceled_at_once_with_etcds_reasons() {
    let range = |key, end: &'static str| pb::WatchCreateRequest { range_end: end.into(), ..on(key) };
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.watch(stream, pb::WatchCreateRequest { watch_id: 7, ..on("k") });
    let cases = [
        (from("k", -1), START_NEGATIVE),
        (from("k", i64::MIN), START_NEGATIVE),
        (range("b", "a"), RANGE_EMPTY),
        (range("b", "b"), RANGE_EMPTY),
        (pb::WatchCreateRequest { watch_id: 7, ..on("k") }, ID_DUPLICATE),
    ];
    for (create, reason) in cases {
        scene.create(stream, create);
        assert_eq!(plain(scene.said(stream)), [refused(5, reason)]);
    }
    assert_eq!((scene.hub.watchers_count(), scene.hub.stream_watchers(stream)), (1, 1));
}

#[test]
fn a_start_before_the_compaction_is_created_and_then_canceled_with_its_revision() {
    let mut scene = Scene::at(9);
    scene.store.compacted = 5;
    let stream = scene.hub.open();
    scene.create(stream, from("k", 4));
    assert_eq!(plain(scene.said(stream)), [created(0, 9), overtaken(0, 5)]);
    assert!(scene.feed.subscriptions.is_empty());
    scene.create(stream, from("k", 5));
    assert_eq!(plain(scene.said(stream)), [created(1, 9), puts(1, 9, 5..=9)]);
}

#[test]
fn an_id_stays_reserved_after_compaction_until_the_client_cancels_it() {
    let mut scene = Scene::at(9);
    scene.store.compacted = 5;
    let stream = scene.hub.open();
    scene.create(stream, pb::WatchCreateRequest { watch_id: 3, ..from("k", 2) });
    scene.watch_ok_after_overtaken(stream);
    scene.create(stream, pb::WatchCreateRequest { watch_id: 3, ..on("k") });
    assert_eq!(plain(scene.said(stream)), [refused(9, ID_DUPLICATE)]);
    scene.watch(stream, on("k"));
    scene.progress(stream);
    assert_eq!(scene.said(stream), [], "no progress while an id is reserved");
    scene.cancel(stream, 3);
    assert_eq!(plain(scene.said(stream)), [canceled(3, 9)]);
    scene.cancel(stream, 3);
    assert_eq!(scene.said(stream), []);
    scene.progress(stream);
    assert_eq!(plain(scene.said(stream)), [Said { watch_id: -1, revision: 9, ..Said::default() }]);
    assert_eq!(scene.watch(stream, pb::WatchCreateRequest { watch_id: 3, ..on("k") }), 3);
}

impl Scene {
    fn watch_ok_after_overtaken(&mut self, stream: StreamId) {
        assert_eq!(plain(self.said(stream)), [created(3, 9), overtaken(3, 5)]);
    }
}

#[test]
fn ids_are_assigned_from_zero_skip_those_in_use_and_never_come_again() {
    let mut scene = Scene::at(2);
    let stream = scene.hub.open();
    let chosen = |watch_id| pb::WatchCreateRequest { watch_id, ..on("k") };
    assert_eq!(scene.watch(stream, on("k")), 0);
    for id in [1, 3, -1, -9, i64::MAX, i64::MIN] {
        assert_eq!(scene.watch(stream, chosen(id)), id);
    }
    assert_eq!(scene.watch(stream, on("k")), 2);
    scene.cancel(stream, 2);
    assert_eq!(plain(scene.said(stream)), [canceled(2, 2)]);
    assert_eq!(scene.watch(stream, on("k")), 4, "2 was used, 3 is in use");
    assert_eq!(scene.watch(stream, chosen(2)), 2, "a freed id may be chosen");
    let other = scene.hub.open();
    assert_eq!(scene.watch(other, on("k")), 0, "each stream counts for itself");
}

#[test]
fn a_canceled_watcher_is_answered_with_the_current_revision_and_gets_nothing_more() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.watch(stream, on("k"));
    scene.cancel(stream, 0);
    // Applied after the cancellation was asked for, before the store hears of it.
    scene.puts(1);
    assert_eq!(plain(scene.said(stream)), [canceled(0, 6)]);
    scene.puts(1);
    assert_eq!(scene.said(stream), []);
    assert!(scene.feed.subscriptions.is_empty());
    assert_eq!((scene.hub.watchers_count(), scene.hub.bytes_count()), (0, 0));
}

#[test]
fn a_watcher_canceled_before_it_was_created_is_told_both_and_its_id_is_free_at_once() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    let seven = || pb::WatchCreateRequest { watch_id: 7, ..from("k", 2) };
    scene.create(stream, seven());
    scene.cancel(stream, 7);
    scene.create(stream, seven());
    let told = [created(7, 5), canceled(7, 5), created(7, 5), puts(7, 5, 2..=5)];
    assert_eq!(plain(scene.said(stream)), told);
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.create(stream, on("a"));
    scene.create(stream, from("b", -5));
    scene.progress(stream);
    scene.create(stream, on("c"));
    scene.cancel(stream, 1);
    let progress = Said { watch_id: -1, revision: 5, ..Said::default() };
    let told = [created(0, 5), refused(5, START_NEGATIVE), progress, created(1, 5), canceled(1, 5)];
    assert_eq!(plain(scene.said(stream)), told);
}

#[test]
fn unknown_ids_and_requests_without_a_union_are_ignored() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.cancel(stream, 0);
    scene.cancel(stream, -1);
    scene.hub.on_request(stream, pb::WatchRequest { request_union: None });
    assert_eq!(scene.hub.next_order(), None);
    assert_eq!(scene.said(stream), []);
    // A stream that is closed, too: the shell's tasks may hear of it late.
    scene.hub.close(stream);
    scene.create(stream, on("k"));
    scene.hub.on_room(stream);
    scene.hub.on_progress_due(stream);
    scene.hub.close(stream);
    assert_eq!(scene.hub.next_order(), None);
}

#[test]
fn filters_drop_their_kind_and_say_nothing_when_all_is_dropped() {
    let filtered = |filters: &[i32]| pb::WatchCreateRequest { filters: filters.to_vec(), ..on("k") };
    let mut scene = Scene::at(2);
    let stream = scene.hub.open();
    // NOPUT, NODELETE, both, one that does not exist.
    for filters in [&[0][..], &[1], &[0, 1], &[9]] {
        scene.watch(stream, filtered(filters));
    }
    let ids = |said: Vec<Said>| said.iter().map(|said| said.watch_id).collect::<Vec<_>>();
    scene.write(&[("k", Some("v"))]);
    assert_eq!(ids(scene.said(stream)), [1, 3]);
    scene.write(&[("k", None)]);
    assert_eq!(ids(scene.said(stream)), [0, 3]);
    // In history alike.
    scene.create(stream, pb::WatchCreateRequest { start_revision: 2, ..filtered(&[0]) });
    assert_eq!(scene.said(stream)[1].events, [(4, "k".to_owned(), true, false)]);
}

#[test]
fn the_previous_version_goes_to_those_who_asked_unless_it_is_compacted() {
    let mut scene = Scene::at(1);
    let stream = scene.hub.open();
    scene.watch(stream, pb::WatchCreateRequest { prev_kv: true, ..on("k") });
    scene.watch(stream, on("k"));
    let mut with = |writes: &[(&str, Option<&str>)]| {
        scene.write(writes);
        scene.said(stream).iter().map(|said| said.events[0].3).collect::<Vec<_>>()
    };
    assert_eq!(with(&[("k", Some("1"))]), [false, false], "a creation has none");
    assert_eq!(with(&[("k", Some("2"))]), [true, false]);
    assert_eq!(with(&[("k", None)]), [true, false]);
    scene.store.compacted = 3;
    scene.create(stream, pb::WatchCreateRequest { prev_kv: true, ..from("k", 3) });
    let events = &scene.said(stream)[1].events;
    assert_eq!(events.iter().map(|event| event.3).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn fragments_split_what_reaches_the_bound_and_only_for_who_asked() {
    let limits = HubLimits { fragment_bytes: 400, ..LIMITS };
    let all = |fragment| pb::WatchCreateRequest { range_end: Bytes::from_static(b"\0"), fragment, ..on("") };
    let mut scene = Scene::with(limits);
    let stream = scene.hub.open();
    let (split, whole) = (scene.watch(stream, all(true)), scene.watch(stream, all(false)));
    let (value, huge) = ("v".repeat(80), "h".repeat(1_000));
    scene.write(&[
        ("a", Some(&value)),
        ("b", Some(&value)),
        ("c", Some(&value)),
        ("d", Some(&huge)),
        ("e", Some(&value)),
    ]);
    let said = scene.said(stream);
    let parts: Vec<&Said> = said.iter().filter(|said| said.watch_id == split).collect();
    let keys: Vec<String> =
        parts.iter().map(|part| part.events.iter().map(|event| event.1.as_str()).collect()).collect();
    assert_eq!(keys, ["abc", "d", "e"]);
    assert_eq!(parts.iter().map(|part| part.fragment).collect::<Vec<_>>(), [true, true, false]);
    assert!(parts.iter().all(|part| part.revision == 2 && (part.bytes < 400 || part.events.len() == 1)));
    let rest: Vec<&Said> = said.iter().filter(|said| said.watch_id == whole).collect();
    assert_eq!((rest.len(), rest[0].events.len(), rest[0].fragment), (1, 5, false));
    // One event is not split, however long; what is short is not either.
    scene.write(&[("a", Some(&huge))]);
    scene.write(&[("a", Some("1")), ("b", Some("2"))]);
    assert_eq!(scene.said(stream).iter().filter(|said| said.fragment).count(), 0);
}

#[test]
fn long_history_is_cut_at_a_thousand_revisions_and_a_mebibyte_but_never_inside_a_revision() {
    let mut scene = Scene::at(2_501);
    scene.slice_revisions = 1 << 20;
    let stream = scene.hub.open();
    scene.create(stream, from("k", 2));
    let lens = |said: Vec<Said>| said.iter().map(|said| said.events.len()).collect::<Vec<_>>();
    assert_eq!(lens(scene.said(stream)), [0, 1_000, 1_000, 500]);
    let value = "v".repeat(300 << 10);
    let start = scene.store.current() + 1;
    for _ in 0..4 {
        scene.write(&[("k", Some(&value)), ("l", Some(&value))]);
    }
    scene.write(&[("a", Some(&value)), ("b", Some(&value)), ("k", Some(&value)), ("l", Some(&value))]);
    scene.said(stream);
    let all = pb::WatchCreateRequest { range_end: Bytes::from_static(b"\0"), ..from("", start) };
    scene.create(stream, all);
    assert_eq!(lens(scene.said(stream)), [0, 2, 2, 2, 2, 4]);
}

#[test]
fn progress_on_request_is_told_only_when_all_watchers_of_the_stream_are_synced_and_begun() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    let progress = |revision| Said { watch_id: -1, revision, ..Said::default() };
    scene.progress(stream);
    assert_eq!(scene.said(stream), [], "no watchers");
    scene.watch(stream, on("k"));
    scene.progress(stream);
    assert_eq!(plain(scene.said(stream)), [progress(5)]);
    // Future start: revision 7.
    scene.watch(stream, from("other", 7));
    scene.progress(stream);
    assert_eq!(scene.said(stream), []);
    scene.puts(2);
    scene.said(stream);
    scene.progress(stream);
    assert_eq!(plain(scene.said(stream)), [progress(7)]);
    // Behind.
    scene.set_room(stream, 0);
    scene.puts(1);
    scene.said(stream);
    scene.progress(stream);
    assert_eq!(scene.said(stream), [], "one is behind");
    scene.set_room(stream, 9);
    assert_eq!(plain(scene.said(stream)), [puts(0, 8, 8..=8)]);
    scene.progress(stream);
    assert_eq!(plain(scene.said(stream)), [progress(8)]);
    let other = scene.hub.open();
    scene.progress(other);
    assert_eq!(scene.said(other), [], "another stream's watchers do not count");
}

#[test]
fn progress_does_not_speak_for_a_watcher_that_is_being_canceled_without_everything() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.watch(stream, on("k"));
    scene.watch(stream, on("other"));
    scene.progress(stream);
    scene.cancel(stream, 0);
    // The canceled one does not get this any more, and its client may not know that yet.
    scene.puts(1);
    assert_eq!(plain(scene.said(stream)), [canceled(0, 6)]);
    scene.progress(stream);
    scene.cancel(stream, 1);
    assert_eq!(plain(scene.said(stream)), [canceled(1, 6)], "nobody is left to speak for");
}

#[test]
fn progress_interval_tells_quiet_synced_begun_watchers_that_asked() {
    let asked = |create| pb::WatchCreateRequest { progress_notify: true, ..create };
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.hub.on_progress_due(stream);
    assert_eq!(scene.hub.next_order(), None, "nobody asked");
    let quiet = scene.watch(stream, asked(on("quiet")));
    let busy = scene.watch(stream, asked(on("k")));
    scene.watch(stream, asked(from("quiet", 100)));
    scene.watch(stream, on("quiet"));
    scene.puts(1);
    scene.said(stream);
    let progress = |watch_id, revision| Said { watch_id, revision, ..Said::default() };
    scene.hub.on_progress_due(stream);
    assert_eq!(plain(scene.said(stream)), [progress(quiet, 6)]);
    scene.hub.on_progress_due(stream);
    assert_eq!(plain(scene.said(stream)), [progress(quiet, 6), progress(busy, 6)]);
    // Behind, and without room: nothing.
    scene.set_room(stream, 0);
    scene.puts(1);
    scene.said(stream);
    scene.hub.on_progress_due(stream);
    assert_eq!(scene.said(stream), []);
}

#[test]
fn a_slow_stream_holds_positions_only_and_gets_everything_when_it_reads() {
    let mut scene = Scene::at(5);
    let (slow, quick) = (scene.hub.open(), scene.hub.open());
    scene.watch(slow, on("k"));
    scene.watch(quick, on("k"));
    scene.set_room(slow, 2);
    for revision in 6..=20 {
        scene.puts(1);
        assert_eq!(plain(scene.said(quick)), [puts(0, revision, revision..=revision)]);
    }
    assert_eq!(plain(scene.said(slow)), [puts(0, 6, 6..=6), puts(0, 7, 7..=7)]);
    let asked = scene.lists.asked.get();
    scene.puts(1);
    scene.said(quick);
    assert_eq!(scene.lists.asked.get(), asked + 1, "who is behind is not looked at for a change");
    scene.slice_revisions = 5;
    scene.set_room(slow, 2);
    assert_eq!(plain(scene.said(slow)), [puts(0, 21, 8..=12), puts(0, 21, 13..=17)]);
    scene.set_room(slow, 99);
    assert_eq!(plain(scene.said(slow)), [puts(0, 21, 18..=21)]);
    scene.puts(1);
    assert_eq!(plain(scene.said(slow)), [puts(0, 22, 22..=22)]);
}

#[test]
fn room_that_ends_inside_a_slice_leaves_the_rest_for_later() {
    let mut scene = Scene::at(2_601);
    scene.slice_revisions = 10_000;
    let stream = scene.hub.open();
    scene.set_room(stream, 2);
    scene.create(stream, from("k", 2));
    assert_eq!(plain(scene.said(stream)), [created(0, 2_601), puts(0, 2_601, 2..=1_001)]);
    scene.puts(1);
    scene.set_room(stream, 1);
    assert_eq!(plain(scene.said(stream)), [puts(0, 2_602, 1_002..=2_001)]);
    scene.set_room(stream, 9);
    assert_eq!(plain(scene.said(stream)), [puts(0, 2_602, 2_002..=2_602)]);
}

#[test]
fn a_change_applied_while_a_slice_is_on_its_way_comes_once_and_in_order() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.create(stream, from("k", 3));
    scene.store_answers();
    scene.deliver();
    scene.puts(1);
    // The slice is made after revision 6 and stands behind its batch; 7 comes behind the slice.
    scene.store_answers();
    scene.puts(1);
    let told = [created(0, 5), puts(0, 6, 3..=6), puts(0, 7, 7..=7)];
    assert_eq!(plain(scene.said(stream)), told);
}

#[test]
fn compaction_cancels_those_that_it_overtook_and_no_others() {
    let mut scene = Scene::at(5);
    let (slow, quick) = (scene.hub.open(), scene.hub.open());
    scene.watch(slow, on("k"));
    scene.watch(slow, on("other"));
    scene.watch(quick, on("k"));
    scene.set_room(slow, 0);
    scene.puts(5);
    scene.said(quick);
    scene.store.compacted = 8;
    scene.set_room(slow, 9);
    assert_eq!(plain(scene.said(slow)), [overtaken(0, 8)]);
    assert_eq!(scene.said(quick), []);
    scene.write(&[("k", Some("v")), ("other", Some("v"))]);
    assert_eq!(scene.said(slow).len(), 1);
    assert_eq!(scene.said(quick).len(), 1);
    assert_eq!(scene.hub.watchers_count(), 2);
}

#[test]
fn a_position_at_the_compacted_revision_is_not_overtaken() {
    let mut scene = Scene::at(5);
    let stream = scene.hub.open();
    scene.watch(stream, on("k"));
    scene.set_room(stream, 0);
    scene.puts(4);
    scene.said(stream);
    scene.store.compacted = 6;
    scene.set_room(stream, 9);
    assert_eq!(plain(scene.said(stream)), [puts(0, 9, 6..=9)]);
}

#[test]
fn a_reader_of_long_history_does_not_hold_up_one_that_is_a_little_behind() {
    let mut scene = Scene::at(5_000);
    scene.slice_revisions = 10;
    let deep: Vec<StreamId> = (0..20)
        .map(|_| {
            let stream = scene.hub.open();
            scene.create(stream, from("k", 2));
            stream
        })
        .collect();
    let mut slices = 0;
    let mut serve = |scene: &mut Scene| {
        let order = scene.hub.next_order().expect("somebody is behind");
        slices += usize::from(matches!(order, Order::CatchUp(_)));
        scene.feed.on_order(&scene.store, order, 10);
        scene.deliver();
        slices
    };
    while serve(&mut scene) < 40 {}
    let near = scene.hub.open();
    let start = scene.store.current() - 1;
    scene.create(near, from("k", start));
    while scene.lists.said.get(&near).is_none_or(|said| said.len() < 2) {
        let slices = serve(&mut scene) - 40;
        assert!(slices < 4, "{slices} slices before the one that was nearly there");
    }
    // And all of them are served in turn: none is more than a few slices ahead of another.
    while serve(&mut scene) < 400 {}
    for stream in deep {
        assert!(scene.lists.said[&stream].len() > 5, "{stream:?} is starved");
    }
}

#[test]
fn one_slice_serves_all_who_stand_close_together_and_names_each_range_once() {
    let mut scene = Scene::at(500);
    for start in 0..300 {
        let stream = scene.hub.open();
        scene.create(stream, from("k", 2 + start % 7));
    }
    // The first turn may come before all are subscribed.
    let mut slices = Vec::new();
    loop {
        let mut is_idle = true;
        while let Some(order) = scene.hub.next_order() {
            is_idle = false;
            if let Order::CatchUp(CatchUp { ranges, .. }) = &order {
                slices.push(ranges.len());
            }
            scene.feed.on_order(&scene.store, order, 1_000);
        }
        if !scene.deliver() && is_idle {
            break;
        }
    }
    assert!(slices.len() <= 14, "{slices:?}");
    assert!(slices.iter().all(|&ranges| ranges == 1), "{slices:?}");
}

#[test]
fn a_closed_stream_takes_its_watchers_and_subscriptions_along_and_hears_nothing() {
    let mut scene = Scene::at(9);
    scene.store.compacted = 4;
    let (stream, other) = (scene.hub.open(), scene.hub.open());
    scene.watch(other, on("k"));
    scene.watch(stream, on("k"));
    // Behind with a slice on its way, overtaken, being created, being canceled.
    scene.create(stream, from("k", 5));
    scene.create(stream, from("k", 2));
    scene.store_answers();
    scene.deliver();
    scene.store_answers();
    scene.create(stream, on("new"));
    scene.cancel(stream, 0);
    scene.progress(stream);
    scene.lists.said.clear();
    scene.hub.close(stream);
    scene.puts(1);
    assert_eq!(scene.said(stream), []);
    assert_eq!(scene.feed.subscriptions.len(), 1);
    assert_eq!((scene.hub.watchers_count(), scene.hub.stream_watchers(stream)), (1, 0));
    scene.hub.close(other);
    scene.said(other);
    assert_eq!((scene.feed.subscriptions.len(), scene.hub.bytes_count()), (0, 0));
}

#[test]
fn memory_for_watchers_is_bounded_and_the_refusal_says_what_to_do() {
    let mut scene = Scene::with(HubLimits { watcher_bytes_max: 10_000, ..LIMITS });
    scene.puts(4);
    scene.store.compacted = 3;
    let stream = scene.hub.open();
    for _ in 0..100 {
        scene.create(stream, on("k"));
    }
    let said = scene.said(stream);
    let (taken, refusals): (Vec<Said>, Vec<Said>) = said.into_iter().partition(|said| !said.canceled);
    assert!(taken.len() > 5 && refusals.len() > 5);
    assert_eq!(plain(refusals)[0], refused(5, TOO_MANY));
    assert!(scene.hub.bytes_count() <= 10_000);
    assert_eq!(scene.hub.watchers_count(), taken.len());
    // A long key costs what it takes, and a cancelled watcher gives its cost back.
    for said in taken {
        scene.cancel(stream, said.watch_id);
    }
    scene.said(stream);
    assert_eq!(scene.hub.bytes_count(), 0);
    scene.create(stream, on("k".repeat(20_000).leak()));
    assert_eq!(plain(scene.said(stream)), [refused(5, TOO_MANY)]);
    // Ids that compaction left reserved count, too.
    for _ in 0..1_000 {
        scene.create(stream, from("k", 2));
        scene.said(stream);
    }
    assert!(scene.hub.bytes_count() <= 10_000);
    assert_eq!(scene.hub.watchers_count(), 0);
    scene.hub.close(stream);
    assert_eq!(scene.hub.bytes_count(), 0);
}

#[test]
fn an_order_that_found_the_ring_full_comes_first_again() {
    let mut scene = Scene::at(3);
    let stream = scene.hub.open();
    for key in ["a", "b", "c"] {
        scene.create(stream, on(key));
    }
    let first = scene.hub.next_order().unwrap();
    let second = scene.hub.next_order().unwrap();
    scene.hub.give_back(second.clone());
    scene.hub.give_back(first.clone());
    assert_eq!(scene.hub.waiting_count(stream), 3);
    assert_eq!((scene.hub.next_order(), scene.hub.next_order()), (Some(first), Some(second)));
    assert!(matches!(scene.hub.next_order(), Some(Order::Subscribe { .. })));
    assert_eq!(scene.hub.next_order(), None);
}

#[test]
fn a_watcher_does_not_keep_the_buffer_its_request_came_in() {
    let mut scene = Scene::at(2);
    let stream = scene.hub.open();
    let buffer = Bytes::from(vec![b'x'; 1 << 20]);
    let create = pb::WatchCreateRequest { key: buffer.slice(7..10), ..Default::default() };
    scene.create(stream, create);
    scene.said(stream);
    assert!(buffer.is_unique());
}

#[test]
fn a_hundred_thousand_watchers_on_one_stream_come_and_go() {
    const WATCHERS: usize = 100_000;
    let mut scene = Scene::at(3);
    let stream = scene.hub.open();
    for number in 0..WATCHERS {
        let key = Bytes::from(if number % 2 == 0 { "k".to_owned() } else { format!("k{number}") });
        let start_revision = if number % 10 == 0 { 2 } else { 0 };
        scene.create(stream, pb::WatchCreateRequest { key, start_revision, ..Default::default() });
    }
    assert_eq!(scene.hub.stream_watchers(stream), WATCHERS);
    // Plainer than the model's feed, which goes through all subscriptions for every change.
    while let Some(order) = scene.hub.next_order() {
        let notice = match order {
            Order::Subscribe { token, .. } => Notice::Subscribed { token, current: 3, compacted: 0 },
            Order::CatchUp(CatchUp { token, from, ranges, .. }) => {
                Notice::CaughtUp { token, batch: scene.store.batch(from - 1, 3, &ranges), current: 3 }
            }
            other => panic!("{other:?}"),
        };
        scene.tell(notice);
    }
    let said = scene.lists.said.remove(&stream).unwrap();
    assert_eq!(said.iter().filter(|said| said.created).count(), WATCHERS);
    assert_eq!(said.iter().filter(|said| !said.events.is_empty()).count(), WATCHERS / 10);
    scene.puts(1);
    let everything = WatchRange::new(Bytes::new(), Bytes::from_static(b"\0"));
    let batch = scene.store.batch(3, 4, &[(everything, false)]);
    scene.tell(Notice::Batch(batch));
    assert_eq!(scene.lists.said[&stream].len(), WATCHERS / 2);
    // They go in slices, and others are told meanwhile.
    let other = scene.hub.open();
    scene.create(other, on("k"));
    while let Some(order) = scene.hub.next_order() {
        let Order::Subscribe { token, .. } = order else { panic!("{order:?}") };
        scene.tell(Notice::Subscribed { token, current: 4, compacted: 0 });
    }
    scene.hub.close(stream);
    let mut slices = 0;
    let batch = scene.store.batch(3, 4, &[(WatchRange::new("k".into(), Bytes::new()), false)]);
    let batch = Batch { after: 4, through: 5, events: batch.events.into_iter().map(at_5).collect() };
    while scene.hub.has_work() {
        let mut slice = Slice::new();
        scene.hub.work(&mut slice, &mut scene.lists);
        slice.check();
        slices += 1;
        match slices {
            10 => scene.hub.on_notice(Notice::Batch(batch.clone())),
            // A group of fifty thousand watchers who are gone is passed over in slices, too.
            200 => assert_eq!(scene.lists.said[&other].len(), 2, "created, and the put"),
            _ => {}
        }
    }
    assert!((400..2_000).contains(&slices), "{slices} slices");
    assert!(!scene.lists.said.contains_key(&stream) || scene.lists.said[&stream].len() == WATCHERS / 2);
    assert_eq!(scene.hub.watchers_count(), 1);
    let unsubscribed = std::iter::from_fn(|| scene.hub.next_order()).count();
    assert_eq!(unsubscribed, WATCHERS);
}

fn at_5(event: Event) -> Event {
    Event { revision: 5, ..event }
}

/// A revision of so many puts, of a hundred bytes each.
fn long_revision(after: i64, puts: usize) -> Batch {
    let events = (0..puts).map(|number| Event {
        revision: after + 1,
        key: format!("k{number:06}").into(),
        is_delete: number % 3 == 0,
        body: Bytes::from(vec![u8::try_from(number % 251).unwrap(); 100]),
        previous: Bytes::from_static(b"previous"),
    });
    Batch { after, through: after + 1, events: events.collect() }
}

#[test]
fn a_revision_of_a_hundred_thousand_events_is_told_in_slices_and_is_one_response_to_each_watcher() {
    const PUTS: usize = 100_000;
    let mut scene = Scene::at(5);
    let everything = || pb::WatchCreateRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        ..Default::default()
    };
    let stream = scene.hub.open();
    let wishes = [
        everything(),
        everything(),
        pb::WatchCreateRequest { prev_kv: true, ..everything() },
        pb::WatchCreateRequest { filters: vec![1], ..everything() },
        pb::WatchCreateRequest { fragment: true, ..everything() },
        on("k000017"),
    ];
    for wish in wishes {
        scene.watch(stream, wish);
    }
    let batch = long_revision(5, PUTS);
    scene.hub.on_notice(Notice::Batch(batch.clone()));
    // What comes behind waits until all of it is told, though its watcher leaves and another comes meanwhile.
    scene.hub.on_notice(Notice::Batch(Batch { after: 6, ..long_revision(6, 1) }));
    let mut slices = 0;
    while scene.hub.has_work() {
        let mut slice = Slice::new();
        scene.hub.work(&mut slice, &mut scene.lists);
        assert!(slice.spent_ns() <= 2 * SLICE_NS, "{} ns were spent at once", slice.spent_ns());
        slices += 1;
        if slices == 20 {
            scene.cancel(stream, 0);
        }
    }
    assert!(100 <= slices, "{slices} slices");
    scene.hub.check_invariants();
    let said = scene.lists.said.remove(&stream).unwrap();
    let of = |id: i64, revision: i64| -> Vec<&Said> {
        said.iter().filter(|said| said.watch_id == id && said.revision == revision).collect()
    };
    let told: Vec<(i64, String, bool, bool)> = batch
        .events
        .iter()
        .map(|event| (6, String::from_utf8(event.key.to_vec()).unwrap(), event.is_delete, false))
        .collect();
    let [one] = of(1, 6)[..] else { panic!("one response") };
    assert!(one.events == told && !one.fragment);
    let [with_previous] = of(2, 6)[..] else { panic!("one response") };
    assert!(with_previous.events.len() == PUTS && with_previous.events.iter().all(|event| event.3));
    assert!(one.bytes < with_previous.bytes);
    let [puts] = of(3, 6)[..] else { panic!("one response") };
    assert!(puts.events.iter().eq(told.iter().filter(|event| !event.2)));
    let parts = of(4, 6);
    assert!(5 <= parts.len(), "{} fragments", parts.len());
    assert!(parts.iter().flat_map(|part| &part.events).eq(&told));
    let is_fragment: Vec<bool> = parts.iter().map(|part| part.fragment).collect();
    assert!(!is_fragment[parts.len() - 1] && is_fragment[..parts.len() - 1].iter().all(|&is_part| is_part));
    assert_eq!(of(5, 6)[0].events, [told[17].clone()]);
    // The watcher that was canceled got all of the revision or nothing, and nothing behind it.
    assert!(of(0, 6).len() <= 1 && of(0, 7).is_empty());
    assert_eq!(of(1, 7).len(), 1);
}

#[test]
fn a_watcher_of_puts_is_told_without_a_look_at_the_deletions_around_them_in_one_go() {
    const EVENTS: usize = 100_000;
    let mut scene = Scene::at(5);
    let puts_of = |from: usize, to: usize| pb::WatchCreateRequest {
        key: format!("k{from:06}").into(),
        range_end: format!("k{to:06}").into(),
        filters: vec![FilterType::Nodelete.into()],
        ..Default::default()
    };
    let stream = scene.hub.open();
    for wish in [puts_of(0, EVENTS), puts_of(0, 60_000), puts_of(0, 50_000)] {
        scene.watch(stream, wish);
    }
    let mut batch = long_revision(5, EVENTS);
    for (number, event) in batch.events.iter_mut().enumerate() {
        // Two puts among the deletions.
        event.is_delete = ![50_000, 70_000].contains(&number);
    }
    scene.hub.on_notice(Notice::Batch(batch));
    while scene.hub.has_work() {
        let mut slice = Slice::new();
        scene.hub.work(&mut slice, &mut scene.lists);
        assert!(slice.spent_ns() <= 2 * SLICE_NS, "{} ns were spent at once", slice.spent_ns());
    }
    let said = scene.lists.said.remove(&stream).unwrap();
    let told: Vec<_> = said.iter().filter(|said| !said.events.is_empty()).collect();
    let mut events: Vec<_> = told.iter().map(|said| (said.watch_id, said.events.len(), said.span)).collect();
    events.sort_unstable();
    assert_eq!(events, [(0, 2, 0), (1, 1, 1)], "the first one is joined in slices");
}

#[test]
fn the_ranges_of_a_stream_of_a_hundred_thousand_watchers_are_named_in_slices_each_once() {
    const WATCHERS: i64 = 100_000;
    let mut scene = Scene::at(2);
    let stream = scene.hub.open();
    for number in 0..WATCHERS {
        let key = format!("k{number}").into();
        scene.create(stream, pb::WatchCreateRequest { key, ..Default::default() });
    }
    let (mut last, mut slices, mut named) = (None, 0, 0);
    loop {
        let mut slice = Slice::of(TURN_NS_IN_COMPANY);
        let page = scene.hub.ranges(stream, last, &mut slice);
        assert!(
            slice.spent_ns() <= TURN_NS_IN_COMPANY + KEY_NS,
            "{} ns were spent at once",
            slice.spent_ns()
        );
        let Some((watch_id, range)) = page.last() else { break };
        assert!(scene.hub.watches(stream, *watch_id, range));
        assert!(last < Some(*watch_id));
        last = Some(*watch_id);
        named += i64::try_from(page.len()).unwrap();
        slices += 1;
    }
    assert_eq!(named, WATCHERS);
    assert!(100 < slices, "{slices} slices");
    // An id that another watcher has by now is not the one that was asked for.
    let range = WatchRange::new("other".into(), Bytes::new());
    assert!(!scene.hub.watches(stream, 0, &range));
}
