//! `--experimental-serializable-ordering`: the newest revision that any client of this proxy was answered with, which no
//! later answer to a read may be older than.
//!
//! A read says that revision to the member (`pinion-not-older-than`): one of Pinion waits until it has applied it. One of
//! etcd knows no such thing, so its answer is looked at, and an older one is thrown away and asked for elsewhere.
//!
//! Compatibility: etcd's, whose wrapper shares what it has seen among all its callers, asks at most `ROUNDS_MAX` times as
//! often as there are endpoints, and has this text. Other than there, writes count as seen, too.

use std::sync::atomic::{AtomicI64, Ordering};

use prost::Message as _;

use crate::pb::etcdserverpb as pb;
use crate::rpc::{Code, Status};
use crate::types::proto::take_bytes_field;

/// Times that each endpoint may answer with something older.
pub(in crate::shell) const ROUNDS_MAX: usize = 5;

/// What is said when all of them did.
pub(in crate::shell) fn no_greater_revision() -> Status {
    let message =
        "etcdclient: no cluster members have a revision higher than the previously received revision";
    Status { code: Code::Unknown, message: message.into() }
}

/// The newest revision so far, for all shards of a proxy.
#[derive(Debug, Default)]
pub(in crate::shell) struct Seen(AtomicI64);

impl Seen {
    pub(in crate::shell) fn revision(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    /// A client is about to be answered with this revision.
    pub(in crate::shell) fn note(&self, revision: i64) {
        self.0.fetch_max(revision, Ordering::AcqRel);
    }
}

/// The revision in the header with which an answer begins, of which this much is there; None: there is none.
pub(in crate::shell) fn revision_of(answer: &[u8]) -> Option<i64> {
    /// Its field in every answer.
    const HEADER: u8 = 1;
    let header = take_bytes_field(&mut &*answer, HEADER)?;
    pb::ResponseHeader::decode(header).ok().map(|header| header.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_never_goes_back() {
        let seen = Seen::default();
        for (revision, then) in [(5, 5), (3, 5), (0, 5), (-1, 5), (6, 6)] {
            seen.note(revision);
            assert_eq!(seen.revision(), then);
        }
    }

    #[test]
    fn a_header_is_read_off_the_beginning_of_an_answer_and_of_nothing_else() {
        let header =
            pb::ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: 1 << 40, raft_term: 3 };
        let answer =
            pb::RangeResponse { header: Some(header), count: 7, ..Default::default() }.encode_to_vec();
        assert_eq!(revision_of(&answer), Some(1 << 40));
        assert_eq!(revision_of(&answer[..answer.len() - 1]), Some(1 << 40));
        for cut in 0..20 {
            assert_eq!(revision_of(&answer[..cut]), None, "{cut}");
        }
        let without = pb::RangeResponse { count: 7, ..Default::default() }.encode_to_vec();
        assert_eq!(revision_of(&without), None);
        assert_eq!(revision_of(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), None);
    }
}
