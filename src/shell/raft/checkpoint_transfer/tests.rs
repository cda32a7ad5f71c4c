//! Two transports on loopback, a checkpoint file on one side and an empty directory on the other.

use std::fs;
use std::path::Path;

use futures_lite::future;
use glommio::{LocalExecutorBuilder, Placement};
use prost::Message as _;

use super::begin::Begin;
use super::*;
use crate::apply::checkpoint::Restore;
use crate::checkpoint::format::Header;
use crate::config::Url;
use crate::membership::Cluster;
use crate::mvcc::Store;
use crate::pb::etcdserverpb::PutRequest;
use crate::pb::peer as pb;
use crate::request::{EntryId, Origin, Request, RequestKind};
use crate::shell::net::listen;
use crate::shell::peer::{PeerConfig, PeerEvent};
use crate::types::{Term, Ticket};

const PATIENCE: Duration = Duration::from_secs(20);
const INDEX: u64 = 500;

fn run(work: impl AsyncFnOnce() + Send + 'static) {
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(512 << 10)
        .ring_depth(128)
        .preempt_timer(Duration::from_millis(100));
    let thread = std::thread::Builder::new().spawn(move || {
        builder.make().unwrap().run(async {
            // The runtime may lose a wake-up (`pulse`); a timer brings it back.
            glommio::spawn_local(async {
                loop {
                    glommio::timer::sleep(Duration::from_millis(10)).await;
                }
            })
            .detach();
            let late = async {
                glommio::timer::sleep(PATIENCE).await;
                panic!("the test takes too long");
            };
            future::or(Box::pin(work()), late).await;
        });
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

fn cluster(id: u64) -> Cluster {
    let members = (1..=2)
        .map(|id| pb::MemberRecord {
            id,
            peer_urls: vec![format!("http://127.0.0.1:{id}")],
            ..Default::default()
        })
        .collect();
    let record = pb::Membership { cluster_id: id, members, removed: vec![] };
    Cluster::decode(record.encode_to_vec().into()).unwrap()
}

/// A state of about `bytes`.
fn machine(cluster_id: u64, bytes: usize) -> Machine {
    const VALUE_BYTES: usize = 50_000;
    let mut machine = Machine::new(Store::new(), cluster(cluster_id));
    for number in 0..bytes.div_ceil(VALUE_BYTES) {
        let put = PutRequest {
            key: format!("k{number:05}").into(),
            value: vec![u8::try_from(number % 251).unwrap(); VALUE_BYTES].into(),
            ..Default::default()
        };
        let origin = Origin { member: MemberId(1), ticket: Ticket(0) };
        let request =
            Request { origin, kind: RequestKind::Put, body: put.encode_to_vec().into(), login: None };
        let at = EntryId { index: LogIndex(2 + number as u64), term: Term(3) };
        drop(machine.apply(&request, at));
    }
    machine
}

fn header(cluster: u64, member: u64, index: u64) -> Header {
    Header {
        cluster: ClusterId(cluster),
        member: MemberId(member),
        index: LogIndex(index),
        term: Term(3),
        voters: vec![MemberId(1), MemberId(2)],
        learners: Vec::new(),
    }
}

fn write_checkpoint(dir: &Path, cluster: u64, index: u64, machine: &mut Machine) {
    let mut blocks = Vec::new();
    let mut checkpoint = machine.begin_checkpoint();
    loop {
        let mut block = Vec::new();
        let is_last = machine.checkpoint_slice(&mut checkpoint, 100_000, &mut block);
        blocks.push(block);
        if is_last {
            break;
        }
    }
    machine.end_checkpoint(checkpoint);
    checkpoint_file::write_whole(dir, &header(cluster, 1, index), blocks).unwrap();
}

fn meta(index: u64) -> CheckpointMeta {
    let Header { index, term, voters, learners, .. } = header(1, 1, index);
    CheckpointMeta { index, term, voters, learners }
}

/// The message by which member 1 announces the checkpoint.
fn announcement(index: u64) -> Message {
    let CheckpointMeta { index, term, voters, learners } = meta(index);
    let ids = |members: Vec<MemberId>| members.into_iter().map(|member| member.0).collect();
    let snapshot =
        pb::RaftSnapshot { index: index.0, term: term.0, voters: ids(voters), learners: ids(learners) };
    let message = pb::RaftMessage {
        format: 1,
        kind: crate::raft::MessageKind::Snapshot as u32,
        to: 2,
        from: 1,
        term: 3,
        snapshot: Some(snapshot),
        ..Default::default()
    };
    Message::decode(message.encode_to_vec().into()).unwrap()
}

/// One member's transport and transfers.
struct Side {
    transport: Rc<Transport>,
    transfers: RefCell<Transfers>,
    bell: Doorbell,
    url: Url,
    dir: tempfile::TempDir,
}

impl Side {
    fn start(member: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::at(member, dir)
    }

    fn at(member: u64, dir: tempfile::TempDir) -> Self {
        let bell = Doorbell::new(Arc::default());
        let transport = Transport::new(PeerConfig::new(ClusterId(1), MemberId(member), member), bell.clone());
        let listener = listen::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        transport.listen(listener, false);
        let place = Place { dir: dir.path().to_owned(), cluster: ClusterId(1), member: MemberId(member) };
        let helpers = Helpers::start().unwrap();
        let transfers = RefCell::new(Transfers::new(place, LogIndex(1), helpers, bell.clone()));
        let url = Url::parse(&format!("http://{address}")).unwrap();
        Self { transport, transfers, bell, url, dir }
    }

    fn knows(&self, member: u64, other: &Side) {
        self.transport.set_peers([(MemberId(member), vec![other.url.clone()])]);
    }

    /// What the raft role does with streams, until there is a result.
    async fn serve(&self) -> Sent {
        loop {
            while let Some(event) = self.transport.take_event() {
                if let PeerEvent::Bulk(reader) = event {
                    self.transfers.borrow_mut().receive(reader);
                }
            }
            if let Some(sent) = self.transfers.borrow_mut().take_sent() {
                return sent;
            }
            self.bell.wait_once(|| self.transport.has_event()).await;
        }
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn pair() -> (Side, Side) {
    let (a, b) = (Side::start(1), Side::start(2));
    a.knows(2, &b);
    b.knows(1, &a);
    (a, b)
}

/// Sends from `a` until that has ended.
async fn send(a: &Side, b: &Side, index: u64) -> Sent {
    a.transfers.borrow_mut().send(&a.transport, announcement(index));
    future::or(a.serve(), b.serve()).await
}

/// What `b` reads of its own directory at its next start.
fn assert_own_checkpoint(b: &Side, index: u64, expected: &mut Machine) {
    let mut restore = Restore::new();
    let found = checkpoint_file::load_newest(b.dir.path(), |part| match part {
        checkpoint_file::Part::Header(..) => Ok(()),
        checkpoint_file::Part::Block(block) => restore.feed(block).map_err(|error| error.to_string()),
    });
    assert_eq!(found.unwrap(), Some(header(1, 2, index)), "under its own id");
    assert_same(&restore.finish().unwrap(), expected);
}

fn assert_same(found: &Machine, expected: &Machine) {
    let hash = |machine: &Machine| {
        let revision = machine.store().current_revision();
        (revision, machine.store().hash_kv(revision).hash)
    };
    assert_eq!(hash(found), hash(expected));
}

#[test]
fn a_checkpoint_arrives_as_a_file_of_the_receiver_and_a_machine_and_older_files_go() {
    run(async || {
        let (a, b) = pair();
        let mut state = machine(1, 8_000_000);
        write_checkpoint(a.dir.path(), 1, INDEX, &mut state);
        write_checkpoint(b.dir.path(), 1, 3, &mut machine(1, 10));
        let sent = send(&a, &b, INDEX).await;
        assert!(sent.arrived);
        assert_eq!((sent.peer, sent.message), (MemberId(2), Some(announcement(INDEX))));
        assert!(!b.transfers.borrow().has_arrived(&meta(INDEX + 1)));
        assert!(b.transfers.borrow().has_arrived(&meta(INDEX)));
        assert_eq!(b.files().len(), 2, "the old one is there until the new one is installed");
        let Arrived { machine } = b.transfers.borrow_mut().take_arrived(&meta(INDEX));
        assert_same(&machine, &state);
        while b.files().len() > 1 {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        assert_own_checkpoint(&b, INDEX, &mut state);
    });
}

#[test]
fn a_broken_stream_is_resumed_where_it_broke_and_one_of_another_file_from_the_start() {
    run(async || {
        let (a, b) = pair();
        let mut state = machine(1, 4_000_000);
        write_checkpoint(a.dir.path(), 1, INDEX, &mut state);
        let source = checkpoint_file::path_of(a.dir.path(), LogIndex(INDEX));
        // As far as the receiver gets before the sender is gone: a frame is cut in the middle.
        let whole = fs::read(&source).unwrap();
        // The first is of another file: nothing of it is used, and the second begins anew.
        for generation_differs in [true, false] {
            let helpers = Helpers::start().unwrap();
            let opened = Source::open(&helpers, a.dir.path(), &meta(INDEX));
            let mut begin = opened.begin().await.unwrap();
            begin.generation ^= u64::from(generation_differs);
            let sending = async {
                let mut writer = a.transport.open_bulk(MemberId(2), begin.encode()).await.unwrap();
                assert_eq!(writer.offset(), 0);
                writer.write(Bytes::copy_from_slice(&whole[..1_234_567])).await.unwrap();
                // Taken in when the thread has written some of it.
                while !b.files().iter().any(|name| name.ends_with(".incoming")) {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
            };
            future::or(sending, async { drop(b.serve().await) }).await;
            let broken = async {
                while b.transfers.borrow().receiver.partial.borrow().is_none() {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
            };
            future::or(broken, async { drop(b.serve().await) }).await;
        }
        let offset = b.transfers.borrow().receiver.partial.borrow().as_ref().unwrap().received();
        assert!(0 < offset && offset <= 1_234_567, "{offset}");
        // What was sent before is not read again: were it asked for, it would not fit.
        let mut damaged = whole.clone();
        damaged[20..usize::try_from(offset).unwrap()].fill(0);
        let times = fs::File::open(&source).unwrap().metadata().unwrap().modified().unwrap();
        fs::write(&source, damaged).unwrap();
        // The header frame is looked at, so it stays.
        let mut head = fs::read(&source).unwrap();
        head[..200].copy_from_slice(&whole[..200]);
        fs::write(&source, head).unwrap();
        fs::File::options().write(true).open(&source).unwrap().set_modified(times).unwrap();
        assert!(send(&a, &b, INDEX).await.arrived);
        assert_own_checkpoint(&b, INDEX, &mut state);
    });
}

#[test]
fn damage_in_the_middle_is_refused_with_its_place_and_nothing_is_left_of_it() {
    run(async || {
        let (a, b) = pair();
        write_checkpoint(a.dir.path(), 1, INDEX, &mut machine(1, 2_000_000));
        let source = checkpoint_file::path_of(a.dir.path(), LogIndex(INDEX));
        let mut bytes = fs::read(&source).unwrap();
        bytes[1_000_000] ^= 1;
        fs::write(&source, bytes).unwrap();
        assert!(!send(&a, &b, INDEX).await.arrived);
        assert!(!b.transfers.borrow().has_arrived(&meta(INDEX)));
        assert_eq!(b.files(), Vec::<String>::new());
    });
}

#[test]
fn a_directory_that_takes_no_file_refuses_and_the_next_attempt_succeeds() {
    run(async || {
        let (a, b) = pair();
        let mut state = machine(1, 1_000_000);
        write_checkpoint(a.dir.path(), 1, INDEX, &mut state);
        fs::remove_dir(b.dir.path()).unwrap();
        assert!(!send(&a, &b, INDEX).await.arrived);
        fs::create_dir(b.dir.path()).unwrap();
        assert!(send(&a, &b, INDEX).await.arrived);
        assert_own_checkpoint(&b, INDEX, &mut state);
    });
}

#[test]
fn a_full_disk_in_the_middle_is_a_fault_that_names_the_file_and_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = machine(1, 1_000_000);
    write_checkpoint(dir.path(), 1, INDEX, &mut state);
    let whole = fs::read(checkpoint_file::path_of(dir.path(), LogIndex(INDEX))).unwrap();
    let mut decoder = crate::checkpoint::format::Decoder::default();
    let head: [u8; 8] = whole[..8].try_into().unwrap();
    let length = decoder.payload_bytes(head).unwrap();
    assert!(decoder.frame(head, &whole[8..8 + length]).is_ok());
    let begin = Begin {
        header: header(1, 1, INDEX),
        frame: whole[..8 + length].to_vec().into(),
        bytes: whole.len() as u64,
        generation: 0,
    };
    let mut incoming = Incoming::create(dir.path(), 1, begin, MemberId(2)).unwrap();
    incoming.output = Some(checkpoint_file::Output::create(Path::new("/dev/full")).unwrap());
    let fault = incoming.take(&whole).and_then(|()| incoming.finish().map(drop)).unwrap_err();
    assert!(
        matches!(&fault, Fault::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{fault}"
    );
    assert!(fault.to_string().contains("00000000000001f4"), "{fault}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the sender's file alone");
}

#[test]
fn a_checkpoint_that_is_foreign_or_overtaken_is_refused_before_its_first_byte() {
    run(async || {
        let (a, b) = pair();
        write_checkpoint(a.dir.path(), 9, INDEX, &mut machine(9, 1_000));
        assert!(!send(&a, &b, INDEX).await.arrived);
        write_checkpoint(a.dir.path(), 1, INDEX, &mut machine(1, 1_000));
        b.transfers.borrow().on_applied(LogIndex(INDEX));
        assert!(!send(&a, &b, INDEX).await.arrived);
        assert_eq!(b.files(), Vec::<String>::new());
        // Nothing is there to be sent.
        assert!(!send(&a, &b, INDEX + 1).await.arrived);
    });
}

#[test]
fn what_arrived_is_known_when_its_message_was_lost_and_forgotten_when_the_log_got_past_it() {
    run(async || {
        let (a, b) = pair();
        write_checkpoint(a.dir.path(), 1, INDEX, &mut machine(1, 1_000_000));
        assert!(send(&a, &b, INDEX).await.arrived);
        // The whole file but its header may be gone: nothing of it is asked for.
        let source = checkpoint_file::path_of(a.dir.path(), LogIndex(INDEX));
        let length = fs::metadata(&source).unwrap().len();
        let head = fs::read(&source).unwrap()[..200].to_vec();
        fs::write(&source, head).unwrap();
        fs::File::options().write(true).open(&source).unwrap().set_len(length).unwrap();
        assert!(send(&a, &b, INDEX).await.arrived);
        assert!(b.transfers.borrow().has_arrived(&meta(INDEX)));
        b.transfers.borrow().on_applied(LogIndex(INDEX + 3));
        assert!(!b.transfers.borrow().has_arrived(&meta(INDEX)));
    });
}

#[test]
fn a_newer_stream_takes_the_place_of_one_that_stands_still() {
    run(async || {
        let (a, b) = pair();
        let mut state = machine(1, 1_000_000);
        write_checkpoint(a.dir.path(), 1, INDEX, &mut state);
        let helpers = Helpers::start().unwrap();
        let begin = Source::open(&helpers, a.dir.path(), &meta(INDEX)).begin().await.unwrap();
        let opening = async { Some(a.transport.open_bulk(MemberId(2), begin.encode()).await.unwrap()) };
        let serving = async {
            drop(b.serve().await);
            None
        };
        let mut stuck = future::or(opening, serving).await.unwrap();
        assert!(send(&a, &b, INDEX).await.arrived);
        let error = loop {
            if let Err(error) = stuck.write(Bytes::from_static(b"late")).await {
                break error;
            }
            glommio::timer::sleep(Duration::from_millis(1)).await;
        };
        assert!(error.to_string().contains(SUPERSEDED), "{error}");
        assert_own_checkpoint(&b, INDEX, &mut state);
    });
}
