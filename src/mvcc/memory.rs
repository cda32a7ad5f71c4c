//! Memory for the revision log that was touched before it is needed.
//!
//! The first touch of memory costs the kernel a page that it clears, and on a virtual machine often the host another
//! one: a third of a put, and more of a large value's. Whoever owns a store may have it touched elsewhere, on a core
//! that has nothing better to do, and hand it in ahead of time. A store that gets none takes fresh memory as it needs
//! it, so nothing depends on it.

/// Pieces that a log keeps for later: what it writes while a helper makes the next ones.
const SPARES_MAX: usize = 16;

/// Their bytes together. A record of more than that has a piece to itself, for which nothing is kept.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// Takes memory for its records ahead of time.
pub trait TakesMemory {
    /// Bytes of each piece that it will need next, and how many it has room for.
    fn wanted_memory(&self) -> (usize, usize);

    /// Takes a piece of touched memory; one of another size than it needs is let go.
    fn supply_memory(&mut self, piece: Vec<u8>);
}

/// Pieces of memory, each for a chunk.
#[derive(Debug, Default)]
pub(super) struct Spares {
    pieces: Vec<Vec<u8>>,
    /// Bytes of the piece that was needed last.
    bytes: usize,
}

impl Spares {
    /// A piece of so many bytes, from what was supplied if that fits.
    pub(super) fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.bytes = bytes;
        while let Some(piece) = self.pieces.pop() {
            // Not much more: what a closed chunk does not use is copied away.
            if (bytes..=bytes + bytes / 32).contains(&piece.capacity()) {
                return piece;
            }
        }
        Vec::with_capacity(bytes)
    }
}

impl TakesMemory for Spares {
    fn wanted_memory(&self) -> (usize, usize) {
        // Before the first write nobody knows how large a piece is.
        let most = SPARE_BYTES_MAX.checked_div(self.bytes).unwrap_or(0).min(SPARES_MAX);
        (self.bytes, most.saturating_sub(self.pieces.len()))
    }

    fn supply_memory(&mut self, piece: Vec<u8>) {
        assert!(piece.is_empty(), "spare memory holds nothing");
        let (bytes, room) = self.wanted_memory();
        if 0 < room && (bytes..=2 * bytes).contains(&piece.capacity()) {
            self.pieces.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_was_supplied_is_used_where_its_size_fits_and_let_go_where_it_does_not() {
        let mut spares = Spares::default();
        assert_eq!(spares.wanted_memory(), (0, 0));
        assert!(1_000 <= spares.take(1_000).capacity());
        assert_eq!(spares.wanted_memory(), (1_000, SPARES_MAX));
        let piece = Vec::with_capacity(1_010);
        let place = piece.as_ptr();
        spares.supply_memory(Vec::with_capacity(1_500));
        spares.supply_memory(Vec::with_capacity(5_000));
        spares.supply_memory(piece);
        assert_eq!(spares.wanted_memory(), (1_000, SPARES_MAX - 2), "what is far too large is not kept");
        let taken = spares.take(1_000);
        assert_eq!(taken.as_ptr(), place);
        // The larger one would leave much of itself unused.
        assert!(spares.take(1_000).capacity() < 1_500);
        assert_eq!(spares.wanted_memory(), (1_000, SPARES_MAX));
        for _ in 0..2 * SPARES_MAX {
            spares.supply_memory(Vec::with_capacity(1_000));
        }
        assert_eq!(spares.wanted_memory(), (1_000, 0));
        // Large values keep few pieces, and the largest none.
        drop(spares.take(1 << 20));
        assert_eq!(spares.wanted_memory(), (1 << 20, SPARE_BYTES_MAX >> 20));
        drop(spares.take(50 << 20));
        assert_eq!(spares.wanted_memory(), (50 << 20, 0));
        spares.supply_memory(Vec::with_capacity(50 << 20));
        assert_eq!(spares.pieces.len(), 0);
    }
}
