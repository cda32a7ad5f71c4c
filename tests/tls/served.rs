//! What is served by TLS, to programs that people use.

use pinion_kit::program::run;
use pinion_kit::tls::{self, Authority, Holder};
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, etcds, free_port, installed};
use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256};

use crate::programs::{Secured, credentials, secured};

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn etcdctl_of_both_releases_has_its_session_by_tls() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &[]).await;
        let shown = credentials(&authority.certificate, &authority.issue("user"));
        for (number, etcdctl) in etcds("etcdctl").iter().enumerate() {
            let key = format!("key{number}");
            for (args, wanted) in [
                (format!("put {key} value"), "OK\n".to_owned()),
                (format!("get {key}"), format!("{key}\nvalue\n")),
                (format!("del {key}"), "1\n".to_owned()),
                ("endpoint health".to_owned(), "is healthy".to_owned()),
                ("member list".to_owned(), "started, m0".to_owned()),
                ("lease grant 100".to_owned(), "granted with TTL(100s)".to_owned()),
                ("lock name echo locked".to_owned(), "locked".to_owned()),
            ] {
                let mut all = vec![format!("--endpoints=https://127.0.0.1:{}", member.port)];
                all.extend(shown.clone());
                all.extend(words(&args));
                let (success, told) = run(etcdctl, &all, "").await;
                assert!(success && told.contains(&wanted), "{args}: {told}");
            }
            // A value of several records, both ways.
            let large = format!("https://127.0.0.1:{}", member.port);
            let mut all = vec![format!("--endpoints={large}")];
            all.extend(shown.clone());
            all.extend(words("put large"));
            let value: &'static str = Box::leak("x".repeat(900_000).into_boxed_str());
            let (success, told) = run(etcdctl, &all, value).await;
            assert!(success, "{told}");
            let mut all = vec![format!("--endpoints={large}")];
            all.extend(shown.clone());
            all.extend(words("get large --print-value-only"));
            let (_, told) = run(etcdctl, &all, "").await;
            assert_eq!(told.trim_end().len(), value.len());
        }
    });
}

/// Each page and call by HTTP/1.1 and by HTTP/2, which curl chooses itself by TLS.
#[test]
fn curl_hears_the_same_by_http1_and_by_http2() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &[]).await;
        let shown = credentials(&authority.certificate, &authority.issue("user"));
        let ask = async |more: &[&str], path: &str| {
            let mut all = vec!["-s".to_owned(), "-w".to_owned(), "\n%{http_version} %{http_code}".to_owned()];
            all.extend(shown.clone());
            all.extend(more.iter().map(|word| (*word).to_owned()));
            all.push(format!("https://127.0.0.1:{}{path}", member.port));
            let (success, told) = run(&curl, &all, "").await;
            assert!(success, "{path}: {told}");
            let (body, rest) = told.rsplit_once('\n').unwrap();
            let (version, code) = rest.split_once(' ').unwrap();
            (body.to_owned(), version.to_owned(), code.to_owned())
        };
        let put = r#"{"key":"YQ==","value":"Yg=="}"#;
        ask(&["-d", put], "/v3/kv/put").await;
        for (more, path, wanted) in [
            (&[][..], "/version", "200"),
            (&[], "/health", "200"),
            (&[], "/livez", "200"),
            (&["-I"], "/nowhere", "404"),
            (&[], "/nowhere", "404"),
            (&["-d", r#"{"key":"YQ=="}"#], "/v3/kv/range", "200"),
            (&["-d", r#"{"key":"YQ=="}"#], "/v3beta/kv/range", "200"),
            (&["-d", "{"], "/v3/kv/range", "400"),
            (&["-d", r#"{"key":""}"#], "/v3/kv/range", "400"),
            (&[], "/v3/kv/range", "501"),
            (&["-d", ""], "/v3/kv/nowhere", "404"),
            (&["-X", "OPTIONS"], "/v3/kv/range", "200"),
            (&["-H", "Host: other.example"], "/version", "200"),
        ] {
            let one = ask(&[&["--http1.1"], more].concat(), path).await;
            let two = ask(more, path).await;
            assert_eq!((one.1.as_str(), two.1.as_str()), ("1.1", "2"), "{path}");
            assert_eq!((one.2.as_str(), two.2.as_str()), (wanted, wanted), "{path} {one:?} {two:?}");
            if !more.contains(&"-I") && !one.0.contains("revision") {
                assert_eq!(one.0, two.0, "{path}");
            }
        }
        assert!(ask(&[], "/metrics").await.0.contains("etcd_server_has_leader 1"));
        // A body that comes in pieces, and answers that come one by one.
        let large = format!("{{\"key\":\"YQ==\",\"value\":\"{}\"}}", "QUFB".repeat(200_000));
        let file = work.join("large.json");
        std::fs::write(&file, large).unwrap();
        let put = ask(&["-d", &format!("@{}", file.display())], "/v3/kv/put").await;
        assert_eq!(put.2, "200", "{put:?}");
        let create = r#"{"create_request":{"key":"YQ==","start_revision":"2"}}"#;
        let mut all = words("-sN -m 3");
        all.extend(shown.clone());
        all.extend(["-d".to_owned(), create.to_owned()]);
        all.push(format!("https://127.0.0.1:{}/v3/watch", member.port));
        // It goes on until curl's patience ends.
        let (_, told) = run(&curl, &all, "").await;
        assert!(
            told.starts_with(r#"{"result":{"header":"#) && told.contains(r#""created":true"#),
            "{told:.300}"
        );
        assert!(told.contains(r#""events":["#), "{told:.300}");
    });
}

/// A client that still sends hears why it is refused, and the rest of what it sends is not kept.
#[test]
fn uploads_that_are_refused_are_answered_by_http2() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &[]).await;
        let large = work.join("large.json");
        std::fs::write(&large, format!("{{\"key\":\"YQ==\",\"value\":\"{}\"}}", "A".repeat(40 << 20)))
            .unwrap();
        let before = member.server.resident_bytes();
        for (path, wanted, text) in [
            ("/v3/kv/put", "429", "grpc: received message larger than max"),
            ("/v3/nowhere", "404", "Not Found"),
            ("/health", "405", "Method Not Allowed"),
        ] {
            let mut all = vec!["--http2".to_owned()];
            all.extend(words(r"-s -m 60 -w \n%{http_code} -H Expect: --data-binary"));
            all.push(format!("@{}", large.display()));
            all.extend(credentials(&authority.certificate, &authority.issue("user")));
            all.push(format!("https://127.0.0.1:{}{path}", member.port));
            let (_, told) = run(&curl, &all, "").await;
            let (body, code) = told.rsplit_once('\n').unwrap_or_else(|| panic!("{path}: {told}"));
            assert_eq!(code, wanted, "{path}: {told}");
            assert!(body.contains(text), "{path}: {told}");
        }
        let grown = member.server.resident_bytes().saturating_sub(before);
        assert!(grown < 40 << 20, "{grown} bytes more are held");
    });
}

/// The v2 API by HTTP/2, whose writes have bodies; one of them comes in pieces.
#[test]
fn directories_are_written_by_http2() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &["--enable-v2".to_owned()]).await;
        let shown = credentials(&authority.certificate, &authority.issue("user"));
        let large = work.join("large");
        std::fs::write(&large, format!("value={}", "x".repeat(400_000))).unwrap();
        let ask = async |more: &[&str], path: &str| {
            let mut all = vec!["-s".to_owned(), "-w".to_owned(), "\n%{http_version} %{http_code}".to_owned()];
            all.extend(shown.clone());
            all.extend(more.iter().map(|word| (*word).to_owned()));
            all.push(format!("https://127.0.0.1:{}/v2{path}", member.port));
            let (_, told) = run(&curl, &all, "").await;
            told
        };
        for (more, path, status, wanted) in [
            (&["-X", "PUT", "-d", "value=1"][..], "/keys/d/a", "201", r#""action":"set""#),
            (&["-X", "POST", "-d", "value=2"], "/keys/q", "201", r#""action":"create""#),
            (&["-X", "PUT", "-d", "value=3&prevValue=1"], "/keys/d/a", "200", r#""action":"compareAndSwap""#),
            (&["-X", "PUT", "-d", "value=3&prevValue=1"], "/keys/d/a", "412", "Compare failed"),
            (&["-X", "PUT", "-d", "ttl=x"], "/keys/d/a", "400", r#""errorCode":202"#),
            (
                &["-X", "PUT", "-d", &format!("@{}", large.display())],
                "/keys/d/l",
                "201",
                r#""modifiedIndex""#,
            ),
            (&[], "/keys/d/a", "200", r#""value":"3""#),
            (&["-I"], "/keys/d/a", "200", "x-etcd-index"),
            (&["-X", "DELETE"], "/keys/d?recursive=true", "200", r#""action":"delete""#),
        ] {
            let told = ask(more, path).await;
            let end = &told[told.len().saturating_sub(200)..];
            assert!(
                told.ends_with(&format!("\n2 {status}")) && told.contains(wanted),
                "{more:?} {path}: {end}"
            );
        }
    });
}

#[test]
fn one_address_serves_with_and_without_tls_when_both_are_asked_for() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let launch = Launch::new(work.join("data"));
        let port = launch.client_port;
        let launch = secured(launch, port, &authority.issue("server"));
        let server = launch.start().await;
        let plain = server.connect().await;
        let secured = tls::connect(port, &authority.certificate, None).await.unwrap();
        secured
            .put(&pinion_kit::pb::etcdserverpb::PutRequest { key: "a".into(), ..Default::default() })
            .await
            .unwrap();
        let range = pinion_kit::pb::etcdserverpb::RangeRequest { key: "a".into(), ..Default::default() };
        assert_eq!(plain.range(&range).await.unwrap().count, 1);
    });
}

#[test]
fn addresses_of_metrics_and_of_http_alone_serve_by_tls() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let (http, metrics) = (free_port(), free_port());
        let more = [
            format!("--listen-client-http-urls=https://127.0.0.1:{http}"),
            format!("--listen-metrics-urls=https://127.0.0.1:{metrics}"),
        ];
        let member = Secured::start(&work, &authority, &more).await;
        let shown = credentials(&authority.certificate, &authority.issue("user"));
        for (port, path, code) in [
            (http, "/version", "200"),
            (metrics, "/metrics", "200"),
            (metrics, "/health", "200"),
            (metrics, "/version", "404"),
            (http, "/nowhere", "404"),
        ] {
            for version in ["--http1.1", "--http2"] {
                let mut all = words("-s -o /dev/null -w %{http_code}");
                all.extend([shown.clone(), vec![version.to_owned()]].concat());
                all.push(format!("https://127.0.0.1:{port}{path}"));
                assert_eq!(run(&curl, &all, "").await.1, code, "{port} {path} {version}");
            }
        }
        drop(member);
    });
}

/// A browser that is led here by a name of somebody else's is stopped by the certificate then.
#[test]
fn names_of_hosts_are_asked_without_tls_alone() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &["--host-whitelist=good.example".to_owned()]).await;
        let shown = credentials(&authority.certificate, &authority.issue("user"));
        let ask = async |more: &[&str], host: &str, url: String| {
            let mut all = words("-s -o /dev/null -w %{http_code}");
            all.extend(shown.clone());
            all.extend(more.iter().map(|word| (*word).to_owned()));
            all.extend(["-H".to_owned(), format!("Host: {host}"), url]);
            run(&curl, &all, "").await.1
        };
        for (more, path) in [
            (&["--http1.1"][..], "/health"),
            (&["--http2"], "/health"),
            (&["--http1.1", "-d", r#"{"key":"YQ=="}"#], "/v3/kv/range"),
            (&["--http2", "-d", r#"{"key":"YQ=="}"#], "/v3/kv/range"),
        ] {
            let tls = format!("https://127.0.0.1:{}{path}", member.port);
            assert_eq!(ask(more, "other.example", tls).await, "200", "{more:?} {path}");
            let plain = format!("http://127.0.0.1:{}{path}", member.launch.client_port);
            let more: Vec<&str> = more.iter().copied().filter(|word| *word != "--http2").collect();
            assert_eq!(ask(&more, "other.example", plain.clone()).await, "421", "{more:?} {path}");
            assert_eq!(ask(&more, "good.example", plain).await, "200", "{more:?} {path}");
        }
    });
}

/// Whoever may not be a client may not look at metrics either.
#[test]
fn addresses_of_metrics_ask_for_the_certificates_of_clients() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let (authority, other) = (Authority::new(&work, "ca"), Authority::new(&work, "other"));
        let metrics = free_port();
        let more =
            ["--client-cert-auth".to_owned(), format!("--listen-metrics-urls=https://127.0.0.1:{metrics}")];
        let member = Secured::start(&work, &authority, &more).await;
        let ask = async |holder: Option<&Holder>, port: u16, path: &str| {
            let mut all = words("-s -o /dev/null -w %{http_code}");
            match holder {
                Some(holder) => all.extend(credentials(&authority.certificate, holder)),
                None => all.extend(["--cacert".to_owned(), authority.certificate.display().to_string()]),
            }
            all.push(format!("https://127.0.0.1:{port}{path}"));
            run(&curl, &all, "").await
        };
        let (known, stranger) = (authority.issue("user"), other.issue("user"));
        for port in [metrics, member.port] {
            for path in ["/metrics", "/health"] {
                assert_eq!(ask(Some(&known), port, path).await, (true, "200".to_owned()), "{port} {path}");
                for (holder, who) in [(None, "nobody"), (Some(&stranger), "a stranger")] {
                    let (success, told) = ask(holder, port, path).await;
                    assert!(!success && told.starts_with("000"), "{who} at {port}{path}: {told}");
                }
            }
        }
    });
}

/// As etcd 3.4.23 and 3.5.30 do: a certificate with names is held against the address it comes from where metrics are, and
/// not where clients come.
#[test]
fn addresses_of_metrics_alone_hold_certificates_against_the_clients_address() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let metrics = free_port();
        let more =
            ["--client-cert-auth".to_owned(), format!("--listen-metrics-urls=https://127.0.0.1:{metrics}")];
        let member = Secured::start(&work, &authority, &more).await;
        let issue = |name: &str, hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let names = CertificateParams::new(hosts).unwrap().subject_alt_names;
            authority.issue_with(name, &PKCS_ECDSA_P256_SHA256, |params| params.subject_alt_names = names)
        };
        for (name, hosts, is_welcome) in [
            ("here", &["127.0.0.1"][..], true),
            ("named", &["localhost"], true),
            ("nameless", &[], true),
            ("elsewhere", &["10.9.9.9"], false),
            ("unknown", &["nowhere.invalid"], false),
        ] {
            let holder = issue(name, hosts);
            for (port, is_welcome) in [(metrics, is_welcome), (member.port, true)] {
                let mut all = words("-s -o /dev/null -w %{http_code}");
                all.extend(credentials(&authority.certificate, &holder));
                all.push(format!("https://127.0.0.1:{port}/health"));
                let (success, told) = run(&curl, &all, "").await;
                let wanted = if is_welcome { "200" } else { "000" };
                assert_eq!((success, told.as_str()), (is_welcome, wanted), "{name} at {port}");
            }
        }
    });
}

#[test]
fn versions_and_suites_are_those_that_flags_allow_and_sessions_are_resumed() {
    block_on(TEST_DEADLINE, async {
        let Some(openssl) = installed("openssl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let certificate = authority.issue("server");
        let hello = async |port: u16, more: &str| {
            let all = format!("s_client -connect 127.0.0.1:{port} {more}");
            run(&openssl, &words(&all), "Q\n").await.1
        };
        let begin = async |name: &str, flags: &[&str]| {
            let port = free_port();
            let mut launch = secured(Launch::new(work.join(name)), port, &certificate);
            launch.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
            (launch.start().await, port)
        };
        let (_any, port) = begin("any", &[]).await;
        for (more, wanted) in [
            ("-tls1_2", "Protocol  : TLSv1.2"),
            ("-tls1_3", "TLSv1.3"),
            ("-tls1_2 -reconnect", "Reused, TLSv1.2"),
            ("-alpn h2,http/1.1", "ALPN protocol: h2"),
            ("-alpn http/1.1", "ALPN protocol: http/1.1"),
        ] {
            let told = hello(port, more).await;
            assert!(told.contains(wanted), "{more}: {told}");
        }
        let told = hello(port, "-tls1_1 -cipher ALL:@SECLEVEL=0").await;
        assert!(!told.contains("Cipher    : ECDHE"), "TLS 1.1 is not spoken: {told}");
        let (_old, port) = begin(
            "old",
            &[
                "--tls-max-version=TLS1.2",
                "--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            ],
        )
        .await;
        let told = hello(port, "").await;
        assert!(told.contains("ECDHE-ECDSA-AES256-GCM-SHA384") && told.contains("TLSv1.2"), "{told}");
        let told = hello(port, "-cipher ECDHE-ECDSA-AES128-GCM-SHA256").await;
        assert!(told.contains("handshake failure"), "{told}");
        let (server, port) = begin("new", &["--tls-min-version=TLS1.3"]).await;
        assert!(hello(port, "").await.contains("TLSv1.3"));
        let told = hello(port, "-tls1_2").await;
        assert!(told.contains("protocol version"), "{told}");
        server.says("rejected connection on client endpoint").await;
    });
}

#[test]
fn auto_tls_makes_a_certificate_of_etcds_kind_and_keeps_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data"));
        let port = free_port();
        let (plain, tls) = (launch.client_url(), format!("https://127.0.0.1:{port}"));
        let launch = launch
            .flag(format!("--listen-client-urls={plain},{tls}"))
            .flag(format!("--advertise-client-urls={tls}"))
            .flag("--auto-tls")
            .flag("--self-signed-cert-validity=2");
        let server = launch.start().await;
        let certificate = launch.data_dir.join("fixtures/client/cert.pem");
        for etcdctl in etcds("etcdctl") {
            let all = [
                format!("--endpoints={tls}"),
                format!("--cacert={}", certificate.display()),
                "endpoint".into(),
                "health".into(),
            ];
            let (success, told) = run(&etcdctl, &all, "").await;
            assert!(success, "{told}");
        }
        let before = std::fs::read(&certificate).unwrap();
        drop(server);
        let _again = launch.start().await;
        assert_eq!(std::fs::read(&certificate).unwrap(), before, "it is used again");
        if let Some(openssl) = installed("openssl") {
            let all = format!("x509 -in {} -noout -text", certificate.display());
            let (_, told) = run(&openssl, &words(&all), "").await;
            for wanted in ["secp521r1", "O = etcd", "IP Address:127.0.0.1", "TLS Web Server Authentication"] {
                assert!(told.contains(wanted), "{wanted}: {told}");
            }
        }
        use std::os::unix::fs::PermissionsExt as _;
        let key = std::fs::metadata(launch.data_dir.join("fixtures/client/key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    });
}

/// By the file of a unix socket; with and without TLS on one file, too.
#[test]
fn a_unix_socket_serves_by_tls() {
    block_on(TEST_DEADLINE, async {
        // The kernel takes 107 bytes of a socket's path.
        let work = WorkDir::inside(std::path::Path::new("/tmp"));
        let authority = Authority::new(&work, "ca");
        let (file, both) = (work.join("localhost:7"), work.join("b"));
        let launch = Launch::new(work.join("data"));
        let urls = format!(
            "{},unixs://{},unix://{},unixs://{}",
            launch.client_url(),
            file.display(),
            both.display(),
            both.display()
        );
        let [certificate, key] = authority.issue("server").flags("cert-file", "key-file");
        let launch = launch
            .flag(format!("--listen-client-urls={urls}"))
            .flag(format!("--advertise-client-urls={urls}"))
            .flag(certificate)
            .flag(key);
        let _server = launch.start().await;
        let ca = authority.certificate.display().to_string();
        if let Some(curl) = installed("curl") {
            for (file, scheme, succeeds) in [
                (&file, "https", true),
                (&both, "https", true),
                (&both, "http", true),
                (&file, "http", false),
            ] {
                let mut args = words("-sSf --unix-socket");
                let url = format!("{scheme}://localhost/version");
                args.extend([file.display().to_string(), url, "--cacert".into(), ca.clone()]);
                let (success, told) = run(&curl, &args, "").await;
                assert_eq!(success, succeeds, "{scheme}: {told}");
                assert!(!succeeds || told.contains("etcdserver"), "{told}");
            }
        }
        // etcdctl looks for the path in the certificate, which is for `localhost`; so it works with etcd, too.
        for etcdctl in etcds("etcdctl") {
            let ask = "cd $0 && exec $1 --endpoints=unixs://localhost:7 --cacert=$2 put a b";
            let mut args = vec!["-c".to_owned(), ask.to_owned(), work.path().display().to_string()];
            args.extend([etcdctl.display().to_string(), ca.clone()]);
            let (success, told) = run("/bin/sh".as_ref(), &args, "").await;
            assert!(success && told.contains("OK"), "{told}");
        }
    });
}
