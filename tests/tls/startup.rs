//! What a start with TLS refuses, and what it says.

use std::fs;

use pinion_kit::tls::Authority;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};

#[test]
fn files_and_flags_that_cannot_be_used_end_a_start_with_the_reason() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let (one, two) = (authority.issue("one"), authority.issue("two"));
        let garbage = work.join("garbage");
        fs::write(&garbage, "no PEM").unwrap();
        let garbage = garbage.display();
        let [certificate, key] = one.flags("cert-file", "key-file");
        let [_, other_key] = two.flags("cert-file", "key-file");
        let url = "--listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://127.0.0.1:1";
        for (flags, words) in [
            (url.to_owned(), &["TLS key/cert (--cert-file, --key-file) must be provided for client url"][..]),
            (
                "--listen-metrics-urls=https://127.0.0.1:2".to_owned(),
                &["must be provided for metrics secure url"],
            ),
            (
                "--listen-peer-urls=https://127.0.0.1:3".to_owned(),
                &["TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url"],
            ),
            (certificate.clone(), &["KeyFile and CertFile must both be present"]),
            (format!("{url} {certificate} {other_key}"), &["--cert-file", "does not match"]),
            (format!("{url} {certificate} --key-file={garbage}"), &["no unencrypted private key"]),
            (format!("{url} --cert-file={garbage} {key}"), &["no certificate in PEM"]),
            (format!("{url} {certificate} --key-file=/nowhere"), &["/nowhere: No such file"]),
            (
                format!("{url} {certificate} {key} --trusted-ca-file={garbage}"),
                &["garbage", "no certificate"],
            ),
            (
                format!(
                    "{url} {certificate} {key} --client-crl-file={garbage} --trusted-ca-file={}",
                    authority.certificate.display()
                ),
                &["garbage", "no revocation list in DER"],
            ),
            ("--cipher-suites=TLS_NULL".to_owned(), &["unexpected TLS cipher suite \\\"TLS_NULL\\\""]),
            ("--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA".to_owned(), &["none of these can be used"]),
            (
                "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 --tls-min-version=TLS1.3".to_owned(),
                &["cipher suites cannot be configured when only TLS1.3 is enabled"],
            ),
            (
                "--tls-min-version=TLS1.1".to_owned(),
                &["unexpected TLS version", "must be one of: TLS1.2, TLS1.3"],
            ),
            (
                "--tls-min-version=TLS1.3 --tls-max-version=TLS1.2".to_owned(),
                &["min version (TLS1.3) is greater than max version (TLS1.2)"],
            ),
            ("--peer-cert-allowed-cn=a --peer-cert-allowed-hostname=b".to_owned(), &["cannot both be given"]),
            ("--auto-tls --self-signed-cert-validity=0".to_owned(), &["must be greater than 0"]),
        ] {
            let mut launch = Launch::new(work.join("data"));
            launch.flags.extend(flags.split(' ').map(str::to_owned));
            let exit = launch.start_refused().await;
            let said = exit.output.replace("\\\"", "\"");
            for word in words {
                assert!(said.contains(&word.replace("\\\"", "\"")), "{flags}: {word}\n{said}");
            }
            let _gone = fs::remove_dir_all(work.join("data"));
        }
    });
}

#[test]
fn a_start_says_what_is_not_encrypted_and_what_was_left_out() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let [certificate, key] = authority.issue("one").flags("cert-file", "key-file");
        let launch = Launch::new(work.join("data"))
            .flag(certificate)
            .flag(key)
            .flag("--client-cert-auth")
            .flag("--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
        let server = launch.start().await;
        let output = server.says("neither encrypted nor authenticated").await;
        for words in [
            "serving client traffic insecurely; this is strongly discouraged!",
            "is HTTP while key/cert files are presented. Ignored key/cert files.",
            "is HTTP while client cert auth is enabled. Ignored client cert auth.",
            "left out: TLS_RSA_WITH_AES_128_CBC_SHA",
        ] {
            assert!(output.contains(words), "{words}: {output}");
        }
    });
}
