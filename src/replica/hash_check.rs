//! Whether members hold the same data: what each is asked, and what the answers mean.
//!
//! One member, the asker, hashes its key space at its current revision and asks all others for theirs
//! at that revision. They answer when they have applied everything that was committed when the
//! question came, so whatever the asker had applied by then, they have: a revision that they do not
//! know, or a compaction that they have not made, is as much a difference as another hash.
//! A compaction that the asker has not made yet is none: it may have come in between. Then, and where
//! no answer came, nothing was checked, which is never taken for "the same".
//!
//! Who is wrong, the majority decides. Invariant: without one nobody is named.
//! Compatibility: the messages are on the wire; an outcome that is not known counts as no answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{Outcome, Rejection};
use crate::types::MemberId;

/// A member's data at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    pub revision: i64,
    pub compact_revision: i64,
    pub hash: u32,
}

/// What a member answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashReport {
    Hash(Fingerprint),
    /// It has compacted the revision.
    Compacted,
    /// Its newest revision is this one, below the one it was asked for.
    Behind {
        revision: i64,
    },
    /// It gave no answer, and why.
    Nothing(String),
}

/// Numbers of `HashAnswer.outcome`.
mod outcome {
    pub(super) const HASH: u32 = 0;
    pub(super) const COMPACTED: u32 = 1;
    pub(super) const BEHIND: u32 = 2;
}

impl HashReport {
    /// What the state machine says to a HashKV.
    #[must_use]
    pub fn from_outcome(outcome: Outcome) -> Self {
        match outcome {
            Ok(response) => match pb::HashKvResponse::decode(&*response.body) {
                Ok(answer) => Self::Hash(Fingerprint {
                    revision: answer.hash_revision,
                    compact_revision: answer.compact_revision,
                    hash: answer.hash,
                }),
                Err(error) => unreachable!("the state machine's own answer: {error}"),
            },
            Err(Rejection::Compacted { .. }) => Self::Compacted,
            Err(Rejection::FutureRevision { current, .. }) => Self::Behind { revision: current },
            Err(rejection) => Self::Nothing(rejection.to_string()),
        }
    }

    /// As it is sent; `None` when there is nothing to tell but a reason.
    #[must_use]
    pub fn encode(&self) -> Option<Bytes> {
        let answer = match *self {
            Self::Hash(Fingerprint { revision, compact_revision, hash }) => {
                peer::HashAnswer { outcome: outcome::HASH, hash, compact_revision, revision }
            }
            Self::Compacted => peer::HashAnswer { outcome: outcome::COMPACTED, ..Default::default() },
            Self::Behind { revision } => {
                peer::HashAnswer { outcome: outcome::BEHIND, revision, ..Default::default() }
            }
            Self::Nothing(_) => return None,
        };
        Some(answer.encode_to_vec().into())
    }

    /// As it was received, from a member that was asked for `revision`.
    #[must_use]
    pub fn decode(bytes: Bytes, revision: i64) -> Self {
        let answer = match peer::HashAnswer::decode(bytes) {
            Ok(answer) => answer,
            Err(error) => return Self::Nothing(format!("its answer does not decode: {error}")),
        };
        match answer.outcome {
            outcome::HASH if answer.revision == revision => Self::Hash(Fingerprint {
                revision,
                compact_revision: answer.compact_revision,
                hash: answer.hash,
            }),
            outcome::COMPACTED => Self::Compacted,
            outcome::BEHIND if answer.revision < revision => Self::Behind { revision: answer.revision },
            outcome::HASH | outcome::BEHIND => {
                Self::Nothing(format!("it speaks of revision {}, not {revision}", answer.revision))
            }
            other => Self::Nothing(format!("outcome {other}, which this version does not know")),
        }
    }
}

/// What members were found to have alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    Hash(u32),
    /// Its newest revision, where it must have a later one.
    Behind(i64),
    /// Its compact revision, where it must have a later one.
    Uncompacted(i64),
}

/// What a comparison showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    pub own: Fingerprint,
    /// The asker among them. Each member's list is in the order of the ids.
    pub groups: BTreeMap<Content, Vec<MemberId>>,
    /// Who was not compared, and why.
    pub unchecked: Vec<(MemberId, String)>,
    /// More than half of all members.
    quorum: usize,
    is_overtaken: bool,
}

impl Findings {
    /// Compares the asker's data with what the others said; together they are all members.
    #[must_use]
    pub fn new(asker: MemberId, own: Fingerprint, others: Vec<(MemberId, HashReport)>) -> Self {
        let members = others.len() + 1;
        let quorum = members / 2 + 1;
        let mut groups = BTreeMap::from([(Content::Hash(own.hash), vec![asker])]);
        let (mut unchecked, mut is_overtaken) = (Vec::new(), false);
        for (member, told) in others {
            let content = match told {
                HashReport::Hash(theirs) if theirs.compact_revision == own.compact_revision => {
                    Ok(Content::Hash(theirs.hash))
                }
                HashReport::Hash(theirs) if theirs.compact_revision < own.compact_revision => {
                    Ok(Content::Uncompacted(theirs.compact_revision))
                }
                HashReport::Behind { revision } => Ok(Content::Behind(revision)),
                HashReport::Hash(_) | HashReport::Compacted => {
                    is_overtaken = true;
                    Err("it was compacted meanwhile".to_owned())
                }
                HashReport::Nothing(reason) => Err(reason),
            };
            match content {
                Ok(content) => groups.entry(content).or_default().push(member),
                Err(reason) => unchecked.push((member, reason)),
            }
        }
        groups.values_mut().for_each(|members| members.sort_unstable());
        Self { own, groups, unchecked, quorum, is_overtaken }
    }

    /// Whether all that were compared have the same.
    #[must_use]
    pub fn agree(&self) -> bool {
        self.groups.len() == 1
    }

    /// Whether a compaction came in between, so that one a moment later may show more.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        self.is_overtaken
    }

    /// Whether everybody was compared.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unchecked.is_empty()
    }

    fn majority(&self) -> Option<Content> {
        let mut groups = self.groups.iter();
        groups.find(|(_, members)| self.quorum <= members.len()).map(|(content, _)| *content)
    }

    /// Whose data is wrong: all that differ from a majority of the members. Member 0, "somebody", when
    /// there is no majority.
    #[must_use]
    pub fn suspects(&self) -> Vec<MemberId> {
        if self.agree() {
            return Vec::new();
        }
        let Some(majority) = self.majority() else { return vec![MemberId(0)] };
        let others = self.groups.iter().filter(|(content, _)| **content != majority);
        let mut suspects: Vec<MemberId> = others.flat_map(|(_, members)| members.iter().copied()).collect();
        suspects.sort_unstable();
        suspects
    }

    /// Whether the asker may serve: nobody differs from it, or it is those who are wrong.
    #[must_use]
    pub fn clears_asker(&self) -> bool {
        self.agree() || self.majority() == Some(Content::Hash(self.own.hash))
    }

    /// Who has what, for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let Fingerprint { revision, compact_revision, .. } = self.own;
        let groups = self.groups.iter().map(|(content, members)| {
            let members: Vec<String> = members.iter().map(ToString::to_string).collect();
            let what = match content {
                Content::Hash(hash) => format!("hash {hash:08x}"),
                Content::Behind(revision) => format!("no revision after {revision}"),
                Content::Uncompacted(revision) => format!("no compaction after {revision}"),
            };
            format!("{what}: {}", members.join(", "))
        });
        let groups: Vec<String> = groups.collect();
        format!("at revision {revision}, compacted at {compact_revision}: {}", groups.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Response;

    const OWN: Fingerprint = Fingerprint { revision: 90, compact_revision: 50, hash: 7 };

    fn hash(hash: u32) -> HashReport {
        HashReport::Hash(Fingerprint { hash, ..OWN })
    }

    fn findings(others: &[HashReport]) -> Findings {
        let others = others.iter().zip(2..).map(|(told, id)| (MemberId(id), told.clone())).collect();
        Findings::new(MemberId(1), OWN, others)
    }

    fn suspects(others: &[HashReport]) -> Vec<u64> {
        findings(others).suspects().iter().map(|member| member.0).collect()
    }

    #[test]
    fn whoever_differs_from_a_majority_is_named_the_asker_too() {
        assert_eq!(suspects(&[]), [0_u64; 0]);
        assert_eq!(suspects(&[hash(7), hash(7)]), [0_u64; 0]);
        assert_eq!(suspects(&[hash(7), hash(8)]), [3]);
        assert_eq!(suspects(&[hash(8), hash(8)]), [1]);
        assert_eq!(suspects(&[hash(7), hash(7), hash(8), hash(9)]), [4, 5]);
        assert_eq!(suspects(&[hash(8), hash(8), hash(8), hash(9)]), [1, 5]);
        assert!(findings(&[hash(7), hash(8)]).clears_asker());
        assert!(!findings(&[hash(8), hash(8)]).clears_asker());
    }

    #[test]
    fn without_a_majority_of_all_members_nobody_is_named() {
        assert_eq!(suspects(&[hash(8)]), [0]);
        assert_eq!(suspects(&[hash(8), hash(9)]), [0]);
        assert_eq!(suspects(&[hash(7), hash(8), hash(8)]), [0], "two of four are none");
        // Two agree, which is not a majority of five.
        let silent = || HashReport::Nothing("down".to_owned());
        assert_eq!(suspects(&[hash(7), hash(8), silent(), silent()]), [0]);
        assert!(!findings(&[hash(7), hash(8), silent(), silent()]).clears_asker());
    }

    #[test]
    fn what_was_not_compared_is_neither_equal_nor_different() {
        let newer = HashReport::Hash(Fingerprint { compact_revision: 60, hash: 8, ..OWN });
        for told in [HashReport::Nothing("down".to_owned()), HashReport::Compacted, newer] {
            let findings = findings(&[told.clone(), hash(7)]);
            assert!(findings.agree() && !findings.is_complete(), "{told:?}");
            assert_eq!(findings.is_overtaken(), !matches!(told, HashReport::Nothing(_)));
            assert_eq!(findings.unchecked[0].0, MemberId(2));
        }
        assert!(findings(&[hash(7), hash(7)]).is_complete());
    }

    #[test]
    fn a_member_that_lacks_a_revision_or_a_compaction_differs() {
        assert_eq!(suspects(&[HashReport::Behind { revision: 89 }, hash(7)]), [2]);
        let older = HashReport::Hash(Fingerprint { compact_revision: 40, ..OWN });
        assert_eq!(suspects(&[hash(7), older]), [3], "the same hash by chance");
        let all_behind = [HashReport::Behind { revision: 89 }, HashReport::Behind { revision: 89 }];
        assert_eq!(suspects(&all_behind), [1], "the asker has a revision that nobody else has");
    }

    #[test]
    fn the_log_tells_who_has_what() {
        let text = findings(&[hash(7), HashReport::Behind { revision: 80 }]).describe();
        let told = "at revision 90, compacted at 50: hash 00000007: 1, 2; no revision after 80: 3";
        assert_eq!(text, told);
    }

    #[test]
    fn answers_arrive_as_they_were_sent_and_others_are_no_answer() {
        for told in [hash(0xffff_ffff), HashReport::Compacted, HashReport::Behind { revision: 1 }] {
            assert_eq!(HashReport::decode(told.encode().unwrap(), OWN.revision), told);
        }
        assert_eq!(HashReport::Nothing("why".to_owned()).encode(), None);
        let is_nothing =
            |bytes: Bytes| matches!(HashReport::decode(bytes, OWN.revision), HashReport::Nothing(_));
        let other = HashReport::Hash(Fingerprint { revision: 91, ..OWN });
        assert!(is_nothing(other.encode().unwrap()), "of another revision");
        assert!(is_nothing(HashReport::Behind { revision: 90 }.encode().unwrap()), "not behind at all");
        assert!(is_nothing(Bytes::from_static(b"\xff\xff")));
        let later = peer::HashAnswer { outcome: 9, ..Default::default() };
        assert!(is_nothing(later.encode_to_vec().into()));
    }

    #[test]
    fn the_state_machines_words_become_answers() {
        let body = pb::HashKvResponse { header: None, hash: 7, compact_revision: 50, hash_revision: 90 };
        let response = Response { revision: 95, body: body.encode_to_vec(), resume: None };
        assert_eq!(HashReport::from_outcome(Ok(response)), hash(7));
        let compacted = Rejection::Compacted { required: 90, compacted: 99 };
        assert_eq!(HashReport::from_outcome(Err(compacted)), HashReport::Compacted);
        let future = Rejection::FutureRevision { required: 90, current: 80 };
        assert_eq!(HashReport::from_outcome(Err(future)), HashReport::Behind { revision: 80 });
    }

    #[test]
    fn golden_bytes_of_question_and_answer() {
        let question = peer::HashQuestion { revision: 90 };
        assert_eq!(question.encode_to_vec(), b"\x08\x5a");
        let answer = hash(7).encode().unwrap();
        assert_eq!(&*answer, b"\x15\x07\x00\x00\x00\x18\x64\x20\xb4\x01");
        let behind = HashReport::Behind { revision: 1 }.encode().unwrap();
        assert_eq!(&*behind, b"\x08\x02\x20\x02");
    }
}
