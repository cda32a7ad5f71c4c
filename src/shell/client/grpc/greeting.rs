//! The first words of an HTTP/2 connection, before anybody calls.
//!
//! `h2` holds 30 kB for a connection as soon as it begins. A client that keeps connections ahead of need says no
//! more than the preface and its settings. So these are answered here, with what `h2` would say, and `h2` begins
//! when the client says something else: it is told all that was said, and what it answers to that is dropped,
//! since the client has heard it.
//!
//! The words of `h2` are not written here but recorded from it, once a shard ([`Greeting`]).
//!
//! Plain values: no clock and no socket.
//! Bounds: `SAID_BYTES_MAX` of the client's words.
//! Invariants: bytes that are dropped are whole frames that the client got before, each once; nothing else of
//! `h2`'s is dropped, and no frame is cut.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::types::first_bytes::HTTP2_PREFACE;

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;

const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const FLAG_ACK: u8 = 1;

/// The answer to a client's settings.
pub(in crate::shell::client) const SETTINGS_ACK: [u8; HEAD_BYTES] = [0, 0, 0, SETTINGS, FLAG_ACK, 0, 0, 0, 0];

/// Settings without a value, which is what every client may say.
const SETTINGS_EMPTY: [u8; HEAD_BYTES] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

/// Words of a client that are kept for `h2`. Clients say 60 bytes or so.
const SAID_BYTES_MAX: usize = 1024;

/// Length of the frame that `bytes` begin with, if its head is there.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<HEAD_BYTES>()?;
    Some(HEAD_BYTES + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize)
}

/// The first words of `h2`.
#[derive(Debug, Default)]
pub(in crate::shell::client) struct Greeting {
    bytes: Vec<u8>,
}

impl Greeting {
    /// Has `h2` begin a connection with a client that says nothing but its preface and empty settings.
    pub(in crate::shell::client) fn record(builder: &Builder) -> Self {
        let said = [&HTTP2_PREFACE[..], &SETTINGS_EMPTY].concat();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let tape = Tape { said, heard: Arc::clone(&heard) };
        let mut cx = Context::from_waker(Waker::noop());
        let mut handshake = pin!(builder.handshake::<_, Bytes>(tape));
        if let Poll::Ready(Ok(mut h2)) = handshake.as_mut().poll(&mut cx) {
            // Waits for a request that never comes.
            let _is_pending = h2.poll_accept(&mut cx);
        }
        let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
        let mut bytes = Vec::with_capacity(heard.len());
        let mut rest = &heard[..];
        while let Some(frame) = frame_len(rest).and_then(|length| rest.get(..length)) {
            // Not the connection's window: `h2` counts it from when it says so itself.
            if frame[3] == SETTINGS && frame != SETTINGS_ACK {
                bytes.extend_from_slice(frame);
            }
            rest = &rest[frame.len()..];
        }
        assert!(bytes.get(3) == Some(&SETTINGS), "h2 begins with its settings");
        Self { bytes }
    }

    pub(in crate::shell::client) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A client that says what it was given, and hears.
struct Tape {
    said: Vec<u8>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tape {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.said.len().min(into.remaining());
        if n == 0 {
            return Poll::Pending;
        }
        into.put_slice(&self.said[..n]);
        self.said.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tape {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client's words since its preface.
#[derive(Debug, Default)]
pub(in crate::shell::client) struct Said {
    bytes: Vec<u8>,
    /// Length of the whole frames in `bytes` that need no `h2`.
    judged: usize,
    settings: usize,
}

impl Said {
    /// Hears more. Returns how many settings are to be acknowledged now, and whether `h2` has to begin.
    pub(in crate::shell::client) fn hear(&mut self, bytes: &[u8]) -> (usize, bool) {
        self.bytes.extend_from_slice(bytes);
        let before = self.settings;
        loop {
            let rest = &self.bytes[self.judged..];
            let Some(length) = frame_len(rest) else { break };
            if SAID_BYTES_MAX < self.judged + length {
                return (self.settings - before, true);
            }
            let Some(frame) = rest.get(..length) else { break };
            match judge(frame) {
                Word::Settings => self.settings += 1,
                Word::Plain => {}
                Word::Other => return (self.settings - before, true),
            }
            self.judged += length;
        }
        (self.settings - before, false)
    }

    /// All that was said, and what `h2` answers to it that the client has heard.
    pub(in crate::shell::client) fn replay(self, greeting: &Greeting) -> (Vec<u8>, Heard) {
        (self.bytes, Heard { greeting: greeting.bytes.clone(), acks: self.settings, passing: 0 })
    }
}

/// A frame of a client that has not called yet.
enum Word {
    /// To be acknowledged.
    Settings,
    /// Asks for no answer.
    Plain,
    /// For `h2`.
    Other,
}

fn judge(frame: &[u8]) -> Word {
    let (head, payload) = frame.split_at(HEAD_BYTES);
    let is_of_connection = head[5..] == [0; 4];
    match (head[3], head[4]) {
        (SETTINGS, 0) if is_of_connection && payload.len().is_multiple_of(6) => {
            match payload.chunks_exact(6).all(is_valid_setting) {
                true => Word::Settings,
                false => Word::Other,
            }
        }
        (SETTINGS, FLAG_ACK) if is_of_connection && payload.is_empty() => Word::Plain,
        (WINDOW_UPDATE, _) if is_of_connection && payload.len() == 4 => {
            // 0 is an error, of which `h2` tells.
            if payload[0] & 0x7f == 0 && payload[1..] == [0; 3] { Word::Other } else { Word::Plain }
        }
        _ => Word::Other,
    }
}

/// Whether a setting has a value that the protocol allows; `h2` tells of others.
fn is_valid_setting(setting: &[u8]) -> bool {
    let [i0, i1, v0, v1, v2, v3] = *setting else { return false };
    let value = u32::from_be_bytes([v0, v1, v2, v3]);
    match u16::from_be_bytes([i0, i1]) {
        // ENABLE_PUSH and ENABLE_CONNECT_PROTOCOL.
        2 | 8 => value <= 1,
        // INITIAL_WINDOW_SIZE
        4 => value <= 0x7fff_ffff,
        // MAX_FRAME_SIZE
        5 => (1 << 14..1 << 24).contains(&value),
        _ => true,
    }
}

/// Words that the client has heard and `h2` will say again.
#[derive(Debug)]
pub(in crate::shell::client) struct Heard {
    greeting: Vec<u8>,
    acks: usize,
    /// Bytes of a frame that is passed on, still to come.
    passing: usize,
}

impl Heard {
    /// Whether `h2` has said all of it.
    pub(in crate::shell::client) fn is_over(&self) -> bool {
        self.greeting.is_empty() && self.acks == 0 && self.passing == 0
    }

    /// Looks at what `h2` says. How many of the first `bytes` are dropped, or, if none are, passed on.
    pub(in crate::shell::client) fn sift(&mut self, bytes: &[u8]) -> (usize, Sifted) {
        if self.passing == 0 {
            let frame = frame_len(bytes).and_then(|length| bytes.get(..length));
            if let Some(frame) = frame {
                if self.greeting.starts_with(frame) {
                    self.greeting.drain(..frame.len());
                    return (frame.len(), Sifted::Dropped);
                }
                if 0 < self.acks && frame == SETTINGS_ACK {
                    self.acks -= 1;
                    return (frame.len(), Sifted::Dropped);
                }
            }
            self.passing = frame_len(bytes).unwrap_or(bytes.len());
        }
        let passed = self.passing.min(bytes.len());
        self.passing -= passed;
        (passed, Sifted::Passed)
    }
}

/// The fate of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell::client) enum Sifted {
    Dropped,
    Passed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::client::grpc::limits::server_builder;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    #[test]
    fn greeting_is_what_h2_says_of_its_settings_and_no_acknowledgement_and_no_window() {
        let greeting = Greeting::record(&server_builder(Some(7)));
        let mut kinds = Vec::new();
        let mut rest = greeting.bytes();
        while let Some(length) = frame_len(rest) {
            kinds.push((rest[3], rest[4]));
            rest = &rest[length..];
        }
        assert_eq!(kinds, [(SETTINGS, 0)]);
        let limit = setting(3, 7);
        assert!(
            greeting.bytes().windows(6).any(|found| found == limit),
            "the flag's limit of streams is in it"
        );
    }

    #[test]
    fn words_that_need_no_h2_are_kept_however_they_are_cut_and_others_call_it() {
        let settings =
            frame(SETTINGS, 0, 0, &[setting(2, 0), setting(4, 1 << 20), setting(0xffff, 9)].concat());
        let window = frame(WINDOW_UPDATE, 0, 0, &[0, 15, 0, 1]);
        let plain = [settings.clone(), window, SETTINGS_ACK.to_vec(), settings].concat();
        for size in 1..=plain.len() {
            let mut said = Said::default();
            let mut acks = 0;
            for piece in plain.chunks(size) {
                let (more, needs_h2) = said.hear(piece);
                acks += more;
                assert!(!needs_h2, "pieces of {size}");
            }
            assert_eq!((acks, said.bytes.len(), said.judged), (2, plain.len(), plain.len()));
        }
        let others = [
            frame(6, 0, 0, &[0; 8]),
            frame(1, 5, 1, b"call"),
            frame(SETTINGS, 0, 1, &[]),
            frame(SETTINGS, 0, 0, &[0; 5]),
            frame(SETTINGS, FLAG_ACK, 0, &[0; 6]),
            frame(SETTINGS, 0, 0, &setting(4, 1 << 31)),
            frame(SETTINGS, 0, 0, &setting(5, 1)),
            frame(SETTINGS, 0, 0, &setting(2, 2)),
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]),
            frame(WINDOW_UPDATE, 0, 0, &[1]),
            frame(0xee, 0, 0, &[]),
            // Not waited for.
            frame(0, 0, 1, &[0; 2_000])[..HEAD_BYTES].to_vec(),
            // A flood is for whoever counts it.
            frame(SETTINGS, 0, 0, &[]).repeat(SAID_BYTES_MAX / HEAD_BYTES + 1),
        ];
        for other in others {
            let mut said = Said::default();
            assert!(!said.hear(&plain).1);
            assert!(said.hear(&other).1, "{other:?}");
            assert_eq!(said.bytes.len(), plain.len() + other.len(), "h2 hears all of it");
        }
    }

    #[test]
    fn h2_is_not_heard_twice_and_nothing_else_is_lost_however_it_is_cut() {
        let greeting = Greeting::record(&server_builder(None));
        let (headers, data) = (frame(1, 4, 1, &[9; 30]), frame(0, 1, 1, &[7; 200]));
        let ping = frame(6, FLAG_ACK, 0, &[1; 8]);
        let saying =
            [greeting.bytes(), &SETTINGS_ACK, &ping, &SETTINGS_ACK, &headers, &data, &SETTINGS_ACK].concat();
        let wanted = [&ping[..], &headers, &data, &SETTINGS_ACK].concat();
        // As `h2` writes: what is small in one piece, the payload of DATA apart.
        for apart in [false, true] {
            let mut said = Said::default();
            said.hear(&[SETTINGS_EMPTY, SETTINGS_EMPTY].concat());
            let (_, mut heard) = said.replay(&greeting);
            let cut = saying.len() - SETTINGS_ACK.len() - if apart { 200 } else { 0 };
            let mut passed = Vec::new();
            for piece in [&saying[..cut], &saying[cut..]] {
                let mut rest = piece;
                while !rest.is_empty() {
                    let (n, sifted) = heard.sift(rest);
                    assert!(0 < n, "it goes on");
                    if sifted == Sifted::Passed {
                        passed.extend_from_slice(&rest[..n]);
                    }
                    rest = &rest[n..];
                }
            }
            assert!(heard.is_over());
            assert_eq!(passed, wanted);
        }
    }
}
