//! The log behind the checkpoint is applied while it is read: what is committed for certain, by the log's own word.
//!
//! A thread reads and checks the log and takes its entries apart (the feeder's side); the main thread applies them,
//! with nothing between it and the state machine: nobody is answered or told, and what the roles keep beside the state
//! they make of it when they start, as they do from a checkpoint. What is left goes to raft: the entries of which only
//! a leader can say that they are committed.
//!
//! Nothing is changed on the disk. Should the log turn out to be damaged, the start ends with that, whatever was applied
//! or could not be.
//! Memory: the log goes through a few batches, however long it is. What was applied goes back to the thread that made it,
//! whose allocator uses it for what comes next: the kernel has to clear every page that is touched for the first time, and
//! that takes longer than to read it.

use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};
use pinion_wal as wal;

use crate::apply::Machine;
use crate::checkpoint::cadence::LogSince;
use crate::membership::MemberChange;
use crate::raft::{CheckpointMeta, Entry, EntryKind, Replay, StartError};
use crate::request::group::decode_group;
use crate::request::{EntryId, Group, Request};
use crate::shell::log::entries::{UnknownKind, entry_from_wal};
use crate::shell::store::memory_supply::MemorySupply;
use crate::shell::store::{FormatLevelTooHigh, check_format_level};
use crate::types::FormatLevel;

/// Entries go from one thread to the other in batches of so many bytes, or one if it is larger.
const BATCH_BYTES: usize = 1 << 20;

/// Batches that wait to be applied.
const BATCHES_MAX: usize = 4;

/// Records that a compaction looks at behind each batch. The history that it gives up does not pile up, and the start
/// does not wait for it.
const COMPACTION_STEPS: usize = 20_000;

/// How often it says how far it is.
const PERIOD: Duration = Duration::from_secs(2);

/// Why what is committed was not applied.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum ReplayError {
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    #[error("what the data directory holds is no log that can be continued: {0}")]
    Log(#[from] StartError),
    #[error(transparent)]
    FormatLevel(#[from] FormatLevelTooHigh),
    /// The process has to end: the state would differ from the other members'.
    #[error("entry {} cannot be applied: {problem}", .at.index.0)]
    Entry { at: EntryId, problem: String },
    #[error("stopped before it was ready")]
    Interrupted,
}

/// What an entry asks for.
#[derive(Debug)]
enum Work {
    /// A term's first entry.
    Nothing,
    Group(Group),
    Change(MemberChange),
}

/// An entry, taken apart.
#[derive(Debug)]
struct Step {
    at: EntryId,
    bytes: usize,
    work: Work,
}

type Batch = Vec<Result<Step, ReplayError>>;

/// The requests of a batch that was applied.
type Spent = Vec<Vec<Request>>;

/// The side of the thread that reads the log.
#[derive(Debug)]
pub(super) struct Feeder {
    batches: Sender<Batch>,
    spent: Receiver<Spent>,
    batch: Batch,
    batch_bytes: usize,
    replay: Replay,
    /// Nobody takes any more, or there is something that nobody can take.
    has_ended: bool,
}

/// The side of the thread that applies.
#[derive(Debug)]
pub(super) struct Applier {
    batches: Receiver<Batch>,
    spent: Sender<Spent>,
}

/// Both sides, for entries behind `checkpoint`.
pub(super) fn begin(checkpoint: &CheckpointMeta) -> (Feeder, Applier) {
    let (batch_sender, batches) = channel::bounded(BATCHES_MAX);
    // No batch waits to go back in front of one that waits to be applied.
    let (spent_sender, spent) = channel::bounded(BATCHES_MAX + 2);
    let feeder = Feeder {
        batches: batch_sender,
        spent,
        batch: Vec::new(),
        batch_bytes: 0,
        replay: Replay::new(checkpoint),
        has_ended: false,
    };
    (feeder, Applier { batches, spent: spent_sender })
}

impl Feeder {
    /// The next committed entry.
    pub(super) fn take(&mut self, entry: wal::Entry) {
        if self.has_ended {
            return;
        }
        self.batch_bytes += entry.data.len();
        let step = self.take_apart(entry);
        self.has_ended |= step.is_err();
        self.batch.push(step);
        if BATCH_BYTES <= self.batch_bytes {
            self.send();
        }
    }

    fn take_apart(&mut self, entry: wal::Entry) -> Result<Step, ReplayError> {
        let entry = entry_from_wal(entry)?;
        self.replay.take(&entry)?;
        let at = EntryId { index: entry.index, term: entry.term };
        let bytes = entry.data.len();
        let work = take_apart(entry).map_err(|problem| ReplayError::Entry { at, problem })?;
        Ok(Step { at, bytes, work })
    }

    fn send(&mut self) {
        self.spent.try_iter().for_each(drop);
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        // Whoever applies has given up, and says why.
        self.has_ended |= self.batches.send(batch).is_err();
    }

    /// There are no more.
    pub(super) fn finish(mut self) -> Replay {
        self.send();
        self.replay
    }
}

/// What was applied.
#[derive(Debug, Clone, Copy)]
pub(in crate::shell) struct Applied {
    pub log: LogSince,
    /// Without the time that the reading of the log took longer.
    pub took: Duration,
}

impl Applier {
    /// Applies what comes until there is no more. `is_interrupted` is asked now and then.
    pub(super) fn apply_all(
        self,
        machine: &mut Machine,
        level_max: FormatLevel,
        memory: &mut Option<MemorySupply>,
        is_interrupted: &dyn Fn() -> bool,
        mut on_progress: impl FnMut(&LogSince),
    ) -> Result<Applied, ReplayError> {
        let (mut log, mut took, mut told) = (LogSince::default(), Duration::ZERO, Instant::now());
        for batch in self.batches {
            let (began, mut spent) = (Instant::now(), Vec::with_capacity(batch.len()));
            for step in batch {
                let Step { at, bytes, work } = step?;
                log.entries += 1;
                log.bytes += bytes as u64;
                let requests = apply(machine, at, work);
                log.requests += requests.len() as u64;
                spent.push(requests);
                check_format_level(machine.format_level(), level_max)?;
                if let Some(memory) = memory {
                    memory.refill(machine);
                }
            }
            // Where there is no room they go here.
            drop(self.spent.try_send(spent));
            if machine.store().is_compacting() {
                machine.work_slice(COMPACTION_STEPS);
            }
            took += began.elapsed();
            if is_interrupted() {
                return Err(ReplayError::Interrupted);
            }
            if PERIOD <= told.elapsed() {
                told = Instant::now();
                on_progress(&log);
            }
        }
        Ok(Applied { log, took })
    }
}

fn take_apart(entry: Entry) -> Result<Work, String> {
    Ok(match entry.kind {
        EntryKind::Normal if entry.data.is_empty() => Work::Nothing,
        EntryKind::Normal => Work::Group(decode_group(entry.data).map_err(|error| error.to_string())?),
        EntryKind::ConfChange => {
            Work::Change(MemberChange::decode(entry.data).map_err(|error| error.to_string())?)
        }
    })
}

/// Applies an entry for which nobody waits.
///
/// # Errors
/// What is wrong with it.
pub(super) fn apply_entry(machine: &mut Machine, entry: Entry) -> Result<(), String> {
    let at = EntryId { index: entry.index, term: entry.term };
    drop(apply(machine, at, take_apart(entry)?));
    Ok(())
}

/// Returns the requests.
fn apply(machine: &mut Machine, at: EntryId, work: Work) -> Vec<Request> {
    match work {
        Work::Nothing => Vec::new(),
        Work::Group(group) => {
            let requests = machine.admit(group);
            let mut touched = 0;
            for (place, request) in requests.iter().enumerate() {
                if touched == 0 {
                    touched = machine.touch_ahead(&requests[place..]);
                }
                touched -= 1;
                // Whoever asked is gone.
                drop(machine.apply(request, at));
            }
            // The clocks of leases and nodes start from the state as a whole.
            drop(machine.take_lease_changes());
            drop(machine.take_deadline_changes());
            requests
        }
        Work::Change(change) => {
            let outcome = machine.change_members(&change);
            tracing::info!(index = at.index.0, kind = ?change.kind, refused = outcome.is_err(), "membership change");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::membership::Cluster;
    use crate::mvcc::Store;
    use crate::pb::etcdserverpb as pb;
    use crate::pb::peer;
    use crate::request::group::{encode_group, encode_unnamed};
    use crate::request::{GroupId, Origin, RequestKind};
    use crate::types::{LogIndex, MemberId, Term, Ticket};

    const OWN: MemberId = MemberId(1);

    fn machine() -> Machine {
        Machine::new(Store::new(), Cluster::bootstrap([["http://127.0.0.1:1".to_owned()].as_slice()], "t"))
    }

    fn entry(index: u64, data: Bytes) -> wal::Entry {
        wal::Entry { index, term: 2, kind: EntryKind::Normal.number(), data }
    }

    fn request(kind: RequestKind, body: &impl prost::Message) -> Request {
        let origin = Origin { member: OWN, ticket: Ticket(0) };
        Request { origin, kind, body: body.encode_to_vec().into(), login: None }
    }

    fn put(number: u64) -> Request {
        let (key, value) = (format!("key {}", number % 700).into(), vec![7; 200].into());
        request(RequestKind::Put, &pb::PutRequest { key, value, lease: 0, ..Default::default() })
    }

    /// Entries from the second on, some of them empty, copies, deletions or compactions.
    fn log(count: u64) -> Vec<wal::Entry> {
        let mut entries = Vec::new();
        for index in 2..count + 2 {
            let id = GroupId { member: OWN, incarnation: 1, number: index - index % 7 / 6 };
            let mut requests: Vec<Request> = (0..index % 30).map(|n| put(index * 11 + n)).collect();
            if index.is_multiple_of(13) {
                let (key, range_end) = ("key 1".into(), "key 2".into());
                let delete = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
                requests.push(request(RequestKind::DeleteRange, &delete));
            }
            if index.is_multiple_of(50) {
                let revision = i64::try_from(index).unwrap();
                let compaction = pb::CompactionRequest { revision, physical: false };
                requests.push(request(RequestKind::Compact, &compaction));
            }
            let grant = pb::LeaseGrantRequest { ttl: 60, id: i64::try_from(index).unwrap() };
            requests.push(request(RequestKind::LeaseGrant, &grant));
            let data = if index % 31 == 0 { Bytes::new() } else { encode_group(id, &requests) };
            entries.push(entry(index, data));
        }
        entries
    }

    fn state(machine: &mut Machine) -> Vec<u8> {
        while !machine.work_slice(1_000) {}
        let (mut checkpoint, mut bytes) = (machine.begin_checkpoint(), Vec::new());
        while !machine.checkpoint_slice(&mut checkpoint, 1 << 20, &mut bytes) {}
        machine.end_checkpoint(checkpoint);
        bytes
    }

    /// Replays on two threads.
    fn replay(
        entries: Vec<wal::Entry>,
        machine: &mut Machine,
        is_interrupted: bool,
    ) -> (Result<Applied, ReplayError>, Replay) {
        let (mut feeder, applier) = begin(&CheckpointMeta::bootstrap([OWN]));
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                entries.into_iter().for_each(|entry| feeder.take(entry));
                feeder.finish()
            });
            let level_max = FormatLevel(1);
            let applied = applier.apply_all(machine, level_max, &mut None, &|| is_interrupted, |_| {});
            (applied, reader.join().unwrap())
        })
    }

    #[test]
    fn a_log_that_is_applied_as_it_is_read_leaves_the_state_that_entry_by_entry_leaves() {
        let entries = log(3_000);
        let mut expected = machine();
        for entry in entries.clone() {
            apply_entry(&mut expected, entry_from_wal(entry).unwrap()).unwrap();
        }
        let mut machine = machine();
        let (applied, replay) = replay(entries.clone(), &mut machine, false);
        assert_eq!(state(&mut machine), state(&mut expected));
        assert_eq!(machine.take_lease_changes().len(), 0, "clocks start from the state");
        let log = applied.unwrap().log;
        assert_eq!((log.entries, replay.last()), (3_000, (LogIndex(3_001), Term(2))));
        assert_eq!(log.bytes, entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>());
        assert!(BATCH_BYTES as u64 * (BATCHES_MAX as u64 + 2) < log.bytes, "more than fits at once");
    }

    #[test]
    fn what_cannot_be_applied_ends_the_replay_there_and_not_the_reading_of_the_log() {
        let mut entries = log(3_000);
        entries[10].data = Bytes::from_static(b"\xff");
        let (applied, taken) = replay(entries.clone(), &mut machine(), false);
        let Err(ReplayError::Entry { at, .. }) = applied else { panic!("{applied:?}") };
        assert_eq!((at.index, taken.last().0), (LogIndex(12), LogIndex(12)));
        entries[10].kind = 99;
        let (applied, _) = replay(entries.clone(), &mut machine(), false);
        assert!(matches!(applied, Err(ReplayError::Kind(_))));
        entries.remove(10);
        let (applied, _) = replay(entries, &mut machine(), false);
        assert!(matches!(applied, Err(ReplayError::Log(StartError::Gap { .. }))));
    }

    #[test]
    fn a_format_level_that_this_member_may_not_read_ends_the_replay_before_what_it_brings() {
        let raise = |level| {
            let body = peer::FormatLevel { level }.encode_to_vec();
            encode_unnamed(RequestKind::FormatLevel, body.into())
        };
        let entries = vec![entry(2, raise(1)), entry(3, raise(2)), entry(4, Bytes::from_static(b"new"))];
        let mut machine = machine();
        let (applied, _) = replay(entries, &mut machine, false);
        assert!(matches!(applied, Err(ReplayError::FormatLevel(_))), "{applied:?}");
    }

    #[test]
    fn a_replay_that_is_told_to_stop_does_and_the_reader_is_not_left_waiting() {
        let (applied, _) = replay(log(3_000), &mut machine(), true);
        assert!(matches!(applied, Err(ReplayError::Interrupted)));
    }
}
