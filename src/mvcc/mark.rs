//! A change's mark: what the v2 API tells of a change and v3 does not.
//!
//! Most changes have none. A put without a mark reads as `set`, a deletion without one as `delete`, whoever made
//! it. No answer of v3 and no hash shows a mark; it lies in the record beside the lease and goes with its version.
//!
//! ```text
//! bits      u8       action 1-15; 16 created, 32 expiry, 64 refresh
//! created   varint   if bit 16: main revision - index at which the key was last set
//! at        varint   if bit 32: when it ends, in nanoseconds since 1970
//! ttl       varint   if bit 32: seconds that it was to live
//! ```

use crate::types::proto::{put_varint, take_varint};

const CREATED: u8 = 16;
const EXPIRY: u8 = 32;
const REFRESH: u8 = 64;

/// Bytes of the longest mark.
pub(super) const MARK_BYTES_MAX: usize = 1 + 3 * 10;

/// What was done, in words of the v2 API. The numbers are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Action {
    /// `set` of a put, `delete` of a deletion.
    #[default]
    Plain = 1,
    Create = 2,
    Update = 3,
    CompareAndSwap = 4,
    CompareAndDelete = 5,
    Expire = 6,
    /// Part of another change of the same revision, which tells of it.
    Along = 7,
}

impl Action {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Plain),
            2 => Some(Self::Create),
            3 => Some(Self::Update),
            4 => Some(Self::CompareAndSwap),
            5 => Some(Self::CompareAndDelete),
            6 => Some(Self::Expire),
            7 => Some(Self::Along),
            _ => None,
        }
    }
}

/// When a version ends, unless it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Nanoseconds since 1970, by the clock of the member that took the request: for people. What ends it is
    /// the leader's count of `ttl_s`.
    pub at_ns: u64,
    pub ttl_s: u64,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    pub action: Action,
    /// The revision of the key's last `set` or `create`; 0: this one.
    pub created: i64,
    pub expiry: Option<Expiry>,
    /// The value is the one before: watchers of v2 are not told.
    pub is_refresh: bool,
}

impl Mark {
    /// A mark that says nothing but the action.
    #[must_use]
    pub const fn of(action: Action) -> Self {
        Self { action, created: 0, expiry: None, is_refresh: false }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Appends the mark of a change of revision `main`.
    pub(super) fn encode(&self, main: i64, out: &mut Vec<u8>) {
        let mut bits = self.action as u8;
        for (bit, set) in
            [(CREATED, self.created != 0), (EXPIRY, self.expiry.is_some()), (REFRESH, self.is_refresh)]
        {
            if set {
                bits |= bit;
            }
        }
        out.push(bits);
        if self.created != 0 {
            put_varint(out, (main - self.created).cast_unsigned());
        }
        if let Some(Expiry { at_ns, ttl_s }) = self.expiry {
            put_varint(out, at_ns);
            put_varint(out, ttl_s);
        }
    }

    /// Reads the mark of a change of revision `main`.
    pub(super) fn decode(main: i64, rest: &mut &[u8]) -> Option<Self> {
        let (&bits, after) = rest.split_first()?;
        *rest = after;
        let action = Action::from_number(bits & 15)?;
        if bits & 128 != 0 {
            return None;
        }
        let created = if bits & CREATED == 0 {
            0
        } else {
            let age = i64::try_from(take_varint(rest)?).ok()?;
            main.checked_sub(age).filter(|created| 0 < *created)?
        };
        let expiry = if bits & EXPIRY == 0 {
            None
        } else {
            Some(Expiry { at_ns: take_varint(rest)?, ttl_s: take_varint(rest)? })
        };
        Some(Self { action, created, expiry, is_refresh: bits & REFRESH != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_survives_its_bytes_and_what_is_none_is_refused() {
        let expiries = [None, Some(Expiry { at_ns: 1_764_547_200_000_000_001, ttl_s: 5 })];
        for number in 1..=7 {
            for (created, expiry) in [0, 1, 7, 9].into_iter().zip(expiries.into_iter().cycle()) {
                for is_refresh in [false, true] {
                    let action = Action::from_number(number).unwrap();
                    let mark = Mark { action, created, expiry, is_refresh };
                    let mut bytes = Vec::new();
                    mark.encode(9, &mut bytes);
                    assert!(bytes.len() <= MARK_BYTES_MAX);
                    assert_eq!(Mark::decode(9, &mut &bytes[..]), Some(mark));
                    for cut in 0..bytes.len() {
                        assert_eq!(Mark::decode(9, &mut &bytes[..cut]), None);
                    }
                }
            }
        }
        // No action, an unknown one, a bit of nobody; created before the first revision.
        for bad in [&[0][..], &[8], &[15], &[128 | 1], &[16 | 1, 9]] {
            assert_eq!(Mark::decode(9, &mut &bad[..]), None, "{bad:?}");
        }
    }
}
