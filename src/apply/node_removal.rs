//! Nodes that go: a directory with all that is below it, or nodes whose time is over. In slices, or in one.
//!
//! The keys and the entries of a directory lie in two stores, so it takes a transaction in each, which are committed
//! together by the last slice. What hung on the keys and entries (leases, deadlines) is let go before; whoever looks at
//! those waits for this write.
//!
//! Invariant: nothing below a directory is left at the revision at which it went, in either store.

use prost::Message as _;

use super::moves::Moves;
use crate::directory::Directories;
use crate::directory::deadlines::Ending;
use crate::directory::shown::created_index;
use crate::lease::Table;
use crate::mvcc::{Action, Cursor, KeyValueRef, Mark, Store, Suspended};
use crate::pb::peer;
use crate::request::Response;
use crate::types::limits::OWED_KEYS_MIN;
use crate::types::{KeyRange, LeaseId, LogIndex, Slice};

/// One node on its way out.
#[derive(Debug)]
pub(super) struct Removal {
    /// The key; of a directory the prefix of what is below it.
    start: Vec<u8>,
    /// Of a directory.
    directory: Option<Gone>,
    /// Of the deletions of keys.
    mark: Mark,
    stage: Stage,
    cursor: Cursor,
    moves: Moves,
    /// The transactions, while they are open.
    keys: Option<Suspended>,
    /// Whether so many keys go that their records are owed.
    owes: bool,
    entries: Option<Suspended>,
}

/// How a directory goes.
#[derive(Debug)]
struct Gone {
    behind: Vec<u8>,
    created: i64,
    action: Action,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Keys,
    HungOnKeys,
    Entries,
    HungOnEntries,
    Announce,
}

impl Removal {
    /// A directory, by the prefix of what is below it.
    pub(super) fn of_directory(below: &[u8], created: i64, action: Action) -> Self {
        let mut behind = below.to_vec();
        *behind.last_mut().expect("it ends with a slash") += 1;
        Self::new(below, Some(Gone { behind, created, action }), Mark::of(Action::Along))
    }

    /// What a deadline is about; None: it is not meant any more.
    fn of_deadline(store: &Store, directories: &Directories, id: LeaseId, through: LogIndex) -> Option<Self> {
        match directories.deadlines.meant(id, through)? {
            Ending::Key(key) => Some(Self::new(key, None, Mark::of(Action::Expire))),
            Ending::Directory(below) => {
                let entry = directories.entries.get(below, store.current_revision());
                let created = entry.map_or(0, |entry| created_index(&entry));
                Some(Self::of_directory(below, created, Action::Expire))
            }
        }
    }

    fn new(start: &[u8], directory: Option<Gone>, mark: Mark) -> Self {
        Self {
            start: start.to_vec(),
            directory,
            mark,
            stage: Stage::Keys,
            cursor: Cursor::default(),
            moves: Moves::default(),
            keys: None,
            owes: false,
            entries: None,
        }
    }

    /// Goes on. The revision at which the node is gone, once it is.
    pub(super) fn slice(
        &mut self,
        store: &mut Store,
        (leases, directories): (&mut Table, &mut Directories),
        slice: &mut Slice,
        announce: &mut impl FnMut(&Store, &mut Slice) -> bool,
    ) -> Option<i64> {
        loop {
            let (is_done, next) = match self.stage {
                Stage::Keys => {
                    let hangs = !leases.is_empty() || !directories.deadlines.table().is_empty();
                    (self.delete_keys(store, hangs, slice), Stage::HungOnKeys)
                }
                Stage::HungOnKeys => {
                    let is_done = self.moves.commit_slice(leases, &mut directories.deadlines, slice);
                    (is_done, if self.directory.is_some() { Stage::Entries } else { Stage::Announce })
                }
                Stage::Entries => {
                    let current = store.current_revision();
                    (self.delete_entries(&mut directories.entries, current, slice), Stage::HungOnEntries)
                }
                Stage::HungOnEntries => {
                    (self.moves.commit_slice(leases, &mut directories.deadlines, slice), Stage::Announce)
                }
                Stage::Announce if announce(store, slice) => {
                    return Some(self.commit(store, &mut directories.entries));
                }
                Stage::Announce => (false, Stage::Announce),
            };
            if !is_done {
                return None;
            }
            self.stage = next;
        }
    }

    /// True when there are no more. `hangs`: some key may hang on a lease, or have an expiry.
    fn delete_keys(&mut self, store: &mut Store, hangs: bool, slice: &mut Slice) -> bool {
        let Self { start, directory, mark, cursor, moves, keys, owes, .. } = self;
        let range = match directory {
            None => KeyRange::One(start),
            Some(gone) => KeyRange::Between { start, end: &gone.behind },
        };
        let open = match keys.take() {
            Some(open) => open,
            None => {
                *owes = !matches!(range, KeyRange::One(_)) && OWED_KEYS_MIN <= store.count_now(range);
                store.begin().suspend()
            }
        };
        let mut txn = store.resume(open);
        let mut see = |kv: KeyValueRef<'_>| moves.on_delete(&kv);
        let (_, is_done) = if *owes {
            txn.bury_slice(range, *mark, cursor, slice, hangs.then_some(&mut see))
        } else {
            txn.delete_slice(range, *mark, cursor, slice, see)
        };
        *keys = Some(txn.suspend());
        if is_done {
            *cursor = Cursor::default();
        }
        is_done
    }

    /// The same of the entries, that of the directory itself last: with it watchers are told.
    fn delete_entries(&mut self, entries: &mut Store, current: i64, slice: &mut Slice) -> bool {
        let Self { start: below, directory, cursor, moves, entries: open, .. } = self;
        let Some(Gone { behind, created, action }) = directory else { return true };
        let mut txn = match open.take() {
            Some(open) => entries.resume(open),
            None => {
                entries.advance_to(current);
                let mut txn = entries.begin();
                if txn.get(below, txn.revision()).is_none() {
                    // A directory that nobody made: its end is told by an entry all the same.
                    txn.put_marked(below, &[], 0, Mark { created: *created, ..Mark::of(Action::Along) });
                }
                txn
            }
        };
        let own = [&below[..], b"\0"].concat();
        let inner = KeyRange::Between { start: &own, end: behind };
        let mut on_deleted = |entry: KeyValueRef<'_>| moves.on_superseded(entry.expiring());
        let (_, is_done) = txn.delete_slice(inner, Mark::of(Action::Along), cursor, slice, &mut on_deleted);
        if is_done {
            let mark = Mark { created: *created, ..Mark::of(*action) };
            txn.delete_marked(KeyRange::One(below), mark, on_deleted);
        }
        *open = Some(txn.suspend());
        is_done
    }

    fn commit(&mut self, store: &mut Store, entries: &mut Store) -> i64 {
        let before = store.current_revision();
        let keys = self.keys.take().expect("it was begun");
        let mut revision = store.resume(keys).commit();
        if let Some(open) = self.entries.take() {
            if revision == before {
                // A revision in which no key changes.
                revision += 1;
                store.advance_to(revision);
            }
            let reached = entries.resume(open).commit();
            assert_eq!(reached, revision, "entries are in step with the key space");
        }
        revision
    }
}

/// Nodes that go by one request.
#[derive(Debug)]
pub(super) struct Removals {
    now: Option<Removal>,
    told: Told,
}

/// Who hears of it.
#[derive(Debug)]
enum Told {
    /// A client, of one directory.
    Client { answer: Box<peer::NodeAnswer>, at: LogIndex },
    /// Nobody: these have come to their end, each with a revision of its own.
    Nobody { ids: std::vec::IntoIter<LeaseId>, through: LogIndex },
}

impl Removals {
    pub(super) fn by_client(removal: Removal, answer: peer::NodeAnswer, at: LogIndex) -> Self {
        Self { now: Some(removal), told: Told::Client { answer: Box::new(answer), at } }
    }

    pub(super) fn by_time(ids: &[i64], through: LogIndex) -> Self {
        let ids = ids.iter().map(|&id| LeaseId(id)).collect::<Vec<_>>().into_iter();
        Self { now: None, told: Told::Nobody { ids, through } }
    }

    /// Goes on. The answer when all are gone.
    pub(super) fn slice(
        &mut self,
        store: &mut Store,
        (leases, directories): (&mut Table, &mut Directories),
        slice: &mut Slice,
        announce: &mut impl FnMut(&Store, &mut Slice) -> bool,
    ) -> Option<Response> {
        loop {
            if let Some(going) = &mut self.now {
                let revision = going.slice(store, (leases, directories), slice, announce)?;
                self.now = None;
                match &mut self.told {
                    Told::Client { answer, at } => {
                        return Some(node_response(std::mem::take(&mut **answer), revision, *at));
                    }
                    Told::Nobody { .. } => directories.tallies.expired += 1,
                }
            }
            let Told::Nobody { ids, through } = &mut self.told else {
                unreachable!("a client's directory is the only one")
            };
            let Some(id) = ids.next() else {
                return Some(Response { revision: store.current_revision(), ..Response::default() });
            };
            slice.spend_key();
            self.now = Removal::of_deadline(store, directories, id, *through);
        }
    }
}

/// An answer at an index, of a member that has applied so much.
pub(super) fn node_response(mut answer: peer::NodeAnswer, index: i64, applied: LogIndex) -> Response {
    answer.applied = applied.0;
    answer.index = index.unsigned_abs();
    Response { revision: index, body: answer.encode_to_vec(), resume: None }
}
