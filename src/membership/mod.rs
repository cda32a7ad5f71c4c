//! Who belongs to the cluster.

mod cluster;
mod member;

pub use cluster::{Cluster, ClusterUndecodable};
pub use member::{Member, cluster_id, joining_member_id, member_id};
