//! A bbolt file written front to back, page after page.
//!
//! The meta pages come first and name the last page, so a file is laid out twice: once for the number of its pages,
//! once for their bytes. Both times the same calls are made, with an output that counts or one that keeps. A page is
//! done when the next entry does not fit, a branch page when more children than it holds are there; so besides the
//! bytes that are due, a bucket holds one page for each level.
//!
//! ```text
//! meta meta | leaf leaf ... branch leaf ... branch branch | (next bucket) ... | leaf of the bucket names
//! ```
//!
//! Invariants: each page is reached from one parent, none is free. A branch has two children at least, since bbolt's
//! own code, when it deletes later, asserts that. Both passes give each page the same number.

use super::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, NO_FREE_LIST, PAGE_BYTES,
    PAGE_HEAD_BYTES, VERSION, fnv1a,
};

/// Children that a branch keeps back, so that the page behind it has as many.
const BRANCH_CHILDREN_MIN: usize = 2;

/// The pages of a file in the making, as far as they are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    next: u64,
    keeps: bool,
}

impl Layout {
    /// Numbers pages and makes no bytes.
    #[must_use]
    pub fn counting() -> Self {
        Self { next: 2, keeps: false }
    }

    /// Makes the bytes too.
    #[must_use]
    pub fn writing() -> Self {
        Self { next: 2, keeps: true }
    }

    /// Pages so far.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.next
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.next * PAGE_BYTES as u64
    }

    /// Whether it makes the bytes.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// Takes the numbers of a page with so many bytes of content. Returns the first, and how many pages follow it.
    fn take(&mut self, bytes: usize) -> (u64, u32) {
        let pages = bytes.div_ceil(PAGE_BYTES).max(1);
        let id = self.next;
        self.next += pages as u64;
        (id, u32::try_from(pages - 1).expect("an entry is far below 2^32 pages"))
    }
}

/// Where a bucket is, for the leaf of the bucket names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Page(u64),
    /// Without entries it has no page.
    Empty,
}

/// A level of branches above the leaves.
#[derive(Debug, Default)]
struct Level {
    /// First key and number of each child that has no branch page yet.
    children: Vec<(Box<[u8]>, u64)>,
    bytes: usize,
}

/// A bucket in the making. Entries come in the order of their keys.
#[derive(Debug, Default)]
pub struct Bucket {
    leaf: Leaf,
    /// The page of a large entry, until its value is written: a branch page must not come before that.
    large: Option<(Box<[u8]>, u64)>,
    levels: Vec<Level>,
}

#[derive(Debug, Default)]
struct Leaf {
    first_key: Option<Box<[u8]>>,
    elements: Vec<(u32, u32, u32)>,
    /// Keys and values; empty where they are only counted.
    data: Vec<u8>,
    data_bytes: usize,
}

impl Leaf {
    fn bytes_with(&self, bytes: usize) -> usize {
        PAGE_HEAD_BYTES + ELEMENT_BYTES * (self.elements.len() + 1) + self.data_bytes + bytes
    }

    fn push(&mut self, flags: u32, key: &[u8], value_bytes: usize) {
        if self.first_key.is_none() {
            self.first_key = Some(key.into());
        }
        self.elements.push((flags, length(key.len()), length(value_bytes)));
        self.data_bytes += key.len() + value_bytes;
    }
}

/// Whether an entry has a page for itself, which is written by `Bucket::open_large`.
#[must_use]
pub fn is_large(key_bytes: usize, value_bytes: usize) -> bool {
    PAGE_BYTES < PAGE_HEAD_BYTES + ELEMENT_BYTES + key_bytes + value_bytes
}

impl Bucket {
    /// Adds an entry that is not large. `value` is written where bytes are made.
    pub fn put(
        &mut self,
        layout: &mut Layout,
        key: &[u8],
        value_bytes: usize,
        value: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        assert!(!is_large(key.len(), value_bytes), "{} + {value_bytes} bytes", key.len());
        if PAGE_BYTES < self.leaf.bytes_with(key.len() + value_bytes) {
            self.close_leaf(layout, out);
        }
        self.leaf.push(0, key, value_bytes);
        if layout.keeps {
            self.leaf.data.extend_from_slice(key);
            value(&mut self.leaf.data);
            assert_eq!(self.leaf.data.len(), self.leaf.data_bytes, "a value is as long as was said");
        }
    }

    /// Begins an entry that is large: all that stands before its value. The caller appends the value, and then as
    /// many zeros as this returns.
    #[must_use]
    pub fn open_large(
        &mut self,
        layout: &mut Layout,
        key: &[u8],
        value_bytes: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        self.close_leaf(layout, out);
        let bytes = PAGE_HEAD_BYTES + ELEMENT_BYTES + key.len() + value_bytes;
        let (id, overflow) = layout.take(bytes);
        if layout.keeps {
            put_page_head(out, id, LEAF, 1, overflow);
            put_element(out, (0, length(key.len()), length(value_bytes)), ELEMENT_BYTES);
            out.extend_from_slice(key);
        }
        self.large = Some((key.into(), id));
        (overflow as usize + 1) * PAGE_BYTES - bytes
    }

    /// Adds an entry of whichever size, value and all.
    pub fn put_whole(&mut self, layout: &mut Layout, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if !is_large(key.len(), value.len()) {
            return self.put(layout, key, value.len(), |data| data.extend_from_slice(value), out);
        }
        let padding = self.open_large(layout, key, value.len(), out);
        if layout.keeps {
            out.extend_from_slice(value);
            out.resize(out.len() + padding, 0);
        }
    }

    /// Ends the bucket.
    #[must_use]
    pub fn close(mut self, layout: &mut Layout, out: &mut Vec<u8>) -> Root {
        self.close_leaf(layout, out);
        let mut level = 0;
        while level < self.levels.len() {
            if let [(_, only)] = self.levels[level].children[..]
                && level + 1 == self.levels.len()
            {
                return Root::Page(only);
            }
            while !self.levels[level].children.is_empty() {
                let count = self.levels[level].children.len();
                let fitting = self.fitting(level);
                let now = if fitting + BRANCH_CHILDREN_MIN <= count {
                    fitting
                } else if fitting < count && 2 * BRANCH_CHILDREN_MIN <= count {
                    count - BRANCH_CHILDREN_MIN
                } else {
                    count
                };
                self.close_branch(layout, level, now, out);
            }
            level += 1;
        }
        Root::Empty
    }

    fn close_leaf(&mut self, layout: &mut Layout, out: &mut Vec<u8>) {
        if let Some((key, id)) = self.large.take() {
            self.add_child(layout, 0, key, id, out);
        }
        let Some(first_key) = self.leaf.first_key.take() else { return };
        let id = put_leaf(layout, &self.leaf, out);
        self.leaf.elements.clear();
        self.leaf.data.clear();
        self.leaf.data_bytes = 0;
        self.add_child(layout, 0, first_key, id, out);
    }

    fn add_child(&mut self, layout: &mut Layout, level: usize, key: Box<[u8]>, id: u64, out: &mut Vec<u8>) {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let children = &mut self.levels[level];
        children.bytes += ELEMENT_BYTES + key.len();
        children.children.push((key, id));
        if PAGE_BYTES < PAGE_HEAD_BYTES + children.bytes {
            let fitting = self.fitting(level);
            if fitting + BRANCH_CHILDREN_MIN <= self.levels[level].children.len() {
                self.close_branch(layout, level, fitting, out);
            }
        }
    }

    /// How many of the children that wait fit into one page; two do always, if need be in a longer one.
    fn fitting(&self, level: usize) -> usize {
        let mut bytes = PAGE_HEAD_BYTES;
        let children = self.levels[level].children.iter();
        let fitting = children.take_while(|(key, _)| {
            bytes += ELEMENT_BYTES + key.len();
            bytes <= PAGE_BYTES
        });
        fitting.count().max(BRANCH_CHILDREN_MIN)
    }

    fn close_branch(&mut self, layout: &mut Layout, level: usize, count: usize, out: &mut Vec<u8>) {
        assert!(BRANCH_CHILDREN_MIN <= count, "a branch of {count}");
        let children = &mut self.levels[level];
        let now: Vec<(Box<[u8]>, u64)> = children.children.drain(..count).collect();
        let keys_bytes: usize = now.iter().map(|(key, _)| key.len()).sum();
        children.bytes -= ELEMENT_BYTES * count + keys_bytes;
        let bytes = PAGE_HEAD_BYTES + ELEMENT_BYTES * count + keys_bytes;
        let (id, overflow) = layout.take(bytes);
        if layout.keeps {
            put_page_head(out, id, BRANCH, count, overflow);
            let mut distance = ELEMENT_BYTES * count;
            for (key, child) in &now {
                out.extend_from_slice(&length(distance).to_le_bytes());
                out.extend_from_slice(&length(key.len()).to_le_bytes());
                out.extend_from_slice(&child.to_le_bytes());
                distance = distance - ELEMENT_BYTES + key.len();
            }
            now.iter().for_each(|(key, _)| out.extend_from_slice(key));
            out.resize(out.len() + (overflow as usize + 1) * PAGE_BYTES - bytes, 0);
        }
        let first = now.into_iter().next().expect("it has children");
        self.add_child(layout, level + 1, first.0, id, out);
    }
}

/// Writes the leaf of the bucket names, the file's last page, and returns its number. Names are sorted.
pub fn put_buckets(layout: &mut Layout, buckets: &[(&str, Root)], out: &mut Vec<u8>) -> u64 {
    assert!(buckets.is_sorted_by(|a, b| a.0 < b.0), "names ascend");
    let mut leaf = Leaf::default();
    for (name, root) in buckets {
        let value_bytes = BUCKET_BYTES + if *root == Root::Empty { PAGE_HEAD_BYTES } else { 0 };
        leaf.push(IS_BUCKET, name.as_bytes(), value_bytes);
        leaf.data.extend_from_slice(name.as_bytes());
        let page = if let Root::Page(page) = root { *page } else { 0 };
        leaf.data.extend_from_slice(&page.to_le_bytes());
        leaf.data.extend_from_slice(&0_u64.to_le_bytes());
        if *root == Root::Empty {
            put_page_head(&mut leaf.data, 0, LEAF, 0, 0);
        }
    }
    put_leaf(layout, &leaf, out)
}

/// Writes the two meta pages of a file of so many pages, whose last is the leaf of the bucket names.
pub fn put_metas(layout: &Layout, root: u64, out: &mut Vec<u8>) {
    for id in 0..2_u64 {
        put_page_head(out, id, META, 0, 0);
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&length(PAGE_BYTES).to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&root.to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&NO_FREE_LIST.to_le_bytes());
        out.extend_from_slice(&layout.pages().to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
        let sum = fnv1a(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(out.len() - start, META_BYTES);
        out.resize(out.len() + PAGE_BYTES - PAGE_HEAD_BYTES - META_BYTES, 0);
    }
}

fn put_leaf(layout: &mut Layout, leaf: &Leaf, out: &mut Vec<u8>) -> u64 {
    let bytes = PAGE_HEAD_BYTES + ELEMENT_BYTES * leaf.elements.len() + leaf.data_bytes;
    let (id, overflow) = layout.take(bytes);
    if layout.keeps {
        put_page_head(out, id, LEAF, leaf.elements.len(), overflow);
        let mut distance = ELEMENT_BYTES * leaf.elements.len();
        for element in &leaf.elements {
            put_element(out, *element, distance);
            distance = distance - ELEMENT_BYTES + element.1 as usize + element.2 as usize;
        }
        out.extend_from_slice(&leaf.data);
        out.resize(out.len() + (overflow as usize + 1) * PAGE_BYTES - bytes, 0);
    }
    id
}

fn put_page_head(out: &mut Vec<u8>, id: u64, flags: u16, count: usize, overflow: u32) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&u16::try_from(count).expect("a page holds few entries").to_le_bytes());
    out.extend_from_slice(&overflow.to_le_bytes());
}

fn put_element(out: &mut Vec<u8>, (flags, key_bytes, value_bytes): (u32, u32, u32), distance: usize) {
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&length(distance).to_le_bytes());
    out.extend_from_slice(&key_bytes.to_le_bytes());
    out.extend_from_slice(&value_bytes.to_le_bytes());
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a key, a value and a page are far below 4 GiB")
}
