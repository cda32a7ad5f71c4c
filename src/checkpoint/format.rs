//! The bytes of a checkpoint.
//!
//! ```text
//! file  = frame*                       nothing behind the last frame
//! frame = len u32 | crc u32 | payload  len = bytes of payload, 1 ..= FRAME_BYTES_MAX
//! ```
//! All integers are little endian. `crc` is the CRC-32 (IEEE) of: seed u32, frame number u64, len u32,
//! payload. The seed is 0 for frame 0 and frame 0's own crc for all others, so a frame cannot stand
//! in for another one, not even for the same frame of another checkpoint.
//!
//! | payload | first byte | rest |
//! |---|---|---|
//! | header, frame 0 | `H` | magic `PINIONCP`, version u32, cluster id u64, member id u64, log index u64, term u64, voters (count u32, ids u64), learners (the same) |
//! | block | `B` | bytes of the state machine's own stream |
//! | trailer, last frame | `T` | blocks u64, bytes of all blocks u64 |
//!
//! A file is whole when its trailer is there and agrees. Anything else is damage: the file is written
//! under another name, synced, and only then renamed, so a crash never leaves half of one.
//! Cost: one pass, no allocation but the caller's buffer. The decoder bounds every length before use.

use crate::types::{ClusterId, LogIndex, MemberId, Term};

/// Bytes of one frame's payload at most. 1 MiB plus the tag: the state machine's slices are smaller.
pub const FRAME_BYTES_MAX: u32 = (1 << 20) + 1;

/// Bytes in front of each payload.
pub const FRAME_HEADER_BYTES: usize = 8;

/// Version this code writes; it reads no higher one.
pub const FORMAT_VERSION: u32 = 1;

/// Members a header may name; far above any cluster, far below a memory problem.
const MEMBERS_MAX: u32 = 1024;

const MAGIC: &[u8; 8] = b"PINIONCP";

/// What a checkpoint covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub cluster: ClusterId,
    /// The member that wrote it.
    pub member: MemberId,
    /// Last log entry whose effect is inside.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
    pub voters: Vec<MemberId>,
    pub learners: Vec<MemberId>,
}

/// Why bytes are not a checkpoint. `offset` counts from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("frame {frame} at offset {offset}: length {len} is not 1 to {FRAME_BYTES_MAX}")]
    Length { frame: u64, offset: u64, len: u32 },
    #[error("frame {frame} at offset {offset} fails its checksum")]
    Checksum { frame: u64, offset: u64 },
    #[error("frame {frame} at offset {offset}: {problem}")]
    Content { frame: u64, offset: u64, problem: &'static str },
    #[error("format version {found} is newer than {FORMAT_VERSION}, the newest this version reads")]
    Version { found: u32 },
    #[error("the file ends at offset {offset} without a trailer")]
    Truncated { offset: u64 },
    #[error("bytes follow the trailer at offset {offset}")]
    Trailing { offset: u64 },
}

fn checksum(seed: u32, frame: u64, payload: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&frame.to_le_bytes());
    let len: usize = payload.iter().map(|part| part.len()).sum();
    hasher.update(&u32::try_from(len).expect("a frame's length fits, FRAME_BYTES_MAX").to_le_bytes());
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Writes a checkpoint's frames.
#[derive(Debug)]
pub struct Encoder {
    seed: u32,
    frame: u64,
    block_bytes: u64,
}

impl Encoder {
    /// Starts a checkpoint: appends its header frame to `out`.
    #[must_use]
    pub fn new(header: &Header, out: &mut Vec<u8>) -> Self {
        let mut encoder = Self { seed: 0, frame: 0, block_bytes: 0 };
        let mut payload = Vec::with_capacity(64);
        payload.extend_from_slice(MAGIC);
        payload.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        for number in [header.cluster.0, header.member.0, header.index.0, header.term.0] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        for members in [&header.voters, &header.learners] {
            let count = u32::try_from(members.len()).expect("members are counted by hand");
            assert!(count <= MEMBERS_MAX, "{count} members in one checkpoint");
            payload.extend_from_slice(&count.to_le_bytes());
            for member in members {
                payload.extend_from_slice(&member.0.to_le_bytes());
            }
        }
        encoder.seed = encoder.put(b'H', &payload, out);
        encoder
    }

    /// Appends a block of the state machine's stream.
    pub fn block(&mut self, block: &[u8], out: &mut Vec<u8>) {
        self.block_bytes += block.len() as u64;
        self.put(b'B', block, out);
    }

    /// Appends the trailer.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&(self.frame - 1).to_le_bytes());
        payload[8..].copy_from_slice(&self.block_bytes.to_le_bytes());
        self.put(b'T', &payload, out);
    }

    fn put(&mut self, tag: u8, payload: &[u8], out: &mut Vec<u8>) -> u32 {
        let len = u32::try_from(payload.len() + 1).expect("bounded by the assertion below");
        assert!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes");
        let crc = checksum(self.seed, self.frame, &[&[tag], payload]);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        out.push(tag);
        out.extend_from_slice(payload);
        self.frame += 1;
        crc
    }
}

/// What a frame turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Header(Header),
    Block(&'a [u8]),
    Trailer,
}

/// Checks a checkpoint's frames, in order.
#[derive(Debug, Default)]
pub struct Decoder {
    seed: u32,
    frame: u64,
    offset: u64,
    block_bytes: u64,
    is_whole: bool,
}

impl Decoder {
    /// How many payload bytes follow this frame header.
    ///
    /// # Errors
    /// [`FormatError`] when the length is out of bounds or the trailer was already seen.
    pub fn payload_bytes(&self, header: [u8; FRAME_HEADER_BYTES]) -> Result<usize, FormatError> {
        if self.is_whole {
            return Err(FormatError::Trailing { offset: self.offset });
        }
        let len = u32::from_le_bytes(header[..4].try_into().expect("four of eight bytes"));
        if len == 0 || len > FRAME_BYTES_MAX {
            return Err(FormatError::Length { frame: self.frame, offset: self.offset, len });
        }
        Ok(len as usize)
    }

    /// Checks and reads one frame.
    ///
    /// # Errors
    /// [`FormatError`] for any difference from what [`Encoder`] writes.
    pub fn frame<'a>(
        &mut self,
        header: [u8; FRAME_HEADER_BYTES],
        payload: &'a [u8],
    ) -> Result<Frame<'a>, FormatError> {
        let (frame, offset) = (self.frame, self.offset);
        let len = self.payload_bytes(header)?;
        let crc = u32::from_le_bytes(header[4..].try_into().expect("four of eight bytes"));
        if payload.len() != len || checksum(self.seed, frame, &[payload]) != crc {
            return Err(FormatError::Checksum { frame, offset });
        }
        let content = |problem| FormatError::Content { frame, offset, problem };
        let (tag, rest) = payload.split_first().ok_or(content("empty"))?;
        let decoded = match (tag, frame) {
            (b'H', 0) => {
                self.seed = crc;
                Frame::Header(decode_header(rest).map_err(|error| error.unwrap_or(content("not a header")))?)
            }
            (b'B', 1..) => {
                self.block_bytes += rest.len() as u64;
                Frame::Block(rest)
            }
            (b'T', 1..) => {
                let expected = [(frame - 1).to_le_bytes(), self.block_bytes.to_le_bytes()].concat();
                if rest != expected {
                    return Err(content("the trailer does not count what came before it"));
                }
                self.is_whole = true;
                Frame::Trailer
            }
            _ => return Err(content("unexpected kind of frame")),
        };
        self.frame += 1;
        self.offset += (FRAME_HEADER_BYTES + len) as u64;
        Ok(decoded)
    }

    /// The input has ended.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] when the trailer was not seen.
    pub fn finish(&self) -> Result<(), FormatError> {
        if self.is_whole { Ok(()) } else { Err(FormatError::Truncated { offset: self.offset }) }
    }

    /// Where the next frame starts.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// `Err(None)`: not a header at all.
fn decode_header(mut rest: &[u8]) -> Result<Header, Option<FormatError>> {
    fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Option<FormatError>> {
        let (head, tail) = rest.split_first_chunk::<N>().ok_or(None)?;
        *rest = tail;
        Ok(*head)
    }
    let rest = &mut rest;
    if take::<8>(rest)? != *MAGIC {
        return Err(None);
    }
    let version = u32::from_le_bytes(take(rest)?);
    if version != FORMAT_VERSION {
        return Err(Some(FormatError::Version { found: version }));
    }
    let mut number = || take(rest).map(u64::from_le_bytes);
    let (cluster, member) = (ClusterId(number()?), MemberId(number()?));
    let (index, term) = (LogIndex(number()?), Term(number()?));
    let mut members = || -> Result<Vec<MemberId>, Option<FormatError>> {
        let count = u32::from_le_bytes(take(rest)?);
        if count > MEMBERS_MAX {
            return Err(None);
        }
        (0..count).map(|_| take(rest).map(|id| MemberId(u64::from_le_bytes(id)))).collect()
    };
    let (voters, learners) = (members()?, members()?);
    if rest.is_empty() { Ok(Header { cluster, member, index, term, voters, learners }) } else { Err(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            cluster: ClusterId(7),
            member: MemberId(9),
            index: LogIndex(100),
            term: Term(3),
            voters: vec![MemberId(9)],
            learners: vec![],
        }
    }

    fn file() -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&header(), &mut out);
        encoder.block(b"first block", &mut out);
        encoder.block(b"", &mut out);
        encoder.block(&[7; 100], &mut out);
        encoder.finish(&mut out);
        out
    }

    fn read(mut bytes: &[u8]) -> Result<(Header, Vec<Vec<u8>>), FormatError> {
        let mut decoder = Decoder::default();
        let (mut header, mut blocks) = (None, Vec::new());
        while !bytes.is_empty() {
            let truncated = FormatError::Truncated { offset: decoder.offset() };
            let (head, rest) = bytes.split_first_chunk().ok_or(truncated.clone())?;
            let len = decoder.payload_bytes(*head)?;
            let payload = rest.get(..len).ok_or(truncated)?;
            match decoder.frame(*head, payload)? {
                Frame::Header(found) => header = Some(found),
                Frame::Block(block) => blocks.push(block.to_vec()),
                Frame::Trailer => {}
            }
            bytes = &rest[len..];
        }
        decoder.finish()?;
        Ok((header.expect("a whole file has a header"), blocks))
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (found, blocks) = read(&file()).unwrap();
        assert_eq!(found, header());
        assert_eq!(blocks, [b"first block".to_vec(), vec![], vec![7; 100]]);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let whole = file();
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for position in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[position] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "bit {bit} of byte {position}");
            }
        }
    }

    #[test]
    fn swapped_frames_appended_bytes_and_newer_versions_are_refused() {
        let mut encoded = Vec::new();
        let mut encoder = Encoder::new(&header(), &mut encoded);
        let start = encoded.len();
        encoder.block(b"aaaa", &mut encoded);
        let middle = encoded.len();
        encoder.block(b"bbbb", &mut encoded);
        let end = encoded.len();
        encoder.finish(&mut encoded);
        let swapped =
            [&encoded[..start], &encoded[middle..end], &encoded[start..middle], &encoded[end..]].concat();
        assert!(matches!(read(&swapped), Err(FormatError::Checksum { frame: 1, .. })));
        let appended = [&encoded[..], &[0]].concat();
        assert!(read(&appended).is_err());
        assert!(matches!(read(&[&encoded[..], &encoded[..]].concat()), Err(FormatError::Trailing { .. })));
    }
}
