//! A sorted run of byte strings packed side by side: the inside of a tree node.

/// Sorted, distinct keys. 4 bytes of overhead for each, and little slack: blocks grow by an eighth.
#[derive(Debug, Default)]
pub(super) struct KeyBlock {
    bytes: Vec<u8>,
    /// Where each key ends.
    ends: Vec<u32>,
}

impl KeyBlock {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes_count(&self) -> usize {
        self.bytes.len()
    }

    fn start(&self, slot: usize) -> usize {
        if slot == 0 { 0 } else { self.ends[slot - 1] as usize }
    }

    #[inline]
    pub(super) fn get(&self, slot: usize) -> &[u8] {
        &self.bytes[self.start(slot)..self.ends[slot] as usize]
    }

    pub(super) fn last(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|slot| self.get(slot))
    }

    /// The slot of `key`, or the slot where it belongs.
    #[inline]
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Number of keys below `key`.
    pub(super) fn lower_bound(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|slot| slot)
    }

    /// Number of keys not above `key`.
    #[inline]
    pub(super) fn upper_bound(&self, key: &[u8]) -> usize {
        self.search(key).map_or_else(|slot| slot, |slot| slot + 1)
    }

    pub(super) fn insert(&mut self, slot: usize, key: &[u8]) {
        let start = self.start(slot);
        let length = u32::try_from(key.len()).expect("a key is far below 4 GiB");
        let total = u32::try_from(self.bytes.len() + key.len());
        assert!(total.is_ok(), "a node's keys stay below 4 GiB: it splits long before");
        reserve_lean(&mut self.bytes, key.len());
        let old_end = self.bytes.len();
        self.bytes.extend_from_slice(key);
        if start < old_end {
            // The new key was put at the end: move what belongs behind it, then write it in place.
            self.bytes.copy_within(start..old_end, start + key.len());
            self.bytes[start..start + key.len()].copy_from_slice(key);
        }
        reserve_lean(&mut self.ends, 1);
        for end in &mut self.ends[slot..] {
            *end += length;
        }
        self.ends.insert(slot, u32::try_from(start).expect("checked above") + length);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let (start, end) = (self.start(slot), self.ends[slot] as usize);
        let length = u32::try_from(end - start).expect("a key is far below 4 GiB");
        drop(self.bytes.drain(start..end));
        self.ends.remove(slot);
        for end in &mut self.ends[slot..] {
            *end -= length;
        }
    }

    /// Keeps the keys below `slot` and returns the others; both sized to what they hold.
    pub(super) fn split_off(&mut self, slot: usize) -> Self {
        let right = self.copy_of(slot, self.len());
        let left = self.copy_of(0, slot);
        *self = left;
        right
    }

    fn copy_of(&self, from: usize, to: usize) -> Self {
        let (start, end) = (self.start(from), self.start(to));
        let base = u32::try_from(start).expect("offsets are 32 bits");
        let mut copy = Self { bytes: Vec::with_capacity(end - start), ends: Vec::with_capacity(to - from) };
        copy.bytes.extend_from_slice(&self.bytes[start..end]);
        copy.ends.extend(self.ends[from..to].iter().map(|&end| end - base));
        copy
    }

    /// Adds a key above all others.
    pub(super) fn push(&mut self, key: &[u8]) {
        self.insert(self.len(), key);
    }

    /// Adds all keys of `right`, which are above all of these.
    pub(super) fn append(&mut self, right: &Self) {
        let base = u32::try_from(self.bytes.len()).expect("offsets are 32 bits");
        assert!(u32::try_from(self.bytes.len() + right.bytes.len()).is_ok(), "merged node above 4 GiB");
        reserve_lean(&mut self.bytes, right.bytes.len());
        self.bytes.extend_from_slice(&right.bytes);
        reserve_lean(&mut self.ends, right.ends.len());
        self.ends.extend(right.ends.iter().map(|&end| end + base));
    }
}

/// Makes room for `additional` more with an eighth of slack: nodes are many, so slack is memory.
pub(super) fn reserve_lean<T>(vec: &mut Vec<T>, additional: usize) {
    if vec.capacity() < vec.len() + additional {
        vec.reserve_exact(additional.max(vec.len() / 8).max(4));
    }
}

/// The upper part of `vec` from `at` on, both parts sized to what they hold.
pub(super) fn split_exact<T: Copy>(vec: &mut Vec<T>, at: usize) -> Vec<T> {
    let exact = |part: &[T]| {
        let mut copy = Vec::with_capacity(part.len());
        copy.extend_from_slice(part);
        copy
    };
    let right = exact(&vec[at..]);
    *vec = exact(&vec[..at]);
    right
}

/// The shortest string above `left` and not above `right`: a separator that costs few bytes.
pub(super) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    &right[..=common]
}
