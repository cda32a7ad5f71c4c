//! Kinds of requests that go through the log.

/// What a request's body is. The numbers are on disk: never reused, never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum RequestKind {
    /// `etcdserverpb.PutRequest`
    Put = 1,
    /// `etcdserverpb.DeleteRangeRequest`
    DeleteRange = 2,
    /// `etcdserverpb.TxnRequest`
    Txn = 3,
    /// `etcdserverpb.CompactionRequest`
    Compact = 4,
    /// `pinion.peer.v1.PublishMember`
    PublishMember = 5,
    /// `etcdserverpb.LeaseGrantRequest`, its id chosen and its TTL within bounds.
    LeaseGrant = 6,
    /// `etcdserverpb.LeaseRevokeRequest`
    LeaseRevoke = 7,
    /// `pinion.peer.v1.LeaseExpire`
    LeaseExpire = 8,
    /// `pinion.peer.v1.LeaseCheckpoint`
    LeaseCheckpoint = 9,
    /// `etcdserverpb.MemberUpdateRequest`
    MemberUpdate = 10,
    /// `etcdserverpb.AlarmRequest`
    Alarm = 11,
    /// `pinion.peer.v1.FormatLevel`
    FormatLevel = 12,
    /// `pinion.peer.v1.RequestPart`; see `part`.
    Part = 13,
}

impl RequestKind {
    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// `None` for a number of a later version.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Put),
            2 => Some(Self::DeleteRange),
            3 => Some(Self::Txn),
            4 => Some(Self::Compact),
            5 => Some(Self::PublishMember),
            6 => Some(Self::LeaseGrant),
            7 => Some(Self::LeaseRevoke),
            8 => Some(Self::LeaseExpire),
            9 => Some(Self::LeaseCheckpoint),
            10 => Some(Self::MemberUpdate),
            11 => Some(Self::Alarm),
            12 => Some(Self::FormatLevel),
            13 => Some(Self::Part),
            _ => None,
        }
    }
}
