//! A server that does no work: it answers every call at once with prepared frames.
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
            Dummy { poll, listener, mischief, peers: Vec::new(), calls: 0, planted: counter }.serve()
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
}

#[derive(Debug)]
struct Dummy {
    poll: Poll,
    listener: TcpListener,
    mischief: Mischief,
    peers: Vec<Option<Peer>>,
    calls: u64,
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
                        if self.attend(&mut peer, &mut buffer).is_ok() {
                            self.peers[slot] = Some(peer);
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
        let mut written = 0;
        while written < peer.out.len() {
            match peer.stream.write(&peer.out[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        peer.out.drain(..written);
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
                    return self.answer(peer, header.stream);
                }
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
