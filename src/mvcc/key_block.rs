//! The inside of a tree node: sorted keys packed side by side, and small arrays beside them.
//!
//! What costs in a large tree is not comparing but fetching: each line of memory that is not in a
//! cache costs as much as hundreds of instructions. So a node keeps the four bytes of every key that
//! follow the prefix common to all its keys in one dense array; a search counts through that array
//! without a branch, its lines being fetched side by side, and then looks at one key.

/// Entries a node can hold: one more than it keeps, so that it splits after the insert.
pub(super) const SLOTS: usize = 65;

/// Numbers of 32 bits in a line of memory.
const LINE: usize = 16;

/// A vector of at most `SLOTS` entries, in place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots<T> {
    len: u32,
    items: [T; SLOTS],
}

impl<T: Copy + Default> Default for Slots<T> {
    fn default() -> Self {
        Self { len: 0, items: [T::default(); SLOTS] }
    }
}

impl<T> std::ops::Deref for Slots<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.items[..self.len as usize]
    }
}

impl<T> std::ops::DerefMut for Slots<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len as usize]
    }
}

impl<T: Copy + Default> Slots<T> {
    pub(super) fn push(&mut self, item: T) {
        self.items[self.len as usize] = item;
        self.len += 1;
    }

    pub(super) fn insert(&mut self, slot: usize, item: T) {
        let len = self.len as usize;
        self.items.copy_within(slot..len, slot + 1);
        self.items[slot] = item;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, slot: usize) -> T {
        let len = self.len as usize;
        let removed = self.items[slot];
        self.items.copy_within(slot + 1..len, slot);
        self.len -= 1;
        removed
    }

    /// Keeps what is below `slot` and returns the others.
    pub(super) fn split_off(&mut self, slot: usize) -> Self {
        let mut right = Self::default();
        right.append(&self[slot..]);
        self.len -= right.len;
        right
    }

    pub(super) fn append(&mut self, items: &[T]) {
        for &item in items {
            self.push(item);
        }
    }
}

/// Sorted, distinct keys.
#[derive(Debug, Default)]
pub(super) struct KeyBlock {
    /// Length of a prefix that all keys share (the longest such, or shorter after removals).
    prefix: u32,
    /// The four bytes of each key behind the prefix, as a number; zeroes where the key ends.
    heads: Slots<u32>,
    /// Where each key ends in `bytes`.
    ends: Slots<u32>,
    bytes: Vec<u8>,
}

impl KeyBlock {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes_count(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
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
        let prefix = self.prefix as usize;
        let (mut low, mut high) = self.like_headed(head_of(key.get(prefix..).unwrap_or(&[])));
        // Keys with the same head are compared whole, so a key that is found needs no look at the
        // prefix, which lies on another line. Where it lacks the prefix, the way does not matter.
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        let prefix = &self.bytes[..prefix];
        match key.get(..prefix.len()).unwrap_or(key).cmp(prefix) {
            std::cmp::Ordering::Less => Err(0),
            std::cmp::Ordering::Equal => Err(low),
            std::cmp::Ordering::Greater => Err(self.len()),
        }
    }

    /// The slots of the keys with this head; where they would be if there are none.
    #[inline]
    fn like_headed(&self, head: u32) -> (usize, usize) {
        let (mut low, mut high) = (0_u32, 0_u32);
        // Wrapping, which it never does: a check in each turn would keep the loop from being done
        // several heads at a time.
        for &other in self.heads.iter() {
            low = low.wrapping_add(u32::from(other < head));
            high = high.wrapping_add(u32::from(other <= head));
        }
        (low as usize, high as usize)
    }

    /// Reads a byte of each line that a search begins with, and of where the keys lie.
    #[inline]
    pub(super) fn touch(&self) -> u32 {
        let lines = self.heads.iter().step_by(LINE).chain(self.ends.iter().step_by(LINE));
        lines.fold(u32::from(self.bytes.first().copied().unwrap_or(0)), |sum, number| sum ^ number)
    }

    /// Reads a byte of where `key` lies or belongs. Returns its slot, if it may be there, and the byte.
    #[inline]
    pub(super) fn touch_key(&self, key: &[u8]) -> (Option<usize>, u8) {
        let rest = key.get(self.prefix as usize..).unwrap_or(&[]);
        let (low, high) = self.like_headed(head_of(rest));
        let start = if low < self.len() { self.start(low) } else { 0 };
        ((low < high).then_some(low), self.bytes.get(start).copied().unwrap_or(0))
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
        for end in &mut self.ends[slot..] {
            *end += length;
        }
        self.ends.insert(slot, narrow(start) + length);
        // Keys are sorted: between two that share the prefix, all do.
        let prefix = self.prefix as usize;
        let inside = 0 < slot && slot + 1 < self.len();
        if inside || (1 < self.len() && self.get(0).get(..prefix) == self.get(self.len() - 1).get(..prefix)) {
            let head = head_of(&self.get(slot)[prefix..]);
            self.heads.insert(slot, head);
        } else {
            self.renew_heads();
        }
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let (start, end) = (self.start(slot), self.ends[slot] as usize);
        let length = narrow(end - start);
        drop(self.bytes.drain(start..end));
        self.ends.remove(slot);
        self.heads.remove(slot);
        for end in &mut self.ends[slot..] {
            *end -= length;
        }
        if self.len() == 0 {
            self.prefix = 0;
        }
    }

    /// Finds the common prefix again, and each key's head behind it.
    fn renew_heads(&mut self) {
        self.heads = Slots::default();
        let Some(last) = self.last() else {
            self.prefix = 0;
            return;
        };
        let prefix = common_prefix(self.get(0), last);
        self.prefix = narrow(prefix);
        for slot in 0..self.len() {
            self.heads.push(head_of(&self.get(slot)[prefix..]));
        }
    }

    /// Keeps the keys below `slot` and returns the others; both sized to what they hold.
    pub(super) fn split_off(&mut self, slot: usize) -> Self {
        let right = self.copy_of(slot, self.len());
        // Copied, not cut off: allocators answer a shrink by less than half with the same block.
        *self = self.copy_of(0, slot);
        right
    }

    fn copy_of(&self, from: usize, to: usize) -> Self {
        let (start, end) = (self.start(from), self.start(to));
        let mut copy = Self { bytes: Vec::with_capacity(end - start), ..Self::default() };
        copy.bytes.extend_from_slice(&self.bytes[start..end]);
        for end in &self.ends[from..to] {
            copy.ends.push(end - narrow(start));
        }
        copy.renew_heads();
        copy
    }

    /// Makes room for so many bytes of keys in all.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve_exact(bytes.saturating_sub(self.bytes.len()));
    }

    /// Gives back what was reserved and not used, if it is much.
    pub(super) fn trim(&mut self) {
        if self.bytes.len() + self.bytes.len() / 8 < self.bytes.capacity() {
            let mut exact = Vec::with_capacity(self.bytes.len());
            exact.extend_from_slice(&self.bytes);
            self.bytes = exact;
        }
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
        for end in right.ends.iter() {
            self.ends.push(end + base);
        }
        self.renew_heads();
    }

    /// Checks that the heads are those of the keys.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.heads.len(), self.ends.len());
        assert_eq!(self.ends.last().map_or(0, |&end| end as usize), self.bytes.len());
        let prefix = self.prefix as usize;
        for slot in 0..self.len() {
            assert!(slot == 0 || self.get(slot - 1) < self.get(slot), "keys ascend");
            assert_eq!(self.get(slot)[..prefix], self.bytes[..prefix], "keys share the prefix");
            assert_eq!(self.heads[slot], head_of(&self.get(slot)[prefix..]));
        }
    }
}

/// The first four bytes as a number that sorts as they do.
#[inline]
fn head_of(rest: &[u8]) -> u32 {
    if let Some(head) = rest.first_chunk::<4>() {
        return u32::from_be_bytes(*head);
    }
    let mut head = [0; 4];
    head[..rest.len()].copy_from_slice(rest);
    u32::from_be_bytes(head)
}

fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(a, b)| a == b).count()
}

/// Makes room for `additional` more with an eighth of slack: nodes are many, so slack is memory.
fn reserve_lean(vec: &mut Vec<u8>, additional: usize) {
    if vec.capacity() < vec.len() + additional {
        vec.reserve_exact(additional.max(vec.len() / 8).max(16));
    }
}

/// The shortest string above `left` and not above `right`: a separator that costs few bytes.
pub(super) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    &right[..=common_prefix(left, right)]
}

/// Positions and lengths inside a node.
pub(super) const fn narrow(position: usize) -> u32 {
    assert!(position <= u32::MAX as usize, "a node stays below 4 GiB");
    #[expect(clippy::cast_possible_truncation, reason = "checked above; const fn has no TryFrom")]
    let position = position as u32;
    position
}
