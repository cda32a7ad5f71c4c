//! Real client libraries of Python by TLS and with rights. `PINION_PYTHON` names an interpreter that has them
//! (`pip install etcd3 etcd3gw 'protobuf<4'`); skipped loudly where they are missing.

use pinion_kit::program::run_python;
use pinion_kit::tls::Authority;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, free_port};
use rcgen::PKCS_ECDSA_P256_SHA256;

use crate::jwt::Pair;
use crate::manage::{self, BOTH, CHEAP};

#[test]
fn clients_of_python_log_in_by_tls_with_tokens_of_either_kind() {
    block_on(TEST_DEADLINE, async {
        for kind in ["simple", "jwt"] {
            let work = WorkDir::new();
            let tokens = match kind {
                "jwt" => Pair::new(&work, &PKCS_ECDSA_P256_SHA256).flag("ES256"),
                _ => "--auth-token=simple".to_owned(),
            };
            let authority = Authority::new(&work, "ca");
            let (launch, port) = (Launch::new(work.join("data")).flag(CHEAP).flag(tokens), free_port());
            let urls = format!("{},https://127.0.0.1:{port}", launch.client_url());
            let [certificate, key] = authority.issue("server").flags("cert-file", "key-file");
            let server = launch
                .flag(format!("--listen-client-urls={urls}"))
                .flag(certificate)
                .flag(key)
                .flag(format!("--trusted-ca-file={}", authority.certificate.display()))
                .flag("--client-cert-auth")
                .start()
                .await;
            let root = manage::people(&server.connect().await).await;
            // Where python-etcd3 keeps its locks.
            manage::role_grant(&root, "half", BOTH, "/locks/", "/locks0").await.unwrap();
            let shown = authority.issue("alice");
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/auth/clients.py");
            println!("{kind} tokens");
            run_python(script, port, &[&authority.certificate, &shown.certificate, &shown.key]).await;
        }
    });
}
