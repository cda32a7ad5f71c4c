//! Exchanges a value in a stopped member's newest checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinion::apply::Restore;
use pinion::checkpoint::format::{Decoder, Encoder, FRAME_HEADER_BYTES, Frame, Header};
use tokio::time::Instant;

fn newest(data_dir: &Path) -> PathBuf {
    let entries = fs::read_dir(data_dir.join("checkpoint")).unwrap().map(|entry| entry.unwrap().path());
    let is_checkpoint = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "checkpoint");
    entries.filter(is_checkpoint).max().expect("every member has a checkpoint")
}

fn read(path: &Path) -> (Header, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut decoder) = (&bytes[..], Decoder::default());
    let (mut header, mut stream) = (None, Vec::new());
    while let Some((frame_header, behind)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let (payload, behind) = behind.split_at(decoder.payload_bytes(*frame_header).unwrap());
        match decoder.frame(*frame_header, payload).unwrap() {
            Frame::Header(found) => header = Some(found),
            Frame::Block(block) => stream.extend_from_slice(block),
            Frame::Trailer => {}
        }
        rest = behind;
    }
    decoder.finish().unwrap();
    (header.unwrap(), stream)
}

fn places(stream: &[u8], value: &str) -> Vec<usize> {
    let windows = stream.windows(value.len()).enumerate();
    windows.filter(|(_, window)| *window == value.as_bytes()).map(|(at, _)| at).collect()
}

/// What the newest checkpoint covers.
pub fn newest_header(data_dir: &Path) -> Header {
    read(&newest(data_dir)).0
}

/// Waits until a running member has a checkpoint with this value in it.
pub async fn wait_checkpoint(data_dir: &Path, value: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // It may be replaced while it is looked for.
        let path = newest(data_dir);
        if path.exists() && !places(&read(&path).1, value).is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "no checkpoint has {value}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Puts `forged` in the place of `value`, wherever it stands, with checksums that hold.
pub fn exchange(data_dir: &Path, value: &str, forged: &str) {
    assert_eq!(value.len(), forged.len());
    let path = newest(data_dir);
    let (header, mut stream) = read(&path);
    let places = places(&stream, value);
    assert!(!places.is_empty(), "{} has no {value}", path.display());
    for at in places {
        stream[at..at + forged.len()].copy_from_slice(forged.as_bytes());
    }
    let mut restore = Restore::new();
    restore.feed(&stream).unwrap();
    restore.finish().expect("still a state, only another one");
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&header, &mut out);
    for block in stream.chunks(64 << 10) {
        encoder.block(block, &mut out);
    }
    encoder.finish(&mut out);
    fs::write(&path, out).unwrap();
}
