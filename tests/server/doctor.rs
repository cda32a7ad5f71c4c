//! `pinion doctor` on this machine: what it finds, that it tries, and that it leaves the host as it was.

use std::fs;
use std::path::Path;

use pinion_kit::program::run;
use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, server_binary, server_is_etcd, skip};
use serde_json::Value;

async fn doctor(more: &[&str]) -> (bool, String) {
    let args: Vec<String> = ["doctor"].iter().chain(more).map(|&word| word.to_owned()).collect();
    run(&server_binary(), &args, "").await
}

/// The verdict and the words of a finding.
fn finding<'a>(told: &'a Value, name: &str) -> (&'a str, &'a str) {
    let findings = told["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {told:#}"));
    (found["verdict"].as_str().unwrap(), found["found"].as_str().unwrap())
}

#[test]
fn it_tries_rings_cores_syncs_and_peers_and_leaves_nothing() {
    if server_is_etcd() {
        return skip("it is a command of Pinion");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = format!("--peers={}", peer.local_addr().unwrap());
        let data = format!("--data-dir={}", work.join("data/not/made/yet").display());
        let before = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let (_, told) = doctor(&[&data, "--cores=0", &peers, "-w", "json"]).await;
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
        for name in ["io_uring set up", "pinning", "peer", "kernel", "data directory"] {
            assert_eq!(finding(&told, name).0, "pass", "{name}: {told:#}");
        }
        for name in ["sync of the log", "sync beside writes"] {
            let (verdict, found) = finding(&told, name);
            assert!(matches!(verdict, "pass" | "warn") && found.starts_with("p50 "), "{name}: {found}");
        }
        assert_eq!(told["changes"].as_array().unwrap().len(), 0);
        assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(), before);
        assert!(!work.join("data").exists() && fs::read_dir(work.path()).unwrap().count() == 0);
        assert!(told["placement"].is_string() && !told["reasons"].as_array().unwrap().is_empty(), "{told:#}");
        let unit = format!("--unit={}", work.join("pinion.service").display());
        assert!(doctor(&[&data, &unit]).await.1.contains("pinion.service"));
        let written = fs::read_to_string(work.join("pinion.service")).unwrap();
        for line in [
            format!("ExecStart={}", server_binary().display()),
            format!("ReadWritePaths={}", work.join("data/not/made/yet").display()),
        ] {
            assert!(written.lines().any(|has| has == line), "{line}: {written}");
        }
        let (is_well, told) = doctor(&[&data, &unit]).await;
        assert!(!is_well && told.contains("File exists"), "a unit that somebody has changed stays: {told}");
        fs::remove_file(work.join("pinion.service")).unwrap();
        // For people it is a line each, and a sum.
        let (_, told) = doctor(&[&data]).await;
        assert!(
            told.contains(" pass, ") && told.contains("io_uring set up") && told.contains("unknown pinning"),
            "{told}"
        );
    });
}

#[test]
fn what_would_keep_a_member_from_starting_fails_and_the_exit_code_says_so() {
    if server_is_etcd() {
        return skip("it is a command of Pinion");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        fs::write(work.join("file"), "").unwrap();
        let data = format!("--data-dir={}", work.join("file").display());
        let (is_well, told) =
            doctor(&[&data, "--peers=127.0.0.1:1,no.such.host.invalid:2380", "-w", "json"]).await;
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert!(!is_well && finding(&told, "data directory").0 == "fail", "{told:#}");
        // Nobody listens yet at the first, which is as far away; the second is nowhere.
        let peers: Vec<&Value> =
            told["findings"].as_array().unwrap().iter().filter(|finding| finding["name"] == "peer").collect();
        assert_eq!(
            (&peers[0]["verdict"], &peers[1]["verdict"]),
            (&"pass".into(), &"fail".into()),
            "{peers:?}"
        );
        if Path::new("/dev/shm").is_dir() {
            let (is_well, told) = doctor(&["--data-dir=/dev/shm/pinion-doctor"]).await;
            assert!(!is_well && told.contains("memory is not durable"), "{told}");
        }
        let (is_well, told) = doctor(&["--cores=8000"]).await;
        assert!(!is_well && told.contains("no thread can be pinned to core 8000"), "{told}");
    });
}
