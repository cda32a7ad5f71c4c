//! Protobuf by hand, as much of it as the load needs: fields out, and a walk over the fields of a reply.
//!
//! Writing goes into a reused buffer; reading borrows. Neither allocates, so an event that is received
//! costs the client little more than looking at each of its fields once. It shares no code with the server
//! on purpose: a load generator that erred where the server errs would not see it.
//!
//! Invariants: reading never looks beyond its slice; whatever the bytes, it ends, with an error if they are
//! not protobuf.

/// Bytes that are not protobuf, or not the message they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf")]
pub(crate) struct Malformed;

/// A field's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A fixed 32 or 64 bit number: none of the messages read here has one.
    Fixed,
}

impl<'a> Value<'a> {
    /// The number, if it is one.
    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(Malformed) }
    }

    /// The bytes, if it is some.
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed) }
    }

    /// An `int64`: protobuf writes its two's complement.
    pub(crate) fn int64(self) -> Result<i64, Malformed> {
        self.varint().map(u64::cast_signed)
    }
}

/// Walks over the fields of one message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and contents; `None` at the end.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed
            }
            _ => return Err(Malformed),
        };
        Ok(Some((number, value)))
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (slot, &byte) in self.rest.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7F);
            if slot == 9 && 1 < bits {
                return Err(Malformed); // more than 64 bits
            }
            number |= bits << (7 * slot);
            if byte < 0x80 {
                self.rest = &self.rest[slot + 1..];
                return Ok(number);
            }
        }
        Err(Malformed)
    }
}

/// Field `number` of wire type 2 with `length` bytes to follow.
pub(crate) fn put_length(message: &mut Vec<u8>, number: u8, length: usize) {
    message.push(number << 3 | 2);
    put_raw_varint(message, length as u64);
}

/// Field `number` of wire type 0.
pub(crate) fn put_varint(message: &mut Vec<u8>, number: u8, value: u64) {
    message.push(number << 3);
    put_raw_varint(message, value);
}

fn put_raw_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(u8::try_from(value & 0x7F).expect("seven bits") | 0x80);
        value >>= 7;
    }
    message.push(u8::try_from(value).expect("seven bits"));
}

/// How long a varint is.
pub(crate) fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    usize::try_from(bits.div_ceil(7)).expect("at most ten")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};

    #[test]
    fn what_is_written_is_read() {
        let mut message = Vec::new();
        put_varint(&mut message, 1, 0);
        put_varint(&mut message, 2, u64::MAX);
        put_length(&mut message, 3, 300);
        message.extend_from_slice(&[7; 300]);
        message.extend_from_slice(&[4 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0, 5 << 3 | 5, 0, 0, 0, 0]);
        let mut fields = Fields::of(&message);
        assert_eq!(fields.next(), Ok(Some((1, Value::Varint(0)))));
        let (number, value) = fields.next().unwrap().unwrap();
        assert_eq!((number, value.int64()), (2, Ok(-1)));
        assert_eq!(fields.next().unwrap().unwrap().1.bytes().unwrap().len(), 300);
        assert_eq!(fields.next(), Ok(Some((4, Value::Fixed))));
        assert_eq!(fields.next(), Ok(Some((5, Value::Fixed))));
        assert_eq!(fields.next(), Ok(None));
        for (number, length) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3)] {
            assert_eq!(varint_bytes(number), length);
        }
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        for wrong in [
            &[0x08][..],
            &[0x0A, 2, 0],
            &[0x0B],
            &[0x80; 11],
            &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
        ] {
            assert_eq!(Fields::of(wrong).next(), Err(Malformed), "{wrong:?}");
        }
    }

    /// Seeded garbage: every walk ends, inside its slice.
    #[test]
    fn garbage_ends_every_walk() {
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let mut bytes = vec![0; random.random_range(0..64)];
            random.fill_bytes(&mut bytes);
            let mut fields = Fields::of(&bytes);
            while let Ok(Some(_)) = fields.next() {}
        }
    }
}
