//! A model log beside a real one, and random work for both.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own and uses a part of this")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use pinion_wal::memory::{Fate, MemoryStorage};
use pinion_wal::{Entry, HardState, Identity, Note, Reading, Recovered, Storage, Wal, WalError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

pub const IDENTITY: Identity = Identity { cluster_id: 0xc1, member_id: 0x3e };

/// The smallest segment: sixteen sectors of groups, so a few groups cut.
pub const SEGMENT: u32 = 16 << 10;

pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let fill = u8::try_from((index * 31 + term * 7) % 251).unwrap();
    let data = (0..bytes).map(|at| fill.wrapping_add(u8::try_from(at % 256).unwrap())).collect::<Vec<u8>>();
    Entry { index, term, kind: u8::try_from(index % 3).unwrap(), data: Bytes::from(data) }
}

pub fn state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: term % 3, commit }
}

/// What the log must hold: the obvious way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    pub entries: Vec<Entry>, // entries[0] has index 1
    pub hard_state: Option<HardState>,
}

impl Model {
    pub fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.truncate(usize::try_from(first.index - 1).unwrap());
            self.entries.extend_from_slice(entries);
        }
        self.hard_state = hard_state.or(self.hard_state);
    }

    pub fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn term_at(&self, index: u64) -> u64 {
        if index == 0 { 0 } else { self.entries[usize::try_from(index - 1).unwrap()].term }
    }

    /// What opening beside a checkpoint at `after` answers.
    pub fn after(&self, after: u64) -> (Option<HardState>, Vec<Entry>) {
        (self.hard_state, self.entries[usize::try_from(after).unwrap()..].to_vec())
    }
}

pub fn seen(recovered: &Recovered) -> (Option<HardState>, Vec<Entry>) {
    (recovered.hard_state, recovered.entries.clone())
}

/// One random group that a raft member could write: mostly appends, now and then a replaced suffix.
pub fn random_group(rng: &mut StdRng, model: &Model, bytes_max: usize) -> (Option<HardState>, Vec<Entry>) {
    let before = model.hard_state.unwrap_or_default();
    let overwrite = model.last() > before.commit && rng.random_range(0..6) == 0;
    let (first, term) = if overwrite {
        (rng.random_range(before.commit + 1..=model.last()), before.term + 1)
    } else {
        (model.last() + 1, before.term.max(1))
    };
    let count = rng.random_range(if overwrite { 1..4 } else { 0..4 });
    let entries: Vec<Entry> =
        (0..count).map(|n| entry(first + n, term, rng.random_range(0..bytes_max))).collect();
    let last = entries.last().map_or(model.last(), |last| last.index);
    let commit_max = if overwrite { first - 1 } else { last };
    let hard_state = if entries.is_empty() || overwrite || rng.random_range(0..3) == 0 {
        Some(state(term, rng.random_range(before.commit..=commit_max.max(before.commit))))
    } else {
        None
    };
    (hard_state, entries)
}

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn dice(rng: &mut StdRng) -> impl FnMut() -> Fate {
    let lost = rng.random_range(0..=100);
    move || {
        let roll = rng.random_range(0..100);
        match (roll < lost, rng.random_range(0..8)) {
            (true, _) => Fate::Lost,
            (false, 0) => Fate::HalfCopied,
            (false, _) => Fate::Kept,
        }
    }
}

pub fn create() -> Wal<MemoryStorage> {
    Wal::create(MemoryStorage::new(SEGMENT), IDENTITY, 0, 0).expect("a new log")
}

/// Opens the log. A copy of it is read with handing out, too: it has to say the same, or refuse it alike.
pub fn open<S: Storage>(mut storage: S, after: u64, term: u64) -> Result<(Wal<S>, Recovered), WalError> {
    let copy = copy_of(&mut storage);
    let opened = Wal::open(storage, IDENTITY, after, term);
    let Ok((segment_bytes, files)) = copy else { return opened };
    let storage = MemoryStorage::from_files(segment_bytes, files);
    let mut handed_out = Vec::new();
    let take = |entry: Entry| handed_out.push(entry);
    let read = Wal::read_handing_out(storage, IDENTITY, after, term, take).and_then(Reading::open);
    match (&opened, read) {
        (Ok((wal, recovered)), Ok((mut copy, rest))) => {
            // What the log says is committed, as far as it has it.
            let committed = recovered.hard_state.map_or(0, |state| state.commit);
            let expected = recovered.entries.iter().filter(|entry| entry.index <= committed).count();
            assert_eq!(handed_out.len(), expected, "committed through {committed}, after {after}");
            handed_out.extend(rest.entries);
            assert_eq!(handed_out, recovered.entries);
            assert_eq!(rest.hard_state, recovered.hard_state);
            let notes = |notes: &[Note]| notes.iter().map(told).collect::<Vec<_>>();
            assert_eq!(notes(&rest.notes), notes(&recovered.notes));
            assert_eq!(copy.last_index(), wal.last_index());
            assert_eq!(copy.segments().collect::<Vec<_>>(), wal.segments().collect::<Vec<_>>());
            // It goes on behind what was handed out.
            let next = entry(wal.last_index() + 1, u64::from(u32::MAX), 10);
            copy.append(None, &[next]).unwrap();
        }
        // The disk of the one may fail where the other's does not.
        (Err(WalError::Io { .. } | WalError::NoSpace { .. }), _) => {}
        (Err(error), Err(other)) => assert_eq!(told(error), told(&other)),
        (Ok(_), Err(error)) => panic!("only handing out is refused: {error}"),
        (Err(error), Ok(_)) => panic!("only handing out is not refused: {error}"),
    }
    opened
}

/// A text without the directories of the files that it names.
fn told(what: &impl std::fmt::Display) -> String {
    let text = what.to_string();
    text.split(' ').map(|word| word.rsplit('/').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
}

type Copied = (u32, BTreeMap<String, Vec<u8>>);

fn copy_of(storage: &mut impl Storage) -> std::io::Result<Copied> {
    let mut files = BTreeMap::new();
    for seq in storage.segments()? {
        let length = usize::try_from(storage.size(seq)?).unwrap();
        files.insert(seq.file_name(), storage.read(seq, 0, length)?);
    }
    Ok((storage.segment_bytes(), files))
}

pub fn runs(name: &str, default: u64) -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the size of a test run is not configuration of the program"
    )]
    let set = std::env::var(name);
    set.ok().map_or(default, |text| text.parse().expect("a number"))
}
