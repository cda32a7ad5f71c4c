//! Checkpoints out of a stranger's hands.
//!
//! Claims, for any bytes: `apply::Restore` and `checkpoint::format::Decoder` answer, holding no more
//! than a multiple of what they were fed. A stream that is accepted makes a machine whose invariants
//! hold, which goes on working, and whose own checkpoint restores to the same state again. Frames
//! that are accepted are the very bytes that `Encoder` writes for them. What was not damaged is
//! accepted, wherever it is cut.

use arbitrary::Unstructured;
use pinion::apply::{Machine, Restore, RestoreError};
use pinion::checkpoint::format::{Decoder, Encoder, FRAME_BYTES_MAX, FormatError, Frame, Header};
use pinion::pb::etcdserverpb as pb;
use pinion::request::RequestKind;
use pinion::types::{ClusterId, KeyRange, LogIndex, MemberId, Term};
use prost::Message as _;

use crate::message::{self, KINDS};
use crate::requests::{self, AT, ignore, machine, request, stream};
use crate::{below, memory, one_in};

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => drop(restore(rest, 1 + usize::from(rest.first().copied().unwrap_or(0))).map(exercise)),
        1 => drop(frames(rest)),
        2 => damaged_frames(&mut Unstructured::new(rest)),
        _ => damaged_stream(&mut Unstructured::new(rest)),
    }
}

/// Feeds a stream in pieces of `piece` bytes.
fn restore(stream: &[u8], piece: usize) -> Result<Machine, RestoreError> {
    // A store of one record has a segment of 256 KiB and a tree with a page or two; beyond that each
    // byte costs a few.
    memory::bounded((2 << 20) + 64 * stream.len(), || {
        let mut restore = Restore::new();
        for piece in stream.chunks(piece) {
            restore.feed(piece)?;
        }
        restore.finish()
    })
}

/// Uses a machine the way its owner would: whatever was let in must not trip an assertion.
fn exercise(mut machine: Machine) {
    machine.store().check_invariants();
    let first = stream(&mut machine, 100);
    let mut twin = restore(&first, 1_000).expect("the machine's own stream");
    assert_eq!(stream(&mut twin, 100), first, "a second generation differs");

    for round in 0..40 {
        let put = pb::PutRequest {
            key: format!("k{}", round % 9).into(),
            value: "again".into(),
            prev_kv: true,
            ..Default::default()
        };
        ignore(machine.apply(&request(RequestKind::Put, put.encode_to_vec()), AT));
    }
    let delete = pb::DeleteRangeRequest { key: "\0".into(), range_end: "k3".into(), ..Default::default() };
    ignore(machine.apply(&request(RequestKind::DeleteRange, delete.encode_to_vec()), AT));
    let store = machine.store();
    let all = KeyRange::From(b"");
    for at in [store.compact_revision(), store.current_revision() - 30, store.current_revision()] {
        let at = at.max(store.compact_revision());
        assert_eq!(store.scan(all, at).count() as u64, store.count(all, at), "at {at}");
        std::hint::black_box(store.hash_kv(at));
    }
    let revision = store.current_revision() - 5;
    let compact = pb::CompactionRequest { revision, physical: true };
    ignore(machine.apply(&request(RequestKind::Compact, compact.encode_to_vec()), AT));
    while !machine.work_slice(1_000) {}
    machine.store().check_invariants();
}

fn damaged_stream(input: &mut Unstructured<'_>) {
    let mut machine = machine();
    if one_in(input, 3) {
        requests::history().iter().for_each(|request| drop(ignore(machine.apply(request, AT))));
    }
    for _ in 0..below(input, 20) {
        let kind = KINDS[below(input, KINDS.len())];
        let body = message::request_body(input, kind);
        ignore(machine.apply(&request(kind, body), AT));
        machine.work_slice(below(input, 40));
    }
    let slice = 1 + below(input, 300);
    let whole = stream(&mut machine, slice);
    let piece = 1 + below(input, 600);
    let mut twin = restore(&whole, piece).expect("an undamaged stream");
    assert_eq!(stream(&mut twin, slice), whole);

    let mut sections = split(&whole);
    for _ in 0..=below(input, 3) {
        let place = below(input, sections.len());
        match below(input, 8) {
            // The section's length stays true, so that what is inside is looked at.
            0..=4 => message::damage(input, &mut sections[place].1),
            5 => drop(sections.remove(place)),
            6 => sections.insert(place, sections[below(input, sections.len())].clone()),
            _ => sections[place].0 = u8::try_from(below(input, 5)).unwrap_or(0),
        }
        if sections.is_empty() {
            break;
        }
    }
    let mut damaged = join(&sections);
    if one_in(input, 8) {
        message::damage(input, &mut damaged);
    }
    if let Ok(machine) = restore(&damaged, piece) {
        exercise(machine);
    }
}

/// Tags and payloads of a whole stream.
fn split(mut stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut sections = Vec::new();
    while let Some((head, rest)) = stream.split_first_chunk::<6>() {
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let (payload, behind) = rest.split_at(length);
        sections.push((head[0], payload.to_vec()));
        stream = behind;
    }
    sections
}

fn join(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (tag, payload) in sections {
        let length = u32::try_from(payload.len()).expect("a small section");
        stream.extend_from_slice(&[*tag, 1]);
        stream.extend_from_slice(&length.to_le_bytes());
        stream.extend_from_slice(payload);
    }
    stream
}

fn frames(mut bytes: &[u8]) -> Result<(), FormatError> {
    let whole = bytes;
    let mut decoder = Decoder::default();
    let mut encoded = Vec::new();
    let mut encoder = None;
    while !bytes.is_empty() {
        assert_eq!(decoder.offset() as usize, whole.len() - bytes.len());
        let truncated = FormatError::Truncated { offset: decoder.offset() };
        let (head, rest) = bytes.split_first_chunk().ok_or(truncated.clone())?;
        let length = decoder.payload_bytes(*head)?;
        assert!((1..=FRAME_BYTES_MAX as usize).contains(&length));
        let payload = rest.get(..length).ok_or(truncated)?;
        // A header names at most 2 × 1024 members.
        match memory::bounded(64 << 10, || decoder.frame(*head, payload))? {
            Frame::Header(header) => encoder = Some(Encoder::new(&header, &mut encoded)),
            Frame::Block(block) => encoder.as_mut().expect("a header first").block(block, &mut encoded),
            Frame::Trailer => encoder.take().expect("a header first").finish(&mut encoded),
        }
        assert!(encoded == whole[..encoded.len()], "accepted bytes that no encoder writes");
        bytes = &rest[length..];
    }
    decoder.finish()?;
    assert!(encoder.is_none(), "whole without a trailer");
    Ok(())
}

fn damaged_frames(input: &mut Unstructured<'_>) {
    let ids = |input: &mut Unstructured<'_>| -> Vec<MemberId> {
        (0..below(input, 4)).map(|_| MemberId(input.arbitrary().unwrap_or(0))).collect()
    };
    let header = Header {
        cluster: ClusterId(input.arbitrary().unwrap_or(0)),
        member: MemberId(input.arbitrary().unwrap_or(0)),
        index: LogIndex(input.arbitrary().unwrap_or(0)),
        term: Term(input.arbitrary().unwrap_or(0)),
        voters: ids(input),
        learners: ids(input),
    };
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&header, &mut file);
    for _ in 0..below(input, 5) {
        encoder.block(crate::bytes(input, 60), &mut file);
    }
    encoder.finish(&mut file);
    assert_eq!(frames(&file), Ok(()));
    let before = file.clone();
    message::damage(input, &mut file);
    // A CRC-32 misses no run of up to 32 bits, and what is longer one time in 2^32.
    assert!(frames(&file).is_err() || file == before, "damage was not seen");
}
