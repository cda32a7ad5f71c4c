//! A real client of v2: python-etcd. `PINION_PYTHON` names an interpreter that has it (`pip install python-etcd`, with
//! the aliases of `collections` that Python has dropped put back); skipped loudly where it is missing.

use std::process::{Command, Stdio};

use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, skip};

use crate::v2::member;

/// What `clients.py` ends with where the library is missing.
const MISSING: i32 = 77;

#[test]
#[expect(clippy::disallowed_methods, reason = "which interpreter a test runs is asked of its runner")]
fn python_etcd_does_with_us_what_it_does_with_etcd() {
    let python = std::env::var("PINION_PYTHON").unwrap_or_else(|_| "python3".into());
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/v2/clients.py");
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
