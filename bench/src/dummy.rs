//! A server that does no work: it answers every call at once with prepared frames, and tells every watcher of
//! every put.
//!
//! It shows the ceiling of the client, because what is left of a run against it is the client and the
//! loopback; and, told to err on purpose, it shows that the client's accounts are right. It listens on
//! the loopback only and trusts its client.
//!
//! Cost: one read and one write for as many calls as one read brings.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::frame::{self, FrameHeader, Splitter, flag, kind};
use crate::protobuf::{Fields, put_length, put_varint};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// A response header that a put's reply never lacks: cluster id, member id, revision, term.
const REPLY: &[u8] =
    b"\0\0\0\0\x16\x0a\x14\x08\x81\x82\x83\x84\x85\x86\x87\x88\x01\x10\x81\x82\x83\x84\x85\x86\x01\x18\x07";
/// `:status 200`, `content-type: application/grpc` (literal with insertion: index 62 at first).
const HEADERS_FIRST: &[u8] = b"\x88\x5f\x10application/grpc";
/// `grpc-status: 0` (literal with insertion: becomes 62 and moves the content type to 63).
const TRAILERS_FIRST: &[u8] = b"\x40\x0bgrpc-status\x010";
const HEADERS: &[u8] = b"\x88\xbf";
const TRAILERS: &[u8] = b"\xbe";
/// The headers of a stream, without insertion: they may come before or after the first reply.
const HEADERS_STREAM: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// Bytes that may wait for one watching peer: beyond, the dummy is told to slow down by its own memory.
const EVENT_BYTES_MAX: usize = 256 << 20;
/// `grpc-status: 14` and a message, without insertion.
const TRAILERS_UNAVAILABLE: &[u8] = b"\x0f\x2f\x0214\x00\x0cgrpc-message\x07on%20it";

/// Which calls the server gets wrong: every n-th, by its own count; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mischief {
    /// Not answered at all.
    pub silent_every: u64,
    /// Answered with status 14.
    pub unavailable_every: u64,
    /// Answered OK, but without a message.
    pub empty_every: u64,
    /// The connection is closed instead.
    pub hang_up_every: u64,
    /// The connection says GOAWAY and answers what was asked so far.
    pub goaway_every: u64,
    /// Events, by their own count: not delivered.
    pub lost_event_every: u64,
    /// Delivered twice.
    pub repeated_event_every: u64,
}

/// The running server; it stops when this is dropped.
#[derive(Debug)]
pub(crate) struct DummyServer {
    pub address: SocketAddr,
    waker: Arc<Waker>,
    planted: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl DummyServer {
    /// Starts it on a free loopback port, on core `pin` if one is given.
    pub(crate) fn start(mischief: Mischief, pin: Option<usize>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let planted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&planted);
        let thread = std::thread::Builder::new().name("dummy".to_owned()).spawn(move || {
            if let Some(id) = pin
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                return Err(io::Error::other(format!("core {id} is not ours to use")));
            }
            Dummy {
                poll,
                listener,
                mischief,
                peers: Vec::new(),
                calls: 0,
                events: 0,
                revision: 1,
                planted: counter,
            }
            .serve()
        })?;
        Ok(Self { address, waker, planted, thread: Some(thread) })
    }

    /// How many calls it got wrong on purpose so far.
    pub(crate) fn planted(&self) -> u64 {
        self.planted.load(Ordering::Acquire)
    }
}

impl Drop for DummyServer {
    fn drop(&mut self) {
        self.waker.wake().expect("the poll lives as long as the thread");
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("dummy server: {error}"),
                Err(_) => eprintln!("dummy server: panicked"),
            }
        }
    }
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    splitter: Splitter,
    joined: Vec<u8>,
    out: Vec<u8>,
    has_greeted: bool,
    preface_left: usize,
    consumed: u32,
    /// Streams that watch, and how many watchers each has.
    watches: Vec<(u32, u64)>,
}

impl Peer {
    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.out.drain(..written);
        Ok(())
    }

    /// A WatchResponse of one watcher: header, id, and the rest as it is.
    fn put_response(&mut self, stream: u32, id: u64, header: &[u8], tail: &[u8]) {
        let start = self.out.len();
        // Room for the frame's header and gRPC's prefix, which want to know the length.
        self.out.resize(start + frame::HEADER_BYTES + 5, 0);
        self.out.extend_from_slice(header);
        if id != 0 {
            put_varint(&mut self.out, 2, id);
        }
        self.out.extend_from_slice(tail);
        let message_bytes = self.out.len() - start - frame::HEADER_BYTES - 5;
        let length = u32::try_from(message_bytes).expect("small").to_be_bytes();
        let mut head = Vec::with_capacity(frame::HEADER_BYTES);
        FrameHeader { length: message_bytes + 5, kind: kind::DATA, flags: 0, stream }.put(&mut head);
        self.out[start..start + frame::HEADER_BYTES].copy_from_slice(&head);
        self.out[start + frame::HEADER_BYTES + 1..start + frame::HEADER_BYTES + 5].copy_from_slice(&length);
    }
}

/// Field 1 of a WatchResponse.
fn response_header(revision: u64) -> Vec<u8> {
    let mut header = Vec::new();
    put_varint(&mut header, 1, u64::MAX); // cluster and member ids are long in real life
    put_varint(&mut header, 2, u64::MAX);
    put_varint(&mut header, 3, revision);
    put_varint(&mut header, 4, 2);
    let mut field = Vec::new();
    put_length(&mut field, 1, header.len());
    field.extend_from_slice(&header);
    field
}

#[derive(Debug)]
struct Dummy {
    poll: Poll,
    listener: TcpListener,
    mischief: Mischief,
    peers: Vec<Option<Peer>>,
    calls: u64,
    events: u64,
    revision: u64,
    planted: Arc<AtomicU64>,
}

impl Dummy {
    fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match self.poll.poll(&mut events, Some(Duration::from_secs(1))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    WAKER => return Ok(()),
                    LISTENER => self.accept()?,
                    Token(slot) => {
                        let Some(mut peer) = self.peers[slot].take() else { continue };
                        let revision = self.revision;
                        if self.attend(&mut peer, &mut buffer).is_ok() {
                            self.peers[slot] = Some(peer);
                        }
                        if revision < self.revision {
                            self.flush_watching();
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(self.peers.len()), interest)?;
            let mut out = Vec::new();
            frame::put_settings(&mut out, &[(frame::setting::INITIAL_WINDOW_SIZE, 1 << 30)]);
            frame::put_window_update(&mut out, 0, 1 << 30);
            self.peers.push(Some(Peer {
                stream,
                splitter: Splitter::default(),
                joined: Vec::new(),
                out,
                has_greeted: false,
                preface_left: frame::PREFACE.len(),
                consumed: 0,
                watches: Vec::new(),
            }));
        }
    }

    /// Reads, answers and writes; an error ends the connection.
    fn attend(&mut self, peer: &mut Peer, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            let length = match peer.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            let mut bytes = &buffer[..length];
            let preface = peer.preface_left.min(bytes.len());
            peer.preface_left -= preface;
            bytes = &bytes[preface..];
            let mut splitter = std::mem::take(&mut peer.splitter);
            let mut joined = std::mem::take(&mut peer.joined);
            while let Some((header, payload)) =
                splitter.next(&mut bytes, &mut joined).map_err(|_| ErrorKind::InvalidData)?
            {
                self.on_frame(peer, header, payload)?;
            }
            peer.splitter = splitter;
            peer.joined = joined;
            if length < buffer.len() {
                break;
            }
        }
        peer.flush()
    }

    /// Writes what a put has brought the peers that watch; one that is gone is forgotten.
    fn flush_watching(&mut self) {
        for slot in &mut self.peers {
            if slot.as_mut().is_some_and(|peer| !peer.watches.is_empty() && peer.flush().is_err()) {
                *slot = None;
            }
        }
    }

    /// A message on a stream that stays open: one more watcher, numbered from 0.
    fn watch(&mut self, peer: &mut Peer, stream: u32) {
        let slot = peer.watches.iter().position(|(watching, _)| *watching == stream).unwrap_or_else(|| {
            frame::put_frame(&mut peer.out, kind::HEADERS, flag::END_HEADERS, stream, HEADERS_STREAM);
            peer.watches.push((stream, 0));
            peer.watches.len() - 1
        });
        let id = peer.watches[slot].1;
        peer.watches[slot].1 += 1;
        let mut tail = Vec::new();
        put_varint(&mut tail, 3, 1); // created
        peer.put_response(stream, id, &response_header(self.revision), &tail);
    }

    /// Tells every watcher of a put, whatever it watches. The putting peer has no watchers.
    fn notify(&mut self, put: &[u8]) -> io::Result<()> {
        self.revision += 1;
        let mut pair = Vec::with_capacity(put.len() + 32);
        let mut fields = Fields::of(put);
        while let Some((number, value)) = fields.next().map_err(|_| ErrorKind::InvalidData)? {
            if let (1 | 2, Ok(bytes)) = (number, value.bytes()) {
                put_length(&mut pair, if number == 1 { 1 } else { 5 }, bytes.len());
                pair.extend_from_slice(bytes);
            }
        }
        put_varint(&mut pair, 3, self.revision);
        let mut event = Vec::with_capacity(pair.len() + 8);
        put_length(&mut event, 2, pair.len());
        event.extend_from_slice(&pair);
        let mut tail = Vec::with_capacity(event.len() + 8);
        put_length(&mut tail, 11, event.len());
        tail.extend_from_slice(&event);
        let header = response_header(self.revision);
        for peer in self.peers.iter_mut().flatten().filter(|peer| peer.out.len() < EVENT_BYTES_MAX) {
            for slot in 0..peer.watches.len() {
                let (stream, watchers) = peer.watches[slot];
                for id in 0..watchers {
                    self.events += 1;
                    let is_nth = |every: u64| every != 0 && self.events.is_multiple_of(every);
                    let copies = match self.mischief {
                        mischief if is_nth(mischief.lost_event_every) => 0,
                        mischief if is_nth(mischief.repeated_event_every) => 2,
                        _ => 1,
                    };
                    self.planted.fetch_add(u64::from(copies != 1), Ordering::AcqRel);
                    for _ in 0..copies {
                        peer.put_response(stream, id, &header, &tail);
                    }
                }
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, peer: &mut Peer, header: FrameHeader, payload: &[u8]) -> io::Result<()> {
        match header.kind {
            kind::SETTINGS if header.flags & flag::ACK == 0 => {
                frame::put_frame(&mut peer.out, kind::SETTINGS, flag::ACK, 0, &[]);
            }
            kind::PING if header.flags & flag::ACK == 0 => {
                frame::put_frame(&mut peer.out, kind::PING, flag::ACK, 0, payload);
            }
            kind::DATA => {
                peer.consumed += u32::try_from(header.length).expect("a frame");
                if peer.consumed >= 1 << 29 {
                    frame::put_window_update(&mut peer.out, 0, peer.consumed);
                    peer.consumed = 0;
                }
                if header.flags & flag::END_STREAM != 0 {
                    if self.peers.iter().flatten().any(|peer| !peer.watches.is_empty()) {
                        // The gRPC prefix goes; a put is one frame here.
                        self.notify(payload.get(5..).ok_or(ErrorKind::InvalidData)?)?;
                    }
                    return self.answer(peer, header.stream);
                }
                self.watch(peer, header.stream);
            }
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, peer: &mut Peer, stream: u32) -> io::Result<()> {
        self.calls += 1;
        let is_nth = |every: u64| every != 0 && self.calls.is_multiple_of(every);
        let plant = || self.planted.fetch_add(1, Ordering::AcqRel);
        if is_nth(self.mischief.silent_every) {
            plant();
            return Ok(());
        }
        if is_nth(self.mischief.hang_up_every) {
            plant();
            return Err(ErrorKind::ConnectionAborted.into());
        }
        let (headers, trailers) =
            if peer.has_greeted { (HEADERS, TRAILERS) } else { (HEADERS_FIRST, TRAILERS_FIRST) };
        // The first reply of a connection fills the client's table, so it is always a good one.
        let may_err = peer.has_greeted;
        peer.has_greeted = true;
        frame::put_frame(&mut peer.out, kind::HEADERS, flag::END_HEADERS, stream, headers);
        let last = flag::END_HEADERS | flag::END_STREAM;
        if may_err && is_nth(self.mischief.unavailable_every) {
            plant();
            frame::put_frame(&mut peer.out, kind::HEADERS, last, stream, TRAILERS_UNAVAILABLE);
            return Ok(());
        }
        if may_err && is_nth(self.mischief.empty_every) {
            plant();
        } else {
            frame::put_frame(&mut peer.out, kind::DATA, 0, stream, REPLY);
        }
        frame::put_frame(&mut peer.out, kind::HEADERS, last, stream, trailers);
        if is_nth(self.mischief.goaway_every) {
            plant();
            let mut payload = stream.to_be_bytes().to_vec();
            payload.extend_from_slice(&[0; 4]);
            frame::put_frame(&mut peer.out, kind::GOAWAY, 0, 0, &payload);
        }
        Ok(())
    }
}
