//! What a user may read and write: ranges of keys, merged.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering as Memory};

use crate::pb::authpb::Permission;
use crate::pb::authpb::permission::Type;
use crate::types::KeyRange;

/// Where a range of keys ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Below this key.
    Before(Box<[u8]>),
    /// With the last key.
    Open,
}

impl End {
    /// Compares the end with a bound as an exclusive one.
    fn cmp_key(&self, key: &[u8]) -> Ordering {
        match self {
            Self::Before(end) => (**end).cmp(key),
            Self::Open => Ordering::Greater,
        }
    }

    fn is_below(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Before(own), Self::Before(other)) => own < other,
            (Self::Before(_), Self::Open) => true,
            (Self::Open, _) => false,
        }
    }
}

/// Ranges of keys in order, of which no two touch.
#[derive(Debug, Default)]
struct Coverage {
    ranges: Vec<(Box<[u8]>, End)>,
    /// Which of them was found last: a user mostly asks for keys in the same one. A hint, whoever reads it.
    found: AtomicUsize,
}

impl Coverage {
    fn merge(mut ranges: Vec<(Box<[u8]>, End)>) -> Self {
        ranges.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut merged: Vec<(Box<[u8]>, End)> = Vec::new();
        for (start, end) in ranges {
            match merged.last_mut() {
                Some((_, last)) if last.cmp_key(&start).is_ge() => {
                    if last.is_below(&end) {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        merged.shrink_to_fit();
        Self { ranges: merged, found: AtomicUsize::new(0) }
    }

    /// The last range that begins at `start` or before it. It is the only one that may cover what begins there.
    fn find(&self, start: &[u8]) -> Option<&End> {
        let begins_by = |at: usize| self.ranges.get(at).is_some_and(|(from, _)| &**from <= start);
        let mut found = self.found.load(Memory::Relaxed);
        if !begins_by(found) || begins_by(found + 1) {
            let behind = self.ranges.partition_point(|(from, _)| &**from <= start);
            found = behind.checked_sub(1)?;
            self.found.store(found, Memory::Relaxed);
        }
        Some(&self.ranges[found].1)
    }

    /// Whether all of the range is covered.
    fn covers(&self, range: KeyRange<'_>) -> bool {
        let Some(end) = self.find(range.start()) else { return false };
        match range {
            KeyRange::One(key) => end.cmp_key(key).is_gt(),
            KeyRange::From(_) => *end == End::Open,
            // A range upside down holds no key, and is still not for those who may not see around it.
            KeyRange::Between { start, end: until } => {
                end.cmp_key(start).is_gt() && (until <= start || end.cmp_key(until).is_ge())
            }
        }
    }
}

/// What a user may do, of all its roles together.
#[derive(Debug, Default)]
pub(super) struct Rights {
    read: Coverage,
    write: Coverage,
}

impl Rights {
    /// Merges permissions. One of a kind that this version does not know gives no right.
    pub(super) fn of<'p>(permissions: impl Iterator<Item = &'p Permission>) -> Self {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let range = match KeyRange::new(&permission.key, &permission.range_end) {
                // The next key is this one with a zero byte behind it.
                KeyRange::One(key) => (key.into(), End::Before([key, &[0]].concat().into())),
                KeyRange::From(key) => (key.into(), End::Open),
                KeyRange::Between { start, end } if start < end => (start.into(), End::Before(end.into())),
                KeyRange::Between { .. } => continue,
            };
            match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => read.push(range),
                Ok(Type::Write) => write.push(range),
                Ok(Type::Readwrite) => {
                    read.push(range.clone());
                    write.push(range);
                }
                Err(_) => {}
            }
        }
        Self { read: Coverage::merge(read), write: Coverage::merge(write) }
    }

    pub(super) fn may_read(&self, range: KeyRange<'_>) -> bool {
        self.read.covers(range)
    }

    pub(super) fn may_write(&self, range: KeyRange<'_>) -> bool {
        self.write.covers(range)
    }
}

/// Whether a permission may be granted on this pair: a key, and no end, an open end or one above the key.
#[must_use]
pub fn is_permission_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && !KeyRange::new(key, range_end).is_empty()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn permission(kind: Type, key: &[u8], range_end: &[u8]) -> Permission {
        Permission { perm_type: kind.into(), key: key.to_vec().into(), range_end: range_end.to_vec().into() }
    }

    fn rights(permissions: &[Permission]) -> Rights {
        Rights::of(permissions.iter())
    }

    #[test]
    fn ranges_that_touch_are_one_and_a_gap_of_one_key_is_a_gap() {
        let touching = rights(&[permission(Type::Read, b"a", b"b"), permission(Type::Read, b"b", b"c")]);
        assert!(touching.may_read(KeyRange::new(b"a", b"c")));
        assert!(!touching.may_read(KeyRange::new(b"a", b"c\0")));
        assert!(!touching.may_write(KeyRange::new(b"a", b"")));
        let gap = rights(&[permission(Type::Read, b"a", b"b"), permission(Type::Read, b"b\0", b"c")]);
        assert!(!gap.may_read(KeyRange::new(b"a", b"c")));
        assert!(!gap.may_read(KeyRange::new(b"b", b"")));
    }

    #[test]
    fn only_an_open_range_covers_one() {
        let closed = rights(&[permission(Type::Readwrite, b"\0", b"\xff\xff\xff")]);
        assert!(!closed.may_read(KeyRange::new(b"\0", b"\0")));
        let open = rights(&[permission(Type::Readwrite, b"b", b"\0"), permission(Type::Read, b"c", b"d")]);
        assert!(open.may_read(KeyRange::new(b"b", b"\0")) && open.may_write(KeyRange::new(b"zz", b"\0")));
        assert!(!open.may_read(KeyRange::new(b"a", b"\0")));
        assert!(open.may_read(KeyRange::new(b"x", b"zzz")));
    }

    #[test]
    fn one_key_covers_itself_and_no_range_beyond_it() {
        let one = rights(&[permission(Type::Write, b"k", b"")]);
        assert!(one.may_write(KeyRange::new(b"k", b"")) && one.may_write(KeyRange::new(b"k", b"k\0")));
        assert!(!one.may_write(KeyRange::new(b"k", b"l")) && !one.may_write(KeyRange::new(b"k\0", b"")));
    }

    #[test]
    fn what_is_of_an_unknown_kind_or_upside_down_gives_nothing() {
        let mut unknown = permission(Type::Read, b"a", b"z");
        unknown.perm_type = 9;
        let none = rights(&[unknown, permission(Type::Readwrite, b"z", b"a")]);
        assert!(none.read.ranges.is_empty() && none.write.ranges.is_empty());
    }

    #[test]
    fn ranges_that_may_be_granted() {
        for (key, end, is_one) in [
            (&b"a"[..], &b""[..], true),
            (b"a", b"\0", true),
            (b"a", b"b", true),
            (b"a", b"a", false),
            (b"b", b"a", false),
            (b"", b"b", false),
            (b"", b"", false),
            (b"\0", b"\0", true),
        ] {
            assert_eq!(is_permission_range(key, end), is_one, "{key:?} {end:?}");
        }
    }

    /// Keys of up to three bytes of `0..3`, in order; the model says for each whether it is covered.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for a in 0..3 {
            keys.push(vec![a]);
            for b in 0..3 {
                keys.push(vec![a, b]);
                for c in 0..3 {
                    keys.push(vec![a, b, c]);
                }
            }
        }
        keys.sort();
        keys
    }

    #[test]
    fn coverage_is_that_of_a_set_of_keys() {
        let keys = keys();
        for seed in 0..2_000 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut pick = |ends: bool| -> Vec<u8> {
                match random.random_range(0..10) {
                    0 if ends => vec![0],
                    1 | 2 if ends => Vec::new(),
                    _ => keys[random.random_range(0..keys.len())].clone(),
                }
            };
            let permissions: Vec<_> =
                (0..4).map(|_| permission(Type::Read, &pick(false), &pick(true))).collect();
            let rights = rights(&permissions);
            let is_granted = |key: &[u8]| {
                permissions.iter().any(|p| {
                    is_permission_range(&p.key, &p.range_end) && {
                        KeyRange::new(&p.key, &p.range_end).contains(key)
                    }
                })
            };
            // Keys of four bytes stand between those that bounds can be; the largest stands behind all.
            let all: Vec<Vec<u8>> = keys
                .iter()
                .flat_map(|key| [key.clone(), [&key[..], &[0, 0, 0]].concat()])
                .chain([vec![255]])
                .collect();
            // Several, since the range that was found last is looked at first.
            for _ in 0..4 {
                let asked = (pick(false), pick(true));
                let range = KeyRange::new(&asked.0, &asked.1);
                let wanted: Vec<_> = all.iter().filter(|key| range.contains(key)).collect();
                if wanted.is_empty() {
                    continue;
                }
                let expected = wanted.iter().all(|key| is_granted(key));
                assert_eq!(rights.may_read(range), expected, "seed {seed}: {permissions:?} {asked:?}");
            }
        }
    }
}
