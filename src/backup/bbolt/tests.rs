use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::read::{BucketAt, Source};
use super::write::{put_buckets, put_metas};
use super::{Bucket, Fault, Layout, PAGE_BYTES, Reader, Root, Walk};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// A file of these buckets.
fn file(buckets: &[(&str, &Entries)]) -> Vec<u8> {
    let pass = |layout: &mut Layout, out: &mut Vec<u8>| {
        let mut roots: Vec<(&str, Root)> = Vec::new();
        for (name, entries) in buckets {
            let mut bucket = Bucket::default();
            for (key, value) in *entries {
                bucket.put_whole(layout, key, value, out);
            }
            roots.push((name, bucket.close(layout, out)));
        }
        put_buckets(layout, &roots, out)
    };
    let mut counted = Layout::counting();
    let mut nothing = Vec::new();
    let root = pass(&mut counted, &mut nothing);
    assert!(nothing.is_empty());
    let mut out = Vec::new();
    put_metas(&counted, root, &mut out);
    let mut layout = Layout::writing();
    assert_eq!(pass(&mut layout, &mut out), root);
    assert_eq!(layout.bytes(), counted.bytes());
    assert_eq!(out.len() as u64, layout.bytes());
    out
}

/// All that a file holds.
fn contents(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Entries)>, Fault> {
    let mut reader = Reader::open(bytes, bytes.len() as u64)?;
    let mut all = Vec::new();
    for (name, at) in reader.buckets()? {
        let mut entries = Entries::new();
        let mut walk = Walk::new(&mut reader, &at)?;
        while let Some(entry) = walk.next(&mut reader)? {
            entries.insert(entry.key.to_vec(), entry.value.to_vec());
        }
        all.push((name, entries));
    }
    Ok(all)
}

fn random_entries(random: &mut StdRng, count: usize, value_bytes_max: usize) -> Entries {
    (0..count)
        .map(|_| {
            let key: Vec<u8> = (0..random.random_range(1..40)).map(|_| random.random()).collect();
            (key, vec![random.random(); random.random_range(0..value_bytes_max)])
        })
        .collect()
}

#[test]
fn a_file_holds_what_was_written_whatever_the_sizes() {
    for seed in 0..60_usize {
        let mut random = StdRng::seed_from_u64(seed as u64);
        let (count, most) = ([0, 1, 2, 10, 300, 5_000][seed % 6], [1, 50, 3_000, 20_000][seed % 4]);
        let count = if 3_000 <= most { count.min(300) } else { count };
        let (one, two) = (random_entries(&mut random, count, most), random_entries(&mut random, 3, 10));
        let empty = Entries::new();
        let bytes = file(&[("a", &one), ("b", &empty), ("c", &two)]);
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
        let found = contents(&bytes).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        let expected = vec![(b"a".to_vec(), one), (b"b".to_vec(), empty), (b"c".to_vec(), two)];
        assert_eq!(found, expected, "seed {seed}");
    }
}

/// Numbers of children of all branch pages.
fn branches(bytes: &[u8]) -> Vec<u16> {
    let pages = bytes.chunks(PAGE_BYTES);
    let branches = pages.filter(|page| page[8..10] == [1, 0] && page[..8] != [0; 8]);
    branches.map(|page| u16::from_le_bytes([page[10], page[11]])).collect()
}

#[test]
fn every_branch_has_two_children_at_least_also_where_the_last_page_is_nearly_empty() {
    // 123 children fill a page.
    for leaves in [2, 3, 122, 123, 124, 125, 126, 245, 246, 247, 248, 249, 123 * 123 + 1] {
        // Each has a leaf to itself.
        let entries: Entries = (0..leaves as u64)
            .map(|number| ([&number.to_be_bytes()[..], &[b'_'; 9]].concat(), vec![0; PAGE_BYTES - 49]))
            .collect();
        let bytes = file(&[("key", &entries)]);
        let counts = branches(&bytes);
        assert!(!counts.is_empty() && counts.iter().all(|&count| 2 <= count), "{leaves}: {counts:?}");
        assert_eq!(contents(&bytes).unwrap()[0].1.len(), leaves);
    }
    let long: Entries = (0..9_u8).map(|number| (vec![number; 20_000], Vec::new())).collect();
    let bytes = file(&[("names", &long)]);
    assert_eq!(contents(&bytes).unwrap(), vec![(b"names".to_vec(), long)]);
}

fn small_file() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(7);
    let (one, two) = (random_entries(&mut random, 130, 20), random_entries(&mut random, 1, 5_000));
    file(&[("a", &one), ("b", &Entries::new()), ("c", &two)])
}

#[test]
fn every_flipped_bit_is_an_error_or_a_file_that_can_be_read() {
    let mut bytes = small_file();
    let (mut seen, mut kept) = (0, 0);
    for at in 0..bytes.len() {
        // Of what no page needs, one byte in many is enough.
        if bytes[at] == 0 && at % 1021 != 0 {
            continue;
        }
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            match contents(&bytes) {
                Err(_) => seen += 1,
                Ok(_) => kept += 1,
            }
            bytes[at] ^= 1 << bit;
        }
    }
    assert!(1_000 < seen && 1_000 < kept, "{seen} seen, {kept} not");
}

#[test]
fn every_file_that_is_cut_short_is_refused() {
    let bytes = small_file();
    for end in (0..bytes.len()).step_by(97).chain([0, 1, 15, 16, 79, 80, 4095, 4096, 8192, bytes.len() - 1]) {
        match contents(&bytes[..end]) {
            Err(Fault::NotBbolt) if end < 80 => {}
            Err(Fault::Cut { .. }) if 80 <= end => {}
            other => panic!("cut at {end}: {other:?}"),
        }
    }
    // etcd's own file is longer than what is in use.
    let longer = [bytes.clone(), vec![0xff; 3 * PAGE_BYTES]].concat();
    assert_eq!(contents(&longer).unwrap(), contents(&bytes).unwrap());
}

#[test]
fn random_bytes_in_random_places_end_no_reader() {
    let whole = small_file();
    for seed in 0..3_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..6) {
            // Where the elements are, more often than elsewhere.
            let page = random.random_range(0..bytes.len() / PAGE_BYTES);
            let area = [48, PAGE_BYTES][random.random_range(0..2)];
            let at = page * PAGE_BYTES + random.random_range(0..area);
            bytes[at] = random.random();
        }
        drop(contents(&bytes));
    }
}

/// A file with one page changed.
fn with(change: impl Fn(&mut [u8])) -> Result<Vec<(Vec<u8>, Entries)>, Fault> {
    let mut bytes = small_file();
    change(&mut bytes);
    contents(&bytes)
}

fn root_of(bytes: &[u8]) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[32..40].try_into().unwrap())).unwrap() * PAGE_BYTES
}

#[test]
fn pages_in_a_circle_absurd_lengths_and_what_overlaps_are_refused_by_name() {
    let problem = |result: Result<_, Fault>| match result {
        Err(Fault::Damaged { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    // A branch whose second child is the branch itself.
    let circle = with(|bytes| {
        let at = (2 * PAGE_BYTES..bytes.len()).step_by(PAGE_BYTES).find(|at| bytes[at + 8] == 1).unwrap();
        let own = (at / PAGE_BYTES) as u64;
        bytes[at + 40..at + 48].copy_from_slice(&own.to_le_bytes());
    });
    assert_eq!(problem(circle), "it is reached twice");
    let overflow = with(|bytes| {
        let root = root_of(bytes);
        bytes[root + 12..root + 16].copy_from_slice(&u32::MAX.to_le_bytes());
    });
    assert_eq!(problem(overflow), "it is longer than the file");
    // Ten entries with one and the same value.
    let overlap = with(|bytes| {
        let leaf = 2 * PAGE_BYTES;
        for element in 0..10 {
            let at = leaf + 16 + 16 * element;
            bytes[at + 4..at + 8]
                .copy_from_slice(&u32::try_from(1_000 - 16 * element).unwrap().to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&3_000_u32.to_le_bytes());
        }
    });
    assert_eq!(problem(overlap), "it says that it holds more than it can");
    let outside = with(|bytes| bytes[2 * PAGE_BYTES + 20..][..4].copy_from_slice(&u32::MAX.to_le_bytes()));
    assert_eq!(problem(outside), "an entry lies outside");
    let nowhere = with(|bytes| {
        let root = root_of(bytes);
        let element = root + 16;
        let key = element + u32::from_le_bytes(bytes[element + 4..element + 8].try_into().unwrap()) as usize;
        bytes[key + 1..key + 9].copy_from_slice(&u64::MAX.to_le_bytes());
    });
    assert_eq!(problem(nowhere), "something points at it, and the file does not have it");
}

#[test]
fn a_later_version_is_named_and_a_torn_meta_leaves_the_other() {
    let with_meta = |page: usize, change: &dyn Fn(&mut [u8])| {
        with(|bytes| {
            let meta = &mut bytes[page * PAGE_BYTES + 16..][..64];
            change(meta);
            let sum = super::fnv1a(&meta[..56]);
            meta[56..].copy_from_slice(&sum.to_le_bytes());
        })
    };
    assert!(matches!(with_meta(0, &|meta| meta[4] = 3), Err(Fault::Version(3))));
    assert!(matches!(with_meta(1, &|meta| meta[40..48].fill(0xff)), Err(Fault::Damaged { .. })));
    let whole = contents(&small_file()).unwrap();
    assert_eq!(with(|bytes| bytes[30] ^= 1).unwrap(), whole);
    assert_eq!(with(|bytes| bytes[PAGE_BYTES + 30] ^= 1).unwrap(), whole);
    let both = with(|bytes| {
        bytes[30] ^= 1;
        bytes[PAGE_BYTES + 30] ^= 1;
    });
    assert!(matches!(both, Err(Fault::NotBbolt)));
}

#[test]
fn a_file_that_says_it_is_huge_takes_no_memory() {
    struct Nothing;
    impl Source for Nothing {
        fn read_at(&mut self, _: u64, out: &mut [u8]) -> std::io::Result<()> {
            out.fill(0);
            Ok(())
        }
    }
    assert!(matches!(Reader::open(Nothing, u64::MAX), Err(Fault::TooLarge(_))));
    assert!(matches!(Reader::open(Nothing, 1 << 40), Err(Fault::NotBbolt)));
    let inline = BucketAt::Inline(vec![0; 3]);
    let bytes = small_file();
    let mut reader = Reader::open(&bytes[..], bytes.len() as u64).unwrap();
    assert!(Walk::new(&mut reader, &inline).is_err());
}
