//! etcd's entries in our words: the same change, by the same rules.
//!
//! Every member of a cluster that is imported turns its own copy of an entry, so what comes out is a function of the
//! entry and of what all members share. What changes nothing that lasts becomes an empty entry: its index and its term
//! count, as those of a leader's first.
//!
//! Differences between the two state machines that are bridged here: etcd asks no right for a compaction, a lease or an
//! alarm when it applies one; it raises a lease's TTL to the least one at that place; before 3.7 a member that replays
//! its log leaves out the ranges of a transaction; 3.4 has passwords in its log, and each member hashed them with salt
//! of its own.

use bytes::Bytes;
use prost::Message as _;

use super::fields::{Value, bytes, fields, number};
use super::roster::Change;
use super::wal::RawEntry;
use crate::membership::{Member, MemberChange, MemberChangeKind};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::peer;
use crate::raft::{Entry, EntryKind};
use crate::request::group::encode_unnamed_by;
use crate::request::{Login, Origin, RequestKind};
use crate::types::{LogIndex, MemberId, Term, Ticket};

/// An entry that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} of etcd's log: {problem}")]
pub struct UnknownEntry {
    pub index: u64,
    pub problem: String,
}

/// What all members of the cluster share when they turn entries.
pub struct Converter<'a> {
    /// The least TTL of a lease, in seconds.
    pub lease_ttl_min_s: i64,
    /// Whether a replay leaves out ranges in transactions: etcd before 3.7.
    pub drops_ranges: bool,
    /// bcrypt's text of a password, with a salt that follows from the entry.
    pub hash: &'a dyn Fn(&str, u64) -> Option<String>,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    pub entry: Entry,
    /// The name and client URLs that a member said.
    pub(super) published: Option<(u64, String, Vec<String>)>,
    pub(super) change: Option<Change>,
}

/// Fields of InternalRaftRequest that change nothing that lasts: reads, tokens, versions, and how much time leases have
/// left, which only shortens them.
const NOTHING: [u64; 11] = [3, 11, 1012, 1013, 1102, 1106, 1107, 1202, 1300, 1302, 9900];

impl Converter<'_> {
    /// Turns an entry.
    ///
    /// # Errors
    /// It says something that is not known.
    pub(super) fn convert(&self, raw: &RawEntry) -> Result<Converted, UnknownEntry> {
        let unknown = |problem: String| UnknownEntry { index: raw.index, problem };
        let (index, term) = (LogIndex(raw.index), Term(raw.term));
        let normal = |data: Bytes| Converted {
            entry: Entry { index, term, kind: EntryKind::Normal, data },
            published: None,
            change: None,
        };
        if raw.data.is_empty() && raw.kind == 0 {
            return Ok(normal(Bytes::new()));
        }
        match raw.kind {
            0 => {
                let request = self.request(raw).map_err(unknown)?;
                let mut converted = normal(Bytes::new());
                if let Some((kind, body, login)) = request {
                    if kind == RequestKind::PublishMember
                        && let Ok(member) = peer::PublishMember::decode(&body[..])
                    {
                        converted.published = Some((member.id, member.name, member.client_urls));
                    }
                    converted.entry.data = encode_unnamed_by(kind, body, login.as_ref());
                }
                Ok(converted)
            }
            1 => {
                let change = Change::decode(&raw.data).map_err(unknown)?;
                let mut converted = normal(Bytes::new());
                let kind = match &change {
                    Change::Add(member) => {
                        let member = Member {
                            id: MemberId(member.id),
                            name: member.name.clone(),
                            peer_urls: member.peer_urls.clone(),
                            client_urls: member.client_urls.clone(),
                            learner: member.is_learner,
                        };
                        // The leader asked for the bound before it proposed.
                        Some(MemberChangeKind::Add { member, learners_max: u32::MAX })
                    }
                    Change::Promote(id) => Some(MemberChangeKind::Promote(MemberId(*id))),
                    Change::Remove(id) => Some(MemberChangeKind::Remove(MemberId(*id))),
                    Change::Update { id, peer_urls } => {
                        let body = pb::MemberUpdateRequest { id: *id, peer_ur_ls: peer_urls.clone() };
                        let body = body.encode_to_vec().into();
                        let member = Some(Login::member());
                        converted.entry.data =
                            encode_unnamed_by(RequestKind::MemberUpdate, body, member.as_ref());
                        None
                    }
                };
                if let Some(kind) = kind {
                    let origin = Origin { member: MemberId(0), ticket: Ticket(0) };
                    converted.entry.kind = EntryKind::ConfChange;
                    converted.entry.data = MemberChange { origin, kind }.to_conf_change().encode();
                }
                converted.change = Some(change);
                Ok(converted)
            }
            other => Err(unknown(format!("type {other} is not known"))),
        }
    }

    /// What a normal entry asks for; None: nothing that lasts.
    fn request(&self, raw: &RawEntry) -> Result<Option<(RequestKind, Bytes, Option<Login>)>, String> {
        let found = fields(&raw.data).ok_or("it does not decode")?;
        let method = bytes(&found, 2);
        if [&b"PUT"[..], b"POST", b"DELETE", b"QGET", b"SYNC"].contains(&method) {
            return v2_request(&found);
        }
        let header = fields(bytes(&found, 100)).ok_or("its header does not decode")?;
        let revision = number(&header, 3);
        let name = Bytes::copy_from_slice(bytes(&header, 2));
        let login = (revision != 0).then_some(Login { name, revision });
        let mut requests = found.iter().filter(|(name, _)| !matches!(name, 1 | 100));
        let (Some((name, value)), None) = (requests.next(), requests.next()) else {
            return Err("it asks for nothing, or for two things at once".to_owned());
        };
        if NOTHING.contains(name) {
            return Ok(None);
        }
        if *name == 2
            && let Value::Bytes(v2) = value
        {
            return v2_request(&fields(v2).ok_or("it does not decode")?);
        }
        let body = value.bytes().map(Bytes::copy_from_slice).ok_or("it does not decode")?;
        let undecodable = |error: prost::DecodeError| error.to_string();
        let member = Some(Login::member());
        let (kind, body, login) = match name {
            4 => (RequestKind::Put, body, login),
            5 => (RequestKind::DeleteRange, body, login),
            6 => (RequestKind::Txn, self.txn(body).map_err(undecodable)?, login),
            7 => (RequestKind::Compact, body, member),
            8 => {
                let mut grant = pb::LeaseGrantRequest::decode(body).map_err(undecodable)?;
                grant.ttl = grant.ttl.max(self.lease_ttl_min_s);
                (RequestKind::LeaseGrant, grant.encode_to_vec().into(), member)
            }
            9 => (RequestKind::LeaseRevoke, body, login),
            10 => {
                let alarm = pb::AlarmRequest::decode(body.clone()).map_err(undecodable)?;
                // A question, or an alarm that is none.
                if alarm.action == 0 || alarm.alarm == 0 {
                    return Ok(None);
                }
                (RequestKind::Alarm, body, member)
            }
            1000 => (RequestKind::AuthEnable, body, login),
            1011 => (RequestKind::AuthDisable, body, login),
            1100 => {
                let mut user = pb::AuthUserAddRequest::decode(body).map_err(undecodable)?;
                let has_none = user.options.is_some_and(|options| options.no_password);
                if !has_none && user.hashed_password.is_empty() {
                    user.hashed_password = self.hashed(&user.password, raw.index)?;
                }
                user.password = String::new();
                (RequestKind::UserAdd, user.encode_to_vec().into(), login)
            }
            1101 => (RequestKind::UserDelete, body, login),
            1103 => {
                let mut change = pb::AuthUserChangePasswordRequest::decode(body).map_err(undecodable)?;
                if change.hashed_password.is_empty() {
                    change.hashed_password = self.hashed(&change.password, raw.index)?;
                }
                change.password = String::new();
                (RequestKind::UserChangePassword, change.encode_to_vec().into(), login)
            }
            1104 => (RequestKind::UserGrantRole, body, login),
            1105 => (RequestKind::UserRevokeRole, body, login),
            1200 => (RequestKind::RoleAdd, body, login),
            1201 => (RequestKind::RoleDelete, body, login),
            1203 => (RequestKind::RoleGrantPermission, body, login),
            1204 => (RequestKind::RoleRevokePermission, body, login),
            1301 => {
                let told = fields(&body).ok_or("it does not decode")?;
                let attributes = fields(bytes(&told, 2)).ok_or("it does not decode")?;
                let urls = attributes.iter().filter(|(name, _)| *name == 2);
                let urls = urls.filter_map(|(_, url)| url.bytes().map(text));
                let published = peer::PublishMember {
                    id: number(&told, 1),
                    name: text(bytes(&attributes, 1)),
                    client_urls: urls.collect(),
                };
                (RequestKind::PublishMember, published.encode_to_vec().into(), None)
            }
            other => return Err(format!("request {other} is not known")),
        };
        Ok(Some((kind, body, login)))
    }

    fn txn(&self, body: Bytes) -> Result<Bytes, prost::DecodeError> {
        if !self.drops_ranges {
            return Ok(body);
        }
        let mut txn = pb::TxnRequest::decode(body)?;
        for ops in [&mut txn.success, &mut txn.failure] {
            ops.retain(|op| !matches!(op.request, Some(Op::RequestRange(_))));
        }
        Ok(txn.encode_to_vec().into())
    }

    /// A password of 3.4 as a request carries its hash.
    fn hashed(&self, password: &str, index: u64) -> Result<String, String> {
        use base64::Engine as _;
        let hash = (self.hash)(password, index).ok_or("its password cannot be hashed")?;
        Ok(base64::engine::general_purpose::STANDARD.encode(hash))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A request of the v2 store, which until 3.5 carries members' names and the cluster's version.
fn v2_request(found: &[(u64, Value<'_>)]) -> Result<Option<(RequestKind, Bytes, Option<Login>)>, String> {
    let (method, path, value) = (bytes(found, 2), text(bytes(found, 3)), bytes(found, 4));
    if method == b"SYNC" || method == b"QGET" || path == "/0/version" {
        return Ok(None);
    }
    let member = path.strip_prefix("/0/members/").and_then(|rest| rest.strip_suffix("/attributes"));
    let id = member.and_then(|id| u64::from_str_radix(id, 16).ok());
    let (b"PUT", Some(id)) = (method, id) else {
        return Err(format!("{} {path:?} changes etcd's v2 store, which cannot be imported", text(method)));
    };
    let mut told = crate::backup::MemberEntry::default();
    told.take_attributes(value)?;
    let published = peer::PublishMember { id, name: told.name, client_urls: told.client_urls };
    Ok(Some((RequestKind::PublishMember, published.encode_to_vec().into(), None)))
}
