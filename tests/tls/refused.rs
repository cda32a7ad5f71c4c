//! Certificates that are refused, each with its reason, and those that Go takes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use pinion_kit::program::run;
use pinion_kit::tls::{self, Authority, Holder};
use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, installed};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA256, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, date_time_ymd,
};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, SignatureScheme};

use crate::programs::{Secured, credentials};

/// Whether a call goes through. With TLS 1.3 a client hears of a refusal only behind its own last word.
async fn calls(member: &Secured, authority: &Authority, holder: Option<&Holder>) -> Result<(), String> {
    let client = tls::connect(member.port, &authority.certificate, holder).await;
    let client = client.map_err(|error| error.to_string())?;
    client.status().await.map(drop).map_err(|error| error.to_string())
}

#[test]
fn certificates_are_refused_with_their_reason_and_nobody_else_notices() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (authority, other) = (Authority::new(&work, "ca"), Authority::new(&work, "other"));
        let (good, revoked) = (authority.issue("good"), authority.issue("revoked"));
        let list = work.join("list.crl");
        fs::write(&list, authority.revoke(&[&revoked])).unwrap();
        let more = [
            "--client-cert-auth".to_owned(),
            format!("--client-crl-file={}", list.display()),
            "--client-cert-allowed-hostname=localhost,other.example".to_owned(),
        ];
        let member = Secured::start(&work, &authority, &more).await;
        calls(&member, &authority, Some(&good)).await.unwrap();
        let kind = &PKCS_ECDSA_P256_SHA256;
        let expired = authority.issue_with("expired", kind, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        });
        let early =
            authority.issue_with("early", kind, |params| params.not_before = date_time_ymd(2200, 1, 1));
        let for_servers = authority.issue_with("for-servers", kind, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let elsewhere = authority.issue_with("elsewhere", kind, |params| {
            params.subject_alt_names =
                vec![rcgen::SanType::DnsName("else.example".to_owned().try_into().unwrap())];
        });
        let stranger = other.issue("stranger");
        for (holder, reason) in [
            (None, "peer sent no certificates"),
            (Some(&expired), "certificate expired"),
            (Some(&early), "certificate not valid yet"),
            (Some(&revoked), "revoked"),
            (Some(&for_servers), "does not allow extended key usage"),
            (Some(&elsewhere), "client certificate authentication failed"),
            (Some(&stranger), "UnknownIssuer"),
        ] {
            let refused = calls(&member, &authority, holder).await;
            assert!(refused.is_err(), "{reason}");
            calls(&member, &authority, Some(&good)).await.unwrap();
            if let Some(holder) = holder {
                println!("{}: {}", holder.certificate.display(), refused.unwrap_err());
            }
        }
        // A cause is told once in ten seconds, so what all of them say is in one of a few lines.
        let output = member.server.says("rejected connection on client endpoint").await;
        assert!(output.contains("127.0.0.1:") && output.contains("peer sent no certificates"), "{output}");
    });
}

/// One member a reason, so that each line is there.
#[test]
fn the_log_names_address_and_reason() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (authority, other) = (Authority::new(&work, "ca"), Authority::new(&work, "other"));
        let revoked = authority.issue("revoked");
        let list = work.join("list.crl");
        fs::write(&list, authority.revoke(&[&revoked])).unwrap();
        let expired = authority.issue_with("expired", &PKCS_ECDSA_P256_SHA256, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        });
        let stranger = other.issue("stranger");
        for (holder, reason) in
            [(&expired, "certificate expired"), (&revoked, "revoked"), (&stranger, "UnknownIssuer")]
        {
            let more = [format!("--client-crl-file={}", list.display())];
            let mut member = Secured::start(&work, &authority, &more).await;
            calls(&member, &authority, Some(holder)).await.unwrap_err();
            let output = member.server.says("rejected connection on client endpoint").await;
            let line = output.lines().find(|line| line.contains("rejected connection")).unwrap();
            assert!(line.contains(reason) && line.contains("127.0.0.1:"), "{reason}: {line}");
            member.server.kill();
        }
    });
}

/// What a client shows instead of a certificate: the chain as it is, with the holder's key.
fn showing(
    member: &Secured,
    authority: &Authority,
    chain: Vec<CertificateDer<'static>>,
    holder: &Holder,
) -> bool {
    let mut config = (*tls::client_config(&authority.certificate, None)).clone();
    let key = PrivateKeyDer::from_pem_file(&holder.key).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    config.client_auth_cert_resolver = Arc::new(Shown(Arc::new(CertifiedKey::new(chain, key))));
    let mut client =
        ClientConnection::new(config.into(), ServerName::try_from("127.0.0.1").unwrap()).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", member.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // With TLS 1.3 a client hears of a refusal only when it reads on.
    let mut stream = rustls::Stream::new(&mut client, &mut stream);
    let asked = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    asked.is_ok() && stream.read(&mut [0; 9]).is_ok_and(|count| 0 < count)
}

/// A client's side that shows one thing whatever is asked for.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Chains without end, names by the thousand, and bytes that only begin like a certificate.
#[test]
fn certificates_that_are_bombs_cost_a_refusal_and_nothing_else() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &["--client-cert-auth".to_owned()]).await;
        let good = authority.issue("good");
        let kind = &PKCS_ECDSA_P256_SHA256;
        let der = |holder: &Holder| CertificateDer::from_pem_file(&holder.certificate).unwrap();
        assert!(showing(&member, &authority, vec![der(&good)], &good), "it is let in with one");
        calls(&member, &authority, Some(&good)).await.unwrap();
        let before = member.server.resident_bytes();
        let named = |count: usize, length: usize| {
            authority.issue_with("named", kind, |params| {
                let name = |number| format!("{number}.{}.example", "x".repeat(length));
                let name = |number| rcgen::SanType::DnsName(name(number).try_into().unwrap());
                params.subject_alt_names = (0..count).map(name).collect();
            })
        };
        // CAs that are everybody's and sign each other, as many as fit.
        let strangers: Vec<_> = (0..100)
            .map(|_| {
                let mut params = CertificateParams::default();
                params.distinguished_name.push(DnType::CommonName, "ca");
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
            })
            .collect();
        let (many, huge) = (named(1_000, 20), named(20_000, 40));
        let own = der(&good);
        let chain = |rest: &[CertificateDer<'static>]| [std::slice::from_ref(&own), rest].concat();
        let cut = CertificateDer::from(own[..own.len() / 2].to_vec());
        let mut longer = own.to_vec();
        longer[2] ^= 0x40;
        for (name, shown, holder, may_be_let_in) in [
            ("a thousand names", vec![der(&many)], &many, true),
            ("twenty thousand names", vec![der(&huge)], &huge, false),
            ("a hundred strangers behind it", chain(&strangers), &good, true),
            ("itself a hundred times", chain(&vec![own.clone(); 100]), &good, true),
            ("itself a thousand times", chain(&vec![own.clone(); 1_000]), &good, false),
            ("a stranger in front", [&strangers[..1], std::slice::from_ref(&own)].concat(), &good, false),
            ("half of one", vec![cut], &good, false),
            ("a length that is wrong", vec![longer.into()], &good, false),
            ("nothing", vec![Vec::new().into()], &good, false),
            ("zeros", vec![vec![0; 60_000].into()], &good, false),
            ("a nest", vec![[[0x30, 0x80].repeat(20_000), vec![0; 10]].concat().into()], &good, false),
        ] {
            for _ in 0..5 {
                let is_let_in = showing(&member, &authority, shown.clone(), holder);
                assert!(may_be_let_in || !is_let_in, "{name}");
            }
            calls(&member, &authority, Some(&good)).await.unwrap();
        }
        let grown = member.server.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes more are held");
    });
}

#[test]
fn certificates_that_go_takes_are_taken() {
    block_on(TEST_DEADLINE, async {
        let (Some(openssl), Some(curl)) = (installed("openssl"), installed("curl")) else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let make = async |args: String| {
            let words: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
            let (success, told) = run(&openssl, &words, "").await;
            assert!(success, "{args}: {told}");
        };
        let path = |name: &str| work.join(name).display().to_string();
        let holder = |name: &str| Holder {
            certificate: work.join(&format!("{name}.pem")),
            key: work.join(&format!("{name}.key")),
            serial: 0_u64.into(),
        };
        // Its own CA, which says so, as `openssl req -x509` makes them.
        let (own, own_key) = (path("own.pem"), path("own.key"));
        make(format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -sha256 -nodes -keyout {own_key} -out {own} -days 9 -subj /CN=own"
        ))
        .await;
        // A CA of openssl's, and a certificate of version 1 by it.
        let (ca, ca_key) = (path("oca.pem"), path("oca.key"));
        make(format!("req -x509 -newkey rsa:2048 -nodes -keyout {ca_key} -out {ca} -days 9 -subj /CN=oca"))
            .await;
        let (request, old, old_key) = (path("old.csr"), path("old.pem"), path("old.key"));
        make(format!("req -newkey rsa:2048 -nodes -keyout {old_key} -out {request} -subj /CN=old")).await;
        make(format!("x509 -req -in {request} -CA {ca} -CAkey {ca_key} -CAcreateserial -out {old} -days 9"))
            .await;
        let pool = work.join("pool.pem");
        let all = [&authority.certificate, &work.join("own.pem"), &work.join("oca.pem")]
            .map(|path| fs::read_to_string(path).unwrap());
        fs::write(&pool, all.concat()).unwrap();
        let more = [format!("--trusted-ca-file={}", pool.display())];
        let member = Secured::start(&work, &authority, &more).await;
        let mut taken = vec![("own CA", holder("own")), ("version 1", holder("old"))];
        for (name, kind) in [
            ("P-384", &PKCS_ECDSA_P384_SHA384),
            ("P-521 with SHA-256", &PKCS_ECDSA_P521_SHA256),
            ("P-521", &PKCS_ECDSA_P521_SHA512),
        ] {
            taken.push((name, authority.issue_with("key", kind, |_params| {})));
        }
        taken.push((
            "any purpose",
            authority.issue_with("any", &PKCS_ECDSA_P256_SHA256, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
            }),
        ));
        taken.push((
            "no purpose and no name",
            authority.issue_with("bare", &PKCS_ECDSA_P256_SHA256, |params| {
                params.extended_key_usages = Vec::new();
                params.subject_alt_names = Vec::new();
            }),
        ));
        for (name, holder) in &taken {
            for version in ["--tlsv1.3", "--tls-max=1.2"] {
                let mut all = credentials(&authority.certificate, holder);
                all.extend(["-s".to_owned(), version.replace('=', " ")]);
                let mut all: Vec<String> =
                    all.iter().flat_map(|word| word.split(' ')).map(str::to_owned).collect();
                all.push(format!("https://127.0.0.1:{}/version", member.port));
                let (_, told) = run(&curl, &all, "").await;
                assert!(told.contains("etcdserver"), "{name} {version}: {told}");
            }
        }
        // Keys of this kind are written in a form that curl does not read.
        let edwards = authority.issue_with("key", &PKCS_ED25519, |_params| {});
        calls(&member, &authority, Some(&edwards)).await.unwrap();
        // One with the same name as a CA of the pool, and not signed by it.
        let (fake, fake_key) = (path("fake.pem"), path("fake.key"));
        make(format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {fake_key} -out {fake} -days 9 -subj /CN=own"
        ))
        .await;
        calls(&member, &authority, Some(&holder("fake"))).await.unwrap_err();
    });
}
