//! What comes to the peer port.
//!
//! Claims, for any bytes: the frame decoder answers what a reader of the whole stream would, wherever it
//! is cut, sealed or not, and holds no more than a small multiple of what arrived; a Hello, a Welcome and
//! a refusal are read or refused, and what is welcome has a known identity; a raft message that decodes
//! encodes to a message that decodes to the same. A node that is told any sequence of such messages
//! lives, commits in order, and never commits another entry at an index. Nothing panics.

use std::collections::{BTreeMap, VecDeque};

use arbitrary::Unstructured;
use bytes::{Bytes, BytesMut};
use pinion::pb::peer as pb;
use pinion::peer::frame::put_frame;
use pinion::peer::handshake::Acquaintance;
use pinion::peer::{
    FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameKind, Greeting, PREFACE, PeerIdentity, Refusal,
    Seal,
};
use pinion::raft::{CheckpointMeta, Config, EntryKind, Message, Node, Ready, Recovered};
use pinion::types::{ClusterId, FirstBytes, FormatLevel, LogIndex, MemberId, Term};
use prost::Message as _;

use crate::{below, bytes, memory, one_in};

const FRAME_BYTES_MAX: usize = 10_000;

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => frames(rest),
        1 => handshake(rest),
        2 => message(rest),
        _ => node(rest),
    }
}

/// All frames of a stream, and the error at its end, if there is one, by one reading of the whole.
fn read_whole(stream: &[u8], mut seal: Option<u64>) -> (Vec<Frame>, Option<FrameError>) {
    let mut frames = Vec::new();
    let known = stream.len().min(PREFACE.len() - 1);
    if stream[..known] != PREFACE[..known] {
        // Who else it may be is what `hello` holds.
        let stranger = FirstBytes::judge(stream).map(|judged| match judged {
            FirstBytes::Tls => FrameError::Tls,
            FirstBytes::Http1 => FrameError::Http1,
            FirstBytes::Http2 => FrameError::Http2,
            FirstBytes::Ssh | FirstBytes::Unknown => FrameError::Stranger,
        });
        return (frames, stranger);
    }
    let Some((preface, mut rest)) = stream.split_at_checked(PREFACE.len()) else { return (frames, None) };
    if preface[7] != PREFACE[7] {
        return (frames, Some(FrameError::Version(preface[7])));
    }
    while let Some((header, behind)) = rest.split_at_checked(FRAME_HEADER_BYTES) {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let mut covered = header[..12].to_vec();
        if let Some(number) = &mut seal {
            covered.extend([7_u64, 8, *number].iter().flat_map(|word| word.to_le_bytes()));
            *number += 1;
        }
        let error = if crc32fast::hash(&covered) != word(12) {
            if seal.is_some() { FrameError::Seal } else { FrameError::HeaderChecksum }
        } else if header[5..8] != [0; 3] {
            FrameError::Reserved
        } else if !(1..=12).contains(&header[4]) {
            FrameError::Kind(header[4])
        } else if FRAME_BYTES_MAX < word(0) as usize {
            FrameError::TooLarge { length: word(0) as usize, max: FRAME_BYTES_MAX }
        } else {
            let Some((payload, next)) = behind.split_at_checked(word(0) as usize) else { break };
            let kind = kind(header[4]);
            if crc32fast::hash(payload) != word(8) {
                return (frames, Some(FrameError::PayloadChecksum(kind)));
            }
            frames.push(Frame { kind, payload: Bytes::copy_from_slice(payload) });
            rest = next;
            continue;
        };
        return (frames, Some(error));
    }
    (frames, None)
}

fn kind(number: u8) -> FrameKind {
    use FrameKind as K;
    [
        K::Hello,
        K::Welcome,
        K::Refusal,
        K::Goodbye,
        K::RaftMessage,
        K::CallRequest,
        K::CallResponse,
        K::BulkBegin,
        K::BulkAccept,
        K::BulkChunk,
        K::BulkEnd,
        K::BulkDone,
    ][usize::from(number - 1)]
}

/// A stream of frames, as it is or damaged; or any bytes.
fn frames(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let is_sealed = one_in(&mut input, 2);
    let seal = || Seal::pair(7, 8).filter(|_| is_sealed).map(|(dialer, _)| dialer);
    let cuts: Vec<usize> = (0..below(&mut input, 6)).map(|_| below(&mut input, 400)).collect();
    let mut stream = BytesMut::new();
    if !one_in(&mut input, 8) {
        stream.extend_from_slice(&PREFACE);
        let mut sealing = seal();
        for _ in 0..below(&mut input, 6) {
            let start = stream.len();
            let kind = kind(u8::try_from(below(&mut input, 12) + 1).expect("twelve kinds"));
            let payload = bytes(&mut input, 200);
            put_frame(&mut stream, kind, |buffer| buffer.extend_from_slice(payload));
            if let Some(seal) = &mut sealing {
                seal.close(&mut stream[start..]);
            }
            // Sent again, or damaged, with a true checksum or not.
            if one_in(&mut input, 8) {
                let again = stream[start..].to_vec();
                stream.extend_from_slice(&again);
            }
            if one_in(&mut input, 8) {
                let at = start + below(&mut input, stream.len() - start);
                stream[at] ^= 1 << below(&mut input, 8);
                if one_in(&mut input, 2) && !is_sealed {
                    let checksum = crc32fast::hash(&stream[start..start + 12]);
                    stream[start + 12..start + 16].copy_from_slice(&checksum.to_le_bytes());
                }
            }
        }
    }
    stream.extend_from_slice(input.take_rest());
    let stream = stream.freeze();

    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut seen = Vec::new();
    let mut error = None;
    // Frames that were handed out are slices of the buffers they came in.
    memory::bounded(8 * stream.len() + 400_000, || {
        let mut from = 0;
        let mut is_first = true;
        'pieces: for to in cuts.iter().copied().chain([stream.len()]) {
            let to = to.clamp(from, stream.len());
            decoder.push(&stream[from..to]);
            from = to;
            if is_first {
                // The seal is set between frames, here before the first.
                decoder.set_seal(seal());
                is_first = false;
            }
            loop {
                match decoder.take() {
                    Ok(Some(frame)) => seen.push(frame),
                    Ok(None) => break,
                    Err(found) => {
                        error = Some(found);
                        break 'pieces;
                    }
                }
            }
        }
    });
    let whole = read_whole(&stream, is_sealed.then_some(0));
    assert_eq!((seen, error), whole, "{is_sealed}, cut at {cuts:?}");
}

fn handshake(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let own = PeerIdentity {
        cluster: ClusterId(5),
        member: MemberId(1),
        incarnation: 10,
        peer_urls: vec!["http://10.0.0.1:2380".to_owned()],
        format_level_max: FormatLevel(1),
    };
    let small = |input: &mut Unstructured<'_>| below(input, 12) as u64;
    let hello = if one_in(&mut input, 2) {
        Bytes::copy_from_slice(bytes(&mut input, 300))
    } else {
        let hello = pb::Hello {
            version_min: small(&mut input) as u32,
            version_max: small(&mut input) as u32,
            cluster_id: small(&mut input),
            from: small(&mut input),
            to: small(&mut input),
            lane: small(&mut input) as u32,
            incarnation: small(&mut input),
            release: String::from_utf8_lossy(bytes(&mut input, 2_000)).into_owned(),
            peer_urls: (0..below(&mut input, 20)).map(|_| "http://x:1".to_owned()).collect(),
            session: small(&mut input),
            format_level_max: below(&mut input, 3) as u32,
            life: small(&mut input),
            to_life: small(&mut input),
            duplex: one_in(&mut input, 2),
            stream: small(&mut input),
        };
        hello.encode_to_vec().into()
    };
    if let Ok(greeting) = Greeting::read(hello) {
        assert!(greeting.release.len() <= 512 && greeting.from.peer_urls.len() <= 16);
        let known = Acquaintance {
            is_removed: one_in(&mut input, 4),
            incarnation: one_in(&mut input, 2).then(|| small(&mut input)),
            format_level: FormatLevel(below(&mut input, 3) as u32),
        };
        match own.welcome(&greeting, known) {
            Ok(welcome) => {
                let from = &greeting.from;
                assert!(from.member != own.member && !known.is_removed);
                assert!(from.cluster == own.cluster || from.member == MemberId(0));
                assert!(from.member == MemberId(0) || known.format_level <= from.format_level_max);
                assert!(greeting.to == own.member || greeting.to == MemberId(0));
                assert_eq!(welcome.member, own.member.0);
            }
            Err(refusal) => {
                let again = Refusal::from_wire(refusal.to_wire().encode_to_vec().into());
                assert_eq!(again, refusal, "a refusal reads as it was meant");
            }
        }
    }
    let rest = Bytes::copy_from_slice(input.take_rest());
    let refusal = Refusal::from_wire(rest.clone());
    assert!(refusal.reason.len() <= 512);
    drop(own.check_welcome(MemberId(2), FormatLevel(1), rest));
}

fn number(input: &mut Unstructured<'_>) -> u64 {
    match below(input, 16) {
        0 => input.arbitrary().unwrap_or(0),
        1 => (1 << 62) - 1 + below(input, 3) as u64,
        _ => below(input, 9) as u64,
    }
}

/// A message as a member could write it, with numbers that mostly fit one another.
fn wire(input: &mut Unstructured<'_>) -> pb::RaftMessage {
    let index = number(input);
    let term = number(input);
    let mut entries = Vec::new();
    for offset in 1..=below(input, 5) as u64 {
        let is_odd = one_in(input, 10);
        let kind = if one_in(input, 6) { below(input, 4) as u32 } else { 1 };
        entries.push(pb::RaftEntry {
            index: if is_odd { number(input) } else { index.wrapping_add(offset) },
            term: if is_odd { number(input) } else { term.min(4) },
            kind,
            data: Bytes::copy_from_slice(bytes(input, 30)),
        });
    }
    let snapshot = one_in(input, 6).then(|| pb::RaftSnapshot {
        index: number(input),
        term: number(input),
        voters: (0..below(input, 4)).map(|_| number(input)).collect(),
        learners: (0..below(input, 3)).map(|_| number(input)).collect(),
    });
    pb::RaftMessage {
        format: u32::from(!one_in(input, 30)),
        kind: below(input, 16) as u32,
        to: if one_in(input, 30) { number(input) } else { 1 },
        from: 1 + below(input, 4) as u64,
        term,
        log_term: number(input),
        index,
        commit: number(input),
        commit_term: number(input),
        entries,
        snapshot,
        request_snapshot: if one_in(input, 8) { number(input) } else { 0 },
        reject: one_in(input, 4),
        reject_hint: number(input),
        context: Bytes::copy_from_slice(bytes(input, 24)),
        priority: below(input, 3) as i64 - 1,
    }
}

fn encoded(message: &Message) -> Bytes {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer);
    assert_eq!(buffer.len(), message.encoded_bytes());
    buffer.freeze()
}

fn message(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let bytes: Bytes = if one_in(&mut input, 2) {
        Bytes::copy_from_slice(input.take_rest())
    } else {
        wire(&mut input).encode_to_vec().into()
    };
    let length = bytes.len();
    let decoded = memory::bounded(200 * length + 10_000, || Message::decode(bytes));
    if let Ok(message) = decoded {
        let again = Message::decode(encoded(&message)).expect("what was taken is taken again");
        assert_eq!(again, message);
    }
}

/// A node with a disk that does what it should.
struct Member {
    node: Node,
    unsynced: VecDeque<u64>,
    committed: BTreeMap<LogIndex, (Term, Bytes)>,
    last: LogIndex,
}

impl Member {
    fn carry_out(&mut self, ready: Ready) {
        if ready.must_sync {
            self.unsynced.push_back(ready.number);
        }
        if let Some(checkpoint) = &ready.checkpoint {
            assert!(self.last <= checkpoint.index, "a checkpoint takes nothing back");
            self.last = checkpoint.index;
        }
        for entry in ready.committed {
            assert_eq!(entry.index.0, self.last.0 + 1, "committed in order");
            self.last = entry.index;
            let known = self.committed.insert(entry.index, (entry.term, entry.data.clone()));
            assert!(known.is_none(), "committed once");
            if entry.kind == EntryKind::ConfChange {
                drop(self.node.on_conf_change(entry.index, entry.data.len() % 2 == 0));
            }
            self.node.on_applied(entry.index);
        }
    }
}

fn node(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let checkpoint = match below(&mut input, 3) {
        0 => CheckpointMeta::joining(),
        1 => CheckpointMeta::bootstrap([MemberId(1)]),
        _ => CheckpointMeta::bootstrap([MemberId(1), MemberId(2), MemberId(3)]),
    };
    let last = checkpoint.index;
    let recovered = Recovered { hard_state: None, checkpoint, replayed: None, entries: Vec::new() };
    let node = Node::new(&Config::new(MemberId(1), 7), recovered).expect("a fresh log adds up");
    let mut member = Member { node, unsynced: VecDeque::new(), committed: BTreeMap::new(), last };
    while !input.is_empty() {
        match below(&mut input, 12) {
            0 => member.node.tick(),
            1 => drop(member.node.propose(Bytes::from_static(b"mine"))),
            2 => drop(member.node.read_index(below(&mut input, 5) as u64)),
            3 => {
                if let Some(number) = member.unsynced.pop_front() {
                    member.node.on_durable(number);
                }
            }
            4 | 5 => {
                if let Some(ready) = member.node.take_ready() {
                    member.carry_out(ready);
                }
            }
            6 => member.node.forget_leader(MemberId(1 + below(&mut input, 4) as u64)),
            7 => member.node.on_unreachable(MemberId(1 + below(&mut input, 4) as u64)),
            _ => {
                let wire = wire(&mut input);
                if let Ok(message) = Message::decode(wire.encode_to_vec().into()) {
                    drop(member.node.step(message));
                }
            }
        }
    }
}
