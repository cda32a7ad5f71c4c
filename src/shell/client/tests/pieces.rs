//! Answers in pieces: what the client gets, and what the store is asked for meanwhile.

use super::*;
use crate::request::{AnswerId, PieceNotice};
use crate::types::limits::PIECES_MAX;

const PIECE: usize = 1 << 10;

/// The store's side: ranges from a key `pieces:N` are answered with one entry of that key, in N pieces of a
/// KiB each. Behind piece `refused_at` comes an end.
#[derive(Debug, Default)]
pub(super) struct LongReads {
    begun: u64,
    left: BTreeMap<AnswerId, Vec<Vec<u8>>>,
    made: u64,
    orders: Vec<PieceOrder>,
    refused_at: Option<u64>,
    /// Reads that are begun and measured for ever.
    is_slow: bool,
}

fn body(pieces: usize) -> Vec<u8> {
    let kv = mvccpb::KeyValue { value: vec![b'v'; pieces * PIECE].into(), ..Default::default() };
    pb::RangeResponse { kvs: vec![kv], ..Default::default() }.encode_to_vec()
}

impl LongReads {
    pub(super) fn begin(&mut self, ticket: Ticket, command: &Command) -> Option<Vec<PieceNotice>> {
        let Command::Read(Read { query: Query::Range(range), .. }) = command else { return None };
        let pieces = std::str::from_utf8(&range.key).ok()?.strip_prefix("pieces:")?.parse().unwrap();
        if self.is_slow {
            return Some(Vec::new());
        }
        let (id, body) = (AnswerId(self.begun), body(pieces));
        self.begun += 1;
        let body_bytes = body.len() as u64;
        let begin = PieceNotice::Begin { id, ticket, term: TERM, revision: 5, body_bytes };
        self.left.insert(id, body.chunks(PIECE).rev().map(<[u8]>::to_vec).collect());
        let first: Vec<_> = (0..PIECES_MAX).flat_map(|_| self.next(id)).collect();
        Some([begin].into_iter().chain(first).collect())
    }

    fn next(&mut self, id: AnswerId) -> Vec<PieceNotice> {
        let Some(left) = self.left.get_mut(&id) else { return Vec::new() };
        let Some(bytes) = left.pop() else {
            self.left.remove(&id);
            return vec![PieceNotice::End { id, result: Ok(()) }];
        };
        self.made += 1;
        let mut notices = vec![PieceNotice::Piece { id, bytes }];
        if self.refused_at == Some(self.made) {
            self.left.remove(&id);
            notices.push(PieceNotice::End { id, result: Err(Refusal::TooSlow) });
        }
        notices
    }

    pub(super) fn on_order(&mut self, order: PieceOrder) -> Vec<PieceNotice> {
        self.orders.push(order);
        match order {
            PieceOrder::More { id } => self.next(id),
            PieceOrder::Cancel { id } => {
                self.left.remove(&id);
                Vec::new()
            }
            PieceOrder::Forget { .. } => Vec::new(),
        }
    }
}

/// Waits until the store's side is as the test expects.
#[expect(clippy::disallowed_types, reason = "a test's deadline")]
async fn until(server: &Server, is_so: impl Fn(&LongReads) -> bool + Send + Clone + 'static) {
    let start = std::time::Instant::now();
    loop {
        let is_so = is_so.clone();
        if server.run(move |_, backend| is_so(&backend.long_reads.borrow())) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the store was not asked in time");
        tokio::task::yield_now().await;
    }
}

#[test]
fn pieces_are_one_message_with_a_header_in_front() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let calls = (1..40).map(|pieces| client.call(RANGE, wide(&format!("pieces:{pieces}"))));
        for (pieces, answered) in (1..).zip(futures_util::future::join_all(calls).await) {
            let message: pb::RangeResponse = answered.message();
            let header = message.header.unwrap();
            assert_eq!((header.revision, header.raft_term, header.member_id), (5, TERM.0, MEMBER.0));
            assert_eq!(message.kvs[0].value.len(), pieces * PIECE);
        }
        until(&server, |reads| reads.left.is_empty()).await;
    });
    assert_eq!(server.counters().calls, 0);
}

#[test]
fn no_more_pieces_are_asked_for_than_the_client_takes_and_its_reset_ends_the_read() {
    let server = Server::start(quick());
    client(async {
        let mut builder = h2::client::Builder::new();
        let client = Client::connect_with(&server, builder.initial_window_size(4 * 1024)).await;
        let mut requests = client.requests.clone().ready().await.unwrap();
        let request = client.request(RANGE).body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, false).unwrap();
        stream.send_data(Bytes::from(wide("pieces:1000")), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut taken = 0;
        while taken < 4 * 1024 {
            taken += body.data().await.unwrap().unwrap().len();
        }
        // The window is full. Another call is answered all the same.
        assert_eq!(client.call(PUT, put("k", b"v")).await.status().0, 0);
        let made = server.run(|_, backend| backend.long_reads.borrow().made);
        assert!((4..=4 + PIECES_MAX as u64).contains(&made), "{made} pieces were made for 4 KiB");
        drop((body, stream));
        until(&server, |reads| reads.orders.contains(&PieceOrder::Cancel { id: AnswerId(0) })).await;
    });
    assert_eq!(server.run(|_, backend| backend.long_reads.borrow().left.len()), 0);
}

#[test]
fn a_read_that_is_given_up_half_way_ends_with_its_status_and_not_as_a_whole_message() {
    let server = Server::start(quick());
    server.run(|_, backend| backend.long_reads.borrow_mut().refused_at = Some(3));
    client(async {
        let client = Client::connect(&server).await;
        let answered = client.call(RANGE, wide("pieces:1000")).await;
        assert_eq!(answered.status().0, 14);
        let announced = u32::from_be_bytes(answered.body[1..PREFIX_BYTES].try_into().unwrap()) as usize;
        assert!(answered.body.len() < announced);
    });
}

#[test]
fn a_read_whose_caller_has_left_or_lost_its_patience_is_forgotten() {
    let mut config = quick();
    config.request_timeout = Duration::from_millis(200);
    let server = Server::start(config);
    server.run(|_, backend| backend.long_reads.borrow_mut().is_slow = true);
    client(async {
        let forgotten = |reads: &LongReads| {
            reads.orders.iter().filter(|order| matches!(order, PieceOrder::Forget { .. })).count()
        };
        let client = Client::connect(&server).await;
        assert_eq!(client.call(RANGE, wide("pieces:9")).await.status().0, 14);
        until(&server, move |reads| forgotten(reads) == 1).await;
        let (leaver, connection) = Client::connect_alone(&server).await;
        let call =
            tokio::spawn(async move { drop(leaver.send(leaver.request(RANGE), wide("pieces:9")).await) });
        server.until("the read is asked for", |counters| 2 <= counters.requests).await;
        connection.abort();
        drop(call.await);
        until(&server, move |reads| forgotten(reads) == 2).await;
    });
}

#[test]
fn answers_of_megabytes_leave_in_rounds_with_a_look_at_the_sockets_between() {
    const ANSWERS: u64 = 8;
    let server = Server::start(quick());
    client(async {
        let mut builder = h2::client::Builder::new();
        let builder = builder.initial_window_size(16 << 20).initial_connection_window_size(16 << 20);
        let client = Client::connect_with(&server, builder).await;
        assert_eq!(client.call(PUT, put("k", &vec![b'v'; 1 << 20])).await.status().0, 0);
        let before = server.counters().rests;
        let calls = (0..ANSWERS).map(|_| client.call(RANGE, get("k")));
        for answered in futures_util::future::join_all(calls).await {
            let answer: pb::RangeResponse = answered.message();
            assert_eq!(answer.kvs[0].value.len(), 1 << 20);
        }
        // A round is a MiB, and nothing rests behind the last one.
        let rests = server.counters().rests - before;
        assert!((ANSWERS - 2..4 * ANSWERS).contains(&rests), "{rests} rests while 8 MiB left");
    });
}
