//! The heaviest of many: who causes the load, in bounded memory.
//!
//! Space-saving (Metwally, Agrawal, El Abbadi 2005): so many entries are kept; whoever is new takes the place of
//! the lightest and inherits its weight as a possible error, so whoever causes a larger part of the load than a
//! place stands for is among them. What an entry has counted begins when it takes its place: a lower bound, which
//! never falls while the entry stays.
//!
//! Cost: a look-up in a small table that remembers the last names, else in a tree. Once all places are taken, a new
//! name costs a scan for the lightest only every `SCAN_EVERY` times, and is passed over otherwise: a stream of
//! names that never come again does not make every request pay for it, and what was passed over counts for the one
//! that is let in.

use std::collections::BTreeMap;

/// Entries of one role.
const ENTRIES_MAX: usize = 256;

/// New names from one scan for the lightest to the next.
const SCAN_EVERY: u32 = 16;

/// Names that are found without the tree.
const REMEMBERED: usize = 64;

/// What is counted of each name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heavy {
    pub requests: u64,
    pub bytes: u64,
    pub changed_keys: u64,
}

impl Heavy {
    pub fn add(&mut self, more: Self) {
        self.requests += more.requests;
        self.bytes += more.bytes;
        self.changed_keys += more.changed_keys;
    }
}

/// Names an entry, for as long as it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    generation: u32,
    /// What decides who stays: requests, with those of the entries whose place it took.
    weight: u64,
    counted: Heavy,
}

/// See the module.
#[derive(Debug)]
pub struct Top {
    entries: Vec<Entry>,
    slots: BTreeMap<Box<[u8]>, u32>,
    remembered: [u32; REMEMBERED],
    passed_over: u32,
    /// Weight of what was passed over.
    owed: u64,
}

impl Default for Top {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            slots: BTreeMap::new(),
            remembered: [0; REMEMBERED],
            passed_over: 0,
            owed: 0,
        }
    }
}

impl Top {
    /// Counts for `name`. What is known later of the same requests is added to the token. None: the name is passed
    /// over.
    pub fn count(&mut self, name: &[u8], more: Heavy) -> Option<Token> {
        let place = remembered_at(name);
        let remembered = self.remembered[place];
        let is_it = self.entries.get(remembered as usize).is_some_and(|entry| *entry.name == *name);
        let known = if is_it { Some(remembered) } else { self.slots.get(name).copied() };
        let slot = match known {
            Some(slot) => slot,
            None => self.let_in(name, more.requests)?,
        };
        self.remembered[place] = slot;
        let entry = &mut self.entries[slot as usize];
        entry.weight += more.requests;
        entry.counted.add(more);
        Some(Token { slot, generation: entry.generation })
    }

    /// Adds to an entry, if it is still there.
    pub fn add(&mut self, token: Token, more: Heavy) {
        let entry = &mut self.entries[token.slot as usize];
        if entry.generation == token.generation {
            entry.counted.add(more);
        }
    }

    fn let_in(&mut self, name: &[u8], weight: u64) -> Option<u32> {
        if self.entries.len() < ENTRIES_MAX {
            let slot = u32::try_from(self.entries.len()).expect("there are a few hundred");
            self.entries.push(Entry {
                name: name.into(),
                generation: 0,
                weight: 0,
                counted: Heavy::default(),
            });
            self.slots.insert(name.into(), slot);
            return Some(slot);
        }
        self.passed_over += 1;
        if self.passed_over < SCAN_EVERY {
            self.owed += weight;
            return None;
        }
        self.passed_over = 0;
        let lightest = (0_u32..).zip(&self.entries).min_by_key(|(_, entry)| entry.weight);
        let (slot, _) = lightest.expect("all places are taken");
        let entry = &mut self.entries[slot as usize];
        self.slots.remove(&entry.name);
        entry.name = name.into();
        entry.generation = entry.generation.wrapping_add(1);
        entry.weight += std::mem::take(&mut self.owed);
        entry.counted = Heavy::default();
        self.slots.insert(name.into(), slot);
        Some(slot)
    }

    /// The heaviest `count`, by the requests that are known to be theirs.
    #[must_use]
    pub fn heaviest(&self, count: usize) -> Vec<(&[u8], Heavy)> {
        let mut all: Vec<_> = self.entries.iter().map(|entry| (&*entry.name, entry.counted)).collect();
        all.sort_by_key(|(_, counted)| std::cmp::Reverse(counted.requests));
        all.truncate(count);
        all
    }
}

/// Where a name is remembered. Two that share a place only cost the tree.
fn remembered_at(name: &[u8]) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    for piece in name.chunks(8) {
        let mut bytes = [0; 8];
        bytes[..piece.len()].copy_from_slice(piece);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(bytes)).wrapping_mul(MULTIPLIER);
    }
    usize::try_from(hash >> 58).expect("six bits")
}
const _: () = assert!(REMEMBERED == 1 << 6, "the top six bits of a hash name a place");
