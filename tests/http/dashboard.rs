//! The dashboard: its files and who gets them, its stream and what moves in it, logins, and the page in a real browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use pinion_kit::program::run;
use pinion_kit::tls::Authority;
use pinion_kit::{Launch, PATIENCE, TEST_DEADLINE, WorkDir, block_on, free_port, installed, skip, until};
use serde_json::{Value, json};

use crate::web::{Answer, Web, b64};

/// What a stream of the dashboard has told so far.
struct Live {
    web: Web,
    fields: Vec<String>,
    samples: Vec<Value>,
    first: Option<u64>,
    series: Value,
    slow: Value,
}

impl Live {
    /// Begins to look, with more headers.
    async fn open(port: u16, headers: &str) -> Result<Self, Answer> {
        let mut web = Web::connect(port).await;
        web.send(format!("GET /dashboard/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n")).await;
        let head = web.head().await.unwrap();
        if head.status != 200 {
            let length = head.header("content-length").unwrap().parse().unwrap();
            let body = web.exactly(length).await;
            return Err(Answer { body, ..head });
        }
        assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
        assert_guarded(&head);
        let told = web.line().await.unwrap();
        let fields = told["fields"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let fields = fields.collect();
        Ok(Self { web, fields, samples: Vec::new(), first: None, series: json!(null), slow: json!(null) })
    }

    /// Reads a line. False: there are no more.
    async fn next(&mut self) -> bool {
        let Some(line) = self.web.line().await else { return false };
        self.first = self.first.or(line["first"].as_u64());
        for sample in line["samples"].as_array().unwrap() {
            assert_eq!(sample.as_array().unwrap().len(), self.fields.len());
            self.samples.push(sample.clone());
        }
        if line["series"].is_object() {
            self.series = line["series"].clone();
            self.slow = line["slow"].clone();
        }
        true
    }

    /// Reads until this is so.
    async fn read_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(tokio::time::Instant::now() < deadline, "{:?} {}", self.samples.last(), self.series);
            assert!(self.next().await, "the stream has ended");
        }
    }

    /// A number of the newest sample; none: it is not known.
    fn newest(&self, field: &str) -> Option<f64> {
        let at = self.fields.iter().position(|name| name == field).unwrap();
        self.samples.last()?[at].as_f64()
    }

    fn series_of(&self, name: &str) -> &[Value] {
        self.series[name].as_array().map_or(&[], Vec::as_slice)
    }
}

/// Nothing from elsewhere, and nothing for elsewhere.
fn assert_guarded(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap();
    for words in ["default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "connect-src 'self';"]
    {
        assert!(policy.contains(words), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
}

async fn get(port: u16, path: &str, host: &str, headers: &str) -> Answer {
    let mut web = Web::connect(port).await;
    web.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")).await;
    web.answer().await.unwrap()
}

#[test]
fn its_files_are_in_the_binary_and_load_nothing_from_elsewhere() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let port = server.client_port();
        let mut bytes = 0;
        for (path, kind) in [
            ("/dashboard", "text/html"),
            ("/dashboard/", "text/html"),
            ("/dashboard/app.js", "text/javascript"),
            ("/dashboard/style.css", "text/css"),
        ] {
            let answer = get(port, path, "localhost", "").await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}");
            assert_guarded(&answer);
            bytes += answer.body.len();
        }
        assert!(bytes <= 150_000, "{bytes}");
        for path in ["/dashboard/nothing", "/dashboards", "/app.js", "/dashboard/live/x"] {
            assert_eq!(get(port, path, "localhost", "").await.status, 404, "{path}");
        }
        let unclean = get(port, "/dashboard/../app.js", "localhost", "").await;
        assert_eq!((unclean.status, unclean.header("location")), (301, Some("/app.js")));
        let mut web = Web::connect(port).await;
        web.send("POST /dashboard HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}").await;
        assert_eq!(web.answer().await.unwrap().status, 405);
    });
}

#[test]
fn names_that_are_not_the_members_and_pages_of_other_origins_get_nothing() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        launch.flags.push("--host-whitelist=*,good.example".to_owned());
        let server = launch.start().await;
        let port = server.client_port();
        for path in ["/dashboard", "/dashboard/app.js", "/dashboard/live"] {
            for host in ["evil.example", "evil.example:2379", "127.0.0.1.evil.example", ""] {
                let answer = get(port, path, host, "").await;
                assert_eq!(answer.status, 421, "{path} {host}");
                assert!(answer.text().contains("--host-whitelist") && !answer.text().contains("fields"));
                assert_guarded(&answer);
            }
            for origin in ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"] {
                let answer = get(port, path, "127.0.0.1", &format!("Origin: {origin}\r\n")).await;
                assert_eq!(answer.status, 403, "{path} {origin}");
                assert_guarded(&answer);
            }
        }
        for host in ["good.example", "[::1]:1", "localhost:2379"] {
            let origin = format!("Origin: http://{host}\r\n");
            assert_eq!(get(port, "/dashboard", host, &origin).await.status, 200, "{host}");
        }
        // Whether a script may ask is nobody's business either.
        let mut web = Web::connect(port).await;
        web.send(
            "OPTIONS /dashboard/live HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n",
        )
        .await;
        assert_eq!(web.answer().await.unwrap().header("access-control-allow-origin"), None);
    });
}

#[test]
fn the_stream_moves_with_what_happens() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let port = server.client_port();
        let mut live = Live::open(port, "").await.unwrap();
        live.read_until(|live| {
            live.newest("role") == Some(2.0) && !live.series_of("pinion_leases").is_empty()
        })
        .await;
        assert_eq!((live.newest("watchers"), live.newest("leases")), (Some(0.0), Some(0.0)));
        let mut web = Web::connect(port).await;
        web.call("/v3/lease/grant", json!({"TTL": 3600})).await;
        let mut watch = Web::connect(port).await;
        watch.begin("/v3/watch", "", &json!({"create_request": {"key": b64("fruit/a")}}).to_string()).await;
        assert_eq!(watch.head().await.unwrap().status, 200);
        watch.line().await.unwrap();
        let hostile = "fruit/<img src=x>/\"\n";
        web.call("/v3/kv/put", json!({"key": b64(hostile), "value": b64("1")})).await;
        let mut puts = 0;
        // Puts, until a second is seen in which some were committed.
        let seen = async |live: &mut Live| {
            live.read_until(|live| live.newest("puts").is_some_and(|puts| 0.0 < puts)).await;
        };
        let load = async {
            loop {
                puts += 1;
                web.call("/v3/kv/put", json!({"key": b64("fruit/a"), "value": b64(puts.to_string())})).await;
                web.call("/v3/kv/range", json!({"key": b64("fruit/a")})).await;
            }
        };
        tokio::select! {
            () = seen(&mut live) => {}
            () = load => {}
        }
        for field in
            ["commit_p50", "commit_p99", "sync_p50", "sync_mean", "apply_mean", "busy", "events", "reads"]
        {
            let number = live.newest(field);
            assert!(number.is_some_and(|number| 0.0 < number), "{field}: {number:?}");
        }
        assert!(live.newest("commit_p50") <= live.newest("commit_p99"));
        assert_eq!((live.newest("watchers"), live.newest("leases")), (Some(1.0), Some(1.0)));
        assert!(1.0 < live.newest("connections").unwrap() && 0.0 < live.newest("db").unwrap());
        live.read_until(|live| !live.series_of("pinion_load_by_prefix_requests_total").is_empty()).await;
        let prefixes = live.series_of("pinion_load_by_prefix_requests_total");
        assert!(prefixes.iter().any(|prefix| prefix[0] == "fruit/"), "{prefixes:?}");
        assert!(live.slow.is_array());
        // Whoever looks later sees what was before.
        let mut later = Live::open(port, "").await.unwrap();
        later.next().await;
        assert!(live.samples.len() <= later.samples.len(), "{} {}", live.samples.len(), later.samples.len());
        assert_eq!(later.first, Some(0));
        drop(later);
        // A member that goes ends the stream.
        let ended = async { while live.next().await {} };
        tokio::join!(ended, server.terminate());
    });
}

#[test]
fn where_rights_are_asked_for_the_stream_is_for_users_alone_and_tells_no_keys() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let port = server.client_port();
        let mut web = Web::connect(port).await;
        let mut before = Live::open(port, "").await.unwrap();
        web.call("/v3/kv/put", json!({"key": b64("secret/a"), "value": b64("1")})).await;
        for (path, body) in [
            ("/v3/auth/user/add", json!({"name": "root", "password": "r"})),
            ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
            ("/v3/auth/user/add", json!({"name": "ann", "password": "a"})),
            ("/v3/auth/enable", json!({})),
        ] {
            web.call(path, body).await;
        }
        // Who looked without a name is let go.
        until(PATIENCE, async || !before.next().await).await;
        for headers in ["", "Authorization: nonsense\r\n", "Authorization: abcdefghijklmnop.7\r\n"] {
            let Err(refused) = Live::open(port, headers).await else { panic!("{headers} is let in") };
            assert_eq!(refused.status, 401, "{headers}");
            assert!(!refused.text().contains("samples"));
        }
        let ann = web.call("/v3/auth/authenticate", json!({"name": "ann", "password": "a"})).await;
        let token = format!("Authorization: {}\r\n", ann["token"].as_str().unwrap());
        let mut live = Live::open(port, &token).await.unwrap();
        live.read_until(|live| live.series.is_object()).await;
        assert!(!live.series.to_string().contains("secret"), "{}", live.series);
        assert!(live.series_of("pinion_load_by_address_requests_total").is_empty());
        // The files say nothing that anybody may not know.
        assert_eq!(get(port, "/dashboard", "localhost", "").await.status, 200);
    });
}

#[test]
fn more_viewers_than_are_let_in_are_told_so_and_those_who_leave_make_room() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let port = server.client_port();
        let mut viewers = Vec::new();
        for _ in 0..32 {
            viewers.push(Live::open(port, "").await.unwrap());
        }
        let Err(refused) = Live::open(port, "").await else { panic!("one too many is let in") };
        assert_eq!(refused.status, 429);
        drop(viewers);
        until(PATIENCE, async || Live::open(port, "").await.is_ok()).await;
    });
}

#[test]
fn by_tls_it_is_served_by_both_versions_of_http() {
    block_on(TEST_DEADLINE, async {
        let Some(curl) = installed("curl") else { return };
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let certificate = authority.issue("server");
        let port = free_port();
        let mut launch = Launch::new(work.join("data"));
        let urls = format!("{},https://127.0.0.1:{port}", launch.client_url());
        launch.flags.push(format!("--listen-client-urls={urls}"));
        launch.flags.push(format!("--advertise-client-urls={urls}"));
        launch.flags.push(format!("--cert-file={}", certificate.certificate.display()));
        launch.flags.push(format!("--key-file={}", certificate.key.display()));
        let _server = launch.start().await;
        for version in ["--http1.1", "--http2"] {
            let ask = async |path: &str, more: &[&str]| {
                let mut all: Vec<String> = vec!["-sSi".into(), version.into(), "--cacert".into()];
                all.push(authority.certificate.display().to_string());
                all.extend(more.iter().map(|word| (*word).to_owned()));
                all.push(format!("https://127.0.0.1:{port}{path}"));
                run(&curl, &all, "").await.1.to_ascii_lowercase()
            };
            let page = ask("/dashboard", &[]).await;
            assert!(
                page.contains(" 200") && page.contains("content-security-policy: default-src 'none'"),
                "{page}"
            );
            assert!(!page.contains("access-control"), "{page}");
            let other = ask("/dashboard", &["-H", "Origin: https://evil.example"]).await;
            assert!(other.contains(" 403"), "{other}");
            // The stream goes on until curl has had enough of it.
            let live = ask("/dashboard/live", &["-m", "3"]).await;
            assert!(live.contains("\"fields\":[\"puts\"") && live.contains("\"samples\":"), "{live}");
        }
    });
}

/// The first of these programs that is installed.
fn browser() -> Option<PathBuf> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(installed)
}

#[test]
fn a_browser_draws_it_without_a_complaint_and_shows_hostile_names_as_text() {
    block_on(TEST_DEADLINE, async {
        let (Some(browser), Some(_), Some(_)) = (browser(), installed("node"), installed("timeout")) else {
            return skip("there is no Chromium or no Node");
        };
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let mut web = Web::connect(server.client_port()).await;
        for (key, value) in [
            ("<img src=x onerror=document.title='gone'>", "<script>document.title='gone'</script>"),
            ("fruit/apple", "red"),
            ("fruit/pear", "green"),
        ] {
            web.call("/v3/kv/put", json!({"key": b64(key), "value": b64(value)})).await;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http/dashboard.mjs");
        let mut command = Command::new("timeout");
        command.args(["100", "node"]).arg(script).arg(browser).arg(server.client_port().to_string());
        command.arg(work.path());
        let looked = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(looked.status.success(), "{:?}: {}", looked.status, String::from_utf8_lossy(&looked.stdout));
    });
}
