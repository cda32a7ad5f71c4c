//! Power cuts: the real binary runs on a file system of ours that notes every operation; from the
//! notes come images of what a cut at any moment could leave; a server must start on each of them
//! with everything that was acknowledged before the cut.
//!
//! A kill leaves the page cache alive and so says nothing about syncs; this does. Each run records
//! three lives of a server: its first start on an empty disk, a long load with many checkpoints, cuts,
//! recycled and released segments, and a life that begins on such an image, with the log's other sync
//! mode, whose recovery is cut in turn.
//!
//! `install` does the same to a follower that takes its leader's checkpoint.
//!
//! `PINION_POWERCUT_IMAGES` (40) images, half in each sync mode. `PINION_POWERCUT_OPS` (3000) calls in
//! the long load. `PINION_POWERCUT_SEED` (the process id) chooses calls, moments and fates; the server's
//! threads race as they like, so a seed repeats the choices and not the recording. An image that fails is
//! kept as the cut left it, with the operations before the cut.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod check;
mod install;
mod large;
mod load;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinion_kit::disk::{Bytes, Fate, NameFate, Node, Op, Recording};
use pinion_kit::judge::ledger::Ledger;
use pinion_kit::mount::Mounted;
use pinion_kit::{Launch, WorkDir, block_on, env_number, server_is_etcd, skip};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use load::History;

/// Where the data directory lies on the recorded disk: its parents do not exist before either.
const DATA: [&str; 3] = ["srv", "pinion", "data"];

/// Small, so that the load cuts, recycles and releases many. A group of all calls in flight fits.
const SEGMENT_BYTES: u32 = 96 << 10;

/// Calls of the other two lives, which are about starting.
const SHORT_OPS: u64 = 60;

fn data_dir(disk: &Path) -> PathBuf {
    DATA.iter().fold(disk.to_owned(), |path, name| path.join(name))
}

fn launch(disk: &Path, sync: &str, work: &WorkDir) -> Launch {
    let mut launch = Launch::new(data_dir(disk))
        .flag(format!("--wal-sync={sync}"))
        .flag("--snapshot-count=8")
        .flag("--checkpoint-bytes=1048576")
        // A member alone elects itself; how long it waits first is not what is tested here.
        .flag("--heartbeat-interval=4")
        .flag("--election-timeout=20");
    launch.log_path = Some(work.join("server.log"));
    launch
}

/// One life of a server, from its start to its kill.
struct Life {
    name: &'static str,
    recording: Recording,
    history: History,
}

impl Life {
    /// Runs a server on a disk that holds `base`, of which `ledger` tells.
    async fn record(
        name: &'static str,
        (base, ledger): (Node, Ledger),
        (sync, ops): (&str, u64),
        work: &WorkDir,
        rng: &mut StdRng,
    ) -> Result<Self, String> {
        let disk = work.join("mount");
        fs::create_dir_all(&disk).unwrap();
        let mounted = Mounted::mount(base, &disk).map_err(|error| error.to_string())?;
        let began = Instant::now();
        let mut server = launch(&disk, sync, work).start().await;
        let history = load::run(&server, ledger, mounted.position(), ops, rng).await;
        server.kill();
        drop(server);
        let life = Self { name, recording: mounted.finish(), history };
        println!("{name} ({sync}): {} in {:.1} s", life.summary(), began.elapsed().as_secs_f64());
        Ok(life)
    }

    fn count(&self, is_wanted: impl Fn(&Op) -> bool) -> usize {
        self.recording.ops.iter().filter(|op| is_wanted(op)).count()
    }

    fn renames(&self, from_suffix: &str, to_suffix: &str) -> usize {
        self.count(|op| {
            matches!(op, Op::Rename { from, to, .. } if from.ends_with(from_suffix) && to.ends_with(to_suffix))
        })
    }

    fn summary(&self) -> String {
        format!(
            "{} operations: {} writes, {} file and {} directory syncs, {} checkpoints, {} segments made, \
             {} recycled, {} released; {} writes acknowledged",
            self.recording.ops.len(),
            self.count(|op| matches!(op, Op::Write { .. })),
            self.count(|op| matches!(op, Op::SyncFile { .. })),
            self.count(|op| matches!(op, Op::SyncDir { .. })),
            self.renames(".tmp", ".checkpoint"),
            self.renames(".tmp", ".wal"),
            self.renames(".free", ".wal"),
            self.renames(".wal", ".free")
                + self.count(|op| matches!(op, Op::Remove { name, .. } if name.ends_with(".wal"))),
            self.history.acknowledged_count(),
        )
    }
}

/// A moment of a recording. Syncs and changes of names are equally likely to be near, however many
/// writes lie between them. Half of the moments have bytes on their way that the very next operation
/// would have synced; a quarter lie beside such an edge, a quarter somewhere before it.
fn moment(recording: &Recording, rng: &mut StdRng) -> usize {
    let ops = &recording.ops;
    let edges: Vec<usize> = (0..ops.len()).filter(|at| ops[*at].is_edge()).collect();
    let place = rng.random_range(0..edges.len());
    let edge = edges[place];
    let in_flight = |at: &&usize| 0 < **at && ops[**at].is_sync() && !ops[**at - 1].is_edge();
    match rng.random_range(0..4) {
        0 => rng.random_range(if place == 0 { 0 } else { edges[place - 1] }..=edge),
        1 => edge + usize::from(rng.random_bool(0.5)),
        _ => *edges[place..].iter().find(in_flight).unwrap_or(&edge),
    }
}

/// One image, how it came about, and what to expect of it.
struct Cut<'a> {
    life: &'a Life,
    position: usize,
    fate: Fate,
    image: Node,
}

impl<'a> Cut<'a> {
    fn new(life: &'a Life, position: usize, forgotten_from: usize, fate: Fate, rng: &mut StdRng) -> Self {
        let image = life.recording.disk_at(position, forgotten_from).after_cut(fate, rng);
        Self { life, position, fate, image }
    }

    fn random(life: &'a Life, rng: &mut StdRng) -> Self {
        let position = moment(&life.recording, rng);
        Self::new(life, position, usize::MAX, Fate::random(rng), rng)
    }

    fn ledger(&self) -> Ledger {
        self.life.history.ledger_at(self.position)
    }

    async fn check(&self, sync: &str, work: &WorkDir) -> Result<check::Survivor, String> {
        let files = work.join("image");
        check::write(&self.image, &files).unwrap();
        let launch = launch(&files, sync, work);
        let result = check::check(&launch, self.ledger()).await;
        fs::remove_dir_all(&files).unwrap();
        fs::remove_file(work.join("server.log")).unwrap();
        result
    }

    /// Keeps the image as the cut left it and says what led to it.
    fn keep(&self, work: &WorkDir) -> String {
        let kept = work.join("image-as-cut");
        check::write(&self.image, &kept).unwrap();
        let mut story =
            format!("{}, cut after {} operations, {:?}\n", self.life.name, self.position, self.fate);
        let from = self.position.saturating_sub(60);
        for (at, op) in self.life.recording.ops.iter().enumerate().take(self.position).skip(from) {
            let text = format!("{op:?}");
            writeln!(story, "{at} {}", text.chars().take(160).collect::<String>()).unwrap();
        }
        fs::write(work.join("operations"), &story).unwrap();
        format!(
            "{}, cut after {} operations, {:?}; image in {}",
            self.life.name,
            self.position,
            self.fate,
            kept.display()
        )
    }
}

/// On memory if there is some: hundreds of images are written and synced, and none is to last.
fn work_dir() -> WorkDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { WorkDir::inside(memory) } else { WorkDir::new() }
}

/// A data directory fresh from its bootstrap whose log has small segments. Recovery goes on with the
/// size it finds, so only the first segment must be made here.
async fn with_small_segments(work: &WorkDir) -> Node {
    let disk = work.join("bootstrap");
    let launch = launch(&disk, "direct", work).flag("--snapshot-count=1000000");
    drop(launch.start().await);
    let data = data_dir(&disk);
    let identity = fs::read_to_string(data.join("IDENTITY")).unwrap();
    let number = |name: &str| {
        let line = identity.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let identity = pinion_wal::Identity { cluster_id: number("cluster"), member_id: number("member") };
    let wal = data.join("wal");
    fs::remove_dir_all(&wal).unwrap();
    fs::create_dir(&wal).unwrap();
    let storage = pinion_wal::direct::DirectStorage::open(&wal, SEGMENT_BYTES).unwrap();
    // Behind the bootstrap's checkpoint, which is at index 1 of term 1.
    drop(pinion_wal::Wal::create(storage, identity, 1, 1).unwrap());
    let node = check::read(&data).unwrap();
    fs::remove_dir_all(&disk).unwrap();
    node.below(&DATA)
}

struct Run {
    work: WorkDir,
    rng: StdRng,
    images: u64,
    torn_tails: u64,
}

impl Run {
    async fn check_images(&mut self, life: &Life, count: u64, replay: &str) {
        let began = Instant::now();
        for _ in 0..count {
            let cut = Cut::random(life, &mut self.rng);
            let sync = if self.rng.random_bool(0.5) { "mmap" } else { "direct" };
            match cut.check(sync, &self.work).await {
                Ok(survivor) => self.torn_tails += u64::from(survivor.had_torn_tail),
                Err(broken) => panic!("{broken}\n{}\n{replay}", cut.keep(&self.work)),
            }
            self.images += 1;
        }
        println!("{}: {count} images hold, {:.1} s", life.name, began.elapsed().as_secs_f64());
    }

    async fn all_lives(&mut self, sync: &str, images: u64, ops: u64, replay: &str) -> Result<(), String> {
        let other = if sync == "mmap" { "direct" } else { "mmap" };
        let nothing = (Node::Dir(Default::default()), Ledger::default());
        let Self { work, rng, .. } = self;
        let first = Life::record("first start", nothing, (sync, SHORT_OPS), work, rng).await?;
        self.check_images(&first, images / 5, replay).await;

        let Self { work, rng, .. } = self;
        let small = (with_small_segments(work).await, Ledger::default());
        let load = Life::record("load", small, (sync, ops), work, rng).await?;
        // Without these the images would show little.
        let cuts = load.renames(".tmp", ".wal") + load.renames(".free", ".wal");
        assert!(3 < cuts, "too few segments: {}", load.summary());
        assert!(0 < load.renames(".free", ".wal"), "nothing was recycled: {}", load.summary());
        assert!(2 < load.renames(".tmp", ".checkpoint"), "too few checkpoints: {}", load.summary());
        self.check_images(&load, images - 2 * (images / 5), replay).await;

        // The middle: the disk is in use, and the tail is more often torn than not.
        let Self { work, rng, .. } = self;
        let position = load.recording.ops.len() / 2 + rng.random_range(0..load.recording.ops.len() / 4);
        let torn = Fate { bytes: Bytes::EachSector(0.5), names: NameFate::UpTo };
        let cut = Cut::new(&load, position, usize::MAX, torn, rng);
        let survivor = cut.check(sync, work).await.unwrap_or_else(|broken| panic!("{broken}\n{replay}"));
        let base = (cut.image, survivor.ledger);
        let second = Life::record("after a cut", base, (other, SHORT_OPS), work, rng).await?;
        self.check_images(&second, images / 5, replay).await;
        Ok(())
    }
}

fn acknowledged_writes_survive(sync: &str) {
    if server_is_etcd() {
        return skip("the log's format and modes are ours");
    }
    let images = env_number("PINION_POWERCUT_IMAGES", 40);
    let ops = env_number("PINION_POWERCUT_OPS", 3_000);
    let seed = env_number("PINION_POWERCUT_SEED", u64::from(std::process::id()));
    let replay = format!(
        "replay: PINION_POWERCUT_SEED={seed} PINION_POWERCUT_IMAGES={images} PINION_POWERCUT_OPS={ops} \
         cargo test --test powercut {sync}"
    );
    println!("{replay}");
    let mut run = Run { work: work_dir(), rng: StdRng::seed_from_u64(seed), images: 0, torn_tails: 0 };
    block_on(Duration::from_secs(120 + 5 * images), async {
        match run.all_lives(sync, images / 2, ops, &replay).await {
            Ok(()) => println!("{} images hold, {} of them with a torn tail", run.images, run.torn_tails),
            Err(reason) => skip(&format!("no FUSE file system can be mounted (root, /dev/fuse?): {reason}")),
        }
    });
}

#[test]
fn acknowledged_writes_survive_a_power_cut_with_the_log_synced_by_mmap() {
    acknowledged_writes_survive("mmap");
}

#[test]
fn acknowledged_writes_survive_a_power_cut_with_the_log_synced_by_direct() {
    acknowledged_writes_survive("direct");
}

/// The proof that the above can fail: the same recording on a disk that lies about its last syncs.
#[test]
fn a_disk_that_forgets_its_last_syncs_is_seen() {
    if server_is_etcd() {
        return skip("the log's format and modes are ours");
    }
    let work = work_dir();
    let mut rng = StdRng::seed_from_u64(1);
    block_on(Duration::from_secs(120), async {
        let base = (with_small_segments(&work).await, Ledger::default());
        let load = match Life::record("load", base, ("direct", 100), &work, &mut rng).await {
            Ok(load) => load,
            Err(reason) => return skip(&format!("no FUSE file system can be mounted (root?): {reason}")),
        };
        let end = load.recording.ops.len();
        let lost = Fate { bytes: Bytes::Nothing, names: NameFate::Nothing };
        let honest = Cut::new(&load, end, usize::MAX, lost, &mut rng);
        assert!(honest.check("direct", &work).await.is_ok());
        let lying = Cut::new(&load, end, load.history.middle(), lost, &mut rng);
        let Err(broken) = lying.check("direct", &work).await else { panic!("lost writes were not missed") };
        println!("seen: {}", broken.lines().next().unwrap_or_default());
    });
}
