//! The v2 API: what a directory, a long poll, a put and a get cost, the last two beside the JSON gateway's.
//!
//! By HTTP/1.1 on blocking connections, a thread each: what is compared goes by the same client, so its own cost is in
//! both. A list is measured one at a time, beside nothing: it is a latency.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::{self, AnyError};
use crate::findings::{Faults, Findings, Unit, times};
use crate::host::Host;
use crate::report;
use crate::subject::Pid;

/// Nothing takes longer on a server that works.
const DEADLINE: Duration = Duration::from_secs(60);

/// Keys of a transaction that fills: etcd's `--max-txn-ops` allows 128.
const BATCH: u64 = 100;

/// Lists that are measured.
const LISTS: usize = 2_000;

/// The measurement that is asked for. The server needs `--enable-v2`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct DirectoriesOptions {
    /// The server, host:port
    #[arg(long, default_value = "127.0.0.1:2379")]
    pub endpoint: String,
    /// Keys below the directory that is listed, spread over its children
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub keys: u64,
    /// Children of that directory
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub children: u64,
    /// Long polls that wait at the same time, a connection each; 0: none
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub polls: u64,
    /// Connections of the puts and gets, one request in flight on each
    #[arg(long, default_value_t = 16, value_parser = cli::parse_count)]
    pub connections: usize,
    /// How long puts and gets are measured, each
    #[arg(long, default_value = "5s", value_parser = cli::parse_window)]
    pub duration: Duration,
    /// Puts and gets by either API, in turn, so many times; medians are told
    #[arg(long, default_value_t = 3, value_parser = cli::parse_count)]
    pub rounds: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// The server's process on this machine, for its memory
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    host: Host,
    options: &'a DirectoriesOptions,
    findings: &'a Findings,
}

/// A connection that asks one thing after the other.
struct Web {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Web {
    fn connect(endpoint: &str) -> Result<Self, AnyError> {
        let stream = TcpStream::connect(endpoint)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { stream, read: Vec::new() })
    }

    fn send(&mut self, method: &str, path: &str, content_type: &str, body: &str) -> Result<(), AnyError> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(self.stream.write_all(request.as_bytes())?)
    }

    /// Reads to the end of a head. Answers its status and the length of the body; None: it comes in chunks.
    fn head(&mut self) -> Result<(u16, Option<usize>), AnyError> {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                let head = String::from_utf8(head)?.to_ascii_lowercase();
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length = length.map(|length| length.trim().parse()).transpose()?;
                return Ok((status.ok_or("no status")?, length));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), AnyError> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes)? {
            0 => Err("the server has ended the connection".into()),
            n => {
                self.read.extend_from_slice(&bytes[..n]);
                Ok(())
            }
        }
    }

    /// One answer to one request: its status and the bytes of its body.
    fn ask(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Result<(u16, usize), AnyError> {
        self.send(method, path, content_type, body)?;
        let (status, length) = self.head()?;
        let length = length.ok_or("an answer in chunks")?;
        while self.read.len() < length {
            self.fill()?;
        }
        self.read.drain(..length);
        Ok((status, length))
    }
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// As the gateway has keys and values.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let word =
            piece.iter().enumerate().fold(0_u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) & 63;
            out.push(if digit <= piece.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    out
}

/// Puts `/bench/CHILD/NUMBER` by transactions.
fn fill(options: &DirectoriesOptions) -> Result<(), AnyError> {
    let mut web = Web::connect(&options.endpoint)?;
    let value = base64(&vec![b'v'; options.value_bytes]);
    let each = options.keys / options.children;
    for child in 0..options.children {
        for first in (0..each).step_by(usize::try_from(BATCH)?) {
            let mut body = "{\"success\":[".to_owned();
            for number in first..each.min(first + BATCH) {
                let key = base64(format!("/bench/{child:04}/{number:09}").as_bytes());
                let comma = if number == first { "" } else { "," };
                write!(body, "{comma}{{\"requestPut\":{{\"key\":\"{key}\",\"value\":\"{value}\"}}}}")?;
            }
            body.push_str("]}");
            let (status, _) = web.ask("POST", "/v3/kv/txn", JSON, &body)?;
            if status != 200 {
                return Err(format!("a transaction that fills is answered by {status}").into());
            }
        }
    }
    Ok(())
}

/// Lists the directory, one list after the other.
fn measure_lists(
    options: &DirectoriesOptions,
    findings: &mut Findings,
    faults: &mut Faults,
) -> Result<(), AnyError> {
    let mut web = Web::connect(&options.endpoint)?;
    let (mut lists, mut bytes) = (times(), 0);
    for list in 0..LISTS + LISTS / 10 {
        let start = Instant::now();
        let (status, length) = web.ask("GET", "/v2/keys/bench", FORM, "")?;
        if status != 200 {
            faults.add("list", || format!("answered by {status}: is --enable-v2 given?"));
        }
        // The first ones warm up.
        if LISTS / 10 <= list {
            lists.record(u64::try_from(start.elapsed().as_nanos())?)?;
        }
        bytes = length;
    }
    findings.add_times("a list of the children", &lists);
    findings.add("its answer", Unit::Bytes, bytes as f64);
    Ok(())
}

/// Holds long polls, and tells one of them.
fn measure_polls(
    options: &DirectoriesOptions,
    findings: &mut Findings,
    faults: &mut Faults,
) -> Result<(), AnyError> {
    let memory = || options.server_pid.map(|pid| Pid(pid).anonymous_bytes()).transpose();
    let before = memory()?;
    let (mut held, start) = (Vec::new(), Instant::now());
    for number in 0..options.polls {
        let mut web = Web::connect(&options.endpoint)?;
        web.send("GET", &format!("/v2/keys/polled/{number}?wait=true"), FORM, "")?;
        match web.head()? {
            (200, None) => held.push(web),
            (status, _) => faults.add("poll", || format!("answered by {status}")),
        }
    }
    findings.add("polls begun", Unit::PerSecond, held.len() as f64 / start.elapsed().as_secs_f64());
    // The store is told of a wait behind the head of its answer.
    std::thread::sleep(Duration::from_secs(1));
    if let (Some(before), Some(after)) = (before, memory()?) {
        findings.add("memory a poll", Unit::Bytes, after.saturating_sub(before) as f64 / held.len() as f64);
    }
    let Some(first) = held.first_mut() else { return Ok(()) };
    let mut told = times();
    let mut web = Web::connect(&options.endpoint)?;
    let start = Instant::now();
    let (status, _) = web.ask("PUT", "/v2/keys/polled/0", FORM, "value=1")?;
    while first.read.is_empty() {
        first.fill()?;
    }
    told.record(u64::try_from(start.elapsed().as_nanos())?)?;
    findings.add_times("put to its poll, beside the others", &told);
    if 300 <= status {
        faults.add("put beside polls", || format!("answered by {status}"));
    }
    Ok(())
}

/// A request of a measured kind.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    is_put: bool,
    is_v2: bool,
}

const KINDS: [Kind; 4] = [
    Kind { name: "v2 puts", is_put: true, is_v2: true },
    Kind { name: "gateway puts", is_put: true, is_v2: false },
    Kind { name: "v2 gets, quorum=true", is_put: false, is_v2: true },
    Kind { name: "gateway gets", is_put: false, is_v2: false },
];

impl Kind {
    fn ask(self, web: &mut Web, name: &str, value: &str) -> Result<u16, AnyError> {
        let key = || base64(format!("/rw/{name}").as_bytes());
        let (status, _) = match (self.is_v2, self.is_put) {
            (true, true) => {
                web.ask("PUT", &format!("/v2/keys/rw/{name}"), FORM, &format!("value={value}"))?
            }
            (true, false) => web.ask("GET", &format!("/v2/keys/rw/{name}?quorum=true"), FORM, "")?,
            (false, true) => {
                let body = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", key(), base64(value.as_bytes()));
                web.ask("POST", "/v3/kv/put", JSON, &body)?
            }
            (false, false) => web.ask("POST", "/v3/kv/range", JSON, &format!("{{\"key\":\"{}\"}}", key()))?,
        };
        Ok(status)
    }
}

/// A closed loop on each connection. Answers requests a second, their times, and how many failed.
fn measure(options: &DirectoriesOptions, kind: Kind) -> Result<(f64, Histogram<u64>, u64), AnyError> {
    const NAMES: u64 = 1_000;
    let value = "v".repeat(options.value_bytes);
    let start = Instant::now();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.connections)
            .map(|thread| {
                let value = &value;
                scope.spawn(move || -> Result<(Histogram<u64>, u64), AnyError> {
                    let mut web = Web::connect(&options.endpoint)?;
                    let (mut found, mut failed, mut number) = (times(), 0, thread as u64 * 37);
                    while start.elapsed() < options.duration {
                        number += 1;
                        let begun = Instant::now();
                        let status = kind.ask(&mut web, &format!("k{}", number % NAMES), value)?;
                        failed += u64::from(300 <= status);
                        found.record(u64::try_from(begun.elapsed().as_nanos())?)?;
                    }
                    Ok((found, failed))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread of ours does not panic"))
            .collect::<Vec<_>>()
    });
    let (mut all, mut failed) = (times(), 0);
    for result in results {
        let (found, failures) = result?;
        all.add(&found)?;
        failed += failures;
    }
    Ok((all.len() as f64 / start.elapsed().as_secs_f64(), all, failed))
}

fn measure_puts_and_gets(
    options: &DirectoriesOptions,
    findings: &mut Findings,
    faults: &mut Faults,
) -> Result<(), AnyError> {
    let mut rates = [const { Vec::new() }; KINDS.len()];
    for round in 0..options.rounds {
        // The two go first in turn.
        for step in 0..KINDS.len() {
            let at = if round % 2 == 0 { step } else { step ^ 1 };
            // Keys that are read have to be there.
            let (rate, _, failed) = measure(options, KINDS[at])?;
            faults.add_many(KINDS[at].name, failed, || "answered by an error".to_owned());
            rates[at].push(rate);
        }
    }
    let medians = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    for (kind, median) in KINDS.iter().zip(medians) {
        findings.add(kind.name, Unit::PerSecond, median);
    }
    // At most 130 is wanted.
    findings.add("gateway puts by v2 puts", Unit::Percent, 100.0 * report::ratio(medians[1], medians[0]));
    findings.add("gateway gets by v2 gets", Unit::Percent, 100.0 * report::ratio(medians[3], medians[2]));
    Ok(())
}

/// Runs all of it. False: something was not answered well.
pub(crate) fn run(options: &DirectoriesOptions) -> Result<bool, AnyError> {
    let host = Host::read(&std::env::current_dir()?);
    print!("{}", host.lines());
    let (mut findings, mut faults) = (Findings::default(), Faults::default());
    fill(options)?;
    measure_lists(options, &mut findings, &mut faults)?;
    if 0 < options.polls {
        measure_polls(options, &mut findings, &mut faults)?;
    }
    measure_puts_and_gets(options, &mut findings, &mut faults)?;
    findings.faults = faults.lines();
    println!(
        "a directory of {} children above {} keys, {} long polls, {} connections",
        options.children, options.keys, options.polls, options.connections
    );
    print!("{}", findings.table());
    if let Some(path) = &options.json {
        report::save_json(path, &Report { host, options, findings: &findings })?;
    }
    Ok(findings.is_clean())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648s() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
