//! `/v2/stats`: what this member has counted.
//!
//! `store` counts requests about nodes: writes as every member applies them, reads and waits of this member alone.
//! `self` and `leader` are about appends between members, as the raft role counts them (`shell/raft/appends.rs`). All
//! of it begins with the process.

use std::rc::Rc;

use prost::Message as _;

use super::{crowded, now_ns, refuse};
use crate::pb::peer;
use crate::request::{Command, Query};
use crate::rpc::Status;
use crate::rpc::json::put_text;
use crate::rpc::nodes::show::put_time;
use crate::rpc::web::{AnswerHead, JSON};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::identity::own_read;
use crate::shell::client::web::sink::Sink;
use crate::shell::client::{Backend, ClientShard};

const NS_PER_MS: u64 = 1_000_000;

/// A duration as Go writes it, to the millisecond.
fn duration(ms: u64) -> String {
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let seconds = format!("{}.{:03}", ms / 1_000 % 60, ms % 1_000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) if ms < 1_000 => format!("{ms}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn put_member_id(name: &str, id: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\"{name}\":\"{id:x}\"").as_bytes());
}

impl<B: Backend> ClientShard<B> {
    async fn append_stats(&self) -> Result<peer::AppendStats, Status> {
        let (_, response) = self.ask(Command::AppendStats).await?;
        Ok(peer::AppendStats::decode(&response.body[..]).expect("the raft role's own message"))
    }

    /// Answers with what `make` writes, or with why it cannot.
    fn spawn_stats<F>(
        self: &Rc<Self>,
        account: &Rc<Account>,
        sink: Sink,
        make: impl FnOnce(Rc<Self>) -> F + 'static,
    ) where
        F: Future<Output = Result<(u16, Vec<u8>), Status>>,
    {
        let Some(place) = self.node_place(0) else { return refuse(account, sink, &crowded()) };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let _place = place;
            let (status, body) = match make(shard).await {
                Ok(answer) => answer,
                Err(status) => {
                    let mut body = b"{\"message\":".to_vec();
                    put_text(&status.message, &mut body);
                    body.push(b'}');
                    (500, body)
                }
            };
            sink.answer_bytes(&account, AnswerHead::new(status, JSON), &body);
        })
        .detach();
    }

    pub(super) fn spawn_store_stats(self: &Rc<Self>, account: &Rc<Account>, sink: Sink) {
        self.spawn_stats(account, sink, |shard| async move {
            let (_, response) = shard.ask(own_read(false, Query::NodeTallies)).await?;
            let tallies = peer::NodeTallies::decode(&response.body[..]).expect("the store's own message");
            let mut out = b"{".to_vec();
            for (name, both) in [
                ("gets", &tallies.gets),
                ("sets", &tallies.sets),
                ("delete", &tallies.deletes),
                ("update", &tallies.updates),
                ("create", &tallies.creates),
                ("compareAndSwap", &tallies.swaps),
                ("compareAndDelete", &tallies.compared_deletes),
            ] {
                let [success, fail] = both[..] else { continue };
                out.extend_from_slice(
                    format!("\"{name}Success\":{success},\"{name}Fail\":{fail},").as_bytes(),
                );
            }
            let (expired, waits) = (tallies.expired, tallies.waits);
            out.extend_from_slice(format!("\"expireCount\":{expired},\"watchers\":{waits}}}").as_bytes());
            Ok((200, out))
        });
    }

    pub(super) fn spawn_self_stats(self: &Rc<Self>, account: &Rc<Account>, sink: Sink) {
        self.spawn_stats(account, sink, |shard| async move {
            let (members, stats) = (shard.members().await?, shard.append_stats().await?);
            let own = shard.config.member.0;
            let name = members.into_iter().find(|member| member.id == own).map(|member| member.name);
            let (now_ns, now_ms) = (now_ns(), shard.now_ms());
            let moment = |ms: u64, out: &mut Vec<u8>| {
                put_time(now_ns.saturating_sub(now_ms.saturating_sub(ms).saturating_mul(NS_PER_MS)), out);
            };
            let leader = shard.leadership.leader();
            let mut out = b"{\"name\":".to_vec();
            put_text(&name.unwrap_or_default(), &mut out);
            out.push(b',');
            put_member_id("id", own, &mut out);
            let leads = leader.is_some_and(|(leader, _)| leader.0 == own);
            let state = if leads { "StateLeader" } else { "StateFollower" };
            out.extend_from_slice(format!(",\"state\":\"{state}\",\"startTime\":\"").as_bytes());
            // The shard's clock began with it.
            moment(0, &mut out);
            out.extend_from_slice(b"\",\"leaderInfo\":{");
            let (leader, since_ms) = leader.map_or((0, now_ms), |(leader, since_ms)| (leader.0, since_ms));
            put_member_id("leader", leader, &mut out);
            let uptime = duration(now_ms.saturating_sub(since_ms));
            out.extend_from_slice(format!(",\"uptime\":\"{uptime}\",\"startTime\":\"").as_bytes());
            moment(since_ms, &mut out);
            out.extend_from_slice(b"\"}");
            for (way, count, packages, bytes) in [
                ("recv", stats.received, stats.received_per_s, stats.received_bytes_per_s),
                ("send", stats.sent, stats.sent_per_s, stats.sent_bytes_per_s),
            ] {
                out.extend_from_slice(format!(",\"{way}AppendRequestCnt\":{count}").as_bytes());
                for (what, rate) in [("PkgRate", packages), ("BandwidthRate", bytes)] {
                    if 0.0 < rate {
                        out.extend_from_slice(format!(",\"{way}{what}\":{rate}").as_bytes());
                    }
                }
            }
            out.push(b'}');
            Ok((200, out))
        });
    }

    pub(super) fn spawn_leader_stats(self: &Rc<Self>, account: &Rc<Account>, sink: Sink) {
        self.spawn_stats(account, sink, |shard| async move {
            let own = shard.config.member.0;
            if shard.leadership.leader().is_none_or(|(leader, _)| leader.0 != own) {
                return Ok((403, b"{\"message\":\"not current leader\"}".to_vec()));
            }
            let stats = shard.append_stats().await?;
            let mut out = b"{".to_vec();
            put_member_id("leader", own, &mut out);
            out.extend_from_slice(b",\"followers\":{");
            for (number, follower) in stats.followers.iter().enumerate() {
                if 0 < number {
                    out.push(b',');
                }
                let latency = format!(
                    "\"{:x}\":{{\"latency\":{{\"current\":{:.6},\"average\":{:.6},\"standardDeviation\":{:.6},\
                     \"minimum\":{:.6},\"maximum\":{:.6}}},\"counts\":{{\"fail\":{},\"success\":{}}}}}",
                    follower.member,
                    follower.current_ms,
                    follower.average_ms,
                    follower.deviation_ms,
                    follower.minimum_ms,
                    follower.maximum_ms,
                    follower.fail,
                    follower.success
                );
                out.extend_from_slice(latency.as_bytes());
            }
            out.extend_from_slice(b"}}");
            Ok((200, out))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (ms, expected) in [
            (0, "0ms"),
            (7, "7ms"),
            (1_000, "1s"),
            (59_300, "59.3s"),
            (659_300, "10m59.3s"),
            (3_600_000, "1h0m0s"),
            (90_061_001, "25h1m1.001s"),
        ] {
            assert_eq!(duration(ms), expected);
        }
    }
}
