//! The first bytes of a connection: which protocol they are, where a TLS record ends, and what a client's hello says.
//!
//! Claims, for any bytes: what the first bytes were judged to be they stay with more behind them; a record that is whole
//! stays so, and its bytes are bounded; a hello is read to the same names, protocols and suites however it is cut, and one
//! that is refused as a whole is refused in pieces. No more is held than a record and a read. Nothing panics.

use arbitrary::Unstructured;
use pinion::types::{FirstBytes, TLS_RECORD_BYTES_MAX, whole_tls_records};
use rustls::server::Acceptor;

use crate::{below, memory};

/// Steps of one handshake, as the server counts them.
const STEPS_MAX: usize = 64;

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 3 {
        0 => first_bytes(rest),
        1 => records(rest),
        _ => hello(rest),
    }
}

fn first_bytes(bytes: &[u8]) {
    let mut judged = None;
    for length in 0..=bytes.len().min(64) {
        let now = memory::bounded(0, || FirstBytes::judge(&bytes[..length]));
        assert!(judged.is_none() || judged == now, "{judged:?} became {now:?} at {length}");
        judged = now;
    }
    assert!(judged.is_some() || bytes.len() < 32, "undecided after {} bytes", bytes.len());
    if let Some(judged) = judged {
        assert!(!judged.complaint().is_empty());
    }
}

fn records(bytes: &[u8]) {
    let mut whole = 0;
    for length in 0..=bytes.len() {
        let now = whole_tls_records(&bytes[..length]);
        assert!(whole <= now && now <= length, "{now} of {length} bytes are whole, and {whole} were before");
        assert!(length - now < TLS_RECORD_BYTES_MAX, "{length} bytes are waited for behind {now}");
        whole = now;
    }
}

/// What a server knows of a client by its hello.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Hello { name: Option<String>, protocols: Vec<Vec<u8>>, suites: Vec<u16> },
    Refused,
    Awaited,
}

/// The hello in bytes that come in these pieces.
fn told(bytes: &[u8], mut piece: impl FnMut() -> usize) -> Told {
    let (mut acceptor, mut rest, mut input) = (Acceptor::default(), bytes, Vec::new());
    for _ in 0..STEPS_MAX {
        let taken = loop {
            let whole = whole_tls_records(&input);
            if 0 < whole {
                let behind = input.split_off(whole);
                break std::mem::replace(&mut input, behind);
            }
            let count = piece().clamp(1, rest.len().max(1)).min(rest.len());
            if count == 0 {
                return Told::Awaited;
            }
            input.extend_from_slice(&rest[..count]);
            rest = &rest[count..];
            assert!(input.len() < TLS_RECORD_BYTES_MAX + 4_096, "no more is kept than a record and a read");
        };
        let mut taken = &taken[..];
        while !taken.is_empty() {
            match acceptor.read_tls(&mut taken) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Told::Refused,
            }
            match acceptor.accept() {
                Ok(None) => {}
                Err(_) => return Told::Refused,
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Told::Hello {
                        name: hello.server_name().map(str::to_owned),
                        protocols: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
                        suites: hello.cipher_suites().iter().map(|suite| u16::from(*suite)).collect(),
                    };
                }
            }
        }
    }
    Told::Refused
}

fn hello(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let size = 1 + below(&mut input, 100);
    let bytes = input.take_rest();
    let whole = memory::bounded(16 * bytes.len() + (256 << 10), || told(bytes, || 4_096));
    let cut = told(bytes, || size);
    // A hello in too many steps is refused.
    match (&whole, &cut) {
        (Told::Hello { .. } | Told::Awaited, Told::Refused) => {}
        _ => assert_eq!(whole, cut, "in pieces of {size}"),
    }
}
