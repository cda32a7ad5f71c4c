//! Credentials that a connection's requests show again by an index of HPACK's table.
//!
//! The decoder behind makes a field of a map of each of them, for every request: two copies of a reference, a hash of the
//! name and a place. Most clients show the same one with every call. So the gate leaves such a field out and remembers
//! from which stream on it is shown; whoever takes the request asks for it by the stream.
//!
//! Invariants: streams grow from run to run; two runs that follow each other differ.
//! Bounded: `RUNS_MAX` credentials of `VALUE_BYTES_MAX` wait for their requests. A request that would need one more, and one
//! with two credentials, keeps its field.
//! Cost: O(1) a request, and a copy of the value when it changes.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::table::Known;

/// Users of one connection whose requests the decoder holds at a time, as behind a proxy.
const RUNS_MAX: usize = 4;

/// A JSON web token of etcd's has some 500 to 1,000 bytes.
const VALUE_BYTES_MAX: usize = 2 << 10;

/// A header field that says who calls.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `token` or `authorization`.
    pub name: Bytes,
    pub value: Bytes,
}

impl std::fmt::Debug for Credential {
    // Who can read a token can use it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the requests from a stream on show.
#[derive(Debug)]
struct Run {
    first: u32,
    /// With the number of its entry in the table. None: what they show is in their fields.
    shown: Option<(u64, Rc<Credential>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Credentials(VecDeque<Run>);

impl Credentials {
    /// A new request shows the entry with this number, by which it may be left out. False: it has to stay.
    pub(super) fn leave_out(&mut self, stream: u32, serial: u64, known: &Known<'_>) -> bool {
        if self.0.back().is_some_and(|run| run.shown.as_ref().is_some_and(|(last, _)| *last == serial)) {
            return true;
        }
        if RUNS_MAX <= self.0.len() || VALUE_BYTES_MAX < known.value.len() {
            return false;
        }
        let name = Bytes::copy_from_slice(known.name);
        let credential = Rc::new(Credential { name, value: Bytes::copy_from_slice(known.value) });
        self.0.push_back(Run { first: stream, shown: Some((serial, credential)) });
        true
    }

    /// A new request has all its fields.
    pub(super) fn keep(&mut self, stream: u32) {
        if self.0.back().is_some_and(|run| run.shown.is_some()) {
            self.0.push_back(Run { first: stream, shown: None });
        }
    }

    /// What was left out of the request on `stream`. They are asked for in the order of their streams.
    pub(super) fn of(&mut self, stream: u32) -> Option<Rc<Credential>> {
        while self.0.get(1).is_some_and(|next| next.first <= stream) {
            self.0.pop_front();
        }
        let run = self.0.front().filter(|run| run.first <= stream)?;
        run.shown.as_ref().map(|(_, credential)| Rc::clone(credential))
    }

    /// Memory that this takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let values = self.0.iter().filter_map(|run| run.shown.as_ref());
        values.map(|(_, credential)| credential.name.len() + credential.value.len()).sum::<usize>()
            + self.0.capacity() * size_of::<Run>()
    }
}
