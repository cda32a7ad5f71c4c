//! Starts the real binary on an image and holds it to what was acknowledged before the cut.

#![expect(clippy::disallowed_types, reason = "images are real files for a real process")]

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;

use pinion_kit::Launch;
use pinion_kit::client::{CallError, Client};
use pinion_kit::disk::{Content, Node};
use pinion_kit::judge::ledger::{self, Ledger};
use pinion_kit::pb::etcdserverpb as pb;

/// Makes the image's files. What is zero stays a hole.
pub fn write(node: &Node, at: &Path) -> io::Result<()> {
    match node {
        Node::Dir(nodes) => {
            if !at.exists() {
                DirBuilder::new().mode(0o700).create(at)?;
            }
            nodes.iter().try_for_each(|(name, node)| write(node, &at.join(name)))
        }
        Node::File(content) => write_file(content, at),
    }
}

fn write_file(content: &Content, at: &Path) -> io::Result<()> {
    let file = File::create(at)?;
    file.set_len(content.bytes())?;
    content.runs().iter().try_for_each(|(offset, bytes)| file.write_all_at(bytes, *offset))
}

/// Reads a directory of real files.
pub fn read(at: &Path) -> io::Result<Node> {
    if !fs::metadata(at)?.is_dir() {
        return Ok(Node::File(Content::from_bytes(&fs::read(at)?)));
    }
    let mut nodes = BTreeMap::new();
    for entry in fs::read_dir(at)? {
        let name = entry?.file_name().into_string().expect("the server's names are plain");
        let node = read(&at.join(&name))?;
        nodes.insert(name, node);
    }
    Ok(Node::Dir(nodes))
}

/// What recovery made of an image.
pub struct Survivor {
    /// With everything decided that was in doubt.
    pub ledger: Ledger,
    /// Recovery dropped a torn tail.
    pub had_torn_tail: bool,
}

/// Starts a server on files that a cut left. An error says which promise was broken.
pub async fn check(launch: &Launch, mut ledger: Ledger) -> Result<Survivor, String> {
    let mut server = launch.spawn();
    server.wait_ready().await.map_err(|reason| format!("start refused: {reason}"))?;
    let said = |error: CallError| format!("a recovered server answered: {error}");
    let client = Client::connect(server.client_port()).await.map_err(said)?;
    let mut content = ledger::Content::new();
    let mut revision = 0;
    for prefix in ["k/", "p/", "r/"] {
        let answer = client.prefix(prefix).await.map_err(said)?;
        revision = answer.header.ok_or("an answer without a header")?.revision;
        for kv in answer.kvs {
            let name = String::from_utf8_lossy(&kv.key).into_owned();
            content.insert(name, (kv.value.to_vec(), kv.mod_revision));
        }
    }
    let (compacted, compaction_sent) = (ledger.compacted, ledger.compaction_sent);
    ledger.settle(revision, content)?;
    if 1 < compacted {
        let read_at = |revision| {
            let request = pb::RangeRequest { key: "r/000".into(), revision, ..Default::default() };
            let client = client.clone();
            async move { client.range(&request).await }
        };
        if let Err(error) = read_at(compaction_sent).await {
            return Err(format!("unreadable at {compaction_sent}, and no compaction went further: {error}"));
        }
        if let Ok(_answer) = read_at(compacted - 1).await {
            return Err(format!("an acknowledged compaction at {compacted} is forgotten"));
        }
    }
    // The log goes on from here.
    let answer = client.put_kv("after the cut", "written").await.map_err(said)?;
    let next = answer.header.ok_or("an answer without a header")?.revision;
    if next != revision + 1 {
        return Err(format!("the first write after revision {revision} has revision {next}"));
    }
    let had_torn_tail = server.output().contains("unfinished write");
    server.kill();
    Ok(Survivor { ledger, had_torn_tail })
}
