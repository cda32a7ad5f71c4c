//! A walk through a bbolt file that anybody may have made.
//!
//! Every number is checked before it is used: a page is inside the file, has the number by which it was reached and is
//! reached once, whatever points at it; what lies on it does not overlap, so that a small file cannot stand for a
//! large one; keys ascend. The format has no checksums but for the metas, so other damage may go unseen here: a
//! snapshot has a hash over all of it, and whoever reads the entries checks what they mean.
//!
//! Bounds: memory is one page of each level and a bit for each page of the file. A walk ends after as many steps as
//! the file has pages and entries.

use std::io;

use super::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_HEAD_BYTES, VERSION,
    fnv1a,
};

/// Page sizes of machines.
const PAGE_SIZES: [u64; 8] = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];

/// A hundred times what etcd recommends; the bits for its pages are 32 MiB.
const FILE_BYTES_MAX: u64 = 1 << 40;

/// The largest leaf: a request beyond any limit of etcd, and what it shares its page with.
const LEAF_BYTES_MAX: u64 = (1 << 30) + (1 << 20);

/// The largest branch. It holds keys alone.
const BRANCH_BYTES_MAX: u64 = 16 << 20;

/// Levels of a tree. Seven hold a file of the largest size.
const DEPTH_MAX: usize = 32;

/// Buckets of a file; etcd has eleven.
const BUCKETS_MAX: usize = 1024;

/// The longest name of a bucket.
const NAME_BYTES_MAX: usize = 1024;

/// The longest inline bucket; bbolt stops at a quarter of a page.
const INLINE_BYTES_MAX: usize = 65_536;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no bbolt file: neither of its first two pages is a valid meta page")]
    NotBbolt,
    #[error("it is bbolt of version {0}, and version 2 is the only one that is known")]
    Version(u32),
    #[error("it has {have} bytes and says that {need} are in use: it was cut short")]
    Cut { need: u64, have: u64 },
    #[error("it has {0} bytes, and {FILE_BYTES_MAX} are the most that is read")]
    TooLarge(u64),
    #[error("page {page}: {problem}")]
    Damaged { page: u64, problem: &'static str },
}

/// Where the bytes of a file come from.
pub trait Source {
    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// They are not there, or cannot be read.
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl Source for &[u8] {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let found = start.and_then(|start| self.get(start..)?.get(..out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The valid meta page that counts.
#[derive(Debug, Clone, Copy)]
struct Meta {
    page_bytes: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

/// A bucket of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketAt {
    Page(u64),
    /// Its only page, which lies in the element of its name.
    Inline(Vec<u8>),
}

/// An entry of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// A file whose meta page was found.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    meta: Meta,
    /// A bit for each page that was reached.
    reached: Vec<u64>,
}

impl<S: Source> Reader<S> {
    /// Looks for the meta page that counts in a file of so many bytes.
    ///
    /// # Errors
    /// There is none, or it says what cannot be.
    pub fn open(mut source: S, file_bytes: u64) -> Result<Self, Fault> {
        if FILE_BYTES_MAX < file_bytes {
            return Err(Fault::TooLarge(file_bytes));
        }
        let first = meta_at(&mut source, 0, file_bytes)?;
        let second = match first {
            Some(meta) => meta_at(&mut source, meta.page_bytes, file_bytes)?,
            // The first may be torn, and only it says where the second is.
            None => {
                let mut found = None;
                for bytes in PAGE_SIZES {
                    found = found.or(meta_at(&mut source, bytes, file_bytes)?
                        .filter(|meta: &Meta| meta.page_bytes == bytes));
                }
                found
            }
        };
        let metas =
            [first, second.filter(|meta| first.is_none_or(|first| first.page_bytes == meta.page_bytes))];
        let meta = metas.into_iter().flatten().max_by_key(|meta| meta.transaction).ok_or(Fault::NotBbolt)?;
        let need = meta.pages.checked_mul(meta.page_bytes);
        let need = need.ok_or(Fault::Damaged { page: 0, problem: "an impossible number of pages" })?;
        if file_bytes < need {
            return Err(Fault::Cut { need, have: file_bytes });
        }
        if meta.root < 2 || meta.pages <= meta.root {
            return Err(Fault::Damaged { page: 0, problem: "its root is no page of the file" });
        }
        let words = usize::try_from(meta.pages.div_ceil(64)).map_err(|_| Fault::TooLarge(file_bytes))?;
        Ok(Self { source, meta, reached: vec![0; words] })
    }

    /// Bytes in use: what lies behind them is no part of the database.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.meta.pages * self.meta.page_bytes
    }

    /// All buckets, in the order of their names.
    ///
    /// # Errors
    /// Damage.
    pub fn buckets(&mut self) -> Result<Vec<(Vec<u8>, BucketAt)>, Fault> {
        let root = self.meta.root;
        let mut walk = Walk::of_kind(self, &BucketAt::Page(root), IS_BUCKET)?;
        let mut found = Vec::new();
        let damaged = |problem| Fault::Damaged { page: root, problem };
        while let Some(Entry { key, value }) = walk.next(self)? {
            if BUCKETS_MAX == found.len() || NAME_BYTES_MAX < key.len() {
                return Err(damaged("too many buckets, or too long a name of one"));
            }
            let (head, inline) =
                value.split_at_checked(BUCKET_BYTES).ok_or(damaged("a bucket without a root"))?;
            let page = u64_at(head, 0).ok_or(damaged("a bucket without a root"))?;
            let bucket = match page {
                0 if inline.len() <= INLINE_BYTES_MAX => BucketAt::Inline(inline.to_vec()),
                0 => return Err(damaged("too long an inline bucket")),
                _ => BucketAt::Page(page),
            };
            found.push((key.to_vec(), bucket));
        }
        Ok(found)
    }

    /// The bytes of a page and of those that belong to it, reached for the first time.
    fn page(&mut self, id: u64) -> Result<Vec<u8>, Fault> {
        let damaged = |problem| Fault::Damaged { page: id, problem };
        if id < 2 || self.meta.pages <= id {
            return Err(damaged("something points at it, and the file does not have it"));
        }
        let page_bytes = self.meta.page_bytes;
        let mut head = [0; PAGE_HEAD_BYTES];
        self.source.read_at(id * page_bytes, &mut head)?;
        let overflow = u64::from(u32_at(&head, 12).unwrap_or_default());
        let flags = flags_of(&head);
        if overflow >= self.meta.pages - id {
            return Err(damaged("it is longer than the file"));
        }
        let bytes = (overflow + 1) * page_bytes;
        let bytes_max = if flags == BRANCH { BRANCH_BYTES_MAX } else { LEAF_BYTES_MAX };
        if bytes_max < bytes {
            return Err(damaged("it is longer than any page may be"));
        }
        if u64_at(&head, 0) != Some(id) {
            return Err(damaged("it has the number of another page"));
        }
        for page in id..=id + overflow {
            let word = usize::try_from(page / 64).expect("there is a bit for it");
            let bit = 1 << (page % 64);
            if self.reached[word] & bit != 0 {
                return Err(damaged("it is reached twice"));
            }
            self.reached[word] |= bit;
        }
        let mut page =
            vec![0; usize::try_from(bytes).map_err(|_| damaged("it is longer than any page may be"))?];
        self.source.read_at(id * page_bytes, &mut page)?;
        Ok(page)
    }
}

fn meta_at(source: &mut impl Source, offset: u64, file_bytes: u64) -> Result<Option<Meta>, Fault> {
    let mut page = [0; PAGE_HEAD_BYTES + META_BYTES];
    if file_bytes < offset + page.len() as u64 {
        return Ok(None);
    }
    source.read_at(offset, &mut page)?;
    let meta = &page[PAGE_HEAD_BYTES..];
    let number = |at| u32_at(meta, at).unwrap_or_default();
    let long = |at| u64_at(meta, at).unwrap_or_default();
    if flags_of(&page) != META || number(0) != MAGIC || long(56) != fnv1a(&meta[..56]) {
        return Ok(None);
    }
    if number(4) != VERSION {
        return Err(Fault::Version(number(4)));
    }
    let page_bytes = u64::from(number(8));
    if !PAGE_SIZES.contains(&page_bytes) {
        return Err(Fault::Damaged { page: 0, problem: "an impossible page size" });
    }
    Ok(Some(Meta { page_bytes, root: long(16), pages: long(40), transaction: long(48) }))
}

/// A walk through a bucket, entry by entry.
#[derive(Debug)]
pub struct Walk {
    path: Vec<Node>,
    /// Flags that all its entries have.
    flags: u32,
    last_key: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Node {
    id: u64,
    page: Vec<u8>,
    is_leaf: bool,
    count: usize,
    /// The element that is next.
    next: usize,
}

impl Walk {
    /// Starts at the first entry of a bucket that holds no other buckets.
    ///
    /// # Errors
    /// Damage.
    pub fn new<S: Source>(reader: &mut Reader<S>, bucket: &BucketAt) -> Result<Self, Fault> {
        Self::of_kind(reader, bucket, 0)
    }

    fn of_kind<S: Source>(reader: &mut Reader<S>, bucket: &BucketAt, flags: u32) -> Result<Self, Fault> {
        let node = match bucket {
            BucketAt::Page(id) => Node::new(*id, reader.page(*id)?)?,
            BucketAt::Inline(page) => {
                let node = Node::new(0, page.clone())?;
                if !node.is_leaf {
                    return Err(Fault::Damaged {
                        page: 0,
                        problem: "an inline bucket with more than a leaf",
                    });
                }
                node
            }
        };
        Ok(Self { path: vec![node], flags, last_key: None })
    }

    /// The next entry; none behind the last.
    ///
    /// # Errors
    /// Damage.
    pub fn next<S: Source>(&mut self, reader: &mut Reader<S>) -> Result<Option<Entry<'_>>, Fault> {
        loop {
            let Some(node) = self.path.last_mut() else { return Ok(None) };
            if node.next == node.count {
                self.path.pop();
                continue;
            }
            let at = node.next;
            node.next += 1;
            if node.is_leaf {
                break;
            }
            let (id, child) = (node.id, node.child(at)?);
            if self.path.len() == DEPTH_MAX {
                return Err(Fault::Damaged { page: id, problem: "the tree is deeper than any can be" });
            }
            self.path.push(Node::new(child, reader.page(child)?)?);
        }
        let Self { path, flags, last_key } = self;
        let node = path.last().expect("a leaf was found");
        let damaged = |problem| Fault::Damaged { page: node.id, problem };
        let (found, key, value) = node.entry(node.next - 1)?;
        if found != *flags {
            return Err(damaged("a bucket among entries, or an entry among buckets"));
        }
        if last_key.as_ref().is_some_and(|last| key <= last.as_slice()) {
            return Err(damaged("its keys are out of order"));
        }
        let kept = last_key.get_or_insert_default();
        kept.clear();
        kept.extend_from_slice(key);
        Ok(Some(Entry { key, value }))
    }
}

impl Node {
    fn new(id: u64, page: Vec<u8>) -> Result<Self, Fault> {
        let damaged = |problem| Fault::Damaged { page: id, problem };
        if page.len() < PAGE_HEAD_BYTES {
            return Err(damaged("it is cut short"));
        }
        let is_leaf = match flags_of(&page) {
            LEAF => true,
            BRANCH => false,
            _ => return Err(damaged("it is neither a branch nor a leaf")),
        };
        let count = usize::from(u16::from_le_bytes([page[10], page[11]]));
        let node = Self { id, page, is_leaf, count, next: 0 };
        if count == 0 && !is_leaf {
            return Err(damaged("a branch without children"));
        }
        // What overlaps would count more than once.
        let mut bytes = PAGE_HEAD_BYTES + ELEMENT_BYTES * count;
        for at in 0..count {
            bytes += if is_leaf {
                let (_, key, value) = node.entry(at)?;
                key.len() + value.len()
            } else {
                let start = PAGE_HEAD_BYTES + ELEMENT_BYTES * at;
                u32_at(&node.page, start + 4).ok_or(damaged("it is cut short"))? as usize
            };
        }
        if node.page.len() < bytes {
            return Err(damaged("it says that it holds more than it can"));
        }
        Ok(node)
    }

    fn entry(&self, at: usize) -> Result<(u32, &[u8], &[u8]), Fault> {
        let start = PAGE_HEAD_BYTES + ELEMENT_BYTES * at;
        let read = || {
            let flags = u32_at(&self.page, start)?;
            let distance = u32_at(&self.page, start + 4)? as usize;
            let key_bytes = u32_at(&self.page, start + 8)? as usize;
            let value_bytes = u32_at(&self.page, start + 12)? as usize;
            let data = self.page.get(start.checked_add(distance)?..)?;
            let (key, rest) = data.split_at_checked(key_bytes)?;
            Some((flags, key, rest.get(..value_bytes)?))
        };
        read().ok_or(Fault::Damaged { page: self.id, problem: "an entry lies outside" })
    }

    fn child(&self, at: usize) -> Result<u64, Fault> {
        let start = PAGE_HEAD_BYTES + ELEMENT_BYTES * at;
        u64_at(&self.page, start + 8).ok_or(Fault::Damaged { page: self.id, problem: "it is cut short" })
    }
}

fn flags_of(page: &[u8]) -> u16 {
    u16::from_le_bytes([page[8], page[9]])
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
