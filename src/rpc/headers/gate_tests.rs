//! The gate against what a client meant, by way of the decoder that it stands in front of.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::class::{Class, Kind};
use super::field::{self, Field, Name};
use super::table::Table;
use super::*;
use crate::rpc::Code;

const PATIENCE: Duration = Duration::from_secs(30);
const BYTES_MAX: usize = 64 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Decodes header blocks, as an answer's reader does.
pub(crate) struct Decoder(Table);

impl Decoder {
    pub(crate) fn new() -> Self {
        Self(Table::new())
    }

    pub(crate) fn decode(&mut self, block: &[u8]) -> Fields {
        let (mut fields, mut at) = (Fields::new(), 0);
        while at < block.len() {
            let (field, length) = field::read(&block[at..]).unwrap();
            at += length;
            match field {
                Field::TableSize(max) => self.0.set_max(max).unwrap(),
                Field::Indexed(index) => {
                    let known = self.0.get(index).unwrap();
                    fields.push((known.name.to_vec(), known.value.to_vec()));
                }
                Field::Literal { name, value, is_kept } => {
                    let name = match name {
                        Name::Index(index) => self.0.get(index).unwrap().name.to_vec(),
                        Name::Text(text) => text.decode(&mut Vec::new()).unwrap().to_vec(),
                    };
                    let value = value.decode(&mut Vec::new()).unwrap().to_vec();
                    if is_kept {
                        self.0.insert(&name, &value, Class::of(&name, &value));
                    }
                    fields.push((name, value));
                }
            }
        }
        fields
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

fn integer(out: &mut Vec<u8>, first: u8, mask: u8, mut value: usize) {
    if value < usize::from(mask) {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | mask);
    value -= usize::from(mask);
    while 0x80 <= value {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

fn text(out: &mut Vec<u8>, text: &[u8], is_huffman: bool) {
    let coded = if is_huffman { huffman::tests::encode(text) } else { text.to_vec() };
    integer(out, if is_huffman { 0x80 } else { 0 }, 0x7f, coded.len());
    out.extend_from_slice(&coded);
}

/// A literal of form `first`, spelled out.
fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    text(&mut out, name, false);
    text(&mut out, value, false);
    out
}

/// A client's encoder that takes any of the forms there are, and keeps its table by the RFC's rules.
struct Encoder {
    entries: VecDeque<(Vec<u8>, Vec<u8>)>,
    max: usize,
}

impl Encoder {
    fn new() -> Self {
        Self { entries: VecDeque::new(), max: 4096 }
    }

    fn evict(&mut self) {
        let size = |entries: &VecDeque<(Vec<u8>, Vec<u8>)>| -> usize {
            entries.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
        };
        while self.max < size(&self.entries) {
            self.entries.pop_back();
        }
    }

    /// Indices of entries that `is_it` takes; a few of the static table are known here.
    fn indices(&self, is_it: impl Fn(&[u8], &[u8]) -> bool) -> Vec<usize> {
        const STATIC: [(usize, &[u8], &[u8]); 9] = [
            (1, b":authority", b""),
            (2, b":method", b"GET"),
            (3, b":method", b"POST"),
            (4, b":path", b"/"),
            (6, b":scheme", b"http"),
            (28, b"content-length", b""),
            (31, b"content-type", b""),
            (38, b"host", b""),
            (57, b"transfer-encoding", b""),
        ];
        let known = STATIC.iter().filter(|(_, name, value)| is_it(name, value)).map(|(index, ..)| *index);
        let entries = self.entries.iter().zip(62..);
        known.chain(entries.filter(|((name, value), _)| is_it(name, value)).map(|(_, index)| index)).collect()
    }

    fn encode(&mut self, rng: &mut StdRng, fields: &Fields) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..if rng.random_bool(0.1) { rng.random_range(1..=2) } else { 0 } {
            self.max = [0, 40, 100, 300, 4096][rng.random_range(0..5)];
            integer(&mut out, 0x20, 0x1f, self.max);
            self.evict();
        }
        for (name, value) in fields {
            let same = self.indices(|n, v| (n, v) == (&name[..], &value[..]));
            if !same.is_empty() && rng.random_bool(0.8) {
                integer(&mut out, 0x80, 0x7f, same[rng.random_range(0..same.len())]);
                continue;
            }
            let (first, mask) = [(0x40, 0x3f), (0x40, 0x3f), (0, 0x0f), (0x10, 0x0f)][rng.random_range(0..4)];
            let named = self.indices(|n, _| n == &name[..]);
            if !named.is_empty() && rng.random_bool(0.6) {
                integer(&mut out, first, mask, named[rng.random_range(0..named.len())]);
            } else {
                out.push(first);
                text(&mut out, name, rng.random_bool(0.5));
            }
            text(&mut out, value, rng.random_bool(0.5));
            if first == 0x40 {
                self.entries.push_front((name.clone(), value.clone()));
                self.evict();
            }
        }
        out
    }
}

/// What a request has to come out as.
#[derive(Debug, PartialEq, Eq)]
struct Meant {
    stream: u32,
    /// Nothing: it is refused.
    what: Option<(String, String, Fields)>,
}

/// A request's fields of which some are odd, and what they mean.
fn request(rng: &mut StdRng, stream: u32) -> (Fields, Meant) {
    fn pick<'a>(rng: &mut StdRng, of: &[&'a str]) -> &'a str {
        of[rng.random_range(0..of.len())]
    }
    let is_odd = rng.random_bool(0.3);
    let mut is_refused = false;
    let mut pseudo: Vec<(&str, String)> = Vec::new();
    let method = if is_odd && rng.random_bool(0.1) {
        pick(rng, &["GET", "PUT", "", "PO ST", "CONNECT"])
    } else {
        "POST"
    };
    pseudo.push((":method", method.into()));
    let path = if is_odd && rng.random_bool(0.3) {
        pick(rng, &["", "*", "no/slash", "/ü", "/a b/c", "/a?b#c", "/\"<>"])
    } else {
        pick(rng, &["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/", "/grpc.health.v1.Health/Check"])
    };
    pseudo.push((":path", path.into()));
    if !(is_odd && rng.random_bool(0.2)) {
        pseudo.push((":scheme", if is_odd && rng.random_bool(0.2) { "1 x" } else { "http" }.into()));
    }
    if rng.random_bool(0.9) {
        let odd = [
            "",
            "a:1,b:2",
            "http://x:1",
            "/run/x.sock",
            "%2Frun",
            "[::1]:1,[::2]:2",
            "#initially=[x]",
            "a b",
        ];
        let plain = ["localhost:2379", "10.0.0.1", "[::1]:2379", "a-b.example_1:1"];
        pseudo.push((":authority", if is_odd { pick(rng, &odd) } else { pick(rng, &plain) }.into()));
    }
    // In any order.
    for at in (1..pseudo.len()).rev() {
        pseudo.swap(at, rng.random_range(0..=at));
    }
    let mut fields: Fields =
        pseudo.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes())).collect();
    if is_odd && rng.random_bool(0.1) {
        fields.insert(0, (b":protocol".to_vec(), b"x".to_vec()));
    }
    if is_odd && rng.random_bool(0.1) {
        let twice = fields[rng.random_range(0..fields.len())].clone();
        fields.insert(0, twice);
        is_refused = true;
    }
    if is_odd && rng.random_bool(0.05) {
        fields.push((b":foo".to_vec(), b"x".to_vec()));
        is_refused = true;
    }
    let mut regular = Fields::new();
    let mut hosts = 0;
    for _ in 0..rng.random_range(0..6) {
        let number = rng.random_range(0..40);
        let (name, value): (&str, String) = match rng.random_range(0..if is_odd { 17 } else { 8 }) {
            // Most calls show one credential; there are a few of them.
            0 => ("token", "abcdefgh.".repeat(1 + number % 7)),
            1 => ("authorization", format!("Bearer {}", number % 3)),
            2 => ("user-agent", "grpc-go/1.71.1".into()),
            3 => ("content-type", "application/grpc".into()),
            4 => ("te", "trailers".into()),
            5 => ("grpc-timeout", format!("{number}m")),
            6 => ("token", "t".repeat(100 * number)),
            7 => ("x-ü".split('ü').next().unwrap(), format!("{number}\tü ")),
            8 => ("te", "gzip".into()),
            9 => ("keep-alive", format!("{number}")),
            10 => ("content-length", format!("{number}")),
            11 => ("transfer-encoding", "".into()),
            12 => ("host", format!("{number}")),
            13 if number < 8 => ("connection", "close".into()),
            14 if number < 8 => ("Upper", "x".into()),
            15 if number < 8 => ("nul", "a\0b".into()),
            16 if number < 2 => ("large", "x".repeat(BYTES_MAX)),
            _ => ("upgrade", "h2c".into()),
        };
        hosts += usize::from(name == "host");
        is_refused |= matches!(name, "connection" | "Upper" | "nul" | "large") || 1 < hosts;
        let field = (name.as_bytes().to_vec(), value.into_bytes());
        let passes = !matches!(
            name,
            "te" | "user-agent" | "keep-alive" | "content-length" | "transfer-encoding" | "upgrade"
        );
        if passes {
            regular.push(field.clone());
        }
        fields.push(field);
    }
    let what = (!is_refused).then(|| (method.into(), path.into(), regular));
    (fields, Meant { stream, what })
}

/// The frames of a block, cut and padded as they may be.
fn frames(rng: &mut StdRng, stream: u32, end_stream: u8, block: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut flags = end_stream;
    let padding = if rng.random_bool(0.1) { rng.random_range(0..20) } else { 0 };
    if 0 < padding {
        flags |= PADDED;
        payload.push(padding);
    }
    if rng.random_bool(0.1) {
        flags |= PRIORITY;
        // Now and then on itself.
        payload.extend_from_slice(&[
            0,
            0,
            0,
            if rng.random_bool(0.5) { stream.to_le_bytes()[0] } else { 0 },
            7,
        ]);
    }
    let largest = FRAME_BYTES_MAX - 64;
    let least = block.len().div_ceil(largest);
    let cuts = if rng.random_bool(0.8) { least.max(1) } else { least + rng.random_range(1..4) };
    let size = block.len().div_ceil(cuts).max(1);
    let mut pieces: Vec<&[u8]> = block.chunks(size).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let last = pieces.len() - 1;
    payload.extend_from_slice(pieces[0]);
    payload.resize(payload.len() + usize::from(padding), 0);
    let end = |at: usize| if at == last { END_HEADERS } else { 0 };
    let mut out = frame(HEADERS, flags | end(0), stream, &payload);
    for (at, piece) in pieces.iter().enumerate().skip(1) {
        out.extend(frame(CONTINUATION, end(at), stream, piece));
    }
    out
}

/// Frames without what means nothing: padding, priority, and where a block is cut.
fn normal(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames: Vec<(u8, u8, u32, Vec<u8>)> = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        bytes = rest;
        let (kind, mut flags) = (head[3], head[4]);
        // But for the bit that is reserved.
        let stream = u32::from_be_bytes(*head.last_chunk().unwrap()) & 0x7fff_ffff;
        let mut payload = payload.to_vec();
        if kind == HEADERS {
            let padded = usize::from(flags & PADDED != 0);
            let start = padded + if flags & PRIORITY != 0 { 5 } else { 0 };
            let padding =
                if padded == 1 { payload.first().map_or(0, |padding| usize::from(*padding)) } else { 0 };
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

/// Passes `bytes` in pieces of at most `largest`.
fn pass_all(gate: &mut Gate, rng: &mut StdRng, bytes: &[u8], largest: usize) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let end = bytes.len().min(at + rng.random_range(1..=largest));
        at += gate.pass(&bytes[at..end], &mut |passed| out.extend_from_slice(passed));
        assert!(gate.held_bytes() <= 2 * (BYTES_MAX + 2 * FRAME_BYTES_MAX), "{}", gate.held_bytes());
    }
    out
}

/// Has the decoder read what was passed, and takes the notes.
async fn read(gate: &mut Gate, passed: &[u8], requests: usize) -> Vec<Meant> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let passed = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], passed].concat();
    let client = tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(&mut client);
        let write = async {
            to.write_all(&passed).await.unwrap();
            std::future::pending::<()>().await;
        };
        let read = async {
            let mut sink = Vec::new();
            drop(from.read_to_end(&mut sink).await);
        };
        tokio::select! { () = write => {}, () = read => {} }
    });
    let mut connection = h2::server::Builder::new().handshake::<_, bytes::Bytes>(server).await.unwrap();
    let mut came = Vec::new();
    while came.len() < requests {
        let (request, responder) = connection.accept().await.expect("another request").unwrap();
        let stream = responder.stream_id().as_u32();
        let Aside { note, credential } = gate.take_aside(stream);
        let note = note.unwrap_or_default();
        let fields = request.headers().iter();
        let mut fields: Fields = fields
            .filter(|(name, _)| *name != "te" && *name != "user-agent")
            .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        fields.extend(credential.map(|shown| (shown.name.to_vec(), shown.value.to_vec())));
        let method = note.method.unwrap_or_else(|| request.method().to_string());
        let path = note.path.unwrap_or_else(|| request.uri().path().to_string());
        let what = note.refusal.is_none().then_some((method, path, fields));
        came.push(Meant { stream, what });
    }
    client.abort();
    came
}

fn sorted(mut meant: Vec<Meant>) -> Vec<Meant> {
    // The decoder's map does not keep the order of different names.
    meant.iter_mut().for_each(|meant| {
        if let Some((.., fields)) = &mut meant.what {
            fields.sort();
        }
    });
    meant
}

#[test]
fn decoder_reads_what_clients_mean_in_every_form_of_hpack_and_cut_anywhere() {
    let seed = std::env::var_os("PINION_SEED").map_or(9, |s| s.to_str().unwrap().parse().unwrap());
    println!("replay: PINION_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (mut untouched, mut recoded) = (0, 0);
    for round in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed ^ (round << 32));
        let mut encoder = Encoder::new();
        let (mut bytes, mut meant) = (Vec::new(), Vec::new());
        for n in 0..rng.random_range(1..60) {
            let stream = 2 * n + 1;
            // In a third of the rounds nothing is odd.
            let (fields, what) = loop {
                let made = request(&mut rng, stream);
                let plain = made.0.iter().all(|(name, value)| Class::of(name, value).is_plain);
                if round % 3 != 0 || (plain && made.1.what.is_some() && 3 <= made.0.len()) {
                    break made;
                }
            };
            let block = encoder.encode(&mut rng, &fields);
            let has_trailers = rng.random_bool(0.1);
            bytes.extend(frames(&mut rng, stream, if has_trailers { 0 } else { END_STREAM }, &block));
            if has_trailers {
                let trailers = vec![(b"x".to_vec(), b"y".to_vec())];
                let block = encoder.encode(&mut rng, &trailers);
                bytes.extend(frames(&mut rng, stream, END_STREAM, &block));
            }
            if rng.random_bool(0.3) {
                bytes.extend(frame(8, 0, 0, &[0, 0, 0, 1]));
            }
            meant.push(what);
        }
        let largest = [1, 7, 100, 20_000, 1 << 20][usize::try_from(round % 5).unwrap()];
        let spared = [Spared::Nothing, Spared::Unread, Spared::UnreadAndAuthority];
        let spared = spared[usize::try_from(round % 3).unwrap()];
        let mut gate = Gate::new(BYTES_MAX).sparing(spared);
        let passed = pass_all(&mut gate, &mut rng, &bytes, largest);
        assert_eq!(gate.fault(), None, "round {round}");
        let count = meant.len();
        let came = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, read(&mut gate, &passed, count)).await.expect("in time")
        });
        for (came, meant) in sorted(came).iter().zip(&sorted(meant)) {
            assert_eq!(came, meant, "round {round}");
        }
        if normal(&passed) == normal(&bytes) {
            untouched += 1
        } else {
            recoded += 1
        }
        // What has passed once passes as it is.
        let mut again = Gate::new(BYTES_MAX);
        let twice = pass_all(&mut again, &mut rng, &passed, largest);
        assert!(normal(&twice) == normal(&passed), "round {round}");
    }
    assert!(5 < untouched && 20 < recoded, "{untouched} connections untouched, {recoded} not");
}

#[test]
fn hostile_bytes_give_the_same_however_they_are_cut_and_are_not_held() {
    let seed = std::env::var_os("PINION_SEED").map_or(11, |s| s.to_str().unwrap().parse().unwrap());
    println!("replay: PINION_SEED={seed}");
    for round in 0..400_u64 {
        let mut rng = StdRng::seed_from_u64(seed ^ (round << 32));
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new();
        for n in 0..rng.random_range(1..8) {
            let (fields, _) = request(&mut rng, 2 * n + 1);
            let block = encoder.encode(&mut rng, &fields);
            bytes.extend(frames(&mut rng, 2 * n + 1, 0, &block));
        }
        for _ in 0..rng.random_range(0..6) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let mut whole = Gate::new(BYTES_MAX).sparing(Spared::UnreadAndAuthority);
        let expected = pass_all(&mut whole, &mut rng, &bytes, usize::MAX / 2);
        let mut cut = Gate::new(BYTES_MAX).sparing(Spared::UnreadAndAuthority);
        let passed = pass_all(&mut cut, &mut rng, &bytes, 9);
        assert_eq!(cut.fault(), whole.fault(), "round {round}");
        if cut.fault().is_none() && !cut.is_inside_block() {
            assert!(normal(&passed) == normal(&expected), "round {round}");
        }
    }
}

/// Passes whole requests' blocks, one a stream, and gives the blocks that come out.
fn blocks(gate: &mut Gate, blocks: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut passed = Vec::new();
    for block in blocks {
        let stream = (gate.last_stream_for_tests() + 1) | 1;
        let bytes = frame(HEADERS, END_HEADERS, stream, block);
        let mut out = Vec::new();
        gate.pass(&bytes, &mut |piece| out.extend_from_slice(piece));
        passed.push(out.split_off(9.min(out.len())));
    }
    passed
}

fn call(more: &[u8]) -> Vec<u8> {
    [b"\x83\x86\x84", more].concat()
}

#[test]
fn client_whose_odd_block_leaves_the_table_alone_is_not_recoded_from_then_on() {
    let mut gate = Gate::new(BYTES_MAX);
    let kept = call(&literal(0x40, b"a", b"b"));
    let odd = call(&literal(0x10, b"te", b"gzip"));
    let named = call(&[0xbe]);
    let out = blocks(&mut gate, &[kept.clone(), odd, named.clone()]);
    assert_eq!(out, [kept.clone(), call_recoded(&[]), named.clone()]);
    // An odd one that inserts something: the table behind is not the client's any more.
    let odd_kept = call(&literal(0x40, b"te", b"gzip"));
    let out = blocks(&mut gate, &[odd_kept, call(&[0xbe]), call(&[0xbf]), kept]);
    let recoded = call_recoded(&literal(0, b"a", b"b"));
    assert_eq!(out, [call_recoded(&[]), call_recoded(&[]), recoded.clone(), recoded]);
}

/// As the gate writes it: the path spelled out.
fn call_recoded(more: &[u8]) -> Vec<u8> {
    [b"\x83\x86\x04\x01/", more].concat()
}

#[test]
fn broken_hpack_is_a_fault_and_nothing_passes_behind_it() {
    let broken: [&[u8]; 10] = [
        b"\x80",
        b"\xbe",
        b"\xff\xff\xff\xff\xff\x01",
        b"\x83\x20",
        b"\x3f\xe2\x1f",
        b"\x00\x03ab",
        b"\x00\x01a\x81\x00",
        b"\x00\x01a\x84\xff\xff\xff\xff",
        b"\x40",
        b"\x7f\x00\x01a",
    ];
    for block in broken {
        for cut in [1, usize::MAX / 2] {
            let mut gate = Gate::new(BYTES_MAX);
            let ping = frame(6, 0, 0, &[0; 8]);
            let bytes = [ping.clone(), frame(HEADERS, END_HEADERS, 1, block), ping.clone()].concat();
            let passed = pass_all(&mut gate, &mut StdRng::seed_from_u64(1), &bytes, cut);
            assert_eq!(gate.fault(), Some(Fault::Compression), "{block:x?}");
            assert_eq!(passed, ping, "{block:x?}");
        }
    }
}

#[test]
fn too_large_blocks_are_followed_to_their_end_in_little_memory() {
    let mut gate = Gate::new(BYTES_MAX);
    let mut rng = StdRng::seed_from_u64(3);
    // Something in the table, then 1 MiB of which one field alone is 600 kB, then what the table holds.
    let mut large = literal(0x40, b"k", b"v");
    large.extend(literal(0x00, b"token", &vec![b'x'; 600_000]));
    large.extend(literal(0x00, b"other", &vec![b'y'; 400_000]));
    let pieces: Vec<&[u8]> = large.chunks(FRAME_BYTES_MAX).collect();
    let mut bytes = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let (kind, start) = if at == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        let end = if at + 1 == pieces.len() { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, start | end, 1, piece));
    }
    let passed = pass_all(&mut gate, &mut rng, &bytes, 5_000);
    assert_eq!(passed, frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x86\x84"));
    let refusal = gate.take_note(1).unwrap().refusal.unwrap();
    assert_eq!(refusal.code, Code::ResourceExhausted);
    let next = frame(HEADERS, END_HEADERS, 3, &call(&[0xbe]));
    let passed = pass_all(&mut gate, &mut rng, &next, 5_000);
    assert_eq!(passed[9..], call_recoded(&literal(0, b"k", b"v")));
    // A kept field that is larger than the table empties it.
    let mut gate = Gate::new(BYTES_MAX);
    let large = [literal(0x40, b"k", b"v"), literal(0x40, b"token", &vec![b'x'; 100_000])].concat();
    for (at, piece) in large.chunks(FRAME_BYTES_MAX).enumerate() {
        let is_last = at == large.len() / FRAME_BYTES_MAX;
        let kind = if at == 0 { HEADERS } else { CONTINUATION };
        let bytes = frame(kind, if is_last { END_HEADERS } else { 0 }, 1, piece);
        pass_all(&mut gate, &mut rng, &bytes, 5_000);
    }
    assert_eq!(gate.fault(), None);
    pass_all(&mut gate, &mut rng, &frame(HEADERS, END_HEADERS, 3, &call(&[0xbe])), 5_000);
    assert_eq!(gate.fault(), Some(Fault::Compression));
}

#[test]
fn headers_without_end_are_a_flood_by_their_bytes_and_by_their_frames() {
    for (piece, frames_max) in
        [(literal(0, b"x", &[b'y'; 1000]), 20), (Vec::new(), 20), (vec![b'x'; FRAME_BYTES_MAX], 1025)]
    {
        let mut gate = Gate::new(BYTES_MAX);
        let mut rng = StdRng::seed_from_u64(3);
        let start = [&b"\x00\x01x\x7f\x80\x80\x80\x0f"[..]].concat();
        let start = if piece.len() == FRAME_BYTES_MAX { start } else { Vec::new() };
        pass_all(&mut gate, &mut rng, &frame(HEADERS, 0, 1, &start), 100_000);
        let mut sent = 0;
        while gate.fault().is_none() {
            pass_all(&mut gate, &mut rng, &frame(CONTINUATION, 0, 1, &piece), 100_000);
            sent += 1;
            assert!(sent <= frames_max, "{} bytes a frame", piece.len());
        }
        assert_eq!(gate.fault(), Some(Fault::Flood));
    }
}

#[test]
fn bomb_of_table_entries_is_refused_and_a_large_one_is_a_flood() {
    let entry = literal(0x40, b"bomb", &[b'a'; 4_000]);
    let refused = call(&[&entry[..], &[0xbe; 100]].concat());
    let mut gate = Gate::new(BYTES_MAX);
    assert_eq!(blocks(&mut gate, &[refused])[0], b"\x82\x86\x84");
    let flood = call(&[&entry[..], &[0xbe; 10_000]].concat());
    assert!(blocks(&mut gate, &[flood])[0].is_empty());
    assert_eq!(gate.fault(), Some(Fault::Flood));
}

#[test]
fn blocks_of_few_bytes_that_mean_many_pass_in_portions() {
    let mut gate = Gate::new(BYTES_MAX);
    let entry = call(&[literal(0x40, b"bomb", &[b'a'; 4_000]), literal(0, b"te", b"x")].concat());
    blocks(&mut gate, &[entry]);
    let mut bytes = Vec::new();
    for n in 10..200 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &call(&[0xbe; 15])));
    }
    let (mut at, mut portions) = (0, 0);
    while at < bytes.len() {
        let mut passed = 0;
        at += gate.pass(&bytes[at..], &mut |piece| passed += piece.len());
        assert!(passed <= 2 * BYTES_MAX + 2 * FRAME_BYTES_MAX, "{passed} at once");
        portions += 1;
    }
    // Of two blocks each.
    assert_eq!(portions, 95);
}

#[test]
fn what_counts_as_plain_is_taken_by_the_decoders_own_parsers() {
    for byte in 0..=255_u8 {
        let name = [b'x', byte];
        let is_name = Class::of(&name, b"").kind != Kind::BadName;
        // A quotation mark passes there, too.
        assert_eq!(is_name || byte == b'"', http::HeaderName::from_lowercase(&name).is_ok(), "{byte}");
        let value = [b'x', byte, b'x'];
        let is_value = Class::of(b"x", &value).kind != Kind::BadValue;
        assert_eq!(is_value, http::HeaderValue::from_bytes(&value).is_ok(), "{byte}");
    }
    let mut rng = StdRng::seed_from_u64(5);
    let (mut paths, mut authorities) = (0, 0);
    for _ in 0..200_000 {
        let alphabet = b"ab1:.[]/-_%@,#? ~\xc3F9";
        let text: Vec<u8> =
            (0..rng.random_range(0..9)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect();
        if Class::of(b":path", &text).is_plain {
            paths += 1;
            let parsed =
                http::uri::PathAndQuery::from_maybe_shared(bytes::Bytes::copy_from_slice(&text)).unwrap();
            assert_eq!(parsed.as_str().as_bytes(), text);
        }
        if Class::of(b":authority", &text).is_plain {
            authorities += 1;
            http::uri::Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(&text))
                .unwrap_or_else(|why| panic!("{:?}: {why}", String::from_utf8_lossy(&text)));
        }
    }
    assert!(1_000 < paths && 1_000 < authorities, "{paths}, {authorities}");
}

/// What the gate keeps aside of the calls so far, by stream.
fn credentials(gate: &mut Gate, streams: std::ops::RangeInclusive<u32>) -> Vec<String> {
    let shown = |aside: Aside| {
        aside.credential.map_or_else(String::new, |shown| String::from_utf8_lossy(&shown.value).into_owned())
    };
    streams.step_by(2).map(|stream| shown(gate.take_aside(stream))).collect()
}

#[test]
fn fields_named_by_an_index_that_nobody_reads_do_not_reach_the_decoder() {
    let kept = [
        literal(0x40, b"te", b"trailers"),
        literal(0x40, b"user-agent", b"grpc-go/1.71.1"),
        literal(0x40, b"content-type", b"application/grpc"),
        literal(0x40, b":authority", b"localhost"),
    ];
    // Authority first, as it has to be.
    let first = [&b"\x83\x86\x84"[..], &kept[3], &kept[2], &kept[1], &kept[0]].concat();
    let next = b"\x83\x86\x84\xc1\xc0\xbf\xbe".to_vec();
    for (spared, passes) in [
        (Spared::Nothing, &b"\x83\x86\x84\xc1\xc0\xbf\xbe"[..]),
        (Spared::Unread, b"\x83\x86\x84\xc1\xc0"),
        (Spared::UnreadAndAuthority, b"\x83\x86\x84\xc0"),
    ] {
        let mut gate = Gate::new(BYTES_MAX).sparing(spared);
        let out = blocks(&mut gate, &[first.clone(), next.clone(), next.clone()]);
        assert_eq!(out, [&first[..], passes, passes], "{spared:?}");
    }
}

#[test]
fn credential_shown_again_by_index_is_told_for_each_stream_and_not_passed() {
    let mut gate = Gate::new(BYTES_MAX).sparing(Spared::Unread);
    let bob = call(&literal(0x40, b"authorization", b"bob.2"));
    let alice = call(&literal(0x40, b"token", b"alice.1"));
    let (by_alice, by_bob, both) = (call(b"\xbe"), call(b"\xbf"), call(b"\xbe\xbf"));
    let sent = [&bob, &alice, &by_alice, &by_alice, &by_bob, &both, &call(b""), &by_bob].map(Clone::clone);
    let out = blocks(&mut gate, &sent);
    let bare = call(b"");
    // The first time a field is spelled out, and of two it is the call that has to choose.
    assert_eq!(out, [&bob, &alice, &bare, &bare, &bare, &both, &bare, &bare].map(Clone::clone));
    let shown = credentials(&mut gate, 1..=15);
    assert_eq!(shown, ["", "", "alice.1", "alice.1", "bob.2", "", "", "bob.2"]);
    // The same texts from another place of the table are another credential, and the table's changes stay in step.
    let out = blocks(&mut gate, &[alice.clone(), call(b"\xbe"), call(b"\xbf")]);
    assert_eq!(out, [&alice, &bare, &bare].map(Clone::clone));
    assert_eq!(credentials(&mut gate, 17..=21), ["", "alice.1", "alice.1"]);
}

#[test]
fn credentials_that_wait_for_their_requests_are_few_and_the_others_reach_the_decoder() {
    let mut gate = Gate::new(BYTES_MAX).sparing(Spared::Unread);
    let tokens: Vec<_> = (0..9).map(|n| literal(0x40, b"token", format!("user{n}").as_bytes())).collect();
    blocks(&mut gate, &tokens.iter().map(|token| call(token)).collect::<Vec<_>>());
    let calls: Vec<_> = (0..9).map(|n| call(&[0xbe + n])).collect();
    let out = blocks(&mut gate, &calls);
    let left_out = out.iter().filter(|block| **block == call(b"")).count();
    assert_eq!(left_out, 4, "{out:x?}");
    let shown = credentials(&mut gate, 19..=35);
    assert_eq!(shown, ["user8", "user7", "user6", "user5", "", "", "", "", ""]);
    let long = call(&literal(0x40, b"token", &[b't'; 3_000]));
    let out = blocks(&mut gate, &[long.clone(), call(b"\xbe")]);
    assert_eq!(out, [long, call(b"\xbe")], "too long to be kept aside");
    // A call whose token is evicted by its own fields is still its own.
    let evicting = call(&[&[0xbe][..], &literal(0x40, b"x", &[b'x'; 3_900])].concat());
    let short = call(&literal(0x40, b"token", b"short"));
    blocks(&mut gate, &[short, evicting]);
    assert_eq!(credentials(&mut gate, 41..=43), ["", "short"]);
}

#[test]
fn honest_connection_costs_little_memory() {
    let mut gate = Gate::new(BYTES_MAX).sparing(Spared::Unread);
    let first = [
        call(&literal(0x40, b"content-type", b"application/grpc")),
        literal(0x40, b"te", b"trailers"),
        literal(0x40, b"user-agent", b"grpc-go/1.71.1"),
        literal(0x40, b"grpc-timeout", b"1S"),
    ]
    .concat();
    blocks(&mut gate, &[first]);
    for n in 0..10_000_u32 {
        let timeout = format!("{n}u");
        let block = call(&[&[0xc0, 0xbf][..], &literal(0x40, b"grpc-timeout", timeout.as_bytes())].concat());
        // Its table's entries move away.
        blocks(&mut gate, &[block]);
        assert!(gate.bytes_for_tests() < 40_000, "{}", gate.bytes_for_tests());
    }
}
