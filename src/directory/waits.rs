//! Who waits for a change of a node, and which change ends each wait.
//!
//! A wait is for one change. It is *behind* while it reads history, a slice at a time, in turns with the others that
//! do; at the present it is *current*, found by its path when something changes. Whoever wants the next change begins
//! another wait behind the first.
//!
//! Invariants: exactly the current waits are in `by_path`; each wait is told once, or is taken back.
//! Cost: a change O(levels · log paths) while somebody waits, nothing otherwise; a wait about 200 bytes and its path.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use prost::Message as _;

use super::history::{cleared_cause, concerns, event_of, is_told, node_key, takes_directory};
use crate::mvcc::{Change, Store};
use crate::pb::peer;
use crate::request::{NodeFault, NodeWait, WaitId, WaitNews, WaitOrder};
use crate::types::{Revision, Slice};

/// Changes that are looked at in one go, some 300 ns each.
const COLLECT_MAX: u64 = 2_000;

/// A wait among those of all shards.
type Key = (u16, WaitId);

#[derive(Debug)]
struct Waiting {
    wait: NodeWait,
    /// Where it goes on to read keys and entries; means nothing once it is current.
    next: [Revision; 2],
    /// The last revision of which something concerned it, and how much of that was passed over.
    passed: (i64, u32),
    is_current: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Waits {
    waits: BTreeMap<Key, Waiting>,
    by_path: BTreeMap<Bytes, Vec<Key>>,
    behind: VecDeque<Key>,
    /// Changes up to here were looked at for the current ones.
    through: i64,
}

/// What a change looks like from both sides.
struct Seen<'a, 's> {
    keys: &'s Store,
    entries: &'s Store,
    change: &'a Change<'s>,
    is_entry: bool,
}

impl Waits {
    /// Waits that there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waits.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Whether `work` has anything to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Takes an order of a shard. All that was applied is collected.
    pub fn on_order(&mut self, shard: u16, order: WaitOrder, keys: &Store) -> Option<WaitNews> {
        match order {
            WaitOrder::Cancel { id } => {
                self.remove((shard, id));
                None
            }
            WaitOrder::Begin { id, wait } => {
                let current = keys.current_revision();
                assert!(self.by_path.is_empty() || self.through == current, "what is applied is collected");
                self.through = current;
                let from = if wait.from <= 0 { current + 1 } else { wait.from };
                if from <= keys.compact_revision() {
                    return Some(cleared(id, from, keys));
                }
                let key = (shard, id);
                let next = [Revision::new(from, 0); 2];
                let waiting = Waiting { passed: (from, 0), next, is_current: current < from, wait: *wait };
                if waiting.is_current {
                    self.by_path.entry(waiting.wait.path.key().clone()).or_default().push(key);
                } else {
                    self.behind.push_back(key);
                }
                let before = self.waits.insert(key, waiting);
                assert!(before.is_none(), "{key:?} waits twice");
                None
            }
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(waiting) = self.waits.remove(&key) else { return };
        if waiting.is_current {
            let path = waiting.wait.path.key();
            let at_path = self.by_path.get_mut(path).expect("a current wait is known by its path");
            at_path.retain(|known| *known != key);
            if at_path.is_empty() {
                self.by_path.remove(path);
            }
        }
        // One that is behind leaves the queue when its turn comes.
    }

    /// Looks at what was applied since the last call.
    #[inline]
    pub fn collect(&mut self, keys: &Store, entries: &Store, give: impl FnMut(u16, WaitNews)) {
        let current = keys.current_revision();
        if self.by_path.is_empty() {
            self.through = current;
        } else if self.through < current {
            // A large write is read in slices, as history is.
            let count = keys.changes_count_max(self.through + 1);
            if COLLECT_MAX < count.saturating_add(entries.changes_count_max(self.through + 1)) {
                self.jump();
                self.through = current;
                return;
            }
            self.collect_changes(keys, entries, current, give);
        }
    }

    fn collect_changes(
        &mut self,
        keys: &Store,
        entries: &Store,
        current: i64,
        mut give: impl FnMut(u16, WaitNews),
    ) {
        let from = Revision::new(self.through + 1, 0);
        self.through = current;
        let mut of_keys = keys.changes(from).peekable();
        let mut of_entries = changes_of(entries, from).peekable();
        let mut found = Vec::new();
        while !self.by_path.is_empty() {
            let Some((change, is_entry)) = next_of(&mut of_keys, &mut of_entries) else { break };
            if !is_told(&change) {
                continue;
            }
            self.find(node_key(&change, is_entry), takes_directory(&change, is_entry), &mut found);
            let seen = Seen { keys, entries, change: &change, is_entry };
            for key in found.drain(..) {
                if let Some(news) = self.look(key, &seen) {
                    give(key.0, news);
                }
            }
        }
    }

    /// The current waits that a change may concern.
    fn find(&self, key: &[u8], takes_directory: bool, found: &mut Vec<Key>) {
        // Its own path, and those above it: of the root of any prefix, too.
        let ends = (0..key.len()).filter(|&at| key[at] == b'/').chain([key.len()]);
        for end in ends {
            found.extend(self.by_path.get(&key[..end]).into_iter().flatten());
        }
        if takes_directory {
            let start = [key, b"/"].concat();
            let end = [key, b"0"].concat();
            let range = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
            found.extend(self.by_path.range::<[u8], _>(range).flat_map(|(_, keys)| keys));
        }
    }

    /// Looks at a change for a wait. What concerns it ends it.
    fn look(&mut self, key: Key, seen: &Seen<'_, '_>) -> Option<WaitNews> {
        let waiting = self.waits.get_mut(&key)?;
        let NodeWait { path, recursive, from, passed } = &waiting.wait;
        let revision = seen.change.revision.main;
        let (at, taken) = (node_key(seen.change, seen.is_entry), takes_directory(seen.change, seen.is_entry));
        let is_wanted = *from <= revision && is_told(seen.change);
        if !is_wanted || !concerns(at, taken, path.key(), *recursive, path.root_bytes()) {
            return None;
        }
        if waiting.passed.0 != revision {
            waiting.passed = (revision, 0);
        }
        waiting.passed.1 += 1;
        if *from == revision && waiting.passed.1 <= *passed {
            return None;
        }
        let passed = waiting.passed.1;
        let root_bytes = path.root_bytes();
        let event = event_of(seen.keys, seen.entries, seen.change, seen.is_entry, root_bytes)?;
        self.remove(key);
        let index = u64::try_from(revision).expect("revisions are not negative");
        let answer = peer::NodeAnswer { index, event: Some(event), ..peer::NodeAnswer::default() };
        Some(WaitNews { id: key.1, answer: answer.encode_to_vec().into(), passed })
    }

    /// Another member's checkpoint has taken the place of the state: who was current reads on from where it was.
    pub fn jump(&mut self) {
        let next = [Revision::new(self.through + 1, 0); 2];
        for keys in std::mem::take(&mut self.by_path).into_values() {
            for key in keys {
                let waiting = self.waits.get_mut(&key).expect("a current wait is there");
                (waiting.is_current, waiting.next) = (false, next);
                self.behind.push_back(key);
            }
        }
    }

    /// A slice of history for the wait whose turn it is.
    pub fn work(&mut self, keys: &Store, entries: &Store, slice: &mut Slice) -> Option<(u16, WaitNews)> {
        let key = loop {
            let key = self.behind.pop_front()?;
            if self.waits.contains_key(&key) {
                break key;
            }
        };
        let waiting = &self.waits[&key];
        let from = waiting.next.iter().map(|next| next.main).min().unwrap_or_default();
        if from <= keys.compact_revision() {
            self.remove(key);
            return Some((key.0, cleared(key.1, from, keys)));
        }
        let next = waiting.next;
        let mut of_keys = keys.changes(next[0]).peekable();
        let mut of_entries = changes_of(entries, next[1]).peekable();
        loop {
            if slice.is_spent() {
                let end = Revision::new(keys.current_revision() + 1, 0);
                let waiting = self.waits.get_mut(&key).expect("it was found above");
                waiting.next[0] = of_keys.peek().map_or(end, |change| change.revision);
                waiting.next[1] = of_entries.peek().map_or(end, |change| change.revision);
                self.behind.push_back(key);
                return None;
            }
            slice.spend_record();
            let Some((change, is_entry)) = next_of(&mut of_keys, &mut of_entries) else {
                let waiting = self.waits.get_mut(&key).expect("it was found above");
                waiting.is_current = true;
                let path = waiting.wait.path.key().clone();
                self.by_path.entry(path).or_default().push(key);
                return None;
            };
            if let Some(news) = self.look(key, &Seen { keys, entries, change: &change, is_entry }) {
                return Some((key.0, news));
            }
        }
    }
}

/// Changes of entries; of a store that has never had any, none.
fn changes_of(entries: &Store, from: Revision) -> impl Iterator<Item = Change<'_>> {
    // It is compacted when the key space is, or not at all.
    let from = from.max(Revision::new(entries.compact_revision(), 0));
    entries.changes(from)
}

/// The next of both, in the order of revisions.
fn next_of<'s>(
    keys: &mut std::iter::Peekable<impl Iterator<Item = Change<'s>>>,
    entries: &mut std::iter::Peekable<impl Iterator<Item = Change<'s>>>,
) -> Option<(Change<'s>, bool)> {
    let is_entry = match (keys.peek(), entries.peek()) {
        (Some(key), Some(entry)) => entry.revision.main < key.revision.main,
        (key, _) => key.is_none(),
    };
    let next = if is_entry { entries.next() } else { keys.next() };
    next.map(|change| (change, is_entry))
}

fn cleared(id: WaitId, wanted: i64, keys: &Store) -> WaitNews {
    let oldest = keys.compact_revision() + 1;
    let answer = peer::NodeAnswer {
        fault: NodeFault::Cleared.number(),
        cause: cleared_cause(oldest, wanted),
        index: u64::try_from(keys.current_revision()).expect("revisions are not negative"),
        ..peer::NodeAnswer::default()
    };
    WaitNews { id, answer: answer.encode_to_vec().into(), passed: 0 }
}
