//! `pinion recover`: a quorum is lost for good, and what is left is made a cluster again. A ledger of what was
//! acknowledged says what may be gone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{
    Cluster, Launch, Member, TEST_DEADLINE, WorkDir, block_on, copy_tree, env_number, eventually, until,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::commands::{json, pinion, refused};
use crate::etcds::{self, run};
use crate::fill::fill;
use crate::seen::{seen, tree};

const FAST: [&str; 2] = ["--heartbeat-interval=50", "--election-timeout=500"];

/// Puts of unique keys, and the revision of each that was acknowledged.
#[derive(Clone, Default)]
struct Ledger {
    tried: Rc<RefCell<BTreeSet<String>>>,
    acknowledged: Rc<RefCell<BTreeMap<String, i64>>>,
    is_over: Rc<Cell<bool>>,
}

impl Ledger {
    fn acknowledged(&self) -> usize {
        self.acknowledged.borrow().len()
    }

    /// Writes to one member until it goes.
    fn write(&self, port: u16, task: usize) {
        let ledger = self.clone();
        tokio::task::spawn_local(async move {
            let mut number = 0;
            while !ledger.is_over.get() {
                number += 1;
                let key = format!("{port}-{task}-{number:05}");
                ledger.tried.borrow_mut().insert(key.clone());
                let put = async {
                    let client = Client::connect(port).await?;
                    client.put_kv(&key, &key).await
                };
                match tokio::time::timeout(Duration::from_millis(500), put).await {
                    Ok(Ok(answer)) => {
                        let revision = answer.header.unwrap().revision;
                        ledger.acknowledged.borrow_mut().insert(key, revision);
                    }
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
    }

    /// What the new cluster holds, against what was told to clients. Returns how many acknowledged writes are gone.
    async fn check(&self, client: &Client, certain_revision: i64, may_be_more: bool) -> usize {
        let all = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        let held = eventually(async || client.range(&all).await).await;
        let held: BTreeMap<String, i64> = held
            .kvs
            .into_iter()
            .map(|kv| {
                assert_eq!(kv.key, kv.value);
                (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)
            })
            .collect();
        let tried = self.tried.borrow();
        for key in held.keys() {
            assert!(tried.contains(key), "{key} was never written");
        }
        let mut lost = 0;
        for (key, revision) in &*self.acknowledged.borrow() {
            match held.get(key) {
                Some(found) => assert_eq!(found, revision, "{key} was acknowledged at another revision"),
                None => {
                    lost += 1;
                    assert!(may_be_more, "{key} is lost, though nothing acknowledged was said to be");
                    assert!(
                        certain_revision < *revision,
                        "{key} of {revision} is lost, and certain {certain_revision}"
                    );
                }
            }
        }
        lost
    }
}

/// Copies of the survivors' directories.
fn copies(work: &WorkDir, cluster: &Cluster, survivors: &[usize]) -> Vec<PathBuf> {
    let copy = |survivor: &usize| {
        let to = work.join(&format!("survivor-{survivor}"));
        copy_tree(&cluster.launch(*survivor).data_dir, &to);
        to
    };
    survivors.iter().map(copy).collect()
}

fn recover(dirs: &[PathBuf], more: &[&str]) -> Value {
    json(pinion(&["recover"]).args(dirs).args(more))
}

/// The member of the new cluster, where the old one of it was.
fn recovered(work: &WorkDir, cluster: &Cluster, told: &Value) -> Launch {
    let chosen = Path::new(told["outcome"]["chosen"].as_str().unwrap()).file_name().unwrap();
    let member: usize = chosen.to_str().unwrap().strip_prefix("survivor-").unwrap().parse().unwrap();
    Launch {
        data_dir: work.join("new"),
        flags: FAST.map(str::to_owned).into(),
        ..cluster.launch(member).clone()
    }
}

/// One cluster of `count`, of which `left` survive a cut at a random moment of load. `falls_behind`: they miss the last
/// of it. Returns how many acknowledged writes are gone.
async fn cut(count: usize, left: usize, falls_behind: bool, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let work = WorkDir::new();
    let checkpoints = format!("--snapshot-count={}", [20, 100, 100_000][random.random_range(0..3)]);
    let mut cluster = Cluster::start(count, &[FAST[0], FAST[1], &checkpoints]).await;
    let ledger = Ledger::default();
    for member in 0..count {
        for task in 0..2 {
            ledger.write(cluster.client_port(member), task);
        }
    }
    let enough = random.random_range(30..250);
    until(TEST_DEADLINE, async || enough <= ledger.acknowledged()).await;
    let mut survivors: Vec<usize> = (0..count).collect();
    survivors.shuffle(&mut random);
    survivors.truncate(left);
    if falls_behind {
        survivors.iter().for_each(|survivor| cluster.signal(*survivor, "STOP"));
        // The others go on without them, with another leader if need be.
        let enough = ledger.acknowledged() + random.random_range(20..100);
        until(TEST_DEADLINE, async || enough <= ledger.acknowledged()).await;
    }
    (0..count).for_each(|member| cluster.kill(member));
    ledger.is_over.set(true);
    let dirs = copies(&work, &cluster, &survivors);
    let before: Vec<_> = dirs.iter().map(|dir| tree(dir)).collect();
    let looked = recover(&dirs, &[]);
    assert!(looked["made"].is_null(), "{looked}");
    let new = work.join("new");
    let told = recover(&dirs, &["--data-dir", new.to_str().unwrap()]);
    assert_eq!((&told["outcome"], &told["directories"]), (&looked["outcome"], &looked["directories"]));
    assert!(dirs.iter().map(|dir| tree(dir)).eq(before), "survivors are only read");

    // The choice, by what `status` says of each.
    let status: Vec<Value> = dirs.iter().map(|dir| json(pinion(&["status"]).arg(dir))).collect();
    let number = |value: &Value| value.as_u64().unwrap();
    let furthest = status.iter().map(|told| (number(&told["LastTerm"]), number(&told["LastIndex"]))).max();
    let outcome = &told["outcome"];
    let chosen = dirs.iter().position(|dir| outcome["chosen"] == dir.to_str().unwrap()).unwrap();
    let last = (number(&status[chosen]["LastTerm"]), number(&status[chosen]["LastIndex"]));
    assert_eq!(Some(last), furthest, "{told}");
    let known = status.iter().map(|told| number(&told["CommitIndex"])).max();
    assert_eq!(Some(number(&outcome["certainIndex"])), known, "{told}");
    // No quorum without one of the survivors: an arithmetic of the test's own.
    let may_be_more = count / 2 < count - left;
    assert_eq!(outcome["mayBeMore"], may_be_more, "{told}");
    assert_eq!(outcome["missing"].as_array().unwrap().len(), count - left, "{told}");

    let server = recovered(&work, &cluster, &told).start().await;
    let client = server.connect().await;
    let certain_revision = outcome["certainRevision"].as_i64().unwrap();
    let lost = ledger.check(&client, certain_revision, may_be_more).await;
    let list = client.member_list(true).await.unwrap();
    assert_eq!(
        (list.members.len(), format!("{:x}", list.header.unwrap().cluster_id)),
        (1, told["made"]["cluster"].as_str().unwrap().to_owned())
    );
    client.put_kv("after", "after").await.unwrap();
    lost
}

#[test]
fn survivors_of_a_random_cut_keep_what_is_said_to_be_certain_and_lose_only_what_cannot_be_counted() {
    let first = env_number("PINION_RECOVER_SEED", 1);
    let rounds = env_number("PINION_RECOVER_ROUNDS", 1);
    for seed in first..first + rounds {
        println!("PINION_RECOVER_SEED={seed} cargo test --test backup survivors_of -- --nocapture");
        for (count, left, falls_behind) in
            [(5, 2, true), (5, 2, false), (3, 1, true), (3, 1, false), (4, 2, false)]
        {
            block_on(TEST_DEADLINE, async {
                let lost = cut(count, left, falls_behind, seed).await;
                println!("{left} of {count}, {falls_behind}: {lost} acknowledged writes are lost");
                assert!(!falls_behind || 0 < lost, "the cut was meant to lose something");
            });
        }
    }
}

#[test]
fn half_of_the_voters_hold_everything_though_one_of_them_is_behind() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut cluster = Cluster::start(4, &FAST).await;
        let ledger = Ledger::default();
        (0..4).for_each(|member| ledger.write(cluster.client_port(member), 0));
        until(TEST_DEADLINE, async || 40 <= ledger.acknowledged()).await;
        let behind = (cluster.leader().await + 1) % 4;
        cluster.signal(behind, "STOP");
        let enough = ledger.acknowledged() + 40;
        until(TEST_DEADLINE, async || enough <= ledger.acknowledged()).await;
        (0..4).for_each(|member| cluster.kill(member));
        ledger.is_over.set(true);
        let dirs = copies(&work, &cluster, &[behind, (behind + 1) % 4]);
        let told = recover(&dirs, &["--data-dir", work.join("new").to_str().unwrap()]);
        assert_eq!(told["outcome"]["chosen"], dirs[1].to_str().unwrap(), "{told}");
        let server = recovered(&work, &cluster, &told).start().await;
        assert_eq!(ledger.check(&server.connect().await, i64::MAX, false).await, 0);
    });
}

#[test]
fn a_recovered_cluster_grows_again_refuses_members_of_the_old_one_and_keeps_leases_users_and_history() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut cluster = Cluster::start(3, &FAST).await;
        fill(&cluster.client(0).await, 31, 150).await;
        cluster.settle().await;
        let there = seen(&cluster.client(1).await, 0).await;
        (0..3).for_each(|member| cluster.kill(member));
        let dirs = copies(&work, &cluster, &[1]);
        let new = work.join("new");
        let text = run(pinion(&["recover"]).args(&dirs).args(["--data-dir", new.to_str().unwrap()]));
        let text = String::from_utf8(text.stdout).unwrap();
        let url = |member: usize| cluster.launch(member).peer_url();
        for words in [
            "are certainly there".to_owned(),
            "cannot be counted".to_owned(),
            format!("member add m0 --peer-urls={}", url(0)),
            format!("--name=m1 --data-dir={}", new.display()),
        ] {
            assert!(text.contains(&words), "{words}:\n{text}");
        }
        let launch =
            Launch { data_dir: new, flags: FAST.map(str::to_owned).into(), ..cluster.launch(1).clone() };
        let server = launch.start().await;
        let client = server.connect().await;
        assert_eq!(seen(&client, 0).await, there);

        // One that comes back of the old cluster knows this address, and takes no part.
        cluster.spawn(0);
        cluster.server(0).says("cluster ID mismatch").await;
        assert_eq!(client.member_list(true).await.unwrap().members.len(), 1);
        cluster.kill(0);

        let mut fresh = Member::new(&work, "fresh");
        fresh.launch.flags = FAST.map(str::to_owned).into();
        let peer_url = fresh.peer_url();
        eventually(async || client.member_add(&peer_url, false).await).await;
        let mut joining = fresh.launch.clone().flag("--initial-cluster-state=existing");
        joining.initial_cluster = Some(Launch::listed([&launch, &fresh.launch]));
        fresh.start_as(&joining).await;
        let put = client.put_kv("after", "v").await.unwrap().header.unwrap().revision;
        let joined = fresh.client().await;
        joined.get("after").await.unwrap();
        assert_eq!(joined.hash_kv(put).await.unwrap().hash, client.hash_kv(put).await.unwrap().hash);
    });
}

#[test]
fn a_raised_revision_compacts_all_below_it_and_a_given_address_is_told_to_members() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let source = Launch::new(work.join("source"));
        let server = source.start().await;
        fill(&server.connect().await, 32, 100).await;
        let there = seen(&server.connect().await, 0).await;
        drop(server);
        let dir = [source.data_dir.clone()];
        let moved = Launch::new(work.join("moved")).named("moved");
        let raised = ["--bump-revision=1000", "--mark-compacted"];
        let flags = [
            format!("--data-dir={}", moved.data_dir.display()),
            "--name=moved".to_owned(),
            format!("--initial-advertise-peer-urls={}", moved.peer_url()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(raised).collect();
        let told = recover(&dir, &flags);
        assert_eq!(told["made"]["revision"], there.revision + 1000, "{told}");
        let server = moved.start().await;
        let client = server.connect().await;
        let here = seen(&client, 0).await;
        assert_eq!((here.revision, here.compact_revision), (there.revision + 1000, there.revision + 1000));
        assert_eq!(here.keys, there.keys);
        let list = client.member_list(true).await.unwrap();
        assert_eq!(
            (&*list.members[0].name, &list.members[0].peer_ur_ls[..]),
            ("moved", &[moved.peer_url()][..])
        );
        assert!(!server.output().contains("is not what the members have agreed on"), "{}", server.output());
        // The same token makes the same cluster, and none makes another one each time.
        let again = |place: &str, token: &[&str]| {
            let place = format!("--data-dir={}", work.join(place).display());
            recover(&dir, &[&[place.as_str()], token].concat())["made"]["cluster"].clone()
        };
        let token = ["--initial-cluster-token=t"];
        assert_eq!(again("a", &token), again("b", &token));
        assert_ne!(again("c", &[]), again("d", &[]));
    });
}

/// A copy of a directory whose files are the original's.
fn link_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { link_tree(&path, &target) } else { fs::hard_link(&path, &target).unwrap() }
    }
}

/// A command that must fail, whose survivors are as they were and which leaves nothing.
fn refused_whole(work: &WorkDir, dirs: &[&Path], more: &[&str], words: &[&str]) {
    let before: Vec<_> = dirs.iter().map(|dir| dir.exists().then(|| tree(dir))).collect();
    let target = work.join("refused");
    let said = refused(pinion(&["recover", "--data-dir"]).arg(&target).args(dirs).args(more));
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(
        dirs.iter().map(|dir| dir.exists().then(|| tree(dir))).eq(before),
        "{words:?}: something changed"
    );
    assert!(!target.exists() && !work.join("refused.unfinished").exists(), "{words:?}: something was begun");
}

#[test]
fn directories_that_do_not_belong_together_or_cannot_be_believed_are_refused_by_name() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut cluster = Cluster::start(3, &[FAST[0], FAST[1], "--snapshot-count=20"]).await;
        fill(&cluster.client(0).await, 33, 60).await;
        cluster.settle().await;
        // One falls behind.
        let behind = (cluster.leader().await + 1) % 3;
        cluster.kill(behind);
        let (ahead, other) = ((behind + 1) % 3, (behind + 2) % 3);
        let client = cluster.client(ahead).await;
        for number in 0..30 {
            client.put_kv(&format!("more-{number}"), "v").await.unwrap();
        }
        // One that runs.
        let running = cluster.launch(ahead).data_dir.clone();
        refused_whole(&work, &[&running], &[], &["in use by another process"]);
        cluster.kill(ahead);
        cluster.kill(other);
        let dirs = copies(&work, &cluster, &[behind, ahead, other]);
        let (old, new) = (dirs[0].as_path(), dirs[1].as_path());

        // The older one.
        let forced = format!("--force-new-cluster={}", old.display());
        refused_whole(
            &work,
            &[old, new],
            &[&forced],
            &["it is older than", "--force-new-cluster-of-older", new.to_str().unwrap()],
        );
        let target = work.join("older");
        let told = recover(
            &[old.into(), new.into()],
            &[&forced, "--force-new-cluster-of-older", "--data-dir", target.to_str().unwrap()],
        );
        assert_eq!(
            (&told["outcome"]["chosen"], &told["outcome"]["olderThanAnother"]),
            (&old.to_str().unwrap().into(), &true.into())
        );
        // The furthest needs no second word, and alone neither does an older one.
        for (dirs, forced, place) in [(vec![old, new], new, "furthest"), (vec![old], old, "alone")] {
            let forced = format!("--force-new-cluster={}", forced.display());
            let place = work.join(place);
            let dirs: Vec<PathBuf> = dirs.into_iter().map(Path::to_owned).collect();
            let told = recover(&dirs, &[&forced, "--data-dir", place.to_str().unwrap()]);
            assert_eq!(told["outcome"]["olderThanAnother"], false, "{told}");
        }

        // What is there stays.
        let made = tree(&target);
        let said = refused(pinion(&["recover", "--data-dir"]).arg(&target).arg(new));
        assert!(said.contains("is there already") && tree(&target) == made, "{said}");

        // Copies, strangers, and those that are none.
        let changed = |name: &str, change: &dyn Fn(&Path)| {
            let copy = work.join(name);
            link_tree(new, &copy);
            change(&copy);
            copy
        };
        let twice = changed("twice", &|_| {});
        refused_whole(&work, &[new, &twice], &[], &["both of member", "older copy"]);
        let stranger = Launch::new(work.join("stranger"));
        drop(stranger.start().await);
        refused_whole(&work, &[new, &stranger.data_dir], &[], &["of cluster", "directories of one cluster"]);
        refused_whole(&work, &[new, Path::new("/nonexistent")], &[], &["/nonexistent", "1 of 2 directories"]);
        let empty = work.join("empty");
        fs::create_dir(&empty).unwrap();
        refused_whole(&work, &[&empty], &[], &["no data of Pinion's"]);
        if let Some(etcd) = etcds::all().first() {
            let launch = etcd.launch(work.join("etcd"));
            drop(launch.start().await);
            refused_whole(&work, &[&launch.data_dir], &[], &["no data of Pinion's"]);
        }

        // Damage.
        let replace = |path: &Path, bytes: &[u8]| {
            // The original has the same inode.
            fs::remove_file(path).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let flip = |path: &Path, at: usize| {
            let mut bytes = fs::read(path).unwrap();
            bytes[at] ^= 1;
            replace(path, &bytes);
        };
        let only = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
        let later = |dir: &Path| replace(&dir.join("IDENTITY"), b"pinion data directory, format 2\nx");
        for (name, change, words) in [
            ("identity", &(|dir: &Path| flip(&dir.join("IDENTITY"), 40)) as &dyn Fn(&Path), "checksum"),
            ("lives", &|dir: &Path| flip(&dir.join("LIVES"), 40), "checksum"),
            ("later", &later, "later version"),
            ("checkpoint", &|dir: &Path| flip(&only(&dir.join("checkpoint")), 100), "damaged"),
            (
                "no-checkpoint",
                &|dir: &Path| fs::remove_file(only(&dir.join("checkpoint"))).unwrap(),
                "no checkpoint",
            ),
            ("log", &|dir: &Path| flip(&only(&dir.join("wal")), 8_300), "wal"),
            ("no-log", &|dir: &Path| fs::remove_dir_all(dir.join("wal")).unwrap(), "no log"),
            (
                "mixed",
                &|dir: &Path| replace(&dir.join("IDENTITY"), &fs::read(dirs[2].join("IDENTITY")).unwrap()),
                "is that of member",
            ),
            ("mark", &|dir: &Path| fs::write(dir.join("UNFINISHED"), "x").unwrap(), "did not end"),
        ] {
            let changed = changed(name, change);
            refused_whole(&work, &[old, &changed], &[], &[words, name, "1 of 2 directories"]);
        }

        // A member that begun anew under its old id: its life is another one.
        fs::remove_file(cluster.launch(other).data_dir.join("LIVES")).unwrap();
        cluster.spawn(other);
        let lives = cluster.launch(other).data_dir.join("LIVES");
        until(TEST_DEADLINE, async || lives.exists()).await;
        cluster.kill(other);
        refused_whole(&work, &[new, &cluster.launch(other).data_dir], &[], &["begun anew", "leave out"]);
    });
}
