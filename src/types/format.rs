//! Format levels: what members may write that an earlier release cannot read.
//!
//! A cluster has one level, which is state like any other: it begins at 0 and is raised by an entry of the log
//! (`RequestKind::FormatLevel`), once every member has said that it reads the next level (`replica::format_gate`).
//! Whatever is new in an entry, a checkpoint, the log's files or a message is written at its level and above,
//! and never below. So members of two releases work together while a cluster is updated, and going back
//! is possible until the level is raised.
//!
//! A change that an earlier release would misread, or end on, adds a line to `RELEASES`, a [`Feature`] with its
//! level, and where the new form is written it asks [`FormatLevel::allows`] of the level that this member has
//! applied. Reading needs no level: a release reads everything up to [`FormatLevel::HIGHEST`]. Two changes of
//! one release share a level.
//!
//! Invariants: levels are never removed or reused; each one includes all below it.
//! Compatibility: a level's number is in entries, checkpoints and Hello. `ARCHITECTURE.md` ("Versions and the
//! format gate") lists everything on disk and between members, and what keeps each from an earlier release.

use std::fmt;

/// The etcd storage layout that a backup of this member follows.
pub const ETCD_STORAGE_VERSION: &str = "3.7.0";

/// The first release that reads each level, from level 0 on.
const RELEASES: [&str; 4] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0"];

/// How new the things are that members write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FormatLevel(pub u32);

/// Something that the first release did not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The level in a checkpoint, and the entry that raises it. That entry is the first thing of its level.
    LevelItself,
    /// A request in parts (`request::part`), and those of a checkpoint that wait for the rest.
    RequestParts,
    /// Users and roles: requests about them, logins in requests, and their records in a checkpoint.
    Auth,
    /// Directories over HTTP: writes of nodes, marks of changes, and directories and deadlines in a checkpoint.
    Nodes,
    /// Logins that have a digest of the token in the token's place.
    TokenDigests,
}

impl Feature {
    /// The table: from which level on it is written.
    const fn level(self) -> FormatLevel {
        match self {
            Self::LevelItself => FormatLevel(1),
            Self::RequestParts | Self::Auth => FormatLevel(2),
            Self::Nodes | Self::TokenDigests => FormatLevel(3),
        }
    }
}

impl FormatLevel {
    /// The level of a cluster that never raised it.
    pub const LOWEST: Self = Self(0);

    /// The highest one that this release reads and writes.
    pub const HIGHEST: Self = Self(3);

    /// Whether a member of a cluster at this level may write it.
    #[must_use]
    pub const fn allows(self, feature: Feature) -> bool {
        feature.level().0 <= self.0
    }

    /// The one above.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The releases that read this level, for a person.
    #[must_use]
    pub fn releases(self) -> String {
        match usize::try_from(self.0).ok().and_then(|level| RELEASES.get(level)) {
            Some(first) => format!("release {first} or a later one"),
            None => format!("a later release than {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

const _: () = assert!(FormatLevel::HIGHEST.0 as usize + 1 == RELEASES.len(), "each level names its release");

impl fmt::Display for FormatLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: [Feature; 5] =
        [Feature::LevelItself, Feature::RequestParts, Feature::Auth, Feature::Nodes, Feature::TokenDigests];

    #[test]
    fn each_level_allows_what_is_its_own_and_what_is_below() {
        for feature in FEATURES {
            for level in 0..5 {
                let is_allowed = feature.level() <= FormatLevel(level);
                assert_eq!(FormatLevel(level).allows(feature), is_allowed, "{feature:?} at {level}");
            }
        }
        assert!(!FormatLevel(1).allows(Feature::Auth) && FormatLevel(2).allows(Feature::Auth));
        assert!(!FormatLevel(2).allows(Feature::Nodes) && FormatLevel(3).allows(Feature::Nodes));
    }

    #[test]
    fn no_feature_is_above_the_highest_level_and_none_is_written_at_the_lowest() {
        for feature in FEATURES {
            assert!(FormatLevel::LOWEST < feature.level(), "{feature:?}: the first release does not read it");
            assert!(feature.level() <= FormatLevel::HIGHEST, "{feature:?}: RELEASES lacks its level");
        }
    }

    #[test]
    fn highest_level_is_of_this_release_or_of_one_before_it() {
        let number = |release: &str| -> Vec<u32> {
            release.split('.').map(|part| part.parse().expect("a release is three numbers")).collect()
        };
        assert!(RELEASES.is_sorted_by_key(|release| number(release)));
        let newest = RELEASES.last().expect("there is a first release");
        assert!(number(newest) <= number(env!("CARGO_PKG_VERSION")));
        assert_eq!(FormatLevel::HIGHEST.releases(), format!("release {newest} or a later one"));
        assert!(FormatLevel::HIGHEST.next().releases().starts_with("a later release than"));
    }
}
