//! What is asked for and is no call: pages, and what is refused.

use std::rc::Rc;

use super::sink::Sink;
use crate::rpc::web::{self, AnswerHead, Ask, HTML, JSON, Route, TEXT};
use crate::rpc::{Code, Status};
use crate::shell::client::call::account::Account;
use crate::shell::client::{Backend, ClientShard};

impl<B: Backend> ClientShard<B> {
    /// Whether a client shows a certificate whose name would be a call's user by gRPC. The gateway's calls have none by
    /// certificate, and a client that relies on it is told so, as by etcd.
    pub(in crate::shell::client) fn is_named_in_vain(&self, account: &Account) -> bool {
        self.identities.revision().is_some() && account.user().is_some_and(|name| !name.is_empty())
    }

    /// Answers what is no call.
    pub(in crate::shell::client) fn on_other(
        self: &Rc<Self>,
        account: &Rc<Account>,
        ask: &Ask<'_>,
        route: Route<'_>,
        is_of_metrics: bool,
        sink: Sink,
    ) {
        let status = |code, message| Status { code, message };
        let refuse = |sink: Sink, http_status, status: Status| {
            let head = AnswerHead::new(http_status, JSON);
            sink.answer(account, head, |out| web::put_error(&status, out));
        };
        match route {
            Route::Preflight => sink.answer(account, AnswerHead::new(200, ""), |_| {}),
            Route::Misdirected => {
                let host = String::from_utf8_lossy(ask.header("host").unwrap_or_default()).into_owned();
                sink.answer(account, AnswerHead::new(421, TEXT), |out| {
                    let text = format!(
                        "Host {host:?} is none of those that may ask here without TLS. Add it to --host-whitelist, \
                         or ask by a name that is listed there.\n"
                    );
                    out.extend_from_slice(text.as_bytes());
                });
            }
            Route::Malformed => sink.answer_bytes(account, AnswerHead::new(400, TEXT), b"400 Bad Request"),
            Route::NamedInVain => sink.answer(account, AnswerHead::of_text(400), |out| {
                out.extend_from_slice(
                    b"CommonName of client sending a request against gateway will be ignored and not used as expected\n",
                );
            }),
            Route::Moved(location) => {
                let is_page = matches!(ask.method, "GET" | "HEAD");
                let head = AnswerHead::new(301, if is_page { HTML } else { "" });
                let body = |out: &mut Vec<u8>| {
                    // Of what HEAD asks for, only the length is sent.
                    if is_page {
                        web::put_moved(&location, out);
                    }
                };
                sink.answer(account, head.with("Location", location.clone()), body);
            }
            Route::NoCall => refuse(sink, 404, status(Code::NotFound, "Not Found".into())),
            Route::CallByOtherMethod => {
                refuse(sink, 501, status(Code::Unimplemented, "Method Not Allowed".into()));
            }
            Route::Page(path) => {
                self.on_page(account, &path, ask, is_of_metrics, sink);
            }
            Route::Call(_) | Route::V2(_) => unreachable!("what has a body was told apart before"),
        }
    }
}
