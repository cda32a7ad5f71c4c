//! The thread that reads old entries of the log for followers that lag.
//!
//! It shares nothing with the log writer but the files, so neither the writer nor raft ever waits for its
//! reads. Each answer is checked by the log's checksums here and by index and term in raft.
//! Bounds: raft has a few fetches out at once, each of one message.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crossbeam::channel;
use pinion_wal::files::SharedFiles;
use pinion_wal::reader::Wanted;
use pinion_wal::{self as wal, LogReader};

use crate::raft::{Entry, Fetch};
use crate::shell::log::entries::entry_from_wal;
use crate::shell::runtime::mesh::{SharedBell, SharedRing};

/// More than raft has out at once.
const FETCHES_WAITING_MAX: usize = 64;

/// What a fetch brought; none when it cannot be read.
#[derive(Debug)]
pub(in crate::shell) struct Fetched {
    pub number: u64,
    pub entries: Option<Vec<Entry>>,
}

/// Raft's handle to the thread.
#[derive(Debug, Clone)]
pub(in crate::shell) struct ReaderHandle {
    fetches: channel::Sender<Fetch>,
    answers: Arc<SharedRing<Fetched>>,
}

impl ReaderHandle {
    /// Asks for entries; answered by `take`.
    pub(in crate::shell) fn send(&self, fetch: Fetch) {
        // Raft asks again for what it hears nothing of.
        self.fetches.try_send(fetch).ok();
    }

    pub(in crate::shell) fn take(&self) -> Option<Fetched> {
        self.answers.take()
    }

    /// Whether `take` has something.
    pub(in crate::shell) fn has_answer(&self) -> bool {
        !self.answers.is_empty()
    }
}

/// Starts the thread on the log in `dir`. Its answers ring `bell`.
///
/// # Errors
/// When the thread cannot be started.
pub(in crate::shell) fn start(
    dir: &Path,
    identity: wal::Identity,
    bell: Arc<SharedBell>,
) -> io::Result<ReaderHandle> {
    let (fetches, inbox) = channel::bounded::<Fetch>(FETCHES_WAITING_MAX);
    let answers = SharedRing::new(FETCHES_WAITING_MAX, bell);
    let outbox = Arc::clone(&answers);
    let mut reader = LogReader::new(SharedFiles::new(dir), identity);
    std::thread::Builder::new().name("log-read".to_owned()).spawn(move || {
        for fetch in inbox {
            let entries = read(&mut reader, &fetch);
            // Full only when raft has stopped; then nobody waits.
            outbox.send(Fetched { number: fetch.number, entries }).ok();
        }
    })?;
    Ok(ReaderHandle { fetches, answers })
}

fn read(reader: &mut LogReader<SharedFiles>, fetch: &Fetch) -> Option<Vec<Entry>> {
    let terms: Vec<(u64, u64)> = fetch.terms.iter().map(|(from, term)| (from.0, term.0)).collect();
    let wanted = Wanted {
        first: fetch.first.0,
        last: fetch.last.0,
        bytes_max: usize::try_from(fetch.bytes_max).unwrap_or(usize::MAX),
        terms: &terms,
    };
    let read = reader.read(&wanted).map_err(|error| error.to_string());
    let entries = read.and_then(|entries| {
        entries
            .into_iter()
            .map(entry_from_wal)
            .collect::<Result<Vec<Entry>, _>>()
            .map_err(|error| error.to_string())
    });
    match entries {
        Ok(entries) => Some(entries),
        Err(reason) => {
            // Where the log let go of it meanwhile this is nothing; else raft tries again, then sends a
            // checkpoint.
            tracing::warn!(index = fetch.first.0, reason, "the log could not be read for a follower");
            None
        }
    }
}
