//! The real etcds of this machine: those on PATH, and in the directories that `PINION_TEST_ETCD_DIRS` lists.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pinion_kit::{Launch, skip};

/// An etcd of one version with its tools.
#[derive(Debug, Clone)]
pub struct Etcd {
    pub version: String,
    pub server: PathBuf,
    /// What restores: etcdutl, or the etcdctl of a version before there was one.
    pub tool: PathBuf,
    pub ctl: PathBuf,
}

/// All of them, by version. Says loudly what is not tested without them.
#[expect(clippy::disallowed_methods, reason = "PATH is where installed programs are")]
pub fn all() -> Vec<Etcd> {
    let dirs = ["PATH", "PINION_TEST_ETCD_DIRS"].map(|name| std::env::var(name).unwrap_or_default());
    let mut found: Vec<Etcd> = Vec::new();
    for dir in dirs.iter().flat_map(|dirs| dirs.split(':')).map(Path::new) {
        let [server, ctl, utl] = ["etcd", "etcdctl", "etcdutl"].map(|name| dir.join(name));
        if !server.is_file() || !ctl.is_file() {
            continue;
        }
        let said = Command::new(&server).arg("--version").output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let version = said.lines().next().and_then(|line| line.strip_prefix("etcd Version: ")).unwrap_or("?");
        let tool = if utl.is_file() { utl } else { ctl.clone() };
        if found.iter().all(|etcd| etcd.version != version) {
            found.push(Etcd { version: version.to_owned(), server, tool, ctl });
        }
    }
    found.sort_by(|a, b| a.version.cmp(&b.version));
    for wanted in ["3.4", "3.5"] {
        if !found.iter().any(|etcd| etcd.version.starts_with(wanted)) {
            skip(&format!(
                "there is no etcd {wanted} with its tools on PATH or in PINION_TEST_ETCD_DIRS to judge the files"
            ));
        }
    }
    found
}

impl Etcd {
    pub fn launch(&self, data_dir: PathBuf) -> Launch {
        Launch::binary(&self.server, data_dir)
    }

    /// Its tool's `snapshot status`: hash, revision.
    pub fn status(&self, file: &Path) -> (String, i64) {
        let said = run(Command::new(&self.tool).args(["snapshot", "status"]).arg(file));
        let said = String::from_utf8(said.stdout).unwrap();
        let mut fields = said.trim().split(", ");
        let hash = fields.next().unwrap().to_owned();
        (hash, fields.next().unwrap().parse().unwrap())
    }

    /// Its tool's `snapshot restore`, into the directory of `launch`.
    pub fn restore(&self, file: &Path, launch: &Launch) {
        run(Command::new(&self.tool).args(["snapshot", "restore"]).arg(file).args(restore_flags(launch)));
    }

    /// Its client's `snapshot save`.
    pub fn save(&self, port: u16, file: &Path, user: Option<&str>) {
        let mut command = Command::new(&self.ctl);
        command.arg(format!("--endpoints=127.0.0.1:{port}"));
        if let Some(user) = user {
            command.arg(format!("--user={user}"));
        }
        run(command.args(["snapshot", "save"]).arg(file));
    }
}

/// What tells a restore whose data it makes.
pub fn restore_flags(launch: &Launch) -> Vec<String> {
    vec![
        format!("--name={}", launch.name),
        format!("--data-dir={}", launch.data_dir.display()),
        format!(
            "--initial-cluster={}",
            launch.initial_cluster.clone().unwrap_or_else(|| Launch::listed([launch]))
        ),
        format!("--initial-advertise-peer-urls={}", launch.peer_url()),
    ]
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.env("ETCDCTL_API", "3").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}
