//! Lives of members: what tells a member that lost its data from the one that others have met.
//!
//! A member's id follows from flags, so a member that begins anew in an empty directory has the same id, and
//! terms and positions of its log may fit the others' by chance. Its *life* is drawn when its directory is
//! made and kept there. Members note each other's lives where they dial, and talk to no other life again:
//! each of two histories may have answered clients, and nobody but an operator can say which one counts.
//!
//! 0 is the life of a release that has none. Nothing is noted of it, and it is refused only where a later
//! release would say one.

use std::collections::BTreeMap;

use crate::types::{FormatLevel, MemberId};

/// This member's life, and those of the others that it has met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lives {
    pub own: u64,
    pub known: BTreeMap<MemberId, u64>,
}

impl Lives {
    /// The life in which `member` is known; 0 for none.
    #[must_use]
    pub fn of(&self, member: MemberId) -> u64 {
        self.known.get(&member).copied().unwrap_or(0)
    }

    /// Notes who answered. Whether that is news.
    pub fn meet(&mut self, member: MemberId, life: u64) -> bool {
        let is_news = life != 0 && !self.known.contains_key(&member);
        if is_news {
            self.known.insert(member, life);
        }
        is_news
    }

    /// Whether a process that does not say its life may be `member`: not one that has a life in what this member
    /// knows, and reads a format level that came after lives did.
    ///
    /// # Errors
    /// Why not.
    pub fn check_told(&self, member: MemberId, life: u64, reads: FormatLevel) -> Result<(), String> {
        if life == 0 && self.of(member) != 0 && FormatLevel::LOWEST < reads {
            return Err(format!(
                "a process that calls itself member {member} does not say which life it is in, as every release that \
                 reads format level {reads} does: it is no member. Find out who it is, and keep it off the peer port"
            ));
        }
        Ok(())
    }

    /// Judges a conversation between `member`, in its life `theirs`, which knows this one in `ours`, and this
    /// member `own`.
    ///
    /// # Errors
    /// Why not: one of the two is not the one that the other has met.
    pub fn judge(&self, own: MemberId, member: MemberId, theirs: u64, ours: u64) -> Result<(), String> {
        let differ = |known: u64, told: u64| known != 0 && told != 0 && known != told;
        let anew = if differ(self.of(member), theirs) {
            member
        } else if differ(ours, self.own) {
            own
        } else {
            return Ok(());
        };
        let old = if anew == member { own } else { member };
        Err(format!(
            "member {anew} has begun anew with an empty data directory since member {old} met it, so the two may hold \
             different histories of one cluster. If the newer one counts, remove member {old} from the cluster, empty its \
             data directory and add it again; if the older one counts, stop the members that began anew, and start \
             member {old} with --force-new-cluster"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MemberId = MemberId(1);
    const OTHER: MemberId = MemberId(2);

    #[test]
    fn who_began_anew_is_named_on_both_sides_and_versions_without_lives_are_welcome() {
        let mut lives = Lives { own: 10, ..Lives::default() };
        assert!(!lives.meet(OTHER, 0), "nothing to note");
        assert!(lives.meet(OTHER, 20) && !lives.meet(OTHER, 21));
        assert_eq!(lives.of(OTHER), 20);
        for (theirs, ours, anew) in [
            (20, 10, None),
            (20, 0, None),
            (0, 0, None),
            (0, 10, None),
            (21, 0, Some(OTHER)),
            (21, 10, Some(OTHER)),
            (20, 11, Some(OWN)),
            (0, 11, Some(OWN)),
        ] {
            let judged = lives.judge(OWN, OTHER, theirs, ours);
            match anew {
                None => assert_eq!(judged, Ok(()), "{theirs} {ours}"),
                Some(anew) => {
                    let begins = format!("member {anew} has begun anew");
                    assert!(judged.unwrap_err().starts_with(&begins), "{theirs} {ours}");
                }
            }
        }
        // Who says none is an earlier release, or nobody.
        assert!(lives.check_told(OTHER, 0, FormatLevel::LOWEST).is_ok(), "went back a release");
        assert!(lives.check_told(OTHER, 0, FormatLevel(1)).unwrap_err().contains("does not say which life"));
        assert!(lives.check_told(OTHER, 20, FormatLevel(1)).is_ok());
        assert!(lives.check_told(MemberId(3), 0, FormatLevel(1)).is_ok(), "not met yet");
        // A member of before this version, which has no life of its own.
        assert_eq!(Lives::default().judge(OWN, OTHER, 20, 10), Ok(()));
    }
}
