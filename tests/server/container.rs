//! What containers are given: the seccomp profile, under which a member has to do all that it does.

use std::fs;
use std::path::{Path, PathBuf};

use pinion_kit::program::run;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, skip};

/// What the script ends with where its library is missing.
const MISSING: &str = "python3-seccomp is not installed";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/container").join(name)
}

fn under(profile: &Path) -> Vec<String> {
    [&file("under-seccomp.py"), profile].map(|path| path.to_str().unwrap().to_owned()).to_vec()
}

/// Whether a profile can be tried here.
async fn can_be_tried() -> bool {
    let args = [file("seccomp.json").to_str().unwrap().to_owned(), "/bin/true".to_owned()];
    let (is_well, said) = run(&file("under-seccomp.py"), &args, "").await;
    if !is_well && (said.contains(MISSING) || said.contains("No such file")) {
        skip(MISSING);
        return false;
    }
    assert!(is_well, "{said}");
    true
}

#[test]
fn a_member_serves_restarts_and_checkpoints_under_the_seccomp_profile_for_containers() {
    block_on(TEST_DEADLINE, async {
        if !can_be_tried().await {
            return;
        }
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data")).flag("--snapshot-count=10").flag("--auto-tls");
        launch.wrapper = under(&file("seccomp.json"));
        let server = launch.start().await;
        let client = server.connect().await;
        for number in 0..50 {
            client.put_kv(&format!("key/{number}"), "value").await.unwrap();
        }
        let log = server.says("checkpoint written").await;
        assert!(!log.contains("Operation not permitted"), "{log}");
        server.terminate().await;
        let server = launch.start().await;
        let held = server.connect().await.get("key/49").await.unwrap();
        assert_eq!(held.as_deref(), Some(&b"value"[..]));
        server.terminate().await;
    });
}

#[test]
fn a_profile_that_forbids_io_uring_is_named_when_a_member_is_refused() {
    block_on(TEST_DEADLINE, async {
        if !can_be_tried().await {
            return;
        }
        let work = WorkDir::new();
        let profile = work.join("default.json");
        let text = fs::read_to_string(file("seccomp.json")).unwrap();
        fs::write(&profile, text.replace("\"io_uring_setup\",", "")).unwrap();
        let mut launch = Launch::new(work.join("data"));
        launch.wrapper = under(&profile);
        launch.start_refused().await.assert_says(&["io_uring", "seccomp profile"]);
    });
}
