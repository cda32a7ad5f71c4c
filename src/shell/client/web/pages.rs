//! The pages for operators: which path is which, who answers it where.
//!
//! Compatibility: etcd's paths, methods and texts. `--listen-metrics-urls` has health and metrics alone. None of
//! them asks who the caller is.

use std::rc::Rc;

use prost::Message as _;

use super::dashboard::Asset;
use super::health::{Checks, Probe};
use super::sink::Sink;
use super::variables;
use crate::metrics::Format;
use crate::pb::etcdserverpb as pb;
use crate::request::Query;
use crate::rpc::web::{AnswerHead, Ask, JSON, put_version};
use crate::shell::client::call::account::Account;
use crate::shell::client::observing;
use crate::shell::client::{Backend, ClientShard};
use crate::shell::runtime::fair_threads::Crowded;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page<'a> {
    Version,
    Variables,
    Health,
    Metrics,
    Dashboard(Asset),
    /// All checks of a kind, or the one of this name.
    Probe(Probe, Option<&'a str>),
}

/// The page of a path.
fn find(path: &str, is_of_metrics: bool) -> Option<Page<'_>> {
    let probe = |prefix, probe| {
        let rest = path.strip_prefix(prefix)?;
        let name = if rest.is_empty() { Some(None) } else { rest.strip_prefix('/').map(Some) };
        name.map(|name| Page::Probe(probe, name))
    };
    match path {
        "/health" => Some(Page::Health),
        "/metrics" => Some(Page::Metrics),
        "/version" if !is_of_metrics => Some(Page::Version),
        "/debug/vars" if !is_of_metrics => Some(Page::Variables),
        _ if !is_of_metrics && Asset::find(path).is_some() => Asset::find(path).map(Page::Dashboard),
        _ => probe("/livez", Probe::Live).or_else(|| probe("/readyz", Probe::Ready)),
    }
}

impl<B: Backend> ClientShard<B> {
    /// A page is asked for.
    pub(in crate::shell::client) fn on_page(
        self: &Rc<Self>,
        account: &Rc<Account>,
        path: &str,
        ask: &Ask<'_>,
        is_of_metrics: bool,
        sink: Sink,
    ) {
        if let Some(upstream) = self.backend.upstream() {
            return self.on_proxy_page(&Rc::clone(upstream), account, path, ask, is_of_metrics, sink);
        }
        let Some(page) = find(path, is_of_metrics) else {
            return sink.answer_bytes(account, AnswerHead::of_text(404), b"404 page not found\n");
        };
        // A check by its name is a page for nobody else, as in etcd.
        let is_check = matches!(page, Page::Probe(_, Some(_)));
        if ask.method != "GET" && is_check {
            return sink.answer_bytes(account, AnswerHead::of_text(404), b"404 page not found\n");
        }
        if ask.method != "GET" {
            let head = AnswerHead::of_text(405).with("Allow", "GET");
            return sink.answer_bytes(account, head, b"Method Not Allowed\n");
        }
        match page {
            Page::Version => self.spawn_version(account, sink),
            Page::Variables => {
                let mut body = Vec::new();
                variables::put(&mut body);
                sink.answer_bytes(account, AnswerHead::new(200, "application/json; charset=utf-8"), &body);
            }
            Page::Dashboard(asset) => self.on_dashboard(account, asset, ask, sink),
            Page::Metrics => self.spawn_metrics(account, ask, sink),
            Page::Health => self.spawn_health(account, ask, sink),
            Page::Probe(probe, name) => match Checks::of(probe, name, ask) {
                Some(checks) => self.spawn_probe(account, checks, sink),
                None => sink.answer_bytes(account, AnswerHead::of_text(404), b"404 page not found\n"),
            },
        }
    }

    /// Tells what every role has counted.
    pub(super) fn spawn_metrics(self: &Rc<Self>, account: &Rc<Account>, ask: &Ask<'_>, sink: Sink) {
        let accept = ask.header("accept").unwrap_or_default();
        let format = Format::accepted(&String::from_utf8_lossy(accept));
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            match observing::scrape(&shard.config.scraper, format).await {
                Ok(text) => {
                    let head = AnswerHead::new(200, format.content_type());
                    sink.answer_bytes(&account, head, text.as_bytes());
                }
                Err(Crowded) => {
                    sink.answer_bytes(&account, AnswerHead::of_text(503), b"too many scrapes at once\n");
                }
            }
        })
        .detach();
    }

    /// Tells the versions, as the member's status has them.
    fn spawn_version(self: &Rc<Self>, account: &Rc<Account>, sink: Sink) {
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let Some(answered) = shard.ask_for(&sink, false, Query::Status).await else { return };
            let status =
                answered.ok().and_then(|(_, response)| pb::StatusResponse::decode(&response.body[..]).ok());
            let Some(status) = status else {
                return sink.answer_bytes(
                    &account,
                    AnswerHead::of_text(503),
                    b"the member does not answer\n",
                );
            };
            sink.answer(&account, AnswerHead::new(200, JSON), |out| {
                put_version(&status.version, &status.storage_version, out)
            });
        })
        .detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_metrics_have_health_and_metrics_alone() {
        for path in ["/metrics", "/health", "/livez", "/readyz", "/livez/serializable_read"] {
            assert!(find(path, true).is_some() && find(path, false).is_some(), "{path}");
        }
        for path in ["/version", "/debug/vars", "/dashboard", "/dashboard/", "/dashboard/live"] {
            assert!(find(path, true).is_none() && find(path, false).is_some(), "{path}");
        }
        for path in [
            "/",
            "",
            "/dashboards",
            "/dashboard/x",
            "/v2/keys",
            "/healthz",
            "/livezz",
            "/health/",
            "/v3/kv/put",
        ] {
            assert!(find(path, true).is_none() && find(path, false).is_none(), "{path}");
        }
        assert_eq!(find("/readyz/x", false), Some(Page::Probe(Probe::Ready, Some("x"))));
    }
}
