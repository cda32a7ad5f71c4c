//! HTTP/2 frames (RFC 9113 §4): the nine bytes before each payload, and cutting a byte stream at them.
//!
//! Shared by the client (`http2.rs`) and the stand-in server (`dummy.rs`).
//!
//! Invariants: `Splitter::partial` holds less than one frame between calls, so a connection buffers at
//! most one frame of `length_max` bytes.
//! Cost: a frame that lies whole in what was read is handed on without a copy.

/// Bytes of a frame header.
pub(crate) const HEADER_BYTES: usize = 9;
/// RFC 9113 §6.5.2: the largest payload unless a SETTINGS frame says otherwise. We never say so.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16_384;
/// RFC 9113 §6.9.2: a window before SETTINGS and WINDOW_UPDATE move it.
pub(crate) const WINDOW_DEFAULT: i64 = 65_535;
/// What a client says first (§3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The sum that a window must not pass (§6.9.1).
pub(crate) const WINDOW_MAX: i64 = (1 << 31) - 1;

/// Frame types (§6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Frame flags (§6); `ACK` shares its bit with `END_STREAM`.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// SETTINGS identifiers (§6.5.2) that either end uses.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// A frame's first nine bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHeader {
    /// Reads a header; the reserved bit of the stream id is ignored, as §4.1 asks.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        Self { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7F, s1, s2, s3]) }
    }

    /// Appends the header.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.length).expect("frames are at most 2^24 - 1 bytes").to_be_bytes();
        assert!(length[0] == 0, "frame of {} bytes", self.length);
        let stream = self.stream.to_be_bytes();
        out.extend_from_slice(&[
            length[1], length[2], length[3], self.kind, self.flags, stream[0], stream[1], stream[2],
            stream[3],
        ]);
    }
}

/// Appends a whole frame.
pub(crate) fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    FrameHeader { length: payload.len(), kind, flags, stream }.put(out);
    out.extend_from_slice(payload);
}

/// Appends a SETTINGS frame.
pub(crate) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (id, value) in settings {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put_frame(out, kind::SETTINGS, 0, 0, &payload);
}

/// Appends a WINDOW_UPDATE frame.
pub(crate) fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put_frame(out, kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
}

/// The first four bytes as a number: what RST_STREAM and WINDOW_UPDATE carry.
pub(crate) fn word(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The identifier and value pairs of a SETTINGS payload.
pub(crate) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).map(|pair| {
        (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]))
    })
}

/// The payload of a DATA or HEADERS frame without padding and priority; `None` when it is shorter than
/// they claim (§6.1, §6.2).
pub(crate) fn unpadded<'a>(header: &FrameHeader, mut payload: &'a [u8]) -> Option<&'a [u8]> {
    if header.flags & flag::PADDED != 0 {
        let (&padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(padding))?)?;
    }
    if header.kind == kind::HEADERS && header.flags & flag::PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    Some(payload)
}

/// The peer announced a frame longer than we allow (§4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameTooLong(pub usize);

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The start of a frame whose rest has not arrived.
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes the next frame off `bytes`, continuing what earlier bytes began. `Ok(None)` when `bytes` is
    /// used up. The payload lies in `bytes` or, where the frame came in pieces, in `joined`.
    pub(crate) fn next<'a: 'b, 'b>(
        &mut self,
        bytes: &mut &'a [u8],
        joined: &'b mut Vec<u8>,
    ) -> Result<Option<(FrameHeader, &'b [u8])>, FrameTooLong> {
        if self.partial.is_empty() {
            if let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
                let header = checked(FrameHeader::parse(header))?;
                if let Some((payload, after)) = rest.split_at_checked(header.length) {
                    *bytes = after;
                    return Ok(Some((header, payload)));
                }
            }
            self.partial.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(None);
        }
        take_up_to(&mut self.partial, bytes, HEADER_BYTES);
        let Some(header) = self.partial.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = checked(FrameHeader::parse(header))?;
        take_up_to(&mut self.partial, bytes, HEADER_BYTES + header.length);
        if self.partial.len() < HEADER_BYTES + header.length {
            return Ok(None);
        }
        std::mem::swap(joined, &mut self.partial);
        self.partial.clear();
        Ok(Some((header, &joined[HEADER_BYTES..])))
    }
}

fn checked(header: FrameHeader) -> Result<FrameHeader, FrameTooLong> {
    if header.length <= PAYLOAD_BYTES_MAX { Ok(header) } else { Err(FrameTooLong(header.length)) }
}

/// Moves bytes from the front of `bytes` until `partial` has `length` of them.
fn take_up_to(partial: &mut Vec<u8>, bytes: &mut &[u8], length: usize) {
    let wanted = length.saturating_sub(partial.len()).min(bytes.len());
    let (taken, rest) = bytes.split_at(wanted);
    partial.extend_from_slice(taken);
    *bytes = rest;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames_of(pieces: &[&[u8]]) -> Vec<(FrameHeader, Vec<u8>)> {
        let (mut splitter, mut joined, mut frames) = (Splitter::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut bytes = *piece;
            while let Some((header, payload)) = splitter.next(&mut bytes, &mut joined).unwrap() {
                frames.push((header, payload.to_vec()));
            }
            assert!(bytes.is_empty());
        }
        frames
    }

    #[test]
    fn a_header_survives_the_round_trip() {
        let header = FrameHeader { length: 0x01_02_03, kind: kind::HEADERS, flags: 5, stream: 0x7FFF_FFFF };
        let mut out = Vec::new();
        header.put(&mut out);
        assert_eq!(out, [1, 2, 3, 1, 5, 0x7F, 0xFF, 0xFF, 0xFF]);
        assert_eq!(FrameHeader::parse(&out.try_into().unwrap()), header);
        let reserved_bit = FrameHeader::parse(&[0, 0, 0, 0, 0, 0x80, 0, 0, 1]);
        assert_eq!(reserved_bit.stream, 1);
    }

    /// Every way to cut three frames into three pieces gives the same three frames.
    #[test]
    fn frames_come_out_alike_however_the_bytes_arrive() {
        let mut stream = Vec::new();
        put_frame(&mut stream, kind::DATA, flag::END_STREAM, 1, b"hello");
        put_frame(&mut stream, kind::PING, 0, 0, &[7; 8]);
        put_frame(&mut stream, kind::DATA, 0, 3, b"");
        let whole = frames_of(&[&stream]);
        assert_eq!(whole.len(), 3);
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(frames_of(&pieces), whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_buffered() {
        let mut out = Vec::new();
        FrameHeader { length: PAYLOAD_BYTES_MAX + 1, kind: 0, flags: 0, stream: 1 }.put(&mut out);
        let mut splitter = Splitter::default();
        assert_eq!(splitter.next(&mut &out[..], &mut Vec::new()), Err(FrameTooLong(PAYLOAD_BYTES_MAX + 1)));
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        let header = |kind, flags| FrameHeader { length: 0, kind, flags, stream: 1 };
        let padded = header(kind::DATA, flag::PADDED);
        assert_eq!(unpadded(&padded, &[2, b'a', 0, 0]), Some(&b"a"[..]));
        assert_eq!(unpadded(&padded, &[2, 0]), None, "more padding than payload");
        let both = header(kind::HEADERS, flag::PADDED | flag::PRIORITY);
        assert_eq!(unpadded(&both, &[1, 9, 9, 9, 9, 9, b'a', 0]), Some(&b"a"[..]));
        assert_eq!(unpadded(&both, &[1, 9, 9, 9, 9, 0]), None, "priority cut short");
    }
}
