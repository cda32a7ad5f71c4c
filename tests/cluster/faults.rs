//! What goes wrong, one thing at a time, while clients write and read; and that it ends well.

use std::time::Duration;

use pinion_kit::Cluster;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::load::Load;
use crate::network::{Link, Network};
use crate::stall::StalledThread;

/// Something that a cluster survives as long as a majority works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillLeader,
    FreezeLeader,
    KillFollower,
    /// All at once, as when power fails but disks keep what they took.
    KillAll,
    /// SIGTERM one after the other.
    RollingRestart,
    /// A follower is alone.
    CutFollower,
    /// The leader is alone.
    CutLeader,
    /// Nothing that the leader says arrives.
    MuteLeader,
    /// The leader hears nothing, and is heard.
    DeafenLeader,
    /// The leader and one follower do not hear each other; the other follower hears both.
    CutPair,
    /// Connections with the leader are reset, again and again.
    ResetLeader,
    /// Everything between members is late, by different times.
    Delay,
    /// Connections break in the midst of messages.
    Flaky,
    /// Something between members sends frames again, late, or out of order.
    Repeat,
    /// Something between members says again whole connections of before.
    Replay,
    /// One follower is reached by a slow line.
    SlowFollower,
    /// The leader's disk answers no more, its process goes on.
    StallLeaderDisk,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::KillLeader,
        Self::FreezeLeader,
        Self::KillFollower,
        Self::KillAll,
        Self::RollingRestart,
        Self::CutFollower,
        Self::CutLeader,
        Self::MuteLeader,
        Self::DeafenLeader,
        Self::CutPair,
        Self::ResetLeader,
        Self::Delay,
        Self::Flaky,
        Self::Repeat,
        Self::Replay,
        Self::SlowFollower,
        Self::StallLeaderDisk,
    ];

    /// Makes it happen to a cluster under load, waits until writes are accepted in spite of it, undoes
    /// it, and waits until every member serves.
    pub async fn strike(self, cluster: &mut Cluster, network: &Network, load: &Load, rng: &mut StdRng) {
        let count = cluster.count();
        let leader = cluster.leader().await;
        let follower = (leader + rng.random_range(1..count)) % count;
        let lasts = Duration::from_millis(rng.random_range(50..800));
        match self {
            Self::KillLeader | Self::KillFollower => {
                let member = if self == Self::KillLeader { leader } else { follower };
                cluster.kill(member);
                load.wait_write().await;
                tokio::time::sleep(lasts).await;
                cluster.spawn(member);
            }
            Self::FreezeLeader => {
                cluster.signal(leader, "STOP");
                load.wait_write().await;
                tokio::time::sleep(lasts).await;
                cluster.signal(leader, "CONT");
            }
            Self::KillAll => {
                (0..count).for_each(|member| cluster.kill(member));
                (0..count).for_each(|member| cluster.spawn(member));
            }
            Self::RollingRestart => {
                for member in 0..count {
                    cluster.terminate(member).await;
                    cluster.spawn(member);
                    cluster.wait_ready(member).await;
                }
            }
            Self::CutFollower => network.set_around(follower, count, Link::Cut),
            Self::CutLeader => network.set_around(leader, count, Link::Cut),
            Self::MuteLeader | Self::DeafenLeader => {
                for other in (0..count).filter(|other| *other != leader) {
                    let (from, to) = if self == Self::MuteLeader { (leader, other) } else { (other, leader) };
                    network.set(from, to, Link::Cut);
                }
            }
            Self::CutPair => {
                network.set(leader, follower, Link::Cut);
                network.set(follower, leader, Link::Cut);
            }
            Self::ResetLeader => {
                for _ in 0..3 {
                    network.set_around(leader, count, Link::Reset);
                    tokio::time::sleep(lasts / 10).await;
                    network.set_around(leader, count, Link::Pass);
                    tokio::time::sleep(lasts / 5).await;
                }
            }
            Self::Delay => {
                for member in 0..count {
                    let most = Duration::from_millis(rng.random_range(1..40));
                    network.set_around(member, count, Link::Delay { least: most / 4, most });
                }
            }
            Self::Flaky => {
                for member in 0..count {
                    network.set_around(member, count, Link::Flaky { probability: 0.02 });
                }
            }
            Self::Repeat => {
                for member in 0..count {
                    network.set_around(member, count, Link::Repeat { probability: 0.02 });
                }
            }
            Self::Replay => {
                for _ in 0..3 {
                    network.replay();
                    tokio::time::sleep(lasts / 3).await;
                }
            }
            Self::SlowFollower => {
                let link = Link::Slow { bytes_per_second: rng.random_range(2_000..50_000) };
                network.set_around(follower, count, link);
            }
            Self::StallLeaderDisk => {
                // etcd's disk is not on a thread of its own.
                if let Some(_stalled) = StalledThread::of(cluster.server(leader).pid(), "log") {
                    load.wait_write().await;
                    tokio::time::sleep(lasts).await;
                }
            }
        }
        load.wait_write().await;
        tokio::time::sleep(lasts).await;
        network.heal();
        for member in 0..count {
            cluster.wait_ready(member).await;
        }
        load.wait_write().await;
    }
}
