//! Protobuf by hand: varints and fields, for messages that are written straight from the bytes they are
//! made of. Messages that are built first are prost's.
//!
//! Each field has a function for its length and one that writes it, so a caller can reserve exactly.
//! Numbers, flags and bytes follow proto3: a zero, a `false` and an empty string are left out. Messages and
//! fixed numbers have presence: they are written whatever they hold.
//!
//! Invariants: the bytes are prost's for the same message, as long as fields are written in ascending
//! order. Reading never looks beyond its slice, and takes no varint of more than 64 bits.
//! Bounds: field numbers are below 16, so that a key is one byte; all messages written here keep to that.

use bytes::BufMut;

/// Wire types.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;

/// Longest varint: 64 bits, seven a byte.
pub const VARINT_BYTES_MAX: usize = 10;

/// A `fixed64` field, key included.
pub const FIXED64_FIELD_LEN: usize = 1 + 8;

/// The longest number field, key included.
pub const INT_FIELD_LEN_MAX: usize = 1 + VARINT_BYTES_MAX;

const fn key(field: u8, wire_type: u8) -> u8 {
    assert!(0 < field && field < 16, "a one-byte key");
    field << 3 | wire_type
}

/// Bytes of a varint: one for every seven bits begun.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes a varint.
#[inline]
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while 0x80 <= value {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

/// Takes a varint off the front; `None` if there is none.
#[inline]
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    let mut shift = 0;
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && 1 < low {
            return None;
        }
        number |= low << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
        if 63 < shift {
            return None;
        }
    }
}

/// Bytes of a number field. Negative numbers are sign-extended, ten bytes long.
#[must_use]
pub const fn int_field_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value.cast_unsigned()) }
}

/// Writes an `int64`, `int32` or enum field.
#[inline]
pub fn put_int_field(out: &mut impl BufMut, field: u8, value: i64) {
    put_uint_field(out, field, value.cast_unsigned());
}

/// Bytes of an unsigned number field.
#[must_use]
pub const fn uint_field_len(value: u64) -> usize {
    int_field_len(value.cast_signed())
}

/// Writes a `uint64` or `uint32` field.
#[inline]
pub fn put_uint_field(out: &mut impl BufMut, field: u8, value: u64) {
    if value != 0 {
        out.put_u8(key(field, VARINT));
        put_varint(out, value);
    }
}

/// Takes an unsigned number field with this number off the front; `None` if something else is there.
#[inline]
pub fn take_uint_field(bytes: &mut &[u8], field: u8) -> Option<u64> {
    take_key(bytes, key(field, VARINT))?;
    take_varint(bytes)
}

/// Bytes of a `bool` field.
#[must_use]
pub const fn flag_field_len(is_set: bool) -> usize {
    if is_set { 2 } else { 0 }
}

/// Writes a `bool` field.
#[inline]
pub fn put_flag_field(out: &mut impl BufMut, field: u8, is_set: bool) {
    if is_set {
        out.put_slice(&[key(field, VARINT), 1]);
    }
}

/// Writes a `fixed64` field, of `FIXED64_FIELD_LEN` bytes.
#[inline]
pub fn put_fixed64_field(out: &mut impl BufMut, field: u8, value: u64) {
    out.put_u8(key(field, FIXED64));
    out.put_u64_le(value);
}

/// Takes a `fixed64` field with this number off the front; `None` if something else is there.
#[inline]
pub fn take_fixed64_field(bytes: &mut &[u8], field: u8) -> Option<u64> {
    take_key(bytes, key(field, FIXED64))?;
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

/// Bytes of a `bytes` or `string` field.
#[must_use]
pub const fn bytes_field_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { message_field_len(value.len()) }
}

/// Writes a `bytes` or `string` field.
#[inline]
pub fn put_bytes_field(out: &mut impl BufMut, field: u8, value: &[u8]) {
    if !value.is_empty() {
        put_message_head(out, field, value.len());
        out.put_slice(value);
    }
}

/// Bytes of a nested message's field, of which `len` are the message.
#[must_use]
pub const fn message_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Writes key and length of a nested message; its `len` bytes follow.
#[inline]
pub fn put_message_head(out: &mut impl BufMut, field: u8, len: usize) {
    out.put_u8(key(field, LENGTH));
    put_varint(out, len as u64);
}

/// Takes a `bytes` or `string` field with this number off the front; `None` if something else is there.
#[inline]
pub fn take_bytes_field<'a>(bytes: &mut &'a [u8], field: u8) -> Option<&'a [u8]> {
    take_key(bytes, key(field, LENGTH))?;
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(value)
}

fn take_key(bytes: &mut &[u8], key: u8) -> Option<()> {
    let (&found, rest) = bytes.split_first()?;
    *bytes = rest;
    (found == key).then_some(())
}

#[cfg(test)]
mod tests {
    use prost::encoding;

    use super::*;

    fn edges() -> impl Iterator<Item = u64> {
        (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX])
    }

    #[test]
    fn varints_are_prosts_and_as_long_as_announced_at_every_edge() {
        for value in edges() {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            put_varint(&mut ours, value);
            encoding::encode_varint(value, &mut theirs);
            assert_eq!(ours, theirs);
            assert_eq!(ours.len(), varint_len(value), "{value}");
            let mut rest = ours.as_slice();
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
            for cut in 0..ours.len() {
                assert_eq!(take_varint(&mut &ours[..cut]), None, "{value} cut at {cut}");
            }
        }
        assert_eq!(varint_len(u64::MAX), VARINT_BYTES_MAX);
    }

    #[test]
    fn overlong_varints_are_no_numbers() {
        assert_eq!(take_varint(&mut [0xff; 11].as_slice()), None);
        let mut beyond_64_bits = [0xff; 10];
        beyond_64_bits[9] = 2;
        assert_eq!(take_varint(&mut beyond_64_bits.as_slice()), None);
    }

    #[test]
    fn fields_are_prosts_and_as_long_as_announced() {
        for value in edges() {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            let int = value.cast_signed();
            put_int_field(&mut ours, 1, int);
            put_uint_field(&mut ours, 2, value);
            put_fixed64_field(&mut ours, 15, value);
            if value != 0 {
                encoding::int64::encode(1, &int, &mut theirs);
                encoding::uint64::encode(2, &value, &mut theirs);
            }
            encoding::fixed64::encode(15, &value, &mut theirs);
            assert_eq!(ours, theirs);
            let foretold = int_field_len(int) + uint_field_len(value) + FIXED64_FIELD_LEN;
            assert_eq!(ours.len(), foretold, "{value}");
            assert!(int_field_len(int) <= INT_FIELD_LEN_MAX);
        }
        for bytes in [&b""[..], b"x", &[7; 127], &[7; 128], &[7; 70_000]] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            put_flag_field(&mut ours, 3, bytes.len() == 1);
            put_bytes_field(&mut ours, 4, bytes);
            put_message_head(&mut ours, 5, bytes.len());
            ours.extend_from_slice(bytes);
            if bytes.len() == 1 {
                encoding::bool::encode(3, &true, &mut theirs);
            }
            if !bytes.is_empty() {
                encoding::bytes::encode(4, &bytes.to_vec(), &mut theirs);
            }
            encoding::bytes::encode(5, &bytes.to_vec(), &mut theirs);
            assert_eq!(ours, theirs);
            let foretold =
                flag_field_len(bytes.len() == 1) + bytes_field_len(bytes) + message_field_len(bytes.len());
            assert_eq!(ours.len(), foretold);
        }
    }

    #[test]
    fn a_field_is_taken_only_under_its_number_and_whole() {
        let mut bytes = Vec::new();
        put_uint_field(&mut bytes, 1, 300);
        put_fixed64_field(&mut bytes, 3, 1 << 40);
        for (number, cut) in [(1, bytes.len()), (2, bytes.len()), (1, bytes.len() - 1), (1, 2), (1, 0)] {
            let mut rest = &bytes[..cut];
            let taken = take_uint_field(&mut rest, number).zip(take_fixed64_field(&mut rest, 3));
            let is_whole = number == 1 && cut == bytes.len();
            assert_eq!(taken, is_whole.then_some((300, 1 << 40)), "field {number} of {cut} bytes");
        }
        assert_eq!(take_fixed64_field(&mut bytes.as_slice(), 1), None, "another wire type");
    }
}
