//! Members of the real binary that belong together, and what can be asked of all of them at once.

use bytes::Bytes;
use tokio::time::Instant;

use crate::client::{CallError, Client};
use crate::judge::history::Event;
use crate::launch::{Launch, server_is_etcd};
use crate::member::Member;
use crate::pb::etcdserverpb as pb;
use crate::server::{Exit, Server};
use crate::wait::{PATIENCE, POLL, eventually};
use crate::work_dir::WorkDir;

/// Starts all, and waits until all serve.
pub async fn start_all(launches: &[Launch]) -> Vec<Server> {
    let mut servers: Vec<Server> = launches.iter().map(Launch::spawn).collect();
    for (launch, server) in launches.iter().zip(&mut servers) {
        server.wait_ready().await.unwrap_or_else(|why| panic!("{}: {why}", launch.name));
    }
    servers
}

/// Starts these as a new cluster, and waits until all serve.
pub async fn start_new(members: &mut [Member]) {
    let launches: Vec<Launch> = {
        let all: Vec<&Member> = members.iter().collect();
        members.iter().map(|member| member.with("new", &all)).collect()
    };
    for (member, server) in members.iter_mut().zip(start_all(&launches).await) {
        member.runs_as(server);
    }
}

/// The members, by number: m0, m1 and so on.
pub struct Cluster {
    pub members: Vec<Member>,
    /// Their ids, in the same order.
    pub ids: Vec<u64>,
    work: WorkDir,
}

impl Cluster {
    /// A new cluster of so many members with these flags, all of which serve.
    pub async fn start(count: usize, flags: &[&str]) -> Self {
        Self::start_with(count, flags, |_member, _launch| {}).await
    }

    /// The same with something changed in how each member is started.
    pub async fn start_with(
        count: usize,
        flags: &[&str],
        mut change: impl FnMut(usize, &mut Launch),
    ) -> Self {
        let work = WorkDir::new();
        let mut launches: Vec<Launch> = (0..count)
            .map(|member| {
                let mut launch = Member::new(&work, &format!("m{member}")).launch;
                launch.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
                change(member, &mut launch);
                launch
            })
            .collect();
        let listed = Launch::listed(&launches);
        launches.iter_mut().for_each(|launch| launch.initial_cluster = Some(listed.clone()));
        let servers = start_all(&launches).await;
        let members =
            launches.into_iter().zip(servers).map(|(launch, server)| Member::started(launch, server));
        let mut cluster = Self { members: members.collect(), ids: Vec::new(), work };
        for member in &cluster.members {
            let status = member.client().await.status().await.unwrap();
            cluster.ids.push(status.header.unwrap().member_id);
        }
        cluster
    }

    /// Adds a member without a vote through a client of a voter, starts it, and waits for nothing.
    pub async fn add_learner(&mut self, voter: &Client) {
        self.add_learner_with(voter, |_launch| {}).await;
    }

    /// The same with something changed in how it is started.
    pub async fn add_learner_with(&mut self, voter: &Client, change: impl FnOnce(&mut Launch)) {
        let mut learner = Member::new(&self.work, &format!("m{}", self.count()));
        // Refused while the members have not been in touch for long enough.
        let added = eventually(async || voter.member_add(&learner.peer_url(), true).await).await;
        self.ids.push(added.member.expect("an answer names the member that was added").id);
        let members: Vec<&Member> = self.members.iter().chain([&learner]).collect();
        let mut launch = learner.with("existing", &members);
        change(&mut launch);
        learner.launch = launch;
        learner.spawn();
        self.members.push(learner);
    }

    /// Has a member that has ended begin anew, as its operator is told to: removed, emptied, added again and
    /// started. It gets another id, and nothing is waited for.
    pub async fn begin_anew(&mut self, member: usize, voter: &Client, url: &str) {
        eventually(async || voter.member_remove(self.ids[member]).await).await;
        std::fs::remove_dir_all(&self.launch(member).data_dir).unwrap();
        let listed = voter.member_list(true).await.unwrap().members;
        let listed: Vec<String> =
            listed.iter().map(|other| format!("{}={}", other.name, other.peer_ur_ls[0])).collect();
        let added = eventually(async || voter.member_add(url, false).await).await;
        self.ids[member] = added.member.expect("an answer names the member that was added").id;
        let all = [&listed[..], &[format!("m{member}={url}")]].concat().join(",");
        let launch = self.launch_mut(member);
        launch.flags.push("--initial-cluster-state=existing".to_owned());
        launch.flags.push(format!("--initial-cluster={all}"));
        self.spawn(member);
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    pub fn launch(&self, member: usize) -> &Launch {
        &self.members[member].launch
    }

    pub fn launch_mut(&mut self, member: usize) -> &mut Launch {
        &mut self.members[member].launch
    }

    pub fn client_port(&self, member: usize) -> u16 {
        self.launch(member).client_port
    }

    pub fn server(&self, member: usize) -> &Server {
        self.members[member].server()
    }

    /// A new connection.
    pub async fn client(&self, member: usize) -> Client {
        self.members[member].client().await
    }

    pub async fn status(&self, member: usize) -> Result<pb::StatusResponse, CallError> {
        self.members[member].status().await
    }

    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// SIGTERM, and gone with success when this returns.
    pub async fn terminate(&mut self, member: usize) {
        let exit = self.members[member].terminate().await;
        // etcd ends by its own signal.
        assert!(exit.status.success() || server_is_etcd(), "m{member}: {}:\n{}", exit.status, exit.output);
    }

    pub fn signal(&self, member: usize, name: &str) {
        self.server(member).signal(name);
    }

    /// Starts a member that was stopped, and waits for nothing.
    pub fn spawn(&mut self, member: usize) {
        self.members[member].spawn();
    }

    /// Starts a member that was stopped, and waits until it serves.
    pub async fn start_again(&mut self, member: usize) {
        self.members[member].start().await;
    }

    pub async fn wait_ready(&mut self, member: usize) {
        self.members[member].wait_ready().await;
    }

    /// Waits until a member that was started has ended by itself.
    pub async fn wait_exit(&mut self, member: usize) -> Exit {
        self.members[member].wait_exit().await
    }

    /// Every member that should run does.
    pub fn assert_running(&mut self) {
        for member in &mut self.members {
            if member.was_started() {
                let is_running = member.server_mut().is_running();
                assert!(is_running, "{} ended by itself:\n{}", member.name(), member.output());
            }
        }
    }

    /// What a member wrote to its log since its last start.
    pub fn output(&self, member: usize) -> String {
        self.members[member].output()
    }

    /// The ends of all members' logs, for a report.
    pub fn all_output(&self) -> String {
        let tail = |member: &Member| {
            let output = member.output();
            let lines: Vec<&str> = output.lines().collect();
            format!("--- {}\n{}", member.name(), lines[lines.len().saturating_sub(40)..].join("\n"))
        };
        self.members.iter().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// The leader of the newest term that any member knows of. Waits for one.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut newest = (0, 0);
            for member in &self.members {
                if let Ok(status) = member.status().await {
                    newest = newest.max((status.raft_term, status.leader));
                }
            }
            if let Some(leader) = self.ids.iter().position(|id| *id == newest.1) {
                return leader;
            }
            assert!(Instant::now() < deadline, "no leader after {PATIENCE:?}\n{}", self.all_output());
            tokio::time::sleep(POLL).await;
        }
    }

    /// The leader and the others, of the members that run; as soon as all of these name the same one.
    pub async fn roles(&self) -> (usize, Vec<usize>) {
        let running: Vec<usize> = (0..self.count()).filter(|&member| self.members[member].runs()).collect();
        let leader = eventually(async || {
            let mut leaders = Vec::new();
            for &member in &running {
                leaders.push(self.members[member].status().await.map(|status| status.leader));
            }
            leaders.dedup();
            let leader = match leaders[..] {
                [Ok(leader)] => self.ids.iter().position(|id| *id == leader),
                _ => None,
            };
            leader.filter(|leader| running.contains(leader)).ok_or(leaders)
        });
        let leader = leader.await;
        (leader, running.into_iter().filter(|&member| member != leader).collect())
    }

    /// Makes a member the leader.
    pub async fn lead(&self, member: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            if leader == member {
                return;
            }
            let target = self.ids[member];
            let moved = self.members[leader].probe(async |client| client.move_leader(target).await).await;
            assert!(Instant::now() < deadline, "m{member} does not lead: {moved:?}\n{}", self.all_output());
        }
    }

    /// Waits until every member has applied everything, and answers the revision.
    pub async fn settle(&mut self) -> i64 {
        for member in 0..self.count() {
            self.wait_ready(member).await;
        }
        let range = |serializable| pb::RangeRequest {
            key: Bytes::from_static(b"settled?"),
            serializable,
            ..Default::default()
        };
        let revision = async |member: &Member, request: pb::RangeRequest| {
            let answer = member.probe(async |client| client.range(&request).await).await;
            answer.map(|answer| answer.header.unwrap().revision)
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let newest = revision(&self.members[0], range(false)).await;
            let mut revisions = Vec::new();
            for member in &self.members {
                revisions.push(revision(member, range(true)).await);
            }
            if let Ok(newest) = newest
                && revisions.iter().all(|revision| *revision == Ok(newest))
            {
                return newest;
            }
            let output = self.all_output();
            assert!(Instant::now() < deadline, "no agreement: revisions {revisions:?}\n{output}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every member's hash of everything up to `revision`, which must be the same.
    pub async fn assert_equal_hashes(&self, revision: i64) {
        let mut hashes = Vec::new();
        for member in &self.members {
            let answer = member.client().await.hash_kv(revision).await;
            let answer = answer.unwrap_or_else(|error| panic!("HashKV of {}: {error}", member.name()));
            hashes.push((answer.hash, answer.compact_revision));
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "at {revision} the hashes are {hashes:x?}");
    }

    /// All that happened in `from..=revision`, as a member tells it.
    pub async fn events(&self, member: usize, from: i64, revision: i64) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        if revision < from {
            return events;
        }
        let client = self.client(member).await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        let request = pb::WatchCreateRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            start_revision: from,
            ..Default::default()
        };
        requests.create(request).unwrap();
        // Nothing is written meanwhile, so the last revision is whole when its first event is told.
        while events.last().is_none_or(|event| event.revision < revision) {
            let answer = answers.next().await.unwrap().expect("a watch does not end");
            assert!(!answer.canceled, "m{member} cancels the watch: {}", answer.cancel_reason);
            events.extend(answer.events.into_iter().map(Event::from));
        }
        events
    }
}
