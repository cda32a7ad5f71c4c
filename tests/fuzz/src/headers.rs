//! The gate for request headers, fed with frames and header blocks, well-formed and not.
//!
//! Claims, for any bytes: what passes, and whether the connection ends, does not depend on how the bytes
//! are cut; memory stays within the bound of a block; what has passed passes a second gate as it is, with
//! nothing more to be known of any request. The last one is the claim that the decoder behind, which has a
//! table of its own, stays in step: the second gate has such a table. Nothing panics.

use arbitrary::Unstructured;
use pinion::rpc::headers::{FRAME_BYTES_MAX, Gate, Spared};

use crate::{below, bytes, memory, number, one_in};

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

const NAMES: [&[u8]; 18] = [
    b":method",
    b":path",
    b":scheme",
    b":authority",
    b":protocol",
    b":status",
    b"te",
    b"connection",
    b"host",
    b"token",
    b"user-agent",
    b"content-type",
    b"content-length",
    b"upgrade",
    b"grpc-timeout",
    b"Upper",
    b"",
    b"x",
];

const VALUES: [&[u8]; 12] = [
    b"",
    b"POST",
    b"/etcdserverpb.KV/Put",
    b"http",
    b"localhost:2379",
    b"a:1,b:2",
    b"trailers",
    b"gzip",
    b"application/grpc",
    b"1\n",
    b"\0",
    &[b'v'; 200],
];

pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let bytes_max = [64 * 1024, 300, 5_000][below(&mut input, 3)];
    let cut = [1, 3, 10, 1_000][below(&mut input, 4)];
    let spared = [Spared::Nothing, Spared::Unread, Spared::UnreadAndAuthority][below(&mut input, 3)];
    let stream = stream(&mut input);

    let limit = 8 * (bytes_max + 2 * FRAME_BYTES_MAX) + 64 * stream.len() + 512 * 1024;
    let (whole, is_open, has_fault) = memory::bounded(limit, || pass(bytes_max, spared, &stream, usize::MAX));
    let (pieces, _, same_fault) = pass(bytes_max, spared, &stream, cut);
    assert_eq!(same_fault, has_fault);
    if has_fault || is_open {
        return;
    }
    assert_eq!(normal(&pieces), normal(&whole), "in pieces of {cut}");
    // The second one takes more: what is written anew may be larger than it was.
    let mut again = Gate::new(2 * bytes_max + 1_024);
    let mut twice = Vec::new();
    let mut at = 0;
    while at < whole.len() {
        at += again.pass(&whole[at..], &mut |passed| twice.extend_from_slice(passed));
    }
    assert_eq!(again.fault(), None);
    assert_eq!(normal(&twice), normal(&whole), "passed a second time");
    let note = (1..2_000).find_map(|stream| again.take_note(stream));
    assert_eq!(note, None);
}

/// What passes, whether a block has begun and not ended, and whether there was a fault.
fn pass(bytes_max: usize, spared: Spared, stream: &[u8], cut: usize) -> (Vec<u8>, bool, bool) {
    let mut gate = Gate::new(bytes_max).sparing(spared);
    let (mut out, mut at) = (Vec::new(), 0);
    while at < stream.len() {
        let end = stream.len().min(at.saturating_add(cut));
        at += gate.pass(&stream[at..end], &mut |passed| out.extend_from_slice(passed));
        assert!(gate.held_bytes() <= 2 * (bytes_max + 2 * FRAME_BYTES_MAX), "{} are held", gate.held_bytes());
    }
    (out, gate.is_inside_block(), gate.fault().is_some())
}

/// A few requests, mostly in whole frames.
fn stream(input: &mut Unstructured<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut stream = 1;
    for _ in 0..=below(input, 12) {
        let block = block(input);
        let mut flags = END_HEADERS | if one_in(input, 2) { END_STREAM } else { 0 };
        let mut payload = Vec::new();
        let padding = if one_in(input, 6) { below(input, 9) } else { 0 };
        if one_in(input, 6) {
            flags |= PADDED;
            payload.push(u8::try_from(padding).expect("at most 8"));
        }
        if one_in(input, 6) {
            flags |= PRIORITY;
            payload.extend_from_slice(&[0, 0, 0, u8::try_from(below(input, 9)).expect("at most 8"), 7]);
        }
        payload.extend_from_slice(&block);
        if one_in(input, 4) {
            let at = below(input, payload.len() + 1);
            let rest = payload.split_off(at);
            put_frame(&mut out, HEADERS, flags & !END_HEADERS, stream, &payload);
            put_frame(&mut out, CONTINUATION, END_HEADERS, stream, &rest);
        } else {
            put_frame(&mut out, HEADERS, flags, stream, &payload);
        }
        match below(input, 8) {
            0 => {}
            1 => put_frame(&mut out, 0, 0, stream, b"data"),
            2 => out.extend_from_slice(bytes(input, 20)),
            _ => stream += 2,
        }
    }
    out
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Fields in every form; now and then something that is none.
fn block(input: &mut Unstructured<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if one_in(input, 6) {
        put_integer(&mut out, 0x20, 0x1f, [4_096, 0, 100, 5_000][below(input, 4)]);
    }
    if !one_in(input, 4) {
        out.extend_from_slice(b"\x83\x86\x84");
    }
    for _ in 0..below(input, 8) {
        match below(input, 8) {
            0..=4 => {
                let (form, mask) = [(0x40, 0x3f), (0, 0x0f), (0x10, 0x0f)][below(input, 3)];
                if one_in(input, 3) {
                    put_integer(&mut out, form, mask, 1 + below(input, 70));
                } else {
                    out.push(form);
                    put_text(&mut out, NAMES[below(input, NAMES.len())], 0);
                }
                if one_in(input, 5) {
                    put_text(&mut out, bytes(input, 20), 0x80);
                } else {
                    put_text(&mut out, VALUES[below(input, VALUES.len())], 0);
                }
            }
            5 | 6 => put_integer(&mut out, 0x80, 0x7f, 1 + below(input, 68)),
            _ if one_in(input, 8) => out.extend_from_slice(&number(input).to_le_bytes()),
            _ => out.push(0x90),
        }
    }
    out
}

fn put_text(out: &mut Vec<u8>, text: &[u8], coded: u8) {
    put_integer(out, coded, 0x7f, text.len());
    out.extend_from_slice(text);
}

fn put_integer(out: &mut Vec<u8>, first: u8, mask: u8, mut value: usize) {
    let Some(rest) = value.checked_sub(usize::from(mask)) else {
        out.push(first | value.to_le_bytes()[0]);
        return;
    };
    out.push(first | mask);
    value = rest;
    while 0x80 <= value {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Frames without what means nothing: padding, priority, and where a block is cut.
fn normal(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames: Vec<(u8, u8, u32, Vec<u8>)> = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let [l0, l1, l2, kind, mut flags, s0, s1, s2, s3] = *head;
        let Some((payload, rest)) = rest.split_at_checked(u32::from_be_bytes([0, l0, l1, l2]) as usize)
        else {
            break;
        };
        bytes = rest;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        let mut payload = payload.to_vec();
        if kind == HEADERS {
            let padded = usize::from(flags & PADDED != 0);
            let start = padded + if flags & PRIORITY != 0 { 5 } else { 0 };
            let padding = payload.first().filter(|_| padded == 1).map_or(0, |padding| usize::from(*padding));
            if start + padding <= payload.len() {
                payload = payload[start..payload.len() - padding].to_vec();
                flags &= END_STREAM;
            }
        }
        match frames.last_mut() {
            Some(last) if kind == CONTINUATION && last.0 == HEADERS => last.3.extend(payload),
            _ => frames.push((kind, flags, stream, payload)),
        }
    }
    frames
}
