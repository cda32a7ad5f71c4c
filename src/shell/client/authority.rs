//! Overwrites the `:authority` of requests, so that `h2` takes what an etcd server takes.
//!
//! Old clients (etcdctl 3.4 with `--endpoints http://127.0.0.1:2379`) send their endpoint's URL there,
//! which is no authority of a URI; `h2` resets such a stream, etcd does not look. Neither do we:
//! whoever listens is meant. So the bytes of a value go by with a valid authority of the same length
//! in their place, before `h2` sees them, and nothing is remembered of them.
//!
//! Only the bytes of the value change: not the length before it, not its Huffman bit. So nothing
//! moves, and a byte is done with once it went by: a frame may come in any pieces, and none waits.
//!
//! It is sound for HPACK's dynamic table too. An entry of ours is at most as long as the client
//! counts it (`huffman_fill_byte` says why), so the decoder evicts no sooner than the client's encoder, which
//! never refers to what it has evicted itself; and indices count from the newest entry, so entries
//! that are kept longer shift none. What has the name by a dynamic index or spelled out is left as it
//! is (no encoder does that for a name of the static table), and so is an empty value.
//!
//! Invariants: outside of values named by index 1 no byte changes. A block that breaks HPACK's rules
//! is followed up to there and then left alone; `h2` refuses it for that, whatever its bytes are.
//! Cost: one step for each part of a field, O(1) state, no allocation.
//! Compatibility: RFC 7541 (HPACK), RFC 9113 section 6.2 (HEADERS); gRPC-Go's servers take any
//! `:authority`.

use super::frame_head::{Head, kind};

const FLAG_END_HEADERS: u8 = 0x4;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// Bytes of a HEADERS frame's priority.
const PRIORITY_BYTES: u32 = 5;

/// The index of `:authority` in HPACK's static table.
const AUTHORITY_INDEX: u32 = 1;

/// Where the last byte of an integer adds its bits: four bytes after the prefix, which `h2` reads at
/// most.
const SHIFT_MAX: u32 = 21;

/// Follows the header blocks of one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct AuthorityMask {
    /// The frame at hand carries a header block.
    is_header_frame: bool,
    /// The frame's first byte is the length of its padding.
    is_padding_awaited: bool,
    /// Bytes of priority still to come.
    priority_left: u32,
    /// Bytes of the block still to come in this frame, with the padding while that is unknown.
    block_left: u32,
    /// CONTINUATION goes on with the block.
    is_continued: bool,
    block: Block,
}

impl AuthorityMask {
    /// A frame starts.
    pub(super) fn on_head(&mut self, head: &Head) {
        self.is_header_frame = match head.kind {
            kind::HEADERS => {
                self.block = Block::default();
                self.is_padding_awaited = head.flags & FLAG_PADDED != 0;
                self.priority_left = if head.flags & FLAG_PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
                true
            }
            kind::CONTINUATION => self.is_continued,
            _ => false,
        };
        self.is_continued = self.is_header_frame && head.flags & FLAG_END_HEADERS == 0;
        if self.is_header_frame {
            let before = u32::from(self.is_padding_awaited) + self.priority_left;
            // Too short a frame has no block; `h2` refuses it.
            self.block_left = head.length.saturating_sub(before);
        }
    }

    /// The next bytes of the frame's payload go by.
    pub(super) fn on_payload(&mut self, mut bytes: &mut [u8]) {
        if !self.is_header_frame {
            return;
        }
        if self.is_padding_awaited {
            let Some((padding, rest)) = bytes.split_first_mut() else { return };
            self.is_padding_awaited = false;
            self.block_left = self.block_left.saturating_sub(u32::from(*padding));
            bytes = rest;
        }
        let skipped = (self.priority_left as usize).min(bytes.len());
        self.priority_left -= count(skipped);
        let bytes = &mut bytes[skipped..];
        let taken = (self.block_left as usize).min(bytes.len());
        self.block_left -= count(taken);
        self.block.mask(&mut bytes[..taken]);
    }
}

/// What an integer is, once it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// A whole field by its index, or the table's new size: nothing of it follows.
    FieldOrSize,
    NameIndex,
    NameLength,
    ValueLength,
}

/// What the next byte of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Field,
    /// A further byte of an integer.
    More {
        number: Number,
        value: u32,
        shift: u32,
    },
    NameLength,
    Name {
        left: u32,
    },
    ValueLength,
    Value {
        at: u32,
        length: u32,
    },
    /// The block is malformed: what its bytes are is not known.
    Lost,
}

/// Where in a header block the bytes are that come next.
#[derive(Debug)]
struct Block {
    part: Part,
    /// The field at hand is an `:authority`.
    is_authority: bool,
    is_huffman: bool,
}

impl Default for Block {
    fn default() -> Self {
        Self { part: Part::Field, is_authority: false, is_huffman: false }
    }
}

impl Block {
    /// Goes over the block's next bytes.
    fn mask(&mut self, mut bytes: &mut [u8]) {
        while let Some(&mut byte) = bytes.first_mut() {
            let mut passed = 1;
            match self.part {
                Part::Field => self.start_field(byte),
                Part::More { number, value, shift } => {
                    // At most 4 bytes of 7 bits, on top of at most 127: far from an overflow.
                    let value = value + (u32::from(byte & 0x7f) << shift);
                    if byte & 0x80 == 0 {
                        self.on_number(number, value);
                    } else if shift < SHIFT_MAX {
                        self.part = Part::More { number, value, shift: shift + 7 };
                    } else {
                        self.part = Part::Lost;
                    }
                }
                Part::NameLength => self.start_number(Number::NameLength, byte, 0x7f),
                Part::ValueLength => {
                    self.is_huffman = byte & 0x80 != 0;
                    self.start_number(Number::ValueLength, byte, 0x7f);
                }
                Part::Name { left } => {
                    passed = bytes.len().min(left as usize);
                    let left = left - count(passed);
                    self.part = if left == 0 { Part::ValueLength } else { Part::Name { left } };
                }
                Part::Value { at, length } => {
                    passed = bytes.len().min((length - at) as usize);
                    if self.is_authority {
                        for (byte, at) in bytes[..passed].iter_mut().zip(at..) {
                            *byte = if self.is_huffman { huffman_fill_byte(at, length) } else { b'a' };
                        }
                    }
                    let at = at + count(passed);
                    self.part = if at == length { Part::Field } else { Part::Value { at, length } };
                }
                Part::Lost => return,
            }
            bytes = &mut bytes[passed..];
        }
    }

    /// The first byte of a field, or of a size update.
    fn start_field(&mut self, byte: u8) {
        match byte {
            0x80.. => self.start_number(Number::FieldOrSize, byte, 0x7f),
            0x40.. => self.start_number(Number::NameIndex, byte, 0x3f),
            0x20.. => self.start_number(Number::FieldOrSize, byte, 0x1f),
            _ => self.start_number(Number::NameIndex, byte, 0x0f),
        }
    }

    /// The first byte of an integer, which has the bits of `prefix`.
    fn start_number(&mut self, number: Number, byte: u8, prefix: u8) {
        let value = u32::from(byte & prefix);
        if byte & prefix < prefix {
            self.on_number(number, value);
        } else {
            self.part = Part::More { number, value, shift: 0 };
        }
    }

    /// An integer is complete.
    fn on_number(&mut self, number: Number, value: u32) {
        self.part = match number {
            Number::FieldOrSize => Part::Field,
            Number::NameIndex => {
                self.is_authority = value == AUTHORITY_INDEX;
                if value == 0 { Part::NameLength } else { Part::ValueLength }
            }
            Number::NameLength if value == 0 => Part::ValueLength,
            Number::NameLength => Part::Name { left: value },
            Number::ValueLength if value == 0 => Part::Field,
            Number::ValueLength => Part::Value { at: 0, length: value },
        };
    }
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("it is at most a u32 that it was compared with")
}

/// The byte at `at` of `length` bytes that are a valid authority in Huffman's code, and as short a
/// one as can be: `~`, whose 13 bits are the most of any character that may be in a URI, as often as
/// it fits; then `X`, of 8 bits, where more is left than the 7 bits that may be filled up with ones.
///
/// So what is decoded is at most as long as any URI that has the same length in this code. A plain
/// 'a' for each byte would be longer than some that are (`[::1]` takes 6 bytes).
fn huffman_fill_byte(at: u32, length: u32) -> u8 {
    const TILDE_BITS: u32 = 13;
    /// `~` is `1111111111101`.
    const TILDE_ZERO: u32 = 11;
    let tail = 8 * length / TILDE_BITS * TILDE_BITS;
    let has_x = 8 <= 8 * length - tail;
    (0..8).fold(0, |byte, bit| {
        let bit = 8 * at + bit;
        let is_zero = if bit < tail {
            bit % TILDE_BITS == TILDE_ZERO
        } else {
            // `X` is `11111100`.
            has_x && matches!(bit - tail, 6 | 7)
        };
        byte << 1 | u8::from(!is_zero)
    })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const FLAG_END_STREAM: u8 = 0x1;
    const CODED: u8 = 0x80;
    /// `http://127.0.0.1:1` in Huffman's code.
    const URL_CODED: [u8; 13] =
        [0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x04, 0x4e, 0xae, 0x05, 0xc0, 0xb8, 0x6e, 0x07];

    /// Masks `payload` as one frame, in pieces of `size`.
    fn masked(flags: u8, payload: &[u8], size: usize) -> Vec<u8> {
        let mut mask = AuthorityMask::default();
        masked_by(&mut mask, kind::HEADERS, flags, payload, size)
    }

    fn masked_by(mask: &mut AuthorityMask, kind: u8, flags: u8, payload: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = payload.to_vec();
        mask.on_head(&Head { length: count(bytes.len()), kind, flags, stream: 1 });
        bytes.chunks_mut(size).for_each(|piece| mask.on_payload(piece));
        bytes
    }

    #[track_caller]
    fn check(flags: u8, before: &[&[u8]], after: &[&[u8]]) {
        let before = before.concat();
        for size in 1..=before.len() {
            assert_eq!(masked(flags, &before, size), after.concat(), "in pieces of {size}");
        }
    }

    fn coded_fill(length: u32) -> Vec<u8> {
        (0..length).map(|at| huffman_fill_byte(at, length)).collect()
    }

    #[test]
    fn plain_authority_is_masked_in_each_form_of_a_literal() {
        let fields: [&[u8]; 2] = [b"\x83\x86\x44\x09/etcd/Put", b"\x40\x02te\x08trailers"];
        for form in [0x41, 0x01, 0x11] {
            let before: &[u8] = &[&[form, 18][..], b"http://127.0.0.1:1"].concat();
            let after: &[u8] = &[&[form, 18][..], &[b'a'; 18]].concat();
            check(FLAG_END_HEADERS, &[fields[0], before, fields[1]], &[fields[0], after, fields[1]]);
        }
    }

    #[test]
    fn coded_authority_is_masked_and_keeps_its_length_and_bit() {
        let head: &[u8] = &[0x83, 0x41, CODED | 13];
        let (fill, rest) = (coded_fill(13), &b"\x86\xbe\x44\x02/x"[..]);
        check(FLAG_END_HEADERS, &[head, &URL_CODED, rest], &[head, &fill, rest]);
    }

    #[test]
    fn size_updates_padding_and_priority_come_before_the_fields() {
        // Table sizes 0 and 4096: one byte and three.
        let sizes: &[u8] = &[0x20, 0x3f, 0xe1, 0x1f];
        let (before, after): (&[u8], &[u8]) = (b"\x41\x07unix://\x83", b"\x41\x07aaaaaaa\x83");
        let flags = FLAG_END_HEADERS | FLAG_END_STREAM;
        check(flags, &[sizes, before], &[sizes, after]);
        // What looks like an authority in the priority and the padding is none.
        let (padding, priority): (&[u8], &[u8]) = (b"\x41\x01b", b"\x41\x03abc");
        check(flags | FLAG_PRIORITY, &[priority, sizes, before], &[priority, sizes, after]);
        check(flags | FLAG_PADDED, &[&[3], sizes, before, padding], &[&[3], sizes, after, padding]);
        check(
            flags | FLAG_PADDED | FLAG_PRIORITY,
            &[&[3], priority, before, padding],
            &[&[3], priority, after, padding],
        );
    }

    #[test]
    fn other_fields_frames_and_malformed_integers_are_left_alone() {
        let same = |flags: u8, payload: &[u8]| check(flags, &[payload], &[payload]);
        same(FLAG_END_HEADERS, b"\x44\x05http:\x01\x00\x00\x01b\x01c");
        same(FLAG_END_HEADERS, b"\x42\x7f\x01http://authority of 128 bytes, and not here at an end");
        same(FLAG_END_HEADERS, b"\xff\x80\x80\x80\x80\x01\x41\x03a//");
        same(FLAG_END_HEADERS, b"\x41\x7f\xff\xff\xff\xff\x0fa//");
        same(FLAG_PADDED, b"\xff\x41\x03a//");
        let mut mask = AuthorityMask::default();
        for kind in [kind::DATA, kind::PING, kind::CONTINUATION] {
            assert_eq!(masked_by(&mut mask, kind, 0, b"\x41\x03a//", 2), b"\x41\x03a//");
        }
    }

    #[test]
    fn block_goes_on_in_continuation_and_the_next_one_starts_anew() {
        let mut mask = AuthorityMask::default();
        let mut go = |kind, flags, payload: &[u8]| masked_by(&mut mask, kind, flags, payload, 1);
        assert_eq!(go(kind::HEADERS, 0, b"\x83\x41\x05a/"), b"\x83\x41\x05aa");
        assert_eq!(go(kind::CONTINUATION, 0, b"/"), b"a");
        assert_eq!(go(kind::CONTINUATION, FLAG_END_HEADERS, b"//\x41\x05/"), b"aa\x41\x05a");
        assert_eq!(go(kind::CONTINUATION, FLAG_END_HEADERS, b"////"), b"////");
        assert_eq!(go(kind::HEADERS, FLAG_END_HEADERS, b"\x41\x01/"), b"\x41\x01a");
    }

    /// How many characters a filling is.
    fn decoded(fill: &[u8]) -> Vec<u8> {
        let bits: Vec<bool> =
            fill.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1 == 1)).collect();
        let (mut at, mut text) = (0, Vec::new());
        while 8 <= bits.len() - at {
            // Both characters' codes have their first zero after eleven or after six ones.
            let (bits, length, character) = (&bits[at..], 13, b'~');
            let (length, character) = if bits[6] { (length, character) } else { (8, b'X') };
            assert_eq!(bits[..length].iter().position(|bit| !bit), Some(if length == 13 { 11 } else { 6 }));
            assert_eq!(bits[length - 1], length == 13);
            text.push(character);
            at += length;
        }
        assert!(bits[at..].iter().all(|&bit| bit), "filled up with ones");
        text
    }

    #[test]
    fn filling_is_never_longer_than_the_uri_that_it_stands_for() {
        const CODES: [(usize, &[u8]); 7] = [
            (5, b"012aceiost"),
            (6, b"%-./3456789=A_bdfghlmnpru"),
            (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
            (8, b"&*,;XZ"),
            (10, b"!()?"),
            (11, b"'+"),
            (13, b"#$@[]~"), // '#' has 12
        ];
        let seed = 0x10;
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let length = rng.random_range(1..40);
            let only = rng.random_range(0..2 * CODES.len());
            let bits: usize = (0..length)
                .map(|_| CODES[if only < CODES.len() { only } else { rng.random_range(0..CODES.len()) }].0)
                .sum();
            let fill = coded_fill(count(bits.div_ceil(8)));
            assert!(decoded(&fill).len() <= length, "seed {seed}: {length} characters of {bits} bits");
        }
    }

    /// What counts is what `h2` makes of it.
    #[tokio::test(flavor = "current_thread")]
    async fn h2_takes_every_filling_and_finds_it_in_its_table_again() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        let mut mask = AuthorityMask::default();
        let mut stream = 1_u32;
        for length in 1..=100_u8 {
            for coded in [0, CODED] {
                let first =
                    [&[0x83, 0x86, 0x84, 0x41, coded | length][..], &vec![b'/'; length.into()]].concat();
                for block in [&first[..], &[0x83, 0x86, 0x84, 0xbe]] {
                    bytes.extend_from_slice(&[0, 0, u8::try_from(block.len()).unwrap(), 1]);
                    bytes.push(FLAG_END_HEADERS | FLAG_END_STREAM);
                    bytes.extend_from_slice(&stream.to_be_bytes());
                    bytes.extend(masked_by(&mut mask, kind::HEADERS, FLAG_END_HEADERS, block, 3));
                    stream += 2;
                }
            }
        }
        tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await.unwrap();
        let mut h2 = h2::server::handshake(server).await.unwrap();
        let mut kept = Vec::new();
        for length in 1..=100_u8 {
            for expected in [vec![b'a'; length.into()], decoded(&coded_fill(length.into()))] {
                for _ in 0..2 {
                    let (request, responder) = h2.accept().await.unwrap().unwrap();
                    let authority = request.uri().authority().unwrap().as_str();
                    assert_eq!(authority.as_bytes(), expected, "of {length} bytes");
                    kept.push(responder);
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic_and_pieces_make_no_difference() {
        let seed = 0x11;
        let mut rng = StdRng::seed_from_u64(seed);
        for round in 0..20_000 {
            let length = rng.random_range(0..60);
            // Mostly small bytes and authorities, so that a block gets far.
            let payload: Vec<u8> = (0..length)
                .map(|_| match rng.random_range(0..4) {
                    0 => 0x41,
                    1 => rng.random_range(0..8),
                    _ => rng.random(),
                })
                .collect();
            let flags: u8 = rng.random();
            let whole = masked(flags, &payload, 60);
            let size = rng.random_range(1..10);
            assert_eq!(masked(flags, &payload, size), whole, "seed {seed}, round {round}, pieces of {size}");
            assert_eq!(whole.len(), payload.len());
        }
    }
}
