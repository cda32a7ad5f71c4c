//! Who and what is refused, and that it harms nobody.

use super::*;
use crate::types::FormatLevel;

#[test]
fn who_is_refused_hears_why_and_both_sides_log_it() {
    run(async || {
        let (lines, _guard) = Lines::listen();
        let b = Node::start(config(2, 200));
        b.transport.set_removed([MemberId(5)]);

        let mut other = config(1, 100);
        other.cluster = ClusterId(0xc2);
        let other = Node::start(other);
        other.peers(&[&b]);
        let refusal = other.refused().await;
        assert_eq!(refusal.code, RefusalCode::OtherCluster);
        assert_eq!(lines.with("cluster ID mismatch: c2 is not c1"), 2, "once on each side");

        let removed = Node::start(config(5, 100));
        removed.peers(&[&b]);
        assert_eq!(removed.refused().await.code, RefusalCode::Removed);
        assert!(2 <= lines.with("member 5 has been removed from the cluster"));

        let wrong = Node::start(config(3, 100));
        wrong.transport.set_peers([(MemberId(9), vec![url(b.address)])]);
        assert_eq!(wrong.refused().await.code, RefusalCode::WrongRecipient);
        assert!(
            2 <= lines.with("this is member 2, not 9: the name or address where 9 is looked for leads here")
        );

        let own = Node::start(config(4, 100));
        own.transport.set_peers([(MemberId(9), vec![url(own.address)])]);
        assert_eq!(own.refused().await.code, RefusalCode::WrongRecipient);
        assert!(2 <= lines.with("this is member 4, not 9"), "it found itself there");
        assert!(!b.transport.has_event(), "nobody got in");
    });
}

#[test]
fn a_member_that_is_removed_loses_its_connections() {
    run(async || {
        let (a, b) = pair().await;
        b.transport.set_removed([MemberId(1)]);
        assert!(!a.down(2).await);
        assert_eq!(a.refused().await.code, RefusalCode::Removed);
        a.transport.send(&heartbeat(1, 2));
        a.until(|event| matches!(event, PeerEvent::Unreachable(_)).then_some(())).await;
        assert_eq!(b.transport.visitors.borrow().len(), 0);
    });
}

#[test]
fn an_older_process_of_a_member_is_refused_and_a_newer_one_takes_over() {
    run(async || {
        let (a, b) = pair().await;
        let older = Node::start(config(1, 99));
        older.peers(&[&b]);
        assert_eq!(older.refused().await.code, RefusalCode::DuplicateIdentity);
        assert!(a.transport.connected_since(MemberId(2)).is_some());
        let newer = Node::start(config(1, 101));
        newer.peers(&[&b]);
        newer.up(2).await;
        assert!(b.down(1).await, "whoever was member 1 has ended");
        assert_eq!(a.refused().await.code, RefusalCode::DuplicateIdentity);
    });
}

/// As a copied data directory does: two processes, each at an address of its own, and each dials.
#[test]
fn of_two_processes_of_one_member_that_are_dialed_and_dial_the_newer_one_alone_is_talked_to() {
    run(async || {
        for newer_first in [false, true] {
            let b = Node::start(config(2, 200));
            let (mut older, mut newer) = (config(1, 100), config(1, 101));
            let free = || std::net::TcpListener::bind(local()).unwrap().local_addr().unwrap();
            let (older_at, newer_at) = (free(), free());
            (older.peer_urls, newer.peer_urls) = (vec![url(older_at)], vec![url(newer_at)]);
            let (older, newer) = if newer_first {
                let newer = Node::start_at(newer, newer_at);
                newer.peers(&[&b]);
                newer.up(2).await;
                (Node::start_at(older, older_at), newer)
            } else {
                let older = Node::start_at(older, older_at);
                older.peers(&[&b]);
                b.peers(&[&older]);
                older.up(2).await;
                b.up(1).await;
                let newer = Node::start_at(newer, newer_at);
                newer.peers(&[&b]);
                newer.up(2).await;
                (older, newer)
            };
            // The list has the older one's address still.
            b.peers(&[&older]);
            older.peers(&[&b]);
            assert_eq!(older.refused().await.code, RefusalCode::DuplicateIdentity);
            let peer = b.transport.peer(MemberId(1)).unwrap();
            while peer.incarnation() != Some(101) {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            for index in 1..=3 {
                while !b.transport.send(&append(2, 1, index, 10)) {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
                assert_eq!(newer.message().await, append(2, 1, index, 10));
            }
            while let Some(event) = older.transport.take_event() {
                assert!(!matches!(event, PeerEvent::Message(_)), "{event:?}");
            }
        }
    });
}

#[test]
fn a_member_that_does_not_say_its_life_or_says_a_forged_one_is_refused_once_it_was_met() {
    run(async || {
        let (lines, _guard) = Lines::listen();
        let mut met = config(2, 200);
        met.lives = Lives { own: 20, known: [(MemberId(1), 10)].into() };
        let b = Node::start(met);
        let ask = async |change: fn(&mut pb::Hello)| {
            let mut puppet = Puppet::dial(b.address).await;
            puppet.hello_with(1, 2, Lane::Control, change).await;
            let frame = puppet.frame().await.unwrap();
            (frame.kind == FrameKind::Refusal).then(|| Refusal::from_wire(frame.payload))
        };
        let missing = ask(|_hello| ()).await.unwrap();
        assert_eq!(missing.code, RefusalCode::OtherLife);
        assert!(missing.reason.contains("does not say which life it is in"), "{missing}");
        let forged = ask(|hello| hello.life = 11).await.unwrap();
        assert!(forged.reason.contains("member 1 has begun anew"), "{forged}");
        let other = ask(|hello| (hello.life, hello.to_life) = (10, 21)).await.unwrap();
        assert!(other.reason.contains("member 2 has begun anew"), "{other}");
        for _again in 0..5 {
            assert_eq!(ask(|_hello| ()).await.unwrap(), missing);
        }
        assert_eq!(lines.with("peer connection refused"), 1, "once, with the count of those that follow");
        assert_eq!(ask(|hello| hello.life = 10).await, None);
        assert_eq!(ask(|hello| hello.format_level_max = 0).await, None, "a release without lives");
    });
}

#[test]
fn garbage_on_the_peer_port_is_closed_logged_once_in_a_while_and_harms_nobody() {
    run(async || {
        let (lines, _guard) = Lines::listen();
        let b = Node::start(config(2, 200));
        let mut hello = BytesMut::from(&PREFACE[..]);
        put_message(&mut hello, FrameKind::Hello, &pb::Hello::default());
        let mut flipped = hello.clone();
        flipped[20] ^= 1;
        let mut large = BytesMut::from(&PREFACE[..]);
        let payload = vec![0; HANDSHAKE_BYTES_MAX + 1];
        put_frame(&mut large, FrameKind::Hello, |bytes| bytes.extend_from_slice(&payload));
        let mut early = BytesMut::from(&PREFACE[..]);
        put_frame(&mut early, FrameKind::RaftMessage, |bytes| heartbeat(1, 2).encode(bytes));
        let garbage: [&[u8]; 7] =
            [b"GET /members HTTP/1.1\r\n\r\n", b"\x16\x03\x01", &hello, &flipped, &large, &early, b""];
        for _round in 0..10 {
            for bytes in garbage {
                let mut puppet = Puppet::dial(b.address).await;
                puppet.stream.write_all(bytes).await.unwrap();
                puppet.stream.shutdown(std::net::Shutdown::Write).await.unwrap();
                // What comes, if anything, is a refusal, and then the end.
                let mut rest = Vec::new();
                puppet.stream.read_to_end(&mut rest).await.ok();
            }
        }
        // What can be named is told apart from the rest.
        assert_eq!(lines.with("peer connection refused"), 3, "{}", lines.with(""));
        assert_eq!(lines.with("HTTP on the listener for peers"), 1);
        assert_eq!(lines.with("TLS on a plain listener"), 1);
        let a = Node::start(config(1, 100));
        a.peers(&[&b]);
        a.up(2).await;
    });
}

#[test]
fn what_no_member_sends_ends_its_connection_with_the_reason() {
    run(async || {
        let b = Node::start(config(2, 200));
        type Send = fn(&mut BytesMut);
        let cases: [(Lane, Send, &str); 8] = [
            (
                Lane::Append,
                |bytes| {
                    // A header alone, which claims a gigabyte.
                    let mut header = [0; FRAME_HEADER_BYTES];
                    header[..4].copy_from_slice(&(1_u32 << 30).to_le_bytes());
                    header[4] = FrameKind::RaftMessage as u8;
                    let checksum = crc32fast::hash(&header[..12]);
                    header[12..].copy_from_slice(&checksum.to_le_bytes());
                    bytes.extend_from_slice(&header);
                },
                "frame of 1073741824 bytes",
            ),
            (Lane::Append, |bytes| raft(bytes, &append(1, 3, 5, 5)), "is for member 3"),
            (Lane::Append, |bytes| raft(bytes, &append(4, 2, 5, 5)), "is from member 4"),
            (Lane::Append, |bytes| raft(bytes, &heartbeat(1, 2)), "is on the lane Append"),
            (
                Lane::Control,
                |bytes| put_frame(bytes, FrameKind::RaftMessage, |bytes| bytes.extend_from_slice(b"junk")),
                "does not decode",
            ),
            (Lane::Control, |bytes| put_frame(bytes, FrameKind::BulkDone, |_| ()), "on a raft lane"),
            (Lane::Call, |bytes| put_frame(bytes, FrameKind::BulkDone, |_| ()), "on the call lane"),
            (Lane::Bulk, |bytes| put_frame(bytes, FrameKind::BulkEnd, |_| ()), "before a stream"),
        ];
        for (lane, send, reason) in cases {
            let mut puppet = Puppet::member(b.address, 1, 2, lane).await;
            let mut bytes = BytesMut::new();
            send(&mut bytes);
            puppet.write(&bytes).await;
            let goodbye = puppet.goodbye().await;
            assert!(goodbye.reason.contains(reason), "{goodbye}");
            assert_eq!(puppet.frame().await, None);
        }
        while let Some(event) = b.transport.take_event() {
            assert!(!matches!(event, PeerEvent::Message(_)), "{event:?}");
        }
    });
}

fn raft(bytes: &mut BytesMut, message: &Message) {
    put_frame(bytes, FrameKind::RaftMessage, |bytes| message.encode(bytes));
}

#[test]
fn silent_connections_do_not_keep_members_out_and_end_by_themselves() {
    run(async || {
        let mut b = config(2, 200);
        b.half_open_max = 8;
        b.handshake_timeout = Duration::from_millis(400);
        let b = Node::start(b);
        let mut silent = Vec::new();
        for _connection in 0..100 {
            silent.push(Puppet::dial(b.address).await);
        }
        let a = Node::start(config(1, 100));
        a.peers(&[&b]);
        a.up(2).await;
        assert!(b.transport.half_open.borrow().len() <= 8);
        for puppet in &mut silent {
            // Either crowded out, without a word, or told that it took too long.
            if let Some(frame) = puppet.frame().await {
                assert_eq!(Refusal::from_wire(frame.payload).reason, "no Hello in time");
            }
        }
        drop(silent);
        while !b.transport.half_open.borrow().is_empty() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// All that a member says on a new connection to a puppet, which welcomes it.
async fn overheard(stream: TcpStream, welcome_session: u64) -> (Puppet, u64) {
    let mut puppet = Puppet::over(stream);
    let hello = Greeting::read(puppet.frame().await.unwrap().payload).unwrap();
    let own = PeerIdentity {
        cluster: CLUSTER,
        member: MemberId(2),
        incarnation: 9,
        peer_urls: vec![],
        format_level_max: FormatLevel::HIGHEST,
    };
    let welcome = own.welcome(&hello, crate::peer::handshake::Acquaintance::default()).unwrap();
    let mut bytes = BytesMut::from(&PREFACE[..]);
    put_message(&mut bytes, FrameKind::Welcome, &pb::Welcome { session: welcome_session, ..welcome });
    puppet.write(&bytes).await;
    (puppet, hello.session)
}

#[test]
fn what_was_said_on_one_connection_is_refused_on_another_and_so_is_a_frame_that_comes_again() {
    run(async || {
        let b = Node::start(config(2, 200));
        let dial = async |session: u64| {
            let mut puppet = Puppet::dial(b.address).await;
            let identity = PeerIdentity {
                cluster: CLUSTER,
                member: MemberId(1),
                incarnation: 7,
                peer_urls: vec![],
                format_level_max: FormatLevel::HIGHEST,
            };
            let hello = pb::Hello { session, ..identity.hello(MemberId(2), Lane::Append) };
            let mut bytes = BytesMut::from(&PREFACE[..]);
            put_message(&mut bytes, FrameKind::Hello, &hello);
            puppet.write(&bytes).await;
            let welcome = pb::Welcome::decode(puppet.frame().await.unwrap().payload).unwrap();
            let (ours, theirs) = Seal::pair(session, welcome.session).unwrap();
            puppet.decoder.set_seal(Some(theirs));
            (puppet, ours)
        };
        let sealed = |seal: &mut Seal, index: u64| {
            let mut bytes = BytesMut::new();
            raft(&mut bytes, &append(1, 2, index, 10));
            seal.close(&mut bytes);
            bytes
        };
        let (mut first, mut seal) = dial(70).await;
        let (one, two) = (sealed(&mut seal, 1), sealed(&mut seal, 2));
        first.write(&one).await;
        first.write(&two).await;
        assert_eq!(b.message().await, append(1, 2, 1, 10));
        assert_eq!(b.message().await, append(1, 2, 2, 10));
        // Again, on the same connection, and on a new one that says the same from its Hello on.
        first.write(&two).await;
        assert_eq!(first.goodbye().await.code, RefusalCode::Malformed);
        let (mut again, _) = dial(70).await;
        again.write(&one).await;
        assert_eq!(again.goodbye().await.code, RefusalCode::Malformed);
        let (mut swapped, mut seal) = dial(71).await;
        let (one, two) = (sealed(&mut seal, 1), sealed(&mut seal, 2));
        swapped.write(&two).await;
        swapped.write(&one).await;
        assert_eq!(swapped.goodbye().await.code, RefusalCode::Malformed);
        assert!(!b.transport.has_event(), "none of it arrived");
    });
}

#[test]
fn no_two_connections_of_a_member_have_one_name() {
    run(async || {
        let listener = TcpListener::bind(local()).unwrap();
        let address = listener.local_addr().unwrap();
        let a = Node::start(config(1, 100));
        a.transport.set_peers([(MemberId(2), vec![url(address)])]);
        let mut sessions = std::collections::BTreeSet::new();
        for _connection in 0..12 {
            let (puppet, session) = overheard(listener.accept().await.unwrap(), 5).await;
            assert!(session != 0 && sessions.insert(session), "{session} in {sessions:?}");
            drop(puppet);
        }
    });
}

#[test]
fn what_a_member_reads_is_known_while_it_is_connected_and_one_that_reads_too_little_is_sent_away() {
    run(async || {
        let first = |mut config: PeerConfig| {
            config.format_level_max = FormatLevel(0);
            config
        };
        let (a, b) = pair_of(first(config(1, 100)), config(2, 200)).await;
        assert_eq!(a.transport.reads(b.id()), Some(FormatLevel::HIGHEST));
        assert_eq!(b.transport.reads(a.id()), Some(FormatLevel(0)));
        assert_eq!(b.transport.reads(MemberId(3)), None);
        // The level rises while it is connected: not what the leader meant, but possible.
        b.transport.set_format_level(FormatLevel(1));
        let refusal = a.refused().await;
        assert_eq!(refusal.code, RefusalCode::FormatLevel, "{refusal}");
        while b.transport.reads(a.id()).is_some() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        a.transport.stop().await;
        assert_eq!(b.transport.reads(a.id()), None, "whoever answers there next may read something else");

        let a = Node::start(first(config(1, 101)));
        a.peers(&[&b]);
        b.peers(&[&a]);
        let refusal = a.refused().await;
        assert_eq!(refusal.code, RefusalCode::FormatLevel);
        assert!(refusal.reason.contains("Update that member's binary first"), "{refusal}");
        // It would be let in by the other one, and does not want to.
        assert_eq!(b.refused().await, refusal);
        assert!(b.transport.reads(a.id()).is_none());
    });
}
