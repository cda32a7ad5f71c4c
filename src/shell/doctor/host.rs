//! The host's own account of itself: text files under `/proc` and `/sys`.
//!
//! The root is a parameter, so that tests describe a host in a directory.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

/// Where `/proc` and `/sys` are found.
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine this runs on.
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/") }
    }

    #[cfg(test)]
    pub(super) fn described_in(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The file's text without the white space around it; `None` if this kernel has no such file or
    /// we may not read it.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at(path)).ok().map(|text| text.trim().to_owned())
    }

    /// Writes a file that is there.
    pub(super) fn write(&self, path: &str, text: &str) -> std::io::Result<()> {
        fs::OpenOptions::new().write(true).truncate(true).open(self.at(path))?.write_all(text.as_bytes())
    }

    /// A file that holds one number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// Names in a directory, sorted; empty if there is none.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Where a symbolic link leads, relative parts resolved.
    pub(super) fn resolved(&self, path: &str) -> Option<String> {
        let resolved = fs::canonicalize(self.at(path)).ok()?;
        let inside = resolved.strip_prefix(fs::canonicalize(&self.root).ok()?).ok()?;
        Some(format!("/{}", inside.to_str()?))
    }

    /// The choice in brackets of a file such as `always [madvise] never`.
    pub(super) fn chosen(&self, path: &str) -> Option<String> {
        let text = self.read(path)?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }
}
