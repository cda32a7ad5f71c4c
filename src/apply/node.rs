//! Nodes of the v2 API: writes, expiry and reads of them.
//!
//! A write is decided on first, from the state alone, and then written at once, so one that fails has written nothing.
//! An answer that says no is an answer like any other: with its code, its cause and the index, and the same on every
//! member.
//!
//! Cost: see `directory`; a write of a key is a put and a look at each level above it. A directory with much below it
//! goes in slices (`node_removal`).
//! Compatibility: which method meets which error is etcd's v2 store's, in its order of checks.

use bytes::Bytes;

use super::Machine;
use super::moves::Moves;
use super::node_removal::{Removal, Removals, node_response};
use super::node_write::NodeWrite;
use super::preparation::Preparation;
use super::view::check_readable;
use crate::directory::deadlines::Ending;
use crate::directory::history::{cleared_cause, event, gone};
use crate::directory::shown::{Directory, created_index, node_of_directory, node_of_key};
use crate::directory::tree::Fault;
use crate::directory::{Directories, Found, Tree};
use crate::mvcc::{Action, Expiry, KeyValueRef, Mark};
use crate::pb::peer;
use crate::request::{EntryId, NodeAction, NodeFault, NodeMethod, NodeQuery, Outcome, Rejection, Response};
use crate::types::{Feature, KeyRange, LeaseId, LogIndex, NodePath, Slice};

/// The decision.
enum Plan {
    Put {
        path: NodePath,
        value: Bytes,
        mark: Mark,
    },
    /// `replaces`: there is a key of this name.
    Make {
        path: NodePath,
        mark: Mark,
        replaces: bool,
    },
    DeleteKey {
        path: NodePath,
        mark: Mark,
    },
    DeleteDirectory(Box<Removal>),
}

/// The node that is there now, as answers show it.
fn shown(path: &NodePath, found: &Found<'_>) -> Option<peer::Node> {
    match found {
        Found::Key(kv) => Some(node_of_key(path.shown(), kv)),
        Found::Directory(directory) => Some(node_of_directory(path.shown(), directory)),
        Found::Missing => None,
    }
}

/// The cause of a comparison that failed: each condition that did, as it was wanted and as it is.
fn compare(request: &peer::NodeWrite, kv: &KeyValueRef<'_>) -> Result<(), Bytes> {
    let (value, index) = (&request.previous_value, request.previous_index);
    let is_value = value.is_empty() || **value == *kv.value;
    let is_index = index == 0 || i64::try_from(index) == Ok(kv.mod_revision);
    let of_value = || [&b"["[..], value, b" != ", kv.value, b"]"].concat();
    let of_index = || format!("[{index} != {}]", kv.mod_revision).into_bytes();
    match (is_value, is_index) {
        (true, true) => Ok(()),
        (false, true) => Err(of_value().into()),
        (true, false) => Err(of_index().into()),
        (false, false) => Err([of_value(), of_index()].join(&b' ').into()),
    }
}

fn root_is_read_only() -> Fault {
    Fault { fault: NodeFault::RootReadOnly, cause: Bytes::from_static(b"/") }
}

impl Machine {
    /// The tables beside the key space.
    #[must_use]
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// As `take_lease_changes`, of nodes with a time to live.
    pub fn take_deadline_changes(&mut self) -> std::vec::Drain<'_, crate::lease::Change> {
        self.directories.take_changes()
    }

    /// What the quota counts.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.store.bytes_held() + self.directories.bytes_held()
    }

    pub(super) fn tree(&self, at: i64) -> Tree<'_> {
        Tree { keys: &self.store, entries: &self.directories.entries, at }
    }

    /// A client's write. What the state does not allow is told in the answer. None: it is a directory with much below
    /// it that goes, in slices.
    pub(super) fn write_node(&mut self, write: &NodeWrite<'_>, at: EntryId) -> Option<Outcome> {
        if !self.format_level.allows(Feature::Nodes) {
            return Some(Err(Rejection::NotCapable));
        }
        let decided = self.decide(write);
        let is_ok = decided.is_ok();
        let answer = match decided {
            Ok((plan, event)) => {
                let event = if write.request.shows_nothing {
                    // Whether it was made is told by the status.
                    let is_new = event.previous.is_none();
                    let nothing = peer::Node::default;
                    peer::NodeEvent { node: None, previous: (!is_new).then(nothing), ..event }
                } else {
                    event
                };
                let answer = peer::NodeAnswer { event: Some(event), ..peer::NodeAnswer::default() };
                match plan {
                    Plan::DeleteDirectory(removal)
                        if self.short_keys_max < self.count_below(&write.path.below()) =>
                    {
                        let removals = Removals::by_client(*removal, answer, at.index);
                        return self.prepare(|machine| {
                            machine.directories.tallies.on_write(write.method, is_ok);
                            Preparation::removals(&mut machine.store, removals)
                        });
                    }
                    plan => self.carry_out(plan, write.expiry, at.index),
                }
                answer
            }
            Err(Fault { fault, cause }) => {
                peer::NodeAnswer { fault: fault.number(), cause, ..peer::NodeAnswer::default() }
            }
        };
        self.directories.tallies.on_write(write.method, is_ok);
        Some(Ok(node_response(answer, self.store.current_revision(), at.index)))
    }

    /// What is to be written, and the event that it makes.
    fn decide(&self, write: &NodeWrite<'_>) -> Result<(Plan, peer::NodeEvent), Fault> {
        let NodeWrite { method, path, request, expiry } = write;
        let next = self.store.current_revision() + 1;
        let path = if *method == NodeMethod::CreateInOrder {
            path.join(&format!("{next:020}"))
        } else {
            path.clone()
        };
        if path.is_root() {
            return Err(match method {
                NodeMethod::CompareAndDelete => Fault { fault: NodeFault::NotFile, cause: Bytes::new() },
                _ => root_is_read_only(),
            });
        }
        let tree = self.tree(self.store.current_revision());
        let found = tree.find(&path);
        let previous = shown(&path, &found);
        let not_file = || Fault::at(NodeFault::NotFile, &path);
        let mark = |action, created| Mark { action, created, expiry: *expiry, is_refresh: request.refresh };
        let deletes = |action, word| {
            let previous = previous.clone().expect("what is deleted is there");
            let plan = match found {
                Found::Directory(directory) => Plan::DeleteDirectory(Box::new(Removal::of_directory(
                    &path.below(),
                    directory.created,
                    action,
                ))),
                _ => Plan::DeleteKey { path: path.clone(), mark: Mark::of(action) },
            };
            (plan, event(word, gone(&previous, next), Some(previous)))
        };
        let (action, word, created) = match (method, &found) {
            (NodeMethod::Set, Found::Directory(_)) => return Err(not_file()),
            (NodeMethod::Set, Found::Missing) if request.refresh => return Err(tree.fault(&path)),
            (NodeMethod::Set, _) => (Action::Plain, NodeAction::Set, 0),
            (NodeMethod::Create | NodeMethod::CreateInOrder, Found::Missing) => {
                (Action::Create, NodeAction::Create, 0)
            }
            (NodeMethod::Create | NodeMethod::CreateInOrder, _) => {
                return Err(Fault::at(NodeFault::Exists, &path));
            }
            (_, Found::Missing) => return Err(tree.fault(&path)),
            (NodeMethod::Update, Found::Directory(_)) if !request.value.is_empty() => return Err(not_file()),
            (NodeMethod::Update, Found::Directory(directory)) => {
                let created = directory.created;
                let plan =
                    Plan::Make { path: path.clone(), mark: mark(Action::Update, created), replaces: false };
                let now = Directory { created, modified: next, expiry: *expiry, has_entry: true };
                let node = node_of_directory(path.shown(), &now);
                return Ok((plan, event(NodeAction::Update, node, previous)));
            }
            (NodeMethod::Update, Found::Key(kv)) => (Action::Update, NodeAction::Update, created_index(kv)),
            (NodeMethod::CompareAndSwap | NodeMethod::CompareAndDelete, Found::Directory(_)) => {
                return Err(not_file());
            }
            (NodeMethod::CompareAndSwap | NodeMethod::CompareAndDelete, Found::Key(kv)) => {
                compare(request, kv).map_err(|cause| Fault { fault: NodeFault::CompareFailed, cause })?;
                if *method == NodeMethod::CompareAndDelete {
                    return Ok(deletes(Action::CompareAndDelete, NodeAction::CompareAndDelete));
                }
                (Action::CompareAndSwap, NodeAction::CompareAndSwap, created_index(kv))
            }
            (NodeMethod::Delete, Found::Directory(_)) if !request.recursive => {
                return match (request.is_directory, tree.has_children(&path)) {
                    (false, _) => Err(not_file()),
                    (true, true) => Err(Fault::at(NodeFault::NotEmpty, &path)),
                    (true, false) => Ok(deletes(Action::Plain, NodeAction::Delete)),
                };
            }
            (NodeMethod::Delete, _) => return Ok(deletes(Action::Plain, NodeAction::Delete)),
        };
        let mark = mark(action, created);
        let created = if created == 0 { next } else { created };
        // A key that is there has its way already.
        if matches!(found, Found::Missing) {
            tree.missing_above(&path)?;
        }
        let makes_directory = request.is_directory && matches!(action, Action::Plain | Action::Create);
        if makes_directory {
            let now = Directory { created, modified: next, expiry: *expiry, has_entry: true };
            let node = node_of_directory(path.shown(), &now);
            let replaces = matches!(found, Found::Key(_));
            return Ok((Plan::Make { path, mark, replaces }, event(word, node, previous)));
        }
        let value = match found {
            Found::Key(kv) if request.refresh => Bytes::copy_from_slice(kv.value),
            _ => request.value.clone(),
        };
        let now = KeyValueRef {
            key: path.key(),
            value: &value,
            create_revision: 0,
            mod_revision: next,
            sub: 0,
            version: 0,
            lease: 0,
            mark,
        };
        let node = node_of_key(path.shown(), &now);
        Ok((Plan::Put { path, value, mark }, event(word, node, previous)))
    }

    /// Writes at the next revision what was decided.
    fn carry_out(&mut self, plan: Plan, expiry: Option<Expiry>, at: LogIndex) {
        match plan {
            Plan::Put { path, value, mark } => {
                let missing = self.missing_above(&path);
                let (mut txn, mut moves) = (self.store.begin(), Moves::default());
                let written = txn.put_marked(path.key(), &value, 0, mark);
                moves.on_put(path.key(), written.previous_lease, 0);
                moves.on_superseded(written.previous_expiring);
                let revision = txn.commit();
                moves.commit(&mut self.leases, &mut self.directories.deadlines);
                self.put_entries(revision, &missing, None);
                if let Some(expiry) = expiry {
                    self.directories.deadlines.begin(revision, Ending::Key(path.key()), expiry, at);
                }
            }
            Plan::Make { path, mark, replaces } => {
                let (missing, below) = (self.missing_above(&path), path.below());
                let revision = if replaces {
                    self.delete_keys(KeyRange::One(path.key()), Mark::of(Action::Along))
                } else {
                    self.pass_revision()
                };
                self.put_entries(revision, &missing, Some((&below, mark)));
                if let Some(expiry) = expiry {
                    self.directories.deadlines.begin(revision, Ending::Directory(&below), expiry, at);
                }
            }
            Plan::DeleteKey { path, mark } => {
                self.delete_keys(KeyRange::One(path.key()), mark);
            }
            Plan::DeleteDirectory(mut removal) => {
                let Self { store, leases, directories, .. } = self;
                let gone =
                    removal.slice(store, (leases, directories), &mut Slice::unbounded(), &mut |_, _| true);
                assert!(gone.is_some(), "a slice without a bound is not spent");
            }
        }
    }

    /// The directories above a node that are to be made with it; none where v3 has put a key in its way.
    fn missing_above(&self, path: &NodePath) -> Vec<NodePath> {
        self.tree(self.store.current_revision()).missing_above(path).unwrap_or_default()
    }

    /// A revision in which no key changes.
    fn pass_revision(&mut self) -> i64 {
        let revision = self.store.current_revision() + 1;
        self.store.advance_to(revision);
        revision
    }

    /// Writes entries at `revision`, which the key space has reached: of directories that are made along, and `own`.
    fn put_entries(&mut self, revision: i64, along: &[NodePath], own: Option<(&Bytes, Mark)>) {
        if along.is_empty() && own.is_none() {
            return;
        }
        let Directories { entries, deadlines, .. } = &mut self.directories;
        entries.advance_to(revision - 1);
        let mut txn = entries.begin();
        for above in along {
            txn.put_marked(&above.below(), &[], 0, Mark::of(Action::Along));
        }
        if let Some((below, mark)) = own {
            deadlines.end(txn.put_marked(below, &[], 0, mark).previous_expiring);
        }
        let reached = txn.commit();
        assert_eq!(reached, revision, "entries are in step with the key space");
    }

    /// Deletes keys at the next revision, if there are any. Returns the revision.
    fn delete_keys(&mut self, range: KeyRange<'_>, mark: Mark) -> i64 {
        let (mut txn, mut moves) = (self.store.begin(), Moves::default());
        txn.delete_marked(range, mark, |kv| moves.on_delete(&kv));
        let revision = txn.commit();
        moves.commit(&mut self.leases, &mut self.directories.deadlines);
        revision
    }

    /// Keys and entries below a directory, in no more than a look at the tree.
    fn count_below(&self, below: &[u8]) -> u64 {
        let mut behind = below.to_vec();
        *behind.last_mut().expect("it ends with a slash") += 1;
        let range = KeyRange::Between { start: below, end: &behind };
        self.store.count_now(range) + self.directories.entries.count_now(range)
    }

    /// Nodes that have come to their end, each with a revision of its own. Nothing ends while data is corrupt. None:
    /// they are many, and go in slices.
    pub(super) fn expire_nodes(&mut self, request: &peer::LeaseExpire, at: EntryId) -> Option<Response> {
        let through = LogIndex(request.through);
        if request.term != at.term.0 || self.alarms.is_corrupt() {
            return Some(self.response(Vec::new()));
        }
        let count = |&id: &i64| match self.directories.deadlines.meant(LeaseId(id), through) {
            Some(Ending::Directory(below)) => self.count_below(below),
            Some(Ending::Key(_)) | None => 0,
        };
        let count: u64 = request.ids.iter().map(count).sum();
        let mut removals = Removals::by_time(&request.ids, through);
        if self.short_keys_max < count {
            return self.prepare(|machine| Preparation::removals(&mut machine.store, removals));
        }
        let Self { store, leases, directories, .. } = self;
        removals.slice(store, (leases, directories), &mut Slice::unbounded(), &mut |_, _| true)
    }

    /// How long nodes have still to live.
    pub(super) fn note_nodes(&mut self, request: &peer::LeaseCheckpoint, at: EntryId) -> Response {
        if request.term == at.term.0 {
            for &peer::LeaseRemaining { id, remaining_s } in &request.leases {
                let through = LogIndex(request.through);
                self.directories.deadlines.note(LeaseId(id), through, remaining_s);
            }
        }
        self.response(Vec::new())
    }

    /// A node, and what is below it as far as a slice goes.
    pub(super) fn read_node(&self, query: &NodeQuery, applied: LogIndex) -> Outcome {
        let NodeQuery { path, recursive, is_standing, at, resume } = query;
        let current = self.store.current_revision();
        if *is_standing {
            let mut answer = peer::NodeAnswer::default();
            let oldest = self.store.compact_revision() + 1;
            if *at != 0 && *at < oldest {
                answer.fault = NodeFault::Cleared.number();
                answer.cause = cleared_cause(oldest, *at);
            }
            return Ok(node_response(answer, current, applied));
        }
        let at = if *at == 0 { current } else { *at };
        check_readable(&self.store, at)?;
        let tree = self.tree(at);
        let found = tree.find(path);
        let is_first = resume.is_none();
        if is_first {
            self.directories.tallies.on_get(!matches!(found, Found::Missing));
        }
        let mut answer = peer::NodeAnswer::default();
        match shown(path, &found) {
            None => {
                let Fault { fault, cause } = tree.fault(path);
                (answer.fault, answer.cause) = (fault.number(), cause);
            }
            Some(node) => {
                if node.is_directory {
                    let mut slice = Slice::new();
                    answer.resume =
                        tree.list(path, *recursive, resume.as_ref(), &mut slice, &mut answer.nodes);
                }
                if is_first {
                    answer.event = Some(event(NodeAction::Get, node, None));
                }
            }
        }
        Ok(node_response(answer, at, applied))
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
