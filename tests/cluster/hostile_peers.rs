//! The peer port against those who do not play by the rules, on the real binary: noise, halves, silence,
//! floods; and a process that passes for a member and lies.
//!
//! There is no authentication, so a liar that invents a later term can depose a leader, and one that
//! leads can write. What is claimed here is what holds without it: nobody panics or ends, memory is
//! bounded, others are served meanwhile, and what contradicts the log is not taken.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pinion::pb::peer as pb;
use pinion::peer::frame::{put_frame, put_message};
use pinion::peer::{FRAME_HEADER_BYTES, FrameDecoder, FrameKind, Lane, PREFACE, PeerIdentity, Refusal, Seal};
use pinion::raft::MessageKind;
use pinion::types::{ClusterId, FormatLevel, MemberId};
use pinion_kit::client::Client;
use pinion_kit::{Cluster, block_on, server_is_etcd, skip};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::{FAST, TEST_DEADLINE};

/// A connection without a Hello is closed by then: 3 s, a last frame, a loaded machine.
const CLOSED_BY: Duration = Duration::from_secs(15);

/// What a member may grow by for all strangers together.
const MEMORY_MAX: u64 = 32 << 20;

/// Says `bytes` and listens until the other side ends it.
async fn stranger(port: u16, bytes: Vec<u8>) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    stream.write_all(&bytes).await.ok();
    let mut answer = [0; 1024];
    while let Ok(1..) = stream.read(&mut answer).await {}
}

/// All that strangers say.
fn nonsense() -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut all: Vec<Vec<u8>> = Vec::new();
    for length in [1, 7, 8, 100, 4_000, 100_000] {
        let mut bytes = vec![0; length];
        rng.fill_bytes(&mut bytes);
        all.push(bytes.clone());
        all.push([&PREFACE[..], &bytes].concat());
    }
    let hello = pb::Hello { version_min: 1, version_max: 1, lane: 1, from: 9, ..Default::default() };
    let mut whole = BytesMut::from(&PREFACE[..]);
    put_message(&mut whole, FrameKind::Hello, &hello);
    all.extend((0..whole.len()).map(|cut| whole[..cut].to_vec()));
    // A true header that promises 4 GiB, or what a Hello may just have, and nothing behind it.
    for length in [u32::MAX, 16 * 1024] {
        let mut frame = BytesMut::from(&PREFACE[..]);
        put_frame(&mut frame, FrameKind::Hello, |_| ());
        let header = &mut frame[PREFACE.len()..];
        header[..4].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32(&header[..12]);
        header[12..FRAME_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        all.push(frame.to_vec());
    }
    all.push(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    all
}

/// CRC-32 as zlib's, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut register = u32::MAX;
    for byte in bytes {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            register = (register >> 1) ^ (0xedb8_8320 & (register & 1).wrapping_neg());
        }
    }
    !register
}

#[test]
fn noise_and_a_thousand_silent_connections_on_the_peer_port_harm_nobody() {
    if server_is_etcd() {
        return skip("the conversation between members is ours");
    }
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &[]).await;
        let leader = cluster.leader().await;
        let term = cluster.client(leader).await.status().await.unwrap().raft_term;
        let client = cluster.server(leader).connect().await;
        client.put_kv("k", "v").await.unwrap();
        // A mapped log's pages are not what strangers cost.
        let own = |member: usize| cluster.server(member).resident_bytes_own();
        let before: Vec<u64> = (0..3).map(own).collect();
        let mut most = before.clone();
        let began = Instant::now();
        let mut strangers = Vec::new();
        for member in 0..3 {
            let port = cluster.launch(member).peer_port;
            strangers.extend(nonsense().into_iter().map(|bytes| tokio::spawn(stranger(port, bytes))));
        }
        let port = cluster.launch(leader).peer_port;
        strangers.extend((0..1_000).map(|_| tokio::spawn(stranger(port, Vec::new()))));
        let count = strangers.len();
        let mut slowest = Duration::ZERO;
        let mut puts = 0;
        while strangers.iter().any(|stranger| !stranger.is_finished()) {
            let asked = Instant::now();
            client.put_kv("k", "v").await.unwrap();
            slowest = slowest.max(asked.elapsed());
            puts += 1;
            (0..3).for_each(|member| most[member] = most[member].max(own(member)));
            assert!(began.elapsed() < CLOSED_BY, "connections of strangers are still open");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let closed = began.elapsed();
        let grown: Vec<u64> = (0..3).map(|member| most[member] - before[member]).collect();
        println!(
            "{count} strangers were gone after {closed:?}; {puts} puts, the slowest {slowest:?}; \
             members grew by {grown:?} bytes"
        );
        assert!(grown.iter().all(|bytes| *bytes < MEMORY_MAX), "members grew by {grown:?} bytes");
        assert!(slowest < Duration::from_secs(3), "a put took {slowest:?}");
        let status = cluster.client(leader).await.status().await.unwrap();
        assert_eq!((status.raft_term, status.leader), (term, cluster.ids[leader]), "an election");
        let revision = cluster.settle().await;
        cluster.assert_equal_hashes(revision).await;
        cluster.server(leader).says("peer connection refused").await;
        cluster.assert_running();
    });
}

/// The life that a member's data directory is in.
fn life_of(cluster: &Cluster, member: usize) -> u64 {
    let lives = std::fs::read_to_string(cluster.launch(member).data_dir.join("LIVES")).unwrap();
    let own = lives.lines().find_map(|line| line.strip_prefix("own ")).unwrap();
    u64::from_str_radix(own, 16).unwrap()
}

/// A process that passes for one member to another.
struct Liar {
    stream: TcpStream,
    decoder: FrameDecoder,
    seal: Option<Seal>,
}

impl Liar {
    /// A newer process of `from`, as it says.
    async fn connect(cluster: &Cluster, from: usize, to: usize, lane: Lane) -> Self {
        let status = cluster.client(to).await.status().await.unwrap().header.unwrap();
        let identity = PeerIdentity {
            cluster: ClusterId(status.cluster_id),
            member: MemberId(cluster.ids[from]),
            incarnation: u64::MAX,
            peer_urls: Vec::new(),
            format_level_max: FormatLevel::HIGHEST,
        };
        let stream = TcpStream::connect(("127.0.0.1", cluster.launch(to).peer_port)).await.unwrap();
        let mut liar = Self { stream, decoder: FrameDecoder::new(1 << 20), seal: None };
        // A stranger who knows less is refused before it can lie.
        let life = life_of(cluster, from);
        let hello = pb::Hello { session: 77, life, ..identity.hello(MemberId(cluster.ids[to]), lane) };
        let mut bytes = BytesMut::from(&PREFACE[..]);
        put_message(&mut bytes, FrameKind::Hello, &hello);
        liar.stream.write_all(&bytes).await.unwrap();
        let frame = liar.frame().await.expect("a member is welcome");
        assert_eq!(frame.kind, FrameKind::Welcome, "{}", Refusal::from_wire(frame.payload));
        let welcome = pb::Welcome::decode(frame.payload).unwrap();
        let (ours, theirs) = Seal::pair(77, welcome.session).unzip();
        liar.decoder.set_seal(theirs);
        liar.seal = ours;
        liar
    }

    async fn frame(&mut self) -> Option<pinion::peer::Frame> {
        loop {
            if let Some(frame) = self.decoder.take().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
            }
        }
    }

    async fn say(&mut self, kind: FrameKind, payload: &[u8]) {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, kind, |buffer| buffer.extend_from_slice(payload));
        self.seal.as_mut().expect("the member seals").close(&mut bytes);
        self.stream.write_all(&bytes).await.ok();
    }

    /// The reason with which the connection is ended; none when it goes on.
    async fn end(&mut self) -> Option<Refusal> {
        let frame = tokio::time::timeout(Duration::from_millis(300), self.frame()).await.ok()??;
        assert_eq!(frame.kind, FrameKind::Goodbye);
        Some(Refusal::from_wire(frame.payload))
    }
}

/// An append to `to`, as if from `from`.
struct Append {
    term: u64,
    after: (u64, u64),
    /// Index and term.
    entries: Vec<(u64, u64)>,
    commit: u64,
}

impl Append {
    fn message(&self, from: u64, to: u64) -> pb::RaftMessage {
        let entry = |(index, term): &(u64, u64)| pb::RaftEntry {
            index: *index,
            term: *term,
            kind: 1,
            data: Bytes::from_static(b"a lie"),
        };
        pb::RaftMessage {
            format: 1,
            kind: MessageKind::Append as u32,
            from,
            to,
            term: self.term,
            index: self.after.0,
            log_term: self.after.1,
            commit: self.commit,
            entries: self.entries.iter().map(entry).collect(),
            ..Default::default()
        }
    }
}

#[test]
fn a_peer_that_lies_about_the_log_is_refused_or_ignored_and_nothing_diverges() {
    if server_is_etcd() {
        return skip("the conversation between members is ours");
    }
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &FAST).await;
        let leader = cluster.leader().await;
        let (victim, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let client = Client::connect(cluster.client_port(leader)).await.unwrap();
        for number in 0..20 {
            client.put_kv(&format!("k{number}"), "true").await.unwrap();
        }
        cluster.settle().await;
        let status = cluster.client(victim).await.status().await.unwrap();
        let (term, last) = (status.raft_term, status.raft_index);
        let append = |term, after, entries: &[(u64, u64)], commit| Append {
            term,
            after,
            entries: entries.to_vec(),
            commit,
        };
        // What no member can send, and what it is called.
        let malformed = [
            (append(term, (last, term), &[(last + 2, term)], last), "entries are not contiguous"),
            (
                append(term, (last, term), &[(last + 1, term), (last + 1, term)], last),
                "entries are not contiguous",
            ),
            (append(term, (last, term), &[(last + 1, term + 5)], last), "an entry from the future"),
            (append(term, (last, term), &[(last + 1, term - 1)], last), "terms fall"),
            (append(0, (last, term), &[], last), "a term where none belongs"),
            (append(term, (last, 0), &[(last + 1, term)], last), "follows no entry"),
            (append(term, (last, term), &[(last + 1, term)], 1 << 63), "that no cluster reaches"),
        ];
        let (from, to) = (cluster.ids[other], cluster.ids[victim]);
        for (append, word) in malformed {
            let mut liar = Liar::connect(&cluster, other, victim, Lane::Append).await;
            liar.say(FrameKind::RaftMessage, &append.message(from, to).encode_to_vec()).await;
            let end = liar.end().await.unwrap_or_else(|| panic!("it goes on after {word:?}"));
            assert!(end.reason.contains(word), "{word:?}: {end}");
        }
        // In another's name, for another, on the wrong lane, of a kind and a size that there is not.
        let plain = append(term, (last, term), &[], last);
        let claims: [(Lane, FrameKind, Vec<u8>, &str); 5] = [
            (
                Lane::Append,
                FrameKind::RaftMessage,
                plain.message(cluster.ids[leader], to).encode_to_vec(),
                "is from",
            ),
            (Lane::Append, FrameKind::RaftMessage, plain.message(from, from ^ 1).encode_to_vec(), "is for"),
            (
                Lane::Control,
                FrameKind::RaftMessage,
                plain.message(from, to).encode_to_vec(),
                "is on the lane",
            ),
            (Lane::Append, FrameKind::BulkChunk, vec![0; 20], "on a raft lane"),
            (Lane::Append, FrameKind::RaftMessage, vec![0xff; 4_000], "does not decode"),
        ];
        for (lane, kind, payload, word) in claims {
            let mut liar = Liar::connect(&cluster, other, victim, lane).await;
            liar.say(kind, &payload).await;
            let end = liar.end().await.unwrap_or_else(|| panic!("it goes on after {word:?}"));
            assert!(end.reason.contains(word), "{word:?}: {end}");
        }
        let mut liar = Liar::connect(&cluster, other, victim, Lane::Append).await;
        let mut header = BytesMut::new();
        put_frame(&mut header, FrameKind::RaftMessage, |_| ());
        header[..4].copy_from_slice(&(65_u32 << 20).to_le_bytes());
        let mut seal = liar.seal.take().unwrap();
        // The seal is for a frame that is there; only its header is sent.
        header.resize(FRAME_HEADER_BYTES + (65 << 20), 0);
        seal.close(&mut header);
        liar.stream.write_all(&header[..FRAME_HEADER_BYTES]).await.unwrap();
        let end = liar.end().await.expect("it goes on after a frame of 65 MiB");
        assert!(end.reason.contains("at most"), "{end}");

        // What could be a leader's, but not in this term, or not of this log: a gap, other entries where
        // committed ones are, an old term, a second leader, one that says more was stored here.
        let mut liar = Liar::connect(&cluster, other, victim, Lane::Append).await;
        let lies = [
            append(term, (last + 1_000, term), &[(last + 1_001, term)], last + 1_000),
            append(term, (5, term), &[(6, term), (7, term), (8, term)], last),
            append(term, (1, 1), &[(2, term)], 2),
            append(term, (last, term), &[(last + 1, term)], last + 1),
            append(term - 1, (last, term - 1), &[(last + 1, term - 1)], last + 1),
        ];
        for lie in lies {
            liar.say(FrameKind::RaftMessage, &lie.message(from, to).encode_to_vec()).await;
        }
        assert_eq!(liar.end().await, None, "a leader may lag or repeat itself");
        let mut heartbeat = append(term, (0, 0), &[], last + 1_000).message(from, to);
        heartbeat.kind = MessageKind::Heartbeat as u32;
        let mut control = Liar::connect(&cluster, other, victim, Lane::Control).await;
        control.say(FrameKind::RaftMessage, &heartbeat.encode_to_vec()).await;
        assert_eq!(control.end().await, None);
        drop((liar, control));

        // The liar gone, all three go on as one.
        for number in 0..20 {
            client.put_kv(&format!("k{number}"), "still true").await.unwrap();
        }
        let revision = cluster.settle().await;
        cluster.assert_equal_hashes(revision).await;
        let events = cluster.events(leader, 1, revision).await;
        for member in [victim, other] {
            assert!(cluster.events(member, 1, revision).await == events, "m{member} tells another history");
        }
        assert_eq!(events.len(), 40, "nobody's entry was taken");
        cluster.assert_running();
        cluster.server(victim).says("entries are not contiguous").await;
    });
}
