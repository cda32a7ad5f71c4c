//! What the watchers of one stream were told, in a form in which two servers can be compared.
//!
//! Masked, because each server has its own: cluster id, member id and raft term; the numbers of leases
//! that a server chose (they are translated to the reference's, in `lease` fields and in the keys of
//! locks). Masked, because it depends on when a server was asked: the seconds left of a lease, which
//! must be within a few of each other; the order of `Leases` and of the keys of a lease.
//!
//! Not compared, because no order is promised: how the responses of different watchers of a stream
//! interleave. What one watcher gets is compared message by message; a response of several revisions is
//! taken apart into its events, each with the response's header revision and its place among fragments.
//!
//! Differences between the installed etcd (3.4.23) and the target (3.7). Where one is masked, the
//! subject must do what 3.7 does, or just what the reference did:
//! - *Progress requests.* 3.4.23 answers each at once, whatever its watchers have got and also without
//!   any. 3.7 answers if the stream has watchers, all of them are synced, none waits for a future
//!   revision, and none was cancelled by a compaction without the client's cancel; else not at all.
//!   Where 3.7 answers, the answers are compared.
//! - *A negative start.* 3.4.23 knows no rule for it: it is a revision before all others, which is
//!   compacted or is not. 3.7 refuses it in the `created` response, with id -1.
//! - *A deletion at the compacted revision.* 3.4.23 forgets it with the compaction, 3.7 keeps it for
//!   watchers that start just there. Such a start is moved on by one.
//!
//! Known and never sent: what crashes the reference (see `compare.rs`).

use std::collections::BTreeMap;

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::mvccpb::Event;

#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Created(Control),
    Canceled(Control),
    /// A sign of life without events, for `progress_notify`.
    Progress(Control),
    Event {
        event: Event,
        header_revision: i64,
        /// Its response's number among the fragments of one, and whether more were announced.
        part: u32,
        fragment: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    pub header_revision: i64,
    pub header_has_ids: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub reason: String,
}

impl Control {
    pub fn of(response: &pb::WatchResponse) -> Self {
        let header = response.header.unwrap_or_default();
        Self {
            header_revision: header.revision,
            header_has_ids: header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0,
            canceled: response.canceled,
            compact_revision: response.compact_revision,
            reason: response.cancel_reason.clone(),
        }
    }
}

/// The watchers of one stream of one server. An id that is used again goes on in the same log.
#[derive(Default)]
pub struct Logs {
    pub by_watcher: BTreeMap<i64, Vec<Entry>>,
    /// Header revisions of the answers to progress requests, which bear no watcher's id.
    pub progress: Vec<Control>,
    /// The answers to create requests, in their order.
    pub created: Vec<(i64, Control)>,
    open_part: BTreeMap<i64, u32>,
}

impl Logs {
    /// Takes one response apart. `Err`: it breaks a promise by itself.
    pub fn add(&mut self, response: &pb::WatchResponse) -> Result<(), String> {
        let id = response.watch_id;
        let control = Control::of(response);
        if response.created {
            if !response.events.is_empty() {
                return Err(format!("a created response of watcher {id} has events"));
            }
            self.created.push((id, control.clone()));
            if id != -1 || !response.canceled {
                self.log(id).push(Entry::Created(control));
            }
            return Ok(());
        }
        if response.canceled {
            self.log(id).push(Entry::Canceled(control));
            return Ok(());
        }
        if response.events.is_empty() {
            // -1 answers a progress request, also where a client has given that id to a watcher; no
            // script runs long enough for a watcher's own sign of life.
            match self.by_watcher.get_mut(&id) {
                _ if id == -1 => self.progress.push(control),
                Some(log) => log.push(Entry::Progress(control)),
                None => return Err(format!("a response for {id}, which was never created")),
            }
            return Ok(());
        }
        let Some(log) = self.by_watcher.get_mut(&id) else {
            return Err(format!("events for {id}, which was never created"));
        };
        let part = self.open_part.remove(&id);
        if part.is_none()
            && let Some(Entry::Event { event, .. }) = log.last()
            && mod_revision(event) >= mod_revision(&response.events[0])
        {
            return Err(format!(
                "watcher {id}: revision {} came in two responses, or after a later one",
                mod_revision(&response.events[0])
            ));
        }
        let part = part.unwrap_or(0);
        let created = log.iter().rev().find_map(|entry| match entry {
            Entry::Created(control) => Some(control.header_revision),
            _ => None,
        });
        for event in &response.events {
            // How many revisions of history go into one response is each server's choice, and with it
            // where that is cut.
            let is_history = created.is_some_and(|revision| mod_revision(event) <= revision);
            log.push(Entry::Event {
                event: event.clone(),
                header_revision: control.header_revision,
                part: if is_history { 0 } else { part },
                fragment: response.fragment && !is_history,
            });
        }
        if response.fragment {
            self.open_part.insert(id, part + 1);
        }
        Ok(())
    }

    fn log(&mut self, id: i64) -> &mut Vec<Entry> {
        self.by_watcher.entry(id).or_default()
    }

    pub fn count(&self, id: i64, kind: fn(&Entry) -> bool) -> usize {
        self.by_watcher.get(&id).map_or(0, |log| log.iter().filter(|entry| kind(entry)).count())
    }
}

pub fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

pub fn is_event(entry: &Entry) -> bool {
    matches!(entry, Entry::Event { .. })
}

pub fn is_canceled(entry: &Entry) -> bool {
    matches!(entry, Entry::Canceled(_))
}

/// The first difference of two logs; `complete` if neither may have more than the other.
pub fn compare(reference: &[Entry], subject: &[Entry], complete: bool) -> Result<(), String> {
    for (place, (a, b)) in reference.iter().zip(subject).enumerate() {
        if a != b {
            return Err(format!("message {place}: reference {}, subject {}", shown(a), shown(b)));
        }
    }
    let (a, b) = (reference.len(), subject.len());
    if complete && a != b {
        let (who, more) = if a < b { ("subject", &subject[a]) } else { ("reference", &reference[b]) };
        return Err(format!(
            "{a} messages from the reference, {b} from the subject; only the {who} says {}",
            shown(more)
        ));
    }
    Ok(())
}

/// Values of a megabyte are not for reading.
fn shown(entry: &Entry) -> String {
    let text = format!("{entry:?}");
    match text.char_indices().nth(900) {
        Some((cut, _)) => format!("{}… ({} characters)", &text[..cut], text.len()),
        None => text,
    }
}
