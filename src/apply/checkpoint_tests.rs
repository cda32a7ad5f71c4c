use super::*;

use crate::apply::Applied;
use crate::apply::script::{machine, run};
use crate::pb::peer::PublishMember;
use crate::request::RequestKind;

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
    assert!(matches!(machine.apply(&request, crate::apply::script::AT), Applied::Now(Ok(_))));
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
    assert_eq!(refused(&with(0, 200)), RestoreError::Unknown { tag: 200, version: 1 });
    assert_eq!(refused(&with(0, DIRECTORIES)), RestoreError::Order { tag: DIRECTORIES });
    assert_eq!(refused(&with(1, 2)), RestoreError::Unknown { tag: 1, version: 2 });
    assert_eq!(refused(&with(0, KEY_SPACE)), RestoreError::Order { tag: KEY_SPACE });
    assert_eq!(refused(&with(0, END)), RestoreError::Order { tag: END });
    assert_eq!(refused(&[bytes.clone(), vec![0]].concat()), RestoreError::Trailing);
    let membership_bytes = HEADER_BYTES + u32::from_le_bytes(bytes[2..6].try_into().unwrap()) as usize;
    let twice = [&bytes[..membership_bytes], &bytes].concat();
    assert_eq!(refused(&twice), RestoreError::Order { tag: MEMBERSHIP });
    assert!(matches!(refused(&with(HEADER_BYTES, 0x0f)), RestoreError::Membership(_)));
}

/// `filled`, with leases: one with keys, one noted, one without anything.
fn leased() -> Machine {
    let mut machine = filled();
    for line in ["grant 9 60", "grant -4 9000000000", "grant 3 2", "grant 5 60", "note 9=30"] {
        run(&mut machine, line);
    }
    for n in 0..40 {
        run(&mut machine, &format!("put k{} late lease={}", n % 15, [9, 3, 0, 9][n % 4]));
    }
    run(&mut machine, "put only 1 lease=5");
    run(&mut machine, "del k3");
    run(&mut machine, "compact 230");
    machine
}

#[test]
fn leases_and_their_keys_come_back_whatever_the_cuts() {
    for (bytes_max, piece) in [(1, 1), (60, 7), (512, 1_000), (1 << 20, 1 << 20)] {
        let mut machine = leased();
        let told = run(&mut machine, "leases");
        assert!(told.starts_with("-4:9000000000[] 3:2[k") && told.contains("9:30/60[k"), "{told}");
        let bytes = stream(&mut machine, bytes_max, |_| ());
        let mut twin = restored(&bytes, piece).unwrap();
        assert_eq!(run(&mut twin, "leases"), told, "slices of {bytes_max}");
        assert_eq!(twin.leases(), machine.leases());
        assert_eq!(stream(&mut twin, bytes_max, |_| ()), bytes);
        // It goes on alike.
        let more =
            ["put k1 x", "put k1 y lease=-4", "revoke 9", "expire 3 5", "leases", "hash", "get \\0 \\0"];
        for line in more {
            assert_eq!(run(&mut twin, line), run(&mut machine, line), "{line}");
        }
    }
}

#[test]
fn leases_in_a_checkpoint_are_those_it_began_with() {
    let mut machine = leased();
    let told = run(&mut machine, "leases");
    let mut round = 0;
    let bytes = stream(&mut machine, 200, |machine| {
        for line in ["revoke 9", "grant 77 60", "put k1 x lease=77", "note 3=1", "expire 5", "put only 2"] {
            run(machine, line);
        }
        run(machine, &format!("grant {} 60", 1_000 + round));
        round += 1;
    });
    assert!(3 < round);
    assert_eq!(run(&mut restored(&bytes, 100).unwrap(), "leases"), told);
}

#[test]
fn a_stream_of_a_release_without_leases_still_opens() {
    // No such section is written where there are no leases: the stream is what it was before.
    let bytes = stream(&mut filled(), 512, |_| ());
    let mut rest = &bytes[..];
    let mut tags = Vec::new();
    while let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() {
        tags.push(header[0]);
        rest = &body[u32::from_le_bytes(header[2..].try_into().unwrap()) as usize..];
    }
    tags.dedup();
    assert_eq!(tags, [MEMBERSHIP, KEY_SPACE, END]);
    assert!(restored(&bytes, 100).unwrap().leases().is_empty());
}

#[test]
fn leases_that_cannot_be_are_refused() {
    let bytes = stream(&mut filled(), 4_096, |_| ());
    let membership = HEADER_BYTES + u32::from_le_bytes(bytes[2..6].try_into().unwrap()) as usize;
    let with = |records: &[(i64, u64, u64)]| {
        let leases = records
            .iter()
            .map(|&(id, ttl_s, remaining_s)| LeaseRecord { id, ttl_s, remaining_s, granted_at: 1 })
            .collect();
        let mut section = Vec::new();
        put_section(&mut section, LEASES, |out| Leases { leases }.encode(out).unwrap());
        restored(&[&bytes[..membership], &section, &bytes[membership..]].concat(), 100)
    };
    assert_eq!(with(&[(-1, 60, 59), (1, 9_000_000_000, 0)]).unwrap().leases().len(), 2);
    for records in [
        &[(0, 60, 0)][..],
        &[(2, 60, 0), (1, 60, 0)],
        &[(1, 60, 0), (1, 60, 0)],
        &[(1, 0, 0)],
        &[(1, 60, 60)],
        &[(1, 9_000_000_001, 0)],
    ] {
        assert!(matches!(with(records).err().unwrap(), RestoreError::Leases(_)), "{records:?}");
    }
    // A key names a lease that is not in the stream.
    let bytes = stream(&mut leased(), 1 << 20, |_| ());
    let len =
        |at: usize| HEADER_BYTES + u32::from_le_bytes(bytes[at + 2..at + 6].try_into().unwrap()) as usize;
    let section = len(0);
    assert_eq!(bytes[section], LEASES);
    let without = [&bytes[..section], &bytes[section + len(section)..]].concat();
    assert!(matches!(restored(&without, 100).err().unwrap(), RestoreError::Leases(_)));
    // Behind the key space it is too late.
    let end = bytes.len() - HEADER_BYTES;
    let late = [&bytes[..end], &bytes[section..section + len(section)], &bytes[end..]].concat();
    assert_eq!(restored(&late, 100).err().unwrap(), RestoreError::Order { tag: LEASES });
    let damaged = [&bytes[..section + HEADER_BYTES], &[0x0f], &bytes[section + HEADER_BYTES + 1..]].concat();
    assert!(matches!(restored(&damaged, 100).err().unwrap(), RestoreError::Leases(_)));
}

#[test]
fn alarms_come_back_and_a_stream_without_them_is_what_it_was_before_there_were_any() {
    let mut machine = leased();
    let without = stream(&mut machine, 512, |_| ());
    assert_eq!(restored(&without, 100).unwrap().alarms().iter().len(), 0);
    for line in ["alarm on corrupt 7", "alarm on space 8", "alarm on corrupt 0"] {
        run(&mut machine, line);
    }
    for (bytes_max, piece) in [(1, 1), (512, 1_000)] {
        let bytes = stream(&mut machine, bytes_max, |_| ());
        let mut twin = restored(&bytes, piece).unwrap();
        assert_eq!(twin.alarms(), machine.alarms());
        assert_eq!(run(&mut twin, "put k1 x"), "DataLoss etcdserver: corrupt cluster");
        assert_eq!(stream(&mut twin, bytes_max, |_| ()), bytes);
    }
    for line in ["alarm off corrupt 7", "alarm off space 8", "alarm off corrupt 0"] {
        run(&mut machine, line);
    }
    assert_eq!(stream(&mut machine, 512, |_| ()), without);
}

#[test]
fn alarms_that_this_version_cannot_heed_are_refused() {
    let bytes = stream(&mut filled(), 4_096, |_| ());
    let membership = HEADER_BYTES + u32::from_le_bytes(bytes[2..6].try_into().unwrap()) as usize;
    let section = |alarm| {
        let mut section = Vec::new();
        let alarms = vec![peer::AlarmRecord { member: 7, alarm }];
        put_section(&mut section, ALARMS, |out| peer::Alarms { alarms }.encode(out).unwrap());
        section
    };
    let with =
        |sections: &[u8]| restored(&[&bytes[..membership], sections, &bytes[membership..]].concat(), 100);
    assert_eq!(with(&section(2)).unwrap().alarms().iter().len(), 1);
    for alarm in [0, 3, -1] {
        assert!(matches!(with(&section(alarm)).err().unwrap(), RestoreError::Alarms(_)), "{alarm}");
    }
    let twice = [section(1), section(2)].concat();
    assert_eq!(with(&twice).err().unwrap(), RestoreError::Order { tag: ALARMS });
    let mut damaged = section(2);
    damaged[HEADER_BYTES] = 0x0f;
    assert!(matches!(with(&damaged).err().unwrap(), RestoreError::Alarms(_)));
}

fn raise(machine: &mut Machine, level: u32) {
    let body = peer::FormatLevel { level }.encode_to_vec();
    let request = crate::apply::script::request(RequestKind::FormatLevel, body);
    assert!(matches!(machine.apply(&request, crate::apply::script::AT), Applied::Now(Ok(_))));
}

/// The stream inside a checkpoint file.
fn stream_of_file(mut bytes: &[u8]) -> Vec<u8> {
    use crate::checkpoint::format::{Decoder, FRAME_HEADER_BYTES, Frame};
    let (mut decoder, mut stream) = (Decoder::default(), Vec::new());
    while let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let (payload, rest) = rest.split_at(decoder.payload_bytes(*head).unwrap());
        if let Frame::Block(block) = decoder.frame(*head, payload).unwrap() {
            stream.extend_from_slice(block);
        }
        bytes = rest;
    }
    decoder.finish().unwrap();
    stream
}

/// Written by a build of release 0.1.0, with every section that it has: a published member, an alarm, a session,
/// two leases, and a key space that was compacted.
#[test]
fn a_state_at_level_0_is_read_and_written_byte_for_byte_as_by_release_0_1_0() {
    let golden = stream_of_file(include_bytes!("golden/release-0.1.0.checkpoint"));
    let mut machine = restored(&golden, 100).unwrap();
    assert_eq!(machine.format_level(), FormatLevel(0));
    assert_eq!(run(&mut machine, "get k1 k4"), "rev 9 [k1=again@2/8/2 k3=swapped@4/9/2] of 2");
    assert_eq!((machine.leases().len(), machine.alarms().iter().len()), (2, 1));
    assert_eq!(stream(&mut machine, 256 << 10, |_| ()), golden);

    // One section more, and nothing else, is what it becomes when the level is raised.
    raise(&mut machine, 1);
    let membership = HEADER_BYTES + u32::from_le_bytes(golden[2..6].try_into().unwrap()) as usize;
    let section = [FORMAT_LEVEL, VERSION, 2, 0, 0, 0, 8, 1];
    let raised = [&golden[..membership], &section, &golden[membership..]].concat();
    assert_eq!(stream(&mut machine, 256 << 10, |_| ()), raised);
    let mut twin = restored(&raised, 7).unwrap();
    assert_eq!(twin.format_level(), FormatLevel(1));
    assert_eq!(stream(&mut twin, 256 << 10, |_| ()), raised);
    let twice = [&golden[..membership], &section, &section, &golden[membership..]].concat();
    assert_eq!(restored(&twice, 100).err().unwrap(), RestoreError::Order { tag: FORMAT_LEVEL });
}

#[test]
fn the_level_rises_and_never_falls_whatever_comes_again_or_late_and_whatever_is_wrong() {
    let mut machine = filled();
    for line in ["alarm on corrupt 7", "alarm on space 7"] {
        run(&mut machine, line);
    }
    for (asked, level) in [(0, 0), (1, 1), (1, 1), (0, 1), (3, 3), (2, 3)] {
        raise(&mut machine, asked);
        assert_eq!(machine.format_level(), FormatLevel(level), "asked for {asked}");
    }
    let garbage = crate::apply::script::request(RequestKind::FormatLevel, vec![0x0f]);
    assert!(matches!(machine.apply(&garbage, crate::apply::script::AT), Applied::Now(Err(_))));
    assert_eq!(machine.format_level(), FormatLevel(3));
}

#[test]
fn a_state_of_a_later_release_is_refused_by_its_level_before_anything_of_it_is_misread() {
    let later = FormatLevel::HIGHEST.next();
    let mut machine = filled();
    raise(&mut machine, later.0);
    let bytes = stream(&mut machine, 4_096, |_| ());
    let mut restore = Restore::new();
    let error = restore.feed(&bytes).unwrap_err();
    assert_eq!(restore.format_level(), later);
    assert!(matches!(error, RestoreError::FormatLevel(_)), "{error}");
    let told =
        format!("the format level: it is {later}, and this release reads up to {}", FormatLevel::HIGHEST);
    assert!(error.to_string().starts_with(&told), "{error}");
}
