//! Whom a certificate names, and where its name does not count.

use pinion_kit::client::refusal;
use pinion_kit::program::run;
use pinion_kit::tls::{self, Authority};
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, free_port, installed};

use crate::manage::{self, CHEAP};

#[test]
fn a_certificate_names_the_user_of_its_own_calls_and_of_none_that_come_through_a_gateway() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let port = free_port();
        let launch = Launch::new(work.join("data")).flag(CHEAP).flag("--client-cert-auth");
        let plain = launch.client_url();
        let [certificate, key] = authority.issue("server").flags("cert-file", "key-file");
        let server = launch
            .flag(format!("--listen-client-urls={plain},https://127.0.0.1:{port}"))
            .flag(format!("--advertise-client-urls={plain}"))
            .flag(certificate)
            .flag(key)
            .flag(format!("--trusted-ca-file={}", authority.certificate.display()))
            .start()
            .await;
        let root = manage::people(&server.connect().await).await;
        let (named, nameless) = (authority.issue("alice"), authority.issue(""));
        let alice = tls::connect(port, &authority.certificate, Some(&named)).await.unwrap();
        let nobody = (3, "etcdserver: user name is empty".to_owned());
        // Twice each, since the second call finds what the first one showed.
        for _ in 0..2 {
            alice.get("a").await.unwrap();
            assert_eq!(refusal(alice.clone().as_gateway().get("a").await), nobody);
            assert_eq!(refusal(alice.clone().with_token("abcdefghijklmnop.1").get("a").await).0, 16);
        }
        // A user who is gone has no right on the connection that it has.
        manage::user_delete(&root, "alice").await.unwrap();
        assert_eq!(refusal(alice.get("a").await), (7, "etcdserver: permission denied".to_owned()));
        // Through the gateway of JSON a name is of no use, and that is said instead of an answer.
        let Some(curl) = installed("curl") else { return };
        let token = server.connect().await.authenticate("root", "root").await.unwrap();
        for version in ["--http1.1", "--http2"] {
            for (holder, token, path, wanted) in [
                (&named, None, "/v3/kv/range", "400 CommonName of client"),
                (&named, Some(&token), "/v3/kv/range", "400 CommonName of client"),
                (&named, None, "/v3/nowhere", "400 CommonName of client"),
                (&named, None, "/version", "405 "),
                (&nameless, None, "/v3/kv/range", "400 {\"error\":\"etcdserver: user name is empty"),
                (&nameless, Some(&token), "/v3/kv/range", "200 {\"header\""),
            ] {
                let mut all: Vec<String> =
                    ["-s", version, "-w", "\n%{http_code}", "-d", "{\"key\":\"YQ==\"}"]
                        .map(str::to_owned)
                        .into();
                let file = |path: &std::path::Path| path.display().to_string();
                all.extend(["--cacert".to_owned(), file(&authority.certificate)]);
                all.extend(["--cert".to_owned(), file(&holder.certificate)]);
                all.extend(["--key".to_owned(), file(&holder.key)]);
                if let Some(token) = token {
                    all.extend(["-H".to_owned(), format!("Authorization: {token}")]);
                }
                all.push(format!("https://127.0.0.1:{port}{path}"));
                let (success, told) = run(&curl, &all, "").await;
                let (body, code) = told.rsplit_once('\n').unwrap();
                assert!(success && format!("{code} {body}").starts_with(wanted), "{version} {path}: {told}");
            }
        }
    });
}
