//! The dashboard: three files that are part of the binary, and a stream that they draw.
//!
//! A line of the stream is an object of JSON: first what the numbers are, then up to an hour of samples in pieces, then
//! one line a second. The next line is made when the one before has left; a viewer that does not take it for
//! `UNREAD_PATIENCE` is dropped. So a viewer costs one line, and the gathering is shared by all (`overview`).
//!
//! With users and roles the stream asks for the token of any user; keys are read by the gateway, by whatever that user may
//! read. Nothing here changes anything. The pages load nothing from elsewhere and are not for scripts from elsewhere:
//! no answer tells a browser otherwise, and `Rules::admit_to_dashboard` compares host and origin.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;

use super::part::Part;
use super::sink::{Sink, SinkStream};
use crate::metrics::FIELDS;
use crate::rpc::json::put_text;
use crate::rpc::web::{self, AnswerHead, Ask, DashboardRefusal, JSON};
use crate::rpc::{Status, status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::call::identity;
use crate::shell::client::call::shown::Shown;
use crate::shell::client::overview::{News, SAMPLE_INTERVAL, now_ms};
use crate::shell::client::signal::Signal;
use crate::shell::client::{Backend, ClientShard};

/// How long a line may stay untaken.
const UNREAD_PATIENCE: Duration = Duration::from_secs(10);

/// Samples of one line.
const LINE_SAMPLES_MAX: usize = 300;

/// A part of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asset {
    Page,
    Script,
    Style,
    Live,
}

impl Asset {
    pub(super) fn find(path: &str) -> Option<Self> {
        match path {
            "/dashboard" | "/dashboard/" => Some(Self::Page),
            "/dashboard/app.js" => Some(Self::Script),
            "/dashboard/style.css" => Some(Self::Style),
            "/dashboard/live" => Some(Self::Live),
            _ => None,
        }
    }

    /// Type and bytes of what never changes.
    fn fixed(self) -> (&'static str, &'static [u8]) {
        match self {
            Self::Page => ("text/html; charset=utf-8", include_bytes!("index.html")),
            Self::Script => ("text/javascript; charset=utf-8", include_bytes!("app.js")),
            Self::Style => ("text/css; charset=utf-8", include_bytes!("style.css")),
            Self::Live => ("application/x-ndjson", b""),
        }
    }
}

/// All that a browser has to load for it.
const BYTES_MAX: usize = 150_000;
const _: () = assert!(
    include_bytes!("index.html").len() + include_bytes!("app.js").len() + include_bytes!("style.css").len()
        <= BYTES_MAX
);

/// Its own files, its own stream and calls, and nothing else; in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The head of an answer that a browser keeps to itself.
fn head(status: u16, content_type: &'static str) -> AnswerHead {
    AnswerHead::new(status, content_type)
        .with("Content-Security-Policy", POLICY)
        .with("X-Content-Type-Options", "nosniff")
        .with("Referrer-Policy", "no-referrer")
        .with("Cross-Origin-Resource-Policy", "same-origin")
        .with("Cross-Origin-Opener-Policy", "same-origin")
        .with("Cache-Control", "no-store")
}

impl<B: Backend> ClientShard<B> {
    /// A part of the dashboard is asked for.
    pub(super) fn on_dashboard(
        self: &Rc<Self>,
        account: &Rc<Account>,
        asset: Asset,
        ask: &Ask<'_>,
        sink: Sink,
    ) {
        if let Err(refusal) = self.web_rules.admit_to_dashboard(ask) {
            let (status, text) = match refusal {
                DashboardRefusal::Host => (
                    421,
                    "the dashboard is asked for by a name that is none of this member's: ask by an address, by \
                     localhost, by a name in --advertise-client-urls, or add the name to --host-whitelist\n",
                ),
                DashboardRefusal::Origin => {
                    (403, "the dashboard is for no page of another origin: open it in a tab of its own\n")
                }
            };
            return sink.answer_bytes(account, head(status, web::TEXT), text.as_bytes());
        }
        if asset != Asset::Live {
            let (content_type, bytes) = asset.fixed();
            return sink.answer_bytes(account, head(200, content_type), bytes);
        }
        let shown = ask.header("authorization").map(|shown| identity::token(shown, account));
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move { shard.show(&account, shown, sink).await }).detach();
    }

    /// Whether whoever shows this may look: anybody, or any user where rights are asked for.
    async fn may_look(self: &Rc<Self>, shown: Option<&Shown>) -> Result<(), Status> {
        match self.login(shown).await? {
            Some(None) => Err(status::USER_EMPTY),
            _ => Ok(()),
        }
    }

    async fn show(self: &Rc<Self>, account: &Rc<Account>, shown: Option<Shown>, sink: Sink) {
        let refuse = |sink: Sink, code: u16, status: &Status| {
            sink.answer(account, head(code, JSON), |out| web::put_error(status, out));
        };
        if let Err(status) = self.may_look(shown.as_ref()).await {
            // Without a token the page asks for a login; one that is not good is asked for again.
            return refuse(sink, 401, &status);
        }
        let Some(_viewer) = self.config.overview.admit() else {
            let full =
                Status { code: crate::rpc::Code::ResourceExhausted, message: "too many look already".into() };
            return refuse(sink, 429, &full);
        };
        let Some(stream) = sink.open(head(200, Asset::Live.fixed().0)) else { return };
        let stop = self.signal_at_stop();
        let mut from = 0;
        let mut line = Vec::new();
        self.put_first(&mut line);
        loop {
            // Everything that may be said about a viewer's line is known when it is made.
            if !self.has_taken(account, &stream, &stop, std::mem::take(&mut line)).await {
                return stream.cut();
            }
            if self.may_look(shown.as_ref()).await.is_err() {
                return stream.end(Vec::new());
            }
            let mut news = self.config.overview.read(from, LINE_SAMPLES_MAX);
            if news.samples.is_empty() {
                let over = async {
                    let gone = poll_fn(|cx| stream.poll_gone(cx));
                    future::or(gone, poll_fn(|cx| stop.poll_fired(cx))).await;
                    true
                };
                let waited = async {
                    glommio::timer::sleep(SAMPLE_INTERVAL).await;
                    false
                };
                if future::or(over, waited).await {
                    return stream.end(Vec::new());
                }
                news = self.config.overview.read(from, LINE_SAMPLES_MAX);
            }
            from = news.first + news.samples.len() as u64;
            self.put_news(&news, &mut line);
        }
    }

    /// Sends a line and waits until it has left. False: it does not, or there is nobody to take it.
    async fn has_taken(
        &self,
        account: &Rc<Account>,
        stream: &SinkStream,
        stop: &Signal,
        line: Vec<u8>,
    ) -> bool {
        let mut framed = Vec::with_capacity(line.len() + 32);
        let framing = stream.framing();
        let start = framing.begin(&mut framed);
        framed.extend_from_slice(&line);
        framed.push(b'\n');
        framing.end(&mut framed, start, Part::Whole);
        let has_left = Rc::<Signal>::default();
        if stream.send(Body::with_signal(account, Bytes::from(framed), &has_left)).is_err() {
            return false;
        }
        let left = async {
            poll_fn(|cx| has_left.poll_fired(cx)).await;
            true
        };
        let over = async {
            let gone = poll_fn(|cx| stream.poll_gone(cx));
            let stopped = poll_fn(|cx| stop.poll_fired(cx));
            let late = async {
                glommio::timer::sleep(UNREAD_PATIENCE).await;
            };
            future::or(future::or(gone, stopped), late).await;
            false
        };
        future::or(left, over).await
    }

    fn put_first(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"fields\":[");
        for (at, field) in FIELDS.iter().enumerate() {
            if 0 < at {
                out.push(b',');
            }
            put_text(field, out);
        }
        out.extend_from_slice(b"],\"member\":");
        put_text(&self.config.member.to_string(), out);
        let (gateway, asks) = (self.web_rules.serves_gateway, self.identities.revision().is_some());
        out.extend_from_slice(format!(",\"gateway\":{gateway},\"asks_rights\":{asks}}}").as_bytes());
    }

    fn put_news(&self, news: &News, out: &mut Vec<u8>) {
        out.extend_from_slice(
            format!("{{\"now_ms\":{},\"first\":{},\"samples\":[", now_ms(), news.first).as_bytes(),
        );
        for (at, sample) in news.samples.iter().enumerate() {
            if 0 < at {
                out.push(b',');
            }
            sample.put(out);
        }
        out.push(b']');
        // Behind the samples that have come late there are more lines.
        if !news.has_more && !news.series.is_empty() {
            out.extend_from_slice(b",\"series\":");
            out.extend_from_slice(&news.series);
            out.extend_from_slice(b",\"slow\":");
            self.config.overview.put_slow(out);
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_name_nothing_outside_and_run_nothing_that_the_policy_forbids() {
        for asset in [Asset::Page, Asset::Script, Asset::Style] {
            let text = std::str::from_utf8(asset.fixed().1).unwrap();
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "@import"]
            {
                assert!(!text.contains(forbidden), "{asset:?} has {forbidden}");
            }
            // Names of SVG's own, which nobody loads.
            let text = text.replace("http://www.w3.org/", "");
            assert!(!text.contains("://") || asset == Asset::Script, "{asset:?} names an address");
        }
        let page = std::str::from_utf8(Asset::Page.fixed().1).unwrap();
        let is_handler = |word: &str| word.starts_with("on") && word.contains('=');
        assert!(!page.contains("style=") && !page.contains("<style"), "it is inline");
        assert!(!page.split_whitespace().any(is_handler), "it is inline");
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script src=\"/dashboard/app.js\"").count()
        );
    }
}
