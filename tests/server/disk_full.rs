//! A full disk: writes are refused, reads go on, nothing acknowledged is lost, and space that comes
//! back is used. On a small tmpfs of its own, which needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, WorkDir, block_on, server_is_etcd, skip};
use tokio::time::Instant;

/// Room for several log segments and a few checkpoints of what the test writes.
const DISK_MIB: u64 = 640;

/// A tmpfs, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&at).unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m,mode=0700"), "pinion-test"])
            .arg(&at)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(Self(at))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into())
        }
    }

    /// Takes space until none is left, and returns the file that holds it.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&ballast).unwrap();
        for piece in [1 << 20, 4096] {
            let zeros = vec![0; piece];
            while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a server that a failed test left is killed after this.
        match Command::new("umount").arg("-l").arg(&self.0).status() {
            Ok(status) if status.success() => {}
            other => eprintln!("cannot unmount {}: {other:?}", self.0.display()),
        }
    }
}

#[test]
fn full_disk_refuses_writes_serves_reads_and_recovers_with_space() {
    if server_is_etcd() {
        return skip("etcd ends with a panic when its log cannot grow");
    }
    let work = WorkDir::new();
    let disk = match SmallDisk::mount(work.join("disk")) {
        Ok(disk) => disk,
        Err(reason) => return skip(&format!("no tmpfs can be mounted (root?): {}", reason.trim())),
    };
    block_on(Duration::from_secs(120), scenario(&disk));
}

async fn scenario(disk: &SmallDisk) {
    let mut launch = Launch::new(disk.0.join("data")).flag("--checkpoint-bytes=33554432");
    // The log of the process must not fill the disk under test, nor be refused by it.
    launch.log_path = Some(disk.0.with_extension("log"));
    let mut server = launch.start().await;
    let client = server.connect().await;
    let mut acknowledged = Vec::new();
    for _ in 0..10 {
        put(&client, &mut acknowledged).await.expect("there is room");
    }
    let ballast = disk.fill();

    // What is prepared may still be used up; then a clear refusal must come.
    let deadline = Instant::now() + Duration::from_secs(60);
    let refusal = loop {
        assert!(Instant::now() < deadline, "{} puts taken and no refusal", acknowledged.len());
        if let Err(error) = put(&client, &mut acknowledged).await {
            break error;
        }
    };
    assert!(server.is_running(), "it ended on a full disk: {}", server.output());
    match &refusal {
        CallError::Status { code: 8 | 14, message } => {
            assert!(message.contains("space"), "a refusal that does not say why: {message}");
        }
        other => panic!("not a clear refusal: {other}"),
    }
    println!("{} writes of 256 KiB, then {refusal}", acknowledged.len());
    check(&client, &acknowledged).await;

    fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = put(&client, &mut acknowledged).await {
        assert!(Instant::now() < deadline, "space is back and writes are still refused: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    check(&client, &acknowledged).await;

    // Full again, killed, and started on the full disk: reads and all that was acknowledged, or a
    // refusal that says why; with space all is there.
    let ballast = disk.fill();
    server.kill();
    let mut server = launch.spawn();
    if server.wait_ready().await.is_ok() {
        check(&server.connect().await, &acknowledged).await;
    } else {
        server.wait_exit().await.assert_says(&["space"]);
    }
    server.kill();
    fs::remove_file(&ballast).unwrap();
    let server = launch.start().await;
    check(&server.connect().await, &acknowledged).await;
    assert!(Path::new(&launch.data_dir).is_dir());
}

fn value(number: usize) -> Bytes {
    let mut value = format!("{number}:").into_bytes();
    value.resize(256 << 10, b'v');
    value.into()
}

async fn put(client: &Client, acknowledged: &mut Vec<usize>) -> Result<(), CallError> {
    // Few keys, so that checkpoints stay small and the log is what fills the disk.
    let number = acknowledged.len();
    let key = format!("k/{:02}", number % 16);
    let request = pb::PutRequest { key: key.into(), value: value(number), ..Default::default() };
    client.put(&request).await?;
    acknowledged.push(number);
    Ok(())
}

/// Each key holds its last acknowledged value, or the one that was refused without saying that it
/// was not written: a refusal may come after the log took it.
async fn check(client: &Client, acknowledged: &[usize]) {
    let answer = client.prefix("k/").await.expect("reads go on");
    for slot in 0..16 {
        let Some(last) = acknowledged.iter().rev().find(|number| **number % 16 == slot) else { continue };
        let key = format!("k/{slot:02}");
        let kv = answer.kvs.iter().find(|kv| kv.key == key.as_bytes());
        let found = &kv.unwrap_or_else(|| panic!("{key} is lost")).value;
        let next = acknowledged.len();
        assert!(
            *found == value(*last) || (next % 16 == slot && *found == value(next)),
            "{key} does not hold write {last}"
        );
    }
}
