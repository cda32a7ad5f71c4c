use super::*;
use prost::Message as _;

use crate::apply::script::{machine, run};
use crate::apply::{Applied, RequestKind};
use crate::pb::peer::PublishMember;

fn stream(machine: &mut Machine, bytes_max: usize, mut between: impl FnMut(&mut Machine)) -> Vec<u8> {
    let mut checkpoint = machine.begin_checkpoint();
    let mut out = Vec::new();
    while !machine.checkpoint_slice(&mut checkpoint, bytes_max, &mut out) {
        between(machine);
    }
    machine.end_checkpoint(checkpoint);
    out
}

fn publish(machine: &mut Machine, name: &str) {
    let published = PublishMember { id: 7, name: name.into(), client_urls: vec![] };
    let request = crate::apply::script::request(RequestKind::PublishMember, published.encode_to_vec());
    assert!(matches!(machine.apply(&request), Applied::Now(Ok(_))));
}

fn filled() -> Machine {
    let mut machine = machine();
    publish(&mut machine, "n7");
    for n in 0..200 {
        run(&mut machine, &format!("put k{} v{n}", n % 20));
    }
    run(&mut machine, "del k3 k5");
    run(&mut machine, "compact 50");
    run(&mut machine, "work");
    machine
}

fn restored(bytes: &[u8], piece: usize) -> Result<Machine, RestoreError> {
    let mut restore = Restore::new();
    for piece in bytes.chunks(piece.max(1)) {
        restore.feed(piece)?;
    }
    restore.finish()
}

const READS: [&str; 4] = ["get \\0 \\0", "get k k9 rev=60", "get k1 rev=50", "hash 150"];

#[test]
fn a_restored_machine_answers_as_the_one_that_was_written() {
    let mut machine = filled();
    let bytes = stream(&mut machine, 512, |_| ());
    for piece in [1, 2, 7, 1_000, bytes.len()] {
        let mut twin = restored(&bytes, piece).unwrap();
        twin.store().check_invariants();
        for line in READS {
            assert_eq!(run(&mut twin, line), run(&mut machine, line), "{line}, fed by {piece}");
        }
        assert_eq!(twin.cluster(), machine.cluster());
        assert_eq!(stream(&mut twin, 512, |_| ()), bytes);
    }
}

#[test]
fn a_checkpoint_shows_the_state_it_began_with_whatever_is_written_meanwhile() {
    let mut machine = filled();
    let before = stream(&mut machine, 512, |_| ());
    let mut writes = 0;
    let bytes = stream(&mut machine, 512, |machine| {
        run(machine, &format!("put k{} late", writes % 25));
        run(machine, "del k7");
        run(machine, &format!("compact {}", 60 + writes));
        run(machine, "work");
        publish(machine, "late");
        writes += 1;
    });
    assert!(5 < writes, "cut into {writes} slices only");
    let (mut twin, mut expected) = (restored(&bytes, 100).unwrap(), restored(&before, 100).unwrap());
    for line in READS {
        assert_eq!(run(&mut twin, line), run(&mut expected, line), "{line}");
    }
    assert_eq!(twin.cluster(), expected.cluster());
}

#[test]
fn a_cut_stream_is_refused_at_every_byte() {
    let bytes = stream(&mut filled(), 4_096, |_| ());
    for end in 0..bytes.len() {
        assert!(restored(&bytes[..end], 777).is_err(), "accepted {end} of {} bytes", bytes.len());
    }
}

#[test]
fn what_is_not_known_or_out_of_place_is_refused() {
    let bytes = stream(&mut filled(), 4_096, |_| ());
    let refused = |bytes: &[u8]| restored(bytes, 100).err().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(refused(&with(0, 9)), RestoreError::Unknown { tag: 9, version: 1 });
    assert_eq!(refused(&with(1, 2)), RestoreError::Unknown { tag: 1, version: 2 });
    assert_eq!(refused(&with(0, KEY_SPACE)), RestoreError::Order { tag: KEY_SPACE });
    assert_eq!(refused(&with(0, END)), RestoreError::Order { tag: END });
    assert_eq!(refused(&[bytes.clone(), vec![0]].concat()), RestoreError::Trailing);
    let membership_bytes = HEADER_BYTES + u32::from_le_bytes(bytes[2..6].try_into().unwrap()) as usize;
    let twice = [&bytes[..membership_bytes], &bytes].concat();
    assert_eq!(refused(&twice), RestoreError::Order { tag: MEMBERSHIP });
    assert!(matches!(refused(&with(HEADER_BYTES, 0x0f)), RestoreError::Membership(_)));
}
