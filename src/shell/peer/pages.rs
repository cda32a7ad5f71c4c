//! HTTP/1.1 on the port for peers: the few pages that members of etcd have there and that tools probe.
//!
//! Who speaks HTTP is told from its first bytes. It gets one answer from the role that owns the transport, and the
//! connection ends. HTTP/2 is refused: whoever speaks it there is a client at the wrong port.
//!
//! Bounds: a head of `HEAD_BYTES_MAX`, in the time of a handshake; the connection keeps its place among those
//! without a Hello until it has its answer, `ANSWER_PATIENCE` at most. A body is not read.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use futures_lite::future;

use super::connection::{Connection, End};
use super::events::PeerEvent;
use super::{About, Transport};
use crate::peer::{Refusal, RefusalCode};
use crate::rpc::http1::answer::{BodyFraming, put_head, put_length};
use crate::rpc::http1::{Head, Parsed, parse};
use crate::rpc::web::AnswerHead;
use crate::shell::net::{TimedOut, within};
use crate::shell::runtime::wake::Wake;

/// A longer head is refused.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// How long the role may take for an answer. A promotion waits until it is applied.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// A page is asked for.
#[derive(Debug)]
pub(in crate::shell) struct PageCall {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub reply: PageReply,
}

/// Takes the answer to one page. Dropped, it says that there is none.
#[derive(Debug)]
pub(in crate::shell) struct PageReply(Weak<Waiting>);

impl PageReply {
    pub(in crate::shell) fn answer(self, head: AnswerHead, body: impl Into<Vec<u8>>) {
        if let Some(waiting) = self.0.upgrade() {
            waiting.answer.replace(Some((head, body.into())));
        }
    }
}

impl Drop for PageReply {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.upgrade() {
            waiting.is_over.ring();
        }
    }
}

/// Who waits for a page.
#[derive(Debug, Default)]
struct Waiting {
    answer: RefCell<Option<(AnswerHead, Vec<u8>)>>,
    is_over: Wake,
}

impl Transport {
    /// Answers somebody whose first bytes, `begun`, are of HTTP.
    pub(super) async fn serve_page(&self, connection: &Rc<Connection>, mut begun: BytesMut) {
        let asked = async { Ok::<_, TimedOut>(self.read_page(connection, &mut begun).await) };
        let asked = within(self.config.handshake_timeout, asked).await;
        let (head, body) = match asked.unwrap_or(Asked::Gone) {
            Asked::Gone => return connection.close(End::Cut),
            Asked::Malformed { status, reason } => {
                self.log(About::Http, connection, None, &reason);
                (AnswerHead::of_text(status), format!("{reason}\n").into_bytes())
            }
            Asked::Page { method, path } => {
                let waiting = Rc::<Waiting>::default();
                let reply = PageReply(Rc::downgrade(&waiting));
                self.events.tell(PeerEvent::Page(PageCall { method, path, reply }));
                future::or(waiting.is_over.rung(), glommio::timer::sleep(ANSWER_PATIENCE)).await;
                let late = || (AnswerHead::of_text(503), b"no answer in time\n".to_vec());
                waiting.answer.take().unwrap_or_else(late)
            }
        };
        let mut answer = Vec::new();
        let at = put_head(&head, BodyFraming::Length, false, &mut answer);
        put_length(&mut answer, at, body.len());
        answer.extend_from_slice(&body);
        connection.leave_in_other_words(&answer, Refusal::new(RefusalCode::Stopping, "a page is one answer"));
        connection.run(future::pending()).await;
    }

    /// Reads a head.
    async fn read_page(&self, connection: &Rc<Connection>, begun: &mut BytesMut) -> Asked {
        loop {
            let mut headers = Vec::new();
            match parse(begun, &mut headers) {
                Ok(Parsed::Whole(Head { ask, .. }, _)) => {
                    return Asked::Page { method: ask.method.to_owned(), path: ask.path.to_owned() };
                }
                Ok(Parsed::Partial) if begun.len() < HEAD_BYTES_MAX => {}
                Ok(Parsed::Partial) => return Asked::malformed(431, "a request's head is too long"),
                Err(error) => {
                    return Asked::malformed(
                        error.status(),
                        &format!("HTTP on the listener for peers: {error}"),
                    );
                }
            }
            if connection.read_into(|bytes| begun.extend_from_slice(bytes)).await.is_err() {
                return Asked::Gone;
            }
        }
    }
}

/// What somebody wants.
#[derive(Debug)]
enum Asked {
    Page {
        method: String,
        path: String,
    },
    Malformed {
        status: u16,
        reason: String,
    },
    /// Nothing any more.
    Gone,
}

impl Asked {
    fn malformed(status: u16, reason: &str) -> Self {
        Self::Malformed { status, reason: reason.to_owned() }
    }
}
