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

use super::frame_meter::{Head, kind};

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
