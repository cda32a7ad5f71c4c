//! The corpora to start from, made by code: the same bytes at every call.

use pinion::checkpoint::format::{Encoder, Header};
use pinion::pb::etcdserverpb as pb;
use pinion::request::group::encode_group;
use pinion::request::{GroupId, RequestKind};
use pinion::types::{ClusterId, LogIndex, MemberId, Term};
use prost::Message as _;

use crate::requests;

/// Recipes of this many bytes at most; the README's `-max_len`.
pub const INPUT_BYTES_MAX: usize = 4_096;

/// Each target's name with its inputs.
#[must_use]
pub fn corpora() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("wal", recipes(8)),
        ("bbolt", recipes(4)),
        ("framing", framing()),
        ("headers", recipes(3)),
        ("http", http()),
        ("hello", hellos()),
        ("tokens", tokens()),
        ("auth", recipes(4)),
        ("nodes", nodes()),
        ("peer", recipes(4)),
        ("discovery", recipes(3)),
        ("requests", requests()),
        ("key_range", recipes(1)),
        ("checkpoint", checkpoint()),
    ]
}

/// Requests as clients send them, behind the recipe's choices.
fn http() -> Vec<Vec<u8>> {
    let head = b"POST /v3/kv/put?a=b HTTP/1.1\r\nHost: x:1\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nGrpc-Timeout: 1S\r\n\r\nrest";
    let chunks = b"5;a=b\r\nhello\r\n00A\r\n0123456789\r\n0\r\nT: x\r\n\r\nGET /";
    let text =
        br#"{"compare":[{"key":"YQ==","target":"VALUE","result":1,"value":""}],"success":[{"request_txn":
        {"success":[{"requestPut":{"key":"-_8","value":"YWJj","lease":"1e3"}}]}}],"x":[{}],"failure":null}"#;
    let stream = br#"{"a":"}{\"\\"} {"b":[{}]}{"#;
    let recipe = |mode: u8, choices: &[u8], bytes: &[u8]| [&[mode], choices, bytes].concat();
    vec![
        recipe(0, &[], head),
        recipe(0, &[], b"GET //v2/keys/./a%2F..%2f%ff/?dir=true HTTP/1.1\r\nHost: x\r\n\r\n"),
        recipe(1, &[0, 9], chunks),
        recipe(1, &[1, 5, 0, 9], b"hello, world"),
        recipe(2, &[4, 3], text),
        recipe(2, &[2, 1], br#"{"key":"YQ==","value":"Yg","prevKv":true}"#),
        recipe(3, &[1, 7], stream),
    ]
}

/// A client's hello as RFC 8446 has it, in one record.
fn hello() -> Vec<u8> {
    fn with_length(bytes: usize, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u64).to_be_bytes();
        [&length[8 - bytes..], content].concat()
    }
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &with_length(2, content)].concat();
    let name = with_length(2, &[&[0][..], &with_length(2, b"localhost")].concat());
    let protocols = [with_length(1, b"h2"), with_length(1, b"http/1.1")].concat();
    let share = [&[0, 0x1d][..], &with_length(2, &[7; 32])].concat();
    let extensions = [
        extension(0, &name),
        extension(10, &with_length(2, &[0, 0x1d, 0, 0x17])),
        extension(13, &with_length(2, &[4, 3, 8, 4])),
        extension(16, &with_length(2, &protocols)),
        extension(43, &with_length(1, &[3, 4, 3, 3])),
        extension(51, &with_length(2, &share)),
    ];
    let body = [
        vec![3, 3],
        vec![5; 32],
        with_length(1, &[6; 32]),
        with_length(2, &[0x13, 1, 0x13, 2, 0xc0, 0x2b]),
        vec![1, 0],
        with_length(2, &extensions.concat()),
    ];
    let message = [&[1][..], &with_length(3, &body.concat())].concat();
    [&[22, 3, 1][..], &with_length(2, &message)].concat()
}

fn hellos() -> Vec<Vec<u8>> {
    let mut inputs = vec![
        with_mode(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        with_mode(0, b"POST /v3/kv/range HTTP/1.1"),
        with_mode(0, b"SSH-2.0-x"),
        with_mode(0, &hello()),
        with_mode(1, &hello()),
    ];
    inputs.extend([0, 3, 90].map(|size| with_mode(2, &with_mode(size, &hello()))));
    inputs
}

fn tokens() -> Vec<Vec<u8>> {
    let token =
        pinion::auth::with_signature(pinion::auth::unsigned("HS256", "alice", 7, 1_700_000_000), b"signed");
    let mut inputs = recipes(5);
    for text in ["abcdefghijKLMNOP.18446744073709551615", "abcdefghijKLMNOP.07"] {
        inputs.push(with_mode(0, text.as_bytes()));
    }
    for header in ["Bearer abc.7", "Basic YWxpY2U6cDp3", "Bearer, abc.7"] {
        inputs.push(with_mode(1, header.as_bytes()));
    }
    inputs.push(with_mode(2, token.as_bytes()));
    inputs
}

/// Forms and paths behind the recipe's choices, and recipes of sequences.
fn nodes() -> Vec<Vec<u8>> {
    let mut inputs = recipes(4);
    for form in
        ["value=a+b%20c&ttl=5&dir", "value=%zz&a;b", "prevIndex=18446744073709551616&recursive=true&=&&"]
    {
        inputs.push([&[0, 9], form.as_bytes()].concat());
    }
    for path in ["/a/../..//b/./c/", "/%2e%2e/a%2Fb", "/\u{e4}/_h/\0", "/x"] {
        inputs.push([&[1, 1], path.as_bytes()].concat());
        inputs.push([&[1, 0x40], path.as_bytes()].concat());
    }
    inputs
}

/// `bytes_max` bytes at most, told by `seed` (SplitMix64).
#[must_use]
pub fn random(seed: u64, bytes_max: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let length = usize::try_from(next() % (bytes_max as u64 + 1)).expect("at most bytes_max");
    std::iter::repeat_with(next).flat_map(u64::to_le_bytes).take(length).collect()
}

/// Random recipes of growing length for each of the target's modes, which the first byte chooses.
fn recipes(modes: u8) -> Vec<Vec<u8>> {
    let lengths = [30, 100, 300, 1_000, INPUT_BYTES_MAX - 1];
    let mut inputs = Vec::new();
    for mode in 0..modes {
        for (number, length) in (0_u64..).zip(lengths) {
            inputs.push(with_mode(mode, &random(u64::from(mode) * 100 + number, length)));
        }
    }
    inputs
}

fn with_mode(mode: u8, rest: &[u8]) -> Vec<u8> {
    [&[mode], rest].concat()
}

fn framing() -> Vec<Vec<u8>> {
    let mut inputs = recipes(1);
    for text in ["plain", "100 % — ü", "%41%zz%4", "etcdserver: key is not provided"] {
        inputs.push(with_mode(1, text.as_bytes()));
    }
    for value in ["3H", "99999999u", "1n", "123456789S", "-1S", "5m"] {
        inputs.push(with_mode(2, value.as_bytes()));
    }
    for path in ["/etcdserverpb.KV/Put", "/a/b/c", "/", "application/grpc+proto", "application/grpc"] {
        inputs.push(with_mode(3, path.as_bytes()));
    }
    inputs
}

fn requests() -> Vec<Vec<u8>> {
    let mut inputs = recipes(3);
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    let range = pb::RangeRequest { key: "k".into(), range_end: "\0".into(), ..Default::default() };
    let mut txn = pb::TxnRequest::default();
    for request in [
        pb::request_op::Request::RequestPut(put.clone()),
        pb::request_op::Request::RequestRange(range.clone()),
    ] {
        txn.success.push(pb::RequestOp { request: Some(request) });
    }
    for (method, body) in (0_u8..).zip([put.encode_to_vec(), txn.encode_to_vec(), range.encode_to_vec()]) {
        inputs.push([&[0, method], body.as_slice()].concat());
    }
    let id = GroupId { member: requests::MEMBER, incarnation: 1, number: 1 };
    let group = encode_group(
        id,
        &[
            requests::request(RequestKind::Put, put.encode_to_vec()),
            requests::request(RequestKind::Txn, txn.encode_to_vec()),
        ],
    );
    inputs.push(with_mode(1, &group));
    inputs
}

fn checkpoint() -> Vec<Vec<u8>> {
    let mut inputs = recipes(4);
    let mut machine = requests::machine();
    for request in requests::history() {
        requests::ignore(machine.apply(&request, requests::AT));
    }
    let stream = requests::stream(&mut machine, 300);
    inputs.push(with_mode(0, &stream));
    let header = Header {
        cluster: ClusterId(5),
        member: MemberId(7),
        index: LogIndex(100),
        term: Term(3),
        voters: vec![MemberId(7)],
        learners: vec![MemberId(8)],
    };
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&header, &mut file);
    stream.chunks(500).for_each(|block| encoder.block(block, &mut file));
    encoder.finish(&mut file);
    inputs.push(with_mode(1, &file));
    inputs
}
