//! A few members on loopback, their calls, and a light load with a ledger of what was acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Exit, Launch, Server, WorkDir};
use tokio::time::Instant;

/// What a cluster has to do is done by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Exit code of a member that was removed, as etcd's: a unit with `Restart=on-failure` leaves it alone.
pub const REMOVED: i32 = 0;

/// One member: how it is started, and its process while it runs.
pub struct Node {
    pub name: String,
    pub launch: Launch,
    pub server: Option<Server>,
}

impl Node {
    pub fn new(work: &WorkDir, name: &str) -> Self {
        // Elections and heartbeats at half of etcd's time: a test should not wait for them.
        let launch = Launch::new(work.join(name))
            .flag(format!("--name={name}"))
            .flag("--heartbeat-interval=50")
            .flag("--election-timeout=500")
            .flag("--strict-reconfig-check=false");
        Self { name: name.to_owned(), launch, server: None }
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.launch.peer_port)
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.launch.client_port)
    }

    /// Starts it as one of `members`, in this `--initial-cluster-state`.
    pub fn with(&self, state: &str, members: &[&Self]) -> Launch {
        let list: Vec<String> =
            members.iter().map(|node| format!("{}={}", node.name, node.peer_url())).collect();
        self.launch
            .clone()
            .flag(format!("--initial-cluster={}", list.join(",")))
            .flag(format!("--initial-cluster-state={state}"))
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it runs")
    }

    pub async fn client(&self) -> Client {
        self.server.as_ref().expect("it runs").connect().await
    }

    /// The next word of a member that was removed.
    pub async fn expect_removed(&mut self) -> Exit {
        let exit = self.server().wait_exit().await;
        self.server = None;
        assert_eq!(exit.status.code(), Some(REMOVED), "{}", exit.output);
        exit.assert_says(&["removed from"]);
        let last = exit.output.lines().last().unwrap_or_default();
        assert!(last.contains("was removed from its cluster"), "the last line does not say why: {last}");
        exit
    }
}

/// Starts these as a new cluster.
pub async fn start_new(nodes: &mut [Node]) {
    let launches: Vec<Launch> = {
        let members: Vec<&Node> = nodes.iter().collect();
        nodes.iter().map(|node| node.with("new", &members)).collect()
    };
    for (node, launch) in nodes.iter_mut().zip(launches) {
        node.server = Some(launch.spawn());
    }
    for node in nodes {
        node.server().wait_ready().await.unwrap();
    }
}

pub async fn list(client: &Client) -> Result<pb::MemberListResponse, CallError> {
    let request = pb::MemberListRequest { linearizable: true };
    client.unary("/etcdserverpb.Cluster/MemberList", &request).await
}

pub async fn add(client: &Client, url: &str, is_learner: bool) -> Result<pb::MemberAddResponse, CallError> {
    let request = pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
    client.unary("/etcdserverpb.Cluster/MemberAdd", &request).await
}

pub async fn remove(client: &Client, id: u64) -> Result<pb::MemberRemoveResponse, CallError> {
    client.unary("/etcdserverpb.Cluster/MemberRemove", &pb::MemberRemoveRequest { id }).await
}

pub async fn promote(client: &Client, id: u64) -> Result<pb::MemberPromoteResponse, CallError> {
    client.unary("/etcdserverpb.Cluster/MemberPromote", &pb::MemberPromoteRequest { id }).await
}

pub async fn update(client: &Client, id: u64, url: &str) -> Result<pb::MemberUpdateResponse, CallError> {
    let request = pb::MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
    client.unary("/etcdserverpb.Cluster/MemberUpdate", &request).await
}

pub async fn move_leader(client: &Client, target_id: u64) -> Result<pb::MoveLeaderResponse, CallError> {
    let request = pb::MoveLeaderRequest { target_id };
    client.unary("/etcdserverpb.Maintenance/MoveLeader", &request).await
}

pub async fn status(client: &Client) -> Result<pb::StatusResponse, CallError> {
    client.unary("/etcdserverpb.Maintenance/Status", &pb::StatusRequest {}).await
}

/// The code and text of a call's error.
pub fn no<T: std::fmt::Debug>(result: Result<T, CallError>) -> (u32, String) {
    match result {
        Err(CallError::Status { code, message }) => (code, message),
        other => panic!("no status: {other:?}"),
    }
}

/// Repeats `call` until it succeeds; for what a cluster settles by itself.
pub async fn eventually<T, E: std::fmt::Debug>(mut call: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) if deadline < Instant::now() => panic!("not in {PATIENCE:?}: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Starts `node` as a member of the cluster that `members` are, which has been told of it.
pub async fn join(node: &mut Node, members: &[&Node]) {
    let mut all = members.to_vec();
    let launch = {
        all.push(node);
        node.with("existing", &all)
    };
    node.server = Some(launch.start().await);
}

/// The id of the node's member.
pub async fn id_of(node: &Node) -> u64 {
    let list = eventually(async || list(&node.client().await).await).await;
    let own = list.members.iter().find(|member| member.peer_ur_ls == [node.peer_url()]);
    own.expect("it is a member").id
}

/// The node that leads.
pub async fn leader(nodes: &[Node]) -> usize {
    eventually(async || {
        for (slot, node) in nodes.iter().enumerate() {
            let Some(server) = &node.server else { continue };
            let Ok(client) = Client::connect(server.client_port()).await else { continue };
            if let Ok(status) = status(&client).await
                && status.leader != 0
                && status.header.as_ref().is_some_and(|header| header.member_id == status.leader)
            {
                return Ok(slot);
            }
        }
        Err("nobody leads")
    })
    .await
}

/// Writes one key after another, on whichever member takes it, and notes what was acknowledged.
#[derive(Clone, Default)]
pub struct Load {
    acknowledged: Rc<RefCell<BTreeMap<String, String>>>,
    ports: Rc<RefCell<Vec<u16>>>,
    is_over: Rc<Cell<bool>>,
}

impl Load {
    /// Runs until `stop`.
    pub fn start(nodes: &[Node]) -> Self {
        let load = Self::default();
        load.go_to(nodes);
        let running = load.clone();
        tokio::task::spawn_local(async move { running.run().await });
        load
    }

    /// The members that run now.
    pub fn go_to(&self, nodes: &[Node]) {
        let running = nodes.iter().filter(|node| node.server.is_some());
        *self.ports.borrow_mut() = running.map(|node| node.launch.client_port).collect();
    }

    async fn run(&self) {
        let mut number = 0_usize;
        while !self.is_over.get() {
            number += 1;
            let port = {
                let ports = self.ports.borrow();
                ports[number % ports.len()]
            };
            let (key, value) = (format!("k/{number:06}"), format!("v{number}"));
            let written = async {
                let client = Client::connect(port).await?;
                client.put_kv(&key, &value).await
            };
            match tokio::time::timeout(Duration::from_secs(2), written).await {
                Ok(Ok(_)) => drop(self.acknowledged.borrow_mut().insert(key, value)),
                // Whether it was written is unknown, so it is not expected.
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Waits until `more` writes were acknowledged from now on.
    pub async fn goes_on(&self, more: usize) {
        let wanted = self.acknowledged.borrow().len() + more;
        eventually(async || {
            let count = self.acknowledged.borrow().len();
            if wanted <= count { Ok(()) } else { Err(format!("{count} of {wanted} writes")) }
        })
        .await;
    }

    /// Ends the load and checks that every member has all that was acknowledged, and all the same.
    pub async fn check(&self, nodes: &[Node]) {
        self.is_over.set(true);
        let acknowledged = self.acknowledged.borrow().clone();
        assert!(!acknowledged.is_empty(), "the load has done nothing");
        let mut hashes = Vec::new();
        for node in nodes.iter().filter(|node| node.server.is_some()) {
            let client = node.client().await;
            let range = eventually(async || client.prefix("k/").await).await;
            let held: BTreeMap<String, String> = range
                .kvs
                .into_iter()
                .map(|kv| {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    (text(&kv.key), text(&kv.value))
                })
                .collect();
            for (key, value) in &acknowledged {
                assert_eq!(held.get(key), Some(value), "{} lacks {key}", node.name);
            }
        }
        // The writes of the last moment are applied everywhere once a read has seen them.
        for node in nodes.iter().filter(|node| node.server.is_some()) {
            let client = node.client().await;
            eventually(async || client.get("k/").await).await;
            let hash: pb::HashKvResponse = eventually(async || {
                client.unary("/etcdserverpb.Maintenance/HashKV", &pb::HashKvRequest { revision: 0 }).await
            })
            .await;
            hashes.push((hash.header.unwrap().revision, hash.hash));
        }
        let newest = hashes.iter().map(|(revision, _)| *revision).max();
        let newest: Vec<u32> =
            hashes.iter().filter(|(revision, _)| Some(*revision) == newest).map(|(_, hash)| *hash).collect();
        assert!(newest.windows(2).all(|pair| pair[0] == pair[1]), "members differ: {hashes:?}");
    }
}
