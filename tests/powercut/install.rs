//! Power cuts of a follower that takes its leader's checkpoint: three real members, one of them on the
//! recorded disk.
//!
//! The steps are: the file written aside and synced, its rename, the directory's sync, the log's reset with
//! its sync, older checkpoints and segments gone. A cut before, between or after them must leave a
//! directory that starts and holds the state of one moment of the cluster's history: never less than
//! what the member served before the cut, never a mix of two. Each image is started with
//! `--force-new-cluster`, which applies all that is there and needs nobody else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::disk::{Fate, Node, Op, Recording};
use pinion_kit::mount::{Mounted, Position};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, WorkDir, block_on, env_number, segments, server_is_etcd, skip, start_all, until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::{check, data_dir, moment, work_dir};

const DEADLINE: Duration = Duration::from_secs(60);

/// More than a leader holds of its log in memory.
const LARGE_PUTS: u64 = 72;
const LARGE_BYTES: usize = 1_000_000;

/// Large keys: what the checkpoint weighs.
const LARGE_KEYS: u64 = 2;

/// Every write of the cluster, in order: one revision each, from 2 on. Values are told by their length and
/// first byte, which are different for each write.
#[derive(Default)]
struct Writes(Vec<(String, Vec<u8>)>);

impl Writes {
    async fn put(&mut self, client: &Client, key: String, bytes: usize) {
        let mut value = self.0.len().to_string().into_bytes();
        value.resize(bytes.max(value.len()), b'.');
        let put =
            pb::PutRequest { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
        let revision = client.put(&put).await.unwrap().header.unwrap().revision;
        self.0.push((key, value));
        assert_eq!(revision, self.revision(), "nobody else writes");
    }

    fn revision(&self) -> i64 {
        i64::try_from(self.0.len()).unwrap() + 1
    }

    /// Keys and values as of a revision.
    fn state(&self, revision: i64) -> BTreeMap<&[u8], &[u8]> {
        let count = usize::try_from(revision - 1).unwrap();
        self.0[..count].iter().map(|(key, value)| (key.as_bytes(), &value[..])).collect()
    }
}

fn launches(work: &WorkDir, mounted: &Path) -> Vec<Launch> {
    let mut launches: Vec<Launch> = (0..3)
        .map(|number| {
            let dir = if number == 2 { data_dir(mounted) } else { work.join(&format!("m{number}")) };
            let launch = Launch::new(dir)
                .named(&format!("m{number}"))
                .flag("--snapshot-count=20")
                .flag("--checkpoint-bytes=1048576")
                .flag("--snapshot-catchup-entries=0")
                .flag("--heartbeat-interval=30")
                .flag("--election-timeout=300");
            Launch { log_path: Some(work.join(&format!("m{number}.log"))), ..launch }
        })
        .collect();
    let listed = Launch::listed(&launches);
    launches.iter_mut().for_each(|launch| launch.initial_cluster = Some(listed.clone()));
    launches
}

/// The revision that a member serves by itself; none while it serves nothing.
async fn served(launch: &Launch) -> Option<i64> {
    let client = Client::connect(launch.client_port).await.ok()?;
    let request = pb::RangeRequest { key: "none".into(), serializable: true, ..Default::default() };
    Some(client.range(&request).await.ok()?.header?.revision)
}

/// What was recorded, and what to hold its images to.
struct Life {
    recording: Recording,
    writes: Writes,
    /// The member served this revision when so many operations were done.
    served: Vec<(usize, i64)>,
    launch: Launch,
}

impl Life {
    async fn record(work: &WorkDir, disk: &Path) -> Result<Self, String> {
        let launches = launches(work, disk);
        let follower = &launches[2];
        let mount = |base| Mounted::mount(base, disk).map_err(|error| error.to_string());
        let mounted = mount(Node::Dir(BTreeMap::new()))?;
        let mut servers = start_all(&launches).await;
        let mut away = servers.pop().expect("three were started");
        // Whichever leads, it is not the one that goes.
        let mut writes = Writes::default();
        let client = servers[0].connect().await;
        for number in 0..20 {
            writes.put(&client, format!("k{number}"), 100).await;
        }
        until(DEADLINE, async || served(follower).await == Some(writes.revision())).await;
        let first = writes.revision();
        away.kill();
        drop(away);
        let base = check::read(disk).unwrap();
        mounted.finish();

        let staying: Vec<&Path> = launches[..2].iter().map(|launch| launch.data_dir.as_path()).collect();
        let before: Vec<u32> = staying.iter().map(|dir| segments(dir).1).collect();
        for number in 0..LARGE_PUTS {
            writes.put(&client, format!("large{}", number % LARGE_KEYS), LARGE_BYTES).await;
        }
        let revision = writes.revision();
        client.compact(&pb::CompactionRequest { revision, physical: false }).await.unwrap();
        let are_behind = || staying.iter().zip(&before).all(|(dir, before)| *before <= segments(dir).0);
        until(DEADLINE, async || are_behind()).await;

        let mounted = mount(base)?;
        let position = mounted.position();
        let mut away = follower.spawn();
        let mut seen = vec![(0, first)];
        let note = async |seen: &mut Vec<(usize, i64)>, position: &Position| {
            if let Some(revision) = served(follower).await {
                seen.push((position.now(), revision));
            }
        };
        // Until it has the checkpoint and some log behind it, among it a checkpoint of its own.
        let deadline = Instant::now() + DEADLINE;
        let mut later = 0;
        while later < 40 {
            let number = writes.0.len() % 20;
            writes.put(&client, format!("k{number}"), 20_000).await;
            note(&mut seen, &position).await;
            later += u32::from(revision < seen.last().expect("the first").1);
            assert!(Instant::now() < deadline, "it does not come up:\n{}", away.output());
            assert!(away.is_running(), "it ended by itself:\n{}", away.output());
        }
        away.says("installing the leader's checkpoint").await;
        away.kill();
        drop(away);
        Ok(Self { recording: mounted.finish(), writes, served: seen, launch: follower.clone() })
    }

    /// The operation with which the checkpoint of the leader begins to be written.
    fn begin(&self) -> usize {
        let is_incoming = |op: &Op| matches!(op, Op::Create { name, .. } if name.ends_with(".incoming"));
        self.recording.ops.iter().position(is_incoming).expect("a checkpoint came")
    }

    /// A cut after `position` operations leaves the member with one moment of the history.
    async fn check(
        &self,
        position: usize,
        fate: Fate,
        work: &WorkDir,
        rng: &mut StdRng,
    ) -> Result<i64, String> {
        let files = work.join("image");
        let image = self.recording.disk_at(position, usize::MAX).after_cut(fate, rng);
        check::write(&image, &files).unwrap();
        let mut launch = self.launch.clone().flag("--force-new-cluster");
        launch.data_dir = data_dir(&files);
        launch.log_path = Some(work.join("image.log"));
        let mut server = launch.spawn();
        let verdict = async {
            server.wait_ready().await.map_err(|why| format!("it does not start: {why}"))?;
            let client = server.connect().await;
            let mut found = BTreeMap::new();
            let mut revision = 0;
            for prefix in ["k", "large"] {
                let range = client.prefix(prefix).await.map_err(|error| error.to_string())?;
                revision = range.header.expect("a header").revision;
                found.extend(range.kvs.into_iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())));
            }
            let known =
                self.served.iter().filter(|(at, _)| *at <= position).map(|(_, revision)| *revision).max();
            if revision < known.expect("from the beginning on") || self.writes.revision() < revision {
                return Err(format!("revision {revision}, where {known:?} was served before"));
            }
            let expected = self.writes.state(revision);
            let is_same = expected
                .iter()
                .map(|(key, value)| (*key, *value))
                .eq(found.iter().map(|(key, value)| (&key[..], &value[..])));
            if is_same { Ok(revision) } else { Err(format!("a state that was never there, at {revision}")) }
        };
        let verdict = verdict.await;
        let output = server.output();
        server.kill();
        drop(server);
        if let Err(why) = verdict {
            let kept = work.join("image-as-cut");
            check::write(&image, &kept).unwrap();
            let ops = &self.recording.ops[position.saturating_sub(12)..position];
            let ops: Vec<String> =
                ops.iter().map(|op| format!("{op:?}").chars().take(120).collect()).collect();
            let kept = kept.display();
            return Err(format!(
                "{why}\ncut after {position} operations, {fate:?}, image in {kept}\n{}\n{output}",
                ops.join("\n")
            ));
        }
        fs::remove_dir_all(&files).unwrap();
        verdict
    }
}

#[test]
fn a_follower_whose_power_fails_while_it_installs_a_checkpoint_recovers_the_old_state_or_the_new() {
    if server_is_etcd() {
        return skip("the files are ours");
    }
    let images = env_number("PINION_POWERCUT_IMAGES", 40) / 4;
    let seed = env_number("PINION_POWERCUT_SEED", u64::from(std::process::id()));
    println!(
        "replay: PINION_POWERCUT_SEED={seed} PINION_POWERCUT_IMAGES={} cargo test --test powercut installs",
        4 * images
    );
    let mut rng = StdRng::seed_from_u64(seed);
    let (work, memory) = (WorkDir::new(), work_dir());
    block_on(Duration::from_secs(120 + 5 * images), async {
        let disk = memory.join("mount");
        fs::create_dir_all(&disk).unwrap();
        let life = match Life::record(&work, &disk).await {
            Ok(life) => life,
            Err(reason) => {
                return skip(&format!("no FUSE file system can be mounted (root, /dev/fuse?): {reason}"));
            }
        };
        let (begin, end) = (life.begin(), life.recording.ops.len());
        let installed = life.writes.revision();
        println!("{end} operations, the checkpoint begins at {begin}; revisions 21 to {installed}");
        let (mut old, mut new) = (0, 0);
        for _ in 0..images {
            // Most of them around the installation.
            let mut position = moment(&life.recording, &mut rng);
            while position < begin && rng.random_ratio(4, 5) {
                position = moment(&life.recording, &mut rng);
            }
            match life.check(position, Fate::random(&mut rng), &memory, &mut rng).await {
                Ok(revision) if revision < 21 + i64::try_from(LARGE_PUTS).unwrap() => old += 1,
                Ok(_) => new += 1,
                Err(broken) => panic!("{broken}"),
            }
        }
        println!("{images} images hold: {old} the old state, {new} the new one");
    });
}
