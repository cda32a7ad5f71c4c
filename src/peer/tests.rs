//! The conversation's bytes under every cut and flip, and its rules one by one.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::frame::{put_frame, put_message};
use super::handshake::{Acquaintance, VERSION_MAX};
use super::*;
use crate::pb::peer as pb;
use crate::raft::MessageKind;
use crate::types::{ClusterId, FormatLevel, MemberId};

const BYTES_MAX: usize = 4096;

fn stream(payloads: &[&[u8]]) -> Vec<u8> {
    let mut buffer = BytesMut::from(&PREFACE[..]);
    for payload in payloads {
        put_frame(&mut buffer, FrameKind::RaftMessage, |buffer| buffer.extend_from_slice(payload));
    }
    buffer.to_vec()
}

/// All frames of `bytes`, which arrive in pieces of `step`.
fn decode(bytes: &[u8], step: usize) -> Result<(Vec<Frame>, FrameDecoder), FrameError> {
    let mut decoder = FrameDecoder::new(BYTES_MAX);
    let mut frames = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        while let Some(frame) = decoder.take()? {
            frames.push(frame);
        }
    }
    Ok((frames, decoder))
}

/// Fixed, so that a failure repeats; another one by `PINION_SEED`.
#[expect(clippy::disallowed_methods, reason = "a test is repeated from outside")]
fn seed() -> u64 {
    let seed = std::env::var("PINION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    println!("PINION_SEED={seed}");
    seed
}

#[test]
fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
    let long = vec![7_u8; BYTES_MAX];
    let payloads: [&[u8]; 4] = [b"", b"one", &long, b"last"];
    let bytes = stream(&payloads);
    for step in [1, 2, 7, 15, 16, 17, 1000, bytes.len()] {
        let (frames, decoder) = decode(&bytes, step).unwrap();
        let seen: Vec<&[u8]> = frames.iter().map(|frame| &frame.payload[..]).collect();
        assert_eq!(seen, payloads, "in pieces of {step}");
        assert!(!decoder.is_partial());
    }
}

#[test]
fn a_cut_stream_gives_whole_frames_only_and_knows_that_it_is_cut() {
    let bytes = stream(&[b"first", b"second"]);
    let ends = [PREFACE.len(), PREFACE.len() + 16 + 5, bytes.len()];
    for cut in 0..=bytes.len() {
        let (frames, decoder) = decode(&bytes[..cut], 5).unwrap();
        assert_eq!(frames.len(), ends[1..].iter().filter(|end| **end <= cut).count(), "cut at {cut}");
        assert_eq!(decoder.is_partial(), !ends.contains(&cut), "cut at {cut}");
    }
}

#[test]
fn sealed_frames_count_once_in_order_on_their_connection_and_in_their_direction() {
    let sealed = |hello: u64, welcome: u64, is_dialer: bool| {
        let (dialer, acceptor) = Seal::pair(hello, welcome).unwrap();
        let mut seal = if is_dialer { dialer } else { acceptor };
        let mut frames = Vec::new();
        for payload in [&b"first"[..], b"the second", b""] {
            let mut bytes = BytesMut::new();
            put_frame(&mut bytes, FrameKind::RaftMessage, |buffer| buffer.extend_from_slice(payload));
            seal.close(&mut bytes);
            frames.push(bytes.freeze());
        }
        frames
    };
    // As the acceptor of connection 7, 8 reads them.
    let read = |frames: &[&Bytes]| {
        let mut decoder = FrameDecoder::new(BYTES_MAX);
        decoder.push(&PREFACE);
        assert_eq!(decoder.take(), Ok(None));
        decoder.set_seal(Seal::pair(7, 8).map(|(dialer, _)| dialer));
        frames.iter().for_each(|frame| decoder.push(frame));
        let mut count = 0;
        loop {
            match decoder.take() {
                Ok(Some(_)) => count += 1,
                Ok(None) => return (count, None),
                Err(error) => return (count, Some(error)),
            }
        }
    };
    let right = sealed(7, 8, true);
    let wrong = (0, Some(FrameError::Seal));
    assert_eq!(read(&[&right[0], &right[1], &right[2]]), (3, None));
    assert_eq!(read(&[&right[0], &right[0]]), (1, Some(FrameError::Seal)), "again");
    assert_eq!(read(&[&right[1]]), wrong, "the first is missing");
    assert_eq!(read(&[&right[0], &right[2], &right[1]]), (1, Some(FrameError::Seal)), "overtaken");
    assert_eq!(read(&[&sealed(7, 9, true)[0]]), wrong, "another connection to this acceptor");
    assert_eq!(read(&[&sealed(6, 8, true)[0]]), wrong, "another connection of this dialer");
    assert_eq!(read(&[&sealed(7, 8, false)[0]]), wrong, "the acceptor's own");
    assert_eq!(read(&[&stream(&[b"first"]).split_off(PREFACE.len()).into()]), wrong, "no seal");
    assert!(Seal::pair(0, 8).is_none() && Seal::pair(7, 0).is_none(), "both must name one");
}

#[test]
fn every_flipped_bit_is_an_error_and_no_frame_before_it_is_lost() {
    let bytes = stream(&[b"first", b"the second"]);
    let second = PREFACE.len() + FRAME_HEADER_BYTES + 5;
    for bit in 0..8 * bytes.len() {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let mut decoder = FrameDecoder::new(BYTES_MAX);
        decoder.push(&damaged);
        let mut frames = 0;
        let error = loop {
            match decoder.take() {
                Ok(Some(_)) => frames += 1,
                Ok(None) => panic!("bit {bit} went unnoticed"),
                Err(error) => break error,
            }
        };
        assert_eq!(frames, usize::from(second <= bit / 8), "bit {bit}: {error}");
    }
}

#[test]
fn a_frame_over_the_bound_is_refused_from_its_header() {
    let mut buffer = BytesMut::from(&PREFACE[..]);
    let payload = vec![0; BYTES_MAX + 1];
    put_frame(&mut buffer, FrameKind::CallRequest, |buffer| buffer.extend_from_slice(&payload));
    let error = decode(&buffer[..PREFACE.len() + FRAME_HEADER_BYTES], 3).unwrap_err();
    assert_eq!(error, FrameError::TooLarge { length: BYTES_MAX + 1, max: BYTES_MAX });
}

#[test]
fn memory_for_a_frame_follows_its_bytes_and_not_its_claim() {
    const CLAIM: usize = 1 << 30;
    let mut decoder = FrameDecoder::new(CLAIM);
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&u32::try_from(CLAIM).unwrap().to_le_bytes());
    header[4] = FrameKind::RaftMessage as u8;
    let checksum = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&checksum.to_le_bytes());
    decoder.push(&PREFACE);
    decoder.push(&header);
    assert_eq!(decoder.take(), Ok(None));
    for _piece in 0..64 {
        decoder.push(&[0; 1024]);
        assert_eq!(decoder.take(), Ok(None));
    }
    assert_eq!(decoder.held_bytes(), 64 * 1024);
    assert!(decoder.capacity() <= 256 * 1024, "{} bytes for 64 KiB", decoder.capacity());
}

#[test]
fn strangers_are_told_by_the_byte_that_decides() {
    for stranger in [&b"\0"[..], b"P@", b"SSH-2.0-OpenSSH_9.6\r\n"] {
        assert_eq!(decode(stranger, 1).unwrap_err(), FrameError::Stranger);
    }
    assert_eq!(decode(b"\x16\x03\x01\x02\x00", 1).unwrap_err(), FrameError::Tls);
    for piece in [1, 16] {
        assert_eq!(decode(b"GET / HTTP/1.1\r\n", piece).unwrap_err(), FrameError::Http1);
        assert_eq!(decode(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", piece).unwrap_err(), FrameError::Http2);
    }
    assert_eq!(decode(b"PINION\n\x02", 8).unwrap_err(), FrameError::Version(2));
}

#[test]
fn noise_never_panics_a_reader() {
    let mut random = StdRng::seed_from_u64(seed());
    let hello = identity(1).hello(MemberId(2), Lane::Control).encode_to_vec();
    for _round in 0..20_000 {
        let mut bytes = stream(&[&hello]);
        match random.random_range(0..3) {
            0 => bytes.truncate(random.random_range(0..bytes.len())),
            1 => {
                for _flip in 0..random.random_range(1..8) {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
            _ => {
                bytes = PREFACE.to_vec();
                bytes.extend((0..random.random_range(0..100)).map(|_| random.random::<u8>()));
            }
        }
        drop(decode(&bytes, random.random_range(1..64)));
        let mut payload = hello.clone();
        for _flip in 0..random.random_range(1..6) {
            let at = random.random_range(0..payload.len());
            payload[at] = random.random();
        }
        let payload = Bytes::from(payload);
        drop(Greeting::read(payload.clone()));
        drop(identity(1).check_welcome(MemberId(2), FormatLevel(0), payload.clone()));
        drop(Refusal::from_wire(payload));
    }
}

fn identity(member: u64) -> PeerIdentity {
    PeerIdentity {
        cluster: ClusterId(0xc1),
        member: MemberId(member),
        incarnation: 100,
        peer_urls: vec![format!("http://127.0.0.1:{member}")],
        format_level_max: FormatLevel(1),
    }
}

/// What member 2 makes of the Hello of `from` after `change`.
fn greet(
    from: &PeerIdentity,
    change: impl FnOnce(&mut pb::Hello),
    known: Acquaintance,
) -> Result<u32, Refusal> {
    let mut hello = from.hello(MemberId(2), Lane::Append);
    change(&mut hello);
    let greeting = Greeting::read(hello.encode_to_vec().into())?;
    identity(2).welcome(&greeting, known).map(|welcome| welcome.version)
}

#[test]
fn a_member_of_the_same_cluster_is_welcome_and_finds_the_right_one() {
    assert_eq!(greet(&identity(1), |_| {}, Acquaintance::default()), Ok(VERSION_MAX));
    let greeting =
        Greeting::read(identity(1).hello(MemberId(2), Lane::Append).encode_to_vec().into()).unwrap();
    assert_eq!(greeting.from, identity(1));
    assert_eq!(greeting.lane, Lane::Append);
    let welcome = identity(2).welcome(&greeting, Acquaintance::default()).unwrap();
    let bytes = Bytes::from(welcome.encode_to_vec());
    assert_eq!(
        identity(1).check_welcome(MemberId(2), FormatLevel(0), bytes.clone()).unwrap().incarnation,
        100
    );
    assert_eq!(
        identity(1).check_welcome(MemberId(3), FormatLevel(0), bytes.clone()).unwrap_err().code,
        RefusalCode::WrongRecipient
    );
    let other = PeerIdentity { cluster: ClusterId(0xc2), ..identity(1) };
    assert_eq!(
        other.check_welcome(MemberId(2), FormatLevel(0), bytes).unwrap_err().code,
        RefusalCode::OtherCluster
    );
}

#[test]
fn each_wrong_hello_is_refused_with_its_reason() {
    type Change = fn(&mut pb::Hello);
    let cases: [(Change, RefusalCode, &str); 12] = [
        (|h| h.version_min = 2, RefusalCode::Malformed, "range of versions"),
        (|h| (h.version_min, h.version_max) = (7, 9), RefusalCode::Version, "versions 7 to 9"),
        (|h| h.cluster_id = 0xc2, RefusalCode::OtherCluster, "cluster ID mismatch: c2 is not c1"),
        (|h| h.to = 3, RefusalCode::WrongRecipient, "this is member 2, not 3"),
        (|h| h.from = 2, RefusalCode::OwnConnection, "dialed itself"),
        (|h| (h.from, h.incarnation) = (2, 7), RefusalCode::DuplicateIdentity, "another process"),
        (|h| h.lane = 9, RefusalCode::Malformed, "lane 9"),
        (|h| h.lane = 0, RefusalCode::Malformed, "lane 0"),
        (|h| h.from = 0, RefusalCode::Malformed, "only a member"),
        (|h| h.to = 0, RefusalCode::Malformed, "only a call"),
        (|h| h.cluster_id = 0, RefusalCode::Malformed, "without a cluster"),
        (|h| h.peer_urls = vec![String::new(); 17], RefusalCode::Malformed, "17 peer URLs"),
    ];
    for (change, code, reason) in cases {
        let refusal = greet(&identity(1), change, Acquaintance::default()).unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.reason.contains(reason), "{refusal}");
        let wire = refusal.to_wire().encode_to_vec();
        assert_eq!(Refusal::from_wire(wire.into()), refusal, "what the other side logs is the same");
    }
}

#[test]
fn a_removed_member_and_an_older_process_are_refused() {
    let removed = Acquaintance { is_removed: true, ..Acquaintance::default() };
    assert_eq!(greet(&identity(1), |_| {}, removed).unwrap_err().code, RefusalCode::Removed);
    let known = |incarnation| Acquaintance { incarnation: Some(incarnation), ..Acquaintance::default() };
    assert_eq!(greet(&identity(1), |_| {}, known(101)).unwrap_err().code, RefusalCode::DuplicateIdentity);
    assert!(greet(&identity(1), |_| {}, known(100)).is_ok(), "a further connection of the same process");
    assert!(greet(&identity(1), |_| {}, known(99)).is_ok(), "a restarted process");
}

#[test]
fn a_member_that_does_not_read_what_the_cluster_writes_is_refused_by_whichever_side_knows() {
    let at = |level| Acquaintance { format_level: FormatLevel(level), ..Acquaintance::default() };
    assert!(greet(&identity(1), |_| {}, at(1)).is_ok());
    let refusal = greet(&identity(1), |h| h.release = "0.4.0".to_owned(), at(4)).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::FormatLevel);
    assert_eq!(
        refusal.reason,
        "the cluster writes format level 4, and member 1, of release 0.4.0, reads up to 1. Update that member's \
         binary first, to a later release than 0.4.0; if it is, its --format-level-max is too low"
    );
    // Release 0.1.0 does not know the field.
    let first = |h: &mut pb::Hello| (h.release, h.format_level_max) = ("0.1.0".to_owned(), 0);
    assert!(greet(&identity(1), first, at(0)).is_ok());
    let refusal = greet(&identity(1), first, at(1)).unwrap_err();
    assert!(refusal.reason.contains("of release 0.1.0, reads up to 0"), "{refusal}");
    assert!(refusal.reason.contains("to release 0.2.0 or a later one"), "{refusal}");
    let wire = refusal.to_wire().encode_to_vec();
    assert_eq!(Refusal::from_wire(wire.into()), refusal, "what the other side logs is the same");

    // An acceptor that has not applied the level yet welcomes, and the dialer knows better.
    let greeting =
        Greeting::read(identity(1).hello(MemberId(2), Lane::Append).encode_to_vec().into()).unwrap();
    let accepted = |reads| {
        let acceptor = PeerIdentity { format_level_max: FormatLevel(reads), ..identity(2) };
        let welcome = acceptor.welcome(&greeting, at(0)).unwrap().encode_to_vec();
        identity(1).check_welcome(MemberId(2), FormatLevel(1), welcome.into())
    };
    assert!(accepted(1).is_ok());
    assert_eq!(accepted(0).unwrap_err().code, RefusalCode::FormatLevel);

    // Whoever has no identity yet asks who the members are, and looks at the level itself.
    let nobody = PeerIdentity { cluster: ClusterId(0), member: MemberId(0), ..identity(1) };
    let asks = |h: &mut pb::Hello| (h.lane, h.to, h.format_level_max) = (3, 0, 0);
    assert!(greet(&nobody, asks, at(9)).is_ok());
}

#[test]
fn the_name_of_a_stream_belongs_to_the_stream_lane_alone() {
    let named = |lane: u32| {
        let change = |h: &mut pb::Hello| (h.lane, h.stream) = (lane, 9);
        greet(&identity(1), change, Acquaintance::default())
    };
    assert!(named(4).is_ok());
    for lane in 1..4 {
        assert_eq!(named(lane).unwrap_err().code, RefusalCode::Malformed);
    }
}

#[test]
fn a_process_without_identity_may_call_and_no_more() {
    let nobody = PeerIdentity {
        cluster: ClusterId(0),
        member: MemberId(0),
        incarnation: 1,
        peer_urls: vec![],
        ..identity(1)
    };
    let call = |h: &mut pb::Hello| (h.lane, h.to) = (3, 0);
    assert!(greet(&nobody, call, Acquaintance::default()).is_ok());
    assert!(greet(&nobody, |_| {}, Acquaintance::default()).is_err());
    let other = PeerIdentity { cluster: ClusterId(5), ..nobody };
    assert_eq!(
        greet(&other, call, Acquaintance::default()).unwrap_err().code,
        RefusalCode::OtherCluster,
        "who names a cluster must name this one"
    );
}

#[test]
fn a_text_of_another_process_is_cut_before_it_is_logged() {
    let long = pb::Refusal { code: 2, reason: "ä".repeat(4000) };
    let refusal = Refusal::from_wire(long.encode_to_vec().into());
    assert_eq!(refusal.reason, "ä".repeat(256));
    let unknown = pb::Refusal { code: 99, reason: "later".to_owned() };
    assert_eq!(Refusal::from_wire(unknown.encode_to_vec().into()).code, RefusalCode::Unknown);
}

#[test]
fn every_handshake_fits_before_a_connection_is_trusted() {
    let mut greeter = identity(1);
    greeter.peer_urls = (0..16).map(|n| format!("http://{}:{n}", "h".repeat(253))).collect();
    let mut buffer = BytesMut::new();
    put_message(&mut buffer, FrameKind::Hello, &greeter.hello(MemberId(2), Lane::Bulk));
    assert!(buffer.len() <= HANDSHAKE_BYTES_MAX);
    // However many have moved, and wherever they say that they are.
    let hello = greeter.hello(MemberId(2), Lane::Control).encode_to_vec();
    let greeting = Greeting::read(hello.into()).unwrap();
    for (members, url_bytes) in [(1_u64, 1), (3, 253), (5_000, 0), (5_000, 10), (5_000, 253), (2, 20_000)] {
        let moved = (1..=members).map(|member| (MemberId(member), vec!["u".repeat(url_bytes); 40]));
        let mut welcome = identity(2).welcome(&greeting, Acquaintance::default()).unwrap();
        welcome.release = "r".repeat(512);
        welcome.moved = moved_to_wire(moved);
        let told: Vec<_> = moved_from_wire(&welcome).collect();
        assert!(told.iter().all(|(_, urls)| urls.len() == PEER_URLS_MAX), "{told:?}");
        let has_room = url_bytes < 20_000;
        assert_eq!(told.first().map(|(member, _)| *member), has_room.then_some(MemberId(1)));
        let mut buffer = BytesMut::new();
        put_message(&mut buffer, FrameKind::Welcome, &welcome);
        assert!(buffer.len() <= HANDSHAKE_BYTES_MAX, "{members} of {url_bytes}: {}", buffer.len());
    }
}

#[test]
fn urgent_messages_never_share_a_lane_with_entries() {
    for kind in [MessageKind::Heartbeat, MessageKind::RequestVote, MessageKind::AppendResponse] {
        assert_eq!(lane_of(kind), Lane::Control);
    }
    for kind in [MessageKind::Append, MessageKind::Propose, MessageKind::Snapshot] {
        assert_eq!(lane_of(kind), Lane::Append);
    }
}

#[test]
fn golden_bytes_of_the_handshake_still_mean_the_same() {
    // A member of release 0.1.0, and every other that reads level 0, says this.
    let first = |member| PeerIdentity { format_level_max: FormatLevel(0), ..identity(member) };
    let mut hello = first(1).hello(MemberId(2), Lane::Append);
    hello.release = "0.1.0".to_owned();
    let golden: &[u8] = b"\x08\x01\x10\x01\x19\xc1\x00\x00\x00\x00\x00\x00\x00!\x01\x00\x00\x00\x00\x00\x00\x00)\x02\x00\x00\x00\x00\x00\x00\x000\x029d\x00\x00\x00\x00\x00\x00\x00B\x050.1.0J\x12http://127.0.0.1:1";
    assert_eq!(hello.encode_to_vec(), golden, "another release must be able to refuse this one by name");
    let greeting = Greeting::read(Bytes::from_static(golden)).unwrap();
    assert_eq!((&greeting.from, greeting.to, greeting.lane), (&first(1), MemberId(2), Lane::Append));
    // A later field follows.
    let later = identity(1).hello(MemberId(2), Lane::Append);
    let later = pb::Hello { release: "0.1.0".to_owned(), ..later }.encode_to_vec();
    assert_eq!(later, [golden, b"X\x01"].concat());
    assert_eq!(Greeting::read(later.into()).unwrap().from, identity(1));
    let mut welcome = first(2).welcome(&greeting, Acquaintance::default()).unwrap();
    welcome.release = "0.1.0".to_owned();
    let golden: &[u8] = b"\x08\x01\x11\xc1\x00\x00\x00\x00\x00\x00\x00\x19\x02\x00\x00\x00\x00\x00\x00\x00!d\x00\x00\x00\x00\x00\x00\x00*\x050.1.0";
    assert_eq!(welcome.encode_to_vec(), golden);
    let checked = |payload| identity(1).check_welcome(MemberId(2), FormatLevel(0), payload);
    assert_eq!(checked(Bytes::from_static(golden)), Ok(welcome));
    let later =
        pb::Welcome { format_level_max: 3, format_level: 1, ..checked(Bytes::from_static(golden)).unwrap() };
    assert_eq!(later.encode_to_vec(), [golden, b"8\x03@\x01"].concat());
    let moved = moved_to_wire([(MemberId(3), vec!["http://b".to_owned()])]);
    let later = pb::Welcome { moved, ..checked(Bytes::from_static(golden)).unwrap() };
    let moved = b"Z\x13\x09\x03\x00\x00\x00\x00\x00\x00\x00\x12\x08http://b";
    assert_eq!(later.encode_to_vec(), [golden, moved].concat());
    let refusal = Refusal::new(RefusalCode::Version, "why");
    let golden: &[u8] = b"\x08\x01\x12\x03why";
    assert_eq!(refusal.to_wire().encode_to_vec(), golden);
    assert_eq!(Refusal::from_wire(Bytes::from_static(golden)), refusal);
    // What stands before all of it.
    assert_eq!(&PREFACE, b"PINION\n\x01");
    let mut framed = BytesMut::from(&PREFACE[..]);
    put_frame(&mut framed, FrameKind::Hello, |buffer| buffer.extend_from_slice(b"x"));
    let golden: &[u8] = b"PINION\x0a\x01\x01\x00\x00\x00\x01\x00\x00\x00\x83\x16\xdc\x8c\x91\x09\x1e\x02x";
    assert_eq!(&framed[..], golden);
}

#[test]
fn a_welcome_in_another_version_is_refused_by_the_one_that_dialed() {
    let greeting =
        Greeting::read(identity(1).hello(MemberId(2), Lane::Append).encode_to_vec().into()).unwrap();
    let mut welcome = identity(2).welcome(&greeting, Acquaintance::default()).unwrap();
    for version in [0, VERSION_MAX + 1] {
        welcome.version = version;
        let refusal = identity(1)
            .check_welcome(MemberId(2), FormatLevel(0), welcome.encode_to_vec().into())
            .unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Version);
        assert!(refusal.reason.contains(&format!("version {version} of the peer protocol")), "{refusal}");
    }
}
