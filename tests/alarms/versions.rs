//! A member beside members of a later release: what it does not know stops it by name.

use bytes::Bytes;
use pinion::membership::{MemberChange, MemberChangeKind};
use pinion::pb::peer;
use pinion::raft::EntryKind;
use pinion::types::{MemberId, Ticket};
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, server_is_etcd, skip};
use pinion_wal::map::MapStorage;
use pinion_wal::{Entry, Identity, SEGMENT_BYTES, Wal};
use prost::Message as _;

use crate::forge;

/// Exit code of a member that meets an entry it cannot apply.
const STATE_UNKNOWN: i32 = 70;

fn group(format: u32, kind: u32) -> Bytes {
    let request = peer::Request { kind, ..Default::default() };
    peer::Group { format, requests: vec![request], ..Default::default() }.encode_to_vec().into()
}

/// A removal, written by a release whose changes have format 2.
fn later_change() -> Bytes {
    let origin = pinion::request::Origin { member: MemberId(1), ticket: Ticket(1) };
    let change = MemberChange { origin, kind: MemberChangeKind::Remove(MemberId(7)) };
    let mut conf = change.to_conf_change();
    conf.context = peer::MemberChange { format: 2, ..Default::default() }.encode_to_vec().into();
    conf.encode()
}

#[test]
fn an_entry_of_a_later_release_stops_the_member_by_name_and_is_not_skipped() {
    if server_is_etcd() {
        return skip("the files are Pinion's");
    }
    let normal = EntryKind::Normal.number();
    let cases = [
        (normal, group(1, 77), "request of kind 77, which this version does not know"),
        (normal, group(3, 1), "group of requests of format 3, this version reads format 2"),
        (EntryKind::ConfChange.number(), later_change(), "format 2, this version reads 1"),
    ];
    block_on(TEST_DEADLINE, async {
        for (kind, data, words) in cases {
            let work = WorkDir::new();
            let launch = Launch::new(work.join("data"))
                .flag("--wal-sync=mmap")
                .flag("--heartbeat-interval=10")
                .flag("--election-timeout=100");
            let server = launch.start().await;
            let header = server.connect().await.put_kv("k", "v").await.unwrap().header.unwrap();
            assert!(server.terminate().await.status.success());

            let checkpoint = forge::newest_header(&launch.data_dir);
            let storage = MapStorage::open(&launch.data_dir.join("wal"), SEGMENT_BYTES).unwrap();
            let identity = Identity { cluster_id: header.cluster_id, member_id: header.member_id };
            let (mut wal, found) =
                Wal::open(storage, identity, checkpoint.index.0, checkpoint.term.0).unwrap();
            let (last, mut hard_state) = (found.entries.last().unwrap(), found.hard_state.unwrap());
            let entry = Entry { index: last.index + 1, term: last.term, kind, data };
            hard_state.commit = entry.index;
            wal.append(None, &[entry]).unwrap();
            wal.append(Some(hard_state), &[]).unwrap();
            wal.sync().unwrap();
            drop(wal);

            // Every start, until a release that knows it is started.
            for _start in 0..2 {
                let exit = launch.start_refused().await;
                assert_eq!(exit.status.code(), Some(STATE_UNKNOWN), "{}", exit.output);
                exit.assert_says(&[
                    words,
                    "a committed entry cannot be applied",
                    "Start a version that knows it",
                ]);
                assert!(!exit.output.contains("ready to serve"), "{}", exit.output);
            }
        }
    });
}
