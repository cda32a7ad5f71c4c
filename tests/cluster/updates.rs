//! Updates from one release to the next under load, the way back, and data of the release before.
//!
//! The earlier release is 0.1.0, as the binary that `PINION_OLD_BINARY` names. Without one, members of this
//! release with `--format-level-max=0` stand in for it: what they write is what 0.1.0 writes. Bytes say so:
//! `golden/` here has the data directories of three members of 0.1.0, killed under load, and the unit tests
//! of checkpoints, groups and the handshake have theirs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pinion::apply::Restore;
use pinion::checkpoint::format::{Decoder, FRAME_HEADER_BYTES, Frame, Header};
use pinion::raft::EntryKind;
use pinion::request::RequestKind;
use pinion::request::group::{decode_group, encode_group};
use pinion::types::FormatLevel;
use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{
    Cluster, Launch, WorkDir, block_on, eventually, server_binary, server_is_etcd, skip, start_all,
};
use pinion_wal::map::MapStorage;
use pinion_wal::{Identity, SEGMENT_BYTES, Wal};

use crate::load::Load;
use crate::{FAST, judge};

/// What every member says when the level rises while it runs.
const RAISED: &str = "the cluster's format level is raised";

/// The end of that line when it is raised as far as this release goes.
const RAISED_TO_TOP: &str = "\"level\":3,\"needs\":\"release 0.4.0";

/// Exit code of a member that may not read what its cluster writes.
const STATE_UNKNOWN: i32 = 70;

/// So that checkpoints are written, and sent, all the while.
const SMALL_CHECKPOINTS: [&str; 3] =
    ["--snapshot-count=100", "--checkpoint-bytes=1048576", "--snapshot-catchup-entries=200"];

/// Which release a member runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Release {
    /// This one.
    New,
    /// This one, held at level 0.
    Held,
    /// The binary of 0.1.0.
    Old(PathBuf),
}

#[expect(clippy::disallowed_methods, reason = "where the earlier release is, is asked of the runner")]
fn old_binary() -> Option<PathBuf> {
    std::env::var("PINION_OLD_BINARY").ok().map(PathBuf::from)
}

/// What plays the earlier release: the stand-in always, the real one if it is there.
fn earlier_releases() -> Vec<Release> {
    let old = old_binary();
    if old.is_none() {
        skip("PINION_OLD_BINARY names no binary of release 0.1.0: only its stand-in was tested");
    }
    std::iter::once(Release::Held).chain(old.map(Release::Old)).collect()
}

impl Release {
    fn set(&self, launch: &mut Launch) {
        launch.flags.retain(|flag| !flag.starts_with("--format-level-max"));
        launch.binary = server_binary();
        match self {
            Self::New => {}
            Self::Held => launch.flags.push("--format-level-max=0".to_owned()),
            Self::Old(binary) => launch.binary.clone_from(binary),
        }
    }
}

async fn start(release: &Release) -> Cluster {
    let flags = [&FAST[..], &SMALL_CHECKPOINTS].concat();
    Cluster::start_with(3, &flags, |_member, launch| release.set(launch)).await
}

/// Stops a member, by SIGTERM or as a crash does, and starts it as this release.
async fn replace(cluster: &mut Cluster, member: usize, release: &Release, load: &Load) {
    if member == 1 {
        cluster.kill(member);
    } else {
        cluster.terminate(member).await;
    }
    release.set(&mut cluster.members[member].launch);
    cluster.start_again(member).await;
    load.wait_write().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn is_raised(cluster: &Cluster) -> bool {
    (0..cluster.count()).any(|member| cluster.output(member).contains(RAISED))
}

#[test]
fn a_rolling_update_under_load_loses_nothing_and_raises_the_level_with_the_last_member() {
    if server_is_etcd() {
        return skip("etcd has releases of its own");
    }
    for old in earlier_releases() {
        block_on(Duration::from_secs(180), async {
            let mut cluster = start(&old).await;
            let load = Load::start(&cluster, 2, Duration::from_millis(10), 1);
            load.wait_write().await;
            for member in 0..3 {
                assert!(
                    !is_raised(&cluster),
                    "{old:?}: m{member} does not read it:\n{}",
                    cluster.all_output()
                );
                replace(&mut cluster, member, &Release::New, &load).await;
            }
            for member in 0..3 {
                cluster.server(member).says(RAISED_TO_TOP).await;
            }
            // Once more, now on what the new level writes.
            for member in 0..3 {
                replace(&mut cluster, member, &Release::New, &load).await;
            }
            let record = load.finish(&cluster).await;
            judge(&mut cluster, &record).await;

            // There is no way back, which a member says rather than reads what it does not know.
            for release in [&old, &Release::Held] {
                cluster.terminate(2).await;
                let mut launch = cluster.launch(2).clone();
                release.set(&mut launch);
                let exit = launch.start_refused().await;
                match release {
                    Release::Held => {
                        assert_eq!(exit.status.code(), Some(STATE_UNKNOWN), "{}", exit.output);
                        exit.assert_says(&[
                            // By the entry that raised it first, or by a later checkpoint.
                            "format level of this data is",
                            "reads up to 0",
                            "without the flag",
                        ]);
                    }
                    // By the entry, or by the checkpoint.
                    _ if exit.output.contains("request of kind 12") => {
                        assert_eq!(exit.status.code(), Some(STATE_UNKNOWN), "{}", exit.output);
                        exit.assert_says(&["update this member", "Start a version that knows it"]);
                    }
                    _ => exit.assert_says(&["section 6 of version 1 is not understood", "newer release"]),
                }
                cluster.start_again(2).await;
            }
            let revision = cluster.settle().await;
            cluster.assert_equal_hashes(revision).await;
        });
    }
}

#[test]
fn going_back_before_the_level_was_raised_loses_nothing_either() {
    if server_is_etcd() {
        return skip("etcd has releases of its own");
    }
    for old in earlier_releases() {
        block_on(Duration::from_secs(180), async {
            let mut cluster = start(&old).await;
            let load = Load::start(&cluster, 2, Duration::from_millis(10), 2);
            load.wait_write().await;
            // Two of three, one of which leads and would raise the level if it could; and back.
            for (release, members) in [(&Release::New, [0, 1]), (&old, [1, 0])] {
                for member in members {
                    replace(&mut cluster, member, release, &load).await;
                }
                if *release == Release::New {
                    cluster.lead(0).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    load.wait_write().await;
                }
                assert!(!is_raised(&cluster), "{}", cluster.all_output());
                cluster.assert_running();
            }
            // All three, held; and back.
            for release in [&Release::Held, &old] {
                for member in 0..3 {
                    replace(&mut cluster, member, release, &load).await;
                    assert!(!is_raised(&cluster), "{}", cluster.all_output());
                }
            }
            let record = load.finish(&cluster).await;
            judge(&mut cluster, &record).await;
            for member in 0..3 {
                cluster.terminate(member).await;
                assert_level_0(&cluster.launch(member).data_dir);
            }
        });
    }
}

#[test]
fn a_member_of_an_earlier_release_that_joins_is_refused_and_both_sides_say_why() {
    if server_is_etcd() {
        return skip("etcd has releases of its own");
    }
    for old in earlier_releases() {
        block_on(Duration::from_secs(120), async {
            let mut cluster = Cluster::start(1, &FAST).await;
            cluster.server(0).says(RAISED_TO_TOP).await;
            let client = cluster.client(0).await;
            cluster.add_learner_with(&client, |launch| old.set(launch)).await;
            match &old {
                Release::Old(_) => {
                    let words = "reads up to 0. Update that member's binary first, to release 0.4.0";
                    cluster.server(1).says(words).await;
                    cluster.server(0).says(words).await;
                    cluster.kill(1);
                }
                _ => {
                    let exit = cluster.wait_exit(1).await;
                    exit.assert_says(&[
                        "the cluster writes format level 3",
                        "reads up to 0",
                        "release 0.4.0",
                    ]);
                }
            }
            // The data that it began with, if any, is good for the right release.
            Release::New.set(&mut cluster.members[1].launch);
            cluster.spawn(1);
            cluster.server(1).says("ready to serve client requests").await;
            cluster.assert_running();
        });
    }
}

/// Where the members of `golden/` reach each other; below the ports that tests are given.
const GOLDEN_PORTS: [u16; 3] = [7381, 7382, 7383];

/// What the members of `golden/` had all applied: revision, compact revision and hash, as 0.1.0 told them.
const GOLDEN_STATE: (i64, i64, u32) = (421, 200, 2_017_391_999);

/// Leases and their keys in it.
const GOLDEN_LEASE: i64 = 4_711;

fn golden_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/golden/release-0.1.0.tar.gz")
}

fn golden_launches(work: &WorkDir) -> Vec<Launch> {
    let mut launches: Vec<Launch> = GOLDEN_PORTS
        .into_iter()
        .enumerate()
        .map(|(number, peer_port)| {
            let name = format!("m{number}");
            let mut launch = Launch::new(work.join(&name)).named(&name).flag("--wal-sync=mmap");
            launch.flags.extend(FAST.iter().chain(&SMALL_CHECKPOINTS).map(|flag| (*flag).to_owned()));
            launch.peer_port = peer_port;
            launch
        })
        .collect();
    let listed = Launch::listed(&launches);
    launches.iter_mut().for_each(|launch| launch.initial_cluster = Some(listed.clone()));
    launches
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Another run of this test may have the ports.
async fn wait_for_golden_ports() {
    eventually(async || {
        let bound = GOLDEN_PORTS.map(|port| std::net::TcpListener::bind(("127.0.0.1", port)));
        bound.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
    })
    .await;
}

#[test]
fn data_of_release_0_1_0_is_read_whole_continued_at_level_0_and_then_raised() {
    if server_is_etcd() {
        return skip("the files are Pinion's");
    }
    block_on(Duration::from_secs(180), async {
        let work = WorkDir::new();
        let (archive, into) = (golden_file(), work.path().to_owned());
        run("tar", &["-xzf", archive.to_str().unwrap(), "-C", into.to_str().unwrap()]);
        let mut launches = golden_launches(&work);
        for launch in &launches {
            assert_level_0(&launch.data_dir);
        }
        wait_for_golden_ports().await;
        launches.iter_mut().for_each(|launch| Release::Held.set(launch));
        let mut servers = start_all(&launches).await;
        let mut written = 0;
        for server in &servers {
            let client = server.connect().await;
            assert_golden_state(&client).await;
            for _ in 0..150 {
                client.put_kv(&format!("later {written}"), "x").await.unwrap();
                written += 1;
            }
        }
        for (member, launch) in launches.iter_mut().enumerate() {
            assert!(servers.iter().all(|server| !server.output().contains(RAISED)));
            let server = servers.remove(member);
            assert!(server.terminate().await.status.success());
            assert_level_0(&launch.data_dir);
            Release::New.set(launch);
            servers.insert(member, launch.start().await);
        }
        for server in &servers {
            server.says(RAISED_TO_TOP).await;
        }
        for server in &servers {
            let client = server.connect().await;
            assert_golden_state(&client).await;
            assert_eq!(client.prefix("later ").await.unwrap().kvs.len(), written);
        }
        for server in servers {
            assert!(server.terminate().await.status.success());
        }
        let levels: Vec<FormatLevel> = launches.iter().map(|launch| logged_level(&launch.data_dir)).collect();
        assert_eq!(levels, [FormatLevel::HIGHEST; 3]);
    });
}

async fn assert_golden_state(client: &Client) {
    let (revision, compact_revision, hash) = GOLDEN_STATE;
    // This member may still be replaying what another one has acknowledged.
    let told = eventually(async || client.hash_kv(revision).await).await;
    assert_eq!((told.hash_revision, told.compact_revision, told.hash), (revision, compact_revision, hash));
    let leased = client.prefix("leased").await.unwrap();
    assert_eq!(leased.kvs.iter().map(|kv| kv.lease).collect::<Vec<_>>(), [GOLDEN_LEASE; 10]);
}

/// Writes `golden/` anew: `PINION_WRITE_GOLDEN=1 PINION_OLD_BINARY=… cargo test --test cluster golden --
/// --nocapture` prints what `GOLDEN_STATE` is then. Without the variable it does nothing.
#[test]
fn golden_directories_are_what_release_0_1_0_leaves_when_it_is_killed_under_load() {
    if pinion_kit::env_number("PINION_WRITE_GOLDEN", 0) == 0 {
        return;
    }
    let old = Release::Old(old_binary().expect("PINION_OLD_BINARY"));
    block_on(Duration::from_secs(120), async {
        let work = WorkDir::new();
        let mut launches = golden_launches(&work);
        launches.iter_mut().for_each(|launch| old.set(launch));
        let mut servers = start_all(&launches).await;
        let grant = pb::LeaseGrantRequest { ttl: 9_000_000_000, id: GOLDEN_LEASE };
        let mut clients = Vec::new();
        for server in &servers {
            clients.push(server.connect().await);
        }
        clients[0].lease_grant(&grant).await.unwrap();
        for number in 0..400 {
            let key = format!("k{}", number % 40);
            clients[number % 3].put_kv(&key, &format!("v{number}")).await.unwrap();
            if number % 7 == 0 {
                let delete = pb::DeleteRangeRequest { key: "k5".into(), ..Default::default() };
                clients[1].delete(&delete).await.unwrap();
            }
            if number % 40 == 0 {
                let key = format!("leased{number}").into();
                let put = pb::PutRequest { key, lease: GOLDEN_LEASE, ..Default::default() };
                clients[2].put(&put).await.unwrap();
            }
        }
        clients[0].compact(&pb::CompactionRequest { revision: 200, physical: true }).await.unwrap();
        let hash = clients[0].hash_kv(0).await.unwrap();
        println!("({}, {}, {})", hash.hash_revision, hash.compact_revision, hash.hash);
        // Some of it in the log alone, some of it on the way.
        let load = async |client: Client| {
            for number in 0.. {
                if client.put_kv("last", &number.to_string()).await.is_err() {
                    return;
                }
            }
        };
        let loads: Vec<_> =
            clients.into_iter().map(|client| tokio::task::spawn_local(load(client))).collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        servers.iter_mut().for_each(pinion_kit::Server::kill);
        for load in loads {
            load.await.unwrap();
        }
        let sparse = work.join("sparse");
        fs::create_dir(&sparse).unwrap();
        for launch in &launches {
            let (from, to) = (launch.data_dir.to_str().unwrap(), sparse.to_str().unwrap());
            run("cp", &["-r", "--sparse=always", from, to]);
        }
        let archive = golden_file();
        fs::create_dir_all(archive.parent().unwrap()).unwrap();
        run(
            "tar",
            &["-C", sparse.to_str().unwrap(), "-S", "-czf", archive.to_str().unwrap(), "m0", "m1", "m2"],
        );
    });
}

/// Header and stream of a stopped member's newest checkpoint.
fn checkpoint(data_dir: &Path) -> (Header, Vec<u8>) {
    let files = fs::read_dir(data_dir.join("checkpoint")).unwrap().map(|entry| entry.unwrap().path());
    let is_checkpoint = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "checkpoint");
    let newest = files.filter(is_checkpoint).max().expect("every member has a checkpoint");
    let bytes = fs::read(newest).unwrap();
    let (mut rest, mut decoder) = (&bytes[..], Decoder::default());
    let (mut header, mut stream) = (None, Vec::new());
    while let Some((head, behind)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let (payload, behind) = behind.split_at(decoder.payload_bytes(*head).unwrap());
        match decoder.frame(*head, payload).unwrap() {
            Frame::Header(found) => header = Some(found),
            Frame::Block(block) => stream.extend_from_slice(block),
            Frame::Trailer => {}
        }
        rest = behind;
    }
    (header.unwrap(), stream)
}

/// The entries of a stopped member's log that hold requests.
fn groups(data_dir: &Path, header: &Header) -> Vec<bytes::Bytes> {
    let storage = MapStorage::open(&data_dir.join("wal"), SEGMENT_BYTES).unwrap();
    let identity = Identity { cluster_id: header.cluster.0, member_id: header.member.0 };
    let (_wal, found) = Wal::open(storage, identity, header.index.0, header.term.0).unwrap();
    let is_group =
        |entry: &pinion_wal::Entry| entry.kind == EntryKind::Normal.number() && !entry.data.is_empty();
    found.entries.into_iter().filter(is_group).map(|entry| entry.data).collect()
}

/// What this member has on its disk is what release 0.1.0 would have written: the same bytes come out when
/// checkpoint and log are read and written again, and none of it is of a later level.
fn assert_level_0(data_dir: &Path) {
    let (header, stream) = checkpoint(data_dir);
    let mut restore = Restore::new();
    restore.feed(&stream).unwrap();
    let mut machine = restore.finish().unwrap();
    assert_eq!(machine.format_level(), FormatLevel(0));
    let mut again = Vec::new();
    let mut checkpoint = machine.begin_checkpoint();
    while !machine.checkpoint_slice(&mut checkpoint, 256 << 10, &mut again) {}
    machine.end_checkpoint(checkpoint);
    assert!(again == stream, "{}: the checkpoint is written otherwise", data_dir.display());
    for data in groups(data_dir, &header) {
        let group = decode_group(data.clone()).unwrap();
        assert!(group.requests.iter().all(|request| request.kind != RequestKind::FormatLevel));
        let id = group.id.expect("every group has had a name for long");
        assert_eq!(encode_group(id, &group.requests), data, "{}", data_dir.display());
    }
}

/// The level that checkpoint and log of a stopped member come to.
fn logged_level(data_dir: &Path) -> FormatLevel {
    let (header, stream) = checkpoint(data_dir);
    let mut restore = Restore::new();
    restore.feed(&stream).unwrap();
    let mut machine = restore.finish().unwrap();
    for data in groups(data_dir, &header) {
        for request in decode_group(data).unwrap().requests {
            if request.kind == RequestKind::FormatLevel {
                let at = pinion::request::EntryId { index: header.index, term: header.term };
                assert!(matches!(machine.apply(&request, at), pinion::apply::Applied::Now(Ok(_))));
            }
        }
    }
    machine.format_level()
}
