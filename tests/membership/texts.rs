//! The same calls about members on a real etcd and on pinion: codes, texts and fields compared.

use std::path::Path;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Member, TEST_DEADLINE, WorkDir, block_on, installed, server_is_etcd};

use crate::group;

/// How often etcd is asked for an answer to every call.
const REFERENCE_ATTEMPTS: u32 = 3;

/// A member as both sides must tell it: without ids, and with ports by their part in the play.
fn member(member: &pb::Member, node: &Member) -> String {
    let known = |urls: &[String]| -> Vec<String> {
        let name = |url: &String| match url {
            url if *url == node.peer_url() => "own-peer".to_owned(),
            url if *url == node.client_url() => "own-client".to_owned(),
            url => url.clone(),
        };
        urls.iter().map(name).collect()
    };
    let (peer, client) = (known(&member.peer_ur_ls), known(&member.client_ur_ls));
    format!("{:?} {peer:?} {client:?} learner={}", member.name, member.is_learner)
}

fn said<T>(
    result: Result<T, CallError>,
    node: &Member,
    parts: impl Fn(T) -> (Option<pb::ResponseHeader>, Option<pb::Member>, Vec<pb::Member>),
) -> String {
    match result {
        Ok(answer) => {
            let (header, about, members) = parts(answer);
            let header = header.map(|header| {
                (header.cluster_id != 0, header.member_id != 0, header.revision, header.raft_term != 0)
            });
            let mut members: Vec<String> = members.iter().map(|one| member(one, node)).collect();
            members.sort();
            format!("ok {header:?} {:?} {members:?}", about.map(|one| member(&one, node)))
        }
        Err(error) => error.to_string(),
    }
}

async fn play(node: &mut Member) -> Vec<String> {
    node.start_as(&node.with("new", &[node])).await;
    let client = node.client().await;
    let mut lines = Vec::new();
    let own = client.member_list(true).await.unwrap().members[0].id;
    let (peer, learner) = (node.peer_url(), "http://127.0.0.1:2");

    lines.push(listed(&client, node).await);
    for id in [0, 1, own] {
        lines.push(removed(&client, node, id).await);
        lines.push(promoted(&client, node, id).await);
        let moved = client.move_leader(id).await;
        lines.push(said(moved, node, |answer| (answer.header, None, Vec::new())));
    }
    for id in [0, 1] {
        lines.push(updated(&client, node, id, "http://127.0.0.1:9").await);
    }
    for url in
        ["", "127.0.0.1:2", "http://127.0.0.1", "http://127.0.0.1:2/path", "http://", "ftp://127.0.0.1:2"]
    {
        lines.push(added(&client, node, url, true).await);
    }
    for as_learner in [false, true] {
        lines.push(added(&client, node, &peer, as_learner).await);
    }
    lines.push(added(&client, node, learner, true).await);
    lines.push(added(&client, node, learner, true).await);
    lines.push(added(&client, node, "http://127.0.0.1:3", true).await);
    let members = client.member_list(true).await.unwrap().members;
    let learner_id = members.iter().find(|member| member.is_learner).unwrap().id;
    lines.push(promoted(&client, node, learner_id).await);
    let moved = client.move_leader(learner_id).await;
    lines.push(said(moved, node, |answer| (answer.header, None, Vec::new())));
    lines.push(updated(&client, node, learner_id, &peer).await);
    // Not the learner's: the installed etcd would make it a voter by that, which later ones do not.
    for url in ["http://127.0.0.1:4", "no url at all", peer.as_str()] {
        lines.push(updated(&client, node, own, url).await);
    }
    lines.push(listed(&client, node).await);
    lines.push(removed(&client, node, learner_id).await);
    lines.push(removed(&client, node, learner_id).await);
    lines.push(promoted(&client, node, learner_id).await);
    // The last one that succeeds: the quorum is two from here on.
    lines.push(added(&client, node, "http://127.0.0.1:5", false).await);
    lines.push(removed(&client, node, own).await);
    lines.push(removed(&client, node, 1).await);
    lines.push(added(&client, node, "http://127.0.0.1:6", false).await);
    lines
}

async fn listed(client: &Client, node: &Member) -> String {
    said(client.member_list(true).await, node, |answer| (answer.header, None, answer.members))
}

async fn added(client: &Client, node: &Member, url: &str, as_learner: bool) -> String {
    let answer = client.member_add(url, as_learner).await;
    said(answer, node, |answer| (answer.header, answer.member, answer.members))
}

async fn removed(client: &Client, node: &Member, id: u64) -> String {
    said(client.member_remove(id).await, node, |answer| (answer.header, None, answer.members))
}

async fn promoted(client: &Client, node: &Member, id: u64) -> String {
    said(client.member_promote(id).await, node, |answer| (answer.header, None, answer.members))
}

async fn updated(client: &Client, node: &Member, id: u64, url: &str) -> String {
    said(client.member_update(id, url).await, node, |answer| (answer.header, None, answer.members))
}

fn player(work: &WorkDir, name: &str, launch: Launch) -> Member {
    let mut node = group::member(work, "m");
    node.launch = Launch { flags: node.launch.flags, ..launch.named("m") };
    node.launch.flags.push("--strict-reconfig-check=true".to_owned());
    node.launch.log_path = Some(work.join(&format!("{name}.log")));
    node
}

/// What etcd says. A busy machine makes it lose the answer to a change now and then: then it is asked all
/// of it again, from an empty directory.
async fn reference(work: &WorkDir, etcd: &Path) -> Vec<String> {
    let unanswered = CallError::Deadline.to_string();
    let mut lines = Vec::new();
    for attempt in 0..REFERENCE_ATTEMPTS {
        let name = format!("etcd-{attempt}");
        lines = play(&mut player(work, &name, Launch::binary(etcd.to_owned(), work.join(&name)))).await;
        if !lines.contains(&unanswered) {
            break;
        }
    }
    lines
}

#[test]
fn calls_about_members_are_answered_as_etcd_answers_them() {
    let Some(etcd) = installed("etcd").filter(|_| !server_is_etcd()) else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let theirs = reference(&work, &etcd).await;
        let ours = play(&mut player(&work, "pinion", Launch::new(work.join("pinion")))).await;
        for (number, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
            assert_eq!(ours, theirs, "call {number}");
        }
        assert_eq!(ours.len(), theirs.len());
    });
}
