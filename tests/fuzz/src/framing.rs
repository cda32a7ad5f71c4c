//! gRPC framing against a second, slower reading of the same rules.
//!
//! Claims, for any bytes: the assembler answers what a reader of the whole stream would, wherever it
//! is cut, never holds more than a prefix and the limit, and allocates no more than a small multiple
//! of that; `grpc-message` survives its encoding; `grpc-timeout`, paths and content types are read as
//! their grammars say. Nothing panics.

use std::fmt::Write as _;

use arbitrary::Unstructured;
use bytes::Bytes;
use pinion::rpc::Method;
use pinion::rpc::framing::{
    Assembler, FramingError, Message, PREFIX_BYTES, is_grpc_content_type, parse_timeout, percent_decode,
    percent_encode, split_path,
};

use crate::{below, memory};

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => frames(rest),
        1 => percent(rest),
        2 => timeout(rest),
        _ => paths(rest),
    }
}

/// What the whole stream says, told at once.
fn read_whole(all: &[u8], max: u32) -> Result<Message, FramingError> {
    if all.is_empty() {
        return Err(FramingError::Missing);
    }
    let Some((prefix, payload)) = all.split_at_checked(PREFIX_BYTES) else {
        return Err(FramingError::Truncated);
    };
    let length = prefix[1..].iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
    match prefix[0] {
        0 | 1 if u64::from(max) < length => {
            Err(FramingError::TooLarge { announced: length, max: u64::from(max) })
        }
        0 | 1 if (payload.len() as u64) < length => Err(FramingError::Truncated),
        0 | 1 if length < payload.len() as u64 => Err(FramingError::Surplus),
        0 | 1 => Ok(Message { compressed: prefix[0] == 1, payload: Bytes::copy_from_slice(payload) }),
        flag => Err(FramingError::UnknownFlag(flag)),
    }
}

fn frames(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let max = [0, 1, 64, 1_000, 2_097_152, u32::MAX][below(&mut input, 6)];
    let mut cuts: Vec<usize> = (0..below(&mut input, 8)).map(|_| below(&mut input, 300)).collect();
    let stream = Bytes::copy_from_slice(input.take_rest());
    cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
    cuts.push(stream.len());
    cuts.sort_unstable();

    let held_max = u64::from(max) + PREFIX_BYTES as u64;
    let pieces = || {
        let mut assembler = Assembler::new(max);
        let mut from = 0;
        for &cut in &cuts {
            assembler.push(stream.slice(from..cut))?;
            assert!(assembler.len() as u64 <= held_max, "holds {} with a limit of {max}", assembler.len());
            assert_eq!(assembler.is_empty(), cut == 0);
            from = cut;
        }
        assembler.finish()
    };
    // Whatever the prefix announces, memory follows what arrived: a buffer that doubles.
    let answer = memory::bounded(4 * stream.len() + 1_024, pieces);
    assert_eq!(answer, read_whole(&stream, max), "cut at {cuts:?}");
}

fn percent(rest: &[u8]) {
    let text = String::from_utf8_lossy(rest);
    let encoded = percent_encode(&text);
    assert!(encoded.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{encoded}");
    assert!(encoded.len() <= 3 * text.len());
    assert_eq!(percent_decode(&encoded), text);
    assert_eq!(percent_decode(&text), decode_slowly(&text), "decoding {text:?}");
}

/// By the gRPC specification: `%` and two hexadecimal digits are a byte, all else is itself.
fn decode_slowly(text: &str) -> String {
    let mut out = Vec::new();
    let mut left = text.as_bytes();
    while let [first, behind @ ..] = left {
        match left {
            [b'%', a, b, behind @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                let digit = |c: u8| char::from(c).to_digit(16).expect("checked above");
                out.push(u8::try_from(digit(*a) * 16 + digit(*b)).expect("two digits are a byte"));
                left = behind;
            }
            _ => {
                out.push(*first);
                left = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn timeout(value: &[u8]) {
    let unit_ns = |unit: u8| -> Option<u128> {
        let nanoseconds = [3_600_000_000_000, 60_000_000_000, 1_000_000_000, 1_000_000, 1_000, 1];
        b"HMSmun".iter().zip(nanoseconds).find(|(known, _)| **known == unit).map(|(_, ns)| ns)
    };
    let expected = value.split_last().and_then(|(unit, digits)| {
        let in_form = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| in_form)?;
        Some(digits.parse::<u128>().ok()? * unit_ns(*unit)?)
    });
    let expected = expected.map(|ns| u64::try_from(ns).unwrap_or(u64::MAX));
    match parse_timeout(value) {
        Ok(ns) => assert_eq!(Some(ns), expected, "{value:?}"),
        Err(text) => {
            assert_eq!(expected, None, "{value:?} refused: {text}");
            // It becomes a header: whatever bytes it quotes, it must still be one.
            let mut header = String::new();
            write!(header, "{}", percent_encode(&text)).expect("writing to a String does not fail");
            assert!(header.is_ascii());
        }
    }
}

fn paths(rest: &[u8]) {
    let expected = rest.get(..16).is_some_and(|base| base.eq_ignore_ascii_case(b"application/grpc"))
        && matches!(rest.get(16), None | Some(b'+' | b';'));
    assert_eq!(is_grpc_content_type(rest), expected);

    let path = String::from_utf8_lossy(rest);
    match split_path(&path) {
        Some((service, method)) => {
            assert_eq!(format!("/{service}/{method}"), path);
            assert!(!method.contains('/'));
        }
        None => assert!(!path.starts_with('/') || path.matches('/').count() < 2, "{path}"),
    }
    match Method::find(&path) {
        Ok(method) => assert_eq!(method.row().path, path),
        Err(status) => assert!(!status.message.is_empty()),
    }
}
