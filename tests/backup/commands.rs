//! The commands of the binary under test.

use std::path::Path;
use std::process::{Command, Output};

use pinion_kit::{Launch, server_binary};

use crate::etcds::{restore_flags, run};

pub fn pinion(args: &[&str]) -> Command {
    let mut command = Command::new(server_binary());
    command.args(args);
    command
}

/// `snapshot restore` into the directory of `launch`, which must succeed.
pub fn restore(file: &Path, launch: &Launch) -> Output {
    run(pinion(&["snapshot", "restore"]).arg(file).args(restore_flags(launch)))
}

/// A command that must fail, and what it says.
pub fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A field of a command's `-w json`.
pub fn json(command: &mut Command) -> serde_json::Value {
    serde_json::from_slice(&run(command.arg("--write-out=json")).stdout).unwrap()
}
