//! Which keys a request means: etcd's `key` and `range_end` pair.

/// A set of keys, borrowed from a request. Keys compare as unsigned bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// Exactly this key.
    One(&'a [u8]),
    /// `start <= x < end`; empty when `end <= start`.
    Between { start: &'a [u8], end: &'a [u8] },
    /// `start <= x`.
    From(&'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// Reads a request's pair: no `range_end` is one key, a single zero byte is "to the end",
    /// anything else is an exclusive bound. A lone zero byte as `key` is the smallest key, so
    /// `\0`, `\0` means all keys except the empty one, which cannot exist.
    #[must_use]
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::One(key),
            [0] => Self::From(key),
            end => Self::Between { start: key, end },
        }
    }

    /// The smallest key that can belong to the range.
    #[must_use]
    pub fn start(&self) -> &'a [u8] {
        match *self {
            Self::One(key) => key,
            Self::Between { start, .. } | Self::From(start) => start,
        }
    }

    /// Whether no key can belong to the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Between { start, end } if end <= start)
    }

    /// Whether `key` belongs to the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            Self::One(one) => key == one,
            Self::Between { start, end } => start <= key && key < end,
            Self::From(start) => start <= key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_end_of_one_zero_byte_means_to_the_end() {
        assert_eq!(KeyRange::new(b"a", b"\0"), KeyRange::From(b"a"));
        assert!(KeyRange::new(b"\0", b"\0").contains(b"\xff\xff"));
    }

    #[test]
    fn range_end_not_above_key_is_empty_and_two_zero_bytes_are_an_ordinary_bound() {
        assert!(KeyRange::new(b"b", b"a").is_empty());
        assert!(KeyRange::new(b"b", b"b").is_empty());
        assert!(KeyRange::new(b"b", b"\0\0").is_empty());
        assert!(KeyRange::new(b"\0", b"\0\0").contains(b"\0"));
    }
}
