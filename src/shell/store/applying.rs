//! Applying what is committed, in the order of the log.
//!
//! A large write is not applied in one go: the machine prepares it in slices (`apply::preparation`), and until it is
//! done, and others have had their turn (`upkeep::Room`), the rest of its group, of the entries that came with it and of the ring that brought them waits. That
//! ring also brings the linearizable reads that must see what was committed before them, and a leader's
//! checkpoint that is to be installed; so neither meets half a write. Serializable reads come on other rings
//! and see the revision before.

use super::large_write::{Admitted, Applying, Unfinished, Write};
use super::{StoreRole, stop};
use crate::apply::Begun;
use crate::apply::machine::Applied;
use crate::raft::{Entry, EntryKind};
use crate::request::group::decode_group;
use crate::request::{EntryId, Outcome, Request, RequestKind};
use crate::types::{Caller, Slice};

impl StoreRole {
    /// Whether nothing may be taken from the ring, since what it brings waits for a write.
    pub(super) fn waits_for_write(&self, slot: usize) -> bool {
        self.applying.as_ref().is_some_and(|applying| applying.slot == slot)
    }

    /// Whether half a write is in the state.
    pub(super) fn is_preparing(&self) -> bool {
        self.applying.as_ref().is_some_and(Applying::is_preparing)
    }

    /// Whether the state is that of whole entries.
    pub(super) fn is_between_entries(&self) -> bool {
        self.applying.as_ref().is_none_or(|applying| applying.entry.is_none())
    }

    /// Applies entries, which ring `slot` has brought, up to the first large write.
    pub(super) fn apply_entries(&mut self, slot: usize, mut entries: std::vec::IntoIter<Entry>) {
        while let Some(entry) = entries.next() {
            assert_eq!(
                self.applied.0 + 1,
                entry.index.0,
                "entries are applied in index order, without a gap"
            );
            match entry.kind {
                // A term's first entry.
                EntryKind::Normal if entry.data.is_empty() => {}
                EntryKind::Normal => match decode_group(entry.data.clone()) {
                    Ok(group) => {
                        let begun = self.observed.begin();
                        let requests = self.machine.admit(group);
                        let mut group = Admitted { begun, count: requests.len(), left: requests.into_iter() };
                        if let Some(write) = self.apply_requests(&entry, &mut group) {
                            let unfinished = Unfinished { entry, write, group };
                            self.applying = Some(Applying { slot, entry: Some(unfinished), entries });
                            return;
                        }
                    }
                    Err(error) => stop(EntryId { index: entry.index, term: entry.term }, &error.to_string()),
                },
                EntryKind::ConfChange => self.change_members(&entry),
            }
            self.on_entry(&entry);
        }
    }

    /// Applies the requests that are left of a group, up to the first large write. Returns that.
    fn apply_requests(&mut self, entry: &Entry, group: &mut Admitted) -> Option<Write> {
        let at = EntryId { index: entry.index, term: entry.term };
        let mut touched = 0;
        loop {
            if touched == 0 {
                touched = self.machine.touch_ahead(group.left.as_slice());
            }
            touched -= 1;
            let Some(request) = group.left.next() else { break };
            if request.kind == RequestKind::Compact {
                // What it makes unreadable must have left.
                self.collect_changes();
            }
            let leases = self.machine.leases().len();
            let mut write = Write { request, begun: None, leases };
            match self.begin_apply(at, &mut write) {
                Some(applied) => {
                    self.observed.on_applied(write.request.kind, &applied);
                    self.on_applied(entry, &write.request, leases, applied);
                }
                None => return Some(write),
            }
        }
        self.observed.on_group(group.begun, group.count, entry.data.len());
        None
    }

    /// None: it is a large write, which is begun or waits for room.
    fn begin_apply(&mut self, at: EntryId, write: &mut Write) -> Option<Applied> {
        let has_room = self.room.is_there(self.machine.store().owed_records());
        match self.machine.begin_apply(&write.request, at, has_room) {
            Begun::Applied(applied) => return Some(applied),
            Begun::Preparing => write.begun = Some(self.observed.begin()),
            Begun::Waiting => {}
        }
        None
    }

    /// A slice of the large write under way; with the last one, what waited for it goes on.
    pub(super) fn prepare(&mut self, slice: &mut Slice) -> bool {
        let Some(mut applying) = self.applying.take() else { return false };
        match &mut applying.entry {
            None if self.room.on_round() => self.apply_entries(applying.slot, applying.entries),
            None => self.applying = Some(applying),
            Some(Unfinished { entry, write, .. }) => {
                let at = EntryId { index: entry.index, term: entry.term };
                let applied = match write.begun {
                    None => self.begin_apply(at, write),
                    Some(_) => self.prepare_slice(slice).map(Applied::Now),
                };
                match applied {
                    None => self.applying = Some(applying),
                    Some(applied) => self.on_written(applying, applied),
                }
            }
        }
        // Leases that expire together are a revision each.
        self.collect_changes();
        true
    }

    fn prepare_slice(&mut self, slice: &mut Slice) -> Option<Outcome> {
        let (watch, spent_ns) = (&mut self.watch, slice.spent_ns());
        let outcome = self.machine.prepare_slice(slice, |store, slice| watch.prepare(store, slice));
        self.room.on_write(slice.spent_ns() - spent_ns);
        outcome
    }

    /// A large write was applied. The rest of its group goes on, and behind that others have their turn.
    fn on_written(&mut self, applying: Applying, applied: Applied) {
        let Applying { slot, entry, entries } = applying;
        let Unfinished { entry, write, mut group } = entry.expect("it has a large write");
        match write.begun {
            Some(begun) => self.observed.on_prepared(write.request.kind, &applied, begun),
            None => self.observed.on_applied(write.request.kind, &applied),
        }
        self.on_applied(&entry, &write.request, write.leases, applied);
        for ticket in std::mem::take(&mut self.lease_lists) {
            self.list_leases(ticket);
        }
        let entry = match self.apply_requests(&entry, &mut group) {
            Some(write) => Some(Unfinished { entry, write, group }),
            None => {
                self.on_entry(&entry);
                self.room.on_entry();
                None
            }
        };
        self.applying = Some(Applying { slot, entry, entries });
    }

    /// A request was applied, before which there were so many leases.
    fn on_applied(&mut self, entry: &Entry, request: &Request, leases: usize, applied: Applied) {
        self.log.requests += 1;
        if request.kind == RequestKind::LeaseExpire {
            self.leases.on_expired(leases.saturating_sub(self.machine.leases().len()));
        }
        self.leases.on_request(&mut self.machine, entry.term);
        self.nodes.on_request(&mut self.machine, entry.term);
        self.logins.on_applied(&mut self.machine);
        if matches!(request.kind, RequestKind::PublishMember | RequestKind::MemberUpdate) {
            self.tell_members();
        }
        if request.kind == RequestKind::FormatLevel {
            self.on_format_level(entry);
        }
        let is_ours = request.origin.member == self.position.member;
        if is_ours && self.position.recovered < entry.index {
            match request.origin.ticket.caller() {
                Caller::Lease(number) => self.leases.on_applied(number, entry.term),
                Caller::Node(number) => self.nodes.on_applied(number, entry.term),
                Caller::Publish => self.on_published(),
                Caller::Compaction(number) => self.on_compacted(number, &applied),
                _ => self.answer_request(request.origin.ticket, applied),
            }
        }
    }

    /// All of an entry was applied.
    fn on_entry(&mut self, entry: &Entry) {
        self.memory.refill(&mut self.machine);
        self.leases.on_entry(&self.machine, entry.term, self.leads());
        self.nodes.on_entry(&self.machine, entry.term, self.leads());
        self.applied = entry.index;
        self.applied_term = entry.term;
        self.facts.applied = entry.index;
        self.log.entries += 1;
        self.log.bytes += entry.data.len() as u64;
        if entry.index <= self.position.recovered
            && let Some((requests, took)) = self.replay.on_applied(
                entry.index,
                self.position.recovered,
                // A checkpoint may have begun meanwhile.
                self.log.requests.saturating_sub(self.position.replayed.requests),
            )
        {
            self.cadence.on_replayed(requests, took);
        }
    }
}
