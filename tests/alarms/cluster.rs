//! Three members on loopback.

use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, WorkDir};
use tokio::time::Instant;

/// A cluster that does not do by then what it must do never will.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub launches: Vec<Launch>,
    /// None while it is stopped.
    pub servers: Vec<Option<Server>>,
    _work: WorkDir,
}

impl Cluster {
    /// All of them with these flags, started and serving.
    pub async fn start(flags: &[&str]) -> Self {
        let work = WorkDir::new();
        let mut launches: Vec<Launch> =
            (0..3).map(|slot| Launch::new(work.join(&format!("m{slot}")))).collect();
        let listed: Vec<String> = launches
            .iter()
            .enumerate()
            .map(|(slot, launch)| format!("m{slot}=http://127.0.0.1:{}", launch.peer_port))
            .collect();
        for (slot, launch) in launches.iter_mut().enumerate() {
            // The last of two equal flags counts.
            launch.flags = vec![
                format!("--name=m{slot}"),
                format!("--initial-cluster={}", listed.join(",")),
                "--heartbeat-interval=20".to_owned(),
                "--election-timeout=200".to_owned(),
                "--wal-sync=mmap".to_owned(),
            ];
            launch.flags.extend(flags.iter().map(ToString::to_string));
        }
        let servers = launches.iter().map(|launch| Some(launch.spawn())).collect();
        let mut cluster = Self { launches, servers, _work: work };
        for slot in 0..3 {
            cluster.wait_ready(slot).await;
        }
        cluster
    }

    pub async fn wait_ready(&mut self, slot: usize) {
        let server = self.servers[slot].as_mut().expect("it runs");
        server.wait_ready().await.unwrap_or_else(|reason| panic!("member {slot}: {reason}"));
    }

    pub async fn connect(&self, slot: usize) -> Client {
        self.servers[slot].as_ref().expect("it runs").connect().await
    }

    /// Ends a member, which keeps its data.
    pub async fn stop(&mut self, slot: usize) {
        let exit = self.servers[slot].take().expect("it runs").terminate().await;
        assert!(exit.status.success(), "{}", exit.output);
    }

    /// Starts it again and does not wait.
    pub fn spawn(&mut self, slot: usize) -> &mut Server {
        self.servers[slot].insert(self.launches[slot].spawn())
    }

    pub async fn id(&self, slot: usize) -> u64 {
        crate::status(&self.connect(slot).await).await.header.unwrap().member_id
    }

    /// Which member leads.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (slot, server) in self.servers.iter().enumerate() {
                let Some(server) = server else { continue };
                let status = crate::status(&server.connect().await).await;
                if status.leader != 0 && status.leader == status.header.unwrap().member_id {
                    return slot;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks every member that runs until all of them list this many alarms.
    pub async fn wait_alarms(&self, count: usize) -> Vec<pb::AlarmMember> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut listed = Vec::new();
            for server in self.servers.iter().flatten() {
                match crate::alarm(&server.connect().await, crate::GET, 0, 0).await {
                    Ok(answer) => listed.push(answer.alarms),
                    // A leader may be on its way out.
                    Err(CallError::Status { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let running = self.servers.iter().flatten().count();
            if listed.len() == running && listed.iter().all(|alarms| alarms.len() == count) {
                return listed.swap_remove(0);
            }
            assert!(Instant::now() < deadline, "not {count} alarms but {listed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a member that runs has written a line with these words.
    pub async fn wait_log(&self, slot: usize, words: &str) {
        let server = self.servers[slot].as_ref().expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        while !server.output().contains(words) {
            assert!(Instant::now() < deadline, "member {slot} does not say {words:?}:\n{}", server.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
