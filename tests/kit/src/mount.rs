//! The recorded disk as a mounted file system: what the kernel asks is done to [`Disk`] and noted. Its
//! device can stall and fail, which the cluster's tests use.
//!
//! One thread serves it, so the order noted is the order in which it happened. Reads come from the
//! kernel's own page cache wherever it has the page, as on a real disk: stores through a shared map
//! reach us when the kernel writes them back, at the latest before the sync that covers them. A write
//! through `O_DSYNC` is noted as a write and a sync of its range, so a cut can fall between the two.

#![expect(
    clippy::disallowed_types,
    reason = "the mount's thread and the test share the recording; times are FUSE's"
)]

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::consts::FOPEN_KEEP_CACHE;
use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, MountOption, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
};

use crate::disk::{Data, Disk, Ino, Node, Op, Recording};

/// Only this mount changes the disk, so the kernel may believe what it was told.
const TTL: Duration = Duration::from_secs(3600);

type Shared = Arc<std::sync::Mutex<Recorder>>;

#[derive(Debug)]
struct Recorder {
    disk: Disk,
    ops: Vec<Op>,
}

impl Recorder {
    fn note(&mut self, op: Op) {
        self.disk.apply(&op);
        self.ops.push(op);
    }
}

/// How the disk's device does, for whoever has it mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Works,
    /// Takes nothing and answers nothing.
    Stalls,
    /// Every write that must last and every sync is an I/O error.
    Fails,
}

/// Switches the device while it is mounted.
#[derive(Debug)]
struct Switch {
    device: std::sync::Mutex<Device>,
    switched: std::sync::Condvar,
}

impl Switch {
    /// Waits while the device stalls; `false`: it fails.
    fn take(&self) -> bool {
        let device = self.device.lock().expect("its other holder would have ended the test");
        let stalls = |device: &mut Device| *device == Device::Stalls;
        *self.switched.wait_while(device, stalls).expect("as above") == Device::Works
    }

    fn set(&self, device: Device) {
        *self.device.lock().expect("as above") = device;
        self.switched.notify_all();
    }
}

/// A mounted, recorded disk; unmounted when dropped.
pub struct Mounted {
    session: Option<BackgroundSession>,
    recorder: Shared,
    switch: Arc<Switch>,
    base: Node,
    at: PathBuf,
}

impl Mounted {
    /// Mounts a disk that holds `base`, durably, at a directory that exists.
    pub fn mount(base: Node, at: &Path) -> io::Result<Self> {
        let recorder = Recorder { disk: Disk::new(&base), ops: Vec::new() };
        let recorder = Arc::new(std::sync::Mutex::new(recorder));
        let options = [MountOption::FSName("pinion-powercut".to_owned()), MountOption::NoAtime];
        let switch = Arc::new(Switch { device: Device::Works.into(), switched: std::sync::Condvar::new() });
        let mount = Mount(Arc::clone(&recorder), Arc::clone(&switch));
        let session = fuser::spawn_mount2(mount, at, &options)?;
        Ok(Self { session: Some(session), recorder, switch, base, at: at.to_owned() })
    }

    /// How the device does from now on.
    pub fn set(&self, device: Device) {
        self.switch.set(device);
    }

    /// A handle that tells how many operations there were so far.
    pub fn position(&self) -> Position {
        Position(Arc::clone(&self.recorder))
    }

    /// Unmounts. Nobody may have a file open any more.
    pub fn finish(mut self) -> Recording {
        self.session.take().expect("taken only here").join();
        let ops = std::mem::take(&mut lock(&self.recorder).ops);
        Recording { base: self.base.clone(), ops }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.set(Device::Works);
        if let Some(session) = self.session.take() {
            // Lazy, since a failed test may have left the disk busy. Then the session finds nothing to
            // unmount.
            match Command::new("umount").arg("-l").arg(&self.at).status() {
                Ok(status) if status.success() => {}
                other => eprintln!("cannot unmount {}: {other:?}", self.at.display()),
            }
            drop(session);
        }
    }
}

/// See [`Mounted::position`].
#[derive(Clone)]
pub struct Position(Shared);

impl Position {
    pub fn now(&self) -> usize {
        lock(&self.0).ops.len()
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Recorder> {
    shared.lock().expect("its other holder would have ended the test")
}

struct Mount(Shared, Arc<Switch>);

fn attributes(disk: &Disk, ino: Ino) -> Option<FileAttr> {
    let is_dir = disk.is_dir(ino);
    let bytes = if is_dir { 0 } else { disk.content(ino)?.bytes() };
    let time = SystemTime::UNIX_EPOCH;
    Some(FileAttr {
        ino,
        size: bytes,
        blocks: bytes.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if is_dir { FileType::Directory } else { FileType::RegularFile },
        perm: if is_dir { 0o700 } else { 0o600 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn offset(offset: i64) -> u64 {
    u64::try_from(offset).expect("the kernel checks offsets")
}

impl Mount {
    /// A child's number.
    fn child(&self, dir: Ino, name: &OsStr) -> Option<Ino> {
        lock(&self.0).disk.names(dir)?.get(name.to_str()?).copied()
    }

    fn make(&self, dir: Ino, name: &OsStr, is_dir: bool) -> Result<FileAttr, i32> {
        let name = name.to_str().ok_or(libc::EILSEQ)?.to_owned();
        let mut recorder = lock(&self.0);
        let ino = recorder.disk.next_ino();
        recorder.note(Op::Create { dir, name, ino, is_dir });
        Ok(attributes(&recorder.disk, ino).expect("just made"))
    }

    fn remove(&self, dir: Ino, name: &OsStr, reply: ReplyEmpty) {
        let Some(ino) = self.child(dir, name) else { return reply.error(libc::ENOENT) };
        let mut recorder = lock(&self.0);
        if recorder.disk.names(ino).is_some_and(|names| !names.is_empty()) {
            return reply.error(libc::ENOTEMPTY);
        }
        let name = name.to_str().expect("found by it").to_owned();
        recorder.note(Op::Remove { dir, name });
        reply.ok();
    }
}

impl Filesystem for Mount {
    fn lookup(&mut self, _req: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent, name);
        match found.and_then(|ino| attributes(&lock(&self.0).disk, ino)) {
            Some(attr) => reply.entry(&TTL, &attr, 0),
            None => reply.error(libc::ENOENT),
        }
    }

    fn getattr(&mut self, _req: &Request<'_>, ino: u64, _fh: Option<u64>, reply: ReplyAttr) {
        match attributes(&lock(&self.0).disk, ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(libc::ENOENT),
        }
    }

    /// Sizes count. Times and modes are taken and forgotten: the server relies on none.
    fn setattr(
        &mut self,
        _req: &Request<'_>,
        ino: u64,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<u64>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<u32>,
        reply: ReplyAttr,
    ) {
        let mut recorder = lock(&self.0);
        if let Some(bytes) = size {
            recorder.note(Op::Resize { ino, bytes });
        }
        match attributes(&recorder.disk, ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(libc::ENOENT),
        }
    }

    fn mkdir(
        &mut self,
        _req: &Request<'_>,
        parent: u64,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.make(parent, name, true) {
            Ok(attr) => reply.entry(&TTL, &attr, 0),
            Err(code) => reply.error(code),
        }
    }

    fn unlink(&mut self, _req: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&mut self, _req: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rename(
        &mut self,
        _req: &Request<'_>,
        parent: u64,
        name: &OsStr,
        newparent: u64,
        newname: &OsStr,
        flags: u32,
        reply: ReplyEmpty,
    ) {
        // What the server does not do, the disk need not get right.
        if parent != newparent || flags != 0 {
            return reply.error(libc::EXDEV);
        }
        match (self.child(parent, name), newname.to_str()) {
            (Some(_), Some(to)) => {
                let from = name.to_str().expect("found by it").to_owned();
                lock(&self.0).note(Op::Rename { dir: parent, from, to: to.to_owned() });
                reply.ok();
            }
            _ => reply.error(libc::ENOENT),
        }
    }

    fn open(&mut self, _req: &Request<'_>, _ino: u64, _flags: i32, reply: ReplyOpen) {
        reply.opened(0, FOPEN_KEEP_CACHE);
    }

    fn read(
        &mut self,
        _req: &Request<'_>,
        ino: u64,
        _fh: u64,
        at: i64,
        size: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyData,
    ) {
        match lock(&self.0).disk.content(ino) {
            Some(content) => reply.data(&content.read(offset(at), size as usize)),
            None => reply.error(libc::EISDIR),
        }
    }

    fn write(
        &mut self,
        _req: &Request<'_>,
        ino: u64,
        _fh: u64,
        at: i64,
        data: &[u8],
        _write_flags: u32,
        flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyWrite,
    ) {
        if !self.1.take() && flags & libc::O_DSYNC != 0 {
            return reply.error(libc::EIO);
        }
        let mut recorder = lock(&self.0);
        let offset = offset(at);
        recorder.note(Op::Write { ino, offset, data: Data::new(data) });
        if flags & libc::O_DSYNC != 0 {
            recorder.note(Op::SyncFile { ino, range: Some(offset..offset + data.len() as u64) });
        }
        reply.written(u32::try_from(data.len()).expect("bounded by the kernel"));
    }

    fn flush(&mut self, _req: &Request<'_>, _ino: u64, _fh: u64, _lock_owner: u64, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&mut self, _req: &Request<'_>, ino: u64, _fh: u64, _datasync: bool, reply: ReplyEmpty) {
        if !self.1.take() {
            return reply.error(libc::EIO);
        }
        lock(&self.0).note(Op::SyncFile { ino, range: None });
        reply.ok();
    }

    fn fsyncdir(&mut self, _req: &Request<'_>, ino: u64, _fh: u64, _datasync: bool, reply: ReplyEmpty) {
        if !self.1.take() {
            return reply.error(libc::EIO);
        }
        lock(&self.0).note(Op::SyncDir { dir: ino });
        reply.ok();
    }

    fn readdir(&mut self, _req: &Request<'_>, ino: u64, _fh: u64, from: i64, mut reply: ReplyDirectory) {
        let recorder = lock(&self.0);
        let Some(names) = recorder.disk.names(ino) else { return reply.error(libc::ENOTDIR) };
        let from = usize::try_from(from).expect("an offset that we gave out");
        for (place, (name, child)) in names.iter().enumerate().skip(from) {
            let is_dir = recorder.disk.is_dir(*child);
            let kind = if is_dir { FileType::Directory } else { FileType::RegularFile };
            let next = i64::try_from(place + 1).expect("few names");
            if reply.add(*child, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&mut self, _req: &Request<'_>, _ino: u64, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 24;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }

    fn create(
        &mut self,
        _req: &Request<'_>,
        parent: u64,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, false) {
            Ok(attr) => reply.created(&TTL, &attr, 0, 0, FOPEN_KEEP_CACHE),
            Err(code) => reply.error(code),
        }
    }

    fn fallocate(
        &mut self,
        _req: &Request<'_>,
        ino: u64,
        _fh: u64,
        from: i64,
        length: i64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(libc::EOPNOTSUPP);
        }
        let mut recorder = lock(&self.0);
        let Some(content) = recorder.disk.content(ino) else { return reply.error(libc::EISDIR) };
        let bytes = content.bytes().max(offset(from) + offset(length));
        recorder.note(Op::Resize { ino, bytes });
        reply.ok();
    }
}
