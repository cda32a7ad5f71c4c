//! First records of every kind, whole, changed and cut, put to a server's side as `carry` puts them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::*;

/// Two sides that can agree.
fn sides() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (
        Arc::new(server.with_single_cert(vec![certificate], key).unwrap()),
        Arc::new(client.with_root_certificates(roots).with_no_client_auth()),
    )
}

fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// What a server says to bytes that come in these pieces, and whether it goes on.
fn told(config: &Arc<ServerConfig>, bytes: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<u8>, bool) {
    let mut tls = Connection::Server(ServerConnection::new(Arc::clone(config)).unwrap());
    let (mut rest, mut input, mut said) = (bytes, Vec::new(), Vec::new());
    for _ in 0..STEPS_MAX {
        let taken = loop {
            if let Some(taken) = take_records(&mut input) {
                break taken;
            }
            let count = piece().clamp(1, rest.len().max(1)).min(rest.len());
            if count == 0 {
                return (said, true);
            }
            input.extend_from_slice(&rest[..count]);
            rest = &rest[count..];
            assert!(input.len() < 5 + (16 << 10) + 256 + 4096, "no more is kept than a record and a read");
        };
        let Stepped { tls: next, out, result } = step(tls, &taken);
        said.extend_from_slice(&out);
        if result.is_err() {
            return (said, false);
        }
        tls = next;
    }
    (said, false)
}

/// One change of those that a broken or hostile client could make.
fn change(random: &mut StdRng, bytes: &mut Vec<u8>) {
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..6) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes.truncate(at.max(1)),
        3 => bytes.insert(at, random.random()),
        4 => {
            // A length, most likely.
            let value: u16 = [0, 1, 0xff, 0x4000, 0xffff][random.random_range(0..5)];
            for (offset, byte) in value.to_be_bytes().into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at + offset) {
                    *place = byte;
                }
            }
        }
        _ => {
            let tail = bytes[at..].to_vec();
            bytes.extend_from_slice(&tail);
        }
    }
}

/// `PINION_HELLOS` asks for more of them.
#[test]
fn a_hello_is_answered_alike_however_it_is_cut_and_a_bad_one_ends_nothing_but_its_connection() {
    let rounds = std::env::var("PINION_HELLOS").map_or(300, |text| text.parse().unwrap());
    let seed = std::env::var("PINION_SEED").map_or(5, |text| text.parse().unwrap());
    println!("replay with PINION_SEED={seed} PINION_HELLOS={rounds}");
    let (server, client) = sides();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut answered, mut refused) = (0, 0);
    for round in 0..rounds {
        let mut bytes = hello(&client);
        let changes = random.random_range(0..4);
        for _ in 0..changes {
            change(&mut random, &mut bytes);
        }
        let (whole, goes_on) = told(&server, &bytes, || 4096);
        let mut pieces = StdRng::seed_from_u64(seed ^ round);
        let (cut, cut_goes_on) = told(&server, &bytes, || pieces.random_range(1..64));
        assert_eq!(goes_on, cut_goes_on, "round {round}");
        assert_eq!(whole.first(), cut.first(), "round {round}");
        assert!(whole.len() < 16 << 10, "round {round}: {} bytes are answered", whole.len());
        match (changes, whole.first()) {
            (0, first) => assert_eq!(first, Some(&22), "a good hello is answered"),
            (_, Some(22)) => answered += 1,
            _ => refused += 1,
        }
    }
    assert!(0 < answered && 0 < refused, "{answered} answered, {refused} refused");
    println!("{answered} changed hellos were answered, {refused} refused or left waiting");
}

/// Both sides of a handshake in which each shows a chain of `links` certificates, and what they send in pieces.
fn meet(links: usize, mut piece: impl FnMut() -> usize) -> (Connection, Connection) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().der().clone();
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_params(&params, &key);
    let leaf = rcgen::CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&leaf_key, &issuer)
        .unwrap();
    let chain: Vec<_> =
        std::iter::once(leaf.der().clone()).chain((1..links).map(|_| certificate.clone())).collect();
    let own = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.clone().into(),
        Arc::clone(&provider),
    );
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let server =
        server.with_client_cert_verifier(verifier.build().unwrap()).with_single_cert(chain.clone(), own());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_client_auth_cert(chain, own());
    let name = ServerName::try_from("localhost").unwrap();
    let mut sides = [
        Connection::Client(ClientConnection::new(Arc::new(client.unwrap()), name).unwrap()),
        Connection::Server(ServerConnection::new(Arc::new(server.unwrap())).unwrap()),
    ];
    // On their way to each side, and read by it.
    let mut wire: [std::collections::VecDeque<u8>; 2] = Default::default();
    let mut inputs = [Vec::new(), Vec::new()];
    let mut out = Vec::new();
    sides[0].write_tls(&mut out).unwrap();
    wire[1].extend(out);
    // What the client says first comes along with the end of its handshake.
    let mut has_spoken = false;
    while sides.iter().any(|side| side.is_handshaking()) || wire.iter().any(|wire| !wire.is_empty()) {
        assert!(wire.iter().any(|wire| !wire.is_empty()), "both wait: {:?}", inputs.each_ref().map(Vec::len));
        for side in 0..2 {
            let count = piece().max(1).min(wire[side].len());
            inputs[side].extend(wire[side].drain(..count));
            if !sides[side].is_handshaking() {
                keep(&mut sides[side], &std::mem::take(&mut inputs[side])).unwrap();
                sides[side].process_new_packets().unwrap();
                continue;
            }
            while sides[side].is_handshaking()
                && let Some(taken) = take_records(&mut inputs[side])
            {
                let place = &mut sides[side];
                let spent =
                    std::mem::replace(place, Connection::Server(ServerConnection::new(empty()).unwrap()));
                let Stepped { tls, out, result } = step(spent, &taken);
                result.unwrap();
                *place = tls;
                wire[1 - side].extend(out);
            }
            if !sides[side].is_handshaking() {
                keep(&mut sides[side], &std::mem::take(&mut inputs[side])).unwrap();
            }
            if side == 0 && !sides[0].is_handshaking() && !std::mem::replace(&mut has_spoken, true) {
                std::io::Write::write_all(&mut sides[0].writer(), b"the first words").unwrap();
                let mut out = Vec::new();
                while sides[0].wants_write() {
                    sides[0].write_tls(&mut out).unwrap();
                }
                wire[1].extend(out);
            }
        }
    }
    let [client, server] = sides;
    (client, server)
}

/// In the place of a connection that is elsewhere.
fn empty() -> Arc<ServerConfig> {
    sides().0
}

/// A network cuts where it likes: a chain of certificates is longer than one of its packets.
#[test]
fn a_handshake_with_certificates_on_both_sides_is_done_however_it_is_cut() {
    let seed = std::env::var("PINION_SEED").map_or(7, |text| text.parse().unwrap());
    println!("replay with PINION_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (links, most) in [(1, 1), (1, 300), (3, 1_448), (12, 700), (12, 4_096), (40, 4_096), (1, 100_000)] {
        for _ in 0..4 {
            let (_, mut server) = meet(links, || random.random_range(1..=most));
            let mut words = [0; 15];
            std::io::Read::read_exact(&mut server.reader(), &mut words).unwrap();
            assert_eq!(&words, b"the first words", "{links} certificates, {most} bytes at once");
        }
    }
}
