use super::{Decoder, Encoder, HpackError, decode_huffman, put_integer, take_integer};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| u8::try_from((b as char).to_digit(16).unwrap()).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn decode(decoder: &mut Decoder, hex: &str) -> String {
    let mut text = String::new();
    decoder
        .decode(&bytes(hex), |name, value| {
            text += &format!("{}: {}\n", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        })
        .unwrap();
    text
}

/// `index: (size) name: value` of the dynamic table, as Appendix C prints it.
fn table(decoder: &Decoder) -> Vec<String> {
    let line = |(name, value): &(Vec<u8>, Vec<u8>)| {
        format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
    };
    decoder.entries.iter().map(line).collect()
}

#[test]
fn rfc7541_c1_integers() {
    for (prefix_bits, value, hex) in [(5, 10, "0a"), (5, 1337, "1f9a0a"), (8, 42, "2a")] {
        let encoded = bytes(hex);
        let mut rest = &encoded[..];
        assert_eq!(take_integer(&mut rest, prefix_bits), Ok(value));
        assert!(rest.is_empty());
        if prefix_bits < 8 {
            let mut out = Vec::new();
            put_integer(&mut out, 0, prefix_bits, value);
            assert_eq!(out, encoded);
        }
    }
}

#[test]
fn rfc7541_c2_each_kind_of_literal() {
    let mut decoder = Decoder::new();
    let c21 = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    assert_eq!(decode(&mut decoder, c21), "custom-key: custom-header\n");
    assert_eq!(decoder.table_bytes, 55);
    let mut decoder = Decoder::new();
    assert_eq!(decode(&mut decoder, "040c 2f73 616d 706c 652f 7061 7468"), ":path: /sample/path\n");
    assert_eq!(decode(&mut decoder, "1008 7061 7373 776f 7264 0673 6563 7265 74"), "password: secret\n");
    assert_eq!(decode(&mut decoder, "82"), ":method: GET\n");
    assert_eq!(decoder.table_bytes, 0);
    assert_eq!(decoder.changes(), 0);
}

const C3_LISTS: [&str; 3] = [
    ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n",
    ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
    ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n",
];

#[test]
fn rfc7541_c3_requests_without_huffman() {
    let mut decoder = Decoder::new();
    assert_eq!(decode(&mut decoder, "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d"), C3_LISTS[0]);
    assert_eq!(decode(&mut decoder, "8286 84be 5808 6e6f 2d63 6163 6865"), C3_LISTS[1]);
    let third = "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65";
    assert_eq!(decode(&mut decoder, third), C3_LISTS[2]);
    assert_eq!(
        table(&decoder),
        ["custom-key: custom-value", "cache-control: no-cache", ":authority: www.example.com"]
    );
    assert_eq!(decoder.table_bytes, 164);
}

#[test]
fn rfc7541_c4_requests_with_huffman() {
    let mut decoder = Decoder::new();
    assert_eq!(decode(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"), C3_LISTS[0]);
    assert_eq!(decode(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf"), C3_LISTS[1]);
    let third = "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf";
    assert_eq!(decode(&mut decoder, third), C3_LISTS[2]);
    assert_eq!(decoder.table_bytes, 164);
}

const C5_LISTS: [&str; 3] = [
    ":status: 302\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com\n",
    ":status: 307\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com\n",
    ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: https://www.example.com\n\
     content-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n",
];

/// Both sections use a table of 256 bytes, so that entries are evicted: `3fe101` is that size update.
#[test]
fn rfc7541_c5_replies_without_huffman_evict_old_entries() {
    let mut decoder = Decoder::new();
    let first = "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
                 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
    assert_eq!(decode(&mut decoder, first), C5_LISTS[0]);
    assert_eq!(decoder.table_bytes, 222);
    assert_eq!(decode(&mut decoder, "4803 3330 37c1 c0bf"), C5_LISTS[1]);
    assert_eq!(decoder.table_bytes, 222);
    let third = "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a \
                 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d \
                 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31";
    assert_eq!(decode(&mut decoder, third), C5_LISTS[2]);
    assert_eq!(decoder.table_bytes, 215);
}

#[test]
fn rfc7541_c6_replies_with_huffman_evict_old_entries() {
    let mut decoder = Decoder::new();
    let first = "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
                 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    assert_eq!(decode(&mut decoder, first), C5_LISTS[0]);
    assert_eq!(decode(&mut decoder, "4883 640e ffc1 c0bf"), C5_LISTS[1]);
    let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d \
                 d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 \
                 3d50 07";
    assert_eq!(decode(&mut decoder, third), C5_LISTS[2]);
    assert_eq!(
        table(&decoder),
        [
            "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            "content-encoding: gzip",
            "date: Mon, 21 Oct 2013 20:13:22 GMT"
        ]
    );
    assert_eq!(decoder.table_bytes, 215);
}

#[test]
fn malformed_blocks_are_errors() {
    let mut decoder = Decoder::new();
    for (hex, error) in [
        ("80", HpackError::NoSuchIndex(0)),
        ("be", HpackError::NoSuchIndex(62)),
        ("ff", HpackError::Truncated),
        ("ffffffffffff7f", HpackError::IntegerTooLarge),
        ("400a63", HpackError::Truncated),
        ("3fe2ff01", HpackError::TableTooLarge(32_769)),
        ("0081ff0161", HpackError::BadHuffman), // eight bits of padding
    ] {
        assert_eq!(decoder.decode(&bytes(hex), |_, _| ()), Err(error), "{hex}");
    }
    assert_eq!(decode_huffman(&[0xFF; 4]), Err(HpackError::BadHuffman), "end of string inside");
    assert_eq!(decode_huffman(&[0x18]), Err(HpackError::BadHuffman), "padding that is not ones");
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, "400161 0162");
    assert_eq!(decoder.table_bytes, 34);
    let huge = format!("400161 7fa11f {}", "61".repeat(4128));
    decode(&mut decoder, &huge);
    assert_eq!(decoder.table_bytes, 0);
}

/// Random bytes never panic and never make the table outgrow its bound.
#[test]
fn garbage_is_refused_or_decoded_but_never_panics() {
    use rand::{RngExt, SeedableRng};
    let seed = 7;
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut decoder = Decoder::new();
        let length = rng.random_range(0..40);
        let block: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        refused += u32::from(decoder.decode(&block, |_, _| ()).is_err());
        assert!(decoder.table_bytes <= 4096, "seed {seed}: {block:02x?}");
    }
    assert!((1_000..19_900).contains(&refused), "{refused}: both paths are taken");
}

const FIELDS: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/etcdserverpb.KV/Put"),
    (":authority", "127.0.0.1:2379"),
    ("te", "trailers"),
];

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    decoder.decode(block, |name, value| fields.push((text(name), text(value)))).unwrap();
    fields
}

#[test]
fn a_repeated_request_costs_one_byte_a_field() {
    let owned: Vec<_> = FIELDS.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new());
    let mut first = Vec::new();
    assert!(!encoder.encode(&FIELDS, &mut first), "the first block inserts");
    assert_eq!(decoded(&mut decoder, &first), owned);
    let mut second = Vec::new();
    assert!(encoder.encode(&FIELDS, &mut second));
    assert_eq!(second.len(), FIELDS.len());
    assert_eq!(decoded(&mut decoder, &second), owned);
    // Another path shifts every index: the old block would now mean something else.
    let other = [FIELDS[0], FIELDS[1], (":path", "/etcdserverpb.KV/Range"), FIELDS[3], FIELDS[4]];
    let mut third = Vec::new();
    encoder.encode(&other, &mut third);
    decoded(&mut decoder, &third);
    let mut fourth = Vec::new();
    encoder.encode(&FIELDS, &mut fourth);
    assert_ne!(fourth, second);
    assert_eq!(decoded(&mut decoder, &fourth), owned);
}

#[test]
fn a_server_with_a_small_table_gets_literals() {
    let owned: Vec<_> = FIELDS.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new());
    let mut block = Vec::new();
    encoder.encode(&FIELDS, &mut block);
    decoded(&mut decoder, &block);
    encoder.on_table_bytes_max(0);
    for round in 0..2 {
        block.clear();
        assert_eq!(encoder.encode(&FIELDS, &mut block), round == 1, "the size update goes out once");
        assert_eq!(decoded(&mut decoder, &block), owned);
        assert_eq!(decoder.table_bytes, 0);
    }
}
