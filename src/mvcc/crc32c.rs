//! CRC-32C (Castagnoli) of many small pieces, by the processor's own instruction where it has one.
//!
//! A record of `HashKV` is a handful of pieces of a few bytes. Each call into the checksum costs as much as
//! some fifty bytes of it, so small pieces are gathered first.
//! `crc32fast` is another polynomial (IEEE), which the log and the checkpoints use.

/// Bytes gathered before they are summed: a few records of usual size.
const GATHERED_BYTES: usize = 512;

/// A checksum being computed.
#[derive(Clone, Copy)]
pub(super) struct Crc32c {
    /// Of all before what is gathered.
    sum: u32,
    gathered_bytes: usize,
    gathered: Gathered,
}

/// Aligned, so that the checksum begins with whole words.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Gathered([u8; GATHERED_BYTES]);

impl Crc32c {
    pub(super) fn new() -> Self {
        Self { sum: 0, gathered_bytes: 0, gathered: Gathered([0; GATHERED_BYTES]) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        if GATHERED_BYTES - self.gathered_bytes < bytes.len() {
            self.sum = self.sum_of_all();
            self.gathered_bytes = 0;
        }
        let end = self.gathered_bytes + bytes.len();
        match self.gathered.0.get_mut(self.gathered_bytes..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.gathered_bytes = end;
            }
            None => self.sum = crc32c::crc32c_append(self.sum, bytes),
        }
    }

    pub(super) fn finish(self) -> u32 {
        self.sum_of_all()
    }

    fn sum_of_all(&self) -> u32 {
        crc32c::crc32c_append(self.sum, &self.gathered.0[..self.gathered_bytes])
    }
}

impl std::fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crc32c({:08x})", self.sum_of_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> u32 {
        let mut crc = Crc32c::new();
        crc.update(bytes);
        crc.finish()
    }

    #[test]
    fn known_answers_of_rfc_3720() {
        assert_eq!(of(b"123456789"), 0xe306_9283);
        assert_eq!(of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(of(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    #[test]
    fn pieces_give_the_same_as_the_whole() {
        let bytes: Vec<u8> = (0..3 * GATHERED_BYTES).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect();
        let whole = crc32c::crc32c(&bytes);
        for piece in 1..bytes.len() {
            let mut crc = Crc32c::new();
            bytes.chunks(piece).for_each(|piece| crc.update(piece));
            assert_eq!(crc.finish(), whole, "pieces of {piece}");
        }
        for cut in 0..bytes.len() {
            let mut crc = Crc32c::new();
            crc.update(&bytes[..cut]);
            let mut copy = crc;
            copy.update(&bytes[cut..]);
            crc.update(&bytes[cut..]);
            assert_eq!((crc.finish(), copy.finish()), (whole, whole), "cut at {cut}");
        }
    }
}
