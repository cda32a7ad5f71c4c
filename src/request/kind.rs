//! Kinds of requests that go through the log.

use crate::types::Feature;

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
    // Users and roles, from format level 2 on (`types::format`).
    /// `etcdserverpb.AuthEnableRequest`
    AuthEnable = 20,
    /// `etcdserverpb.AuthDisableRequest`
    AuthDisable = 21,
    /// `pinion.peer.v1.Authenticate`
    Authenticate = 22,
    /// `etcdserverpb.AuthUserAddRequest`, its password hashed.
    UserAdd = 23,
    /// `etcdserverpb.AuthUserDeleteRequest`
    UserDelete = 24,
    /// `etcdserverpb.AuthUserChangePasswordRequest`, its password hashed.
    UserChangePassword = 25,
    /// `etcdserverpb.AuthUserGrantRoleRequest`
    UserGrantRole = 26,
    /// `etcdserverpb.AuthUserRevokeRoleRequest`
    UserRevokeRole = 27,
    /// `etcdserverpb.AuthRoleAddRequest`
    RoleAdd = 28,
    /// `etcdserverpb.AuthRoleDeleteRequest`
    RoleDelete = 29,
    /// `etcdserverpb.AuthRoleGrantPermissionRequest`
    RoleGrantPermission = 30,
    /// `etcdserverpb.AuthRoleRevokePermissionRequest`
    RoleRevokePermission = 31,
    // Directories over HTTP, from format level 3 on.
    /// `pinion.peer.v1.NodeWrite`
    NodeWrite = 40,
    /// `pinion.peer.v1.LeaseExpire`, of nodes: their ids are the revisions that gave them their time to live.
    NodeExpire = 41,
    /// `pinion.peer.v1.LeaseCheckpoint`, of nodes as above.
    NodeCheckpoint = 42,
}

impl RequestKind {
    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// What the cluster's format level must allow before it is proposed.
    #[must_use]
    pub const fn feature(self) -> Option<Feature> {
        match self {
            Self::Put
            | Self::DeleteRange
            | Self::Txn
            | Self::Compact
            | Self::PublishMember
            | Self::LeaseGrant
            | Self::LeaseRevoke
            | Self::LeaseExpire
            | Self::LeaseCheckpoint
            | Self::MemberUpdate
            | Self::Alarm
            // Who proposes it asks.
            | Self::Part
            // This is how a level begins.
            | Self::FormatLevel => None,
            Self::AuthEnable
            | Self::AuthDisable
            | Self::Authenticate
            | Self::UserAdd
            | Self::UserDelete
            | Self::UserChangePassword
            | Self::UserGrantRole
            | Self::UserRevokeRole
            | Self::RoleAdd
            | Self::RoleDelete
            | Self::RoleGrantPermission
            | Self::RoleRevokePermission => Some(Feature::Auth),
            Self::NodeWrite | Self::NodeExpire | Self::NodeCheckpoint => Some(Feature::Nodes),
        }
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
            20 => Some(Self::AuthEnable),
            21 => Some(Self::AuthDisable),
            22 => Some(Self::Authenticate),
            23 => Some(Self::UserAdd),
            24 => Some(Self::UserDelete),
            25 => Some(Self::UserChangePassword),
            26 => Some(Self::UserGrantRole),
            27 => Some(Self::UserRevokeRole),
            28 => Some(Self::RoleAdd),
            29 => Some(Self::RoleDelete),
            30 => Some(Self::RoleGrantPermission),
            31 => Some(Self::RoleRevokePermission),
            40 => Some(Self::NodeWrite),
            41 => Some(Self::NodeExpire),
            42 => Some(Self::NodeCheckpoint),
            _ => None,
        }
    }
}
