//! The log role: one pinned thread that copies groups into the log and makes one blocking sync each.
//!
//! It blocks on purpose: a blocking `fdatasync` or `O_DSYNC` write is not hurt by what else runs on
//! the core that takes the disk's interrupt, where one through io_uring is held up to a scheduler tick.
//! While it syncs, raft gathers the next group.
//!
//! An error of a sync ends the process at once ([`EXIT_LOG_FAILED`]): the kernel marks the pages clean
//! after it, so a second sync would say yes to lost data. A full disk is no such error: the next
//! segment is prepared ahead, and one that cannot be is noticed while the open one still has room for
//! all that is on its way. Raft then refuses new writes, until there is room again.

use std::io;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;
use pinion_wal::{Entry, HardState, Storage, Wal, WalError};

use crate::metrics::{Count, Histogram, Name, Report};
use crate::shell::log::keeping::Keep;
use crate::shell::runtime::exit::{EXIT_LOG_FAILED, with_causes};
use crate::shell::runtime::logging;
use crate::shell::runtime::mesh::SharedRing;
use crate::shell::runtime::placement::Core;
use crate::shell::runtime::priority;
use crate::shell::runtime::scrape::Scrape;

/// How often a full disk is asked again.
const SPACE_RETRY: Duration = Duration::from_millis(200);

/// Room that is asked for ahead of need: one append of raft's at its largest, and one more request.
const ROOM_BYTES: usize = 8 << 20;

/// Idle for so long, the log notes on the disk how far it is durable. Long enough that a lone client
/// in a loop never waits for it.
const MARK_DELAY: Duration = Duration::from_millis(50);

/// A sync slower than this is worth a line: etcd warns at one second too.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// What raft asks of the log.
#[derive(Debug)]
pub(in crate::shell) enum LogCommand {
    /// Append and sync; answered with [`LogEvent::Durable`] of the same number.
    Append { number: u64, hard_state: Option<HardState>, entries: Vec<Entry> },
    /// A leader's checkpoint has taken the place of everything: the next entry is the one behind it.
    Reset { after: u64, after_term: u64 },
    /// A checkpoint through this index is durable: segments before it may be used again, save what is to
    /// be kept for others. Sent again when that changes.
    Release { through: u64, keep: Keep },
    /// Tell what was counted.
    Observe(Scrape),
    /// Finish what is queued and end the thread.
    Stop,
}

/// What the log reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum LogEvent {
    /// All commands up to this number are on the disk.
    Durable { number: u64 },
    /// There is no room for the next segment; what is queued waits.
    OutOfSpace,
    /// There is room again.
    SpaceReturned,
    /// Entries up to this one may be gone from the disk.
    Released { through: u64 },
    /// The thread has ended; everything queued before is on the disk.
    Stopped,
}

/// Raft's handle to the log thread.
///
/// The queue has no bound of its own. While a follower's disk stalls its leader goes on with the others,
/// and sends this one as many appends as raft's window takes, hundreds; nothing here could refuse them.
/// Their entries are those that raft holds anyway.
#[derive(Debug, Clone)]
pub(in crate::shell) struct LogHandle {
    commands: Arc<SegQueue<LogCommand>>,
    thread: Thread,
}

impl LogHandle {
    /// Hands over a command.
    pub(in crate::shell) fn send(&self, command: LogCommand) {
        self.commands.push(command);
        self.thread.unpark();
    }
}

/// Starts the log thread, on `core` if it is to stay on one. It reports to `events`, whose bell wakes raft.
///
/// # Errors
/// When the thread cannot be started.
pub(in crate::shell) fn start<S: Storage + Send + 'static>(
    wal: Wal<S>,
    core: Option<Core>,
    spin: Duration,
    events: Arc<SharedRing<LogEvent>>,
) -> io::Result<LogHandle> {
    let commands = Arc::new(SegQueue::new());
    let inbox = Arc::clone(&commands);
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
        if let Some(core) = core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            tracing::warn!(core, "the log writer could not be pinned to its core");
        }
        priority::come_first();
        let state = LogWriter {
            wal,
            events,
            covered: 0,
            keep: Keep::default(),
            floor: 0,
            has_given_up: false,
            is_out_of_space: false,
            has_unmarked: false,
            observed: Observed::new(core),
        };
        state.run(&inbox, spin);
    })?;
    Ok(LogHandle { commands, thread: thread.thread().clone() })
}

struct LogWriter<S: Storage> {
    wal: Wal<S>,
    events: Arc<SharedRing<LogEvent>>,
    /// The newest checkpoint covers all up to here.
    covered: u64,
    keep: Keep,
    /// Raft knows that what precedes this entry is gone.
    floor: u64,
    /// A follower lost what was held for it, and it was said.
    has_given_up: bool,
    is_out_of_space: bool,
    /// Synced since the last mark.
    has_unmarked: bool,
    observed: Observed,
}

/// What the thread has counted.
struct Observed {
    core: Option<Core>,
    write: Histogram,
    sync: Histogram,
    sync_fine: Histogram,
    entry_bytes: Count,
    /// Seconds in which it wrote or synced.
    busy_ns: Count,
}

impl Observed {
    fn new(core: Option<Core>) -> Self {
        Self {
            core,
            write: Histogram::new(Name::WalWrite),
            sync: Histogram::new(Name::WalFsync),
            sync_fine: Histogram::new(Name::Sync),
            entry_bytes: Count::default(),
            busy_ns: Count::default(),
        }
    }

    fn on_written(&self, bytes: usize, took: Duration) {
        self.entry_bytes.add(bytes as u64);
        self.write.observe(took.as_secs_f64());
        self.on_busy(took);
    }

    fn on_synced(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
        self.sync_fine.observe(took.as_secs_f64());
        self.on_busy(took);
    }

    fn on_busy(&self, took: Duration) {
        self.busy_ns.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn report(&self, mut report: Report) -> Report {
        report.histogram(Name::WalWrite, [], &self.write);
        report.histogram(Name::WalFsync, [], &self.sync);
        report.histogram(Name::Sync, ["log".into()], &self.sync_fine);
        report.count(Name::WalWriteBytes, [], self.entry_bytes.get());
        let core = self.core.map_or("any".to_owned(), |core| core.to_string());
        let busy = Duration::from_nanos(self.busy_ns.get()).as_secs_f64();
        report.number(Name::CoreBusy, [core.into(), "log".into()], busy);
        report
    }
}

impl<S: Storage> LogWriter<S> {
    fn run(mut self, inbox: &SegQueue<LogCommand>, spin: Duration) {
        loop {
            let mut appended = None;
            let mut is_stopping = false;
            while let Some(command) = inbox.pop() {
                match command {
                    LogCommand::Append { number, hard_state, entries } => {
                        let start = Instant::now();
                        self.append(hard_state, &entries);
                        let bytes = entries.iter().map(|entry| entry.data.len()).sum();
                        self.observed.on_written(bytes, start.elapsed());
                        appended = Some(number);
                    }
                    LogCommand::Reset { after, after_term } => self.wal.reset(after, after_term),
                    LogCommand::Release { through, keep } => {
                        self.covered = self.covered.max(through);
                        self.keep = keep;
                        self.release();
                    }
                    LogCommand::Observe(scrape) => {
                        let report = self.observed.report(scrape.begin());
                        scrape.answer(report);
                    }
                    LogCommand::Stop => is_stopping = true,
                }
            }
            if let Some(number) = appended {
                self.sync();
                self.report(LogEvent::Durable { number });
                self.check_room();
            }
            if is_stopping {
                self.mark();
                self.report(LogEvent::Stopped);
                return;
            }
            if inbox.is_empty() {
                let start = Instant::now();
                while inbox.is_empty() && start.elapsed() < spin {
                    std::hint::spin_loop();
                }
                if inbox.is_empty() && self.has_unmarked {
                    std::thread::park_timeout(MARK_DELAY);
                    if inbox.is_empty() {
                        self.mark();
                    }
                }
                while inbox.is_empty() {
                    if self.is_out_of_space {
                        std::thread::park_timeout(SPACE_RETRY);
                        self.check_room();
                    } else {
                        std::thread::park();
                    }
                }
            }
        }
    }

    fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        loop {
            match self.wal.append(hard_state, entries) {
                Ok(()) => return,
                // Rare, since room is asked for ahead: only what was accepted before the disk was full.
                Err(WalError::NoSpace { .. }) if self.give_up_keeping() => {}
                Err(WalError::NoSpace { .. }) => {
                    self.on_space(false);
                    std::thread::sleep(SPACE_RETRY);
                }
                Err(error) => fail("appending to the log", &error),
            }
        }
    }

    /// Looks ahead for the next segment, so that a full disk is known while what is on its way still
    /// fits the open one.
    fn check_room(&mut self) {
        loop {
            match self.wal.secure_room(ROOM_BYTES) {
                Ok(()) => return self.on_space(true),
                Err(WalError::NoSpace { .. }) if self.give_up_keeping() => {}
                Err(WalError::NoSpace { .. }) => return self.on_space(false),
                Err(error) => fail("preparing the next log segment", &error),
            }
        }
    }

    /// On a full disk this member's own writes count for more than what others may need of its log.
    /// Whether anything was let go.
    fn give_up_keeping(&mut self) -> bool {
        let before = self.wal.segments_count();
        self.keep = Keep::default();
        self.release();
        let released = before - self.wal.segments_count();
        if 0 < released {
            tracing::warn!(segments = released, "the disk is full: the log kept for followers is given up");
        }
        0 < released
    }

    fn on_space(&mut self, has_room: bool) {
        if has_room != self.is_out_of_space {
            return;
        }
        self.is_out_of_space = !has_room;
        if has_room {
            tracing::info!("there is room for the log again: writes go on");
            self.report(LogEvent::SpaceReturned);
        } else {
            tracing::error!("no room on disk for the next log segment: writes are refused until there is");
            self.report(LogEvent::OutOfSpace);
        }
    }

    fn sync(&mut self) {
        let start = Instant::now();
        if let Err(error) = self.wal.sync() {
            fail("syncing the log", &error);
        }
        self.has_unmarked = true;
        let took = start.elapsed();
        self.observed.on_synced(took);
        if took >= SLOW_SYNC {
            tracing::warn!(seconds = took.as_secs_f64(), "slow sync of the log: the disk stalls every write");
        }
    }

    /// Notes on the disk that the last group is durable: the next group would say so, but none came.
    fn mark(&mut self) {
        self.has_unmarked = false;
        if let Err(error) = self.wal.mark() {
            fail("marking the log's end", &error);
        }
    }

    fn release(&mut self) {
        let segment_bytes = self.wal.storage().segment_bytes();
        let (through, gives_up) = self.keep.release_through(self.wal.segments(), segment_bytes, self.covered);
        if gives_up && !self.has_given_up {
            tracing::warn!(
                megabytes = self.keep.held_bytes_max >> 20,
                "a follower that catches up needs more of the log than is held for it: it will begin anew, with a checkpoint"
            );
        }
        self.has_given_up = gives_up;
        if let Err(error) = self.wal.release(through) {
            fail("releasing old log segments", &error);
        }
        let floor = self.wal.segments().next().map_or(0, |oldest| oldest.start_index);
        if self.floor < floor {
            self.floor = floor;
            self.report(LogEvent::Released { through: floor });
        }
    }

    fn report(&self, event: LogEvent) {
        let mut event = event;
        // Raft drains this ring on every turn; it is longer than all that can be in flight.
        while let Err(back) = self.events.send(event) {
            event = back;
            std::thread::yield_now();
        }
    }
}

fn fail(what: &str, error: &WalError) -> ! {
    logging::exit(EXIT_LOG_FAILED, || {
        tracing::error!(
            error = with_causes(error),
            "{what} failed; nothing after the last acknowledged write may be trusted to memory, so the process ends. \
             Check the disk, then start again: recovery keeps everything acknowledged"
        );
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_stalls_holds_up_as_many_appends_as_a_leader_sends() {
        let log = LogHandle { commands: Arc::default(), thread: std::thread::current() };
        for number in 0..10_000 {
            log.send(LogCommand::Append { number, hard_state: None, entries: Vec::new() });
        }
        assert_eq!(log.commands.len(), 10_000);
    }
}
