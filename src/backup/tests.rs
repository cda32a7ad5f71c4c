//! Out and in again, in our own words: what real etcds say of the files is `tests/backup`.

use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::bbolt::Reader;
use super::{Contents, Export, ImportError, import};
use crate::apply::{Applied, Machine};
use crate::auth::Record;
use crate::membership::Cluster;
use crate::mvcc::Store;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::{authpb, peer};
use crate::request::{EntryId, Origin, Request, RequestKind};
use crate::types::{KeyRange, LogIndex, MemberId, Slice, Term, Ticket};

fn machine() -> Machine {
    let voter = peer::MemberRecord {
        id: u64::MAX - 7,
        name: "m\"1".into(),
        peer_urls: vec!["http://a:2380".into()],
        ..Default::default()
    };
    let learner = peer::MemberRecord { id: 9, learner: true, ..Default::default() };
    let record = peer::Membership { cluster_id: 5, members: vec![voter, learner], removed: vec![3] };
    Machine::new(Store::new(), Cluster::decode(record.encode_to_vec().into()).unwrap())
}

fn apply(machine: &mut Machine, kind: RequestKind, body: &impl Message) -> bool {
    let origin = Origin { member: MemberId(1), ticket: Ticket(1) };
    let request = Request { origin, kind, body: body.encode_to_vec().into(), login: None };
    let applied = machine.apply(&request, EntryId { index: LogIndex(7), term: Term(2) });
    drop(machine.take_lease_changes());
    !matches!(applied, Applied::Now(Err(_)))
}

/// Changes something.
fn step(machine: &mut Machine, random: &mut StdRng) {
    let key = |random: &mut StdRng| format!("k{}", random.random_range(0..40)).into_bytes();
    let put = |random: &mut StdRng| pb::PutRequest {
        key: key(random).into(),
        // Some have pages of their own.
        value: vec![b'v'; [0, 1, 100, 4_100, 30_000][random.random_range(0..5)]].into(),
        lease: if random.random_range(0..4) == 0 { random.random_range(1..4) } else { 0 },
        ..Default::default()
    };
    match random.random_range(0..20) {
        0..9 => drop(apply(machine, RequestKind::Put, &put(random))),
        9..12 => {
            let request = pb::DeleteRangeRequest { key: key(random).into(), ..Default::default() };
            apply(machine, RequestKind::DeleteRange, &request);
        }
        12 => {
            let request = pb::DeleteRangeRequest {
                key: key(random).into(),
                range_end: "k3".into(),
                ..Default::default()
            };
            apply(machine, RequestKind::DeleteRange, &request);
        }
        13..15 => {
            let ops = (0..3).map(|_| pb::RequestOp { request: Some(Op::RequestPut(put(random))) });
            apply(
                machine,
                RequestKind::Txn,
                &pb::TxnRequest { success: ops.collect(), ..Default::default() },
            );
        }
        15 => {
            let (old, new) = (machine.store().compact_revision(), machine.store().current_revision());
            let revision = random.random_range(old..=new);
            apply(machine, RequestKind::Compact, &pb::CompactionRequest { revision, physical: false });
            machine.work_slice(random.random_range(1..200));
        }
        16..18 => {
            let id = [1, 2, 3, -4][random.random_range(0..4)];
            apply(machine, RequestKind::LeaseGrant, &pb::LeaseGrantRequest { id, ttl: 60 });
        }
        18 => {
            let name = format!("u{}", random.random_range(0..9));
            let user = pb::AuthUserAddRequest { name, hashed_password: "YWJj".into(), ..Default::default() };
            apply(machine, RequestKind::UserAdd, &user);
        }
        _ => {
            let name = format!("r{}", random.random_range(0..9));
            apply(machine, RequestKind::RoleAdd, &pb::AuthRoleAddRequest { name: name.clone() });
            let permission =
                authpb::Permission { perm_type: 2, key: key(random).into(), ..Default::default() };
            let perm = Some(permission);
            apply(
                machine,
                RequestKind::RoleGrantPermission,
                &pb::AuthRoleGrantPermissionRequest { name, perm },
            );
        }
    }
}

/// What both sides must agree on.
#[derive(Debug, PartialEq)]
struct Told {
    revision: i64,
    compacted: i64,
    hashes: Vec<u32>,
    keys: Vec<(Vec<u8>, i64, i64)>,
    leases: Vec<(i64, u64, Vec<Vec<u8>>)>,
    realm: (bool, u64, Vec<Record>),
}

fn told(machine: &Machine) -> Told {
    let store = machine.store();
    let (revision, compacted) = (store.current_revision(), store.compact_revision());
    let first = compacted.max(revision - 30).max(1);
    let all = KeyRange::From(&[]);
    let leases = machine
        .leases()
        .iter()
        .map(|(id, lease)| (id.0, lease.ttl_s(), lease.keys().map(<[u8]>::to_vec).collect()));
    let realm = machine.realm();
    Told {
        revision,
        compacted,
        hashes: (first..=revision).map(|at| store.hash_kv(at).hash).collect(),
        keys: store.scan(all, revision).map(|kv| (kv.key.to_vec(), kv.version, kv.lease)).collect(),
        leases: leases.collect(),
        realm: (realm.is_enabled(), realm.revision(), realm.records().collect()),
    }
}

/// The file of an export, made in slices of random sizes; between two of them `meanwhile` has its turn.
fn file(
    machine: &mut Machine,
    random: &mut StdRng,
    mut meanwhile: impl FnMut(&mut Machine, &mut StdRng),
) -> Vec<u8> {
    let mut export = Export::begin(machine, LogIndex(77), Term(3));
    let length = loop {
        let mut slice = Slice::of(random.random_range(1..40_000));
        if let Some(length) = export.measure(machine.store(), &mut slice) {
            break length;
        }
        meanwhile(machine, random);
    };
    let mut bytes = Vec::new();
    loop {
        let mut slice = Slice::of(random.random_range(1..40_000));
        let mut piece = Vec::new();
        let full = random.random_range(1..20_000);
        let is_done = export.write(machine.store(), &mut slice, full, &mut piece);
        bytes.extend_from_slice(&piece);
        if is_done {
            break;
        }
        meanwhile(machine, random);
    }
    export.end(machine);
    assert_eq!(bytes.len() as u64, length);
    bytes
}

fn read(bytes: &[u8]) -> Result<Contents, ImportError> {
    import(&mut Reader::open(bytes, bytes.len() as u64)?, 0, |_| {})
}

fn restored(contents: Contents) -> Machine {
    let Contents { store, leases, alarms, realm, .. } = contents;
    store.check_invariants();
    let cluster = Cluster::bootstrap([&["http://b:2380".to_owned()][..]], "t");
    Machine::of_backup((store, leases), cluster, alarms, realm, Default::default())
}

#[test]
fn a_file_is_the_state_at_its_beginning_whatever_is_written_and_compacted_meanwhile() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut machine = machine();
        for _ in 0..random.random_range(0..300) {
            step(&mut machine, &mut random);
        }
        let before = told(&machine);
        let bytes = file(&mut machine, &mut random, |machine, random| {
            (0..random.random_range(0..3)).for_each(|_| step(machine, random));
            machine.work_slice(100);
        });
        let contents = read(&bytes).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!((contents.meta.consistent_index, contents.meta.term), (77, 3));
        assert_eq!(contents.members.len(), 2);
        assert_eq!((contents.members[1].id, &*contents.members[1].name), (u64::MAX - 7, "m\"1"));
        assert!(contents.members[0].is_learner);
        assert_eq!(contents.removed, [3]);
        let mut again = restored(contents);
        assert_eq!(told(&again), before, "seed {seed}");
        // It goes on as any other.
        for _ in 0..50 {
            step(&mut again, &mut random);
        }
        while !again.work_slice(1_000) {}
        again.store().check_invariants();
        let second = file(&mut again, &mut random, |_, _| {});
        assert_eq!(told(&restored(read(&second).unwrap())), told(&again), "seed {seed}");
    }
}

#[test]
fn several_exports_run_side_by_side_and_the_last_to_end_lets_compaction_go_on() {
    let mut random = StdRng::seed_from_u64(5);
    let mut machine = machine();
    (0..200).for_each(|_| step(&mut machine, &mut random));
    let exports: Vec<Export> = (0..3).map(|_| Export::begin(&mut machine, LogIndex(1), Term(1))).collect();
    let revision = machine.store().current_revision();
    let compaction = pb::CompactionRequest { revision, physical: false };
    assert!(apply(&mut machine, RequestKind::Compact, &compaction));
    for export in exports {
        assert!(machine.work_slice(usize::MAX));
        assert!(machine.store().is_compacting());
        export.end(&mut machine);
    }
    while !machine.work_slice(usize::MAX) {}
    assert!(!machine.store().is_compacting());
}

#[test]
fn every_flipped_bit_is_an_error_or_a_state_whose_invariants_hold() {
    let mut random = StdRng::seed_from_u64(11);
    let mut machine = machine();
    for _ in 0..60 {
        step(&mut machine, &mut random);
    }
    let mut bytes = file(&mut machine, &mut random, |_, _| {});
    let (mut refused, mut taken) = (0, 0);
    for at in (0..bytes.len()).filter(|at| at % 7 == 0) {
        let bit = 1 << (at / 7 % 8);
        // Padding, of which there is most.
        if bytes[at] == 0 && at % 5 != 0 || bytes[at] == b'v' && at % 301 != 0 {
            continue;
        }
        bytes[at] ^= bit;
        match read(&bytes) {
            Ok(contents) => {
                contents.store.check_invariants();
                taken += 1;
            }
            Err(_) => refused += 1,
        }
        bytes[at] ^= bit;
    }
    assert!(100 < refused && 100 < taken, "{refused} refused, {taken} taken");
}
