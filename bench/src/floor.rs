//! The floor: what a lone request costs where the server does nothing but what no server can leave out.
//!
//! One thread receives a request, makes it durable if it is a put, and sends an answer; another one sends the next
//! request when it has the answer. No protocol, no runtime, no other thread. What a server takes above that is its own
//! doing, and the only part that can be improved. A thread that waits sleeps in the kernel, or asks the socket again and
//! again, which shows what being woken costs.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::{self, AnyError, Cpus};
use crate::client::nanos;
use crate::host::Host;
use crate::report::{self, time};
use crate::stage::pin_to;
use crate::sys;

/// The least that a durable write can be on most disks.
const BLOCK_BYTES: usize = 4096;
/// Written over again and again, so that no write changes what the file system knows of the file.
const FILE_BYTES: usize = 16 << 20;
/// A put of a 32-byte key and a 256-byte value with its frames, and the answer to it, as HTTP/2 carries them.
const PUT_BYTES: (usize, usize) = (330, 60);
/// A get of that key.
const GET_BYTES: (usize, usize) = (70, 350);
/// Round trips before the measured ones.
const WARMUP: Duration = Duration::from_millis(100);
/// An answer takes no longer, or the disk is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the floor is looked for.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct FloorOptions {
    /// Directory whose disk is written to; a file is made there and removed
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Core of the loop that answers (the first one given)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pub server_cpus: Cpus,
    /// Core of the loop that asks (the first one given)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pub client_cpus: Cpus,
    /// How long each loop is measured
    #[arg(long, default_value = "2s", value_parser = cli::parse_window)]
    pub duration: Duration,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How a loop waits for the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wait {
    /// In the kernel, until it is woken.
    Sleep,
    /// Awake.
    Spin,
}

/// Round trips of one bare loop, in microseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Loop {
    pub what: &'static str,
    pub server: Wait,
    pub client: Wait,
    pub round_trips: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// The two loops that a server is held against: both sides sleep.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Floor {
    pub put: Loop,
    pub get: Loop,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    host: Host,
    options: &'a FloorOptions,
    is_direct: bool,
    loops: Vec<Loop>,
}

/// The answering loop's part between a request and its answer.
enum Work<'a> {
    /// Writes a block, durable when the call returns.
    Write(&'a mut BlockWriter),
    Nothing,
}

/// Finds and prints all of it.
pub(crate) fn run(options: &FloorOptions) -> Result<bool, AnyError> {
    let host = Host::read(&options.dir);
    print!("{}", host.lines());
    let mut blocks = BlockWriter::create(&options.dir)?;
    let is_direct = blocks.is_direct;
    let mut loops = vec![sync_loop(&mut blocks, options.duration)?];
    let bench = Bench::of(options);
    for (server, client) in [(Wait::Sleep, Wait::Sleep), (Wait::Spin, Wait::Sleep), (Wait::Spin, Wait::Spin)]
    {
        loops.push(bench.put(&mut blocks, server, client)?);
        loops.push(bench.get(server, client)?);
    }
    print!("{}", table(&loops, is_direct));
    if let Some(path) = &options.json {
        report::save_json(path, &Report { host, options, is_direct, loops })?;
    }
    Ok(true)
}

/// The loops that a server on these cores and this disk is held against.
pub(crate) fn find(dir: &Path, server_cpus: &Cpus, client_cpus: &Cpus) -> Result<Floor, AnyError> {
    let bench = Bench {
        server: server_cpus.0.first().copied(),
        client: client_cpus.0.first().copied(),
        duration: Duration::from_secs(1),
    };
    let mut blocks = BlockWriter::create(dir)?;
    Ok(Floor {
        put: bench.put(&mut blocks, Wait::Sleep, Wait::Sleep)?,
        get: bench.get(Wait::Sleep, Wait::Sleep)?,
    })
}

impl Floor {
    /// The faster of two: the slower one had neighbours.
    pub(crate) fn min(self, other: Self) -> Self {
        let faster = |a: Loop, b: Loop| if a.p50_us <= b.p50_us { a } else { b };
        Self { put: faster(self.put, other.put), get: faster(self.get, other.get) }
    }
}

/// Where and how long the loops run.
struct Bench {
    server: Option<usize>,
    client: Option<usize>,
    duration: Duration,
}

impl Bench {
    fn of(options: &FloorOptions) -> Self {
        Self {
            server: options.server_cpus.0.first().copied(),
            client: options.client_cpus.0.first().copied(),
            duration: options.duration,
        }
    }

    fn put(&self, blocks: &mut BlockWriter, server: Wait, client: Wait) -> Result<Loop, AnyError> {
        let times = self.round_trips(PUT_BYTES, (server, client), Work::Write(blocks))?;
        Ok(Loop::of("put", (server, client), &times))
    }

    fn get(&self, server: Wait, client: Wait) -> Result<Loop, AnyError> {
        let times = self.round_trips(GET_BYTES, (server, client), Work::Nothing)?;
        Ok(Loop::of("get", (server, client), &times))
    }

    fn round_trips(
        &self,
        (request_bytes, answer_bytes): (usize, usize),
        (server_wait, client_wait): (Wait, Wait),
        work: Work<'_>,
    ) -> Result<Histogram<u64>, AnyError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::scope(|scope| {
            let server = scope.spawn(move || -> Result<(), AnyError> {
                pin_to(self.server)?;
                let end = End::new(listener.accept()?.0, server_wait)?;
                answer(end, work, request_bytes, answer_bytes)?;
                Ok(())
            });
            let client = scope.spawn(move || -> Result<Histogram<u64>, AnyError> {
                pin_to(self.client)?;
                let end = End::new(TcpStream::connect(address)?, client_wait)?;
                Ok(ask(end, request_bytes, answer_bytes, self.duration)?)
            });
            let times = client.join().expect("the asking loop does not panic");
            // The asking loop's end of the connection is closed, so the other one ends.
            server.join().expect("the answering loop does not panic")?;
            times
        })
    }
}

/// One end of the connection.
struct End {
    stream: TcpStream,
    wait: Wait,
}

impl End {
    fn new(stream: TcpStream, wait: Wait) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nonblocking(wait == Wait::Spin)?;
        Ok(Self { stream, wait })
    }

    /// Reads until `into` is full. False: the other end has closed.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        let mut looks = 0_u64;
        let begin = Instant::now();
        while filled < into.len() {
            match self.stream.read(&mut into[filled..]) {
                Ok(0) => return Ok(false),
                Ok(n) => filled += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.wait == Wait::Spin => {
                    looks += 1;
                    if looks.is_multiple_of(1 << 16) && PATIENCE < begin.elapsed() {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    std::hint::spin_loop();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn answer(mut end: End, mut work: Work<'_>, request_bytes: usize, answer_bytes: usize) -> io::Result<()> {
    let (mut request, answer) = (vec![0; request_bytes], vec![1; answer_bytes]);
    while end.receive(&mut request)? {
        if let Work::Write(blocks) = &mut work {
            blocks.write()?;
        }
        end.stream.write_all(&answer)?;
    }
    Ok(())
}

fn ask(
    mut end: End,
    request_bytes: usize,
    answer_bytes: usize,
    duration: Duration,
) -> io::Result<Histogram<u64>> {
    let (request, mut answer) = (vec![2; request_bytes], vec![0; answer_bytes]);
    let mut times = new_histogram();
    let start = Instant::now();
    loop {
        let begin = Instant::now();
        if WARMUP + duration <= begin - start {
            return Ok(times);
        }
        if sys::is_interrupted() {
            return Err(io::Error::other("interrupted"));
        }
        end.stream.write_all(&request)?;
        if !end.receive(&mut answer)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if WARMUP <= begin - start {
            times.saturating_record(nanos(begin.elapsed()));
        }
    }
}

/// Durable blocks and nothing else, by one thread.
fn sync_loop(blocks: &mut BlockWriter, duration: Duration) -> Result<Loop, AnyError> {
    let mut times = new_histogram();
    let start = Instant::now();
    while start.elapsed() < duration && !sys::is_interrupted() {
        let begin = Instant::now();
        blocks.write()?;
        times.saturating_record(nanos(begin.elapsed()));
    }
    Ok(Loop::of("write", (Wait::Sleep, Wait::Sleep), &times))
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("the bounds are in order")
}

impl Loop {
    fn of(what: &'static str, (server, client): (Wait, Wait), times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            what,
            server,
            client,
            round_trips: times.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: times.max() as f64 / 1e3,
        }
    }
}

/// Writes one block after the other over a file of zeros. It goes when this is dropped.
struct BlockWriter {
    file: File,
    path: PathBuf,
    /// Past the page cache.
    is_direct: bool,
    /// Twice a block, since a direct write wants an address that is a multiple of one.
    memory: Vec<u8>,
    offset: usize,
}

impl BlockWriter {
    fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("floor-{}.probe", std::process::id()));
        let file = File::create_new(&path)?;
        let mut writer = Self { file, path, is_direct: true, memory: vec![0x5A; 2 * BLOCK_BYTES], offset: 0 };
        writer.file.write_all_at(&vec![0; FILE_BYTES], 0)?;
        writer.file.sync_all()?;
        let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(&writer.path);
        let file = open(libc::O_DSYNC | libc::O_DIRECT);
        writer.is_direct = file.is_ok();
        // File systems in memory have no direct writes.
        writer.file = file.or_else(|_| open(libc::O_DSYNC))?;
        Ok(writer)
    }

    fn write(&mut self) -> io::Result<()> {
        let start = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        self.file.write_all_at(&self.memory[start..start + BLOCK_BYTES], self.offset as u64)?;
        self.offset = (self.offset + BLOCK_BYTES) % FILE_BYTES;
        Ok(())
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn table(loops: &[Loop], is_direct: bool) -> String {
    let mut text = String::from(
        "\n| loop | answers | asks | p50 | p90 | p99 | p99.9 | max | round trips |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let name = |wait| match wait {
        Wait::Sleep => "sleeping",
        Wait::Spin => "spinning",
    };
    for found in loops {
        let is_alone = found.what == "write";
        writeln!(
            text,
            "| {} | {} | {} | {:.1} us | {:.1} us | {} | {} | {} | {} |",
            found.what,
            if is_alone { "-" } else { name(found.server) },
            if is_alone { "-" } else { name(found.client) },
            found.p50_us,
            found.p90_us,
            time(found.p99_us),
            time(found.p999_us),
            time(found.max_us),
            found.round_trips,
        )
        .expect("a String takes everything");
    }
    let how =
        if is_direct { "O_DIRECT and O_DSYNC" } else { "O_DSYNC, this file system having no direct writes" };
    writeln!(text, "\nwrite: 4 KiB with {how}; put: receive, write, send; get: receive, send")
        .expect("a String takes everything");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ScratchDir;

    #[test]
    fn every_loop_makes_round_trips_and_leaves_no_file() {
        let name = format!("pinion-bench-floor-{}", std::process::id());
        let scratch = ScratchDir::create(&std::env::temp_dir(), &name, false).unwrap();
        let bench = Bench { server: None, client: None, duration: Duration::from_millis(20) };
        let mut blocks = BlockWriter::create(&scratch.path).unwrap();
        for wait in [Wait::Sleep, Wait::Spin] {
            let put = bench.put(&mut blocks, wait, wait).unwrap();
            let get = bench.get(wait, wait).unwrap();
            for found in [&put, &get] {
                assert!(0 < found.round_trips, "{found:?}");
                assert!(0.0 < found.p50_us && found.p50_us <= found.max_us, "{found:?}");
            }
        }
        let text = table(&[sync_loop(&mut blocks, Duration::from_millis(5)).unwrap()], blocks.is_direct);
        assert!(text.contains("| write | - | - |"), "{text}");
        drop(blocks);
        assert!(fs::read_dir(&scratch.path).unwrap().next().is_none(), "the file is gone");
    }

    #[test]
    fn of_two_floors_the_lower_one_counts_loop_by_loop() {
        let found = |what, p50_us| {
            let mut times = new_histogram();
            times.record(1_000).unwrap();
            Loop { p50_us, ..Loop::of(what, (Wait::Sleep, Wait::Sleep), &times) }
        };
        let floor = |put, get| Floor { put: found("put", put), get: found("get", get) };
        let lower = floor(150.0, 60.0).min(floor(140.0, 70.0));
        assert_eq!((lower.put.p50_us, lower.get.p50_us), (140.0, 60.0));
    }
}
