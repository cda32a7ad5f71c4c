//! A disk that remembers in which order it was asked for what, and what a power cut may leave of it.
//!
//! Pure: operations come in, images come out. What a completed sync covered is in every image. What
//! none covered is there or not, each 512-byte sector for itself, in any version since the last sync;
//! a file's sizes and a directory's names get as far as some point of their order, or, for names,
//! any of them do whose names nobody touched before. So a file whose bytes were synced may have no
//! name, a name may lead to a file without bytes, and a rename may be undone.
//!
//! Stricter than ext4 and XFS, which write names of all directories in one order and make a new
//! file's name durable with its bytes. Not covered: a page written back while it is being stored to
//! (the `wal` crate's own disk in memory does that), and devices that tear inside a sector.
//!
//! Invariant: `cached` is `durable` with all of `pending` done to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, seq::IndexedRandom as _};

pub const SECTOR_BYTES: usize = 512;

/// What a device writes wholly or not at all.
type Sector = Arc<[u8; SECTOR_BYTES]>;

pub type Ino = u64;

pub const ROOT: Ino = 1;

/// A file's bytes. Sectors that are not there are zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    bytes: u64,
    sectors: BTreeMap<u64, Sector>,
}

impl Content {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let sectors = bytes.chunks(SECTOR_BYTES).zip(0..);
        Self {
            bytes: bytes.len() as u64,
            sectors: sectors.filter_map(|(part, number)| Some((number, sector(part)?))).collect(),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.bytes.min(offset + length as u64);
        let mut read = vec![0; to_usize(end.saturating_sub(offset))];
        if offset < end {
            for (number, sector) in self.sectors.range(offset / 512..end.div_ceil(512)) {
                let start = number * 512;
                let from = start.max(offset);
                let until = (start + 512).min(end);
                read[to_usize(from - offset)..to_usize(until - offset)]
                    .copy_from_slice(&sector[to_usize(from - start)..to_usize(until - start)]);
            }
        }
        read
    }

    /// The runs of sectors that are not zero, as offset and bytes, cut at the file's end.
    pub fn runs(&self) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, sector) in &self.sectors {
            let start = number * 512;
            let kept = self.bytes.saturating_sub(start).min(512);
            let part = &sector[..to_usize(kept)];
            match runs.last_mut() {
                Some((offset, bytes)) if *offset + bytes.len() as u64 == start => bytes.extend(part),
                _ => runs.push((start, part.to_vec())),
            }
        }
        runs
    }

    fn resize(&mut self, bytes: u64) {
        if bytes < self.bytes {
            drop(self.sectors.split_off(&bytes.div_ceil(512)));
            let kept = to_usize(bytes % 512);
            if let Some(last) = self.sectors.get_mut(&(bytes / 512)) {
                Arc::make_mut(last)[kept..].fill(0);
            }
        }
        self.bytes = bytes;
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Size(bytes) => self.resize(*bytes),
            // What lies past the end of the file has no place.
            Change::Sector(number, _) if self.bytes <= number * 512 => {}
            Change::Sector(number, Some(sector)) => drop(self.sectors.insert(*number, Arc::clone(sector))),
            Change::Sector(number, None) => drop(self.sectors.remove(number)),
        }
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("files here are small")
}

/// `None` for zeros.
fn sector(bytes: &[u8]) -> Option<Sector> {
    const ZERO: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
    if bytes == &ZERO[..bytes.len()] {
        return None;
    }
    let mut sector = ZERO;
    sector[..bytes.len()].copy_from_slice(bytes);
    Some(Arc::new(sector))
}

/// A file or directory without inode numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File(Content),
    Dir(BTreeMap<String, Node>),
}

impl Node {
    /// This node at the end of a path of directories.
    #[must_use]
    pub fn below(self, path: &[&str]) -> Self {
        path.iter().rev().fold(self, |node, name| Self::Dir(BTreeMap::from([((*name).to_owned(), node)])))
    }
}

/// One request to the disk, in the order it took them.
#[derive(Debug, Clone)]
pub enum Op {
    Create { dir: Ino, name: String, ino: Ino, is_dir: bool },
    Rename { dir: Ino, from: String, to: String },
    Remove { dir: Ino, name: String },
    Write { ino: Ino, offset: u64, data: Data },
    Resize { ino: Ino, bytes: u64 },
    SyncFile { ino: Ino, range: Option<Range<u64>> },
    SyncDir { dir: Ino },
}

/// Written bytes; a new segment's zeros take no memory.
#[derive(Debug, Clone)]
pub enum Data {
    Zeros(usize),
    Bytes(Arc<[u8]>),
}

impl Data {
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.chunks(SECTOR_BYTES).all(|part| sector(part).is_none()) {
            Self::Zeros(bytes.len())
        } else {
            Self::Bytes(bytes.into())
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Zeros(length) => *length,
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

impl Op {
    pub fn is_sync(&self) -> bool {
        matches!(self, Self::SyncFile { .. } | Self::SyncDir { .. })
    }

    /// Whether the disk's promises or names differ before and after: where cuts hurt most.
    pub fn is_edge(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::Resize { .. })
    }
}

#[derive(Debug, Clone)]
enum Change {
    Size(u64),
    Sector(u64, Option<Sector>),
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, Ino),
    Rename(String, String),
    Unlink(String),
}

#[derive(Debug, Clone, Default)]
struct File {
    cached: Content,
    durable: Content,
    /// With the number of the write that each came with.
    pending: Vec<(usize, Change)>,
}

impl File {
    fn of(content: Content) -> Self {
        Self { cached: content.clone(), durable: content, pending: Vec::new() }
    }

    fn push(&mut self, write: usize, change: Change) {
        self.cached.change(&change);
        self.pending.push((write, change));
    }

    fn resize(&mut self, write: usize, bytes: u64) {
        if bytes != self.cached.bytes {
            self.push(write, Change::Size(bytes));
        }
    }

    fn write(&mut self, write: usize, offset: u64, data: &Data) {
        let end = offset + data.len() as u64;
        self.resize(write, end.max(self.cached.bytes));
        for number in offset / 512..end.div_ceil(512) {
            let start = number * 512;
            let (from, until) = (start.max(offset), (start + 512).min(end));
            let new = match data {
                Data::Zeros(_) if until - from == 512 => None,
                _ => {
                    let mut whole = self.cached.sectors.get(&number).map_or([0; 512], |old| **old);
                    let target = &mut whole[to_usize(from - start)..to_usize(until - start)];
                    match data {
                        Data::Zeros(_) => target.fill(0),
                        Data::Bytes(bytes) => {
                            target.copy_from_slice(&bytes[to_usize(from - offset)..to_usize(until - offset)])
                        }
                    }
                    sector(&whole)
                }
            };
            self.push(write, Change::Sector(number, new));
        }
    }

    fn sync(&mut self, range: Option<&Range<u64>>) {
        let Some(range) = range else {
            for (_, change) in self.pending.drain(..) {
                self.durable.change(&change);
            }
            return;
        };
        let numbers = range.start / 512..range.end.div_ceil(512);
        let is_covered = |change: &Change| match change {
            Change::Size(_) => true,
            Change::Sector(number, _) => numbers.contains(number),
        };
        for (_, change) in self.pending.extract_if(.., |(_, change)| is_covered(change)) {
            self.durable.change(&change);
        }
    }

    fn after_cut(&self, fate: Fate, rng: &mut StdRng) -> Content {
        let sizes = self.pending.iter().filter(|(_, change)| matches!(change, Change::Size(_))).count();
        let sectors = self.pending.len() - sizes;
        let mut sizes_left = match fate.bytes {
            Bytes::Nothing => 0,
            Bytes::Everything => sizes,
            _ => rng.random_range(0..=sizes),
        };
        let single = rng.random_range(0..sectors.max(1));
        let mut seen = 0;
        let mut last_write = (usize::MAX, false);
        let mut content = self.durable.clone();
        for (write, change) in &self.pending {
            let is_kept = if let Change::Size(_) = change {
                let is_kept = 0 < sizes_left;
                sizes_left = sizes_left.saturating_sub(1);
                is_kept
            } else {
                seen += 1;
                match fate.bytes {
                    Bytes::Nothing => false,
                    Bytes::Everything => true,
                    Bytes::EachSector(share) => rng.random_bool(share),
                    Bytes::EachWrite(share) => {
                        if last_write.0 != *write {
                            last_write = (*write, rng.random_bool(share));
                        }
                        last_write.1
                    }
                    Bytes::AllButOneSector => seen - 1 != single,
                    Bytes::OneSector => seen - 1 == single,
                }
            };
            if is_kept {
                content.change(change);
            }
        }
        content
    }
}

type Names = BTreeMap<String, Ino>;

#[derive(Debug, Clone, Default)]
struct Dir {
    cached: Names,
    durable: Names,
    pending: Vec<NameChange>,
}

impl Dir {
    fn push(&mut self, change: NameChange) {
        rename(&mut self.cached, &change);
        self.pending.push(change);
    }

    fn after_cut(&self, fate: Fate, rng: &mut StdRng) -> Names {
        let mut names = self.durable.clone();
        let kept = match fate.names {
            NameFate::Nothing => 0,
            NameFate::Everything | NameFate::AnyOrder => self.pending.len(),
            NameFate::UpTo => rng.random_range(0..=self.pending.len()),
        };
        let mut held_back = BTreeSet::new();
        for change in &self.pending[..kept] {
            let touched = match change {
                NameChange::Link(name, _) | NameChange::Unlink(name) => vec![name],
                NameChange::Rename(from, to) => vec![from, to],
            };
            let waits = touched.iter().any(|name| held_back.contains(*name));
            if waits || (fate.names == NameFate::AnyOrder && rng.random_bool(0.5)) {
                held_back.extend(touched);
            } else {
                rename(&mut names, change);
            }
        }
        names
    }
}

fn rename(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Link(name, ino) => drop(names.insert(name.clone(), *ino)),
        NameChange::Rename(from, to) => {
            let ino = names.remove(from).expect("its earlier changes were kept");
            names.insert(to.clone(), ino);
        }
        NameChange::Unlink(name) => drop(names.remove(name)),
    }
}

/// What becomes of bytes that no sync covered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bytes {
    Nothing,
    Everything,
    /// Each with this chance: torn and reordered.
    EachSector(f64),
    /// Each write as a whole with this chance: reordered.
    EachWrite(f64),
    AllButOneSector,
    OneSector,
}

/// What becomes of names that no directory sync covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFate {
    Nothing,
    Everything,
    /// Up to some point of the directory's order.
    UpTo,
    /// Any that do not build on one that is lost.
    AnyOrder,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    pub bytes: Bytes,
    pub names: NameFate,
}

impl Fate {
    pub fn random(rng: &mut StdRng) -> Self {
        let bytes = [
            Bytes::Nothing,
            Bytes::Everything,
            Bytes::EachSector(0.5),
            Bytes::EachSector(0.9),
            Bytes::EachSector(0.1),
            Bytes::EachWrite(0.5),
            Bytes::AllButOneSector,
            Bytes::OneSector,
        ];
        let names = [NameFate::Nothing, NameFate::Everything, NameFate::UpTo, NameFate::AnyOrder];
        Self { bytes: *bytes.choose(rng).expect("not empty"), names: *names.choose(rng).expect("not empty") }
    }
}

/// The disk as its user sees it, and as it would be without power.
#[derive(Debug, Clone)]
pub struct Disk {
    files: BTreeMap<Ino, File>,
    dirs: BTreeMap<Ino, Dir>,
    next: Ino,
    writes: usize,
}

impl Disk {
    /// A disk on which everything of `root` is durable.
    pub fn new(root: &Node) -> Self {
        let mut disk = Self { files: BTreeMap::new(), dirs: BTreeMap::new(), next: ROOT, writes: 0 };
        disk.plant(root);
        disk
    }

    fn plant(&mut self, node: &Node) -> Ino {
        let ino = self.next;
        self.next += 1;
        match node {
            Node::File(content) => drop(self.files.insert(ino, File::of(content.clone()))),
            Node::Dir(nodes) => {
                self.dirs.insert(ino, Dir::default());
                let names: Names =
                    nodes.iter().map(|(name, node)| (name.clone(), self.plant(node))).collect();
                self.dirs.insert(ino, Dir { cached: names.clone(), durable: names, pending: Vec::new() });
            }
        }
        ino
    }

    /// The number that the next file or directory gets.
    pub fn next_ino(&self) -> Ino {
        self.next
    }

    pub fn is_dir(&self, ino: Ino) -> bool {
        self.dirs.contains_key(&ino)
    }

    pub fn names(&self, dir: Ino) -> Option<&BTreeMap<String, Ino>> {
        self.dirs.get(&dir).map(|dir| &dir.cached)
    }

    pub fn content(&self, ino: Ino) -> Option<&Content> {
        self.files.get(&ino).map(|file| &file.cached)
    }

    /// Does what was asked. Who asks has checked that the names and numbers exist.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { dir, name, ino, is_dir } => {
                assert_eq!(*ino, self.next, "inode numbers are given out in order");
                self.next += 1;
                if *is_dir {
                    self.dirs.insert(*ino, Dir::default());
                } else {
                    self.files.insert(*ino, File::default());
                }
                self.dir(*dir).push(NameChange::Link(name.clone(), *ino));
            }
            Op::Rename { dir, from, to } => {
                self.dir(*dir).push(NameChange::Rename(from.clone(), to.clone()));
            }
            Op::Remove { dir, name } => self.dir(*dir).push(NameChange::Unlink(name.clone())),
            Op::Write { ino, offset, data } => {
                self.writes += 1;
                let write = self.writes;
                self.file(*ino).write(write, *offset, data);
            }
            Op::Resize { ino, bytes } => {
                self.writes += 1;
                let write = self.writes;
                self.file(*ino).resize(write, *bytes);
            }
            Op::SyncFile { ino, range } => self.file(*ino).sync(range.as_ref()),
            Op::SyncDir { dir } => {
                let dir = self.dir(*dir);
                for change in dir.pending.drain(..) {
                    rename(&mut dir.durable, &change);
                }
            }
        }
    }

    fn file(&mut self, ino: Ino) -> &mut File {
        self.files.get_mut(&ino).expect("a file that exists")
    }

    fn dir(&mut self, ino: Ino) -> &mut Dir {
        self.dirs.get_mut(&ino).expect("a directory that exists")
    }

    /// What the disk holds when power fails now.
    pub fn after_cut(&self, fate: Fate, rng: &mut StdRng) -> Node {
        self.node_after_cut(ROOT, fate, rng)
    }

    fn node_after_cut(&self, ino: Ino, fate: Fate, rng: &mut StdRng) -> Node {
        match self.dirs.get(&ino) {
            None => Node::File(self.files[&ino].after_cut(fate, rng)),
            Some(dir) => Node::Dir(
                dir.after_cut(fate, rng)
                    .into_iter()
                    .map(|(name, ino)| (name, self.node_after_cut(ino, fate, rng)))
                    .collect(),
            ),
        }
    }
}

/// Everything that happened to a disk.
#[derive(Debug, Clone)]
pub struct Recording {
    pub base: Node,
    pub ops: Vec<Op>,
}

impl Recording {
    /// The disk after the first `position` operations. Syncs from `forgotten_from` on are believed to
    /// have done nothing: a disk that lies, to prove that the check sees it.
    pub fn disk_at(&self, position: usize, forgotten_from: usize) -> Disk {
        let mut disk = Disk::new(&self.base);
        for (at, op) in self.ops[..position].iter().enumerate() {
            if at < forgotten_from || !op.is_sync() {
                disk.apply(op);
            }
        }
        disk
    }
}
