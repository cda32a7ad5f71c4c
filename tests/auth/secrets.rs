//! Passwords and tokens are in no log and no file.

use std::path::Path;

use pinion_kit::client::refusal;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};

use crate::manage::{self, CHEAP};

/// Whether a file below this directory has these bytes.
fn is_in_a_file(directory: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_in_a_file(&path, bytes);
        }
        std::fs::read(&path).unwrap().windows(bytes.len()).any(|found| found == bytes)
    })
}

#[test]
fn passwords_and_tokens_are_in_no_log_line_and_no_file() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let data = work.join("data");
        let launch = Launch::new(&data).flag(CHEAP).flag("--log-level=debug").flag("--enable-v2");
        let server = launch.start().await;
        // Digests are written from this level on.
        server.says("\"level\":3,\"needs\":\"release 0.4.0").await;
        let client = server.connect().await;
        let root = manage::people(&client).await;
        root.put_kv("looked-for", "and-found").await.unwrap();
        manage::user_add(&root, "carol", "carols-first-password").await.unwrap();
        manage::user_password(&root, "carol", "carols-second-password").await.unwrap();
        let token = client.authenticate("carol", "carols-second-password").await.unwrap();
        let carol = client.clone().with_token(&token);
        manage::user_get(&carol, "carol").await.unwrap();
        assert_eq!(refusal(client.authenticate("carol", "carols-wrong-password").await).0, 3);
        assert_eq!(refusal(client.authenticate("nobody", "nobodys-password").await).0, 3);
        let forged = client.clone().with_token("forgedforgedforg.7");
        assert_eq!(refusal(forged.get("a").await).0, 16);
        let web = format!("http://127.0.0.1:{}", server.client_port());
        let mut curl = std::process::Command::new("curl");
        let curl = curl.args(["-s", "-m", "10", "-u", "carol:carols-basic-password", &(web + "/v2/keys/a")]);
        assert!(curl.output().unwrap().status.success());
        // A checkpoint and the log of another life, too.
        let output = server.terminate().await.output;
        let again = launch.start().await;
        let output = output + &again.output();
        assert!(is_in_a_file(&data, b"and-found") && is_in_a_file(&data, b"carol"));
        let (prefix, _) = token.split_once('.').unwrap();
        for secret in [
            "carols-first-password",
            "carols-second-password",
            "carols-wrong-password",
            "nobodys-password",
            "carols-basic-password",
            "forgedforgedforg",
            prefix,
        ] {
            assert!(!output.contains(secret), "{secret} is in the log");
            assert!(!is_in_a_file(&data, secret.as_bytes()), "{secret} is in a file");
        }
    });
}
