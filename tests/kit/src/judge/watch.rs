//! What a watcher may be told, judged against the whole history.
//!
//! The input is one watcher's life: where it began, what it asked for, and every response in the order
//! of its arrival, over all the streams on which it was resumed. The judge knows the history and nothing
//! of how it was delivered. A rule is one kind of `Violation`; `watch_tests.rs` plants each kind.

use std::collections::BTreeMap;
use std::fmt;

use crate::pb::mvccpb::{Event, KeyValue};
use bytes::Bytes;

/// All changes, in the order of their revisions and of the changes within one.
#[derive(Default)]
pub struct History {
    pub events: Vec<Event>,
    /// For each event the value of its key before it.
    previous: Vec<Option<KeyValue>>,
    current: BTreeMap<Bytes, KeyValue>,
}

pub fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

pub fn is_delete(event: &Event) -> bool {
    event.r#type == 1
}

impl History {
    /// Takes the next change; `Err` if it cannot be one after those before it.
    pub fn add(&mut self, event: Event) -> Result<(), String> {
        let kv = event.kv.as_ref().ok_or("an event without a key")?;
        let last = self.events.last().map_or(1, revision_of);
        if kv.mod_revision < last {
            return Err(format!("revision {} after {last}", kv.mod_revision));
        }
        let previous = self.current.get(&kv.key).cloned();
        match (&previous, is_delete(&event)) {
            (None, true) => return Err(format!("{:?} is deleted and did not exist", kv.key)),
            (Some(_), true) => {
                self.current.remove(&kv.key);
            }
            (before, false) => {
                let version = before.as_ref().map_or(0, |kv| kv.version) + 1;
                let created = before.as_ref().map_or(kv.mod_revision, |kv| kv.create_revision);
                if (kv.version, kv.create_revision) != (version, created) {
                    return Err(format!("{kv:?} must be version {version} of a key created at {created}"));
                }
                self.current.insert(kv.key.clone(), kv.clone());
            }
        }
        self.previous.push(previous);
        self.events.push(event);
        Ok(())
    }

    pub fn last_revision(&self) -> i64 {
        self.events.last().map_or(1, revision_of)
    }

    /// The keys that exist after all of it.
    pub fn current(&self) -> &BTreeMap<Bytes, KeyValue> {
        &self.current
    }

    /// The place of the first event at or after a revision.
    fn place(&self, revision: i64) -> usize {
        self.events.partition_point(|event| revision_of(event) < revision)
    }
}

/// What a watcher asked for.
#[derive(Debug, Clone)]
pub struct Interest {
    pub key: Bytes,
    /// Empty for one key; one zero byte for all that follow.
    pub range_end: Bytes,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
}

impl Interest {
    pub fn wants(&self, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        let in_range = match &self.range_end[..] {
            [] => kv.key == self.key,
            [0] => self.key <= kv.key,
            end => self.key <= kv.key && &kv.key[..] < end,
        };
        in_range && !if is_delete(event) { self.no_delete } else { self.no_put }
    }
}

/// What a watcher was told, or did.
#[derive(Debug, Clone)]
pub enum Told {
    /// Events of one response; `fragment` says that the next response goes on with it. When it came, no
    /// compaction beyond `compacted` had been asked for.
    Events { events: Vec<Event>, fragment: bool, compacted: i64 },
    /// Everything up to here has been delivered.
    Progress(i64),
    /// It began again, on another stream or after a cancel, at this revision.
    Resumed(i64),
    /// Its client asked for its end.
    Cancelling,
    /// The server ended it because the revisions it was at are gone.
    Compacted(i64),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Revisions never go back, and the changes of one come as they were made.
    Ordered,
    /// No change comes twice.
    Unique,
    /// No change between two that came is missing, nor one before the end.
    Reliable,
    /// The changes of one revision come in one response.
    Atomic,
    /// Who begins again after the last revision he saw, sees what follows.
    Resumable,
    /// What is announced as delivered has been delivered.
    Bookmarkable,
    /// Nothing comes that was not asked for.
    Filtered,
    /// A creation is told from a change.
    Creation,
    /// The value before is the value before.
    PreviousValue,
    /// A change is told as it was made.
    True,
    /// A watcher is ended for a compaction only if the compaction took what it still had to get.
    Kept,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
    /// The place in `told` where it was noticed.
    pub at: usize,
    /// The revision of the change that should have come, if one is missing.
    pub missing: Option<i64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// A watcher from its first request to its last response.
#[derive(Debug, Clone)]
pub struct Life {
    pub interest: Interest,
    pub start_revision: i64,
    pub told: Vec<Told>,
    /// It was still there at the end, so it must have got everything up to this revision.
    pub complete_to: Option<i64>,
}

/// Judges one watcher. The first violation, since the ones after it are mostly its echo. `Ok`: how many
/// events were judged.
pub fn check(history: &History, life: &Life) -> Result<u64, Violation> {
    let mut judge = Judge {
        history,
        interest: &life.interest,
        next: history.place(life.start_revision),
        position: life.start_revision,
        whole_to: life.start_revision - 1,
        bookmark: 0,
        resumed: false,
        open_fragment: None,
        compacted: 0,
        judged: 0,
    };
    check_order(life)?;
    for (at, told) in life.told.iter().enumerate() {
        judge.told(told).map_err(|violation| Violation { at, ..violation })?;
    }
    if let Some(end) = life.complete_to
        && let Some(missing) = judge.missing_up_to(end)
    {
        let what = format!("the end is missing: {}", shown(missing));
        let missing = Some(revision_of(missing));
        return Err(Violation { rule: Rule::Reliable, what, at: life.told.len(), missing });
    }
    Ok(judge.judged)
}

/// Revisions never go back between one beginning and the next. A pass of its own: the judge would call
/// the first of two exchanged changes a gap.
fn check_order(life: &Life) -> Result<(), Violation> {
    let mut seen: Vec<&Event> = Vec::new();
    for (at, told) in life.told.iter().enumerate() {
        match told {
            Told::Resumed(_) => seen.clear(),
            Told::Events { events, .. } => {
                for event in events {
                    if let Some(last) = seen.last()
                        && revision_of(event) < revision_of(last)
                    {
                        let rule = if seen.contains(&event) { Rule::Unique } else { Rule::Ordered };
                        let what = format!("{} after {}", shown(event), shown(last));
                        return Err(Violation { rule, what, at, missing: None });
                    }
                    seen.push(event);
                }
            }
            Told::Progress(_) | Told::Cancelling | Told::Compacted(_) => {}
        }
    }
    Ok(())
}

struct Judge<'a> {
    history: &'a History,
    interest: &'a Interest,
    /// The first event of the history that has not been passed.
    next: usize,
    /// The next revision to be delivered.
    position: i64,
    /// The last revision that came in a response of its own or in its last fragment.
    whole_to: i64,
    /// The highest revision that was announced as delivered.
    bookmark: i64,
    /// Nothing has come since the watcher began again.
    resumed: bool,
    /// The revision that a fragment left open.
    open_fragment: Option<i64>,
    compacted: i64,
    judged: u64,
}

fn violation(rule: Rule, what: String) -> Violation {
    Violation { rule, what, at: 0, missing: None }
}

fn shown(event: &Event) -> String {
    let kind = if is_delete(event) { "delete" } else { "put" };
    match &event.kv {
        None => format!("{kind} of nothing"),
        Some(kv) => format!(
            "{kind} of {:?} at revision {} (created {}, version {})",
            kv.key, kv.mod_revision, kv.create_revision, kv.version
        ),
    }
}

impl<'a> Judge<'a> {
    fn told(&mut self, told: &Told) -> Result<(), Violation> {
        match told {
            Told::Events { events, fragment, compacted } => {
                self.compacted = *compacted;
                let Some((first, last)) = events.first().zip(events.last()) else { return Ok(()) };
                let (first, last) = (revision_of(first), revision_of(last));
                // Twice is judged by the events; here only a revision that goes on where it had ended.
                let goes_on = self.open_fragment == Some(first);
                let split = !goes_on && first == self.whole_to && self.next_wanted_at(first).is_some();
                if split {
                    return Err(violation(Rule::Atomic, format!("revision {first} came in two responses")));
                }
                for event in events {
                    self.event(event)?;
                }
                self.open_fragment = fragment.then_some(last);
                if !fragment {
                    self.whole_to = last;
                    // The rest of the last revision must not be left for another response.
                    if let Some(rest) = self.next_wanted_at(last) {
                        return Err(violation(
                            Rule::Atomic,
                            format!("a response ends within revision {last}, before {}", shown(rest)),
                        ));
                    }
                }
                self.position = self.position.max(last + 1);
            }
            Told::Progress(revision) => {
                if let Some(missing) = self.missing_up_to(*revision) {
                    return Err(violation(
                        Rule::Bookmarkable,
                        format!("announced {revision} and did not deliver {}", shown(missing)),
                    ));
                }
                self.bookmark = self.bookmark.max(*revision);
                self.position = self.position.max(revision + 1);
            }
            Told::Resumed(revision) => {
                // Where to begin is the client's choice; from there on it is the server's duty.
                self.next = self.history.place(*revision);
                self.position = *revision;
                self.whole_to = revision - 1;
                self.bookmark = 0;
                self.open_fragment = None;
                self.resumed = true;
            }
            // What is on its way may come, and what comes must be right.
            Told::Cancelling => {}
            Told::Compacted(revision) => {
                if *revision <= self.position {
                    return Err(violation(
                        Rule::Kept,
                        format!("cancelled for a compaction at {revision}, and it was at {}", self.position),
                    ));
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), Violation> {
        self.judged += 1;
        let revision = revision_of(event);
        if !self.interest.wants(event) {
            return Err(violation(Rule::Filtered, shown(event)));
        }
        if revision <= self.bookmark {
            return Err(violation(
                Rule::Bookmarkable,
                format!("{} came after {} was announced", shown(event), self.bookmark),
            ));
        }
        let Some(expected) = self.next_wanted() else {
            return Err(self.out_of_place(event, None));
        };
        let known = &self.history.events[expected];
        if known.kv.as_ref().map(|kv| (&kv.key, kv.mod_revision))
            != event.kv.as_ref().map(|kv| (&kv.key, kv.mod_revision))
        {
            return Err(self.out_of_place(event, Some(known)));
        }
        self.same(event, known, expected)?;
        self.next = expected + 1;
        self.resumed = false;
        Ok(())
    }

    /// Why an event is not the one that must come next.
    fn out_of_place(&self, event: &Event, expected: Option<&Event>) -> Violation {
        let name = |event: &Event| event.kv.as_ref().map(|kv| (kv.key.clone(), kv.mod_revision));
        let place = self.history.events.iter().position(|known| name(known) == name(event));
        let expected_text = expected.map_or("nothing".to_owned(), shown);
        let what = format!("{} came where {expected_text} was next", shown(event));
        match place {
            None => violation(Rule::True, format!("{} never happened", shown(event))),
            Some(place) if place < self.next => {
                // It has been passed: delivered before, or skipped, which would have been told already.
                violation(Rule::Unique, what)
            }
            // Within a revision an earlier change still to come means a wrong order.
            Some(_) if expected.is_some_and(|next| revision_of(next) == revision_of(event)) => {
                violation(Rule::Ordered, what)
            }
            Some(_) => {
                let rule = if self.resumed { Rule::Resumable } else { Rule::Reliable };
                Violation { missing: expected.map(revision_of), ..violation(rule, what) }
            }
        }
    }

    fn same(&self, event: &Event, known: &Event, place: usize) -> Result<(), Violation> {
        let (told, true_kv) = (event.kv.as_ref().expect("named"), known.kv.as_ref().expect("named"));
        let created = |event: &Event, kv: &KeyValue| {
            !is_delete(event) && kv.create_revision == kv.mod_revision && kv.version == 1
        };
        if created(event, told) != created(known, true_kv) {
            return Err(violation(Rule::Creation, format!("{} told as {}", shown(known), shown(event))));
        }
        if event.r#type != known.r#type || told != true_kv {
            return Err(violation(Rule::True, format!("{} told as {}", shown(known), shown(event))));
        }
        // A compaction takes the value before; then nothing is told rather than something.
        let before = &self.history.previous[place];
        let is_asked = self.interest.prev_kv;
        let is_gone = revision_of(known) - 1 < self.compacted;
        match (&event.prev_kv, before) {
            (None, None) => Ok(()),
            (None, Some(_)) if !is_asked || is_gone => Ok(()),
            (Some(told), Some(before)) if is_asked && told == before => Ok(()),
            (told, _) => Err(violation(
                Rule::PreviousValue,
                format!("{}: {told:?} instead of {before:?}", shown(known)),
            )),
        }
    }

    fn next_wanted(&self) -> Option<usize> {
        let rest = self.history.events[self.next..].iter();
        rest.enumerate().find(|(_, event)| self.interest.wants(event)).map(|(offset, _)| self.next + offset)
    }

    fn next_wanted_at(&self, revision: i64) -> Option<&'a Event> {
        let event = &self.history.events[self.next_wanted()?];
        (revision_of(event) == revision).then_some(event)
    }

    fn missing_up_to(&self, revision: i64) -> Option<&'a Event> {
        let event = &self.history.events[self.next_wanted()?];
        (revision_of(event) <= revision).then_some(event)
    }
}
