//! Who belongs to the cluster.

mod change;
mod cluster;
mod member;
mod strict;

pub use change::{ChangeUndecodable, MemberChange, MemberChangeKind};
pub use cluster::{Cluster, ClusterUndecodable};
pub use member::{Member, cluster_id, joining_member_id, member_id};
pub use strict::{Unsafe, check_add, check_promote, check_remove};
