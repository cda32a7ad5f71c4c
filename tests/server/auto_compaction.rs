//! Auto-compaction of the real binary: the leader does it, all members obey, and followers leave it alone.

use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, Launch, PATIENCE, WorkDir, block_on, until};

/// Whether the key can no more be read at this revision.
async fn is_compacted(client: &Client, revision: i64) -> bool {
    let request = pb::RangeRequest { key: "k".into(), revision, serializable: true, ..Default::default() };
    client.range(&request).await.is_err_and(|error| format!("{error:?}").contains("has been compacted"))
}

async fn put(client: &Client, value: &str) -> i64 {
    client.put_kv("k", value).await.unwrap().header.unwrap().revision
}

#[test]
fn history_older_than_the_retention_goes_and_the_newest_value_stays() {
    block_on(Duration::from_secs(60), async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag("--auto-compaction-retention=300ms").start().await;
        let client = server.connect().await;
        let old = put(&client, "old").await;
        let new = put(&client, "new").await;
        // Nothing is written from here on, so the window reaches the newest revision.
        until(PATIENCE, async || is_compacted(&client, old).await).await;
        assert_eq!(client.get("k").await.unwrap().unwrap(), "new");
        until(PATIENCE, async || server.output().contains("completed auto periodic compaction")).await;
        assert!(!is_compacted(&client, new).await, "the current revision is never compacted away");
        assert!(server.output().contains("starting auto periodic compaction"));
    });
}

#[test]
fn whoever_leads_compacts_and_the_others_do_not() {
    block_on(Duration::from_secs(120), async {
        let mut cluster = Cluster::start(3, &["--auto-compaction-retention=300ms"]).await;
        let leader = cluster.leader().await;
        let client = cluster.client(leader).await;
        let old = put(&client, "old").await;
        put(&client, "new").await;
        for member in 0..3 {
            let client = cluster.client(member).await;
            until(PATIENCE, async || is_compacted(&client, old).await).await;
        }
        // On a loaded machine another one may have led meanwhile.
        for member in (0..3).filter(|member| *member != leader) {
            let output = cluster.server(member).output();
            let has_led = output.contains("\"role\":\"Leader\"");
            assert!(has_led || !output.contains("auto periodic compaction"), "a follower compacts: {output}");
        }
        cluster.members[leader].kill();
        let (heir, _) = cluster.roles().await;
        let client = cluster.client(heir).await;
        let old = put(&client, "older").await;
        put(&client, "newest").await;
        until(PATIENCE, async || is_compacted(&client, old).await).await;
        cluster.server(heir).says("completed auto periodic compaction").await;
    });
}

/// Kubespray's, Bitnami's and Kubernetes' own settings, which etcd 3.5 starts with.
#[test]
fn older_names_of_flags_start_a_member_and_are_told_in_its_log() {
    block_on(Duration::from_secs(60), async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"))
            .flag("--experimental-initial-corrupt-check=true")
            .flag("--experimental-watch-progress-notify-interval=5s")
            .flag("--max-snapshots=10")
            .flag("--unsafe-no-fsync");
        launch.env.push(("ETCD_EXPERIMENTAL_COMPACTION_BATCH_LIMIT".to_owned(), "1000".to_owned()));
        let server = launch.start().await;
        server.connect().await.put_kv("k", "v").await.unwrap();
        for words in [
            "--experimental-initial-corrupt-check is an older name; write --feature-gates=InitialCorruptCheck=true",
            "ETCD_EXPERIMENTAL_COMPACTION_BATCH_LIMIT is an older name; write --compaction-batch-limit=1000",
            "--max-snapshots=10 has no effect",
            "--unsafe-no-fsync=true has no effect: every acknowledged write is synced",
        ] {
            server.says(words).await;
        }
    });
}
