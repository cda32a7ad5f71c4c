//! The sequence of watch, lease, lock and election calls: a seeded one, and some that are written out.
//!
//! A step is a function of the seed and of what the reference answered, so both servers get the same.

use bytes::Bytes;
use pinion_kit::pb::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::generate::Request;

#[derive(Debug, Clone)]
pub enum Step {
    Kv(Request),
    Create {
        stream: usize,
        request: pb::WatchCreateRequest,
    },
    Cancel {
        stream: usize,
        id: i64,
    },
    Progress {
        stream: usize,
    },
    /// A request with no union set.
    Nothing {
        stream: usize,
    },
    HalfClose {
        stream: usize,
    },
    /// The client goes away.
    Reset {
        stream: usize,
    },
    Grant {
        ttl: i64,
        id: i64,
    },
    /// A lease too short to stay: revoked at once.
    GrantAndRevoke {
        ttl: i64,
        id: i64,
    },
    Revoke {
        id: i64,
    },
    KeepAlive {
        id: i64,
    },
    TimeToLive {
        id: i64,
        keys: bool,
    },
    Leases,
    /// A lease of the shortest kind with these keys; the step ends when they are gone.
    Expire {
        id: i64,
        keys: Vec<Bytes>,
    },
    /// Waits if another lease holds the lock; then the holder's key is unlocked.
    Lock {
        name: Bytes,
        lease: i64,
    },
    /// Waits for a lock that another lease holds, and gives up.
    AbandonLock {
        name: Bytes,
        lease: i64,
    },
    Unlock {
        key: Bytes,
    },
    /// Only where nobody else leads.
    Campaign {
        name: Bytes,
        lease: i64,
        value: Bytes,
    },
    /// By the last leader key that a campaign of that name gave, or by one that is off by `wrong`.
    Proclaim {
        name: Bytes,
        value: Bytes,
        wrong: i64,
    },
    Leader {
        name: Bytes,
    },
    Resign {
        name: Bytes,
        wrong: i64,
    },
    /// The first answer of an observer.
    Observe {
        name: Bytes,
    },
}

/// What the reference's answers say about the state of things.
#[derive(Debug, Default)]
pub struct World {
    pub revision: i64,
    pub compacted: i64,
    /// Open streams, each with whether the client still sends, and its live watchers' ids.
    pub streams: Vec<(usize, bool, Vec<i64>)>,
    pub leases: Vec<i64>,
    /// Lock names that somebody holds, each with the holder's key.
    pub held: Vec<(Bytes, Bytes)>,
}

const KEYS: [&[u8]; 12] =
    [b"\0", b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"ba", b"c", b"d/1", b"d/2", b"\xff"];
const RANGE_ENDS: [&[u8]; 9] = [b"\0", b"\0\0", b"a", b"b", b"c", b"d0", b"\xff", b"\xff\xff", b"b\xff\0"];
const VALUES: [&[u8]; 5] = [b"", b"0", b"1", b"value", b"\xff\xfe not UTF-8"];
const IDS: [i64; 9] = [0, 0, 0, 1, 2, -1, -7, i64::MAX, i64::MIN];
const LEASES: [i64; 6] = [7, 8, 0x6c65, -3, i64::MIN, i64::MAX];
/// None is a prefix of a key above: a lock waits for every older key below its name.
const NAMES: [&[u8]; 4] = [b"lock", b"", b"l", b"x/y"];
const ELECTIONS: [&[u8]; 2] = [b"elect", b"e"];

/// A lease that lives longer than any script.
const LONG_TTL: i64 = 4_000;

pub struct Script {
    rng: StdRng,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    pub fn next_step(&mut self, world: &World) -> Step {
        match self.rng.random_range(0..1_000) {
            0..230 => Step::Kv(Request::Put(self.put(world))),
            230..330 => Step::Kv(Request::Delete(self.delete())),
            330..430 => Step::Kv(Request::Txn(self.txn(world))),
            430..460 => Step::Kv(Request::Compact(self.compaction(world))),
            460..690 => Step::Create { stream: self.stream(world), request: self.create(world) },
            690..750 => {
                let (stream, id) = self.watcher(world);
                Step::Cancel { stream, id }
            }
            750..800 => Step::Progress { stream: self.stream(world) },
            800..815 => Step::Nothing { stream: self.stream(world) },
            815..830 => Step::HalfClose { stream: self.stream(world) },
            830..850 => Step::Reset { stream: self.stream(world) },
            850..880 => self.grant(),
            880..895 => Step::Revoke { id: self.lease(world) },
            895..910 => Step::KeepAlive { id: self.lease(world) },
            910..935 => Step::TimeToLive { id: self.lease(world), keys: self.one_in(2) },
            935..940 => Step::Leases,
            940..960 => Step::Lock { name: self.pick(&NAMES), lease: self.lease(world) },
            960..965 => Step::AbandonLock { name: self.pick(&NAMES), lease: self.lease(world) },
            965..975 => Step::Unlock { key: self.held_key(world) },
            975..982 => Step::Campaign {
                name: self.pick(&ELECTIONS),
                lease: self.lease(world),
                value: self.pick(&VALUES),
            },
            982..987 => {
                let wrong = i64::from(self.one_in(4));
                Step::Proclaim { name: self.pick(&ELECTIONS), value: self.pick(&VALUES), wrong }
            }
            987..992 => Step::Leader { name: self.pick(&ELECTIONS) },
            992..996 => Step::Observe { name: self.pick(&ELECTIONS) },
            _ => {
                let wrong = i64::from(self.one_in(4));
                Step::Resign { name: self.pick(&ELECTIONS), wrong }
            }
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn pick(&mut self, from: &[&'static [u8]]) -> Bytes {
        Bytes::from_static(from[self.rng.random_range(0..from.len())])
    }

    fn put(&mut self, world: &World) -> pb::PutRequest {
        pb::PutRequest {
            key: self.pick(&KEYS),
            value: self.pick(&VALUES),
            lease: if self.one_in(3) { self.lease(world) } else { 0 },
            prev_kv: self.one_in(4),
            ignore_lease: false,
            ignore_value: false,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let range_end = if self.one_in(5) { self.pick(&RANGE_ENDS) } else { Bytes::new() };
        pb::DeleteRangeRequest { key: self.pick(&KEYS), range_end, prev_kv: self.one_in(4) }
    }

    /// Changes of several keys in one revision.
    fn txn(&mut self, world: &World) -> pb::TxnRequest {
        use pb::request_op::Request as Op;
        let count = self.rng.random_range(1..6);
        let mut success = Vec::new();
        for _ in 0..count {
            let op = if self.one_in(3) {
                Op::RequestDeleteRange(self.delete())
            } else {
                Op::RequestPut(self.put(world))
            };
            success.push(pb::RequestOp { request: Some(op) });
        }
        pb::TxnRequest { success, ..Default::default() }
    }

    fn compaction(&mut self, world: &World) -> pb::CompactionRequest {
        let revision = self.rng.random_range(world.compacted.min(world.revision)..=world.revision);
        pb::CompactionRequest { revision, physical: self.one_in(2) }
    }

    fn stream(&mut self, world: &World) -> usize {
        let open: Vec<usize> =
            world.streams.iter().filter(|(_, sends, _)| *sends).map(|(stream, ..)| *stream).collect();
        if open.is_empty() || (world.streams.len() < 5 && self.one_in(5)) {
            // Streams are numbered as they are opened and never reopened.
            return usize::MAX;
        }
        open[self.rng.random_range(0..open.len())]
    }

    fn watcher(&mut self, world: &World) -> (usize, i64) {
        let stream = self.stream(world);
        let ids = world.streams.iter().find(|(name, ..)| *name == stream).map(|(_, _, ids)| ids.as_slice());
        match ids {
            Some(ids) if !ids.is_empty() && !self.one_in(5) => {
                (stream, ids[self.rng.random_range(0..ids.len())])
            }
            _ => (stream, IDS[self.rng.random_range(0..IDS.len())]),
        }
    }

    fn create(&mut self, world: &World) -> pb::WatchCreateRequest {
        let start_revision = match self.rng.random_range(0..24) {
            0..6 | 15..23 => 0,
            6..10 => self.rng.random_range(world.compacted.max(1)..=world.revision.max(world.compacted + 1)),
            10 => world.revision,
            11 => world.revision + 1,
            12 => world.revision + self.rng.random_range(2..20),
            13 => world.compacted,
            14 => self.rng.random_range(0..=world.compacted.max(1)),
            _ => [-1, -5, i64::MIN, 1, i64::MAX][self.rng.random_range(0..5)],
        };
        let range_end = match self.rng.random_range(0..10) {
            0..4 => Bytes::new(),
            4..6 => Bytes::from_static(b"\0"),
            _ => self.pick(&RANGE_ENDS),
        };
        let filters = (0..self.rng.random_range(0..8u32).saturating_sub(5))
            .map(|_| [0, 1, 1, 7][self.rng.random_range(0..4)])
            .collect();
        pb::WatchCreateRequest {
            key: if self.one_in(10) { Bytes::new() } else { self.pick(&KEYS) },
            range_end,
            start_revision,
            progress_notify: self.one_in(8),
            filters,
            prev_kv: self.one_in(2),
            watch_id: IDS[self.rng.random_range(0..IDS.len())],
            fragment: self.one_in(4),
        }
    }

    fn grant(&mut self) -> Step {
        let id = if self.one_in(4) { 0 } else { LEASES[self.rng.random_range(0..LEASES.len())] };
        match self.rng.random_range(0..12) {
            0 => Step::GrantAndRevoke { ttl: 0, id },
            1 => Step::GrantAndRevoke { ttl: [-1, i64::MIN][self.rng.random_range(0..2)], id },
            2 => Step::Grant { ttl: 9_000_000_001, id },
            3 => Step::Grant { ttl: i64::MAX, id },
            4 => Step::Grant { ttl: 9_000_000_000, id },
            _ => Step::Grant { ttl: LONG_TTL, id },
        }
    }

    fn lease(&mut self, world: &World) -> i64 {
        if world.leases.is_empty() || self.one_in(10) {
            return LEASES[self.rng.random_range(0..LEASES.len())];
        }
        world.leases[self.rng.random_range(0..world.leases.len())]
    }

    fn held_key(&mut self, world: &World) -> Bytes {
        if world.held.is_empty() || self.one_in(4) {
            return Bytes::from_static(b"lock/nobody");
        }
        world.held[self.rng.random_range(0..world.held.len())].1.clone()
    }
}

/// What chance finds too rarely, in the order a reader would try it.
pub fn written_out() -> Vec<Step> {
    let mut steps = Vec::new();
    let put = |key: &'static str, value: Bytes, lease: i64| {
        Step::Kv(Request::Put(pb::PutRequest { key: key.into(), value, lease, ..Default::default() }))
    };
    let create = |watch_id, key: &'static [u8], range_end: &'static [u8]| pb::WatchCreateRequest {
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(range_end),
        watch_id,
        ..Default::default()
    };
    let watch = |stream: usize, request: pb::WatchCreateRequest| Step::Create { stream, request };

    // Before anything was written: progress without watchers, negative and future starts, no union.
    steps.push(Step::Progress { stream: usize::MAX });
    steps.push(Step::Nothing { stream: 0 });
    steps.push(watch(usize::MAX, pb::WatchCreateRequest { start_revision: -1, ..create(0, b"a", b"") }));
    steps.push(watch(0, pb::WatchCreateRequest { start_revision: 5, ..create(0, b"a", b"\0") }));
    steps.push(Step::Progress { stream: 0 });
    for number in 0..6 {
        steps.push(put("a", format!("{number}").into(), 0));
    }
    steps.push(Step::Progress { stream: 0 });

    // Ids: assigned, in use, negative, again after cancel; cancel of unknown ones.
    for id in [0, 1, -1, 2, 0, 0] {
        steps.push(watch(0, create(id, b"a", b"")));
    }
    steps.push(watch(0, create(2, b"a", b"")));
    steps.push(Step::Cancel { stream: 0, id: 99 });
    steps.push(Step::Cancel { stream: 0, id: 2 });
    steps.push(Step::Cancel { stream: 0, id: 2 });
    steps.push(watch(0, create(2, b"a", b"b")));
    steps.push(watch(0, create(0, b"a", b"")));
    // Ranges: empty ones, the empty key, all keys, from a key.
    for (key, range_end) in [
        (&b"b"[..], &b"a"[..]),
        (b"b", b"b"),
        (b"", b""),
        (b"", b"\0"),
        (b"", b"b"),
        (b"a", b"\0"),
        (b"\0", b"\0"),
        (b"a", b"\0\0"),
    ] {
        steps.push(watch(0, pb::WatchCreateRequest { start_revision: 2, ..create(0, key, range_end) }));
    }
    steps.push(put("\0", "nul".into(), 0));
    steps.push(put("b", "beyond".into(), 0));
    steps.push(Step::Progress { stream: 0 });

    // Compaction: starts below, at and above; prev_kv that is gone; the id stays until cancelled.
    let compaction = pb::CompactionRequest { revision: 5, physical: true };
    steps.push(Step::Kv(Request::Compact(compaction)));
    for start_revision in [-3, 1, 2, 4, 5, 6] {
        let request = pb::WatchCreateRequest { start_revision, prev_kv: true, ..create(0, b"a", b"\0") };
        steps.push(watch(usize::MAX, request));
    }
    let last = 7;
    steps.push(watch(last, pb::WatchCreateRequest { start_revision: 2, ..create(40, b"a", b"") }));
    steps.push(Step::Progress { stream: last });
    steps.push(watch(last, create(40, b"a", b"")));
    steps.push(Step::Cancel { stream: last, id: 40 });
    steps.push(Step::Progress { stream: last });
    steps.push(watch(last, create(40, b"a", b"")));

    // Filters, unknown ones too.
    for filters in [vec![0], vec![1], vec![0, 1], vec![1, 1], vec![9]] {
        let request = pb::WatchCreateRequest { filters, prev_kv: true, ..create(0, b"a", b"\0") };
        steps.push(watch(last, request));
    }
    steps.push(put("a", "to be deleted".into(), 0));
    let all = pb::DeleteRangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        prev_kv: true,
    };
    steps.push(Step::Kv(Request::Delete(all)));

    // Leases: bounds, ids, attach, re-attach, detach, revoke with events in key order, expiry.
    for (ttl, id) in
        [(9_000_000_000, 70), (9_000_000_001, 71), (i64::MAX, 72), (500, 70), (500, 0), (500, -9)]
    {
        steps.push(Step::Grant { ttl, id });
    }
    for ttl in [0, -1, i64::MIN, 1] {
        steps.push(Step::GrantAndRevoke { ttl, id: 73 });
    }
    for key in ["z", "m", "a", "m2"] {
        steps.push(put(key, "leased".into(), 70));
    }
    steps.push(Step::TimeToLive { id: 70, keys: true });
    steps.push(put("m", "moved".into(), -9));
    steps.push(put("a", "detached".into(), 0));
    steps.push(put("z", "unknown lease".into(), 12_345));
    steps.push(Step::TimeToLive { id: 70, keys: true });
    steps.push(Step::TimeToLive { id: -9, keys: true });
    steps.push(Step::TimeToLive { id: -9, keys: false });
    steps.push(Step::TimeToLive { id: 4_711, keys: true });
    steps.push(Step::KeepAlive { id: 70 });
    steps.push(Step::KeepAlive { id: 4_711 });
    steps.push(Step::KeepAlive { id: 0 });
    steps.push(Step::Leases);
    steps.push(Step::Revoke { id: 70 });
    steps.push(Step::Revoke { id: 70 });
    steps.push(Step::Revoke { id: 0 });
    steps.push(Step::Expire { id: 74, keys: vec!["x".into(), "b".into(), "n".into()] });
    steps.push(Step::TimeToLive { id: 74, keys: true });
    steps.push(Step::KeepAlive { id: 74 });

    // Locks: free, again by the holder, contended, abandoned, without a lease, of an unknown lease.
    steps.push(Step::Grant { ttl: 600, id: 0x80 });
    steps.push(Step::Grant { ttl: 600, id: 0x81 });
    for (name, lease) in
        [("l", 0x80), ("l", 0x80), ("l", 0x81), ("l", 0x80), ("", 0x80), ("l2", 0), ("l", 666)]
    {
        steps.push(Step::Lock { name: name.into(), lease });
    }
    steps.push(Step::AbandonLock { name: "l".into(), lease: 0x81 });
    steps.push(Step::Unlock { key: "l/80".into() });
    steps.push(Step::Unlock { key: "l/80".into() });
    steps.push(Step::Unlock { key: "".into() });

    // Elections: nobody, a campaign, again with another value, proclaims and resigns, right and wrong.
    steps.push(Step::Leader { name: "e".into() });
    steps.push(Step::Campaign { name: "e".into(), lease: 0x80, value: "one".into() });
    steps.push(Step::Leader { name: "e".into() });
    steps.push(Step::Campaign { name: "e".into(), lease: 0x80, value: "two".into() });
    steps.push(Step::Proclaim { name: "e".into(), value: "three".into(), wrong: 0 });
    steps.push(Step::Proclaim { name: "e".into(), value: "four".into(), wrong: 1 });
    steps.push(Step::Proclaim { name: "nobody".into(), value: "five".into(), wrong: 0 });
    steps.push(Step::Observe { name: "e".into() });
    steps.push(Step::Resign { name: "e".into(), wrong: 1 });
    steps.push(Step::Leader { name: "e".into() });
    steps.push(Step::Resign { name: "e".into(), wrong: 0 });
    steps.push(Step::Resign { name: "e".into(), wrong: 0 });
    steps.push(Step::Resign { name: "nobody".into(), wrong: 0 });
    steps.push(Step::Leader { name: "e".into() });
    steps.push(Step::Campaign { name: "e".into(), lease: 666, value: "of an unknown lease".into() });
    steps.push(Step::Campaign { name: "e0".into(), lease: 0, value: "of a new lease".into() });
    steps.push(Step::Campaign { name: "".into(), lease: 0x81, value: "".into() });

    // Half closed: what was asked for goes on.
    steps.push(Step::HalfClose { stream: 0 });
    steps.push(put("a", "after the half close".into(), 0));
    steps.push(Step::Reset { stream: 0 });
    steps.push(put("a", "after the reset".into(), 0));
    steps
}

/// Revisions of more than 2 MiB, to watchers with and without `fragment`, as they happen and as history.
pub fn fragments() -> Vec<Step> {
    use pb::request_op::Request as Op;
    let large = |key: usize, bytes: usize, fill: u8| pb::RequestOp {
        request: Some(Op::RequestPut(pb::PutRequest {
            key: format!("f/{key}").into(),
            value: vec![fill; bytes].into(),
            ..Default::default()
        })),
    };
    let txn = |sizes: &[usize], fill| {
        let success = sizes.iter().enumerate().map(|(key, bytes)| large(key, *bytes, fill)).collect();
        Step::Kv(Request::Txn(pb::TxnRequest { success, ..Default::default() }))
    };
    let create = |fragment, prev_kv, start_revision| Step::Create {
        stream: 0,
        request: pb::WatchCreateRequest {
            key: "f/".into(),
            range_end: "f0".into(),
            fragment,
            prev_kv,
            start_revision,
            ..Default::default()
        },
    };
    let mut steps = vec![Step::Nothing { stream: usize::MAX }];
    steps.extend([create(true, false, 0), create(true, true, 0), create(false, true, 0)]);
    // Below the bound alone, above it with the previous values.
    steps.push(txn(&[700_000, 300_000, 400_000], b'a'));
    steps.push(txn(&[400_000, 300_000, 700_000], b'b'));
    steps.push(txn(&[1_200_000, 200_000], b'c'));
    steps.push(txn(&[500_000, 500_000, 400_000], b'h'));
    steps.push(txn(&[200_000, 900_000, 300_000], b'i'));
    steps.push(txn(&[300_000, 300_000, 800_000], b'j'));
    steps.push(txn(&[10, 10, 10], b'd'));
    // One event alone can be larger than a part.
    steps.push(txn(&[1_400_000], b'e'));
    steps.push(txn(&[1_400_000], b'f'));
    steps.push(create(true, false, 2));
    steps.push(create(true, true, 3));
    steps.push(create(false, false, 2));
    steps.push(txn(&[1, 2, 3], b'g'));
    steps
}
