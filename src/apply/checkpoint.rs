//! The machine's state as a stream, written in slices while requests go on being applied.
//!
//! ```text
//! stream  = section* end
//! section = tag u8 | version u8 | len u32 | payload
//! end     = a section with tag 0, version 1 and no payload
//! ```
//! Integers are little endian. Sections come in this order:
//!
//! | tag | version | times | payload |
//! |---|---|---|---|
//! | 1 | 1 | 1 | membership: `pinion.peer.v1.Membership` |
//! | 6 | 1 | ≤ 1 | the format level, from level 1 on: `pinion.peer.v1.FormatLevel` |
//! | 4 | 1 | ≤ 1 | the alarms, if there are any: `pinion.peer.v1.Alarms` |
//! | 5 | 1 | ≤ 1 | which groups have been applied, if any: `pinion.peer.v1.Sessions` |
//! | 7 | 1 | ≥ 0 | the next part of an incomplete request, of level 2: `pinion.peer.v1.HeldPart` |
//! | 8 | 1 | ≤ 1 | whether rights are asked for, and their revision, if there ever were users or roles: `pinion.peer.v1.Realm` |
//! | 9 | 1 | ≥ 0 | behind 8: the next users and roles: `pinion.peer.v1.RealmRecords` |
//! | 3 | 1 | ≥ 0 | the next leases in the order of their ids: `pinion.peer.v1.Leases` |
//! | 11 | 1 | ≥ 0 | the next deadlines of nodes, of level 3, in the order of their ids: `pinion.peer.v1.Leases` |
//! | 10 | 1 | ≥ 0 | the next block of the directories that v2 has made, of level 3: `mvcc`'s own bytes |
//! | 2 | 1 | ≥ 1 | the next block of the key space, `mvcc`'s own bytes |
//!
//! The stream may be cut anywhere on its way: a reader collects what a section still misses. Sections
//! carry no checksum, that is the container's task (`checkpoint::format`); what they cannot be is
//! misread. A tag or version that is not known is refused, never skipped: it is state that other
//! members have. A tag, a version or a field that an earlier release does not know is
//! written from its format level on (`types::format`), so a stream at level 0 is what release 0.1.0 writes.
//! Invariant: the state written is the one at `begin`, whatever is applied meanwhile.

use std::collections::BTreeMap;
use std::iter::Peekable;

use bytes::Bytes;
use prost::Message as _;

use super::parts::Parts;
use super::{Alarms, Machine, Sessions};
use crate::auth::{Realm, Record};
use crate::directory::Directories;
use crate::directory::deadlines::Ending;
use crate::lease::{Lease, Table, WalkId};
use crate::membership::Cluster;
use crate::mvcc::{self, OneByOne, SideBySide, TakesMemory};
use crate::pb::authpb;
use crate::pb::peer::{self, LeaseRecord, Leases};
use crate::types::limits::{KEY_NS, LEASE_TTL_MAX_S, SLICE_NS};
use crate::types::{Feature, FormatLevel, LeaseId, LogIndex};

const END: u8 = 0;
const MEMBERSHIP: u8 = 1;
const KEY_SPACE: u8 = 2;
const LEASES: u8 = 3;
const ALARMS: u8 = 4;
const SESSIONS: u8 = 5;
const FORMAT_LEVEL: u8 = 6;
const PARTS: u8 = 7;
const REALM: u8 = 8;
const REALM_RECORDS: u8 = 9;
const DIRECTORIES: u8 = 10;
const DEADLINES: u8 = 11;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 6;

/// Most bytes of a lease in its section: two bytes of frame, id, and three numbers with their tags.
const LEASE_BYTES_MAX: usize = 2 + 9 + 3 * 11;

/// Leases of one slice: a quarter of a millisecond.
const LEASES_MAX: usize = (SLICE_NS / KEY_NS) as usize;

fn record_of(id: LeaseId, lease: &Lease) -> LeaseRecord {
    LeaseRecord {
        id: id.0,
        ttl_s: lease.ttl_s(),
        remaining_s: lease.remaining_s(),
        granted_at: lease.granted_at().0,
    }
}

/// A checkpoint under way. Ended by `Machine::end_checkpoint`, finished or not.
#[must_use = "holds back compaction until it is ended"]
pub struct Checkpoint {
    /// Written first; membership is small.
    membership: Option<Vec<u8>>,
    format_level: Option<Vec<u8>>,
    /// Absent without alarms, so that a version without them reads what has none.
    alarms: Option<Vec<u8>>,
    sessions: Option<Vec<u8>>,
    /// They share their bytes with the state. Empty below the level at which there are any.
    parts: std::vec::IntoIter<peer::HeldPart>,
    /// Absent while nobody has ever made a user or a role.
    realm: Option<Vec<u8>>,
    /// As they were at the beginning.
    realm_records: Peekable<Box<dyn Iterator<Item = Record> + Send>>,
    /// As they were at the beginning; until the last is written.
    leases: Option<WalkId>,
    /// The same of nodes with a time to live.
    deadlines: Option<WalkId>,
    /// Absent when v2 has never made a directory. True: its last block is written.
    directories: Option<(mvcc::CheckpointCursor, bool)>,
    key_space: mvcc::CheckpointCursor,
    done: bool,
}

/// Why a stream is not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("section {tag} of version {version} is not understood: written by a newer release?")]
    Unknown { tag: u8, version: u8 },
    #[error("section {tag} is out of place")]
    Order { tag: u8 },
    #[error("the membership section does not decode: {0}")]
    Membership(String),
    #[error("the leases: {0}")]
    Leases(String),
    #[error("the alarms: {0}")]
    Alarms(String),
    #[error("the sessions: {0}")]
    Sessions(String),
    #[error("the parts of requests: {0}")]
    Parts(String),
    #[error("the format level: {0}")]
    FormatLevel(String),
    #[error("the users and roles: {0}")]
    Realm(String),
    #[error("the directories: {0}")]
    Directories(String),
    #[error("the stream ends early")]
    Truncated,
    #[error("bytes follow the end of the stream")]
    Trailing,
    #[error("the key space: {0}")]
    KeySpace(#[from] mvcc::RestoreError),
}

impl Checkpoint {
    /// The revision that is written.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.key_space.revision()
    }
}

impl Machine {
    /// Starts a checkpoint of the present state.
    pub fn begin_checkpoint(&mut self) -> Checkpoint {
        assert!(self.preparation.is_none(), "a checkpoint holds all of a write or nothing");
        let has_directories = !self.directories.has_no_history();
        let format_level = self.format_level;
        Checkpoint {
            membership: Some(self.cluster.encode()),
            format_level: format_level
                .allows(Feature::LevelItself)
                .then(|| peer::FormatLevel { level: format_level.0 }.encode_to_vec()),
            alarms: (self.alarms.iter().len() != 0).then(|| self.alarms.to_record().encode_to_vec()),
            sessions: (!self.sessions.is_empty()).then(|| self.sessions.to_record().encode_to_vec()),
            parts: self.parts.to_records().into_iter(),
            realm: (!self.realm.is_untouched()).then(|| {
                let (is_enabled, revision) = (self.realm.is_enabled(), self.realm.revision());
                peer::Realm { is_enabled, revision }.encode_to_vec()
            }),
            realm_records: (Box::new(self.realm.records()) as Box<dyn Iterator<Item = Record> + Send>)
                .peekable(),
            leases: Some(self.leases.begin_walk()),
            deadlines: Some(self.directories.deadlines.table_mut().begin_walk()),
            directories: has_directories.then(|| (self.directories.entries.begin_checkpoint(), false)),
            key_space: self.store.begin_checkpoint(),
            done: false,
        }
    }

    /// Appends about `bytes_max` bytes of the stream to `out`. True when that was the last.
    pub fn checkpoint_slice(
        &mut self,
        checkpoint: &mut Checkpoint,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        assert!(!checkpoint.done, "a slice was asked for behind the last");
        if let Some(membership) = checkpoint.membership.take() {
            put_section(out, MEMBERSHIP, |out| out.extend_from_slice(&membership));
            if let Some(format_level) = checkpoint.format_level.take() {
                put_section(out, FORMAT_LEVEL, |out| out.extend_from_slice(&format_level));
            }
            if let Some(alarms) = checkpoint.alarms.take() {
                put_section(out, ALARMS, |out| out.extend_from_slice(&alarms));
            }
            if let Some(sessions) = checkpoint.sessions.take() {
                put_section(out, SESSIONS, |out| out.extend_from_slice(&sessions));
            }
            if let Some(realm) = checkpoint.realm.take() {
                put_section(out, REALM, |out| out.extend_from_slice(&realm));
            }
            return false;
        }
        if checkpoint.realm_records.peek().is_some() {
            let mut records = peer::RealmRecords::default();
            let mut bytes = 0;
            // One record is as large as one request may make it.
            while let Some(record) = checkpoint.realm_records.next_if(|_| bytes < bytes_max) {
                match record {
                    Record::User(user) => {
                        bytes += user.encoded_len();
                        records.users.push(user.encode_to_vec().into());
                    }
                    Record::Role(role) => {
                        bytes += role.encoded_len();
                        records.roles.push(role.encode_to_vec().into());
                    }
                }
            }
            put_section(out, REALM_RECORDS, |out| {
                records.encode(out).expect("a vector takes any number of bytes");
            });
            return false;
        }
        if let Some(part) = checkpoint.parts.next() {
            put_section(out, PARTS, |out| part.encode(out).expect("a vector takes any number of bytes"));
            return false;
        }
        let tables = [
            (LEASES, &mut checkpoint.leases, &mut self.leases),
            (DEADLINES, &mut checkpoint.deadlines, self.directories.deadlines.table_mut()),
        ];
        for (tag, going, table) in tables {
            let Some(walk) = *going else { continue };
            let count = (bytes_max / LEASE_BYTES_MAX).clamp(1, LEASES_MAX);
            let next = std::iter::from_fn(|| table.walk(walk)).take(count);
            let leases: Vec<_> = next.map(|(id, lease)| record_of(id, &lease)).collect();
            if leases.len() < count {
                table.end_walk(walk);
                *going = None;
            }
            if !leases.is_empty() {
                put_section(out, tag, |out| {
                    Leases { leases }.encode(out).expect("a vector takes any number of bytes");
                });
                return false;
            }
        }
        if let Some((cursor, is_done @ false)) = &mut checkpoint.directories {
            put_section(out, DIRECTORIES, |out| {
                *is_done = self.directories.entries.checkpoint_slice(cursor, bytes_max, out);
            });
            return false;
        }
        let key_space = &mut checkpoint.key_space;
        put_section(out, KEY_SPACE, |out| {
            checkpoint.done = self.store.checkpoint_slice(key_space, bytes_max, out);
        });
        if checkpoint.done {
            put_section(out, END, |_| ());
        }
        checkpoint.done
    }

    /// Pins the history for a backup.
    pub fn begin_export(&mut self) -> mvcc::Export {
        self.store.begin_export()
    }

    /// Lets compaction go on.
    pub fn end_export(&mut self, export: mvcc::Export) {
        self.store.end_export(export);
    }

    /// Lets compaction go on.
    pub fn end_checkpoint(&mut self, checkpoint: Checkpoint) {
        if let Some(walk) = checkpoint.leases {
            self.leases.end_walk(walk);
        }
        if let Some(walk) = checkpoint.deadlines {
            self.directories.deadlines.table_mut().end_walk(walk);
        }
        if let Some((cursor, _)) = checkpoint.directories {
            self.directories.entries.end_checkpoint(cursor);
        }
        self.store.end_checkpoint(checkpoint.key_space);
    }
}

fn put_section(out: &mut Vec<u8>, tag: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[tag, VERSION, 0, 0, 0, 0]);
    let start = out.len();
    payload(out);
    let len = u32::try_from(out.len() - start).expect("a slice is far below 4 GiB");
    out[start - 4..start].copy_from_slice(&len.to_le_bytes());
}

/// Rebuilds a machine from a stream.
#[derive(Default)]
pub struct Restore {
    /// The head of a section whose rest has not come yet.
    pending: Vec<u8>,
    cluster: Option<Cluster>,
    format_level: Option<FormatLevel>,
    alarms: Option<Alarms>,
    sessions: Option<Sessions>,
    parts: Parts,
    realm: Option<Realm>,
    leases: Table,
    /// Id of the last lease.
    last_lease: Option<LeaseId>,
    /// The notes of nodes with a time to live, by the revisions that set it.
    deadlines: BTreeMap<i64, LeaseRecord>,
    directories: Option<mvcc::Restore>,
    key_space: Option<mvcc::Restore>,
    ended: bool,
}

impl TakesMemory for Restore {
    fn wanted_memory(&self) -> (usize, usize) {
        self.key_space.as_ref().map_or((0, 0), TakesMemory::wanted_memory)
    }

    fn supply_memory(&mut self, piece: Vec<u8>) {
        if let Some(key_space) = &mut self.key_space {
            key_space.supply_memory(piece);
        }
    }
}

impl Restore {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The level of the state, as far as it was fed. Known also of a stream that is refused for it.
    #[must_use]
    pub fn format_level(&self) -> FormatLevel {
        self.format_level.unwrap_or_default()
    }

    /// Takes the next piece of the stream, cut wherever.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        self.feed_with(piece, &OneByOne)
    }

    /// The same, with the help of others.
    pub fn feed_with(&mut self, piece: &[u8], workers: &dyn SideBySide) -> Result<(), RestoreError> {
        let mut rest = piece;
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(piece);
            let pending = std::mem::take(&mut self.pending);
            let used = self.sections(&pending, workers)?;
            self.pending = pending;
            self.pending.drain(..used);
            return Ok(());
        }
        let used = self.sections(rest, workers)?;
        rest = &rest[used..];
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Takes all complete sections in front; returns how many bytes they are.
    fn sections(&mut self, bytes: &[u8], workers: &dyn SideBySide) -> Result<usize, RestoreError> {
        let mut rest = bytes;
        while let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let &[tag, version, l0, l1, l2, l3] = header;
            // Refused before its payload is waited for, and so before it can take memory.
            self.check_section(tag, version)?;
            let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            let Some((payload, behind)) = body.split_at_checked(len) else { break };
            self.section(tag, payload, workers)?;
            rest = behind;
        }
        if self.ended && !rest.is_empty() {
            return Err(RestoreError::Trailing);
        }
        Ok(bytes.len() - rest.len())
    }

    fn check_section(&self, tag: u8, version: u8) -> Result<(), RestoreError> {
        if self.ended {
            return Err(RestoreError::Trailing);
        }
        let is_known = matches!(
            tag,
            END | MEMBERSHIP
                | FORMAT_LEVEL
                | LEASES
                | ALARMS
                | SESSIONS
                | PARTS
                | REALM
                | REALM_RECORDS
                | DIRECTORIES
                | DEADLINES
                | KEY_SPACE
        );
        if version != VERSION || !is_known {
            return Err(RestoreError::Unknown { tag, version });
        }
        let in_place = match tag {
            MEMBERSHIP => self.cluster.is_none() && self.key_space.is_none(),
            FORMAT_LEVEL => self.cluster.is_some() && self.format_level.is_none() && self.key_space.is_none(),
            LEASES | PARTS | DEADLINES | DIRECTORIES => self.cluster.is_some() && self.key_space.is_none(),
            ALARMS => self.cluster.is_some() && self.alarms.is_none() && self.key_space.is_none(),
            SESSIONS => self.cluster.is_some() && self.sessions.is_none() && self.key_space.is_none(),
            REALM => self.cluster.is_some() && self.realm.is_none() && self.key_space.is_none(),
            REALM_RECORDS => self.realm.is_some() && self.key_space.is_none(),
            KEY_SPACE => self.cluster.is_some(),
            _ => self.key_space.is_some(),
        };
        if in_place { Ok(()) } else { Err(RestoreError::Order { tag }) }
    }

    fn section(&mut self, tag: u8, payload: &[u8], workers: &dyn SideBySide) -> Result<(), RestoreError> {
        match tag {
            MEMBERSHIP => {
                let cluster = Cluster::decode(Bytes::copy_from_slice(payload))
                    .map_err(|error| RestoreError::Membership(error.to_string()))?;
                self.cluster = Some(cluster);
            }
            FORMAT_LEVEL => {
                let record = peer::FormatLevel::decode(payload)
                    .map_err(|error| RestoreError::FormatLevel(error.to_string()))?;
                let level = *self.format_level.insert(FormatLevel(record.level));
                if FormatLevel::HIGHEST < level {
                    return Err(RestoreError::FormatLevel(format!(
                        "it is {level}, and this release reads up to {}: start a later release",
                        FormatLevel::HIGHEST
                    )));
                }
            }
            ALARMS => {
                let record =
                    peer::Alarms::decode(payload).map_err(|error| RestoreError::Alarms(error.to_string()))?;
                self.alarms = Some(Alarms::from_record(record).map_err(RestoreError::Alarms)?);
            }
            SESSIONS => {
                let record = peer::Sessions::decode(payload)
                    .map_err(|error| RestoreError::Sessions(error.to_string()))?;
                self.sessions = Some(Sessions::from_record(&record).map_err(RestoreError::Sessions)?);
            }
            PARTS => {
                let record = peer::HeldPart::decode(Bytes::copy_from_slice(payload))
                    .map_err(|error| RestoreError::Parts(error.to_string()))?;
                self.parts.restore(record).map_err(RestoreError::Parts)?;
            }
            REALM => {
                let realm =
                    peer::Realm::decode(payload).map_err(|error| RestoreError::Realm(error.to_string()))?;
                let restored = Realm::restore(realm.is_enabled, realm.revision);
                self.realm = Some(restored.map_err(|what| RestoreError::Realm(what.into()))?);
            }
            REALM_RECORDS => {
                let undecodable = |error: prost::DecodeError| RestoreError::Realm(error.to_string());
                let records = peer::RealmRecords::decode(payload).map_err(undecodable)?;
                let users =
                    records.users.into_iter().map(|user| authpb::User::decode(user).map(Record::User));
                let roles =
                    records.roles.into_iter().map(|role| authpb::Role::decode(role).map(Record::Role));
                let realm = self.realm.as_mut().expect("its place was checked");
                for record in users.chain(roles) {
                    let record = record.map_err(undecodable)?;
                    realm.restore_record(record).map_err(|what| RestoreError::Realm(what.into()))?;
                }
            }
            LEASES => {
                let leases =
                    Leases::decode(payload).map_err(|error| RestoreError::Leases(error.to_string()))?;
                for lease in leases.leases {
                    self.lease(&lease).map_err(|what| RestoreError::Leases(format!("{what}: {lease:?}")))?;
                }
            }
            DEADLINES => {
                let leases =
                    Leases::decode(payload).map_err(|error| RestoreError::Directories(error.to_string()))?;
                for lease in leases.leases {
                    if lease.id <= 0 || self.deadlines.insert(lease.id, lease).is_some() {
                        let what = format!("an impossible deadline: {lease:?}");
                        return Err(RestoreError::Directories(what));
                    }
                }
            }
            DIRECTORIES => {
                let fed = self.directories.get_or_insert_default().feed(payload);
                fed.map_err(|error| RestoreError::Directories(error.to_string()))?;
            }
            KEY_SPACE => self.key_space.get_or_insert_default().feed_with(payload, workers)?,
            _ => self.ended = true,
        }
        Ok(())
    }

    fn lease(&mut self, record: &LeaseRecord) -> Result<(), &'static str> {
        let id = LeaseId(record.id);
        if record.id == 0 || self.last_lease.is_some_and(|last| id <= last) {
            return Err("ids do not ascend");
        }
        let is_ttl = (1..=LEASE_TTL_MAX_S.cast_unsigned()).contains(&record.ttl_s);
        if !is_ttl || record.ttl_s <= record.remaining_s {
            return Err("an impossible time");
        }
        self.last_lease = Some(id);
        self.leases.insert(id, Lease::new(record.ttl_s, record.remaining_s, LogIndex(record.granted_at)));
        Ok(())
    }

    /// The machine, once the whole stream was fed.
    pub fn finish(self) -> Result<Machine, RestoreError> {
        if !self.ended {
            return Err(RestoreError::Truncated);
        }
        let (Some(cluster), Some(key_space)) = (self.cluster, self.key_space) else {
            return Err(RestoreError::Truncated);
        };
        let mut leases = self.leases;
        for kv in key_space.leased() {
            let id = LeaseId(kv.lease);
            if !leases.contains(id) {
                return Err(RestoreError::Leases(format!("a key is attached to {id:?}, which is not there")));
            }
            leases.move_key(kv.key, LeaseId(0), id);
        }
        let directories = restore_directories(&key_space, self.directories, self.deadlines)
            .map_err(RestoreError::Directories)?;
        let store = key_space.finish()?;
        let (current, of_entries) = (store.current_revision(), directories.entries.current_revision());
        if current < of_entries || store.compact_revision() < directories.entries.compact_revision() {
            let what = format!("they stand at revision {of_entries}, ahead of the keys at {current}");
            return Err(RestoreError::Directories(what));
        }
        Ok(Machine {
            leases,
            alarms: self.alarms.unwrap_or_default(),
            sessions: self.sessions.unwrap_or_default(),
            parts: self.parts,
            format_level: self.format_level.unwrap_or_default(),
            realm: self.realm.unwrap_or_default(),
            directories,
            ..Machine::new(store, cluster)
        })
    }
}

/// The tables beside the key space. Each deadline belongs to a version with an expiry, and each of those has one.
fn restore_directories(
    keys: &mvcc::Restore,
    entries: Option<mvcc::Restore>,
    mut noted: BTreeMap<i64, LeaseRecord>,
) -> Result<Directories, String> {
    let mut directories = Directories::default();
    let of_entries = entries.iter().flat_map(|entries| entries.expiring().map(|entry| (entry, true)));
    for (version, is_entry) in keys.expiring().map(|kv| (kv, false)).chain(of_entries) {
        let revision = version.mod_revision;
        let record = noted.remove(&revision);
        let record = record.ok_or_else(|| format!("revision {revision} has no deadline"))?;
        let ending = if is_entry { Ending::Directory(version.key) } else { Ending::Key(version.key) };
        let noted = (record.remaining_s, LogIndex(record.granted_at));
        directories.deadlines.restore(revision, ending, record.ttl_s, noted)?;
    }
    if let Some((revision, _)) = noted.first_key_value() {
        return Err(format!("no node ends by revision {revision}"));
    }
    if let Some(entries) = entries {
        directories.entries = entries.finish().map_err(|error| error.to_string())?;
    }
    Ok(directories)
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
