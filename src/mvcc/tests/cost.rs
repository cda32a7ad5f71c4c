//! What a key costs: memory and processor time, printed. Run by hand:
//! `cargo test --release --lib mvcc::tests::cost -- --ignored --nocapture --test-threads 1`

use super::{Random, checkpoint_of};
use crate::mvcc::{Restore, Store};
use crate::types::KeyRange;

/// Anonymous resident memory of this process.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn key(number: u64) -> Vec<u8> {
    format!("/registry/some/objects/{number:09}").into_bytes()
}

/// Time this thread was on a processor, in nanoseconds: on a busy machine the clock says little.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn measure(what: &str, count: u64, mut work: impl FnMut(u64)) {
    let start = processor_time();
    for number in 0..count {
        work(number);
    }
    let each = (processor_time() - start) / count;
    println!("  {what:<44} {each:>8} ns");
}

fn put(store: &mut Store, key: &[u8], value: &[u8]) {
    let mut txn = store.begin();
    txn.put(key, value, 0);
    txn.commit();
}

/// Numbers below `count`, each once, in random order.
fn shuffled(count: u64) -> Vec<u64> {
    let mut random = Random::new(1);
    let mut numbers: Vec<_> = (0..count).collect();
    for index in (1..numbers.len()).rev() {
        numbers.swap(index, random.index(index + 1));
    }
    numbers
}

fn cost_at(keys: u64) {
    let value = [b'v'; 256];
    assert_eq!(key(0).len(), 32);
    println!("{keys} keys of 32 B with 256 B values");
    {
        let before = anonymous_bytes();
        let mut store = Store::new();
        measure("put, new keys in ascending order", keys, |number| put(&mut store, &key(number), &value));
        let each = (anonymous_bytes() - before) / keys;
        println!("  memory per key, ascending: {each} B = key + value + {} B", each.saturating_sub(288));
    }
    let order = shuffled(keys);
    let before = anonymous_bytes();
    let mut store = Store::new();
    measure("put, new keys in random order", keys, |number| {
        put(&mut store, &key(order[usize::try_from(number).unwrap()]), &value);
    });
    let each = anonymous_bytes().saturating_sub(before) / keys;
    println!("  memory per key, random: {each} B (pages of the store before may be reused)");
    println!("  held in the log per key: {} B", store.bytes_held() / keys);
    let mut random = Random::new(2);
    let mut sum = 0;
    let rounds = keys.min(300_000);
    measure("(of which making a random key)", rounds, |_| sum += key(random.below(keys)).len());
    measure("get, random", rounds, |_| {
        sum += store.get(&key(random.below(keys)), i64::MAX).unwrap().value.len()
    });
    measure("count of a random range", rounds, |_| {
        let (start, end) = (key(random.below(keys)), key(random.below(keys)));
        sum +=
            usize::try_from(store.count(KeyRange::Between { start: &start, end: &end }, i64::MAX)).unwrap();
    });
    measure("page of 100 keys, values read", rounds / 30, |_| {
        let start = key(random.below(keys - 100));
        sum += store
            .scan(KeyRange::From(&start), i64::MAX)
            .take(100)
            .map(|kv| usize::from(kv.value[9]))
            .sum::<usize>();
    });
    measure("page of 100 keys, keys only", rounds / 30, |_| {
        let start = key(random.below(keys - 100));
        sum += store.scan(KeyRange::From(&start), i64::MAX).take(100).map(|kv| kv.key.len()).sum::<usize>();
    });
    measure("put, overwrite in random order", keys, |_| put(&mut store, &key(random.below(keys)), &value));
    let pinned = store.current_revision() - i64::try_from(keys / 10).unwrap();
    measure("get at an older revision", rounds, |_| {
        sum += usize::from(store.get(&key(random.below(keys)), pinned).is_some());
    });
    measure("put, overwrite of one hot key", keys, |_| put(&mut store, &key(7), &value));
    measure("get of the hot key at a random revision", rounds, |_| {
        let at = store.current_revision() - i64::try_from(random.below(keys)).unwrap();
        sum += store.get(&key(7), at).unwrap().value.len();
    });
    store.compact(store.current_revision());
    let (mut longest, mut slices) = (0, 0);
    let start = processor_time();
    loop {
        let slice = processor_time();
        let done = store.compact_slice(1_000);
        longest = longest.max((processor_time() - slice) / 1_000);
        slices += 1;
        if done {
            break;
        }
    }
    println!(
        "  compaction: {} ms, {slices} slices, longest {longest} us",
        (processor_time() - start) / 1_000_000
    );
    let each = anonymous_bytes().saturating_sub(before) / keys;
    println!("  memory per key after it: {each} B; held in the log {} B", store.bytes_held() / keys);
    let start = processor_time();
    let hash = store.hash_kv(store.current_revision());
    println!("  hash {:08x}: {} ms", hash.hash, (processor_time() - start) / 1_000_000);
    for number in 0..100 {
        put(&mut store, &key(number), &value); // allocators give memory back as they are used
    }
    let each = anonymous_bytes() / keys;
    println!("  memory of the process per key a little later: {each} B");
    let start = processor_time();
    let blocks = checkpoint_of(&mut store, 1 << 20);
    println!("  checkpoint written: {} ms, {} blocks", (processor_time() - start) / 1_000_000, blocks.len());
    drop(store);
    let start = processor_time();
    let mut restore = Restore::new();
    let mut records_done = start;
    for block in &blocks {
        restore.feed(block).unwrap();
        if block[0] == 2 {
            records_done = processor_time();
        }
    }
    let store = restore.finish().unwrap();
    let (records, all) = ((records_done - start) / 1_000_000, (processor_time() - start) / 1_000_000);
    println!("  restored: {all} ms ({records} ms of them records), {} keys", store.keys_count());
    assert_eq!(store.compact_revision() + 100, store.current_revision());
    assert_ne!((sum, hash.hash), (0, 0));
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_ten_thousand_keys() {
    cost_at(10_000);
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_a_million_keys() {
    cost_at(1_000_000);
}
