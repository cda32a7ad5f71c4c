//! Wrong logins by the hundred, and tokens that nobody gave out.

use pinion_kit::client::refusal;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};

use crate::manage::{self, CHEAP};

#[test]
fn made_up_tokens_are_refused_at_once_however_large_their_index() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag(CHEAP).start().await;
        let client = server.connect().await;
        let root = manage::people(&client).await;
        for token in [
            "abcdefghijklmnop.1",
            "abcdefghijklmnop.18446744073709551615",
            "abcdefghijklmnop.99999999999999999999",
            "abcdefghijklmnop",
            "",
            ".",
            &"x".repeat(60_000),
        ] {
            let stranger = client.clone().with_token(token);
            assert_eq!(refusal(stranger.get("a").await), (16, "etcdserver: invalid auth token".to_owned()));
            assert_eq!(refusal(stranger.put_kv("a", "1").await).0, 16);
        }
        root.put_kv("a", "1").await.unwrap();
        // While rights are not asked for, nobody looks at tokens.
        manage::disable(&root).await.unwrap();
        client.clone().with_token("nonsense").put_kv("a", "2").await.unwrap();
    });
}

#[test]
fn five_hundred_wrong_logins_do_not_shut_out_a_right_one() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag(CHEAP).start().await;
        let client = server.connect().await;
        manage::people(&client).await;
        let flood = (0..500).map(|number| {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                refusal(client.authenticate(&format!("user{}", number % 3), "wrong").await)
            })
        });
        let flood: Vec<_> = flood.collect();
        client.authenticate("alice", "alice").await.unwrap();
        let mut wrong = 0;
        for told in flood {
            let (code, text) = told.await.unwrap();
            match code {
                3 => {
                    assert_eq!(text, "etcdserver: authentication failed, invalid user ID or password");
                    wrong += 1;
                }
                8 => assert!(text.contains("too many passwords wait"), "{text}"),
                _ => panic!("{code} {text}"),
            }
        }
        assert!(0 < wrong);
    });
}

#[test]
fn a_password_that_waits_for_its_turn_ends_at_the_clients_deadline() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        // A hash of this cost takes seconds, and two are made at a time.
        let server = Launch::new(work.join("data")).flag("--bcrypt-cost=17").start().await;
        let client = server.connect().await;
        let hurried = client.clone().with_timeout("200m");
        let calls = (0..6).map(|number| {
            let hurried = hurried.clone();
            tokio::task::spawn_local(async move {
                refusal(manage::user_add(&hurried, &format!("user{number}"), "secret").await)
            })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap(), (4, "context deadline exceeded".to_owned()));
        }
        let known = manage::user_list(&client).await.unwrap();
        assert!(known.is_empty(), "what nobody waits for takes no effect: {known:?}");
    });
}
