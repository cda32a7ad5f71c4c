//! Compiles `proto/` to Rust without a protobuf compiler on the machine, and notes what is built of what.

#![expect(clippy::disallowed_methods, reason = "cargo and packagers speak to a build script by variables")]

use std::process::Command;

/// What a command says on its standard output; None if it fails or is not there.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The commit, for `--version`. A packager without a repository sets PINION_BUILD_COMMIT.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=PINION_BUILD_COMMIT");
    if let Ok(given) = std::env::var("PINION_BUILD_COMMIT") {
        return given;
    }
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = said("git", &["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let Some(commit) = said("git", &["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    if is_changed.is_none_or(|files| files.is_empty()) { commit } else { format!("{commit}+") }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let of_cargo = |name: &str| std::env::var(name).unwrap_or_default();
    let compiler = said(&of_cargo("RUSTC"), &["--version"]).unwrap_or_default();
    println!("cargo::rustc-env=PINION_COMMIT={}", commit());
    println!("cargo::rustc-env=PINION_BUILD={}, {}, {compiler}", of_cargo("PROFILE"), of_cargo("TARGET"));
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "kv.proto",
        "auth.proto",
        "rpc.proto",
        "v3election.proto",
        "v3lock.proto",
        "health.proto",
        "peer.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        // A `bytes` field becomes a slice of the buffer it was read from.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
