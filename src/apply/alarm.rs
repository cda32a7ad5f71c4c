//! Alarms: what is wrong with the cluster, agreed on by all members, and what they refuse because of it.
//!
//! An alarm is a pair of a member and a kind. `NoSpace` says that the member holds as much as its quota
//! allows, `Corrupt` that its data differs from that of others; member 0 means "some member, nobody can
//! say which". Raised and lifted by requests of the log, so every member refuses the same requests.
//!
//! Invariant: a request that an alarm refuses changes nothing. What frees space is never refused for
//! want of it; while data is corrupt nothing that a client asks changes it, nor do leases expire.
//! Cost: two booleans a request; the alarms of one cluster are few (`ALARMS_MAX`).
//! Compatibility: which requests each alarm refuses, and what each action answers, is etcd 3.7's. Two
//! inputs that end an etcd, an action or an alarm that it does not know, are refused here.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use prost::Message as _;

use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::peer;
use crate::request::{NodeMethod, Rejection, RequestKind};
use crate::types::MemberId;
use crate::types::node_path::{LEVELS_MAX, PATH_BYTES_MAX};

/// Alarms at once. Members come and go, and an alarm can name any number; a client must not fill memory.
pub(super) const ALARMS_MAX: usize = 1_024;

/// What is wrong. The numbers are on the wire and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmType {
    NoSpace = 1,
    Corrupt = 2,
}

impl AlarmType {
    /// `None` for `NONE` and for a number of a later version.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::NoSpace),
            2 => Some(Self::Corrupt),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// One alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub kind: AlarmType,
    pub member: MemberId,
}

impl Alarm {
    /// The request that raises it.
    #[must_use]
    pub fn activation(self) -> pb::AlarmRequest {
        let action = pb::alarm_request::AlarmAction::Activate as i32;
        pb::AlarmRequest { action, member_id: self.member.0, alarm: self.kind.number() }
    }
}

/// etcd's words in a Status answer, which leave out a 0 as protobuf's text form does.
impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.member != MemberId(0) {
            write!(f, "memberID:{} ", self.member.0)?;
        }
        f.write_str(match self.kind {
            AlarmType::NoSpace => "alarm:NOSPACE",
            AlarmType::Corrupt => "alarm:CORRUPT",
        })
    }
}

/// The alarms that are active.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alarms {
    active: BTreeSet<Alarm>,
    is_corrupt: bool,
    lacks_space: bool,
}

impl Alarms {
    /// By kind, then by member.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Alarm> {
        self.active.iter().copied()
    }

    #[must_use]
    pub fn contains(&self, alarm: Alarm) -> bool {
        self.active.contains(&alarm)
    }

    /// Whether a member's data is known to differ.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.is_corrupt
    }

    /// Whether a member has reached its quota.
    #[must_use]
    pub fn lacks_space(&self) -> bool {
        self.lacks_space
    }

    /// Whether a request of this kind may be applied. A transaction is also asked `check_txn`.
    pub(super) fn check(&self, kind: RequestKind) -> Result<(), Rejection> {
        use RequestKind as K;
        let changes_data = match kind {
            K::Put | K::DeleteRange | K::Txn | K::Compact | K::LeaseGrant | K::LeaseRevoke | K::NodeWrite => true,
            // Expiry has nobody to refuse: see `Machine::expire_leases`. The others do not touch keys.
            K::LeaseExpire
            | K::NodeExpire
            | K::NodeCheckpoint
            | K::LeaseCheckpoint
            | K::PublishMember
            | K::MemberUpdate
            | K::Alarm
            | K::FormatLevel
            | K::AuthEnable
            | K::AuthDisable
            | K::Authenticate
            | K::UserAdd
            | K::UserDelete
            | K::UserChangePassword
            | K::UserGrantRole
            | K::UserRevokeRole
            | K::RoleAdd
            | K::RoleDelete
            | K::RoleGrantPermission
            | K::RoleRevokePermission
            // The whole request is asked.
            | K::Part => false,
        };
        if self.is_corrupt && changes_data {
            return Err(Rejection::Corrupt);
        }
        if self.lacks_space && matches!(kind, K::Put | K::LeaseGrant) {
            return Err(Rejection::NoSpace);
        }
        Ok(())
    }

    /// Whether this transaction may be applied; its branches are not decided yet.
    pub(super) fn check_txn(&self, request: &pb::TxnRequest) -> Result<(), Rejection> {
        if self.lacks_space && has_put(request) { Err(Rejection::NoSpace) } else { Ok(()) }
    }

    /// Whether this write of a node may be applied.
    pub(super) fn check_node(&self, method: u32) -> Result<(), Rejection> {
        if self.lacks_space && !is_deletion(method) { Err(Rejection::NoSpace) } else { Ok(()) }
    }

    /// False when there are too many.
    pub(super) fn activate(&mut self, alarm: Alarm) -> bool {
        let has_room = self.active.len() < ALARMS_MAX || self.active.contains(&alarm);
        if has_room {
            self.active.insert(alarm);
            self.update();
        }
        has_room
    }

    /// Whether it was active.
    pub(super) fn deactivate(&mut self, alarm: Alarm) -> bool {
        let was_active = self.active.remove(&alarm);
        self.update();
        was_active
    }

    fn update(&mut self) {
        self.is_corrupt = self.active.iter().any(|alarm| alarm.kind == AlarmType::Corrupt);
        self.lacks_space = self.active.iter().any(|alarm| alarm.kind == AlarmType::NoSpace);
    }

    /// As a checkpoint holds them.
    pub(super) fn to_record(&self) -> peer::Alarms {
        let record = |alarm: &Alarm| peer::AlarmRecord { member: alarm.member.0, alarm: alarm.kind.number() };
        peer::Alarms { alarms: self.active.iter().map(record).collect() }
    }

    /// From a checkpoint or a backup.
    ///
    /// # Errors
    /// An alarm that this version does not know, or too many.
    pub fn from_record(record: peer::Alarms) -> Result<Self, String> {
        let mut alarms = Self::default();
        for peer::AlarmRecord { member, alarm } in record.alarms {
            // An alarm that this version cannot heed is state that others act on.
            let kind = AlarmType::from_number(alarm).ok_or_else(|| format!("alarm {alarm} is unknown"))?;
            if !alarms.activate(Alarm { kind, member: MemberId(member) }) {
                return Err(format!("more than {ALARMS_MAX} of them"));
            }
        }
        Ok(alarms)
    }
}

/// Whether any branch of it puts, taken or not.
fn has_put(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(nested)) => has_put(nested),
        _ => false,
    })
}

/// What a put adds beyond its key and value.
const PUT_BYTES: u64 = 256;

/// What a lease adds.
const LEASE_BYTES: u64 = 64;

/// Bytes that a directory adds beside its name.
const DIRECTORY_BYTES: u64 = 64;

/// Bytes that a write of a node adds beyond its bytes: its own and the directories above it.
const NODE_BYTES_MAX: u64 = PUT_BYTES + LEVELS_MAX as u64 * (PATH_BYTES_MAX as u64 + DIRECTORY_BYTES);

/// Space that a request of so many bytes could need at most, without a look into it.
#[must_use]
pub fn cost_bytes_max(kind: RequestKind, body_bytes: usize) -> u64 {
    let body_bytes = body_bytes as u64;
    match kind {
        RequestKind::Put => PUT_BYTES + body_bytes,
        RequestKind::NodeWrite => NODE_BYTES_MAX + body_bytes,
        // No operation is encoded in less than six bytes.
        RequestKind::Txn => body_bytes / 6 * PUT_BYTES + body_bytes,
        RequestKind::LeaseGrant => LEASE_BYTES,
        _ => 0,
    }
}

/// Space that this request would need against the quota, whatever it replaces. None: it adds nothing, or
/// cannot be read.
#[must_use]
pub fn cost_bytes(kind: RequestKind, body: &Bytes) -> Option<u64> {
    match kind {
        RequestKind::Put => pb::PutRequest::decode(body.clone()).ok().map(|put| put_bytes(&put)),
        RequestKind::Txn => {
            pb::TxnRequest::decode(body.clone()).ok().filter(has_put).map(|txn| txn_bytes(&txn))
        }
        RequestKind::LeaseGrant => Some(LEASE_BYTES),
        RequestKind::NodeWrite => node_bytes(body),
        _ => None,
    }
}

fn put_bytes(put: &pb::PutRequest) -> u64 {
    PUT_BYTES + put.key.len() as u64 + put.value.len() as u64
}

/// None: it deletes.
fn node_bytes(body: &Bytes) -> Option<u64> {
    let write = peer::NodeWrite::decode(body.clone()).ok()?;
    if is_deletion(write.method) {
        return None;
    }
    let levels = write.key.iter().filter(|&&byte| byte == b'/').count() as u64;
    let key_bytes = write.key.len() as u64;
    let above = levels.min(LEVELS_MAX as u64) * (key_bytes.min(PATH_BYTES_MAX as u64) + DIRECTORY_BYTES);
    Some(PUT_BYTES + key_bytes + write.value.len() as u64 + above)
}

fn is_deletion(method: u32) -> bool {
    let method = NodeMethod::from_number(method);
    matches!(method, Some(NodeMethod::Delete | NodeMethod::CompareAndDelete))
}

/// That of the larger branch.
fn txn_bytes(txn: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| -> u64 {
        let op_bytes = |op: &pb::RequestOp| match &op.request {
            Some(Op::RequestPut(put)) => put_bytes(put),
            Some(Op::RequestTxn(nested)) => txn_bytes(nested),
            _ => 0,
        };
        ops.iter().map(op_bytes).sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

#[cfg(test)]
#[path = "alarm_tests.rs"]
mod tests;
