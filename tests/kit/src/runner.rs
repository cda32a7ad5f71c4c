//! One test and its runner: how long it may take, what it is asked for, and what it cannot test here.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No test runs longer unless it was asked for more rounds.
pub const TEST_DEADLINE: Duration = Duration::from_secs(120);

/// Runs one test's future on a thread of its own, and fails it at the deadline.
pub fn block_on<T>(deadline: Duration, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        tokio::time::timeout(deadline, future).await.expect("the test ran past its deadline")
    })
}

/// A number from the environment, such as a count of rounds.
#[expect(clippy::disallowed_methods, reason = "how often a test runs is asked of its runner")]
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// An installed program, or `None` with a line that says what is not tested without it.
#[expect(clippy::disallowed_methods, reason = "PATH is where installed programs are")]
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file());
    if found.is_none() {
        let packages = if program.starts_with("etcd") { "etcd-server etcd-client" } else { program };
        skip(&format!("{program} is not installed (Debian: apt-get install {packages})"));
    }
    found
}

/// Every installed program of an etcd, of whatever release: the one on PATH, and those in the directories that
/// `PINION_TEST_ETCD_DIRS` lists. Says loudly when there is none.
#[expect(clippy::disallowed_methods, reason = "as above")]
pub fn etcds(program: &str) -> Vec<PathBuf> {
    let more = std::env::var("PINION_TEST_ETCD_DIRS").unwrap_or_default();
    let more = more.split(':').map(|dir| Path::new(dir).join(program)).filter(|path| path.is_file());
    installed(program).into_iter().chain(more).collect()
}

/// Says loudly that a test did not test. Written past libtest's capture, which would swallow it.
pub fn skip(reason: &str) {
    use std::io::Write as _;
    let line = format!("\nSKIPPED {}: {reason}\n", test_name());
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}

pub(crate) fn test_name() -> String {
    std::thread::current().name().unwrap_or("test").to_owned()
}
