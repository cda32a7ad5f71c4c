//! A directory for one test.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use crate::runner::test_name;

thread_local! {
    static DIRS: Cell<u32> = const { Cell::new(0) };
}

/// A directory for one test, on the disk that `target/` is on. Kept if the test fails.
pub struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    #[expect(clippy::new_without_default, reason = "it makes a directory, which no default does")]
    pub fn new() -> Self {
        // The test binary is `target/PROFILE/deps/NAME`.
        let test = std::env::current_exe().unwrap();
        Self::inside(&test.ancestors().nth(3).expect("cargo built it").join("tmp"))
    }

    pub fn inside(parent: &Path) -> Self {
        let count = DIRS.get();
        DIRS.set(count + 1);
        let name = format!("{}-{}-{count}", test_name().replace("::", "-"), std::process::id());
        let path = parent.join(name);
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
