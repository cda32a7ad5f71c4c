//! A cluster of real processes on loopback, and what can be asked of all its members at once.

use std::time::Duration;

use bytes::Bytes;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Exit, Launch, Server, WorkDir, free_port, server_is_etcd};
use prost::Message;
use tokio::time::Instant;

use crate::history::{Event, Found};
use crate::network::Network;

/// A call that asks one member how it is.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// A cluster whose majority works agrees on a leader and on all that was written by then.
const AGREE_DEADLINE: Duration = Duration::from_secs(30);

/// How often something is asked again.
const POLL: Duration = Duration::from_millis(5);

/// The members, by number.
pub struct Cluster {
    pub launches: Vec<Launch>,
    /// Absent: killed, or not started.
    servers: Vec<Option<Server>>,
    pub ids: Vec<u64>,
    /// When the cluster was started with proxies between its members.
    pub network: Option<Network>,
    _work: WorkDir,
}

impl Cluster {
    /// Starts `count` members with the flags and waits until all serve.
    pub async fn start(count: usize, with_proxies: bool, flags: &[&str]) -> Self {
        Self::start_with(count, with_proxies, flags, |_member, _launch| {}).await
    }

    /// The same with something changed in how each member is started.
    pub async fn start_with(
        count: usize,
        with_proxies: bool,
        flags: &[&str],
        mut change: impl FnMut(usize, &mut Launch),
    ) -> Self {
        let work = WorkDir::new();
        let mut launches: Vec<Launch> = (0..count)
            .map(|member| {
                let mut launch = Launch::new(work.join(&format!("m{member}")));
                launch.name = format!("m{member}");
                launch.advertised_peer_port = with_proxies.then(free_port);
                launch.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
                change(member, &mut launch);
                launch
            })
            .collect();
        let peer_port = |launch: &Launch| launch.advertised_peer_port.unwrap_or(launch.peer_port);
        let listed = launches.iter().map(|it| format!("{}=http://127.0.0.1:{}", it.name, peer_port(it)));
        let initial_cluster = listed.collect::<Vec<_>>().join(",");
        for launch in &mut launches {
            launch.initial_cluster = Some(initial_cluster.clone());
        }
        let network = with_proxies.then(|| {
            let ports: Vec<_> = launches.iter().map(|it| (peer_port(it), it.peer_port)).collect();
            Network::start(&ports)
        });
        let servers = launches.iter().map(|launch| Some(launch.spawn())).collect();
        let mut cluster = Self { launches, servers, ids: Vec::new(), network, _work: work };
        for member in 0..count {
            cluster.wait_ready(member).await;
        }
        for member in 0..count {
            cluster.ids.push(cluster.status(member).await.unwrap().header.unwrap().member_id);
        }
        if let Some(network) = &cluster.network {
            network.name_members(&cluster.ids);
        }
        cluster
    }

    pub fn count(&self) -> usize {
        self.launches.len()
    }

    pub fn client_port(&self, member: usize) -> u16 {
        self.launches[member].client_port
    }

    pub fn server(&self, member: usize) -> &Server {
        self.servers[member].as_ref().expect("the member was started")
    }

    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster was started with proxies")
    }

    pub fn kill(&mut self, member: usize) {
        self.servers[member].as_mut().expect("the member was started").kill();
    }

    /// SIGTERM, and gone with success when this returns.
    pub async fn terminate(&mut self, member: usize) {
        let exit = self.servers[member].take().expect("the member was started").terminate().await;
        // etcd ends by its own signal.
        assert!(exit.status.success() || server_is_etcd(), "m{member}: {}:\n{}", exit.status, exit.output);
    }

    pub fn signal(&self, member: usize, name: &str) {
        self.server(member).signal(name);
    }

    /// Starts a member that was killed, and waits for nothing.
    pub fn spawn(&mut self, member: usize) {
        self.servers[member] = None;
        self.servers[member] = Some(self.launches[member].spawn());
    }

    pub async fn wait_ready(&mut self, member: usize) {
        let server = self.servers[member].as_mut().expect("the member was started");
        server.wait_ready().await.unwrap_or_else(|why| panic!("m{member}: {why}"));
    }

    /// Every member that should run does.
    pub fn assert_running(&mut self) {
        for (member, server) in self.servers.iter_mut().enumerate() {
            if let Some(server) = server {
                assert!(server.is_running(), "m{member} ended by itself:\n{}", server.output());
            }
        }
    }

    /// What a member wrote to its log since its last start.
    pub fn output(&self, member: usize) -> String {
        self.servers[member].as_ref().map(Server::output).unwrap_or_default()
    }

    async fn probe<A: Message + Default>(
        &self,
        member: usize,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let call = async {
            let client = Client::connect(self.client_port(member)).await?;
            let answer = client.call(method, request.encode_to_vec().into()).await?;
            A::decode(answer).map_err(|error| CallError::Transport(error.to_string()))
        };
        tokio::time::timeout(PROBE_DEADLINE, call).await.unwrap_or(Err(CallError::Deadline))
    }

    pub async fn status(&self, member: usize) -> Result<pb::StatusResponse, CallError> {
        self.probe(member, "/etcdserverpb.Maintenance/Status", &pb::StatusRequest::default()).await
    }

    /// The leader of the newest term that any member knows of. Waits for one.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + AGREE_DEADLINE;
        loop {
            let mut newest = (0, 0);
            for member in 0..self.count() {
                if let Ok(status) = self.status(member).await {
                    newest = newest.max((status.raft_term, status.leader));
                }
            }
            if let Some(leader) = self.ids.iter().position(|id| *id == newest.1) {
                return leader;
            }
            assert!(Instant::now() < deadline, "no leader after {AGREE_DEADLINE:?}\n{}", self.all_output());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Makes a member the leader.
    pub async fn lead(&self, member: usize) {
        let deadline = Instant::now() + AGREE_DEADLINE;
        loop {
            let leader = self.leader().await;
            if leader == member {
                return;
            }
            let request = pb::MoveLeaderRequest { target_id: self.ids[member] };
            let method = "/etcdserverpb.Maintenance/MoveLeader";
            let moved = self.probe::<pb::MoveLeaderResponse>(leader, method, &request).await;
            assert!(Instant::now() < deadline, "m{member} does not lead: {moved:?}\n{}", self.all_output());
        }
    }

    /// Waits until a member that was started has ended by itself.
    pub async fn wait_exit(&mut self, member: usize) -> Exit {
        let exit = self.servers[member].as_mut().expect("the member was started").wait_exit().await;
        self.servers[member] = None;
        exit
    }

    /// The ends of all members' logs, for a report.
    pub fn all_output(&self) -> String {
        let tail = |member| {
            let output = self.output(member);
            let lines: Vec<&str> = output.lines().collect();
            format!("--- m{member}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
        };
        (0..self.count()).map(tail).collect::<Vec<_>>().join("\n")
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
        let deadline = Instant::now() + AGREE_DEADLINE;
        let method = "/etcdserverpb.KV/Range";
        loop {
            let newest = self.probe::<pb::RangeResponse>(0, method, &range(false)).await;
            let mut revisions = Vec::new();
            for member in 0..self.count() {
                let answer = self.probe::<pb::RangeResponse>(member, method, &range(true)).await;
                revisions.push(answer.map(|answer| answer.header.unwrap().revision));
            }
            if let Ok(newest) = newest.map(|answer| answer.header.unwrap().revision)
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
        for member in 0..self.count() {
            let request = pb::HashKvRequest { revision };
            let answer =
                self.probe::<pb::HashKvResponse>(member, "/etcdserverpb.Maintenance/HashKV", &request);
            hashes.push(answer.await.unwrap_or_else(|error| panic!("HashKV of m{member}: {error}")).hash);
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "at {revision} the hashes are {hashes:x?}");
    }

    /// All that happened in `from..=revision`, as a member tells it.
    pub async fn events(&self, member: usize, from: i64, revision: i64) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        if revision < from {
            return events;
        }
        let client = self.server(member).connect().await;
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
            events.extend(answer.events.into_iter().map(event));
        }
        events
    }
}

/// A change as the checker knows it.
pub fn event(event: pinion_kit::pb::mvccpb::Event) -> Event {
    let is_delete = event.r#type() == pinion_kit::pb::mvccpb::event::EventType::Delete;
    let kv = event.kv.expect("an event has a key");
    let key = String::from_utf8(kv.key.to_vec()).unwrap();
    Event { revision: kv.mod_revision, key, found: (!is_delete).then(|| found(&kv)) }
}

/// A key's state as an answer tells it.
pub fn found(kv: &pinion_kit::pb::mvccpb::KeyValue) -> Found {
    Found {
        value: String::from_utf8(kv.value.to_vec()).unwrap(),
        created: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
    }
}
