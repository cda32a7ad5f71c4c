//! Members that come and go, and a light load with a ledger of what was acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::{Exit, Member, WorkDir, eventually};

/// Exit code of a member that was removed, as etcd's: a unit with `Restart=on-failure` leaves it alone.
pub const REMOVED: i32 = 0;

/// A member of clusters that change.
pub fn member(work: &WorkDir, name: &str) -> Member {
    // Elections and heartbeats at half of etcd's time: a test should not wait for them.
    let flags = ["--heartbeat-interval=50", "--election-timeout=500", "--strict-reconfig-check=false"];
    let mut member = Member::new(work, name);
    member.launch.flags = flags.map(str::to_owned).into();
    member
}

/// The next word of a member that was removed.
pub async fn expect_removed(member: &mut Member) -> Exit {
    let exit = member.wait_exit().await;
    assert_eq!(exit.status.code(), Some(REMOVED), "{}", exit.output);
    exit.assert_says(&["removed from"]);
    let last = exit.output.lines().last().unwrap_or_default();
    assert!(last.contains("was removed from its cluster"), "the last line does not say why: {last}");
    exit
}

/// Starts `joining` as a member of the cluster that `members` are, which has been told of it.
pub async fn join(joining: &mut Member, members: &[Member]) {
    let all: Vec<&Member> = members.iter().chain([&*joining]).collect();
    let launch = joining.with("existing", &all);
    joining.start_as(&launch).await;
}

/// The member's id.
pub async fn id_of(member: &Member) -> u64 {
    let list = eventually(async || member.client().await.member_list(true).await).await;
    let own = list.members.iter().find(|listed| listed.peer_ur_ls == [member.peer_url()]);
    own.expect("it is a member").id
}

/// The member that leads.
pub async fn leader(members: &[Member]) -> usize {
    eventually(async || {
        for (slot, member) in members.iter().enumerate().filter(|(_, member)| member.runs()) {
            if let Ok(status) = member.status().await
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
    pub fn start(members: &[Member]) -> Self {
        let load = Self::default();
        load.go_to(members);
        let running = load.clone();
        tokio::task::spawn_local(async move { running.run().await });
        load
    }

    /// The members that run now.
    pub fn go_to(&self, members: &[Member]) {
        let running = members.iter().filter(|member| member.runs());
        *self.ports.borrow_mut() = running.map(|member| member.launch.client_port).collect();
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
    pub async fn check(&self, members: &[Member]) {
        self.is_over.set(true);
        let acknowledged = self.acknowledged.borrow().clone();
        assert!(!acknowledged.is_empty(), "the load has done nothing");
        let mut hashes = Vec::new();
        for member in members.iter().filter(|member| member.runs()) {
            let client = member.client().await;
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
                assert_eq!(held.get(key), Some(value), "{} lacks {key}", member.name());
            }
        }
        // The writes of the last moment are applied everywhere once a read has seen them.
        for member in members.iter().filter(|member| member.runs()) {
            let client = member.client().await;
            eventually(async || client.get("k/").await).await;
            let hash = eventually(async || client.hash_kv(0).await).await;
            hashes.push((hash.header.unwrap().revision, hash.hash));
        }
        let newest = hashes.iter().map(|(revision, _)| *revision).max();
        let newest: Vec<u32> =
            hashes.iter().filter(|(revision, _)| Some(*revision) == newest).map(|(_, hash)| *hash).collect();
        assert!(newest.windows(2).all(|pair| pair[0] == pair[1]), "members differ: {hashes:?}");
    }
}
