//! Nodes at a revision: what a path names, and what is below a directory.
//!
//! A list never walks a subtree: behind a child directory it jumps to the first key that is not below it. It goes on
//! from where it stopped by two names, so nothing is held between its pages.

use bytes::Bytes;

use super::shown::{Directory, node_of_directory, node_of_key};
use crate::mvcc::{KeyValueRef, Store};
use crate::pb::peer;
use crate::request::NodeFault;
use crate::types::node_path::{LEVELS_MAX, PATH_BYTES_MAX, is_segment};
use crate::types::{KeyRange, NodePath, Slice};

/// Bytes of a page of a list.
const PAGE_BYTES_MAX: usize = 128 << 10;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'s> {
    Key(KeyValueRef<'s>),
    Directory(Directory),
    Missing,
}

/// Why a node cannot be reached, and the path that is in the way or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub fault: NodeFault,
    pub cause: Bytes,
}

impl Fault {
    /// About this node.
    #[must_use]
    pub fn at(fault: NodeFault, path: &NodePath) -> Self {
        Self { fault, cause: Bytes::copy_from_slice(path.shown()) }
    }
}

/// The nodes at a revision.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'s> {
    pub keys: &'s Store,
    pub entries: &'s Store,
    pub at: i64,
}

/// A child of a directory, by where its name lies in its key.
struct Child {
    key: Vec<u8>,
    is_directory: bool,
}

/// What a step of a list comes to. The second is where to go on from.
enum Next {
    Child(Child, Vec<u8>),
    /// Something that is no node.
    Skip(Vec<u8>),
    End,
}

impl<'s> Tree<'s> {
    /// What `path` names. O(log keys).
    #[must_use]
    pub fn find(&self, path: &NodePath) -> Found<'s> {
        if path.is_root() {
            return Found::Directory(Directory::ROOT);
        }
        if let Some(kv) = self.keys.get(path.key(), self.at) {
            return Found::Key(kv);
        }
        self.directory(&path.below(), &path.behind()).map_or(Found::Missing, Found::Directory)
    }

    /// The directory whose children are in this range.
    fn directory(&self, below: &[u8], behind: &[u8]) -> Option<Directory> {
        if let Some(entry) = self.entries.get(below, self.at) {
            return Some(Directory::of_entry(&entry));
        }
        let range = KeyRange::Between { start: below, end: behind };
        let first = first_of(self.keys, range, self.at).or_else(|| first_of(self.entries, range, self.at))?;
        let (created, modified) = (first.create_revision, first.create_revision);
        Some(Directory { created, modified, expiry: None, has_entry: false })
    }

    /// Whether anything is below `path`, a directory.
    #[must_use]
    pub fn has_children(&self, path: &NodePath) -> bool {
        let (below, behind) = (path.below(), path.behind());
        let mut behind_entry = below.to_vec();
        behind_entry.push(0);
        let keys = KeyRange::Between { start: &below, end: &behind };
        let entries = KeyRange::Between { start: &behind_entry, end: &behind };
        first_of(self.keys, keys, self.at).is_some() || first_of(self.entries, entries, self.at).is_some()
    }

    /// The directories above `path` that are not there, the top one first.
    ///
    /// # Errors
    /// One of them is a key.
    pub fn missing_above(&self, path: &NodePath) -> Result<Vec<NodePath>, Fault> {
        let mut missing = Vec::new();
        for above in path.ancestors() {
            if self.keys.get(above.key(), self.at).is_some() {
                return Err(Fault::at(NodeFault::NotDirectory, &above));
            }
            if !missing.is_empty() || self.directory(&above.below(), &above.behind()).is_none() {
                missing.push(above);
            }
        }
        Ok(missing)
    }

    /// Why `path`, which names nothing, does not.
    #[must_use]
    pub fn fault(&self, path: &NodePath) -> Fault {
        match self.missing_above(path) {
            Err(fault) => fault,
            Ok(missing) => Fault::at(NodeFault::NotFound, missing.first().unwrap_or(path)),
        }
    }

    /// The next nodes below the directory `path`, in the order of their keys, as many as a slice allows: its children, or
    /// all that is below it, each directory before what it holds. Returns where to go on; None at the end.
    pub fn list(
        &self,
        path: &NodePath,
        recursive: bool,
        resume: Option<&peer::NodeResume>,
        slice: &mut Slice,
        out: &mut Vec<peer::Node>,
    ) -> Option<peer::NodeResume> {
        let base = path.key();
        let (mut directory, mut from) = match resume {
            // Only what was told before, or less.
            Some(resume) if resume.directory.starts_with(base) => {
                (resume.directory.to_vec(), resume.from.to_vec())
            }
            _ => (base.to_vec(), path.below().to_vec()),
        };
        let mut bytes = 0;
        while !slice.is_spent() && bytes < PAGE_BYTES_MAX {
            slice.spend_key();
            slice.spend_key();
            match self.next_child(&directory, &from) {
                Next::Skip(next) => from = next,
                Next::Child(child, next) => {
                    from = next;
                    slice.spend_bytes(child.key.len());
                    let name = child.key.get(directory.len() + 1..).unwrap_or_default();
                    // v3 has no bound for levels, and a longer name: what no path can name is no node.
                    if name.starts_with(b"_") || !fits(&child.key, path.root_bytes()) {
                        continue;
                    }
                    let node = self.node(&child, path.root_bytes());
                    bytes += 128 + node.path.len() + node.value.len();
                    slice.spend_bytes(node.path.len() + node.value.len());
                    out.push(node);
                    if child.is_directory && recursive {
                        from = child.key.clone();
                        from.push(b'/');
                        directory = child.key;
                    }
                }
                Next::End if directory.len() <= base.len() => return None,
                Next::End => {
                    // Behind this directory, in the one above it.
                    from = directory.clone();
                    from.push(b'/' + 1);
                    let end = directory.iter().rposition(|&byte| byte == b'/').unwrap_or(base.len());
                    directory.truncate(end.max(base.len()));
                }
            }
        }
        Some(peer::NodeResume { directory: directory.into(), from: from.into() })
    }

    fn node(&self, child: &Child, root_bytes: usize) -> peer::Node {
        let path = &child.key[root_bytes..];
        if !child.is_directory {
            let kv = self.keys.get(&child.key, self.at).expect("a list has just found it");
            return node_of_key(path, &kv);
        }
        let (mut below, mut behind) = (child.key.clone(), child.key.clone());
        below.push(b'/');
        behind.push(b'/' + 1);
        let directory = self.directory(&below, &behind).expect("a list has just found something below it");
        node_of_directory(path, &directory)
    }

    /// The first child of `directory` at or behind `from`.
    fn next_child(&self, directory: &[u8], from: &[u8]) -> Next {
        let mut end = directory.to_vec();
        end.push(b'/' + 1);
        let range = KeyRange::Between { start: from, end: &end };
        let key = first_of(self.keys, range, self.at).map(|kv| kv.key);
        let entry = first_of(self.entries, range, self.at).map(|kv| kv.key);
        let Some(first) = key.into_iter().chain(entry).min() else { return Next::End };
        let rest = &first[directory.len() + 1..];
        let slash = rest.iter().position(|&byte| byte == b'/');
        let name = &rest[..slash.unwrap_or(rest.len())];
        let child = first[..directory.len() + 1 + name.len()].to_vec();
        let mut next = child.clone();
        if slash.is_none() {
            next.push(0);
            return match is_segment(name) {
                true => Next::Child(Child { key: child, is_directory: false }, next),
                false => Next::Skip(next),
            };
        }
        next.push(b'/' + 1);
        // A key of the same name was told in its place.
        if !is_segment(name) || self.keys.get(&child, self.at).is_some() {
            return Next::Skip(next);
        }
        Next::Child(Child { key: child, is_directory: true }, next)
    }
}

/// Whether a key is no longer and no deeper than a path may be.
fn fits(key: &[u8], root_bytes: usize) -> bool {
    let levels = || key[root_bytes..].iter().filter(|&&byte| byte == b'/').count();
    key.len() <= PATH_BYTES_MAX && levels() <= LEVELS_MAX
}

fn first_of<'r>(store: &'r Store, range: KeyRange<'r>, at: i64) -> Option<KeyValueRef<'r>> {
    store.scan(range, at).next()
}
