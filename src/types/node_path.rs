//! Paths of the v2 API: which node a request names, and which key that is.
//!
//! A node `/a/b` is the key `root/a/b`, and a directory is all keys that begin with `root/a/b/`, where `root` is
//! `--v2-prefix` without its last slash. So a directory needs no entry to exist, and its children lie side by side.
//!
//! Invariants: below the root, no segment is empty, `.` or `..`; the whole is UTF-8, without a slash at its end,
//! and within `PATH_BYTES_MAX` and `LEVELS_MAX`. A key that is no such path is no node: v2 leaves it out.

use bytes::Bytes;

/// Longest path, `root` included.
pub const PATH_BYTES_MAX: usize = 16 << 10;

/// Most segments. Each missing directory above a new node takes an entry with its own name: together at most
/// half of this times the path.
pub const LEVELS_MAX: usize = 128;

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("the path is not UTF-8")]
    NotUtf8,
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("the path has more than {LEVELS_MAX} levels")]
    TooDeep,
}

/// A node's key and where its path begins. See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct NodePath {
    key: Bytes,
    root_bytes: usize,
}

impl std::fmt::Debug for NodePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (root, path) = self.key.split_at(self.root_bytes);
        write!(f, "{:?} {:?}", String::from_utf8_lossy(root), String::from_utf8_lossy(path))
    }
}

impl NodePath {
    /// The node of a path as a client writes it: `//`, `.`, `..` and a slash at the end vanish, and nothing leads
    /// above the root.
    ///
    /// # Errors
    /// It names no node.
    pub fn clean(root: &str, text: &[u8]) -> Result<Self, PathFault> {
        // Before any work that grows with it.
        if PATH_BYTES_MAX < text.len() {
            return Err(PathFault::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| PathFault::NotUtf8)?;
        let mut segments = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        let mut key = String::from(root);
        for segment in &segments {
            key.push('/');
            key.push_str(segment);
        }
        match (segments.len(), key.len()) {
            (levels, _) if LEVELS_MAX < levels => Err(PathFault::TooDeep),
            (_, bytes) if PATH_BYTES_MAX < bytes => Err(PathFault::TooLong),
            _ => Ok(Self { key: key.into(), root_bytes: root.len() }),
        }
    }

    /// The same path as the log holds it. None: it is no path.
    #[must_use]
    pub fn of_parts(key: Bytes, root_bytes: usize) -> Option<Self> {
        let path = key.get(root_bytes..)?;
        let fits = key.len() <= PATH_BYTES_MAX && (path.is_empty() || is_node(path));
        fits.then_some(Self { key, root_bytes })
    }

    /// The key; of the root, its prefix without the slash.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    #[must_use]
    pub fn root_bytes(&self) -> usize {
        self.root_bytes
    }

    /// The prefix of the root, without a slash at its end.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.key[..self.root_bytes]
    }

    #[must_use]
    pub fn is_root(&self) -> bool {
        self.key.len() == self.root_bytes
    }

    /// The path, as v2 shows it: from the root on; empty for the root itself.
    #[must_use]
    pub fn shown(&self) -> &[u8] {
        &self.key[self.root_bytes..]
    }

    /// The nodes above, from the first one below the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let path = self.shown();
        let ends = (1..path.len()).filter(|&at| path[at] == b'/');
        ends.map(|at| Self { key: self.key.slice(..self.root_bytes + at), root_bytes: self.root_bytes })
    }

    /// A node below.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let mut key = Vec::with_capacity(self.key.len() + 1 + name.len());
        key.extend_from_slice(&self.key);
        key.push(b'/');
        key.extend_from_slice(name.as_bytes());
        Self { key: key.into(), root_bytes: self.root_bytes }
    }

    /// The first key that could be below it: the prefix of all of them.
    #[must_use]
    pub fn below(&self) -> Bytes {
        with_end(&self.key, b'/')
    }

    /// The first key behind all that are below it.
    #[must_use]
    pub fn behind(&self) -> Bytes {
        with_end(&self.key, b'/' + 1)
    }
}

fn with_end(key: &[u8], end: u8) -> Bytes {
    let mut out = Vec::with_capacity(key.len() + 1);
    out.extend_from_slice(key);
    out.push(end);
    out.into()
}

/// Whether this may be a segment.
#[must_use]
pub fn is_segment(segment: &[u8]) -> bool {
    !matches!(segment, b"" | b"." | b"..") && std::str::from_utf8(segment).is_ok()
}

/// Whether a key, from the root on, is the path of a node below it.
#[must_use]
pub fn is_node(path: &[u8]) -> bool {
    let Some(segments) = path.strip_prefix(b"/") else { return false };
    let mut levels = 0;
    segments.split(|&byte| byte == b'/').all(|segment| {
        levels += 1;
        levels <= LEVELS_MAX && is_segment(segment)
    })
}

/// Whether a recursive listing or watch of a directory leaves this out: `below` is the path from the directory on,
/// and one of its segments begins with `_`.
#[must_use]
pub fn is_hidden(below: &[u8]) -> bool {
    below.split(|&byte| byte == b'/').any(|segment| segment.starts_with(b"_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(root: &str, text: &str) -> String {
        let path = NodePath::clean(root, text.as_bytes()).unwrap();
        assert!(NodePath::of_parts(path.key().clone(), path.root_bytes()).is_some());
        format!("{}|{}", String::from_utf8_lossy(path.root()), String::from_utf8_lossy(path.shown()))
    }

    #[test]
    fn paths_are_cleaned_and_nothing_leads_above_the_root() {
        for text in ["/a/b", "a/b/", "//a///b", "/a/./b", "/x/../a/b", "/../../a/b", "/a/b/c/.."] {
            assert_eq!(shown("", text), "|/a/b", "{text}");
            assert_eq!(shown("/v2", text), "/v2|/a/b", "{text}");
        }
        for text in ["", "/", "//", "..", "/a/.."] {
            assert_eq!(shown("/v2", text), "/v2|", "{text}");
        }
        assert_eq!(shown("", "/a\0b"), "|/a\0b");
    }

    #[test]
    fn what_is_too_long_too_deep_or_not_text_is_refused() {
        let clean = |text: &[u8]| NodePath::clean("/v2", text).map(drop);
        assert_eq!(clean(&b"/a".repeat(LEVELS_MAX)), Ok(()));
        assert_eq!(clean(&b"/a".repeat(LEVELS_MAX + 1)), Err(PathFault::TooDeep));
        assert_eq!(clean(&b"/a/..".repeat(LEVELS_MAX + 1)), Ok(()));
        assert_eq!(clean(&[b'a'; PATH_BYTES_MAX]), Err(PathFault::TooLong), "with its root");
        assert_eq!(clean(&[b'/'; 64 << 10]), Err(PathFault::TooLong));
        assert_eq!(clean(b"/a\xff"), Err(PathFault::NotUtf8));
    }

    #[test]
    fn keys_that_v3_wrote_are_nodes_only_if_they_are_paths() {
        for path in ["/a", "/a/b", "/_a", "/a b", "/ä", "/a\0"] {
            assert!(is_node(path.as_bytes()), "{path}");
        }
        for path in [&b""[..], b"a", b"/", b"/a/", b"/a//b", b"/.", b"/a/..", b"/\xff", b"//"] {
            assert!(!is_node(path), "{path:?}");
        }
        assert!(is_hidden(b"_a") && is_hidden(b"a/_b") && is_hidden(b"/a/_b/c") && !is_hidden(b"a_/b"));
    }

    #[test]
    fn ancestors_come_from_the_top_and_ranges_hold_what_is_below() {
        let path = NodePath::clean("/r", b"/a/b/c").unwrap();
        let above: Vec<_> = path.ancestors().map(|above| above.key().to_vec()).collect();
        assert_eq!(above, [b"/r/a".to_vec(), b"/r/a/b".to_vec()]);
        let (below, behind) = (path.below(), path.behind());
        let is_within = |key: &[u8]| below <= key && key < behind;
        assert!(is_within(b"/r/a/b/c/") && is_within(b"/r/a/b/c/\xff\xff"));
        assert!(!is_within(b"/r/a/b/c-") && !is_within(b"/r/a/b/c0") && !is_within(b"/r/a/b/c"));
    }
}
