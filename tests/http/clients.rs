//! Real client libraries of Python against the binary: etcd3gw, tooz, and a WebSocket. `PINION_PYTHON` names an
//! interpreter that has them (`pip install etcd3gw tooz websocket-client`); skipped loudly where they are missing.

use std::process::{Command, Stdio};

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, skip};

/// What `clients.py` ends with where a library is missing.
const MISSING: i32 = 77;

#[test]
#[expect(clippy::disallowed_methods, reason = "which interpreter a test runs is asked of its runner")]
fn clients_of_openstack_and_a_websocket_do_with_us_what_they_do_with_etcd() {
    let python = std::env::var("PINION_PYTHON").unwrap_or_else(|_| "python3".into());
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/clients.py");
        let mut command = Command::new("timeout");
        command.args(["60", &python, script, &server.client_port().to_string()]).stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
        let Ok(output) = run else { return skip("there is no `timeout`") };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(MISSING) {
            return skip(&format!("{python} lacks a library: {told}"));
        }
        println!("{told}");
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    });
}
