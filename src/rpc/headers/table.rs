//! HPACK's tables: the static one, and the dynamic one as a client's encoder has it.
//!
//! The texts of entries lie one behind the other in one buffer. An entry that is evicted stays in it until
//! `settle`, so that a header block can be read a second time from where the first reading began: `mark`
//! and `rollback`.
//!
//! Invariants: `size` is the sum of the live entries' sizes as RFC 7541 section 4.1 counts them, and
//! `size <= max <= TABLE_BYTES_MAX`.
//! Cost: an insertion copies the entry once; looking an entry up is O(1); `settle` moves what is live, at
//! most once per as many inserted bytes.

use super::class::Class;
use super::fault::HpackError;

/// SETTINGS_HEADER_TABLE_SIZE where none is announced.
pub(super) const TABLE_BYTES_MAX: usize = 4096;

/// What an entry costs beside its texts.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 32;

/// Bytes of evicted entries that are kept at most from one block to the next.
const EVICTED_BYTES_MAX: usize = 2 * TABLE_BYTES_MAX;

/// A field in a table.
pub(super) struct Known<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) class: Class,
}

/// RFC 7541, appendix A. The first one has index 1.
const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

const STATIC_CLASSES: [Class; STATIC.len()] = {
    let mut classes = [Class::of(b"x", b""); STATIC.len()];
    let mut at = 0;
    while at < STATIC.len() {
        classes[at] = Class::of(STATIC[at].0, STATIC[at].1);
        at += 1;
    }
    classes
};

#[derive(Debug)]
struct Entry {
    at: usize,
    name_bytes: usize,
    value_bytes: usize,
    class: Class,
    /// No other entry of this table has or had the same.
    serial: u64,
}

impl Entry {
    fn size(&self) -> usize {
        self.name_bytes + self.value_bytes + ENTRY_OVERHEAD_BYTES
    }
}

/// The dynamic table.
#[derive(Debug)]
pub(super) struct Table {
    texts: Vec<u8>,
    /// The newest is last.
    entries: Vec<Entry>,
    /// The oldest entry that is not evicted.
    first: usize,
    size: usize,
    max: usize,
    /// Grows whenever the table is changed.
    changes: u64,
}

/// A state to come back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    texts: usize,
    entries: usize,
    first: usize,
    size: usize,
    max: usize,
    changes: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { texts: Vec::new(), entries: Vec::new(), first: 0, size: 0, max: TABLE_BYTES_MAX, changes: 0 }
    }

    /// The field that an index names.
    pub(super) fn get(&self, index: usize) -> Result<Known<'_>, HpackError> {
        if let Some(at) = index.checked_sub(1)
            && let Some(&(name, value)) = STATIC.get(at)
        {
            return Ok(Known { name, value, class: STATIC_CLASSES[at] });
        }
        self.entry(index).map(|entry| self.known(entry))
    }

    fn known(&self, entry: &Entry) -> Known<'_> {
        let (name, rest) = self.texts[entry.at..].split_at(entry.name_bytes);
        Known { name, value: &rest[..entry.value_bytes], class: entry.class }
    }

    /// Class and size of the field that an index names.
    pub(super) fn peek(&self, index: usize) -> Result<(Class, usize), HpackError> {
        if let Some(at) = index.checked_sub(1)
            && let Some(&(name, value)) = STATIC.get(at)
        {
            return Ok((STATIC_CLASSES[at], name.len() + value.len() + ENTRY_OVERHEAD_BYTES));
        }
        let entry = self.entry(index)?;
        Ok((entry.class, entry.size()))
    }

    /// Where the dynamic table keeps the field that an index names, until `settle`. None: it does not.
    pub(super) fn place_of(&self, index: usize) -> Option<usize> {
        let place = self.entries.len().checked_sub(index.checked_sub(STATIC.len())?)?;
        (self.first <= place).then_some(place)
    }

    /// The field at a place, evicted or not, and what tells it from all others of this table.
    pub(super) fn at(&self, place: usize) -> (Known<'_>, u64) {
        let entry = &self.entries[place];
        (self.known(entry), entry.serial)
    }

    fn entry(&self, index: usize) -> Result<&Entry, HpackError> {
        let age = index.checked_sub(STATIC.len() + 1).ok_or(HpackError)?;
        let at = self.entries.len().checked_sub(age + 1).ok_or(HpackError)?;
        if at < self.first { Err(HpackError) } else { Ok(&self.entries[at]) }
    }

    /// Puts a field in front; what has no room any more is evicted, maybe the field itself.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], class: Class) {
        let at = self.texts.len();
        self.changes += 1;
        let serial = self.changes;
        let entry = Entry { at, name_bytes: name.len(), value_bytes: value.len(), class, serial };
        self.size += entry.size();
        if entry.size() <= self.max {
            self.texts.extend_from_slice(name);
            self.texts.extend_from_slice(value);
            self.entries.push(entry);
            self.evict();
        } else {
            self.clear();
        }
    }

    /// A field that is larger than any table has been inserted: nothing is left.
    pub(super) fn clear(&mut self) {
        self.changes += 1;
        self.first = self.entries.len();
        self.size = 0;
    }

    /// The client sets a size.
    pub(super) fn set_max(&mut self, max: usize) -> Result<(), HpackError> {
        if TABLE_BYTES_MAX < max {
            return Err(HpackError);
        }
        self.changes += 1;
        self.max = max;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.max < self.size {
            self.size -= self.entries[self.first].size();
            self.first += 1;
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            texts: self.texts.len(),
            entries: self.entries.len(),
            first: self.first,
            size: self.size,
            max: self.max,
            changes: self.changes,
        }
    }

    /// Takes back what was done since `mark`, which no `settle` came after.
    pub(super) fn rollback(&mut self, mark: &Mark) {
        self.texts.truncate(mark.texts);
        self.entries.truncate(mark.entries);
        self.first = mark.first;
        self.size = mark.size;
        self.max = mark.max;
        self.changes = mark.changes;
    }

    /// Whether something was done since `mark`.
    pub(super) fn has_changed_since(&self, mark: &Mark) -> bool {
        self.changes != mark.changes
    }

    /// Lets go of evicted entries when they are many.
    pub(super) fn settle(&mut self) {
        if self.first == 0 {
            return;
        }
        let evicted = self.entries.get(self.first).map_or(self.texts.len(), |entry| entry.at);
        if evicted + self.first * size_of::<Entry>() < EVICTED_BYTES_MAX {
            return;
        }
        self.texts.drain(..evicted);
        self.entries.drain(..self.first);
        self.first = 0;
        self.entries.iter_mut().for_each(|entry| entry.at -= evicted);
        // One block may have brought much; a table needs no more than this again.
        self.texts.shrink_to(2 * EVICTED_BYTES_MAX);
        self.entries.shrink_to(2 * EVICTED_BYTES_MAX / size_of::<Entry>());
    }

    /// Memory that this takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.texts.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}
