//! Renewals of leases, for all streams of a shard by one stream at a member.
//!
//! A lease is renewed once for all who ask while the renewal before is under way: whoever asks is answered by one that is
//! sent behind the question. A member answers in order, so an answer is that of the first renewal that waits. When the
//! stream breaks, what waits is sent again, to another member if there is one: to renew twice is to renew.
//!
//! Only callers in nobody's name share a stream; it wants a leader of its member, as clients' own do.
//!
//! Bounds: a renewal that was sent `TRIES_MAX` times without an answer is told why; whoever asks bounds how many.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use prost::Message as _;

use super::call::{Call, Failure};
use crate::pb::etcdserverpb as pb;
use crate::rpc::Status;
use crate::rpc::framing::Splitter;
use crate::shell::runtime::wake::Wake;

/// Streams that a renewal may have been sent on.
const TRIES_MAX: u32 = 3;

/// Where an answer goes, as the member sent it.
pub(in crate::shell) type Renewed = Box<dyn FnOnce(Result<Bytes, Status>)>;

/// A renewal that is sent, or about to be.
struct UnderWay {
    lease: i64,
    waiting: Vec<Renewed>,
    tries: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Renewals {
    /// In the order in which they are sent; the first `sent` are.
    under_way: RefCell<VecDeque<UnderWay>>,
    sent: Cell<usize>,
    /// Those who ask while a renewal of their lease is sent.
    next: RefCell<BTreeMap<i64, Vec<Renewed>>>,
    is_carried: Cell<bool>,
    wake: Wake,
}

impl Renewals {
    pub(super) fn add(&self, lease: i64, renewed: Renewed) {
        let mut under_way = self.under_way.borrow_mut();
        match under_way.iter().position(|renewal| renewal.lease == lease) {
            None => under_way.push_back(UnderWay { lease, waiting: vec![renewed], tries: 0 }),
            Some(sent) if sent < self.sent.get() => {
                self.next.borrow_mut().entry(lease).or_default().push(renewed);
            }
            Some(unsent) => under_way[unsent].waiting.push(renewed),
        }
        drop(under_way);
        self.wake.ring();
    }

    /// The next one to be sent.
    pub(super) fn send_next(&self) -> Option<i64> {
        let mut under_way = self.under_way.borrow_mut();
        let renewal = under_way.get_mut(self.sent.get())?;
        renewal.tries += 1;
        self.sent.set(self.sent.get() + 1);
        Some(renewal.lease)
    }

    /// The first that was sent has its answer.
    fn end_first(&self, answer: &Result<Bytes, Status>) {
        let Some(renewal) = self.under_way.borrow_mut().pop_front() else { return };
        self.sent.set(self.sent.get().saturating_sub(1));
        if let Some(waiting) = self.next.borrow_mut().remove(&renewal.lease) {
            self.under_way.borrow_mut().push_back(UnderWay { lease: renewal.lease, waiting, tries: 0 });
        }
        renewal.waiting.into_iter().for_each(|renewed| renewed(answer.clone()));
    }

    /// The stream has ended: what was sent is to be sent again, but for those that were sent too often.
    pub(super) fn on_end(&self, failure: Failure) {
        let is_own = matches!(&failure, Failure::Status(_)) && !failure.is_members_own();
        let status = failure.status();
        // A member's word that is about a renewal is about the first.
        if is_own && 0 < self.sent.get() {
            self.end_first(&Err(status.clone()));
        }
        let sent = self.sent.replace(0);
        let tried_out = |renewal: &UnderWay| TRIES_MAX <= renewal.tries;
        let (ended, again): (Vec<_>, Vec<_>) = self.under_way.take().into_iter().partition(tried_out);
        tracing::debug!(reason = %status.message, sent, ended = ended.len(), "a stream of renewals has ended");
        self.under_way.borrow_mut().extend(again);
        for UnderWay { lease, waiting, .. } in ended {
            if let Some(waiting) = self.next.borrow_mut().remove(&lease) {
                self.under_way.borrow_mut().push_back(UnderWay { lease, waiting, tries: 0 });
            }
            waiting.into_iter().for_each(|renewed| renewed(Err(status.clone())));
        }
    }

    /// Whether somebody has to begin to carry them.
    pub(super) fn begin(&self) -> bool {
        self.is_carried.replace(true)
    }

    /// Waits until there are some.
    pub(super) async fn some(&self) {
        while self.is_empty() {
            self.wake.rung().await;
        }
    }

    fn is_empty(&self) -> bool {
        self.under_way.borrow().is_empty()
    }
}

impl Renewals {
    /// Sends renewals and takes answers, until the stream ends.
    pub(super) fn poll(
        &self,
        call: &mut Call,
        splitter: &mut Splitter,
        cx: &mut Context<'_>,
    ) -> Poll<Failure> {
        while self.wake.poll_rung(cx).is_ready() {}
        loop {
            while self.sent.get() < self.under_way.borrow().len() && call.poll_room(cx).is_ready() {
                let lease = self.send_next().expect("there is one");
                call.send(&pb::LeaseKeepAliveRequest { id: lease }.encode_to_vec().into());
            }
            let piece = match ready!(call.poll_piece(cx)) {
                Ok(Some(piece)) => piece,
                Ok(None) => return Poll::Ready(Failure::Broken("EOF".to_owned())),
                Err(failure) => return Poll::Ready(failure),
            };
            call.release(piece.len());
            splitter.push(&piece);
            loop {
                let message = match splitter.take() {
                    Ok(Some(message)) if !message.compressed => message.payload,
                    Ok(None) => break,
                    Ok(Some(_)) | Err(_) => return Poll::Ready(nonsense()),
                };
                if !self.is_of_first(&message) {
                    return Poll::Ready(nonsense());
                }
                self.end_first(&Ok(message));
            }
        }
    }

    /// Whether an answer is about the first renewal that was sent.
    fn is_of_first(&self, answer: &Bytes) -> bool {
        let Ok(answer) = pb::LeaseKeepAliveResponse::decode(answer.clone()) else { return false };
        let under_way = self.under_way.borrow();
        0 < self.sent.get() && under_way.front().is_some_and(|first| first.lease == answer.id)
    }
}

fn nonsense() -> Failure {
    Failure::Broken("what came is no answer of a renewal".to_owned())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::rpc::status;

    type Told = Vec<(u32, Result<Bytes, Status>)>;

    /// Renewals, and the answers that came, by the number of who asked.
    struct Scene {
        renewals: Renewals,
        answers: Rc<RefCell<Told>>,
    }

    impl Scene {
        fn new() -> Self {
            Self { renewals: Renewals::default(), answers: Rc::default() }
        }

        fn ask(&self, number: u32, lease: i64) {
            let answers = Rc::clone(&self.answers);
            self.renewals.add(lease, Box::new(move |answer| answers.borrow_mut().push((number, answer))));
        }

        fn sent(&self) -> Vec<i64> {
            std::iter::from_fn(|| self.renewals.send_next()).collect()
        }

        fn answered(&self) -> Vec<u32> {
            self.answers.borrow().iter().map(|(number, _)| *number).collect()
        }
    }

    #[test]
    fn all_who_ask_while_a_lease_is_renewed_are_answered_by_the_next_renewal_of_it() {
        let scene = Scene::new();
        for number in 0..3 {
            scene.ask(number, 7);
        }
        scene.ask(3, 8);
        assert_eq!(scene.sent(), [7, 8], "one that is not sent yet is for all");
        for number in 4..1_000 {
            scene.ask(number, 7);
        }
        assert_eq!(scene.sent(), [0; 0], "one of a lease at a time");
        scene.renewals.end_first(&Ok(Bytes::from_static(b"a")));
        assert_eq!((scene.answered(), scene.sent()), (vec![0, 1, 2], vec![7]));
        scene.renewals.end_first(&Ok(Bytes::from_static(b"b")));
        scene.renewals.end_first(&Ok(Bytes::from_static(b"c")));
        assert_eq!(scene.answered().len(), 1_000);
        assert!(scene.renewals.is_empty() && scene.renewals.next.borrow().is_empty());
    }

    #[test]
    fn what_waits_when_a_stream_breaks_is_sent_again_and_told_after_the_third_time() {
        let scene = Scene::new();
        scene.ask(0, 7);
        scene.ask(1, 8);
        for _ in 1..TRIES_MAX {
            assert_eq!(scene.sent(), [7, 8]);
            scene.renewals.on_end(Failure::Broken("reset".to_owned()));
            assert_eq!(scene.answered(), [0; 0]);
        }
        scene.ask(2, 9);
        assert_eq!(scene.sent(), [7, 8, 9]);
        scene.ask(3, 7);
        scene.renewals.on_end(Failure::Status(status::NO_LEADER));
        assert_eq!(scene.answered(), [0, 1]);
        assert!(scene.answers.borrow().iter().all(|(_, answer)| *answer == Err(status::NO_LEADER)));
        assert_eq!(scene.sent(), [9, 7]);
    }

    #[test]
    fn a_members_refusal_is_the_first_ones_and_others_are_asked_again() {
        let scene = Scene::new();
        scene.ask(0, 7);
        scene.ask(1, 8);
        assert_eq!(scene.sent(), [7, 8]);
        scene.renewals.on_end(Failure::Status(status::PERMISSION_DENIED));
        assert_eq!((scene.answered(), scene.sent()), (vec![0], vec![8]));
    }
}
