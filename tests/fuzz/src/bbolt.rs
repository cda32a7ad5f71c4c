//! Snapshots, databases and logs of etcd out of a stranger's hands.
//!
//! Claims, for any bytes: the reader of bbolt and the import of what it finds answer, holding no more than a multiple of
//! the file. What is accepted is a store whose invariants hold and whose own export is accepted again, with the same
//! hash. A file that we have written and nobody damaged is accepted. The readers of etcd's log and of its snapshots
//! answer, holding no more than a multiple of what they were fed.

use arbitrary::Unstructured;
use pinion::apply::Machine;
use pinion::backup::bbolt::Reader;
use pinion::backup::etcd::{Reading, Segment, Snap};
use pinion::backup::{Contents, Export, ImportError, import};
use pinion::pb::etcdserverpb as pb;
use pinion::request::RequestKind;
use pinion::types::{LogIndex, Slice, Term};
use prost::Message as _;

use crate::requests::{AT, ignore, machine, request};
use crate::{below, bytes, memory};

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => drop(read(rest)),
        1 => damaged(&mut Unstructured::new(rest)),
        2 => log(&mut Unstructured::new(rest)),
        _ => drop(memory::bounded((1 << 20) + 64 * rest.len(), || Snap::read(rest))),
    }
}

fn read(file: &[u8]) -> Result<Contents, ImportError> {
    memory::bounded((2 << 20) + 64 * file.len(), || {
        let mut reader = Reader::open(file, file.len() as u64)?;
        import(&mut reader, 0, |_| {})
    })
}

/// The file of a machine, in slices of whatever size.
fn file(machine: &mut Machine, slice_ns: u64) -> Vec<u8> {
    let mut export = Export::begin(machine, LogIndex(9), Term(2));
    while export.measure(machine.store(), &mut Slice::of(slice_ns)).is_none() {}
    let mut out = Vec::new();
    while !export.write(machine.store(), &mut Slice::of(slice_ns), usize::MAX, &mut out) {}
    export.end(machine);
    out
}

fn damaged(input: &mut Unstructured<'_>) {
    let mut machine = machine();
    for _ in 0..below(input, 60) {
        let key = bytes(input, 3).to_vec();
        let (kind, body) = match below(input, 4) {
            0 => {
                let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
                (RequestKind::DeleteRange, delete.encode_to_vec())
            }
            1 => {
                let revision = machine.store().current_revision() - 2;
                (RequestKind::Compact, pb::CompactionRequest { revision, physical: false }.encode_to_vec())
            }
            _ => {
                let value = vec![7; below(input, 3) * 3_000];
                let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
                (RequestKind::Put, put.encode_to_vec())
            }
        };
        ignore(machine.apply(&request(kind, body), AT));
    }
    let hash = machine.store().hash_kv(machine.store().current_revision());
    let mut file = file(&mut machine, 1 + below(input, 50_000) as u64);
    let whole = read(&file).expect("nobody damaged it").store;
    assert_eq!(whole.hash_kv(whole.current_revision()), hash);
    for _ in 0..1 + below(input, 4) {
        let at = below(input, file.len());
        file[at] = input.arbitrary().unwrap_or(0xff);
    }
    if let Ok(contents) = read(&file) {
        contents.store.check_invariants();
        std::hint::black_box(contents.store.hash_kv(contents.store.current_revision()));
    }
}

fn log(input: &mut Unstructured<'_>) {
    let is_last = below(input, 2) == 0;
    let rest = bytes(input, 4_096);
    // The first record of a segment, so that what follows is looked at.
    let head = [&4_u64.to_le_bytes()[..], &[8, 4, 16, 0, 0, 0, 0, 0][..4], &[0; 4]].concat();
    for segment in [rest.to_vec(), [&head, rest].concat()] {
        drop(memory::bounded((1 << 20) + 64 * segment.len(), || {
            let mut reading = Reading::new(0);
            reading.segment(Segment { file: "x.wal", bytes: &segment, is_last })
        }));
    }
}
