//! What etcd's buckets hold, as our state: out of a snapshot, or out of the database of a member.
//!
//! Anybody may have made the file. Each entry is checked as those of a checkpoint are, and one that is not known is a
//! refusal with its name: it is state that etcd acted on. What the file says of its own cluster (members, versions,
//! where raft stood) comes out beside the state, since a restored cluster has other members.
//!
//! An unfinished compaction (`scheduledCompactRev` above `finishedCompactRev`) is carried out. A record without a key
//! is what `--bump-revision` of etcdutl leaves: it only says how high the revision is. etcd keeps that record for ever, as
//! the newest version of a key without a name, and `HashKV` counts its 17 bytes. Here it is no record, as no client can
//! read it. So after a bump, by etcdutl or by us, `HashKV` differs from etcd's by these bytes alone, and a snapshot made
//! later has no such record either. To be equal, each checkpoint would have to carry it.
//!
//! Cost: the state, and of the file what `bbolt::read` says. Entries are read once.
//! Compatibility: etcd 3.4 to 3.7.

use prost::Message as _;
use serde_json::Value;

use super::bbolt::read::{BucketAt, Source};
use super::bbolt::{Entry, Fault, Reader, Walk};
use super::schema::{self, RevisionKey};
use crate::apply::Alarms;
use crate::auth::{Realm, Record};
use crate::lease::{Lease, Table};
use crate::mvcc::{self, KeyValueRef, Mark, Store};
use crate::pb::{authpb, etcdserverpb as pb, peer};
use crate::types::limits::LEASE_TTL_MAX_S;
use crate::types::proto::take_varint;
use crate::types::{LeaseId, LogIndex};

/// The newest layout that is read, as minor release of etcd 3.
const LAYOUT_MAX: u64 = 7;

/// Bytes of an entry's key that a refusal shows.
const SHOWN_BYTES: usize = 64;

/// Why a file is no state.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Database(#[from] Fault),
    #[error("it has no bucket `key`: it is no database of etcd's v3 store")]
    NoKeys,
    #[error("bucket {0:?} is not known: it was written by a later etcd, or by something else")]
    UnknownBucket(String),
    #[error("entry {entry} of bucket {bucket:?}: {problem}")]
    Entry { bucket: &'static str, entry: String, problem: String },
    #[error(
        "its layout is that of etcd {0:?}, and layouts up to 3.{LAYOUT_MAX} are known: restore it with that etcd, or start a later Pinion"
    )]
    Layout(String),
    #[error("{0}")]
    Whole(String),
}

/// Where the member stood whose database it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The last entry that was applied; 0 if none is told.
    pub consistent_index: u64,
    /// That entry's term; 0 before etcd 3.5.
    pub term: u64,
    /// From etcd 3.6 on.
    pub storage_version: Option<String>,
    /// JSON of raft's ConfState, from etcd 3.5 on.
    pub conf_state: Option<String>,
    finished: Option<i64>,
    scheduled: Option<i64>,
}

/// A member as etcd writes one in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberEntry {
    pub id: u64,
    pub peer_urls: Vec<String>,
    pub is_learner: bool,
    pub name: String,
    pub client_urls: Vec<String>,
}

impl MemberEntry {
    /// Reads it. What is not there is empty, as is a `null`, which Go writes for an empty list.
    ///
    /// # Errors
    /// It is no member.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let mut member = Self::default();
        member.take_attributes(json)?;
        match member.id {
            0 => Err("it has no id".to_owned()),
            _ => Ok(member),
        }
    }

    /// Takes over what is there of it.
    ///
    /// # Errors
    /// It is no part of a member.
    pub(super) fn take_attributes(&mut self, json: &[u8]) -> Result<(), String> {
        let json: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let fields = json.as_object().ok_or("it is no object")?;
        let list = |name: &str| match fields.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(Vec::new())),
            Some(Value::Array(urls)) => urls
                .iter()
                .map(|url| url.as_str().map(str::to_owned).ok_or_else(|| format!("{name} are no texts")))
                .collect::<Result<Vec<String>, String>>()
                .map(Some),
            Some(_) => Err(format!("{name} is no list")),
        };
        if let Some(id) = fields.get("id") {
            self.id = id.as_u64().ok_or("its id is no number")?;
        }
        if let Some(urls) = list("peerURLs")? {
            self.peer_urls = urls;
        }
        if let Some(urls) = list("clientURLs")? {
            self.client_urls = urls;
        }
        if let Some(name) = fields.get("name") {
            self.name = name.as_str().ok_or("its name is no text")?.to_owned();
        }
        if let Some(is_learner) = fields.get("isLearner") {
            self.is_learner = is_learner.as_bool().ok_or("isLearner is no truth value")?;
        }
        Ok(())
    }
}

/// Everything that a file holds.
#[derive(Debug)]
pub struct Contents {
    pub store: Store,
    /// They know their keys.
    pub leases: Table,
    pub alarms: Alarms,
    pub realm: Realm,
    pub meta: Meta,
    pub members: Vec<MemberEntry>,
    pub removed: Vec<u64>,
    pub cluster_version: Option<String>,
}

/// What is gathered before the parts can be judged together.
#[derive(Debug, Default)]
struct Gathering {
    key_space: mvcc::Import,
    /// Of a record without a key.
    bumped_to: i64,
    leases: Table,
    alarms: peer::Alarms,
    is_enabled: bool,
    auth_revision: u64,
    users: Vec<authpb::User>,
    roles: Vec<authpb::Role>,
    meta: Meta,
    members: Vec<MemberEntry>,
    removed: Vec<u64>,
    cluster_version: Option<String>,
}

/// Reads all of a file. `on_progress` hears of each entry, and how many bytes it has. With `bump_revision` the revision
/// is so much higher than the file's, and everything below is compacted.
///
/// # Errors
/// [`ImportError`].
pub fn import<S: Source>(
    reader: &mut Reader<S>,
    bump_revision: u64,
    mut on_progress: impl FnMut(u64),
) -> Result<Contents, ImportError> {
    let buckets = reader.buckets()?;
    // First of all, since another layout may have other buckets.
    let mut gathering = Gathering::default();
    let mut known = Vec::new();
    for (name, at) in buckets {
        let bucket = BUCKETS.iter().find(|(bucket, _)| bucket.as_bytes() == name);
        known.push((bucket.copied(), name, at));
    }
    known.sort_by_key(|(bucket, _, _)| !matches!(bucket, Some((schema::META, _))));
    let mut has_keys = false;
    for (bucket, name, at) in &known {
        let Some((bucket, take)) = bucket else {
            return Err(ImportError::UnknownBucket(String::from_utf8_lossy(name).into_owned()));
        };
        has_keys |= *bucket == schema::KEY;
        gathering.bucket(reader, bucket, *take, at, &mut on_progress)?;
    }
    if !has_keys {
        return Err(ImportError::NoKeys);
    }
    gathering.finish(bump_revision)
}

/// Takes an entry of a bucket.
type Take = fn(&mut Gathering, &[u8], &[u8]) -> Result<(), String>;

const BUCKETS: [(&str, Take); 10] = [
    (schema::ALARM, Gathering::alarm),
    (schema::AUTH, Gathering::auth),
    (schema::AUTH_ROLES, Gathering::role),
    (schema::AUTH_USERS, Gathering::user),
    (schema::CLUSTER, Gathering::cluster),
    (schema::KEY, Gathering::change),
    (schema::LEASE, Gathering::lease),
    (schema::MEMBERS, Gathering::member),
    (schema::MEMBERS_REMOVED, Gathering::removed),
    (schema::META, Gathering::meta),
];

impl Gathering {
    fn bucket<S: Source>(
        &mut self,
        reader: &mut Reader<S>,
        bucket: &'static str,
        take: Take,
        at: &BucketAt,
        on_progress: &mut impl FnMut(u64),
    ) -> Result<(), ImportError> {
        let mut walk = Walk::new(reader, at)?;
        while let Some(Entry { key, value }) = walk.next(reader)? {
            on_progress((key.len() + value.len()) as u64);
            if let Err(problem) = take(self, key, value) {
                if bucket == schema::META && key == schema::STORAGE_VERSION {
                    return Err(ImportError::Layout(problem));
                }
                return Err(ImportError::Entry { bucket, entry: shown(key), problem });
            }
        }
        Ok(())
    }

    fn change(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let (revision, is_tombstone) = RevisionKey::parse(key).ok_or("it is no revision")?;
        if value.is_empty() && !is_tombstone {
            self.bumped_to = self.bumped_to.max(revision.main);
            return Ok(());
        }
        let kv = take_key_value(value).ok_or("it does not decode")?;
        let put = KeyValueRef { sub: revision.sub, ..kv };
        self.key_space.add(revision, kv.key, (!is_tombstone).then_some(&put)).map_err(str::to_owned)
    }

    fn lease(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let (mut id, mut ttl, mut remaining) = (0, 0, 0);
        let mut rest = value;
        while !rest.is_empty() {
            let field = take_varint(&mut rest).ok_or("it does not decode")?;
            let number = take_varint(&mut rest).filter(|_| field & 7 == 0).ok_or("it does not decode")?;
            match field >> 3 {
                1 => id = number,
                2 => ttl = number,
                3 => remaining = number,
                other => return Err(format!("field {other} is not known")),
            }
        }
        if key != id.to_be_bytes() || id == 0 {
            return Err("it has the id of another lease".to_owned());
        }
        if !(1..=LEASE_TTL_MAX_S.cast_unsigned()).contains(&ttl) {
            return Err(format!("a TTL of {} s", ttl.cast_signed()));
        }
        let remaining = if remaining < ttl { remaining } else { 0 };
        // The first entry of any log here comes later.
        self.leases.insert(LeaseId(id.cast_signed()), Lease::new(ttl, remaining, LogIndex(0)));
        Ok(())
    }

    fn alarm(&mut self, key: &[u8], _: &[u8]) -> Result<(), String> {
        let alarm = pb::AlarmMember::decode(key).map_err(|error| error.to_string())?;
        // As etcd, which never raises it.
        if alarm.alarm != 0 {
            self.alarms.alarms.push(peer::AlarmRecord { member: alarm.member_id, alarm: alarm.alarm });
        }
        Ok(())
    }

    fn auth(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            schema::AUTH_ENABLED => self.is_enabled = value == [1],
            schema::AUTH_REVISION => self.auth_revision = number(value)?,
            _ => return Err("it is not known".to_owned()),
        }
        Ok(())
    }

    fn user(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let user = authpb::User::decode(value).map_err(|error| error.to_string())?;
        if key != &user.name[..] {
            return Err("it is the user of another name".to_owned());
        }
        self.users.push(user);
        Ok(())
    }

    fn role(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let role = authpb::Role::decode(value).map_err(|error| error.to_string())?;
        if key != &role.name[..] {
            return Err("it is the role of another name".to_owned());
        }
        self.roles.push(role);
        Ok(())
    }

    fn cluster(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            schema::CLUSTER_VERSION => {
                let version = text(value)?;
                check_version(&version)?;
                self.cluster_version = Some(version);
                Ok(())
            }
            // A downgrade under way changes what etcd's members may write, and nothing of what is there.
            schema::DOWNGRADE => Ok(()),
            _ => Err("it is not known".to_owned()),
        }
    }

    fn member(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let member = MemberEntry::parse(value)?;
        if key != format!("{:x}", member.id).as_bytes() && key != format!("{:016x}", member.id).as_bytes() {
            return Err("it is the member of another id".to_owned());
        }
        self.members.push(member);
        Ok(())
    }

    fn removed(&mut self, key: &[u8], _: &[u8]) -> Result<(), String> {
        let id = std::str::from_utf8(key).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
        self.removed.push(id.ok_or("it is no id")?);
        Ok(())
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let revision = |value| match RevisionKey::parse(value) {
            Some((revision, false)) => Ok(Some(revision.main)),
            _ => Err("it is no revision".to_owned()),
        };
        let meta = &mut self.meta;
        match key {
            schema::CONSISTENT_INDEX => meta.consistent_index = number(value)?,
            schema::TERM => meta.term = number(value)?,
            schema::CONF_STATE => meta.conf_state = Some(text(value)?),
            schema::FINISHED_COMPACTION => meta.finished = revision(value)?,
            schema::SCHEDULED_COMPACTION => meta.scheduled = revision(value)?,
            schema::STORAGE_VERSION => {
                let version = text(value)?;
                check_version(&version).map_err(|_| version.clone())?;
                meta.storage_version = Some(version);
            }
            _ => return Err("it is not known".to_owned()),
        }
        Ok(())
    }

    fn finish(self, bump_revision: u64) -> Result<Contents, ImportError> {
        let Self { key_space, bumped_to, mut leases, meta, members, removed, cluster_version, .. } = self;
        let whole = |problem: String| ImportError::Whole(problem);
        for kv in key_space.leased() {
            let id = LeaseId(kv.lease);
            if !leases.contains(id) {
                return Err(whole(format!(
                    "key {} is attached to lease {:x}, and the bucket `lease` does not have that",
                    shown(kv.key),
                    kv.lease
                )));
            }
            leases.move_key(kv.key, LeaseId(0), id);
        }
        let compacted = meta.finished.max(meta.scheduled).unwrap_or(-1);
        let current = key_space.last_revision().max(compacted).max(bumped_to).max(1);
        let bumped = i64::try_from(bump_revision).ok().and_then(|by| current.checked_add(by));
        let bumped =
            bumped.ok_or_else(|| whole(format!("revision {current} cannot be raised by {bump_revision}")))?;
        let compacted = if bump_revision == 0 { compacted } else { bumped };
        let store = key_space.finish(compacted, bumped);
        let store = store.map_err(|problem| whole(format!("bucket \"key\": {problem}")))?;
        let realm = Realm::restore(self.is_enabled, self.auth_revision.max(1));
        let mut realm = realm.map_err(|problem| whole(format!("bucket \"auth\": {problem}")))?;
        let users = self.users.into_iter().map(Record::User);
        for record in users.chain(self.roles.into_iter().map(Record::Role)) {
            let restored = realm.restore_record(record);
            restored.map_err(|problem| whole(format!("the users and roles: {problem}")))?;
        }
        let alarms =
            Alarms::from_record(self.alarms).map_err(|problem| whole(format!("the alarms: {problem}")))?;
        Ok(Contents { store, leases, alarms, realm, meta, members, removed, cluster_version })
    }
}

/// An entry's key, for a person.
fn shown(key: &[u8]) -> String {
    let mut shown = key.escape_ascii().take(SHOWN_BYTES).map(char::from).collect::<String>();
    if SHOWN_BYTES < key.len() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

fn number(value: &[u8]) -> Result<u64, String> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| "it is no number of 8 bytes".to_owned())
}

fn text(value: &[u8]) -> Result<String, String> {
    String::from_utf8(value.to_vec()).map_err(|_| "it is no text".to_owned())
}

/// Refuses versions of etcd that are not known.
fn check_version(version: &str) -> Result<(), String> {
    let mut numbers = version.split('.').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(3)), Some(Ok(minor))) if minor <= LAYOUT_MAX => Ok(()),
        _ => Err(format!("version {version:?} is not known")),
    }
}

/// A `mvccpb.KeyValue` whose bytes stay where they are.
fn take_key_value(bytes: &[u8]) -> Option<KeyValueRef<'_>> {
    let mut kv = KeyValueRef {
        key: &[],
        value: &[],
        create_revision: 0,
        mod_revision: 0,
        sub: 0,
        version: 0,
        lease: 0,
        mark: Mark::default(),
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let field = take_varint(&mut rest)?;
        match field & 7 {
            0 => {
                let number = take_varint(&mut rest)?.cast_signed();
                match field >> 3 {
                    2 => kv.create_revision = number,
                    3 => kv.mod_revision = number,
                    4 => kv.version = number,
                    6 => kv.lease = number,
                    _ => return None,
                }
            }
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                let (bytes, behind) = rest.split_at_checked(length)?;
                rest = behind;
                match field >> 3 {
                    1 => kv.key = bytes,
                    5 => kv.value = bytes,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    Some(kv)
}
