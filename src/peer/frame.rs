//! Frames: how messages are told apart on a stream, and how damage is noticed. `super` draws them.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::types::FirstBytes;

/// First bytes in both directions. The newline keeps it apart from a line of text, the last byte is
/// the version of the framing itself.
pub const PREFACE: [u8; 8] = *b"PINION\n\x01";

/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 16;

/// Least room that is made for a frame that is not complete.
const GROWTH_BYTES_MIN: usize = 64 * 1024;

/// What a frame's payload is. The numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Hello = 1,
    Welcome = 2,
    Refusal = 3,
    /// A `Refusal` as the last frame of a connection that was accepted.
    Goodbye = 4,
    RaftMessage = 5,
    CallRequest = 6,
    CallResponse = 7,
    BulkBegin = 8,
    BulkAccept = 9,
    /// The chunk's offset as u64 LE, then its bytes.
    BulkChunk = 10,
    BulkEnd = 11,
    BulkDone = 12,
}

const KINDS: [FrameKind; 12] = [
    FrameKind::Hello,
    FrameKind::Welcome,
    FrameKind::Refusal,
    FrameKind::Goodbye,
    FrameKind::RaftMessage,
    FrameKind::CallRequest,
    FrameKind::CallResponse,
    FrameKind::BulkBegin,
    FrameKind::BulkAccept,
    FrameKind::BulkChunk,
    FrameKind::BulkEnd,
    FrameKind::BulkDone,
];

/// Why bytes are not frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("does not speak the peer protocol of Pinion")]
    Stranger,
    #[error("TLS on a plain listener: peers speak without TLS here")]
    Tls,
    #[error("HTTP/1 on the listener for peers")]
    Http1,
    #[error("HTTP/2 on the listener for peers: clients have a port of their own")]
    Http2,
    #[error("speaks framing version {0}, this version speaks {ours}", ours = PREFACE[7])]
    Version(u8),
    #[error("frame header fails its checksum")]
    HeaderChecksum,
    #[error("frame does not belong here: sent again, out of order, on another connection, or damaged")]
    Seal,
    #[error("frame of kind {0}, which this version does not know")]
    Kind(u8),
    #[error("frame header sets bytes that have no meaning yet")]
    Reserved,
    #[error("frame of {length} bytes, at most {max} are taken here")]
    TooLarge { length: usize, max: usize },
    #[error("{0:?} frame fails its checksum")]
    PayloadChecksum(FrameKind),
}

/// One frame. The payload is a slice of the buffer it was read into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub payload: Bytes,
}

/// What binds the frames of one direction of one connection to their places.
#[derive(Debug, Clone)]
pub struct Seal {
    hello: u64,
    welcome: u64,
    /// The highest bit tells the acceptor's frames from the dialer's.
    number: u64,
}

impl Seal {
    /// The seals of the dialer's frames and of the acceptor's, from the sessions that they named; none
    /// if one of them named none.
    #[must_use]
    pub fn pair(hello: u64, welcome: u64) -> Option<(Self, Self)> {
        let dialer = Self { hello, welcome, number: 0 };
        let acceptor = Self { number: 1 << 63, ..dialer };
        (hello != 0 && welcome != 0).then_some((dialer, acceptor))
    }

    /// Seals the whole frames that `put_frame` has appended, in their order.
    ///
    /// # Panics
    /// When the bytes are no whole frames.
    pub fn close(&mut self, mut frames: &mut [u8]) {
        while let Some(header) = frames.first_chunk_mut::<FRAME_HEADER_BYTES>() {
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let checksum = self.checksum(&header[..12]);
            header[12..].copy_from_slice(&checksum.to_le_bytes());
            self.number += 1;
            let length = usize::try_from(length).expect("a usize has 32 bits at least");
            frames = &mut frames[FRAME_HEADER_BYTES + length..];
        }
        assert!(frames.is_empty(), "a frame is appended whole");
    }

    /// Of the header of the next frame.
    fn checksum(&self, header: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(header);
        let mut place = [0; 24];
        place[..8].copy_from_slice(&self.hello.to_le_bytes());
        place[8..16].copy_from_slice(&self.welcome.to_le_bytes());
        place[16..].copy_from_slice(&self.number.to_le_bytes());
        hasher.update(&place);
        hasher.finalize()
    }
}

/// Appends a frame whose payload `write` appends.
///
/// # Panics
/// When the payload is longer than 4 GiB; callers bound what they send.
pub fn put_frame(buffer: &mut BytesMut, kind: FrameKind, write: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    write(buffer);
    let payload = &buffer[start + FRAME_HEADER_BYTES..];
    let length = u32::try_from(payload.len()).expect("callers bound a payload far below 4 GiB");
    let payload_checksum = crc32fast::hash(payload);
    let header = &mut buffer[start..start + FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    header[8..12].copy_from_slice(&payload_checksum.to_le_bytes());
    let header_checksum = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&header_checksum.to_le_bytes());
}

/// Appends a frame with a message as its payload.
pub fn put_message(buffer: &mut BytesMut, kind: FrameKind, message: &impl prost::Message) {
    put_frame(buffer, kind, |buffer| message.encode(buffer).expect("a BytesMut grows"));
}

/// Header of the frame that is being received.
#[derive(Debug, Clone, Copy)]
struct Header {
    kind: FrameKind,
    length: usize,
    payload_checksum: u32,
}

/// Cuts a stream into frames. After an error it is of no more use.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    payload_bytes_max: usize,
    has_preface: bool,
    /// Of the frame whose payload is not complete; its bytes have left the buffer.
    header: Option<Header>,
    /// Of the frames to come.
    seal: Option<Seal>,
}

impl FrameDecoder {
    /// Expects a preface, then frames of at most `payload_bytes_max`.
    #[must_use]
    pub fn new(payload_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), payload_bytes_max, has_preface: false, header: None, seal: None }
    }

    /// The bound for frames to come. A stranger gets a small one.
    pub fn set_payload_bytes_max(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max;
    }

    /// Frames to come are sealed. Called between two frames.
    ///
    /// # Panics
    /// When a frame has begun.
    pub fn set_seal(&mut self, seal: Option<Seal>) {
        assert!(self.header.is_none(), "a seal is for whole frames");
        self.seal = seal;
    }

    /// Takes what the socket had.
    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(header) = self.header {
            let wanted = header.length.saturating_sub(self.buffer.len());
            // Twice what has come, so that copying stays linear and a lie about the length is cheap.
            let room = wanted.min(self.buffer.len().max(GROWTH_BYTES_MIN));
            self.buffer.reserve(room.max(bytes.len()));
        } else if self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve(bytes.len().max(GROWTH_BYTES_MIN.min(self.payload_bytes_max)));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the stream may not end here.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.has_preface || self.header.is_some() || !self.buffer.is_empty()
    }

    /// Bytes that are allocated.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The bytes that are no frame, or a part of one.
    #[must_use]
    pub fn into_bytes(self) -> BytesMut {
        self.buffer
    }

    /// The next frame, if it is complete.
    ///
    /// # Errors
    /// When the bytes are no frames, or damaged, or a frame is larger than the bound.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        if !self.has_preface && !self.take_preface()? {
            return Ok(None);
        }
        if self.header.is_none() {
            self.header = self.take_header()?;
        }
        let Some(header) = self.header else { return Ok(None) };
        if self.buffer.len() < header.length {
            return Ok(None);
        }
        let payload = self.buffer.split_to(header.length).freeze();
        if crc32fast::hash(&payload) != header.payload_checksum {
            return Err(FrameError::PayloadChecksum(header.kind));
        }
        self.header = None;
        Ok(Some(Frame { kind: header.kind, payload }))
    }

    fn take_preface(&mut self) -> Result<bool, FrameError> {
        let name = PREFACE.len() - 1;
        let known = self.buffer.len().min(name);
        // A stranger is told by the byte that decides, and need not send all eight.
        if self.buffer[..known] != PREFACE[..known] {
            return match FirstBytes::judge(&self.buffer) {
                Some(FirstBytes::Tls) => Err(FrameError::Tls),
                Some(FirstBytes::Http1) => Err(FrameError::Http1),
                Some(FirstBytes::Http2) => Err(FrameError::Http2),
                Some(FirstBytes::Ssh | FirstBytes::Unknown) => Err(FrameError::Stranger),
                None => Ok(false),
            };
        }
        match self.buffer.get(name) {
            None => Ok(false),
            Some(version) if *version != PREFACE[name] => Err(FrameError::Version(*version)),
            Some(_) => {
                self.buffer.advance(PREFACE.len());
                self.has_preface = true;
                Ok(true)
            }
        }
    }

    fn take_header(&mut self) -> Result<Option<Header>, FrameError> {
        let Some(bytes) = self.buffer.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        match &mut self.seal {
            None if crc32fast::hash(&bytes[..12]) != word(12) => return Err(FrameError::HeaderChecksum),
            Some(seal) if seal.checksum(&bytes[..12]) != word(12) => return Err(FrameError::Seal),
            None => {}
            Some(seal) => seal.number += 1,
        }
        if bytes[5..8] != [0; 3] {
            return Err(FrameError::Reserved);
        }
        let known = KINDS.into_iter().find(|kind| *kind as u8 == bytes[4]);
        let kind = known.ok_or(FrameError::Kind(bytes[4]))?;
        let length = usize::try_from(word(0)).unwrap_or(usize::MAX);
        if self.payload_bytes_max < length {
            return Err(FrameError::TooLarge { length, max: self.payload_bytes_max });
        }
        let payload_checksum = word(8);
        self.buffer.advance(FRAME_HEADER_BYTES);
        Ok(Some(Header { kind, length, payload_checksum }))
    }
}
