//! The pages of a proxy: whether the members behind it answer, and what it and they have counted.
//!
//! | path | answer |
//! |---|---|
//! | `/version` | the versions of the member that answers |
//! | `/health` | whether a linearizable read is answered within a second |
//! | `/proxy/health` | the same, and whether a watch begins within three |
//! | `/metrics` | a member's own |
//! | `/proxy/metrics` | this process's |
//!
//! Compatibility: those of etcd's proxy, its texts and its times; it has no `/version`. Whoever refuses the read for want
//! of a login is well, too: it has answered.

use std::rc::Rc;
use std::time::Duration;

use super::sink::Sink;
use crate::metrics::Format;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::rpc::json::put_text;
use crate::rpc::web::{AnswerHead, Ask, JSON, put_version};
use crate::rpc::{Method, Status, status};
use crate::shell::client::call::account::Account;
use crate::shell::client::{Backend, ClientShard};
use crate::shell::upstream::Upstream;

const READ_PATIENCE: Duration = Duration::from_secs(1);
const WATCH_PATIENCE: Duration = Duration::from_secs(3);
const VERSION_PATIENCE: Duration = Duration::from_secs(5);

/// The key that is looked at, as by etcd's.
const KEY: &[u8] = b"a";

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Version,
    Health,
    ProxyHealth,
    Metrics,
    ProxyMetrics,
}

fn find(path: &str, is_of_metrics: bool) -> Option<Page> {
    match path {
        "/version" if !is_of_metrics => Some(Page::Version),
        "/health" => Some(Page::Health),
        "/proxy/health" => Some(Page::ProxyHealth),
        "/metrics" => Some(Page::Metrics),
        "/proxy/metrics" => Some(Page::ProxyMetrics),
        _ => None,
    }
}

impl<B: Backend> ClientShard<B> {
    /// A page of a proxy is asked for.
    pub(super) fn on_proxy_page(
        self: &Rc<Self>,
        upstream: &Rc<Upstream>,
        account: &Rc<Account>,
        path: &str,
        ask: &Ask<'_>,
        is_of_metrics: bool,
        sink: Sink,
    ) {
        let Some(page) = find(path, is_of_metrics) else {
            return sink.answer_bytes(account, AnswerHead::of_text(404), b"404 page not found\n");
        };
        if ask.method != "GET" {
            let head = AnswerHead::of_text(405).with("Allow", "GET");
            return sink.answer_bytes(account, head, b"Method Not Allowed\n");
        }
        if page == Page::ProxyMetrics {
            return self.spawn_metrics(account, ask, sink);
        }
        let (upstream, account, shard) = (Rc::clone(upstream), Rc::clone(account), Rc::clone(self));
        glommio::spawn_local(async move {
            match page {
                Page::Version => tell_version(&upstream, &account, sink).await,
                Page::Metrics => tell_metrics(&upstream, &account, sink).await,
                Page::Health | Page::ProxyHealth => {
                    let mut reason = health(&upstream).await;
                    if reason.is_none() && page == Page::ProxyHealth {
                        reason = watch_health(&upstream).await;
                    }
                    shard.count_health(reason.is_none());
                    tell_health(&account, sink, reason.as_deref());
                }
                Page::ProxyMetrics => unreachable!("it is told above"),
            }
        })
        .detach();
    }
}

/// Whether a member answered, be it that it wants a login.
fn has_answered<T>(answered: Result<T, Status>) -> Result<(), Status> {
    match answered {
        Err(refused) if refused != status::PERMISSION_DENIED && refused != status::USER_EMPTY => Err(refused),
        _ => Ok(()),
    }
}

/// Why the members are not well, if they are not.
async fn health(upstream: &Upstream) -> Option<String> {
    let request = pb::RangeRequest { key: KEY.into(), ..Default::default() };
    let answered = upstream.ask::<pb::RangeResponse>(Method::Range, &request, READ_PATIENCE).await;
    has_answered(answered).err().map(|status| format!("GET ERROR:{}", status.message))
}

/// Why no watch begins, if none does.
async fn watch_health(upstream: &Upstream) -> Option<String> {
    let create = pb::WatchCreateRequest { key: KEY.into(), ..Default::default() };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let answered = upstream.ask_first::<pb::WatchResponse>(Method::Watch, &request, WATCH_PATIENCE).await;
    match has_answered(answered) {
        Ok(()) => None,
        Err(late) if late == status::CONTEXT_DEADLINE_EXCEEDED => Some("WATCH TIMEOUT".to_owned()),
        Err(status) => Some(format!("WATCH ERROR:{}", status.message)),
    }
}

fn tell_health(account: &Rc<Account>, sink: Sink, reason: Option<&str>) {
    let (head, word) = match reason {
        None => (AnswerHead::new(200, JSON), "true"),
        Some(_) => (AnswerHead::new(503, JSON), "false"),
    };
    sink.answer(account, head, |out| {
        out.extend_from_slice(b"{\"health\":\"");
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(b"\",\"reason\":");
        put_text(reason.unwrap_or_default(), out);
        out.push(b'}');
    });
}

async fn tell_version(upstream: &Upstream, account: &Rc<Account>, sink: Sink) {
    let answered =
        upstream.ask::<pb::StatusResponse>(Method::Status, &pb::StatusRequest {}, VERSION_PATIENCE).await;
    match answered {
        Ok(told) => sink.answer(account, AnswerHead::new(200, JSON), |out| {
            put_version(&told.version, &told.storage_version, out);
        }),
        Err(status) => {
            let text = format!("no member tells its version: {}\n", status.message);
            sink.answer_bytes(account, AnswerHead::of_text(503), text.as_bytes());
        }
    }
}

async fn tell_metrics(upstream: &Upstream, account: &Rc<Account>, sink: Sink) {
    match upstream.page("/metrics").await {
        Ok(page) => sink.answer_bytes(
            account,
            AnswerHead::new(page.status, Format::Prometheus.content_type()),
            &page.body,
        ),
        Err(reason) => {
            let text = format!("no member tells its metrics: {reason}\n");
            sink.answer_bytes(account, AnswerHead::of_text(503), text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_metrics_tell_no_version() {
        for path in ["/health", "/metrics", "/proxy/health", "/proxy/metrics"] {
            assert!(find(path, true).is_some() && find(path, true) == find(path, false), "{path}");
        }
        assert_eq!((find("/version", false), find("/version", true)), (Some(Page::Version), None));
        for path in ["/", "/proxy", "/proxy/", "/health/", "/livez", "/v2/keys", "/debug/pprof/"] {
            assert_eq!(find(path, false), None, "{path}");
        }
    }

    #[test]
    fn whoever_wants_a_login_has_answered() {
        assert_eq!(has_answered(Ok(())), Ok(()));
        assert_eq!(has_answered::<()>(Err(status::PERMISSION_DENIED)), Ok(()));
        assert_eq!(has_answered::<()>(Err(status::USER_EMPTY)), Ok(()));
        assert_eq!(has_answered::<()>(Err(status::NO_LEADER)), Err(status::NO_LEADER));
    }
}
