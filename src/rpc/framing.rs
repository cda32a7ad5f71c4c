//! gRPC over HTTP/2, the part that is bytes and text: message frames, `grpc-message`,
//! `grpc-timeout`, method paths and content types.
//!
//! A message is one flag byte, four length bytes (big-endian) and the message. The length is a
//! stranger's claim: it is held against the receive limit before anything is allocated for it, and
//! memory grows with the bytes that arrived, never with the bytes that were announced unless the caller wants that.
//!
//! Invariants: `Assembler` never holds more than `PREFIX_BYTES` + the limit; a message that arrives
//! in one piece is a slice of that piece, not a copy.
//! Cost: O(bytes); one copy for a message in several pieces, none otherwise.
//! Compatibility: texts and codes are gRPC-Go's, which is what etcd's clients see.

use std::fmt::Write as _;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Flag and length in front of every message.
pub const PREFIX_BYTES: usize = 5;

/// What is wrong with a stream of message bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The prefix announces more than the receiver takes. Nothing was allocated for it.
    #[error("grpc: received message larger than max ({announced} vs. {max})")]
    TooLarge { announced: u64, max: u64 },
    /// The flag byte is neither 0 nor 1.
    #[error("grpc: received unexpected payload format {0}")]
    UnknownFlag(u8),
    /// The stream ended inside a prefix or a message.
    #[error("unexpected EOF")]
    Truncated,
    /// The stream ended before a message began, where one is due.
    #[error("EOF")]
    Missing,
    /// A second message where the method takes one.
    #[error("grpc: received more than one request message")]
    Surplus,
}

/// One message as it was framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whether `payload` is encoded as `grpc-encoding` says.
    pub compressed: bool,
    pub payload: Bytes,
}

/// Reads a prefix: the flag, and the length if it is within `max`.
pub fn read_prefix(prefix: [u8; PREFIX_BYTES], max: u32) -> Result<(bool, u32), FramingError> {
    let [flag, a, b, c, d] = prefix;
    if 1 < flag {
        return Err(FramingError::UnknownFlag(flag));
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    if max < length {
        return Err(FramingError::TooLarge { announced: length.into(), max: max.into() });
    }
    Ok((flag == 1, length))
}

/// Writes a prefix.
pub fn put_prefix(out: &mut impl BufMut, compressed: bool, length: u32) {
    out.put_u8(u8::from(compressed));
    out.put_u32(length);
}

/// Memory for a message that comes in pieces, by what has come of it.
const GROWTH: usize = 4;

/// Puts the one message of a unary request together from the pieces the transport hands over.
#[derive(Debug)]
pub struct Assembler {
    max: u32,
    /// The only piece so far; most requests never have a second one.
    first: Bytes,
    /// All pieces, once there are two.
    joined: BytesMut,
}

impl Assembler {
    /// An assembler that takes a message of at most `max` bytes.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { max, first: Bytes::new(), joined: BytesMut::new() }
    }

    /// Bytes held so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    /// Whether nothing has arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the whole message, once its prefix has come.
    #[must_use]
    pub fn announced(&self) -> Option<usize> {
        let held = if self.joined.is_empty() { &self.first[..] } else { &self.joined[..] };
        let prefix = held.first_chunk::<PREFIX_BYTES>()?;
        read_prefix(*prefix, self.max).ok().map(|(_, length)| length as usize)
    }

    /// Makes room for the whole message at once, for a caller that has counted it.
    pub fn reserve_announced(&mut self) {
        let missing =
            self.announced().map_or(0, |announced| (PREFIX_BYTES + announced).saturating_sub(self.len()));
        if self.joined.is_empty() {
            self.joined.reserve(self.first.len() + missing);
        } else {
            self.joined.reserve(missing);
        }
    }

    /// Takes the next piece. Fails as soon as the prefix or the amount tells that it must.
    pub fn push(&mut self, piece: Bytes) -> Result<(), FramingError> {
        if piece.is_empty() {
            return Ok(());
        }
        let len = self.len() + piece.len();
        if self.is_empty() {
            self.check(&piece, len)?;
            self.first = piece;
            return Ok(());
        }
        let mut prefix = [0; PREFIX_BYTES];
        let held = if self.joined.is_empty() { &self.first[..] } else { &self.joined[..] };
        let held_count = held.len().min(PREFIX_BYTES);
        prefix[..held_count].copy_from_slice(&held[..held_count]);
        let more = (PREFIX_BYTES - held_count).min(piece.len());
        prefix[held_count..held_count + more].copy_from_slice(&piece[..more]);
        self.check(&prefix[..held_count + more], len)?;
        // Two pieces: from here on they are one buffer, which grows as bytes come.
        if self.joined.capacity() < len {
            self.grow(len);
        }
        self.joined.put(std::mem::take(&mut self.first));
        self.joined.put(piece);
        Ok(())
    }

    /// Makes room for `len` bytes: for the whole message if it is near, or it would be copied again and again. An
    /// announcement alone costs its client nothing, so no more than `GROWTH` times what has come.
    fn grow(&mut self, len: usize) {
        let whole = self.announced().map_or(len, |announced| PREFIX_BYTES + announced);
        self.joined.reserve(whole.min(GROWTH * len).max(len) - self.joined.len());
    }

    /// Holds what is known of the prefix, and `len` bytes in all, against the limit.
    fn check(&self, head: &[u8], len: usize) -> Result<(), FramingError> {
        let Some(prefix) = head.first_chunk::<PREFIX_BYTES>() else { return Ok(()) };
        let (_, length) = read_prefix(*prefix, self.max)?;
        if PREFIX_BYTES + (length as usize) < len { Err(FramingError::Surplus) } else { Ok(()) }
    }

    /// The stream has ended: the message, if it is whole.
    pub fn finish(self) -> Result<Message, FramingError> {
        let mut all = if self.joined.is_empty() { self.first } else { self.joined.freeze() };
        let Some(prefix) = all.first_chunk::<PREFIX_BYTES>() else {
            return Err(if all.is_empty() { FramingError::Missing } else { FramingError::Truncated });
        };
        let (compressed, length) = read_prefix(*prefix, self.max)?;
        all.advance(PREFIX_BYTES);
        if all.len() < length as usize {
            return Err(FramingError::Truncated);
        }
        assert!(all.len() == length as usize, "push lets no byte past the message");
        Ok(Message { compressed, payload: all })
    }
}

/// Cuts the messages of a stream out of the pieces the transport hands over.
///
/// Holds at most one unfinished message and the piece that came last.
#[derive(Debug)]
pub struct Splitter {
    max: u32,
    held: BytesMut,
}

impl Splitter {
    /// A splitter that takes messages of at most `max` bytes.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { max, held: BytesMut::new() }
    }

    /// Bytes held so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no part of a message is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// As soon as a prefix tells that its message will not be taken.
    pub fn take(&mut self) -> Result<Option<Message>, FramingError> {
        let Some(prefix) = self.held.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let (compressed, length) = read_prefix(*prefix, self.max)?;
        let whole = PREFIX_BYTES + length as usize;
        if self.held.len() < whole {
            return Ok(None);
        }
        let mut message = self.held.split_to(whole).freeze();
        message.advance(PREFIX_BYTES);
        Ok(Some(Message { compressed, payload: message }))
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// When it ended inside a message.
    pub fn finish(self) -> Result<(), FramingError> {
        if self.held.is_empty() { Ok(()) } else { Err(FramingError::Truncated) }
    }
}

/// Encodes a status text for `grpc-message`: printable ASCII but `%` stays, every other byte of its
/// UTF-8 becomes `%XX`.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String does not fail");
        }
    }
    out
}

/// Undoes `percent_encode`. A `%` without two hexadecimal digits after it stands for itself.
#[must_use]
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        // Checked here, since `from_str_radix` takes a sign as well.
        let hex = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A time as `grpc-timeout` says it: at most eight digits, and a unit.
#[must_use]
pub fn timeout_text(ms: u128) -> String {
    if ms < 100_000_000 { format!("{ms}m") } else { format!("{}S", (ms / 1_000).min(99_999_999)) }
}

/// Reads `grpc-timeout`: one to eight digits and a unit. In nanoseconds, saturating.
///
/// The error is the tail of gRPC-Go's text `malformed grpc-timeout: …`.
pub fn parse_timeout(value: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(value);
    let Some((&unit, digits)) = value.split_last() else {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    };
    if digits.is_empty() {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if 8 < digits.len() {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let unit_ns: u64 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    let mut number: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            let digits = String::from_utf8_lossy(digits);
            return Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"));
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    Ok(number.saturating_mul(unit_ns))
}

/// Splits `/package.Service/Method`. The service is all up to the last slash, as in gRPC-Go.
#[must_use]
pub fn split_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

/// Whether a content type is gRPC's: `application/grpc`, alone or with `+codec` or `;parameter`.
#[must_use]
pub fn is_grpc_content_type(value: &[u8]) -> bool {
    const BASE: &[u8] = b"application/grpc";
    match value.split_at_checked(BASE.len()) {
        Some((base, rest)) => {
            base.eq_ignore_ascii_case(BASE) && matches!(rest.first(), None | Some(b'+' | b';'))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn framed(payload: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        put_prefix(&mut out, false, u32::try_from(payload.len()).unwrap());
        out.put(payload);
        out.freeze()
    }

    fn assemble(pieces: &[&[u8]], max: u32) -> Result<Message, FramingError> {
        let mut assembler = Assembler::new(max);
        for piece in pieces {
            assembler.push(Bytes::copy_from_slice(piece))?;
        }
        assembler.finish()
    }

    #[test]
    fn message_in_one_piece_is_a_slice_of_it() {
        let whole = framed(b"hello");
        let mut assembler = Assembler::new(100);
        assembler.push(whole.clone()).unwrap();
        let message = assembler.finish().unwrap();
        assert_eq!(message.payload.as_ptr(), whole[PREFIX_BYTES..].as_ptr());
        assert!(!message.compressed);
    }

    #[test]
    fn message_cut_anywhere_is_put_together_and_a_shorter_one_is_truncated() {
        let whole = framed(b"0123456789");
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
                assert_eq!(assemble(&pieces, 10).unwrap().payload, &b"0123456789"[..]);
            }
            let expected = match first {
                0 => Err(FramingError::Missing),
                n if n == whole.len() => continue,
                _ => Err(FramingError::Truncated),
            };
            assert_eq!(assemble(&[&whole[..first]], 10), expected);
        }
    }

    #[test]
    fn message_in_pieces_is_given_its_memory_once_and_an_announcement_alone_gets_little() {
        let whole = framed(&[7; 64 << 10]);
        let mut assembler = Assembler::new(1 << 30);
        let mut places = Vec::new();
        for piece in whole.chunks(16 << 10) {
            assembler.push(Bytes::copy_from_slice(piece)).unwrap();
            places.push(assembler.joined.as_ptr());
        }
        assert!(places[1..].iter().all(|place| *place == places[1]));
        assert_eq!(assembler.finish().unwrap().payload, whole[PREFIX_BYTES..]);

        let mut assembler = Assembler::new(1 << 30);
        assembler.push(Bytes::from_static(&[0, 0x30, 0, 0, 0])).unwrap();
        for sent in 1..=100 {
            assembler.push(Bytes::from_static(&[7; 100])).unwrap();
            let held = PREFIX_BYTES + 100 * sent;
            assert!(held <= assembler.joined.capacity() && assembler.joined.capacity() <= GROWTH * held);
        }
    }

    #[test]
    fn announced_length_above_the_limit_is_refused_by_the_prefix_alone_wherever_it_is_cut() {
        let prefix = [0, 0xff, 0xff, 0xff, 0xff];
        for cut in 1..PREFIX_BYTES {
            let mut assembler = Assembler::new(2_097_152);
            assembler.push(Bytes::copy_from_slice(&prefix[..cut])).unwrap();
            let refused = assembler.push(Bytes::copy_from_slice(&prefix[cut..]));
            let error = refused.unwrap_err();
            assert_eq!(error.to_string(), "grpc: received message larger than max (4294967295 vs. 2097152)");
            assert!(assembler.len() < PREFIX_BYTES);
        }
    }

    #[test]
    fn second_message_and_unknown_flag_are_refused() {
        let mut two = framed(b"a").to_vec();
        two.extend_from_slice(&framed(b"b"));
        assert_eq!(assemble(&[&two], 10), Err(FramingError::Surplus));
        assert_eq!(assemble(&[&two[..6], &two[6..]], 10), Err(FramingError::Surplus));
        assert_eq!(assemble(&[&[2, 0, 0, 0, 0]], 10), Err(FramingError::UnknownFlag(2)));
    }

    #[test]
    fn random_bytes_in_random_pieces_never_panic_nor_pass_the_limit() {
        let seed = std::env::var_os("PINION_SEED").map_or(7, |s| s.to_str().unwrap().parse().unwrap());
        println!("replay: PINION_SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let mut assembler = Assembler::new(64);
            for _ in 0..rng.random_range(0..6) {
                let mut piece = vec![0; rng.random_range(0..40)];
                rng.fill(&mut piece[..]);
                if rng.random_bool(0.7) {
                    piece.iter_mut().take(4).for_each(|byte| *byte = 0);
                }
                if assembler.push(Bytes::from(piece)).is_err() {
                    break;
                }
                assert!(assembler.len() <= PREFIX_BYTES + 64);
            }
            if let Ok(message) = assembler.finish() {
                assert!(message.payload.len() <= 64);
            }
        }
    }

    #[test]
    fn status_text_survives_percent_encoding() {
        for text in ["", "plain", "100 % — ü\n\u{7f}", "etcdserver: \"key\"", "%41"] {
            let encoded = percent_encode(text);
            assert!(encoded.bytes().all(|b| matches!(b, b' '..=b'~')), "{encoded}");
            assert_eq!(percent_decode(&encoded), text);
        }
        assert_eq!(percent_encode("a%\n"), "a%25%0A");
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
        assert_eq!(percent_decode("%+1%-1%2b"), "%+1%-1+", "a sign is no digit");
    }

    #[test]
    fn timeouts_are_read_in_every_unit_and_refused_when_malformed() {
        assert_eq!(parse_timeout(b"3H"), Ok(10_800_000_000_000));
        assert_eq!(parse_timeout(b"2M"), Ok(120_000_000_000));
        assert_eq!(parse_timeout(b"5S"), Ok(5_000_000_000));
        assert_eq!(parse_timeout(b"7m"), Ok(7_000_000));
        assert_eq!(parse_timeout(b"99999999u"), Ok(99_999_999_000));
        assert_eq!(parse_timeout(b"1n"), Ok(1));
        assert_eq!(parse_timeout(b"99999999H"), Ok(u64::MAX));
        for malformed in [&b""[..], b"S", b"1", b"1s", b"-1S", b"123456789S", b"\xff\xffS", b"1.5S"] {
            assert!(parse_timeout(malformed).is_err(), "{malformed:?}");
        }
    }

    #[test]
    fn path_splits_at_its_last_slash_and_needs_a_first_one() {
        assert_eq!(split_path("/etcdserverpb.KV/Put"), Some(("etcdserverpb.KV", "Put")));
        assert_eq!(split_path("/a/b/c"), Some(("a/b", "c")));
        assert_eq!(split_path("/"), None);
        assert_eq!(split_path("etcdserverpb.KV/Put"), None);
        assert_eq!(split_path("/x"), None);
    }

    #[test]
    fn content_type_is_grpc_with_codec_or_parameter_only() {
        for yes in ["application/grpc", "application/grpc+proto", "application/grpc;v=1", "Application/GRPC"]
        {
            assert!(is_grpc_content_type(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/grp", "application/grpc-web", "application/json", "text/application/grpc"]
        {
            assert!(!is_grpc_content_type(no.as_bytes()), "{no}");
        }
    }
}
