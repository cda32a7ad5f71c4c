//! Recovery of the log: any bytes give an answer or an error, and nothing durable goes missing in silence.
//!
//! Claims. For any files, content under valid checksums included: `Wal::open` answers, holding no
//! more than a multiple of the files; what it opens has contiguous entries behind the checkpoint, and
//! opens again to the same. For a log whose every group was acknowledged and which was damaged since:
//! it is refused, or it is whole, or what is missing is the documented undecidable case (the log's
//! end became blank and nothing that survives says that it was there). For a log under work: after a
//! power cut it opens with all that was acknowledged, and nothing by half.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use bytes::Bytes;
use pinion_wal::memory::{Fate, MemoryStorage};
use pinion_wal::sector::{PAYLOAD_BYTES, SECTOR_BYTES, Sector, Stamp, Writing};
use pinion_wal::segment::{DATA_SECTOR, SegmentSeq, read_mark};
use pinion_wal::{Entry, HardState, Recovered, Wal, WalError};

use crate::wal_image::{IDENTITY, Image, RawRecord, SEGMENT_BYTES};
use crate::{below, bytes, memory, one_in};

type Files = BTreeMap<String, Vec<u8>>;
type Log = Wal<MemoryStorage>;

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut input = Unstructured::new(rest);
    match mode % 8 {
        0 => hostile(raw_files(&mut input), &mut input),
        1 | 2 => hostile(sealed_files(&mut input), &mut input),
        3..=5 => damaged(&mut input),
        _ => power_cuts(&mut input),
    }
}

fn open(files: Files, after: (u64, u64)) -> Result<(Log, Recovered), WalError> {
    // The files are held twice (durable, current), then once more as an image, as groups and as
    // entries; and a next segment is made.
    let bytes: usize = files.values().map(Vec::len).sum();
    let storage = MemoryStorage::from_files(SEGMENT_BYTES, files);
    memory::bounded(6 * bytes + 8 * SEGMENT_BYTES as usize, || Wal::open(storage, IDENTITY, after.0, after.1))
}

/// A log position: the ends of the range are where arithmetic breaks.
fn position(input: &mut Unstructured<'_>) -> u64 {
    match below(input, 8) {
        0..=5 => below(input, 12) as u64,
        6 => u64::MAX - below(input, 3) as u64,
        _ => input.arbitrary().unwrap_or(0),
    }
}

fn seq(input: &mut Unstructured<'_>) -> u32 {
    match below(input, 8) {
        7 => u32::MAX - u32::try_from(below(input, 3)).unwrap_or(0),
        number => u32::try_from(number).unwrap_or(0) + 1,
    }
}

fn raw_files(input: &mut Unstructured<'_>) -> Files {
    let mut files = Files::new();
    for _ in 0..=below(input, 3) {
        let name = match below(input, 6) {
            4 => "wal-1.tmp".to_owned(),
            5 => String::from_utf8_lossy(bytes(input, 12)).into_owned(),
            _ => SegmentSeq(seq(input)).file_name(),
        };
        let mut content = if one_in(input, 2) { Image::new(SegmentSeq(1)).bytes } else { Vec::new() };
        content.extend_from_slice(bytes(input, 2_000));
        files.insert(name, content);
    }
    files
}

/// Segments with true headers and stamps around whatever the input says.
fn sealed_files(input: &mut Unstructured<'_>) -> Files {
    let mut files = Files::new();
    let mut name = SegmentSeq(seq(input));
    let (mut number, mut sum) = (1_u64 + u64::from(one_in(input, 6)), 0_u32);
    let (mut index, mut term) = (position(input), 1);
    for _ in 0..=below(input, 3) {
        let mut image = Image::new(name);
        let mut is_first = true;
        for _ in 0..below(input, 8) {
            let mut records = Vec::new();
            for place in 0..=below(input, 4) {
                let opens = is_first && place == 0 && !one_in(input, 12);
                let record = raw_record(input, opens, &mut index, &mut term, name);
                record.put(&mut records);
            }
            is_first = false;
            let length_error = if one_in(input, 20) { input.arbitrary().unwrap_or(0) } else { 0 };
            if one_in(input, 20) {
                records = bytes(input, 100).to_vec();
            }
            if !image.fits(records.len()) {
                break;
            }
            let is_cut = records.first() == Some(&5);
            let group_sum = image.group(number, sum, &records, length_error);
            if one_in(input, 4) {
                image.durable = image.sector;
            }
            if is_cut {
                break;
            }
            number = if one_in(input, 30) { u64::MAX } else { number.wrapping_add(1) };
            sum = if one_in(input, 30) { 7 } else { group_sum };
        }
        while one_in(input, 6) && image.fits(0) {
            let (durable, left) = (input.arbitrary().unwrap_or(0), input.arbitrary::<u32>().unwrap_or(0));
            let stamp = Stamp { durable, first: one_in(input, 2), left: left & 0x7fff_ffff };
            image.seal(stamp, &[0; PAYLOAD_BYTES]);
        }
        if one_in(input, 8) {
            damage_one(input, &mut image.bytes);
        }
        files.insert(name.file_name(), image.bytes);
        let Some(next) = name.0.checked_add(1) else { break };
        name = SegmentSeq(next);
    }
    files
}

fn raw_record(
    input: &mut Unstructured<'_>,
    opens: bool,
    index: &mut u64,
    term: &mut u64,
    seq: SegmentSeq,
) -> RawRecord {
    let mut record =
        RawRecord { record_type: 4, kind: 0, index: *index, term: *term, data: Vec::new(), length_error: 0 };
    match if opens { 0 } else { below(input, 12) } {
        0 if opens => record.record_type = 1,
        0..=4 => {
            *index = index.wrapping_add(1);
            (record.index, record.kind) = (*index, u8::try_from(below(input, 3)).unwrap_or(0));
            record.data = vec![7; below(input, 300)];
        }
        5 => {
            (record.record_type, record.data) = (2, vec![1; 8]);
            record.index = index.saturating_sub(below(input, 3) as u64);
        }
        6 => {
            *index = position(input);
            (record.record_type, record.index) = (3, *index);
        }
        7 => {
            *index = position(input);
            record.index = *index;
        }
        8 | 9 => {
            (record.record_type, record.term) = (5, 0);
            record.index = u64::from(seq.0) + 1 + u64::from(one_in(input, 8));
        }
        10 => *term = position(input),
        _ => {
            record.record_type = input.arbitrary().unwrap_or(0);
            record.index = position(input);
            record.length_error = input.arbitrary().unwrap_or(0);
            record.data = bytes(input, 40).to_vec();
        }
    }
    record
}

fn hostile(files: Files, input: &mut Unstructured<'_>) {
    let after = (position(input), position(input));
    let Ok((wal, recovered)) = open(files, after) else { return };
    for (entry, index) in recovered.entries.iter().zip(after.0..) {
        assert_eq!(entry.index, index + 1, "entries are not contiguous behind the checkpoint");
    }
    let disk = wal.into_storage().process_killed();
    let again = Wal::open(disk, IDENTITY, after.0, after.1);
    let (_, again) = again.expect("what was opened opens again");
    assert_eq!((again.hard_state, again.entries), (recovered.hard_state, recovered.entries));
}

/// What the log must hold: the obvious way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model {
    /// `entries[0]` has index 1.
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
}

impl Model {
    fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.truncate(usize::try_from(first.index - 1).expect("short"));
            self.entries.extend_from_slice(entries);
        }
        self.hard_state = hard_state.or(self.hard_state);
    }

    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        let place = index.checked_sub(1).map(|place| usize::try_from(place).expect("short"));
        place.map_or(Some(0), |place| self.entries.get(place).map(|entry| entry.term))
    }

    /// What opening beside a checkpoint at `after` answers. A log that ends before the checkpoint,
    /// or disagrees with it, gives way to it.
    fn beside(&self, after: (u64, u64)) -> (Option<HardState>, Vec<Entry>) {
        let agrees = self.term_at(after.0) == Some(after.1);
        let from = usize::try_from(after.0).expect("short");
        (self.hard_state, if agrees { self.entries[from..].to_vec() } else { Vec::new() })
    }

    fn commit(&self) -> u64 {
        self.hard_state.map_or(0, |state| state.commit)
    }
}

/// A group that a raft member could write: mostly appends, now and then a replaced suffix.
fn group(input: &mut Unstructured<'_>, model: &Model) -> (Option<HardState>, Vec<Entry>) {
    let before = model.hard_state.unwrap_or_default();
    let replaces = before.commit < model.last() && one_in(input, 5);
    let (first, term) = if replaces {
        let span = usize::try_from(model.last() - before.commit).expect("short");
        (before.commit + 1 + below(input, span) as u64, before.term + 1)
    } else {
        (model.last() + 1, before.term.max(1))
    };
    let count = if replaces { 1 + below(input, 2) } else { below(input, 3) };
    let entries: Vec<Entry> = (first..)
        .take(count)
        .map(|index| {
            let fill = u8::try_from((index * 31 + term * 7) % 251).expect("below 251");
            let length = if one_in(input, 4) { below(input, 2_500) } else { below(input, 500) };
            let kind = u8::try_from(index % 3).expect("below 3");
            Entry { index, term, kind, data: Bytes::from(vec![fill; length]) }
        })
        .collect();
    let last = entries.last().map_or(model.last(), |entry| entry.index);
    let commit_max = if replaces { first - 1 } else { last };
    let says_state = entries.is_empty() || replaces || one_in(input, 3);
    let hard_state = says_state.then(|| {
        let span = usize::try_from(commit_max.saturating_sub(before.commit)).expect("short");
        HardState { term, vote: term % 3, commit: before.commit + below(input, span + 1) as u64 }
    });
    (hard_state, entries)
}

/// A group where it lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    seq: SegmentSeq,
    sector: u32,
    sectors: u32,
    /// Closes its segment: part of no append.
    is_cut: bool,
}

/// A log whose every group was synced, and all that was known of it.
struct Acknowledged {
    files: Files,
    /// `states[n]`: after n appends.
    states: Vec<Model>,
    /// In order; the first is the log's beginning.
    groups: Vec<Place>,
}

impl Acknowledged {
    fn build(input: &mut Unstructured<'_>) -> Self {
        let storage = MemoryStorage::new(SEGMENT_BYTES);
        let mut wal = Wal::create(storage, IDENTITY, 0, 0).expect("a new log");
        let mut states = vec![Model::default()];
        for _ in 0..=below(input, 12) {
            let mut model = states.last().expect("never empty").clone();
            let (hard_state, entries) = group(input, &model);
            wal.append(hard_state, &entries).expect("the disk is well");
            wal.sync().expect("the disk is well");
            model.append(hard_state, &entries);
            states.push(model);
            if one_in(input, 8) {
                wal.mark().expect("the disk is well");
            }
        }
        if one_in(input, 2) {
            wal.mark().expect("the disk is well");
        }
        let files = wal.into_storage().files();
        let groups = places(&files);
        let appends = groups.iter().skip(1).filter(|place| !place.is_cut).count();
        assert_eq!(appends, states.len() - 1, "this module misreads the log: {groups:?}");
        Self { files, states, groups }
    }

    /// Whether what is left of the log cannot tell that the group at `place` ever was: a sector of
    /// it is blank, and nothing unharmed behind it vouches for it.
    fn is_undecidable(&self, damaged: &Files, place: Place) -> bool {
        let name = place.seq.file_name();
        let Some(image) = damaged.get(&name).filter(|image| image.len() == SEGMENT_BYTES as usize) else {
            return false;
        };
        let writing = Writing::new(IDENTITY, place.seq);
        let has_blank = (place.sector..place.sector + place.sectors)
            .any(|sector| writing.classify(sector, sector_of(image, sector)) == Sector::Blank);
        has_blank && !self.is_vouched_for(damaged, place)
    }

    fn is_vouched_for(&self, damaged: &Files, place: Place) -> bool {
        self.files.iter().any(|(name, original)| {
            let Some(seq) = SegmentSeq::parse(name).filter(|seq| place.seq <= *seq) else { return false };
            let Some(image) = damaged.get(name).filter(|image| image.len() == original.len()) else {
                return false;
            };
            let writing = Writing::new(IDENTITY, seq);
            let sectors = u32::try_from(original.len() / SECTOR_BYTES).expect("short");
            let mark = DATA_SECTOR / 2;
            (DATA_SECTOR..sectors).chain([mark]).any(|sector| {
                let bytes = sector_of(original, sector);
                let says = match writing.classify(sector, bytes) {
                    Sector::Written(stamp) if seq == place.seq => place.sector < stamp.durable,
                    Sector::Written(_) => true,
                    Sector::Blank | Sector::Damaged => false,
                };
                says && sector_of(image, sector) == bytes
            })
        })
    }
}

fn sector_of(image: &[u8], sector: u32) -> &[u8] {
    let at = sector as usize * SECTOR_BYTES;
    &image[at..at + SECTOR_BYTES]
}

/// The groups of an unharmed log.
fn places(files: &Files) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for (name, image) in files {
        let Some(seq) = SegmentSeq::parse(name) else { continue };
        let writing = Writing::new(IDENTITY, seq);
        assert_ne!(read_mark(writing, image), Sector::Damaged);
        let sectors = u32::try_from(image.len() / SECTOR_BYTES).expect("short");
        for sector in DATA_SECTOR..sectors {
            match writing.classify(sector, sector_of(image, sector)) {
                Sector::Written(stamp) if stamp.first => {
                    if let Some(last) = places.last_mut().filter(|last| last.seq < seq) {
                        last.is_cut = true;
                    }
                    places.push(Place { seq, sector, sectors: stamp.left + 1, is_cut: false });
                }
                Sector::Written(_) | Sector::Blank => {}
                Sector::Damaged => panic!("{name}: sector {sector} of an unharmed log"),
            }
        }
    }
    places
}

fn damaged(input: &mut Unstructured<'_>) {
    let log = Acknowledged::build(input);
    let whole = log.states.last().expect("never empty");
    // A checkpoint covers what is committed.
    let covered = below(input, usize::try_from(whole.commit()).expect("short") + 1) as u64;
    let after = (covered, whole.term_at(covered).expect("committed entries are there"));

    let (_, recovered) = open(log.files.clone(), after).expect("an unharmed log");
    assert_eq!((recovered.hard_state, recovered.entries), whole.beside(after));

    let mut files = log.files.clone();
    for _ in 0..=below(input, 5) {
        damage_files(input, &mut files, &log.groups);
    }
    let Ok((_, recovered)) = open(files.clone(), after) else { return };
    let found = (recovered.hard_state, recovered.entries);
    // Several numbers of appends may have led to the same state.
    let held: Vec<usize> = (0..log.states.len()).filter(|n| log.states[*n].beside(after) == found).collect();
    assert!(!held.is_empty(), "opened as a log that never was, beside {after:?}");
    if held.contains(&(log.states.len() - 1)) {
        return;
    }
    // Groups are lost. The log ended behind an append: at its cut, if it has one, or at the next.
    let appends = log.groups.iter().enumerate().filter(|(_, place)| !place.is_cut);
    let ends: Vec<usize> = appends.map(|(at, _)| at).collect();
    let mut lost = held.iter().flat_map(|n| &log.groups[ends[*n] + 1..=ends[n + 1]]);
    let is_undecidable = lost.any(|place| log.is_undecidable(&files, *place));
    assert!(is_undecidable, "silently lost all behind append {held:?} of {}", log.states.len() - 1);
}

/// One accident to one file, or to two.
fn damage_files(input: &mut Unstructured<'_>, files: &mut Files, groups: &[Place]) {
    let names: Vec<String> = files.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = &names[below(input, names.len())];
    match below(input, 10) {
        0..=2 => damage_one(input, files.get_mut(name).expect("a name of the list")),
        3..=5 => {
            // Sectors of a group, or from it on.
            let place = groups[below(input, groups.len())];
            let Some(image) = files.get_mut(&place.seq.file_name()) else { return };
            let from = place.sector as usize * SECTOR_BYTES + below(input, SECTOR_BYTES);
            let length = match below(input, 4) {
                0 => 1,
                1 => SECTOR_BYTES,
                2 => place.sectors as usize * SECTOR_BYTES,
                _ => usize::MAX / 2,
            };
            let from = if one_in(input, 2) { from } else { from / SECTOR_BYTES * SECTOR_BYTES };
            let fill = if one_in(input, 4) { 0xff } else { 0 };
            let end = (from + length).min(image.len());
            image.get_mut(from..end).unwrap_or_default().fill(fill);
        }
        6 => {
            // A sector of another file, at the same place: a recycled file not yet written.
            let other = files[&names[below(input, names.len())]].clone();
            let image = files.get_mut(name).expect("a name of the list");
            let at = below(input, image.len().min(other.len()) / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let end = (at + SECTOR_BYTES * (1 + below(input, 4))).min(image.len()).min(other.len());
            if at < end {
                image[at..end].copy_from_slice(&other[at..end]);
            }
        }
        7 => drop(files.remove(name)),
        8 => {
            let image = files[name].clone();
            files.insert(SegmentSeq(seq(input)).file_name(), image);
        }
        _ => {
            let image = files.get_mut(name).expect("a name of the list");
            let length = below(input, image.len() + SECTOR_BYTES);
            image.resize(length, 0);
        }
    }
}

fn damage_one(input: &mut Unstructured<'_>, image: &mut [u8]) {
    if image.is_empty() {
        return;
    }
    let at = below(input, image.len());
    let end = (at + 1 + below(input, 1_500)).min(image.len());
    match below(input, 4) {
        0 => image[at] ^= 1 << below(input, 8),
        1 => image[at..end].fill(0),
        2 => {
            let content = bytes(input, end - at);
            image[at..at + content.len()].copy_from_slice(content);
        }
        _ => {
            let from = below(input, image.len() - (end - at) + 1);
            image.copy_within(from..from + (end - at), at);
        }
    }
}

/// A log under work, and what a crash may leave of it: any of the states since the last sync.
fn power_cuts(input: &mut Unstructured<'_>) {
    const STEPS_MAX: usize = 60;
    let mut wal = Wal::create(MemoryStorage::new(SEGMENT_BYTES), IDENTITY, 0, 0).expect("a new log");
    // The first is acknowledged.
    let mut allowed = vec![Model::default()];
    let mut after = (0, 0);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match below(input, 12) {
            0..=6 => {
                let mut model = allowed.last().expect("never empty").clone();
                let (hard_state, entries) = group(input, &model);
                wal.append(hard_state, &entries).expect("the disk is well");
                model.append(hard_state, &entries);
                allowed.push(model);
            }
            7 | 8 => {
                wal.sync().expect("the disk is well");
                allowed.drain(..allowed.len() - 1);
                let commit = allowed[0].commit();
                if after.0 < commit && one_in(input, 3) {
                    let term = allowed[0].term_at(commit).expect("committed entries are there");
                    after = (commit, term);
                    wal.release(commit).expect("the disk is well");
                }
            }
            9 => wal.mark().expect("the disk is well"),
            _ => {
                let storage = wal.into_storage();
                let disk = if one_in(input, 4) {
                    storage.process_killed()
                } else {
                    storage.power_cut(&mut || match below(input, 3) {
                        0 => Fate::Kept,
                        1 => Fate::Lost,
                        _ => Fate::HalfCopied,
                    })
                };
                let opened = Wal::open(disk, IDENTITY, after.0, after.1);
                let (reopened, recovered) = opened.unwrap_or_else(|error| {
                    panic!("an honest crash was refused: {error}");
                });
                let found = (recovered.hard_state, recovered.entries);
                let held = allowed.iter().rposition(|model| model.beside(after) == found);
                let held = held.expect("recovered one of the states since the last sync");
                allowed = vec![allowed.swap_remove(held)];
                wal = reopened;
            }
        }
    }
}
