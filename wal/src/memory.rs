//! A disk in memory that forgets what was not synced: the double for tests and the simulator.
//!
//! Keeps for each file what is durable and what is not, sector by sector, and for the directory the
//! names that are durable and the changes that are not. `power_cut` answers a disk as the next boot
//! would find it, each un-synced change kept, lost or torn as the caller's dice say. Faults are
//! injected by counting operations.
//!
//! Invariants: what a successful sync covered is in every image; nothing else is promised.
//! Cost: not for measuring.

use crate::sector::SECTOR_BYTES;
use crate::segment::SegmentSeq;
use crate::storage::{Directory, Housekeeping, Prepared, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// What an operation of the disk answers instead of doing its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This one operation fails so.
    Once(io::ErrorKind),
    /// This one and all later ones fail: the power is gone.
    PowerOff,
}

/// What becomes of one un-synced change when the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Kept,
    /// The device read the page while the writer was storing into it. Sealing stores a sector's first
    /// word last, blanking stores it first. Counts as `Kept` for changes that are no stores into a
    /// mapped page.
    HalfCopied,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn touch(&mut self, offset: usize, len: usize) {
        if len > 0 {
            self.dirty.extend(offset / SECTOR_BYTES..=(offset + len - 1) / SECTOR_BYTES);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let at = sector * SECTOR_BYTES;
            let end = (at + SECTOR_BYTES).min(self.current.len());
            self.durable[at..end].copy_from_slice(&self.current[at..end]);
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Link(String, usize),
    Rename(String, String),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

/// Files, names, and which of both would survive.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    durable_names: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    pending: Vec<Change>,
    /// Bytes that may still be allocated; `None`: no limit.
    free_bytes: Option<u64>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    /// Syncs of file content, for tests that count them.
    syncs: u64,
}

impl Disk {
    fn operation(&mut self) -> io::Result<()> {
        let count = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, Fault::Once(kind))) if count == at => Err(io::Error::new(kind, "injected")),
            Some((at, Fault::PowerOff)) if at <= count => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }
}

impl Directory for Disk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        self.operation()?;
        Ok(self.names.keys().cloned().collect())
    }

    fn size(&mut self, name: &str) -> io::Result<u64> {
        self.operation()?;
        Ok(self.inodes[self.inode(name)?].current.len() as u64)
    }

    fn create_zeroed(&mut self, name: &str, bytes: u32) -> io::Result<()> {
        self.operation()?;
        self.inodes.push(Inode::default());
        self.change(Change::Link(name.to_owned(), self.inodes.len() - 1));
        if let Some(free) = &mut self.free_bytes {
            *free = free.checked_sub(u64::from(bytes)).ok_or(io::ErrorKind::StorageFull)?;
        }
        let inode = self.inodes.last_mut().expect("just pushed");
        inode.current = vec![0; bytes as usize];
        inode.touch(0, bytes as usize);
        Ok(())
    }

    fn write_head(&mut self, name: &str, head: &[u8]) -> io::Result<()> {
        self.operation()?;
        let inode = self.inode(name)?;
        self.inodes[inode].current[..head.len()].copy_from_slice(head);
        self.inodes[inode].touch(0, head.len());
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.operation()?;
        let inode = self.inode(name)?;
        self.inodes[inode].sync();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.operation()?;
        self.inode(from)?;
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.operation()?;
        let inode = self.inode(name)?;
        if let Some(free) = &mut self.free_bytes {
            *free += self.inodes[inode].current.len() as u64;
        }
        self.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.operation()?;
        self.durable_names = self.names.clone();
        self.pending.clear();
        Ok(())
    }
}

/// Segments on a [`Disk`]; preparation happens at once, in the caller's thread.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    disk: Disk,
    segment_bytes: u32,
    housekeeping: Housekeeping,
    prepared: Prepared<()>,
    open: Option<usize>,
}

impl MemoryStorage {
    #[must_use]
    pub fn new(segment_bytes: u32) -> Self {
        Self { segment_bytes, ..Self::default() }
    }

    /// The same disk after the machine was switched off and on.
    #[must_use]
    pub fn power_cut(&self, dice: &mut dyn FnMut() -> Fate) -> Self {
        let disk = &self.disk;
        let mut names = disk.durable_names.clone();
        // A journal may hold back any change of the directory, and keep a later one.
        for change in &disk.pending {
            if dice() != Fate::Lost {
                apply(&mut names, change);
            }
        }
        let mut inodes = Vec::with_capacity(disk.inodes.len());
        for (number, inode) in disk.inodes.iter().enumerate() {
            let mapped = self.open == Some(number);
            let mut bytes = inode.durable.clone();
            if bytes.len() < inode.current.len() && dice() != Fate::Lost {
                bytes.resize(inode.current.len(), 0);
            }
            for sector in &inode.dirty {
                let at = sector * SECTOR_BYTES;
                let end = (at + SECTOR_BYTES).min(inode.current.len());
                if bytes.len() < end {
                    continue;
                }
                match dice() {
                    Fate::Lost => {}
                    Fate::HalfCopied if mapped && at + 8 <= end => {
                        let blanked = inode.current[at..at + 8] == [0; 8];
                        let first = if blanked { at..at + 8 } else { at + 8..end };
                        bytes[first.clone()].copy_from_slice(&inode.current[first]);
                    }
                    Fate::Kept | Fate::HalfCopied => bytes[at..end].copy_from_slice(&inode.current[at..end]),
                }
            }
            inodes.push(Inode { durable: bytes.clone(), current: bytes, dirty: BTreeSet::new() });
        }
        let disk = Disk {
            inodes,
            durable_names: names.clone(),
            names,
            free_bytes: disk.free_bytes,
            ..Disk::default()
        };
        Self { disk, ..Self::new(self.segment_bytes) }
    }

    /// The same disk after only the process died: the page cache still has everything.
    #[must_use]
    pub fn process_killed(&self) -> Self {
        let disk = Disk { fault: None, operations: 0, syncs: 0, ..self.disk.clone() };
        Self { disk, ..Self::new(self.segment_bytes) }
    }

    /// The `at`-th operation from the disk's first one meets `fault`.
    pub fn inject(&mut self, at: u64, fault: Fault) {
        self.disk.fault = Some((at, fault));
    }

    /// From now on at most this much can be allocated.
    pub fn limit_free_bytes(&mut self, bytes: u64) {
        self.disk.free_bytes = Some(bytes);
    }

    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk.operations
    }

    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk.syncs
    }

    /// Every file and its bytes as a reader sees them now.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.disk
            .names
            .iter()
            .map(|(name, inode)| (name.clone(), self.disk.inodes[*inode].current.clone()))
            .collect()
    }

    /// A disk that durably holds `files`.
    #[must_use]
    pub fn from_files(segment_bytes: u32, files: BTreeMap<String, Vec<u8>>) -> Self {
        let mut storage = Self::new(segment_bytes);
        for (name, bytes) in files {
            let inode = Inode { durable: bytes.clone(), current: bytes, dirty: BTreeSet::new() };
            storage.disk.inodes.push(inode);
            let number = storage.disk.inodes.len() - 1;
            storage.disk.durable_names.insert(name.clone(), number);
            storage.disk.names.insert(name, number);
        }
        storage
    }
}

impl Storage for MemoryStorage {
    fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    fn adopt_segment_bytes(&mut self, segment_bytes: u32) {
        self.segment_bytes = segment_bytes;
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentSeq>> {
        self.housekeeping.sweep(&mut self.disk)
    }

    fn size(&mut self, seq: SegmentSeq) -> io::Result<u64> {
        self.disk.size(&seq.file_name())
    }

    fn read(&mut self, seq: SegmentSeq, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk.operation()?;
        let bytes = &self.disk.inodes[self.disk.inode(&seq.file_name())?].current;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes[from..bytes.len().min(from.saturating_add(len))].to_vec())
    }

    fn read_whole(&mut self, seq: SegmentSeq, len: usize, _next: Option<SegmentSeq>) -> io::Result<&[u8]> {
        self.disk.operation()?;
        let bytes = &self.disk.inodes[self.disk.inode(&seq.file_name())?].current;
        Ok(&bytes[..bytes.len().min(len)])
    }

    fn prepare(&mut self, seq: SegmentSeq, head: Vec<u8>) {
        if !self.prepared.is_ready(seq) {
            let result = self.housekeeping.prepare(&mut self.disk, seq, &head, self.segment_bytes);
            self.prepared.insert(seq, result);
        }
    }

    fn wait_prepared(&mut self, seq: SegmentSeq) -> io::Result<()> {
        self.prepared.check(seq)
    }

    fn open(&mut self, seq: SegmentSeq, _tail: u64) -> io::Result<()> {
        self.disk.operation()?;
        self.open = Some(self.disk.inode(&seq.file_name())?);
        self.prepared.take(seq);
        Ok(())
    }

    fn window(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let inode = &mut self.disk.inodes[self.open.expect("a segment is open")];
        inode.touch(offset, len);
        &mut inode.current[offset..offset + len]
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.syncs += 1;
        self.disk.operation()?;
        self.disk.inodes[self.open.expect("a segment is open")].sync();
        Ok(())
    }

    fn release(&mut self, seq: SegmentSeq) {
        // An error costs only space, as on real files.
        drop(self.housekeeping.release(&mut self.disk, seq, self.segment_bytes));
    }

    fn locate(&self, seq: SegmentSeq) -> String {
        seq.file_name()
    }
}
