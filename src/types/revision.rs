//! The version number of the key space.

/// One change to the key space. `main` counts committed write requests (a fresh store is at 1, the
/// first write makes 2); `sub` counts the changes inside one request, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    /// The first change of request `main`.
    #[must_use]
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }
}
