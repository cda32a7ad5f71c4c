//! A log file that becomes an old one when it is full, as etcd's `--enable-log-rotation` has it.
//!
//! ```text
//! <stem>.<extension>                                what is written now
//! <stem>-2026-11-30T20-56-36.123.<extension>        an old one, named by when it became one
//! <stem>-2026-11-30T20-56-36.123.<extension>.gz     the same, compressed
//! ```
//!
//! A line is never torn by it. What cannot be done (a directory that is read-only) is tried again with the next line,
//! and until then the file grows. Old files are compressed and removed by a thread of their own, so that no line waits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::line::{local_offset_s, timestamp};
use crate::config::LogRotation;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The length of the time in an old file's name.
const TIME_BYTES: usize = "2026-11-30T20-56-36.123".len();

/// The file.
#[derive(Debug)]
pub(super) struct RotatedFile {
    names: Names,
    rotation: LogRotation,
    file: File,
    bytes: u64,
    is_at_line_begin: bool,
    is_tidying: Arc<AtomicBool>,
}

/// A file of this name need not be one: a pipe without a reader refuses at once instead of holding the start up.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o644).custom_flags(libc::O_NONBLOCK).open(path)
}

/// What the files are called.
#[derive(Debug, Clone)]
struct Names {
    path: PathBuf,
    dir: PathBuf,
    stem: String,
    /// With its point; empty if there is none.
    extension: String,
}

impl RotatedFile {
    /// Continues the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, or has a name that cannot be written as text.
    pub(super) fn open(path: &Path, rotation: LogRotation) -> io::Result<Self> {
        let names = Names::of(path).ok_or(io::ErrorKind::InvalidFilename)?;
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { names, rotation, file, bytes, is_at_line_begin: true, is_tidying: Arc::default() })
    }

    /// Gives the file the name of an old one and begins anew.
    fn rotate(&mut self) -> io::Result<()> {
        match fs::rename(&self.names.path, self.names.next_old(self.rotation.has_local_time)) {
            // Somebody took it away, or the last attempt came so far.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = append_to(&self.names.path)?;
        self.bytes = 0;
        self.tidy();
        Ok(())
    }

    /// Looks after the old files, unless that is under way.
    fn tidy(&self) {
        if self.is_tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let (names, rotation, is_tidying) = (self.names.clone(), self.rotation, Arc::clone(&self.is_tidying));
        let run = move || {
            // What is left over is the next one's work, and nobody is there who could be told.
            names.tidy(&rotation, SystemTime::now()).ok();
            is_tidying.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("log-tidy".to_owned()).spawn(run).is_err() {
            self.is_tidying.store(false, Ordering::Release);
        }
    }
}

impl Write for RotatedFile {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let is_full = self.bytes != 0 && self.rotation.file_bytes_max < self.bytes + piece.len() as u64;
        if is_full && self.is_at_line_begin {
            // A file that is too large is better than a line that is lost.
            self.rotate().ok();
        }
        let written = self.file.write(piece)?;
        self.bytes += written as u64;
        self.is_at_line_begin = piece[..written].last() == Some(&b'\n');
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Names {
    fn of(path: &Path) -> Option<Self> {
        let stem = path.file_stem()?.to_str()?.to_owned();
        let extension = path.extension().map(|extension| extension.to_str()).unwrap_or(Some(""))?;
        let extension = if extension.is_empty() { String::new() } else { format!(".{extension}") };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(Self { path: path.to_owned(), dir: dir.to_owned(), stem, extension })
    }

    fn old(&self, micros: u128) -> PathBuf {
        let time = &timestamp(micros)[..TIME_BYTES];
        self.dir.join(format!("{}-{}{}", self.stem, time.replace(':', "-"), self.extension))
    }

    /// A name that no file has.
    fn next_old(&self, has_local_time: bool) -> PathBuf {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let offset_s = if has_local_time { local_offset_s(since.as_secs()) } else { 0 };
        let mut micros = since.as_micros().saturating_add_signed(i128::from(offset_s) * 1_000_000);
        loop {
            let name = self.old(micros);
            let compressed = gzipped(&name);
            if !name.exists() && !compressed.exists() {
                return name;
            }
            micros += 1_000;
        }
    }

    /// The time in the name of an old file; None for any other file.
    fn time_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let name = name.strip_suffix(".gz").unwrap_or(name);
        let time = name.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_suffix(&self.extension)?;
        let is_like = |(shape, byte): (u8, u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            shape => shape == byte,
        };
        let shape = b"0000-00-00T00-00-00.000";
        let is_time = time.len() == shape.len() && shape.iter().copied().zip(time.bytes()).all(is_like);
        is_time.then_some(time)
    }

    /// Removes old files that are too many or too old, and compresses the others.
    fn tidy(&self, rotation: &LogRotation, now: SystemTime) -> io::Result<()> {
        let mut old = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str()
                && let Some(time) = self.time_of(name)
            {
                old.push((time.to_owned(), entry.path()));
            }
        }
        // The newest first.
        old.sort();
        old.reverse();
        let kept = rotation.files_max.map_or(usize::MAX, |files| files as usize);
        let oldest = rotation.age_days_max.and_then(|days| now.checked_sub(DAY * days));
        for (number, (_, path)) in old.into_iter().enumerate() {
            let written = fs::metadata(&path)?.modified()?;
            if kept <= number || oldest.is_some_and(|oldest| written < oldest) {
                fs::remove_file(&path)?;
            } else if rotation.is_compressed && path.extension().is_none_or(|extension| extension != "gz") {
                compress(&path)?;
            }
        }
        Ok(())
    }
}

fn gzipped(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    PathBuf::from(name)
}

/// Puts the compressed file in the place of the other.
fn compress(path: &Path) -> io::Result<()> {
    let whole = gzipped(path);
    let mut aside = whole.clone().into_os_string();
    aside.push(".tmp");
    let write = || {
        let mut encoder = GzEncoder::new(File::create(&aside)?, Compression::default());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        fs::rename(&aside, &whole)?;
        fs::remove_file(path)
    };
    write().inspect_err(|_| {
        fs::remove_file(&aside).ok();
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn rotation() -> LogRotation {
        LogRotation {
            file_bytes_max: 100,
            age_days_max: None,
            files_max: None,
            has_local_time: false,
            is_compressed: false,
        }
    }

    fn text_of(path: &Path) -> String {
        let bytes = fs::read(path).unwrap();
        let mut text = String::new();
        if path.extension().is_some_and(|extension| extension == "gz") {
            flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
            return text;
        }
        String::from_utf8(bytes).unwrap()
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn a_full_file_becomes_an_old_one_between_two_lines_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member.log");
        fs::write(&path, "from before\n").unwrap();
        let mut file = RotatedFile::open(&path, rotation()).unwrap();
        for number in 0..40 {
            // In two pieces, as a write that breaks off.
            file.write_all(format!("line {number:02} ").as_bytes()).unwrap();
            file.write_all(b"and its end\n").unwrap();
        }
        let files = files(dir.path());
        assert!(8 <= files.len(), "{files:?}");
        assert_eq!(files.last(), Some(&path), "old ones' names come before");
        let all: String = files.iter().map(|path| text_of(path)).collect();
        let want: String = (0..40).map(|number| format!("line {number:02} and its end\n")).collect();
        assert_eq!(all, format!("from before\n{want}"));
        for file in &files {
            let text = text_of(file);
            assert!(text.ends_with('\n') && text.len() <= 120, "{text:?}");
        }
    }

    #[test]
    fn old_files_that_are_too_many_or_too_old_go_and_the_others_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::of(&dir.path().join("member.log")).unwrap();
        let now = SystemTime::now();
        for (day, age) in [(1_u128, 9), (2, 5), (3, 1), (4, 0)] {
            let path = names.old(day * 86_400_000_000);
            fs::write(&path, format!("day {day}\n")).unwrap();
            File::open(&path).unwrap().set_modified(now - DAY * age).unwrap();
        }
        let strangers = ["member.log", "member-notes.log", "member-1970-01-02T00-00-00.000.txt", "other.log"];
        strangers.iter().for_each(|name| fs::write(dir.path().join(name), "kept\n").unwrap());
        let rotation =
            LogRotation { is_compressed: true, age_days_max: Some(7), files_max: Some(2), ..rotation() };
        names.tidy(&rotation, now).unwrap();
        let mut left: Vec<_> = files(dir.path());
        left.retain(|path| !strangers.iter().any(|name| path.ends_with(name)));
        let texts: Vec<_> = left.iter().map(|path| text_of(path)).collect();
        assert_eq!(texts, ["day 3\n", "day 4\n"], "{left:?}");
        assert!(
            left.iter().all(|path| path.extension().is_some_and(|extension| extension == "gz")),
            "{left:?}"
        );
        names.tidy(&LogRotation { files_max: Some(1), ..rotation }, now).unwrap();
        assert_eq!(files(dir.path()).len(), strangers.len() + 1);
    }

    #[test]
    fn a_directory_that_takes_no_new_name_costs_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member.log");
        let mut file = RotatedFile::open(&path, LogRotation { file_bytes_max: 1, ..rotation() }).unwrap();
        file.write_all(b"one\n").unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        file.write_all(b"two\n").unwrap();
        fs::create_dir(dir.path()).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(text_of(&path), "three\n");
    }
}
