//! etcd's buckets: what their entries are called and how they are encoded, for both ways.
//!
//! Compatibility: etcd 3.4 to 3.7. A revision's key is `main _ sub` in 17 bytes, `t` behind it for a tombstone.

use crate::types::Revision;

pub(super) const ALARM: &str = "alarm";
pub(super) const AUTH: &str = "auth";
pub(super) const AUTH_ROLES: &str = "authRoles";
pub(super) const AUTH_USERS: &str = "authUsers";
pub(super) const CLUSTER: &str = "cluster";
pub(super) const KEY: &str = "key";
pub(super) const LEASE: &str = "lease";
pub(super) const MEMBERS: &str = "members";
pub(super) const MEMBERS_REMOVED: &str = "members_removed";
pub(super) const META: &str = "meta";

/// Entries of `auth`.
pub(super) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(super) const AUTH_REVISION: &[u8] = b"authRevision";

/// Entries of `cluster`.
pub(super) const CLUSTER_VERSION: &[u8] = b"clusterVersion";
pub(super) const DOWNGRADE: &[u8] = b"downgrade";

/// Entries of `meta`.
pub(super) const CONF_STATE: &[u8] = b"confState";
pub(super) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(super) const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
pub(super) const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
pub(super) const STORAGE_VERSION: &[u8] = b"storageVersion";
pub(super) const TERM: &[u8] = b"term";

/// What an entry of `members_removed` holds.
pub(super) const REMOVED: &[u8] = b"removed";

/// Bytes of a revision's key, without the mark of a tombstone.
const REVISION_BYTES: usize = 17;

const TOMBSTONE: u8 = b't';

/// The key of a revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct RevisionKey {
    bytes: [u8; REVISION_BYTES + 1],
    is_tombstone: bool,
}

impl RevisionKey {
    pub(super) fn new(revision: Revision, is_tombstone: bool) -> Self {
        let mut bytes = [TOMBSTONE; REVISION_BYTES + 1];
        bytes[..8].copy_from_slice(&revision.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&revision.sub.to_be_bytes());
        Self { bytes, is_tombstone }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..REVISION_BYTES + usize::from(self.is_tombstone)]
    }

    /// The revision, and whether it is a tombstone's. `None` for what is no revision.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Revision, bool)> {
        let (main, rest) = bytes.split_first_chunk::<8>()?;
        let (sub, mark) = rest.strip_prefix(b"_")?.split_first_chunk::<8>()?;
        let revision = Revision::new(i64::from_be_bytes(*main), i64::from_be_bytes(*sub));
        let is_tombstone = match mark {
            [] => false,
            [TOMBSTONE] => true,
            _ => return None,
        };
        (0 <= revision.main && 0 <= revision.sub).then_some((revision, is_tombstone))
    }
}
