//! Programs that people use, as a test runs them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::runner::skip;

/// What a script ends with where a library is missing.
const MISSING: i32 = 77;

/// What a program wrote, and whether it ended well. It has 20 s.
pub async fn run(program: &Path, args: &[String], input: &'static str) -> (bool, String) {
    let mut command = Command::new("timeout");
    command.arg("20").arg(program).args(args).env("ETCDCTL_API", "3");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut child = command.spawn().unwrap();
        // It may have ended without reading.
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        child.wait_with_output().unwrap()
    });
    let output = done.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// Runs a script of Python with more arguments, which must end well, against the server at `port`. `PINION_PYTHON` names an interpreter
/// that has the script's libraries; where one is missing the script ends with 77, and the test is skipped loudly.
#[expect(clippy::disallowed_methods, reason = "which interpreter a test runs is asked of its runner")]
pub async fn run_python(script: &str, port: u16, more: &[&Path]) {
    let python = std::env::var("PINION_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new("timeout");
    command.args(["60", &python, script, &port.to_string()]).args(more).stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let Ok(output) = run else { return skip("there is no `timeout`") };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(MISSING) {
        return skip(&format!("{python} lacks a library: {told}"));
    }
    println!("{told}");
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
}
