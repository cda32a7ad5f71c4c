//! Opening a log: which segments are needed, what they say, and how that meets the checkpoint.
//!
//! Reads only; `Wal::open` then zeroes the torn tail and syncs. Segments that the checkpoint covers
//! whole are not read past their first group: damage there harms nobody (their files go).

use crate::Identity;
use crate::error::{Note, WalError};
use crate::record::{Entry, Point};
use crate::scan::{Damage, Fault, HandOut, Scan, Scanned, first_group_bytes, start_of};
use crate::sector::SECTOR_BYTES;
use crate::segment::{DATA_OFFSET, SegmentSeq};
use crate::storage::Storage;

/// A log as found beside its checkpoint.
pub(crate) struct Found {
    pub(crate) scanned: Scanned,
    /// Segments the checkpoint makes superfluous.
    pub(crate) covered: Vec<SegmentSeq>,
    pub(crate) notes: Vec<Note>,
    /// The log must restart here: none of its entries count.
    pub(crate) reset: Option<Point>,
    pub(crate) segment_bytes: u32,
}

/// Reads the log behind `after`. What the log says is committed goes to `take` on the way, if there is one.
pub(crate) fn read<F: FnMut(Entry)>(
    storage: &mut impl Storage,
    identity: Identity,
    after: Point,
    take: Option<F>,
) -> Result<Found, WalError> {
    let found = storage.segments().map_err(WalError::io("listing the log's segments"))?;
    let oldest = *found.first().ok_or(WalError::Missing)?;
    check_gapless(storage, &found)?;
    let first = first_needed(storage, identity, &found, after.index)?;
    let hand_out = take.map(|take| HandOut { after, take });
    let scanned = scan_from(storage, identity, &found[first..], hand_out)?;
    if after.index < scanned.covered_min {
        let file = storage.locate(oldest);
        return Err(WalError::Hole { file, base: scanned.covered_min, after: after.index });
    }
    let last = scanned.last();
    if let Some(state) = scanned.hard_state
        && last.index.max(after.index) < state.commit
    {
        return Err(WalError::Corrupt {
            file: storage.locate(scanned.tail.seq),
            offset: u64::from(scanned.tail.sector) * SECTOR_BYTES as u64,
            index: last.index + 1,
            reason: format!("the log ends at index {}, but {} was committed", last.index, state.commit),
        });
    }
    let mut notes = notes_of(storage, &scanned);
    let reset = reconcile(&scanned, after, &mut notes);
    let segment_bytes = scanned.segments.last().expect("a scan that succeeds saw a segment").segment_bytes;
    Ok(Found { scanned, covered: found[..first].to_vec(), notes, reset, segment_bytes })
}

fn check_gapless(storage: &impl Storage, found: &[SegmentSeq]) -> Result<(), WalError> {
    for pair in found.windows(2) {
        let expected = pair[0].next();
        if pair[1] != expected {
            let reason = format!("the segment is missing, though {} exists", storage.locate(pair[1]));
            return Err(WalError::Corrupt { file: storage.locate(expected), offset: 0, index: 0, reason });
        }
    }
    Ok(())
}

/// The latest segment from which on the log holds everything behind `after`. None says so: the first.
fn first_needed(
    storage: &mut impl Storage,
    identity: Identity,
    found: &[SegmentSeq],
    after: u64,
) -> Result<usize, WalError> {
    for (place, seq) in found.iter().enumerate().rev() {
        let read = WalError::io("reading a log segment's first group");
        let head = storage.read(*seq, 0, DATA_OFFSET + SECTOR_BYTES).map_err(read)?;
        let Some(sector) = head.get(DATA_OFFSET..DATA_OFFSET + SECTOR_BYTES) else { continue };
        let Some(bytes) = first_group_bytes(identity, *seq, sector) else { continue };
        let size = storage.size(*seq).map_err(WalError::io("reading a log segment's size"))?;
        if size < bytes {
            continue;
        }
        let length = usize::try_from(bytes).expect("no longer than a file");
        let head =
            storage.read(*seq, 0, length).map_err(WalError::io("reading a log segment's first group"))?;
        if (head.len() as u64) < bytes {
            continue;
        }
        if start_of(identity, *seq, &head).is_some_and(|start| start.index <= after) {
            return Ok(place);
        }
    }
    Ok(0)
}

fn scan_from<F: FnMut(Entry)>(
    storage: &mut impl Storage,
    identity: Identity,
    found: &[SegmentSeq],
    mut hand_out: Option<HandOut<F>>,
) -> Result<Scanned, WalError> {
    let mut scan = Scan::new(identity);
    for (place, seq) in found.iter().enumerate() {
        let size = storage.size(*seq).map_err(WalError::io("reading a log segment's size"))?;
        let length = usize::try_from(size).unwrap_or(usize::MAX).min(READ_BYTES_MAX);
        // All are of one length, or refused for it.
        let next = found.get(place + 1).copied();
        let image = storage.read_whole(*seq, length, next).map_err(WalError::io("reading a log segment"))?;
        let taken = scan.segment_handing_out(*seq, image, &mut hand_out);
        taken.map_err(|damage| refuse(storage, identity, damage))?;
    }
    scan.finish().map_err(|damage| refuse(storage, identity, damage))
}

/// A file longer than any segment is read one page past the limit: enough to be refused.
const READ_BYTES_MAX: usize = crate::segment::SEGMENT_BYTES_MAX as usize + crate::segment::PAGE_BYTES;

fn refuse(storage: &impl Storage, expected: Identity, damage: Damage) -> WalError {
    let file = storage.locate(damage.seq);
    match damage.fault {
        Fault::Bytes(reason) => {
            WalError::Corrupt { file, offset: damage.offset, index: damage.index, reason: reason.to_owned() }
        }
        Fault::Version(found) => WalError::Version { file, found },
        Fault::Identity(found) => WalError::Identity { file, found, expected },
    }
}

fn notes_of(storage: &impl Storage, scanned: &Scanned) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(torn) = scanned.torn {
        notes.push(Note::TornTail {
            file: storage.locate(torn.at.seq),
            offset: u64::from(torn.at.sector) * SECTOR_BYTES as u64,
            bytes: u64::from(torn.sectors) * SECTOR_BYTES as u64,
            after: scanned.last().index,
        });
    }
    if scanned.mark_damaged {
        notes.push(Note::MarkDamaged { file: storage.locate(scanned.tail.seq) });
    }
    notes
}

/// The checkpoint is newer than what it overlaps of the log: where they differ, the log gives way.
fn reconcile(scanned: &Scanned, after: Point, notes: &mut Vec<Note>) -> Option<Point> {
    let last = scanned.last();
    if last.index < after.index {
        notes.push(Note::BehindCheckpoint { last: last.index, after: after.index });
        return Some(after);
    }
    if scanned.handed_out.is_some() {
        // They were found alike before anything behind was handed out.
        return None;
    }
    let log_term = if after.index == scanned.base.index {
        scanned.base.term
    } else {
        let place = usize::try_from(after.index - scanned.base.index - 1).expect("no more than entries held");
        scanned.entries[place].term
    };
    if log_term != after.term {
        notes.push(Note::Overruled { after: after.index, log_term, checkpoint_term: after.term });
        return Some(after);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;
    use crate::record::{Group, HardState};
    use crate::sector::Writing;
    use crate::segment::{DATA_SECTOR, SEGMENT_BYTES_MIN};
    use crate::storage::empty_head;
    use std::collections::BTreeMap;

    const IDENTITY: Identity = Identity { cluster_id: 1, member_id: 2 };

    /// A log of one segment with one group, and where that group ends.
    fn log_of(seq: SegmentSeq, group: &Group<'_>) -> (Vec<u8>, usize) {
        let mut image = empty_head(IDENTITY, seq, SEGMENT_BYTES_MIN);
        image.resize(SEGMENT_BYTES_MIN as usize, 0);
        let end = DATA_OFFSET + group.sectors() as usize * SECTOR_BYTES;
        let writing = Writing::new(IDENTITY, seq);
        group.encode(writing, DATA_SECTOR, DATA_SECTOR, 1, 0, &mut image[DATA_OFFSET..end]);
        (image, end)
    }

    fn read_image(seq: SegmentSeq, image: Vec<u8>, after: Point) -> Result<Found, WalError> {
        let files = BTreeMap::from([(seq.file_name(), image)]);
        read(&mut MemoryStorage::from_files(SEGMENT_BYTES_MIN, files), IDENTITY, after, None::<fn(Entry)>)
    }

    #[test]
    fn a_log_that_ends_before_its_own_commit_index_is_refused() {
        let seq = SegmentSeq(1);
        let commit = HardState { term: 1, vote: 0, commit: 7 };
        let group = Group { start: Some(Point::default()), hard_state: Some(commit), ..Group::default() };
        let (image, _) = log_of(seq, &group);
        let Err(error) = read_image(seq, image.clone(), Point::default()) else { panic!("accepted") };
        assert!(matches!(error, WalError::Corrupt { index: 1, .. }), "{error}");
        assert!(error.to_string().contains("7 was committed"), "{error}");
        assert!(read_image(seq, image, Point { index: 7, term: 1 }).is_ok());
    }

    #[test]
    fn damage_behind_the_highest_possible_index_is_refused_not_a_panic() {
        let (seq, start) = (SegmentSeq(1), Point { index: u64::MAX, term: 1 });
        let (mut image, end) = log_of(seq, &Group { start: Some(start), ..Group::default() });
        image[end] = 1;
        let Err(error) = read_image(seq, image, start) else { panic!("accepted") };
        assert!(matches!(error, WalError::Corrupt { index: u64::MAX, .. }), "{error}");
    }

    #[test]
    fn a_log_in_the_last_possible_segment_is_refused_not_a_panic() {
        let group = Group { start: Some(Point::default()), ..Group::default() };
        let last = SegmentSeq(u32::MAX);
        let Err(error) = read_image(last, log_of(last, &group).0, Point::default()) else {
            panic!("accepted, and no segment can follow");
        };
        assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
        let before = SegmentSeq(u32::MAX - 1);
        assert!(read_image(before, log_of(before, &group).0, Point::default()).is_ok());
    }

    /// A log of one segment with these groups.
    fn log_of_groups(seq: SegmentSeq, groups: &[Group<'_>]) -> Vec<u8> {
        let mut image = empty_head(IDENTITY, seq, SEGMENT_BYTES_MIN);
        image.resize(SEGMENT_BYTES_MIN as usize, 0);
        let (mut sector, mut sum) = (DATA_SECTOR, 0);
        for (number, group) in (1..).zip(groups) {
            let from = sector as usize * SECTOR_BYTES;
            let to = from + group.sectors() as usize * SECTOR_BYTES;
            let writing = Writing::new(IDENTITY, seq);
            sum = group.encode(writing, sector, DATA_SECTOR, number, sum, &mut image[from..to]);
            sector += group.sectors();
        }
        image
    }

    #[test]
    fn what_was_handed_out_as_committed_is_not_replaced_by_any_bytes() {
        let entry = |index, term| Entry { index, term, kind: 0, data: bytes::Bytes::from_static(b"x") };
        let (first, again, next) = ([entry(1, 1), entry(2, 1)], [entry(2, 2)], [entry(3, 2)]);
        let commit = |commit| Some(HardState { term: 1, vote: 0, commit });
        let head = Group { start: Some(Point::default()), entries: &first, ..Group::default() };
        let reset = Some(Point { index: 1, term: 1 });
        for (committed, last, is_damage) in [
            (1, Group { entries: &again, ..Group::default() }, false),
            (2, Group { entries: &again, ..Group::default() }, true),
            (2, Group { entries: &next, ..Group::default() }, false),
            (2, Group { reset, entries: &again, ..Group::default() }, true),
            (2, Group { reset, ..Group::default() }, true),
        ] {
            let groups = [Group { hard_state: commit(committed), ..head }, last];
            let files = BTreeMap::from([(SegmentSeq(1).file_name(), log_of_groups(SegmentSeq(1), &groups))]);
            let mut storage = MemoryStorage::from_files(SEGMENT_BYTES_MIN, files);
            let mut taken = Vec::new();
            let take = |entry: Entry| taken.push(entry.index);
            let found = read(&mut storage, IDENTITY, Point::default(), Some(take));
            assert_eq!(taken, (1..=committed).collect::<Vec<_>>());
            match found {
                Ok(_) => assert!(!is_damage, "committed {committed}"),
                Err(error) => {
                    assert!(is_damage && matches!(error, WalError::Corrupt { .. }), "{error}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_handed_out_of_a_log_that_has_another_entry_than_the_checkpoint() {
        let entries = [1, 2, 3].map(|index| Entry { index, term: 1, kind: 0, data: bytes::Bytes::new() });
        let state = Some(HardState { term: 1, vote: 0, commit: 3 });
        let start = Some(Point::default());
        let groups = [Group { start, hard_state: state, entries: &entries, ..Group::default() }];
        let image = log_of_groups(SegmentSeq(1), &groups);
        for (after, expected) in [((1, 1), vec![2, 3]), ((1, 7), vec![]), ((3, 1), vec![]), ((9, 1), vec![])]
        {
            let files = BTreeMap::from([(SegmentSeq(1).file_name(), image.clone())]);
            let mut storage = MemoryStorage::from_files(SEGMENT_BYTES_MIN, files);
            let mut taken = Vec::new();
            let take = |entry: Entry| taken.push(entry.index);
            let found = read(&mut storage, IDENTITY, Point { index: after.0, term: after.1 }, Some(take));
            let Ok(found) = found else { panic!("refused behind {after:?}") };
            assert_eq!(taken, expected, "behind {after:?}");
            assert_eq!(found.reset.is_some(), after.1 == 7 || after.0 == 9);
        }
    }
}
