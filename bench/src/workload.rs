//! What is asked of the server: the keys, the mix of operations, and each request's protobuf bytes.
//!
//! Keys are `bench/` and a zero-padded number, so that the whole space is one range and sorts by number;
//! values are random bytes, so that no compression helps. Everything follows from the seed.
//!
//! Cost: a request is written into a reused buffer: no allocation, one copy of key and value.

use crate::http2::Method;
use crate::messages;
use crate::people;
use crate::protobuf::{put_length, put_varint, varint_bytes};

/// The whole key space is the range from this ...
pub(crate) const PREFIX: &[u8] = b"bench/";
/// ... up to, but not including, this.
pub(crate) const PREFIX_END: &[u8] = b"bench0";
/// Leases of the grant scenario outlive it.
const LEASE_TTL_S: i64 = 3600;
/// Random bytes from which values are cut at changing offsets: twice as many as the largest value, and at least twice
/// these, which fit a core's cache.
const VALUE_POOL_BYTES: usize = 64 * 1024;
const VALUE_BYTES_MAX: usize = 1 << 20;

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Put a random key of the space
    Put,
    /// Linearizable get of a random key
    Get,
    /// Serializable get of a random key: any member answers alone
    SerializableGet,
    /// The first --page-keys keys of the range of all keys (linearizable): what listing in pages costs
    Page,
    /// Number of keys in the range of all keys (count_only, linearizable)
    Count,
    /// Guarded write: if the key exists put it, else put it too: one compare and one put
    Txn,
    /// Grant a lease of an hour, its id picked by the server
    LeaseGrant,
    /// Linearizable gets and puts, --read-percent of gets
    Mixed,
    /// A user's login with a wrong password: every one fails
    WrongLogin,
}

impl Scenario {
    /// As it is asked for on the command line.
    pub(crate) fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.expect("no scenario is hidden").get_name().to_owned()
    }

    /// Whether the keys have to be there beforehand.
    pub(crate) fn reads(self) -> bool {
        !matches!(self, Self::Put | Self::Txn | Self::LeaseGrant | Self::WrongLogin)
    }
}

/// The keys and values of a run.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Space {
    pub keys: u64,
    pub key_bytes: usize,
    pub value_bytes: usize,
}

impl Space {
    /// The range of all keys, of any space.
    pub(crate) fn bounds() -> (&'static [u8], &'static [u8]) {
        (PREFIX, PREFIX_END)
    }

    /// Why the space cannot be, if it cannot.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.keys == 0 {
            return Err("--keys must be at least 1".to_owned());
        }
        let needed = PREFIX.len() + (self.keys - 1).to_string().len();
        if self.key_bytes < needed {
            return Err(format!("--key-bytes must be at least {needed} for {} keys", self.keys));
        }
        if self.value_bytes > VALUE_BYTES_MAX {
            return Err(format!("--value-bytes must be at most {VALUE_BYTES_MAX}"));
        }
        Ok(())
    }

    /// Appends the key with this number.
    pub(crate) fn put_key(&self, out: &mut Vec<u8>, index: u64) {
        debug_assert!(index < self.keys);
        let start = out.len();
        out.extend_from_slice(PREFIX);
        out.resize(start + self.key_bytes, b'0');
        let mut rest = index;
        for digit in out[start + PREFIX.len()..].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("one digit");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
    }
}

/// The order in which a load fills the space, and how many keys go into one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill {
    pub batch: u64,
    pub is_shuffled: bool,
}

/// What a run asks for.
#[derive(Debug, Clone)]
pub(crate) enum Load {
    /// Random requests until time is up.
    Endless { scenario: Scenario, read_percent: u32, page_keys: u64 },
    /// Every key once.
    Fill(Fill),
}

/// A request that was just written, and how long an honest reply is at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub method: Method,
    pub reply_bytes_min: u32,
}

/// Writes one worker's requests.
#[derive(Debug)]
pub(crate) struct Generator {
    space: Space,
    load: Load,
    random: SplitMix64,
    values: Vec<u8>,
    /// The worker's own share of a fill: keys `next`, `next + stride`, ...
    next: u64,
    stride: u64,
    /// Coprime to the number of keys, so that multiplying by it visits every key once.
    shuffle: u64,
    scratch: Vec<u8>,
}

impl Generator {
    pub(crate) fn new(space: &Space, load: &Load, seed: u64, worker: u64, workers: u64) -> Self {
        let mut random = SplitMix64(seed ^ (worker + 1).wrapping_mul(0xA076_1D64_78BD_642F));
        let pool_bytes = VALUE_POOL_BYTES.max(space.value_bytes);
        let mut values = Vec::with_capacity(2 * pool_bytes);
        while values.len() < 2 * pool_bytes {
            values.extend_from_slice(&random.next().to_le_bytes());
        }
        let batch = if let Load::Fill(fill) = load { fill.batch } else { 1 };
        let shuffle = match load {
            Load::Fill(Fill { is_shuffled: true, .. }) => coprime_to(space.keys),
            _ => 1,
        };
        Self {
            space: space.clone(),
            load: load.clone(),
            random,
            values,
            next: worker * batch,
            stride: workers * batch,
            shuffle,
            scratch: Vec::new(),
        }
    }

    /// Writes the next request into `message`; `None` when a fill is through.
    pub(crate) fn next(&mut self, message: &mut Vec<u8>) -> Option<Call> {
        message.clear();
        match self.load {
            Load::Endless { scenario, read_percent, page_keys } => {
                Some(self.random_call(scenario, read_percent, page_keys, message))
            }
            Load::Fill(fill) => self.fill_call(fill, message),
        }
    }

    fn random_call(
        &mut self,
        scenario: Scenario,
        read_percent: u32,
        page_keys: u64,
        message: &mut Vec<u8>,
    ) -> Call {
        let scenario = match scenario {
            Scenario::Mixed if self.random.below(100) < u64::from(read_percent) => Scenario::Get,
            Scenario::Mixed => Scenario::Put,
            other => other,
        };
        let pair_bytes = self.space.key_bytes + self.space.value_bytes;
        match scenario {
            Scenario::Put | Scenario::Mixed => {
                let index = self.random.below(self.space.keys);
                self.put_put(message, index);
                Call { method: Method::Put, reply_bytes_min: reply_bytes(0) }
            }
            Scenario::Get | Scenario::SerializableGet => {
                let index = self.random.below(self.space.keys);
                put_length(message, 1, self.space.key_bytes);
                self.space.put_key(message, index);
                if scenario == Scenario::SerializableGet {
                    put_varint(message, 7, 1);
                }
                Call { method: Method::Range, reply_bytes_min: reply_bytes(pair_bytes) }
            }
            Scenario::Page => {
                put_whole_range(message);
                put_varint(message, 3, page_keys);
                let keys = usize::try_from(page_keys.min(self.space.keys)).expect("a page fits in memory");
                Call { method: Method::Range, reply_bytes_min: reply_bytes(keys * pair_bytes) }
            }
            Scenario::Count => {
                put_whole_range(message);
                put_varint(message, 9, 1);
                Call { method: Method::Range, reply_bytes_min: reply_bytes(2) }
            }
            Scenario::LeaseGrant => {
                messages::put_lease_grant(message, 0, LEASE_TTL_S);
                Call { method: Method::LeaseGrant, reply_bytes_min: reply_bytes(4) }
            }
            Scenario::WrongLogin => {
                let user = people::user(self.random.below(people::COUNT));
                for (field, text) in [(1, user.as_str()), (2, "wrong")] {
                    put_length(message, field, text.len());
                    message.extend_from_slice(text.as_bytes());
                }
                Call { method: Method::Authenticate, reply_bytes_min: 0 }
            }
            Scenario::Txn => {
                let index = self.random.below(self.space.keys);
                self.put_guarded_put(message, index);
                Call { method: Method::Txn, reply_bytes_min: reply_bytes(2) }
            }
        }
    }

    fn fill_call(&mut self, fill: Fill, message: &mut Vec<u8>) -> Option<Call> {
        if self.next >= self.space.keys {
            return None;
        }
        let first = self.next;
        self.next += self.stride;
        if fill.batch == 1 {
            self.put_put(message, self.shuffled(first));
            return Some(Call { method: Method::Put, reply_bytes_min: reply_bytes(0) });
        }
        let last = (first + fill.batch).min(self.space.keys);
        for slot in first..last {
            let put_bytes = self.put_bytes();
            put_length(message, 2, 1 + varint_bytes(put_bytes) + put_bytes); // success
            put_length(message, 2, put_bytes); // request_put
            self.put_put(message, self.shuffled(slot));
        }
        let ops = usize::try_from(last - first).expect("a batch fits in memory");
        Some(Call { method: Method::Txn, reply_bytes_min: reply_bytes(2 * ops) })
    }

    fn shuffled(&self, slot: u64) -> u64 {
        let spread = u128::from(slot) * u128::from(self.shuffle) % u128::from(self.space.keys);
        u64::try_from(spread).expect("below the number of keys")
    }

    fn put_bytes(&self) -> usize {
        let (key, value) = (self.space.key_bytes, self.space.value_bytes);
        2 + varint_bytes(key) + key + varint_bytes(value) + value
    }

    fn put_put(&mut self, message: &mut Vec<u8>, index: u64) {
        put_length(message, 1, self.space.key_bytes);
        self.space.put_key(message, index);
        put_length(message, 2, self.space.value_bytes);
        let offset = usize::try_from(self.random.below(VALUE_POOL_BYTES as u64)).expect("small");
        message.extend_from_slice(&self.values[offset..offset + self.space.value_bytes]);
    }

    /// `if create_revision(key) != 0 then put else put`: a write whatever the store holds.
    fn put_guarded_put(&mut self, message: &mut Vec<u8>, index: u64) {
        let mut put = std::mem::take(&mut self.scratch);
        put.clear();
        self.put_put(&mut put, index);
        put_length(message, 1, 2 + 2 + 1 + varint_bytes(self.space.key_bytes) + self.space.key_bytes + 2);
        put_varint(message, 1, 3); // result: NOT_EQUAL
        put_varint(message, 2, 1); // target: CREATE
        put_length(message, 3, self.space.key_bytes);
        self.space.put_key(message, index);
        put_varint(message, 5, 0); // create_revision
        for branch in [2, 3] {
            put_length(message, branch, 1 + varint_bytes(put.len()) + put.len());
            put_length(message, 2, put.len());
            message.extend_from_slice(&put);
        }
        self.scratch = put;
    }
}

/// A count-only request over the whole space.
pub(crate) fn count_request() -> Vec<u8> {
    let mut message = Vec::new();
    put_whole_range(&mut message);
    put_varint(&mut message, 9, 1);
    message
}

/// All keys of ours, without their values.
pub(crate) fn list_request() -> Vec<u8> {
    let mut message = Vec::new();
    put_whole_range(&mut message);
    put_varint(&mut message, 8, 1);
    message
}

/// Deletes the keys of these numbers.
pub(crate) fn delete_request(space: &Space, keys: std::ops::Range<u64>) -> Vec<u8> {
    let mut message = Vec::new();
    for (field, index) in [(1, keys.start), (2, keys.end)] {
        if index < space.keys {
            put_length(&mut message, field, space.key_bytes);
            space.put_key(&mut message, index);
        } else {
            put_length(&mut message, field, PREFIX_END.len());
            message.extend_from_slice(PREFIX_END);
        }
    }
    message
}

/// Compacts at a revision; answered when what it removes is gone.
pub(crate) fn compact_request(revision: u64) -> Vec<u8> {
    let mut message = Vec::new();
    put_varint(&mut message, 1, revision);
    put_varint(&mut message, 2, 1);
    message
}

/// A linearizable get of one key: the smallest question that needs a working quorum.
pub(crate) fn probe_request() -> Vec<u8> {
    let mut message = Vec::new();
    put_length(&mut message, 1, PREFIX.len());
    message.extend_from_slice(PREFIX);
    message
}

/// The part of a RangeResponse that the bench reads.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RangeReply {
    #[prost(bool, tag = "3")]
    pub more: bool,
    #[prost(int64, tag = "4")]
    pub count: i64,
}

fn reply_bytes(payload: usize) -> u32 {
    // The gRPC prefix, and a response header that is never empty.
    u32::try_from(5 + 2 + payload).expect("a reply is far below 4 GiB")
}

fn put_whole_range(message: &mut Vec<u8>) {
    put_length(message, 1, PREFIX.len());
    message.extend_from_slice(PREFIX);
    put_length(message, 2, PREFIX_END.len());
    message.extend_from_slice(PREFIX_END);
}

/// About 0.618 of `n`, moved to the next number without a common divisor: neighbours land far apart.
fn coprime_to(n: u64) -> u64 {
    let golden = u64::try_from(u128::from(n) * 618_033_989 / 1_000_000_000).expect("below n");
    (golden.max(1)..).find(|&step| gcd(step, n) == 1).expect("n + 1 has none")
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Steele, Lea and Flood's generator: two multiplications a number, and any seed is good.
#[derive(Debug)]
pub(crate) struct SplitMix64(pub u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform below `n`, to one part in 2^64 / n.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(n)) >> 64).expect("the high half")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::collections::BTreeSet;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Range {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        range_end: Vec<u8>,
        #[prost(int64, tag = "3")]
        limit: i64,
        #[prost(bool, tag = "7")]
        serializable: bool,
        #[prost(bool, tag = "9")]
        count_only: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Put {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Compare {
        #[prost(int32, tag = "1")]
        result: i32,
        #[prost(int32, tag = "2")]
        target: i32,
        #[prost(bytes = "vec", tag = "3")]
        key: Vec<u8>,
        #[prost(int64, optional, tag = "5")]
        create_revision: Option<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct RequestOp {
        #[prost(message, optional, tag = "2")]
        put: Option<Put>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Txn {
        #[prost(message, repeated, tag = "1")]
        compare: Vec<Compare>,
        #[prost(message, repeated, tag = "2")]
        success: Vec<RequestOp>,
        #[prost(message, repeated, tag = "3")]
        failure: Vec<RequestOp>,
    }

    fn space(keys: u64) -> Space {
        Space { keys, key_bytes: 32, value_bytes: 256 }
    }

    fn first<M: Message + Default>(scenario: Scenario) -> (Call, M) {
        let load = Load::Endless { scenario, read_percent: 50, page_keys: 100 };
        let mut message = Vec::new();
        let call = Generator::new(&space(100_000), &load, 1, 0, 1).next(&mut message).unwrap();
        (call, M::decode(&message[..]).unwrap())
    }

    #[test]
    fn hand_written_messages_say_what_protobuf_says() {
        let (call, put): (_, Put) = first(Scenario::Put);
        assert_eq!((call.method, put.key.len(), put.value.len()), (Method::Put, 32, 256));
        assert!(put.key.starts_with(b"bench/00000000000000000000"));
        let (call, get): (_, Range) = first(Scenario::Get);
        assert_eq!((call.method, get.key.len(), get.serializable), (Method::Range, 32, false));
        assert_eq!(call.reply_bytes_min, 5 + 2 + 288);
        let (_, get): (_, Range) = first(Scenario::SerializableGet);
        assert!(get.serializable);
        let (call, page): (_, Range) = first(Scenario::Page);
        assert_eq!((&page.key[..], &page.range_end[..], page.limit), (PREFIX, PREFIX_END, 100));
        assert_eq!(call.reply_bytes_min, 5 + 2 + 28_800);
        let (_, count): (_, Range) = first(Scenario::Count);
        assert!(count.count_only);
        assert_eq!(Range::decode(&count_request()[..]).unwrap(), count);
        let (call, txn): (_, Txn) = first(Scenario::Txn);
        assert_eq!(call.method, Method::Txn);
        assert_eq!((txn.compare[0].result, txn.compare[0].target), (3, 1));
        assert_eq!(txn.compare[0].create_revision, Some(0));
        let key = &txn.compare[0].key;
        assert_eq!(&txn.success[0].put.as_ref().unwrap().key, key);
        assert_eq!(txn.success, txn.failure);
    }

    /// Whatever the batch and the number of workers, a fill names every key exactly once.
    #[test]
    fn a_fill_visits_every_key_once() {
        for (keys, batch, workers, is_shuffled) in
            [(1, 1, 1, true), (1000, 1, 3, true), (1001, 100, 2, true), (1000, 7, 2, false)]
        {
            let load = Load::Fill(Fill { batch, is_shuffled });
            let mut seen = BTreeSet::new();
            for worker in 0..workers {
                let mut generator = Generator::new(&space(keys), &load, 1, worker, workers);
                let mut message = Vec::new();
                while let Some(call) = generator.next(&mut message) {
                    let puts = if call.method == Method::Put {
                        vec![Put::decode(&message[..]).unwrap()]
                    } else {
                        let txn = Txn::decode(&message[..]).unwrap();
                        txn.success.into_iter().map(|op| op.put.unwrap()).collect()
                    };
                    for put in puts {
                        assert_eq!(put.value.len(), 256);
                        assert!(seen.insert(put.key), "twice: {keys} {batch} {workers}");
                    }
                }
            }
            assert_eq!(seen.len() as u64, keys);
        }
    }

    #[test]
    fn equal_seeds_ask_equal_questions() {
        let load = Load::Endless { scenario: Scenario::Mixed, read_percent: 50, page_keys: 1 };
        let stream = |seed, worker| {
            let mut generator = Generator::new(&space(1000), &load, seed, worker, 2);
            let mut message = Vec::new();
            (0..100).map(|_| generator.next(&mut message).map(|_| message.clone())).collect::<Vec<_>>()
        };
        assert_eq!(stream(5, 0), stream(5, 0));
        assert_ne!(stream(5, 0), stream(6, 0));
        assert_ne!(stream(5, 0), stream(5, 1));
    }

    #[test]
    fn random_keys_cover_the_space_evenly() {
        let mut random = SplitMix64(3);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..=10_500).contains(&count)), "{counts:?}");
    }

    #[test]
    fn a_space_that_cannot_be_is_refused() {
        let refuse =
            |keys, key_bytes, value_bytes| Space { keys, key_bytes, value_bytes }.validate().is_err();
        assert!(refuse(0, 32, 256));
        assert!(refuse(1_000_000, 11, 256), "six digits do not fit behind the prefix");
        assert!(!refuse(1_000_000, 12, 256));
        assert!(!refuse(1, 32, 1 << 20) && refuse(1, 32, (1 << 20) + 1));
    }
}
