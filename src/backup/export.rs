//! A snapshot as etcd makes one: the whole state of one applied index as a bbolt file, in slices while writing goes on.
//!
//! A file says at its front how long it is. So an export runs twice over the state that it has pinned: once to number
//! the pages, once for their bytes, which are made as they leave. In between it holds a page of each level of one
//! tree, and of the state what is small: members, alarms, one word for each user and role, 24 bytes for each lease.
//!
//! ```text
//! begin ─► measure, slice by slice ─► the length ─► write, piece by piece ─► end
//! ```
//!
//! Left out is what etcd has no place for: the format level, the groups that were applied, parts of requests that are
//! not whole yet, when a lease was granted. Of the v2 API: times to live, directories without a key, and the marks of
//! changes, so that what is restored reads as set, and stays.
//!
//! Invariants: both passes number the pages alike; what is written is as long as was told.
//! Compatibility: the buckets and entries of etcd 3.7. 3.4 to 3.6 restore it too: they ignore what they do not know.

use std::iter::Peekable;
use std::ops::ControlFlow;

use prost::Message as _;

use super::bbolt::write::{is_large, put_buckets, put_metas};
use super::bbolt::{Bucket, Layout, Root};
use super::schema::{self, RevisionKey};
use crate::apply::Machine;
use crate::apply::machine::ETCD_VERSION;
use crate::auth::Record;
use crate::membership::{Cluster, Member};
use crate::mvcc::{self, Change, ExportCursor, Store};
use crate::pb::etcdserverpb as pb;
use crate::types::format::ETCD_STORAGE_VERSION;
use crate::types::proto::{
    INT_FIELD_LEN_MAX, bytes_field_len, int_field_len, put_bytes_field, put_int_field, put_message_head,
    put_uint_field,
};
use crate::types::{LogIndex, Revision, Slice, Term};

/// An export under way. Must be given to `end`.
#[must_use = "it pins the history"]
pub struct Export {
    key_space: mvcc::Export,
    /// Buckets of a handful of entries each: name, and entries in the order of their keys.
    small: Vec<(&'static str, Entries)>,
    /// In the order of their encoded ids.
    leases: Vec<LeaseRecord>,
    /// Users and roles for the second pass.
    realm: Option<RealmRecords>,
    pass: Pass,
    /// Root of the file and all its pages, once it is measured.
    measured: Option<(u64, Layout)>,
    written_bytes: u64,
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

type RealmRecords = Peekable<Box<dyn Iterator<Item = Record> + Send>>;

#[derive(Debug, Clone, Copy)]
struct LeaseRecord {
    id: u64,
    ttl_s: u64,
    remaining_s: u64,
}

/// One of the two passes.
struct Pass {
    layout: Layout,
    stage: Stage,
    bucket: Bucket,
    roots: Vec<(&'static str, Root)>,
    realm: RealmRecords,
    keys: ExportCursor,
    partial: Option<Partial>,
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Metas,
    Small(usize),
    Users,
    Roles,
    Lease(usize),
    Keys,
    Buckets,
    Done,
}

/// A large version of which not all is written.
#[derive(Debug, Clone, Copy)]
struct Partial {
    seq: u64,
    /// Bytes of the value that are written.
    written: usize,
    /// Zeros behind it.
    padding: usize,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key_space, pass, written_bytes, .. } = self;
        f.debug_struct("Export")
            .field("key_space", key_space)
            .field("stage", &pass.stage)
            .field("written_bytes", written_bytes)
            .finish_non_exhaustive()
    }
}

impl Pass {
    fn new(layout: Layout, realm: RealmRecords) -> Self {
        Self {
            layout,
            stage: Stage::Metas,
            bucket: Bucket::default(),
            roots: Vec::new(),
            realm,
            keys: ExportCursor::default(),
            partial: None,
        }
    }

    fn close(&mut self, name: &'static str, next: Stage, out: &mut Vec<u8>) {
        let root = std::mem::take(&mut self.bucket).close(&mut self.layout, out);
        self.roots.push((name, root));
        self.stage = next;
    }
}

fn realm_records(machine: &Machine) -> RealmRecords {
    (Box::new(machine.realm().records()) as Box<dyn Iterator<Item = Record> + Send>).peekable()
}

impl Export {
    /// Starts an export of the present state, the one after the entry `applied` of this term.
    pub fn begin(machine: &mut Machine, applied: LogIndex, term: Term) -> Self {
        let mut leases: Vec<LeaseRecord> = machine
            .leases()
            .iter()
            .map(|(id, lease)| LeaseRecord {
                id: id.0.cast_unsigned(),
                ttl_s: lease.ttl_s(),
                remaining_s: lease.remaining_s(),
            })
            .collect();
        leases.sort_unstable_by_key(|lease| lease.id);
        let small = small_buckets(machine, applied, term);
        let realm = Some(realm_records(machine));
        let pass = Pass::new(Layout::counting(), realm_records(machine));
        let key_space = machine.begin_export();
        Self { key_space, small, leases, realm, pass, measured: None, written_bytes: 0 }
    }

    /// Gives up what the export has pinned.
    pub fn end(self, machine: &mut Machine) {
        machine.end_export(self.key_space);
    }

    /// The compact revision that it pins.
    #[must_use]
    pub fn pinned(&self) -> i64 {
        self.key_space.compacted()
    }

    /// The revision of the state.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.key_space.revision()
    }

    /// Whether the length of the file is known.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.measured.is_some()
    }

    /// Measures on. The length of the file, when that is known.
    pub fn measure(&mut self, store: &Store, slice: &mut Slice) -> Option<u64> {
        if self.measured.is_none() {
            let mut nothing = Vec::new();
            let is_done = self.go_on(store, slice, usize::MAX, &mut nothing);
            assert!(nothing.is_empty(), "the first pass makes no bytes");
            if !is_done {
                return None;
            }
            let layout = self.pass.layout;
            let realm = self.realm.take().expect("it is measured once");
            self.pass = Pass::new(Layout::writing(), realm);
            self.measured = Some((layout.pages() - 1, layout));
        }
        self.measured.map(|(_, layout)| layout.bytes())
    }

    /// Appends to `out`, until that holds `full` bytes or a page more, or the slice is spent. True: that was all. The
    /// export must be measured.
    pub fn write(&mut self, store: &Store, slice: &mut Slice, full: usize, out: &mut Vec<u8>) -> bool {
        let (_, layout) = self.measured.expect("an export is measured before it is written");
        let before = out.len();
        let is_done = self.go_on(store, slice, full, out);
        slice.spend_bytes(out.len() - before);
        self.written_bytes += (out.len() - before) as u64;
        assert!(
            !is_done || self.written_bytes == layout.bytes(),
            "{} bytes were told and {} written",
            layout.bytes(),
            self.written_bytes
        );
        is_done
    }

    /// Goes on with the pass.
    fn go_on(&mut self, store: &Store, slice: &mut Slice, full: usize, out: &mut Vec<u8>) -> bool {
        let Self { key_space, small, leases, pass, measured, .. } = self;
        loop {
            if pass.stage == Stage::Done {
                return true;
            }
            if full <= out.len() || slice.is_spent() {
                return false;
            }
            match pass.stage {
                Stage::Metas => {
                    if let Some((root, layout)) = measured {
                        put_metas(layout, *root, out);
                    }
                    pass.stage = Stage::Small(0);
                }
                Stage::Small(number) => match small.get(number) {
                    Some((name, entries)) => {
                        for (key, value) in entries {
                            slice.spend_record();
                            pass.bucket.put_whole(&mut pass.layout, key, value, out);
                        }
                        pass.close(name, Stage::Small(number + 1), out);
                    }
                    None => pass.stage = Stage::Users,
                },
                Stage::Users => match pass.realm.next_if(|record| matches!(record, Record::User(_))) {
                    Some(Record::User(user)) => {
                        slice.spend_key();
                        let value = user.encode_to_vec();
                        slice.spend_bytes(value.len());
                        pass.bucket.put_whole(&mut pass.layout, &user.name, &value, out);
                    }
                    _ => pass.close(schema::AUTH_USERS, Stage::Roles, out),
                },
                Stage::Roles => match pass.realm.next() {
                    Some(Record::Role(role)) => {
                        slice.spend_key();
                        let value = role.encode_to_vec();
                        slice.spend_bytes(value.len());
                        pass.bucket.put_whole(&mut pass.layout, &role.name, &value, out);
                    }
                    _ => pass.close(schema::AUTH_ROLES, Stage::Lease(0), out),
                },
                Stage::Lease(number) => match leases.get(number) {
                    Some(lease) => {
                        slice.spend_record();
                        let mut value = Vec::with_capacity(3 * INT_FIELD_LEN_MAX);
                        put_uint_field(&mut value, 1, lease.id);
                        put_uint_field(&mut value, 2, lease.ttl_s);
                        put_uint_field(&mut value, 3, lease.remaining_s);
                        pass.bucket.put_whole(&mut pass.layout, &lease.id.to_be_bytes(), &value, out);
                        pass.stage = Stage::Lease(number + 1);
                    }
                    None => pass.close(schema::LEASE, Stage::Keys, out),
                },
                Stage::Keys => {
                    let is_at_end = match pass.partial.take() {
                        Some(partial) => {
                            let change = store.exported(partial.seq);
                            pass.partial =
                                put_rest(&change, partial, slice.bytes_left().min(full - out.len()), out);
                            false
                        }
                        None => put_changes(pass, key_space, store, slice, full, out),
                    };
                    if is_at_end {
                        pass.close(schema::KEY, Stage::Buckets, out);
                    }
                }
                Stage::Buckets => {
                    pass.roots.sort_unstable_by_key(|(name, _)| *name);
                    let root = put_buckets(&mut pass.layout, &pass.roots, out);
                    assert_eq!(root + 1, pass.layout.pages(), "the bucket names are on the last page");
                    pass.stage = Stage::Done;
                }
                Stage::Done => unreachable!("it was looked at"),
            }
        }
    }
}

/// Writes changes until one is large, or there is no room. True behind the last.
fn put_changes(
    pass: &mut Pass,
    key_space: &mvcc::Export,
    store: &Store,
    slice: &mut Slice,
    full: usize,
    out: &mut Vec<u8>,
) -> bool {
    let Pass { layout, bucket, keys, partial, .. } = pass;
    let keeps = layout.keeps();
    store.export_slice(key_space, keys, slice, |seq, change, slice| {
        let key = RevisionKey::new(change.revision, change.put.is_none());
        let value_bytes = value_len(&change);
        if is_large(key.bytes().len(), value_bytes) {
            let padding = bucket.open_large(layout, key.bytes(), value_bytes, out);
            if !keeps {
                return ControlFlow::Continue(());
            }
            slice.spend_bytes(change.key.len());
            put_front(&change, out);
            *partial = Some(Partial { seq, written: 0, padding });
            return ControlFlow::Break(());
        }
        bucket.put(layout, key.bytes(), value_bytes, |data| put_whole(&change, data), out);
        if full <= out.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// Writes a large version on, by as many bytes of its value as there is room for. What is left of it.
fn put_rest(change: &Change<'_>, partial: Partial, room: usize, out: &mut Vec<u8>) -> Option<Partial> {
    let value = change.put.map_or(&[][..], |put| put.value);
    let rest = &value[partial.written..];
    let now = &rest[..rest.len().min(room)];
    out.extend_from_slice(now);
    if now.len() < rest.len() {
        return Some(Partial { written: partial.written + now.len(), ..partial });
    }
    put_tail(change, out);
    out.resize(out.len() + partial.padding, 0);
    None
}

/// Bytes of the `mvccpb.KeyValue` of a change; a tombstone has the key alone.
fn value_len(change: &Change<'_>) -> usize {
    let Some(put) = change.put else { return bytes_field_len(change.key) };
    bytes_field_len(put.key)
        + int_field_len(put.create_revision)
        + int_field_len(put.mod_revision)
        + int_field_len(put.version)
        + bytes_field_len(put.value)
        + int_field_len(put.lease)
}

fn put_whole(change: &Change<'_>, out: &mut Vec<u8>) {
    put_front(change, out);
    if let Some(put) = change.put {
        out.extend_from_slice(put.value);
    }
    put_tail(change, out);
}

/// Writes what stands before the value's bytes.
fn put_front(change: &Change<'_>, out: &mut Vec<u8>) {
    put_bytes_field(out, 1, change.key);
    if let Some(put) = change.put {
        put_int_field(out, 2, put.create_revision);
        put_int_field(out, 3, put.mod_revision);
        put_int_field(out, 4, put.version);
        if !put.value.is_empty() {
            put_message_head(out, 5, put.value.len());
        }
    }
}

/// Writes what stands behind the value's bytes.
fn put_tail(change: &Change<'_>, out: &mut Vec<u8>) {
    put_int_field(out, 6, change.put.map_or(0, |put| put.lease));
}

/// All buckets that are small whatever the data.
fn small_buckets(machine: &Machine, applied: LogIndex, term: Term) -> Vec<(&'static str, Entries)> {
    let (cluster, realm) = (machine.cluster(), machine.realm());
    let alarms = machine.alarms().iter().map(|alarm| {
        let member = pb::AlarmMember { member_id: alarm.member.0, alarm: alarm.kind.number() };
        (member.encode_to_vec(), Vec::new())
    });
    let auth = [
        (schema::AUTH_ENABLED, vec![u8::from(realm.is_enabled())]),
        (schema::AUTH_REVISION, realm.revision().to_be_bytes().to_vec()),
    ];
    let (version, _patch) = ETCD_VERSION.rsplit_once('.').expect("a version has three parts");
    let versions = [(schema::CLUSTER_VERSION, format!("{version}.0").into_bytes())];
    let members = cluster.members().map(|member| (id_key(member.id.0), member_json(member)));
    let removed = cluster.removed().map(|id| (id_key(id.0), schema::REMOVED.to_vec()));
    let mut meta = vec![
        (schema::CONF_STATE, conf_state_json(cluster)),
        (schema::CONSISTENT_INDEX, applied.0.to_be_bytes().to_vec()),
        (schema::STORAGE_VERSION, ETCD_STORAGE_VERSION.as_bytes().to_vec()),
        (schema::TERM, term.0.to_be_bytes().to_vec()),
    ];
    // At -1 nothing was ever compacted.
    if let Ok(compacted) = u64::try_from(machine.store().compact_revision()) {
        let revision = Revision::new(compacted.cast_signed(), 0);
        let key = RevisionKey::new(revision, false);
        meta.push((schema::FINISHED_COMPACTION, key.bytes().to_vec()));
        meta.push((schema::SCHEDULED_COMPACTION, key.bytes().to_vec()));
    }
    [
        (schema::ALARM, alarms.collect()),
        (schema::AUTH, named(auth)),
        (schema::CLUSTER, named(versions)),
        (schema::MEMBERS, members.collect()),
        (schema::MEMBERS_REMOVED, removed.collect()),
        (schema::META, named(meta)),
    ]
    .map(|(name, mut entries): (_, Entries)| {
        entries.sort_unstable();
        (name, entries)
    })
    .into()
}

fn named(entries: impl IntoIterator<Item = (&'static [u8], Vec<u8>)>) -> Entries {
    entries.into_iter().map(|(name, value)| (name.to_vec(), value)).collect()
}

/// An id as etcd names entries by it: without leading zeros.
fn id_key(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

fn member_json(member: &Member) -> Vec<u8> {
    let mut json = serde_json::json!({ "id": member.id.0, "peerURLs": member.peer_urls });
    let fields = json.as_object_mut().expect("it was written as one");
    if member.learner {
        fields.insert("isLearner".into(), true.into());
    }
    if !member.name.is_empty() {
        fields.insert("name".into(), member.name.as_str().into());
    }
    if !member.client_urls.is_empty() {
        fields.insert("clientURLs".into(), member.client_urls.clone().into());
    }
    json.to_string().into_bytes()
}

fn conf_state_json(cluster: &Cluster) -> Vec<u8> {
    let voters: Vec<u64> = cluster.voters().map(|id| id.0).collect();
    let learners: Vec<u64> = cluster.learners().map(|id| id.0).collect();
    let mut json = serde_json::json!({ "voters": voters, "auto_leave": false });
    if !learners.is_empty() {
        json["learners"] = learners.into();
    }
    json.to_string().into_bytes()
}
