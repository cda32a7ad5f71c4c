//! `/health`, `/livez` and `/readyz`: whether this member serves, told by what it answers to its own questions.
//!
//! | check | `/livez` | `/readyz` | fails when |
//! |---|---|---|---|
//! | `serializable_read` | yes | yes | the store does not answer a read |
//! | `data_corruption` | | yes | the CORRUPT alarm is active |
//! | `linearizable_read` | | yes | no quorum confirms a read in time |
//! | `non_learner` | | yes | this member has no vote |
//!
//! `/health` is older: an alarm, the lack of a leader, and a read, in this order.
//!
//! Compatibility: etcd's names, texts and statuses. Checks stand in the order of the table; etcd's order is random.
//! Bounds: a read takes as long as any request may.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use futures_lite::future;
use prost::Message as _;

use super::sink::Sink;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::AlarmType;
use crate::request::{Query, Response};
use crate::rpc::Status;
use crate::rpc::json::put_text;
use crate::rpc::web::{AnswerHead, Ask, JSON};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::identity::own_read;
use crate::shell::client::{Backend, ClientShard};
use crate::types::Term;

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// Whether a restart would help.
    Live,
    /// Whether clients may come.
    Ready,
}

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }
}

/// The checks that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checks {
    checks: Vec<Check>,
    is_verbose: bool,
}

impl Checks {
    /// Those of a probe, or the one of this `name`. None: there is none of this name.
    pub(super) fn of(probe: Probe, name: Option<&str>, ask: &Ask<'_>) -> Option<Self> {
        let all: &[Check] = match probe {
            Probe::Live => &[Check::SerializableRead],
            Probe::Ready => {
                &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner]
            }
        };
        let excluded: Vec<_> = ask.parameters("exclude").collect();
        let checks = match name {
            Some(name) => vec![*all.iter().find(|check| check.name() == name)?],
            None => {
                all.iter().copied().filter(|check| excluded.iter().all(|name| name != check.name())).collect()
            }
        };
        Some(Self { checks, is_verbose: ask.parameters("verbose").next().is_some() })
    }
}

/// The smallest read there is: whether it is answered matters, not by what.
fn smallest_read() -> Query {
    let key = Bytes::from_static(b"\0");
    Query::Range(pb::RangeRequest { key, keys_only: true, limit: 1, ..Default::default() })
}

impl<B: Backend> ClientShard<B> {
    /// Asks the member for the answer on `sink`. None: whoever wants it has left.
    pub(super) async fn ask_for(
        &self,
        sink: &Sink,
        linearizable: bool,
        query: Query,
    ) -> Option<Result<(Term, Response), Status>> {
        // Whoever asks need not log in: it is the member that looks at itself.
        let answered = async { Some(self.ask(own_read(linearizable, query)).await) };
        let gone = async {
            poll_fn(|cx| sink.poll_gone(cx)).await;
            None
        };
        future::or(answered, gone).await
    }

    /// The active alarms. None: whoever asked has left.
    async fn alarms(&self, sink: &Sink) -> Option<Result<Vec<AlarmType>, Status>> {
        let answered = self.ask_for(sink, false, Query::Alarms { kind: 0 }).await?;
        Some(answered.map(|(_, response)| {
            let response = pb::AlarmResponse::decode(&response.body[..]).expect("the store's own message");
            response.alarms.iter().map(pb::AlarmMember::alarm).collect()
        }))
    }

    /// Whether a read is answered. None: whoever asked has left.
    async fn reads(&self, sink: &Sink, linearizable: bool) -> Option<Result<(), Status>> {
        Some(self.ask_for(sink, linearizable, smallest_read()).await?.map(drop))
    }

    /// Carries out a check. None: whoever asked has left.
    async fn check(&self, check: Check, sink: &Sink) -> Option<Result<(), String>> {
        let told = |result: Result<(), Status>| result.map_err(|status| status.message.into_owned());
        Some(match check {
            Check::DataCorruption => match self.alarms(sink).await? {
                Ok(alarms) if alarms.contains(&AlarmType::Corrupt) => Err("alarm activated: CORRUPT".into()),
                Ok(_) => Ok(()),
                Err(status) => Err(status.message.into_owned()),
            },
            Check::SerializableRead => told(self.reads(sink, false).await?),
            Check::LinearizableRead => told(self.reads(sink, true).await?),
            Check::NonLearner if self.leadership.is_learner() => Err("not supported for learner".into()),
            Check::NonLearner => Ok(()),
        })
    }

    /// Answers `/livez` or `/readyz`.
    pub(super) fn spawn_probe(self: &Rc<Self>, account: &Rc<Account>, checks: Checks, sink: Sink) {
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let (mut lines, mut has_failed) = (String::new(), false);
            for check in checks.checks {
                let Some(result) = shard.check(check, &sink).await else { return };
                let name = check.name();
                match result {
                    Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
                    Err(why) => {
                        has_failed = true;
                        tracing::warn!(check = name, why = why.as_str(), "a health check has failed");
                        lines.push_str(&format!("[-]{name} failed: {why}\n"));
                    }
                }
            }
            let (status, body) = match (has_failed, checks.is_verbose) {
                (true, _) => (503, lines + "\n"),
                (false, true) => (200, lines + "ok\n"),
                (false, false) => (200, "ok\n".into()),
            };
            sink.answer_bytes(&account, AnswerHead::of_text(status), body.as_bytes());
        })
        .detach();
    }

    /// Answers `/health`.
    pub(super) fn spawn_health(self: &Rc<Self>, account: &Rc<Account>, ask: &Ask<'_>, sink: Sink) {
        let excluded: Vec<String> = ask.parameters("exclude").map(|name| name.into_owned()).collect();
        let is_serializable = ask.parameters("serializable").next().is_some_and(|value| value == "true");
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let reason = shard.health(&sink, &excluded, is_serializable).await;
            let Some(reason) = reason else { return };
            shard.count_health(reason.is_empty());
            let (status, word) = if reason.is_empty() { (200, "true") } else { (503, "false") };
            let head =
                if reason.is_empty() { AnswerHead::new(200, JSON) } else { AnswerHead::of_text(status) };
            sink.answer(&account, head, |out| {
                out.extend_from_slice(b"{\"health\":\"");
                out.extend_from_slice(word.as_bytes());
                out.extend_from_slice(b"\",\"reason\":");
                put_text(&reason, out);
                out.push(b'}');
                if !reason.is_empty() {
                    out.push(b'\n');
                }
            });
        })
        .detach();
    }

    /// Why this member is not healthy; empty if it is. None: whoever asked has left.
    async fn health(&self, sink: &Sink, excluded: &[String], is_serializable: bool) -> Option<String> {
        match self.alarms(sink).await? {
            Ok(alarms) => {
                let names = alarms.iter().map(AlarmType::as_str_name);
                let active = names.into_iter().find(|name| excluded.iter().all(|excluded| excluded != name));
                if let Some(name) = active {
                    return Some(format!("ALARM {name}"));
                }
            }
            Err(status) => return Some(format!("RANGE ERROR:{}", status.message)),
        }
        if !is_serializable && self.leadership.is_leaderless() {
            return Some("RAFT NO LEADER".into());
        }
        let read = self.reads(sink, !is_serializable).await?;
        Some(read.err().map_or(String::new(), |status| format!("RANGE ERROR:{}", status.message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(probe: Probe, name: Option<&str>, query: &str) -> Option<(Vec<&'static str>, bool)> {
        let ask = Ask { method: "GET", path: "", query, headers: &[], is_secured: false, is_named: false };
        let checks = Checks::of(probe, name, &ask)?;
        Some((checks.checks.iter().map(|check| check.name()).collect(), checks.is_verbose))
    }

    #[test]
    fn probe_has_its_checks_but_for_those_that_are_excluded() {
        let all = ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];
        assert_eq!(checks(Probe::Ready, None, ""), Some((all.to_vec(), false)));
        assert_eq!(checks(Probe::Live, None, "verbose"), Some((vec!["serializable_read"], true)));
        let query = "exclude=linearizable_read&exclude=data%5Fcorruption&exclude=unknown&verbose=1";
        assert_eq!(checks(Probe::Ready, None, query), Some((vec!["serializable_read", "non_learner"], true)));
        assert_eq!(checks(Probe::Ready, Some("non_learner"), ""), Some((vec!["non_learner"], false)));
        assert_eq!(checks(Probe::Live, Some("non_learner"), ""), None);
    }
}
