//! What lies in the directories of a member, told by names, before anything is written there.
//!
//! Names of our own kind are judged by whoever reads those files. Names of etcd's kind, or of another
//! database, stop a start that has no data of ours: an empty store in the place of the data that its
//! clients expect would look to them as if every key had been deleted. All other names (`lost+found` of a
//! fresh disk, `.snapshot` of a file server) are left alone and told once.
//!
//! Cost: a few look-ups and listings, at a start only. A directory with very many names is listed to its
//! end, of which at most `NAMES_MAX` are told.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use pinion_wal::storage::is_log_file;

use crate::shell::store::checkpoint_file;

/// Names of strangers that are told.
const NAMES_MAX: usize = 10;

/// Magic number of a bbolt file's first meta page, behind the 16 bytes of the page's own header.
const BBOLT_MAGIC: u32 = 0xED0C_DAED;

/// Files at the top of other databases' directories.
const MARKS: [(&str, &str); 6] = [
    ("PG_VERSION", "PostgreSQL"),
    ("ibdata1", "MySQL or MariaDB"),
    ("WiredTiger", "MongoDB"),
    ("raft/raft.db", "Consul, Nomad or Vault"),
    ("version-2", "ZooKeeper"),
    ("CURRENT", "RocksDB or LevelDB"),
];

/// Somebody else's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Foreign {
    /// etcd's; the names that tell it, relative to the directory.
    Etcd(Vec<String>),
    Other {
        program: &'static str,
        mark: &'static str,
    },
}

/// Whether there is such a name. In a directory that is there and may not be looked into, there is.
fn is_there(dir: &Path, name: &str) -> bool {
    let found = fs::symlink_metadata(dir.join(name));
    let is_hidden = || name.split_once('/').is_some_and(|(above, _)| dir.join(above).is_dir());
    found.is_ok() || (found.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) && is_hidden())
}

/// The names in a directory; none if it cannot be listed.
fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// `<16 hex>-<16 hex>`, or one number alone.
fn is_etcd_stem(stem: &str) -> bool {
    let is_number = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    stem.split_once('-').map_or_else(|| is_number(stem), |(a, b)| is_number(a) && is_number(b))
}

/// Whether etcd names segments of its log or its snapshots so, whole or set aside as broken.
fn is_etcd_file(name: &str) -> bool {
    let name = name.strip_suffix(".broken").unwrap_or(name);
    [".wal", ".snap", ".snap.db"].iter().any(|suffix| name.strip_suffix(suffix).is_some_and(is_etcd_stem))
}

fn is_bbolt(path: &Path) -> bool {
    let read = || -> io::Result<u32> {
        let mut file = File::open(path)?;
        let mut magic = [0; 4];
        file.seek(SeekFrom::Start(16))?;
        file.read_exact(&mut magic)?;
        Ok(u32::from_le_bytes(magic))
    };
    path.is_file() && read().is_ok_and(|magic| magic == BBOLT_MAGIC)
}

/// The names in `dir` that only etcd has, of whichever version: `member/` of a member, `proxy/` of a v2
/// proxy, the layouts of 2.0 (`snap/`, `wal/`) and 0.4 (`conf`, `log`, `snapshot`); or, where a path into
/// such a directory was given, the files themselves.
fn etcd_names(dir: &Path) -> Vec<String> {
    const OF_0_4: [&str; 3] = ["conf", "log", "snapshot"];
    let mut found = ["member/snap", "member/wal", "proxy/cluster"].to_vec();
    found.retain(|name| is_there(dir, name));
    if OF_0_4.iter().all(|name| is_there(dir, name)) {
        found.extend(OF_0_4);
    }
    let mut found: Vec<String> = found.into_iter().map(str::to_owned).collect();
    for sub in ["", "snap", "wal"] {
        let mut files = names(&dir.join(sub)).filter(|name| is_etcd_file(name));
        if let Some(file) = files.next() {
            found.push(if sub.is_empty() { file } else { format!("{sub}/{file}") });
        }
        let db = if sub.is_empty() { "db".to_owned() } else { format!("{sub}/db") };
        if is_bbolt(&dir.join(&db)) {
            found.push(db);
        }
    }
    found
}

/// Somebody else's data in `dir`, if any.
pub(super) fn foreign_data(dir: &Path) -> Option<Foreign> {
    let names = etcd_names(dir);
    if !names.is_empty() {
        return Some(Foreign::Etcd(names));
    }
    let mark = MARKS.iter().find(|(mark, _)| is_there(dir, mark));
    mark.map(|&(mark, program)| Foreign::Other { program, mark })
}

/// Where the files of an etcd 3 are that can be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell) struct EtcdFiles {
    /// The database and the snapshots.
    pub snap: PathBuf,
    /// The log.
    pub wal: PathBuf,
}

impl EtcdFiles {
    /// Those in a data directory and, as etcd's --wal-dir, in another one. The log need not be there.
    pub(super) fn find(root: &Path, wal: Option<&Path>) -> Option<Self> {
        let snap = root.join("member/snap");
        if !is_bbolt(&snap.join("db")) {
            return None;
        }
        let own = root.join("member/wal");
        let wal = if own.is_dir() { own } else { wal.map_or(own, Path::to_owned) };
        Some(Self { snap, wal })
    }
}

/// Names that are nobody's business here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Strangers {
    /// The first few in order.
    pub names: Vec<String>,
    pub count: usize,
}

/// The names in `dir` that are not of our kind.
pub(super) fn strangers(dir: &Path, is_ours: impl Fn(&str) -> bool) -> Strangers {
    let mut found: Vec<String> = names(dir).filter(|name| !is_ours(name)).collect();
    found.sort();
    let count = found.len();
    found.truncate(NAMES_MAX);
    Strangers { names: found, count }
}

/// Whether a name is one of ours in a log's directory.
pub(super) fn is_log_name(name: &str) -> bool {
    is_log_file(name)
}

/// Whether a name is one of ours in the directory of checkpoints.
pub(super) fn is_checkpoint_name(name: &str) -> bool {
    checkpoint_file::is_own(Path::new(name))
}

/// Whether a directory holds a file of our kind.
pub(super) fn holds(dir: &Path, is_ours: fn(&str) -> bool) -> bool {
    names(dir).any(|name| is_ours(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    const WAL: &str = "0000000000000000-0000000000000000.wal";
    const SNAP: &str = "0000000000000002-00000000000186a3.snap";

    #[test]
    fn data_of_every_etcd_is_known_by_its_names() {
        for (files, told) in [
            (&["member/snap/db", &format!("member/wal/{WAL}")][..], &["member/snap", "member/wal"][..]),
            (&["member/snap/db"], &["member/snap"]),
            (&["member/wal/0.tmp"], &["member/wal"]),
            (&["proxy/cluster"], &["proxy/cluster"]),
            (&["conf", "log", "snapshot/1_2.ss"], &["conf", "log", "snapshot"]),
            (
                &[&format!("snap/{SNAP}"), &format!("wal/{WAL}")],
                &[&format!("snap/{SNAP}"), &format!("wal/{WAL}")],
            ),
            // Paths that lead into one.
            (&[WAL], &[WAL]),
            (&[&format!("{WAL}.broken")], &[&format!("{WAL}.broken")]),
            (&["00000000000186a3.snap.db"], &["00000000000186a3.snap.db"]),
        ] {
            let dir = dir_with(files);
            let told = told.iter().map(ToString::to_string).collect();
            assert_eq!(foreign_data(dir.path()), Some(Foreign::Etcd(told)), "{files:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let mut page = vec![0; 64];
        page[16..20].copy_from_slice(&BBOLT_MAGIC.to_le_bytes());
        fs::write(dir.path().join("db"), page).unwrap();
        assert_eq!(foreign_data(dir.path()), Some(Foreign::Etcd(vec!["db".to_owned()])));
    }

    #[test]
    fn our_own_names_and_those_of_a_fresh_disk_are_nobodys_data() {
        let ours = [
            "LOCK",
            "IDENTITY",
            "wal/00000001.wal",
            "wal/wal-00000001.tmp",
            "checkpoint/00000000000186a3.checkpoint",
        ];
        let fresh = [
            "lost+found/x",
            ".keep",
            ".snapshot/hourly/db",
            "member/notes",
            "db",
            "log",
            "proxy/x",
            "snapshot.db",
        ];
        assert_eq!(foreign_data(dir_with(&ours).path()), None);
        assert_eq!(foreign_data(dir_with(&fresh).path()), None);
        assert_eq!(foreign_data(Path::new("/nonexistent")), None);
        let postgres = foreign_data(dir_with(&["PG_VERSION"]).path());
        assert_eq!(postgres, Some(Foreign::Other { program: "PostgreSQL", mark: "PG_VERSION" }));
    }

    #[test]
    fn only_strangers_are_told_and_not_all_of_many() {
        let dir = dir_with(&["00000001.wal", "wal-00000002.free", "lost+found/x", ".keep"]);
        let found = strangers(dir.path(), is_log_name);
        assert_eq!((found.names, found.count), (vec![".keep".to_owned(), "lost+found".to_owned()], 2));
        assert!(holds(dir.path(), is_log_name) && !holds(dir.path(), is_checkpoint_name));
        for number in 0..30 {
            fs::write(dir.path().join(format!("f{number:02}")), "").unwrap();
        }
        let found = strangers(dir.path(), is_log_name);
        assert_eq!((found.names.len(), found.count), (NAMES_MAX, 32));
    }
}
