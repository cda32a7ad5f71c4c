//! The member's log: where lines go, and the last of them.
//!
//! A line that is logged anywhere is formatted there (`line`) and handed to every place that the log goes to
//! (`outlet`), which never waits. A thread that ends the process does so through `exit`, so that the reason is
//! out first, if its reader takes it.

mod line;
mod outlet;
mod rotation;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use self::line::{Lines, lost_line};
use self::outlet::Outlet;

pub(in crate::shell) use self::line::Format;
use self::rotation::{RotatedFile, append_to};
use crate::config::{LogOutput, LogRotation};

/// How long a process that ends waits for its last words to be written, each time there are some.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum LogError {
    #[error("cannot open the log file {path} (--log-outputs): {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot start the log: {0}")]
    Outlet(#[from] io::Error),
}

/// The process's log.
#[derive(Debug)]
struct Log {
    outlets: Vec<Outlet>,
    /// The descriptor of the first outlet, which stays open; standard error instead of a file that is rotated.
    descriptor: RawFd,
}

static LOG: OnceLock<Log> = OnceLock::new();

impl Log {
    fn open(format: Format, outputs: &[LogOutput], rotation: Option<LogRotation>) -> Result<Self, LogError> {
        let mut outlets = Vec::with_capacity(outputs.len());
        let mut descriptor = libc::STDERR_FILENO;
        for output in outputs {
            if let (LogOutput::Path(path), Some(rotation)) = (output, rotation) {
                let file = RotatedFile::open(path, rotation);
                let file = file.map_err(|source| LogError::File { path: path.clone(), source })?;
                outlets.push(Outlet::start(file, lost_line(format))?);
                continue;
            }
            // A copy of the descriptor: the standard library's own handle has a lock, which a write that hangs
            // would keep from everybody.
            let sink = match output {
                LogOutput::Stderr => File::from(io::stderr().as_fd().try_clone_to_owned()?),
                LogOutput::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
                LogOutput::Path(path) => {
                    append_to(path).map_err(|source| LogError::File { path: path.clone(), source })?
                }
            };
            if outlets.is_empty() {
                descriptor = sink.as_raw_fd();
            }
            outlets.push(Outlet::start(sink, lost_line(format))?);
        }
        Ok(Self { outlets, descriptor })
    }

    fn flush(&self) {
        let deadline = Instant::now() + LAST_WORDS_PATIENCE;
        let flushes: Vec<_> = self.outlets.iter().map(Outlet::flush).collect();
        for flush in flushes {
            // A reader that does not read has no claim on more time.
            let _is_out = flush.wait(deadline);
        }
    }
}

thread_local! {
    /// Whether this thread ends the process. Two may: one that does so, and one that panics meanwhile.
    static HAS_LAST_WORDS: Cell<bool> = const { Cell::new(false) };
}

/// One event's way into the log. Never fails, or tracing would complain on standard error, which may be why.
struct Entry;

impl io::Write for Entry {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = LOG.get() {
            let take = if HAS_LAST_WORDS.get() { Outlet::push_last_words } else { Outlet::push };
            log.outlets.iter().for_each(|outlet| take(outlet, line));
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Entries;

impl MakeWriter<'_> for Entries {
    type Writer = Entry;
    fn make_writer(&self) -> Entry {
        Entry
    }
}

/// Starts logging for the whole process. Only the first call counts.
///
/// # Errors
/// When an output cannot be opened, or its thread cannot be started.
pub(in crate::shell) fn start(
    level: Level,
    format: Format,
    outputs: &[LogOutput],
    rotation: Option<LogRotation>,
) -> Result<(), LogError> {
    if LOG.set(Log::open(format, outputs, rotation)?).is_err() {
        // Happens in tests only, where the first one's choice is as good.
        return Ok(());
    }
    let subscriber = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_max_level(level)
        .event_format(Lines(format))
        .with_writer(Entries)
        .finish();
    tracing::subscriber::set_global_default(subscriber).ok();
    Ok(())
}

/// The descriptor of the log, for a signal handler that has nothing else.
pub(in crate::shell) fn descriptor() -> RawFd {
    LOG.get().map_or(libc::STDERR_FILENO, |log| log.descriptor)
}

/// Logs what `say` says, with room of its own and time to be written, before the process ends. Lines
/// of other threads behind them are left out.
pub(in crate::shell) fn last_words(say: impl FnOnce()) {
    HAS_LAST_WORDS.set(true);
    say();
    if let Some(log) = LOG.get() {
        log.flush();
    }
}

/// A duration for people, who need no nanoseconds.
pub(in crate::shell) fn rounded(duration: Duration) -> String {
    format!("{duration:.1?}")
}

/// Ends the process, from whatever thread, after logging why.
pub(in crate::shell) fn exit(code: i32, say: impl FnOnce()) -> ! {
    last_words(say);
    std::process::exit(code)
}

/// Logs a panic and aborts: no thread may go on without the one that had it. The default hook writes to
/// standard error and would wait for a reader there.
pub(in crate::shell) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        last_words(|| {
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or("?");
            let backtrace = std::backtrace::Backtrace::capture();
            if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
                tracing::error!(thread, %backtrace, "{panic}");
            } else {
                tracing::error!(thread, "{panic}; RUST_BACKTRACE=1 tells the way there");
            }
        });
        std::process::abort();
    }));
}

/// Writes `text` to standard error, before there is a log: waits for its reader no longer than a log would.
pub(in crate::shell) fn complain(text: &str) {
    fn plain(lost: u64) -> Vec<u8> {
        format!("{lost} lines were lost\n").into_bytes()
    }
    let sink = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    if let Ok(outlet) = sink.and_then(|sink| Outlet::start(sink, plain)) {
        outlet.push(text.as_bytes());
        let _is_out = outlet.flush().wait(Instant::now() + LAST_WORDS_PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn durations_are_rounded_to_what_people_read() {
        assert_eq!(rounded(Duration::from_nanos(1_234_567_891)), "1.2s");
        assert_eq!(rounded(Duration::from_nanos(23_456_789)), "23.5ms");
    }

    const CHILD: &str = "PINION_TEST_PANIC";

    /// Runs as a process of its own: it ends by the panic.
    #[test]
    fn panic_ends_the_process_although_nobody_reads_the_log() {
        if std::env::var_os(CHILD).is_some() {
            start(Level::INFO, Format::Json, &[LogOutput::Stderr], None).unwrap();
            abort_on_panic();
            std::thread::Builder::new()
                .name("role".to_owned())
                .spawn(|| panic!("an invariant is broken"))
                .unwrap()
                .join()
                .unwrap_err();
            unreachable!("the process outlived a panic");
        }
        let run = |stderr: Stdio| {
            let name = "shell::runtime::logging::tests::panic_ends_the_process_although_nobody_reads_the_log";
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture"])
                .env(CHILD, "1")
                .stdout(Stdio::null())
                .stderr(stderr)
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.signal();
                }
                if deadline < Instant::now() {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    return None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let (_reader, full) = pinion_kit::full_pipe();
        assert_eq!(run(full.into()), Some(libc::SIGABRT));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(run(File::create(&path).unwrap().into()), Some(libc::SIGABRT));
        let said = std::fs::read_to_string(&path).unwrap();
        let last = said.lines().last().unwrap();
        assert!(
            last.starts_with("{\"level\":\"error\"") && last.contains("an invariant is broken"),
            "{said}"
        );
        assert!(last.contains("panicked at") && last.contains("\"thread\":\"role\""), "{said}");
    }
}
