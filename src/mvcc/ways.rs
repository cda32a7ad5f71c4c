//! Ways through the key index that a look ahead has gone, for the searches that follow it.
//!
//! A way leads to a leaf for as long as the tree keeps its shape. A key that lies between two keys of a leaf is in that
//! leaf or nowhere, so a search may try any way: a wrong one costs a look at a leaf, and is never believed.

/// Levels above the leaves; a higher tree has no ways. Half full it holds 2^25 keys.
pub(super) const LEVELS_MAX: usize = 5;

/// Inner nodes and the children taken, root first, and the leaf.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Way {
    pub(super) steps: [(u32, u32); LEVELS_MAX],
    pub(super) leaf: u32,
}

/// The ways of the last look ahead that no search has tried.
#[derive(Debug, Default)]
pub(super) struct Ways {
    ways: Vec<Way>,
    tried: usize,
}

impl Ways {
    /// The tree has another shape, or is looked at anew.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.ways.clear();
        self.tried = 0;
    }

    /// Keeps these, for keys that will be looked for in their order.
    #[inline]
    pub(super) fn keep(&mut self, ways: &[Way]) {
        self.clear();
        self.ways.extend_from_slice(ways);
    }

    #[inline]
    pub(super) fn take_next(&mut self) -> Option<Way> {
        let way = self.ways.get(self.tried).copied();
        self.tried += usize::from(way.is_some());
        way
    }
}
