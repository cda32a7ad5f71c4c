//! Wall clocks that jump while members run: nothing may happen. No lease, election or read goes by them.
//!
//! A library in front of libc (`clock_shim.c`, compiled here) shifts one process's wall clock by what a
//! file says. Monotonic time is left alone: what stops that is in `lease_faults.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pinion_kit::{Cluster, WorkDir, block_on, skip};

use crate::load::Load;
use crate::{FAST, TEST_DEADLINE, judge};

const HOUR_S: i64 = 3_600;
const YEAR_S: i64 = 365 * 24 * HOUR_S;

/// One jump after the other, of one member after the other.
const JUMPS: [i64; 8] =
    [HOUR_S, -HOUR_S, 5 * HOUR_S, -5 * HOUR_S, 10 * YEAR_S, -20 * YEAR_S, 0, -60 * YEAR_S];

/// The compiled library; none, with a loud word, where there is no compiler.
fn shim(work: &WorkDir) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/clock_shim.c");
    let library = work.join("clock_shim.so");
    let compile =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    match compile {
        Ok(status) if status.success() => Some(library),
        other => {
            skip(&format!("no wall clock can be shifted without a C compiler: {other:?}"));
            None
        }
    }
}

fn shift(file: &Path, seconds: i64) {
    // In one write, so that the clock never shows half of it.
    fs::write(file, (seconds * 1_000_000_000).to_le_bytes()).unwrap();
}

#[test]
fn wall_clocks_that_jump_end_no_lease_and_no_leadership_and_lose_nothing() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let Some(library) = shim(&work) else { return };
        let files: Vec<PathBuf> = (0..3).map(|member| work.join(&format!("shift{member}"))).collect();
        files.iter().for_each(|file| shift(file, 0));
        let mut cluster = Cluster::start_with(3, &FAST, |member, launch| {
            launch.env.push(("LD_PRELOAD".to_owned(), library.display().to_string()));
            launch.env.push(("CLOCK_SHIFT_FILE".to_owned(), files[member].display().to_string()));
        })
        .await;
        let load = Load::start(&cluster, 2, Duration::from_millis(10), 1);
        load.wait_write().await;
        let leader = cluster.leader().await;
        let term = cluster.client(leader).await.status().await.unwrap().raft_term;
        for (number, jump) in JUMPS.into_iter().enumerate() {
            // The leader's more often than the others'.
            shift(&files[[leader, (leader + 1) % 3, leader, (leader + 2) % 3][number % 4]], jump);
            tokio::time::sleep(Duration::from_millis(400)).await;
            load.wait_write().await;
        }
        for member in 0..3 {
            let status = cluster.client(member).await.status().await.unwrap();
            assert_eq!((status.raft_term, status.leader), (term, cluster.ids[leader]), "seen by m{member}");
        }
        // One that starts again with its clock behind its former life's is let in.
        let back = (leader + 1) % 3;
        cluster.kill(back);
        shift(&files[back], -3 * YEAR_S);
        cluster.spawn(back);
        cluster.wait_ready(back).await;
        let mut record = load.finish(&cluster).await;
        // Nothing has failed, so all leases must have ended in time.
        record.healed = 0;
        let restarted = ["connection", "status 14: etcdserver: server stopped"];
        assert!(record.errors.keys().all(|error| restarted.contains(&error.as_str())), "{:?}", record.errors);
        judge(&mut cluster, &record).await;
        // The proof that clocks were shifted: what the log says.
        let year = |member: usize| {
            let output = cluster.output(member);
            let from = output.find("\"ts\":\"").expect("log lines have a time") + 6;
            output[from..from + 4].parse::<i64>().unwrap()
        };
        assert!(year(back) <= year(leader) - 2, "the restarted member's clock was not shifted");
    });
}
