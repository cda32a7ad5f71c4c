//! The way of a log line from the thread that says it to the file or pipe that takes it.
//!
//! No role waits for the log's reader: lines go through a bounded queue to a thread that writes them. A full
//! disk, a closed pipe or a reader that has stopped costs lines, never the member. Lost lines are counted, and
//! the log says how many once it takes lines again. Only a process that is about to end waits, for a bounded
//! time, until its last words are out.
//!
//! Not tracing-appender's non-blocking writer: its queue is bounded in lines and not in bytes, lines that the
//! disk refuses are not counted, no thread but the owner of its guard can wait for it, and the guard's own
//! complaint is a `println!`, which panics where standard output is the disk that is full.
//!
//! Bounds: `QUEUE_BYTES_MAX`, twice that for last words; an outlet's thread may be stuck for ever, alone.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, RecvTimeoutError};

/// Lines that wait for their reader, in all. At `--log-level=info` that is the log of days.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// What a line costs beside its text, so that empty lines are bounded, too.
const LINE_BYTES_OVERHEAD: usize = 64;

/// How long a log that has lost lines rests before it tries again to say so, unless a line comes first.
const RETRY: Duration = Duration::from_secs(10);

/// A descriptor that another process made non-blocking and that is full is tried again after this.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// The text of the line, its end included, that says how many are missing.
pub(super) type LostLine = fn(lost: u64) -> Vec<u8>;

/// One place that log lines go to.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: Arc<Queue>,
    lines: channel::Sender<Item>,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// A line behind which no other kind is written.
    LastWords(Vec<u8>),
    /// Answered when everything before it was written or lost.
    Flush(channel::Sender<()>),
}

/// What is known of the queue on both of its sides.
#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicUsize,
    /// Lines that found no room since the log last said so.
    dropped: AtomicU64,
}

impl Outlet {
    /// Starts the thread that writes into `sink`, whose writes may block or fail.
    ///
    /// # Errors
    /// When there is no room for a thread.
    pub(super) fn start(sink: impl Write + Send + 'static, lost_line: LostLine) -> io::Result<Self> {
        let (lines, inbox) = channel::unbounded();
        let queue = Arc::<Queue>::default();
        let mut drain = Drain {
            sink,
            inbox,
            queue: Arc::clone(&queue),
            lost_line,
            lost: 0,
            is_torn: false,
            is_ending: false,
        };
        std::thread::Builder::new().name("log-lines".to_owned()).spawn(move || drain.run())?;
        Ok(Self { queue, lines })
    }

    /// Takes a line, its end included, or drops it. Never waits.
    pub(super) fn push(&self, line: &[u8]) {
        if self.has_room(line, QUEUE_BYTES_MAX) {
            // The thread that receives ends only when this sender is gone.
            self.lines.send(Item::Line(line.to_vec())).ok();
        }
    }

    /// Takes a line of a process that ends, which has room of its own. Other lines behind it are left out:
    /// roles still run, and the log's last line says why they do not for long.
    pub(super) fn push_last_words(&self, line: &[u8]) {
        if self.has_room(line, 2 * QUEUE_BYTES_MAX) {
            self.lines.send(Item::LastWords(line.to_vec())).ok();
        }
    }

    /// Whether the line fits into so many bytes; then they are counted.
    fn has_room(&self, line: &[u8], bytes_max: usize) -> bool {
        let bytes = line.len() + LINE_BYTES_OVERHEAD;
        let waiting = self.queue.bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room = waiting + bytes <= bytes_max;
        if !has_room {
            self.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }

    /// What tells when all lines so far were written or lost.
    pub(super) fn flush(&self) -> Flush {
        let (done, wait) = channel::bounded(1);
        self.lines.send(Item::Flush(done)).ok();
        Flush(wait)
    }
}

/// A flush that is under way.
pub(super) struct Flush(channel::Receiver<()>);

impl Flush {
    /// False: the outlet is stuck.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        self.0.recv_deadline(deadline).is_ok()
    }
}

/// The thread's side.
struct Drain<W> {
    sink: W,
    inbox: channel::Receiver<Item>,
    queue: Arc<Queue>,
    lost_line: LostLine,
    /// Lines that were taken from the queue and not written, since the log last said so.
    lost: u64,
    /// The last write broke off inside a line.
    is_torn: bool,
    /// Last words came.
    is_ending: bool,
}

impl<W: Write> Drain<W> {
    fn run(&mut self) {
        loop {
            let item = if self.lost == 0 {
                self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.inbox.recv_timeout(RETRY)
            };
            match item {
                Ok(Item::Line(line)) => {
                    if !self.is_ending {
                        self.tell_lost();
                        self.lost += u64::from(self.write(&line).is_err());
                    }
                    self.queue.bytes.fetch_sub(line.len() + LINE_BYTES_OVERHEAD, Ordering::Relaxed);
                }
                Ok(Item::LastWords(line)) => {
                    self.is_ending = true;
                    self.lost += self.queue.dropped.swap(0, Ordering::Relaxed);
                    self.tell_lost();
                    self.lost += u64::from(self.write(&line).is_err());
                    self.queue.bytes.fetch_sub(line.len() + LINE_BYTES_OVERHEAD, Ordering::Relaxed);
                }
                Ok(Item::Flush(done)) => {
                    done.try_send(()).ok();
                }
                Err(RecvTimeoutError::Timeout) => self.tell_lost(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // What found no room came later than all that did.
            if self.inbox.is_empty() && !self.is_ending {
                self.lost += self.queue.dropped.swap(0, Ordering::Relaxed);
                self.tell_lost();
            }
        }
    }

    fn tell_lost(&mut self) {
        if self.lost != 0 && self.write(&(self.lost_line)(self.lost)).is_ok() {
            self.lost = 0;
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_piece(b"\n")?;
            self.is_torn = false;
        }
        self.write_piece(line)
    }

    fn write_piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.is_torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A place that takes what the test allows.
    #[derive(Clone, Default)]
    struct Place(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        taken: Vec<u8>,
        /// Bytes that there is room for; then the disk is full.
        room: usize,
        /// The writer hangs while somebody holds this.
        gate: Arc<Mutex<()>>,
    }

    impl Place {
        fn with_room(room: usize) -> Self {
            let place = Self::default();
            place.0.lock().unwrap().room = room;
            place
        }

        fn set_room(&self, room: usize) {
            self.0.lock().unwrap().room = room;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().taken.clone()).unwrap()
        }
    }

    impl Write for Place {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let gate = Arc::clone(&self.0.lock().unwrap().gate);
            let _open = gate.lock().unwrap();
            let mut state = self.0.lock().unwrap();
            if state.room == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            let count = bytes.len().min(state.room);
            state.room -= count;
            state.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lost(count: u64) -> Vec<u8> {
        format!("{count} lost\n").into_bytes()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn lines_that_a_full_disk_refused_are_counted_and_told_before_the_next() {
        let place = Place::with_room(10);
        let outlet = Outlet::start(place.clone(), lost).unwrap();
        outlet.push(b"first\n");
        // Breaks off in the middle.
        outlet.push(b"second\n");
        outlet.push(b"third\n");
        assert!(outlet.flush().wait(soon()));
        place.set_room(1000);
        outlet.push(b"fourth\n");
        assert!(outlet.flush().wait(soon()));
        assert_eq!(place.text(), "first\nseco\n2 lost\nfourth\n");
    }

    #[test]
    fn reader_that_does_not_read_costs_lines_beyond_the_bound_and_no_time() {
        let place = Place::with_room(usize::MAX);
        let gate = Arc::clone(&place.0.lock().unwrap().gate);
        let outlet = Outlet::start(place.clone(), lost).unwrap();
        let closed = gate.lock().unwrap();
        let line = [b'x'; 1 << 16];
        let fits = QUEUE_BYTES_MAX / (line.len() + LINE_BYTES_OVERHEAD);
        for _ in 0..fits + 40 {
            outlet.push(&line);
        }
        assert!(!outlet.flush().wait(Instant::now()), "its reader does not read");
        assert!(outlet.queue.bytes.load(Ordering::Relaxed) <= QUEUE_BYTES_MAX);
        // Last words have room of their own, and the end does not wait for ever.
        outlet.push_last_words(b"why it ends\n");
        let flush = outlet.flush();
        assert!(!flush.wait(Instant::now()));
        drop(closed);
        assert!(flush.wait(soon()));
        assert!(outlet.flush().wait(soon()));
        let text = place.text();
        assert!(text.ends_with("40 lost\nwhy it ends\n"), "{}", &text[text.len() - 40..]);
        assert_eq!(outlet.queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nothing_but_last_words_is_written_behind_last_words() {
        let place = Place::with_room(usize::MAX);
        let outlet = Outlet::start(place.clone(), lost).unwrap();
        outlet.push(b"a role\n");
        outlet.push_last_words(b"why it ends\n");
        outlet.push(b"a role goes on\n");
        outlet.push_last_words(b"a panic meanwhile\n");
        outlet.push(b"a role goes on\n");
        assert!(outlet.flush().wait(soon()));
        assert_eq!(place.text(), "a role\nwhy it ends\na panic meanwhile\n");
        assert_eq!(outlet.queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn closed_pipe_is_only_lost_lines() {
        let (reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::start(writer, lost).unwrap();
        outlet.push(b"heard\n");
        assert!(outlet.flush().wait(soon()));
        drop(reader);
        outlet.push(b"unheard\n");
        assert!(outlet.flush().wait(soon()));
    }
}
