//! Reads that say how new their answer has to be, at members that lag.

use std::time::Duration;

use pinion_kit::client::{CallError, Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, TEST_DEADLINE, block_on, env_number, eventually, server_is_etcd, skip};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::FAST;
use crate::network::{self, Link};

const UNAVAILABLE: u32 = 14;
const INVALID_ARGUMENT: u32 = 3;

fn serializable(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), serializable: true, ..Default::default() }
}

/// A transaction that reads.
fn reading(key: &str) -> pb::TxnRequest {
    let request = Some(pb::request_op::Request::RequestRange(serializable(key)));
    pb::TxnRequest { success: vec![pb::RequestOp { request }], ..Default::default() }
}

#[test]
fn a_member_that_lags_answers_a_read_when_it_is_new_enough_or_not_at_all() {
    if server_is_etcd() {
        return skip("etcd has no such metadata");
    }
    block_on(TEST_DEADLINE, async {
        let (cluster, network) = network::cluster(3, &FAST).await;
        let leader = cluster.leader().await;
        let behind = (leader + 1) % 3;
        let (ahead, client) = (cluster.client(leader).await, cluster.client(behind).await);
        ahead.put_kv("k", "old").await.unwrap();
        // Both have it.
        assert_eq!(client.get("k").await.unwrap().unwrap(), "old");
        network.set_around(behind, 3, Link::Cut);
        // Put by whoever leads now: the one that is cut off does not.
        let revision = ahead.put_kv("k", "new").await.unwrap().header.unwrap().revision;

        let told = client.range(&serializable("k")).await.unwrap();
        assert!(told.kvs[0].value == "old" && told.header.unwrap().revision < revision, "it lags");
        let not_older = client.clone().not_older_than(revision);
        for (timeout, is_txn) in [("300m", false), ("300m", true)] {
            let asked = not_older.clone().with_timeout(timeout);
            let (code, text) = match is_txn {
                false => refusal(asked.range(&serializable("k")).await),
                true => refusal(asked.txn(&reading("k")).await),
            };
            assert_eq!(code, UNAVAILABLE, "{text}");
            assert!(text.contains("has not applied the revision"), "{text}");
        }
        // What is applied already is answered at once.
        let known = client.clone().not_older_than(revision - 1);
        assert_eq!(known.range(&serializable("k")).await.unwrap().kvs[0].value, "old");
        for text in ["x", "-1", "9223372036854775808", ""] {
            let (code, text) = refusal(client.clone().not_older_than(text).range(&serializable("k")).await);
            assert_eq!(code, INVALID_ARGUMENT, "{text}");
        }
        // Without a deadline of its own a call waits for the member's.
        let (code, text) = refusal(client.clone().not_older_than(i64::MAX).range(&serializable("k")).await);
        assert_eq!(code, UNAVAILABLE, "{text}");

        // One that waits is answered as soon as the member has it.
        let (range, txn) = (serializable("k"), reading("k"));
        // A member that was cut off for a while may take longer to come back than a read waits.
        let waits = async {
            let ranged = eventually(async || not_older.range(&range).await).await;
            (ranged, eventually(async || not_older.txn(&txn).await).await)
        };
        let heals = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            network.heal();
        };
        let ((ranged, read), ()) = tokio::join!(waits, heals);
        assert_eq!(ranged.kvs[0].value, "new");
        assert!(revision <= ranged.header.unwrap().revision);
        assert!(revision <= read.header.unwrap().revision);
    });
}

/// One client that takes whichever member it likes, and its wrapper.
struct Wrapped {
    seen: i64,
    /// Whether it says what it has seen.
    says: bool,
}

impl Wrapped {
    /// Reads at a member. None: that one does not answer, and another is to be asked. Else whether the answer went back.
    async fn read(&mut self, client: Client, key: &str) -> Option<bool> {
        let client = if self.says { client.not_older_than(self.seen) } else { client };
        match client.with_timeout("500m").range(&serializable(key)).await {
            Ok(answer) => {
                let revision = answer.header.unwrap().revision;
                let goes_back = revision < self.seen;
                self.seen = self.seen.max(revision);
                Some(goes_back)
            }
            Err(CallError::Status { code, .. }) if code == UNAVAILABLE || code == 4 => None,
            Err(CallError::Transport(_) | CallError::Deadline) => None,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn connected(cluster: &Cluster, member: usize) -> Option<Client> {
    Client::connect(cluster.client_port(member)).await.ok()
}

/// Members are cut off, frozen and restarted while two clients change from one to the next with each read. The one that
/// says what it has seen never goes back; the one that does not say it does, or there was nothing to see.
#[test]
fn answers_never_go_back_for_a_client_that_says_what_it_has_seen() {
    if server_is_etcd() {
        return skip("etcd has no such metadata");
    }
    let seed = env_number("PINION_NOT_OLDER_SEED", u64::from(std::process::id()));
    println!("PINION_NOT_OLDER_SEED={seed} cargo test --test cluster answers_never_go_back");
    block_on(TEST_DEADLINE, async {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut cluster, network) = network::cluster(3, &FAST).await;
        let mut wrapped = Wrapped { seen: 0, says: true };
        let mut plain = Wrapped { seen: 0, says: false };
        let (mut answered, mut went_back) = (0, 0);
        for round in 0..6 {
            let struck = rng.random_range(0..3);
            match round % 3 {
                0 => network.set_around(struck, 3, Link::Cut),
                1 => cluster.signal(struck, "STOP"),
                _ => cluster.kill(struck),
            }
            let writer = (struck + 1) % 3;
            for number in 0..10 {
                // The member that leads may be the one that is struck: then another is elected first.
                if let Some(client) = connected(&cluster, writer).await {
                    drop(client.with_timeout("2S").put_kv("k", &format!("{round} {number}")).await);
                }
                for _ in 0..3 {
                    let member = rng.random_range(0..3);
                    if round % 3 == 1 && member == struck {
                        continue;
                    }
                    for (reader, is_plain) in [(&mut wrapped, false), (&mut plain, true)] {
                        let Some(client) = connected(&cluster, member).await else { continue };
                        if let Some(goes_back) = reader.read(client, "k").await {
                            assert!(
                                is_plain || !goes_back,
                                "an answer of m{member} went back in round {round}"
                            );
                            answered += i32::from(!is_plain);
                            went_back += i32::from(goes_back);
                        }
                    }
                }
            }
            match round % 3 {
                0 => network.heal(),
                1 => cluster.signal(struck, "CONT"),
                _ => cluster.start_again(struck).await,
            }
        }
        println!("{answered} answers, {went_back} that went back for the client that says nothing");
        assert!(0 < answered, "nothing was seen");
        assert!(0 < went_back, "no member lagged, so nothing was shown");
    });
}
