//! Bytes that no etcd wrote, and the table of torn ends; what real etcds wrote is in `tests/backup`.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::wal::{Reading, Segment};
use super::{LogFault, Snap};
use crate::types::proto::put_varint;

/// A segment in the making.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    sum: u32,
}

fn field(out: &mut Vec<u8>, name: u64, value: u64) {
    put_varint(out, name << 3);
    put_varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, name: u64, value: &[u8]) {
    put_varint(out, name << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

impl Writer {
    fn record(&mut self, kind: u64, data: &[u8]) {
        let mut record = Vec::new();
        self.sum = crc32c::crc32c_append(self.sum, data);
        field(&mut record, 1, kind);
        field(&mut record, 2, self.sum.into());
        if !data.is_empty() {
            bytes_field(&mut record, 3, data);
        }
        let padding = (8 - record.len() % 8) % 8;
        let mark = if padding == 0 { 0 } else { 0x80 | padding as u64 };
        self.bytes.extend_from_slice(&(record.len() as u64 | mark << 56).to_le_bytes());
        self.bytes.extend_from_slice(&record);
        self.bytes.resize(self.bytes.len() + padding, 0);
    }

    fn entry(&mut self, index: u64, term: u64, data: &[u8]) {
        let mut entry = Vec::new();
        field(&mut entry, 2, term);
        field(&mut entry, 3, index);
        bytes_field(&mut entry, 4, data);
        self.record(2, &entry);
    }

    fn state(&mut self, term: u64, vote: u64, commit: u64) {
        let mut state = Vec::new();
        field(&mut state, 1, term);
        field(&mut state, 2, vote);
        field(&mut state, 3, commit);
        self.record(3, &state);
    }
}

fn log() -> Writer {
    let mut writer = Writer::default();
    writer.record(4, b"");
    let mut metadata = Vec::new();
    field(&mut metadata, 1, 7);
    field(&mut metadata, 2, 9);
    writer.record(1, &metadata);
    writer.record(5, b"");
    for index in 1..=20 {
        writer.entry(index, 2, &[3; 300]);
        writer.state(2, 7, index - 1);
    }
    writer
}

fn read(bytes: &[u8], is_last: bool) -> Result<Reading, LogFault> {
    let mut reading = Reading::new(0);
    reading.segment(Segment { file: "a.wal", bytes, is_last })?;
    Ok(reading)
}

#[test]
fn a_log_is_read_to_its_blank_end_and_later_entries_replace_earlier_ones() {
    let mut writer = log();
    writer.entry(18, 3, b"");
    writer.bytes.resize(64_000, 0);
    let reading = read(&writer.bytes, true).unwrap();
    assert_eq!((reading.member, reading.cluster), (7, 9));
    assert_eq!((reading.term, reading.vote, reading.commit), (2, 7, 19));
    let last = reading.entries.last().unwrap();
    assert_eq!((reading.entries.len(), last.index, last.term), (18, 18, 3));
    assert!(reading.torn.is_none());
}

#[test]
fn every_cut_is_a_torn_end_in_the_last_segment_and_damage_in_any_other() {
    let bytes = log().bytes;
    let whole = read(&bytes, true).unwrap();
    for end in 25..bytes.len() {
        let cut = read(&bytes[..end], true).unwrap();
        assert!(cut.entries.len() <= whole.entries.len());
        assert_eq!(cut.entries[..], whole.entries[..cut.entries.len()], "cut at {end}");
        if cut.torn.is_some() {
            assert!(read(&bytes[..end], false).is_err(), "cut at {end}");
        }
        // Behind it the file is blank.
        let mut blank = bytes[..end].to_vec();
        blank.resize(bytes.len() + 4_096, 0);
        let reading = read(&blank, true);
        assert!(reading.is_err() || reading.is_ok_and(|reading| reading.entries.len() <= 20));
    }
}

#[test]
fn every_flipped_bit_is_seen_but_for_the_types_of_records_which_no_sum_covers() {
    let mut bytes = log().bytes;
    bytes.resize(bytes.len() + 1024, 0);
    let whole = read(&bytes, true).unwrap();
    let mut types = Vec::new();
    let mut at = 0;
    while let Some(length) = bytes[at..].first_chunk::<8>().map(|length| u64::from_le_bytes(*length))
        && length != 0
    {
        types.push(at + 9);
        let padding = (length >> 56 & 7) * (length >> 63);
        at += 8 + usize::try_from((length & 0xffff) + padding).unwrap();
    }
    assert_eq!(types.len(), 43);
    // What such a flip makes of an entry, `member` finds missing; what it makes one of has a kind that is not known.
    for at in (0..bytes.len() - 1024).filter(|at| !types.contains(at)) {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            if let Ok(reading) = read(&bytes, true) {
                // A length that points behind the file is a torn end, padding and absent fields say nothing.
                assert!(reading.entries.len() <= whole.entries.len(), "byte {at}, bit {bit}");
                let same = reading.entries == whole.entries[..reading.entries.len()];
                assert!(same, "byte {at}, bit {bit}");
            }
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn random_bytes_end_no_reader() {
    let whole = log().bytes;
    for seed in 0..3_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..9) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        drop(read(&bytes, random.random()));
        let noise: Vec<u8> = (0..random.random_range(0..400)).map(|_| random.random()).collect();
        drop(read(&noise, true));
        drop(Snap::read(&noise));
    }
}
