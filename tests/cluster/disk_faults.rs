//! A member whose disk stalls or fails, on a file system of ours (`pinion_kit::mount`).
//!
//! m0 has such a disk. What is on it lives as long as it is mounted, so the member can be started again.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::disk::Node;
use pinion_kit::mount::{Device, Mounted};
use pinion_kit::{Cluster, WorkDir, block_on, server_is_etcd, skip};
use tokio::time::Instant;

use crate::load::Load;
use crate::{TEST_DEADLINE, judge};

/// Half of etcd's, so that two of them are not for ever.
const ELECTION: Duration = Duration::from_millis(500);
const FLAGS: [&str; 3] =
    ["--heartbeat-interval=50", "--election-timeout=500", "--watch-progress-notify-interval=200ms"];

/// How much longer a loaded machine in the debug profile may take.
const SLACK: Duration = Duration::from_secs(2);

/// Lets the device work again when a test fails in the midst of it: a process that waits for a stalled one
/// cannot even be killed. Declared behind the cluster, so that it is dropped first.
struct WorksAtEnd<'a>(&'a Mounted);

impl Drop for WorksAtEnd<'_> {
    fn drop(&mut self) {
        self.0.set(Device::Works);
    }
}

/// A disk, mounted; none, with a loud word, where that cannot be.
fn mounted(work: &WorkDir) -> Option<Mounted> {
    if server_is_etcd() {
        skip("it is about how this server behaves");
        return None;
    }
    let at = work.join("disk");
    fs::create_dir(&at).unwrap();
    match Mounted::mount(Node::Dir([].into()), &at) {
        Ok(mounted) => Some(mounted),
        Err(error) => {
            skip(&format!("cannot mount a file system of our own (root and /dev/fuse): {error}"));
            None
        }
    }
}

async fn start(disk: &Path, sync: &str) -> Cluster {
    Cluster::start_with(3, &FLAGS, |member, launch| {
        launch.flags.push(format!("--wal-sync={sync}"));
        if member == 0 {
            launch.log_path = Some(disk.with_extension("m0.log"));
            launch.data_dir = disk.join("data");
        }
    })
    .await
}

/// Waits until the others have another leader than m0; how long that took.
async fn until_deposed(cluster: &Cluster) -> Duration {
    let since = Instant::now();
    loop {
        for member in 1..cluster.count() {
            let leader = cluster.status(member).await.map(|status| status.leader);
            if leader.is_ok_and(|leader| leader != 0 && leader != cluster.ids[0]) {
                return since.elapsed();
            }
        }
        assert!(since.elapsed() < Duration::from_secs(20), "m0 still leads\n{}", cluster.all_output());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_leader_whose_disk_stalls_gives_way_and_comes_back_and_nothing_is_lost() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let Some(device) = mounted(&work) else { return };
        let mut cluster = start(&work.join("disk"), "direct").await;
        let _works = WorksAtEnd(&device);
        let load = Load::start(&cluster, 3, Duration::from_millis(5), 1);
        for _ in 0..2 {
            cluster.lead(0).await;
            load.wait_write().await;
            device.set(Device::Stalls);
            let deposed = until_deposed(&cluster).await;
            let began = Instant::now();
            load.wait_write().await;
            println!("another leads {deposed:?} after the stall, and a write {:?} later", began.elapsed());
            assert!(deposed < 2 * ELECTION + SLACK, "the leader's disk stalls, and it leads for {deposed:?}");
            // Longer than anything waits for it.
            tokio::time::sleep(4 * ELECTION).await;
            assert_ne!(cluster.leader().await, 0, "it leads again, and its disk stalls");
            device.set(Device::Works);
            load.wait_write().await;
            cluster.wait_ready(0).await;
        }
        let record = load.finish(&cluster).await;
        judge(&mut cluster, &record).await;
    });
}

/// Puts through some members one after another, each with its time.
struct Puts {
    is_over: Cell<bool>,
    slowest: RefCell<Duration>,
    count: Cell<u64>,
}

impl Puts {
    fn start(cluster: &Cluster, members: &[usize]) -> Rc<Self> {
        let puts =
            Rc::new(Self { is_over: Cell::default(), slowest: RefCell::default(), count: Cell::default() });
        for member in members {
            let (puts, port, key) = (Rc::clone(&puts), cluster.client_port(*member), format!("put/{member}"));
            tokio::task::spawn_local(async move {
                let client = Client::connect(port).await.unwrap();
                while !puts.is_over.get() {
                    let asked = Instant::now();
                    client.put_kv(&key, "x").await.expect("no client notices");
                    client.get(&key).await.expect("no client notices");
                    puts.slowest.replace_with(|slowest| (*slowest).max(asked.elapsed()));
                    puts.count.set(puts.count.get() + 1);
                }
            });
        }
        puts
    }
}

#[test]
fn clients_of_the_others_do_not_notice_a_follower_whose_disk_stalls() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let Some(device) = mounted(&work) else { return };
        let mut cluster = start(&work.join("disk"), "mmap").await;
        let _works = WorksAtEnd(&device);
        cluster.lead(1).await;
        let puts = Puts::start(&cluster, &[1, 2]);
        let term = cluster.client(1).await.status().await.unwrap().raft_term;
        device.set(Device::Stalls);
        tokio::time::sleep(6 * ELECTION).await;
        let status = cluster.client(1).await.status().await.unwrap();
        assert_eq!((status.raft_term, status.leader), (term, cluster.ids[1]), "an election");
        device.set(Device::Works);
        let back = Instant::now();
        cluster.wait_ready(0).await;
        puts.is_over.set(true);
        let (count, slowest) = (puts.count.get(), *puts.slowest.borrow());
        println!(
            "{count} puts and gets, the slowest {slowest:?}; the follower serves after {:?}",
            back.elapsed()
        );
        assert!(slowest < SLACK, "a put and a get took {slowest:?}");
        let revision = cluster.settle().await;
        cluster.assert_equal_hashes(revision).await;
    });
}

async fn failing_leader(sync: &str) {
    let work = WorkDir::new();
    let Some(device) = mounted(&work) else { return };
    let mut cluster = start(&work.join("disk"), sync).await;
    cluster.lead(0).await;
    let load = Load::start(&cluster, 3, Duration::from_millis(5), 2);
    load.wait_write().await;
    device.set(Device::Fails);
    let failed = Instant::now();
    let exit = cluster.wait_exit(0).await;
    println!("{sync}: ended after {:?}", failed.elapsed());
    assert_eq!(exit.status.code(), Some(74), "{}", exit.output);
    load.wait_write().await;
    println!("{sync}: a write is accepted {:?} after the failure", failed.elapsed());
    // On a disk that works again it takes part again.
    device.set(Device::Works);
    cluster.spawn(0);
    cluster.wait_ready(0).await;
    load.wait_write().await;
    let record = load.finish(&cluster).await;
    judge(&mut cluster, &record).await;
}

#[test]
fn a_leader_whose_disk_fails_ends_with_its_code_and_the_others_go_on() {
    block_on(TEST_DEADLINE, async {
        failing_leader("direct").await;
        failing_leader("mmap").await;
    });
}
