//! Logins: in whose name a request is made, where rights are asked for.

use bytes::Bytes;

use crate::types::{Feature, FormatLevel};

/// A user, as a request shows it. What it may do is looked up when the request is applied or read.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Of the user; UTF-8 unless it came out of a log that another version wrote.
    pub name: Bytes,
    /// The auth revision at which the user was known. Rights that have changed since refuse the request.
    pub revision: u64,
}

impl Login {
    /// Of what a member asks for itself; it may everything.
    #[must_use]
    pub const fn member() -> Self {
        Self { name: Bytes::new(), revision: u64::MAX }
    }

    /// The same for a request that goes into the log. Below the level of users and roles nobody asks for it,
    /// and an earlier release would not know it.
    #[must_use]
    pub fn of_member(level: FormatLevel) -> Option<Self> {
        level.allows(Feature::Auth).then(Self::member)
    }

    /// Whether it is a member's own.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.revision == u64::MAX && self.name.is_empty()
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", String::from_utf8_lossy(&self.name), self.revision)
    }
}
