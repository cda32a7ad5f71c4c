//! Three members, started and stopped one by one.

use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, WorkDir};
use tokio::time::Instant;

/// A cluster that has a quorum has a leader by then.
const LEADER_DEADLINE: Duration = Duration::from_secs(20);

pub struct Members {
    launches: Vec<Launch>,
    servers: Vec<Option<Server>>,
    work: WorkDir,
}

impl Members {
    pub async fn start(flags: &[&str]) -> Self {
        let work = WorkDir::new();
        let mut launches: Vec<Launch> =
            (0..3).map(|member| Launch::new(work.join(&format!("m{member}")))).collect();
        let listed = launches.iter().enumerate();
        let listed: Vec<String> =
            listed.map(|(member, it)| format!("m{member}=http://127.0.0.1:{}", it.peer_port)).collect();
        for (member, launch) in launches.iter_mut().enumerate() {
            // Behind the flags of a member that is alone, of which the last one counts.
            launch.flags.push(format!("--name=m{member}"));
            launch.flags.push(format!("--initial-cluster={}", listed.join(",")));
            launch.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        }
        let servers = launches.iter().map(|launch| Some(launch.spawn())).collect();
        let mut members = Self { launches, servers, work };
        for member in 0..3 {
            members.wait_ready(member).await;
        }
        members
    }

    async fn wait_ready(&mut self, member: usize) {
        let server = self.servers[member].as_mut().expect("it was started");
        server.wait_ready().await.unwrap_or_else(|why| panic!("m{member}: {why}"));
    }

    pub async fn connect(&self, member: usize) -> Client {
        self.servers[member].as_ref().expect("it was started").connect().await
    }

    pub fn port(&self, member: usize) -> u16 {
        self.launches[member].client_port
    }

    pub fn kill(&mut self, member: usize) {
        self.servers[member].take().expect("it was started").kill();
    }

    /// SIGTERM, the end, and a new start.
    pub async fn restart(&mut self, member: usize) {
        let exit = self.servers[member].take().expect("it was started").terminate().await;
        assert!(exit.status.success(), "m{member}: {}:\n{}", exit.status, exit.output);
        self.servers[member] = Some(self.launches[member].spawn());
        self.wait_ready(member).await;
    }

    /// Adds a fourth member without a vote, starts it, and tells its id.
    pub async fn add_learner(&mut self, voter: &Client) -> u64 {
        let mut launch = Launch::new(self.work.join("m3"));
        let peer_url = format!("http://127.0.0.1:{}", launch.peer_port);
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url], is_learner: true };
        // Refused while the members have not been in touch for long enough.
        let deadline = Instant::now() + LEADER_DEADLINE;
        let added = loop {
            match voter.member_add(&request).await {
                Ok(added) => break added,
                Err(error) => assert!(Instant::now() < deadline, "not added in time: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let listed = self.launches.iter().chain([&launch]).enumerate();
        let listed: Vec<String> =
            listed.map(|(member, it)| format!("m{member}=http://127.0.0.1:{}", it.peer_port)).collect();
        launch.flags.push("--name=m3".to_owned());
        launch.flags.push(format!("--initial-cluster={}", listed.join(",")));
        launch.flags.push("--initial-cluster-state=existing".to_owned());
        self.servers.push(Some(launch.spawn()));
        self.launches.push(launch);
        added.member.expect("who was added").id
    }

    async fn status(&self, member: usize) -> Result<pb::StatusResponse, CallError> {
        Client::connect(self.port(member)).await?.status().await
    }

    /// Who leads, as soon as all members that run say the same.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + LEADER_DEADLINE;
        loop {
            let (mut ids, mut leaders) = (vec![0; 3], Vec::new());
            for member in (0..3).filter(|&member| self.servers[member].is_some()) {
                if let Ok(status) = self.status(member).await {
                    ids[member] = status.header.unwrap().member_id;
                    leaders.push(status.leader);
                }
            }
            leaders.dedup();
            if let [leader] = leaders[..]
                && let Some(member) = ids.iter().position(|&id| id == leader && id != 0)
            {
                return member;
            }
            assert!(Instant::now() < deadline, "no leader in time: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A leader and the others.
    pub async fn roles(&self) -> (usize, Vec<usize>) {
        let leader = self.leader().await;
        (leader, (0..3).filter(|&member| member != leader && self.servers[member].is_some()).collect())
    }
}

/// What a call was refused with.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> (u32, String) {
    match result {
        Err(CallError::Status { code, message }) => (code, message),
        other => panic!("not refused by the server: {other:?}"),
    }
}
