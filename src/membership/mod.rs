//! Who belongs to the cluster.

mod change;
mod cluster;
mod joining;
mod member;
mod strict;
mod survivors;

pub use change::{ChangeUndecodable, MemberChange, MemberChangeKind};
pub use cluster::{Cluster, ClusterUndecodable};
pub use joining::{Mismatch, find_joining};
pub use member::{Member, cluster_id, joining_member_id, member_id};
pub use strict::{Touch, Unsafe, check_add, check_promote, check_remove};
pub use survivors::{Disagreement, Survivor, lost};
