//! Each command that makes data is killed in front of each of its steps, one after the other on what the one before left:
//! the next run has to get on, or to say what is in its way. `step_shim.c`, compiled here, counts the steps.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, env_number, skip};

use crate::commands::pinion;
use crate::etcds::{self, restore_flags};
use crate::fill::fill;
use crate::out::snapshot;
use crate::seen::{Seen, seen, tree};

/// More steps than any command has.
const STEPS_MAX: usize = 300;

/// The steps in front of which a command is killed: each `PINION_BACKUP_STRIDE`th, and fewer where that is `sparse`.
fn steps(sparse: usize) -> impl Iterator<Item = usize> {
    let stride = usize::try_from(env_number("PINION_BACKUP_STRIDE", 2)).unwrap() * sparse;
    (1..STEPS_MAX).step_by(stride)
}

/// In memory where that can be: a kill needs no disk, and each run syncs a hundred times.
fn work_dir() -> WorkDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { WorkDir::inside(memory) } else { WorkDir::new() }
}

/// The compiled library; none, with a loud word, where there is no compiler.
fn shim(work: &WorkDir) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backup/step_shim.c");
    let library = work.join("step_shim.so");
    let compile =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    match compile {
        Ok(status) if status.success() => Some(library.display().to_string()),
        other => {
            skip(&format!("no command can be killed at each of its steps without a C compiler: {other:?}"));
            None
        }
    }
}

/// The command, killed in front of its step `at`.
fn killed(command: &mut Command, shim: &str, at: usize) -> Output {
    command.env("LD_PRELOAD", shim).env("STEP_KILL", at.to_string()).output().unwrap()
}

/// How a run ended.
enum Ended {
    Killed,
    Done,
    Refused(String),
}

fn ended(output: &Output) -> Ended {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match (output.status.signal(), output.status.code()) {
        (Some(9), _) => Ended::Killed,
        (_, Some(0)) => Ended::Done,
        (_, Some(1)) => Ended::Refused(said),
        _ => panic!("{}: {said}", output.status),
    }
}

async fn serves(launch: &Launch, there: &Seen) {
    let server = launch.start().await;
    assert_eq!(seen(&server.connect().await, 0).await, *there);
}

#[test]
fn a_recovery_that_is_killed_in_front_of_any_step_is_done_by_the_next_run_or_only_a_rename_is_left() {
    block_on(TEST_DEADLINE, async {
        let work = work_dir();
        let Some(shim) = shim(&work) else { return };
        let source = Launch::new(work.join("source"));
        let server = source.start().await;
        let client = server.connect().await;
        fill(&client, 41, 60).await;
        let there = seen(&client, 0).await;
        drop(server);
        let before = tree(&source.data_dir);
        let new = Launch { data_dir: work.join("new"), ..source.clone() };
        let aside = Launch { data_dir: work.join("new.unfinished"), ..source.clone() };
        let recover = || {
            let mut command = pinion(&["recover"]);
            command.arg(&source.data_dir).arg(format!("--data-dir={}", new.data_dir.display()));
            command
        };
        let (mut kills, mut whole) = (0, 0);
        for at in steps(1) {
            let output = killed(&mut recover(), &shim, at);
            assert!(tree(&source.data_dir) == before, "step {at}: the survivor is only read");
            match ended(&output) {
                Ended::Killed => {
                    kills += 1;
                    if at % 6 == 0 && aside.data_dir.join("UNFINISHED").exists() {
                        aside.start_refused().await.assert_says(&["did not end", "delete the directory"]);
                    }
                    if new.data_dir.exists() {
                        // Only the sync of the name was left.
                        serves(&new, &there).await;
                        fs::remove_dir_all(&new.data_dir).unwrap();
                    }
                }
                Ended::Refused(said) => {
                    assert!(
                        said.contains("rename it to") && said.contains("or delete it"),
                        "step {at}: {said}"
                    );
                    let renamed = Launch { data_dir: work.join("renamed"), ..source.clone() };
                    fs::rename(&aside.data_dir, &renamed.data_dir).unwrap();
                    serves(&renamed, &there).await;
                    fs::remove_dir_all(&renamed.data_dir).unwrap();
                    whole += 1;
                }
                Ended::Done => {
                    println!("{kills} kills, {whole} of what they left was whole");
                    assert!(40 < at, "{at} steps: what was killed?");
                    assert!(!aside.data_dir.exists());
                    return serves(&new, &there).await;
                }
            }
        }
        panic!("it has more than {STEPS_MAX} steps");
    });
}

#[test]
fn a_restore_that_is_killed_in_front_of_any_step_is_done_by_the_next_run() {
    block_on(TEST_DEADLINE, async {
        let work = work_dir();
        let Some(shim) = shim(&work) else { return };
        let server = Launch::new(work.join("source")).start().await;
        let client = server.connect().await;
        fill(&client, 42, 60).await;
        let there = seen(&client, 0).await;
        let file = work.join("snapshot.db");
        fs::write(&file, snapshot(&client).await.unwrap()).unwrap();
        drop(server);
        // Elsewhere the log is another directory in the same order, so a sample of the steps will do.
        for (wal, sparse) in [(None, 1), (Some(work.join("log")), 5)] {
            let name = if wal.is_some() { "apart" } else { "new" };
            let mut launch = Launch::new(work.join(name));
            let mut flags = restore_flags(&launch);
            if let Some(wal) = &wal {
                flags.push(format!("--wal-dir={}", wal.display()));
                launch = launch.flag(format!("--wal-dir={}", wal.display()));
            }
            let mut kills = 0;
            for at in steps(sparse) {
                let before = fs::read(&file).unwrap();
                let output = killed(pinion(&["snapshot", "restore"]).arg(&file).args(&flags), &shim, at);
                assert!(fs::read(&file).unwrap() == before, "step {at}: the snapshot is only read");
                match ended(&output) {
                    Ended::Killed => {
                        kills += 1;
                        if at % 6 == 0 && launch.data_dir.join("UNFINISHED").exists() {
                            launch.start_refused().await.assert_says(&["did not end"]);
                        }
                    }
                    // Only the sync of what took the mark away was left.
                    Ended::Refused(said) => {
                        assert!(said.contains("not empty"), "step {at}: {said}");
                        serves(&launch, &there).await;
                        fs::remove_dir_all(&launch.data_dir).unwrap();
                        wal.iter().for_each(|wal| fs::remove_dir_all(wal).unwrap());
                    }
                    Ended::Done => {
                        println!("{kills} kills");
                        assert!(40 < at, "{at} steps: what was killed?");
                        serves(&launch, &there).await;
                        break;
                    }
                }
                assert!(at + 10 < STEPS_MAX, "it has more steps");
            }
        }
    });
}

#[test]
fn an_import_of_an_etcd_that_is_killed_in_front_of_any_step_is_begun_anew_and_etcds_files_stay() {
    let Some(etcd) = etcds::all().into_iter().next_back() else { return };
    block_on(TEST_DEADLINE, async {
        let work = work_dir();
        let Some(shim) = shim(&work) else { return };
        let theirs = etcd.launch(work.join("etcd"));
        let server = theirs.start().await;
        let client = server.connect().await;
        fill(&client, 43, 60).await;
        let there = seen(&client, 0).await;
        drop(server);
        let files: PathBuf = theirs.data_dir.join("member");
        let before = tree(&files);
        let mut ours = Launch { binary: Launch::new(work.join("x")).binary, ..theirs };
        ours.env.push(("LD_PRELOAD".to_owned(), shim));
        for at in steps(1) {
            let mut launch = ours.clone();
            launch.env.push(("STEP_KILL".to_owned(), at.to_string()));
            let mut server = launch.spawn();
            let ready = server.wait_ready().await;
            assert!(tree(&files) == before, "step {at}: etcd's files stay as they are");
            match ready {
                Err(why) => assert!(why.contains("signal: 9"), "step {at}: {why}"),
                Ok(()) => {
                    println!("{at} steps");
                    assert!(40 < at, "{at} steps: what was killed?");
                    assert_eq!(seen(&server.connect().await, 0).await, there);
                    return;
                }
            }
        }
        panic!("it has more than {STEPS_MAX} steps");
    });
}
