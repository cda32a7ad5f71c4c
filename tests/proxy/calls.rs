//! Calls through a proxy, one by one: streams, tokens, JSON, pages, TLS, long answers.

use bytes::Bytes;
use pinion_kit::client::{Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::tls::{self, Authority};
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, etcds, free_port};
use serde_json::json;

use crate::process::{Proxy, at};
use crate::web::{Web, b64};

/// A Pinion and an etcd, each behind a proxy of its own.
async fn in_front_of_each(
    work: &WorkDir,
    flags: &[String],
) -> Vec<(&'static str, pinion_kit::Server, Proxy)> {
    let mut all = vec![("pinion", Launch::new(work.join("pinion")).start().await)];
    if let Some(etcd) = etcds("etcd").last() {
        all.push(("etcd", Launch::binary(etcd, work.join("etcd")).start().await));
    }
    all.into_iter()
        .map(|(name, server)| {
            let proxy = Proxy::start(work, &[at(server.client_port())], flags);
            (name, server, proxy)
        })
        .collect()
}

#[test]
fn a_watch_has_the_id_that_its_client_chose_and_the_revision_at_which_it_was_created() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        for (name, _server, proxy) in in_front_of_each(&work, &[]).await {
            let client = proxy.client().await;
            let before = client.put_kv("k", "before").await.unwrap().header.unwrap().revision;
            let (mut requests, mut answers) = client.watch().await.unwrap();
            let create = |watch_id, start_revision| pb::WatchCreateRequest {
                key: "k".into(),
                watch_id,
                start_revision,
                prev_kv: true,
                ..Default::default()
            };
            requests.create(create(7, 0)).unwrap();
            let created = answers.next().await.unwrap().unwrap();
            assert!(created.created && created.watch_id == 7, "{name}: {created:?}");
            assert_eq!(created.header.unwrap().revision, before, "{name}");
            requests.create(create(9, before)).unwrap();
            assert!(answers.next().await.unwrap().unwrap().created);
            let past = answers.next().await.unwrap().unwrap();
            assert_eq!((past.watch_id, past.events.len()), (9, 1), "{name}");
            client.put_kv("k", "after").await.unwrap();
            let mut seen = Vec::new();
            for _ in 0..2 {
                let news = answers.next().await.unwrap().unwrap();
                assert_eq!(news.events[0].prev_kv.as_ref().unwrap().value, "before", "{name}");
                seen.push(news.watch_id);
            }
            seen.sort_unstable();
            assert_eq!(seen, [7, 9], "{name}");
            requests.progress().unwrap();
            let progress = answers.next().await.unwrap().unwrap();
            assert!(progress.events.is_empty() && progress.watch_id == -1, "{name}: {progress:?}");
            requests.cancel(7).unwrap();
            let canceled = answers.next().await.unwrap().unwrap();
            assert!(canceled.canceled && canceled.watch_id == 7, "{name}");
            client.compact(&pb::CompactionRequest { revision: before + 1, physical: true }).await.unwrap();
            requests.create(create(11, 1)).unwrap();
            let mut compacted = answers.next().await.unwrap().unwrap();
            if !compacted.canceled {
                compacted = answers.next().await.unwrap().unwrap();
            }
            assert_eq!((compacted.canceled, compacted.compact_revision), (true, before + 1), "{name}");
        }
    });
}

#[test]
fn keep_alives_observers_and_waiters_go_both_ways_and_end_with_their_caller() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        for (name, _server, proxy) in in_front_of_each(&work, &[]).await {
            let client = proxy.client().await;
            let lease = client.lease_grant(&pb::LeaseGrantRequest { id: 0, ttl: 60 }).await.unwrap().id;
            let (mut renewals, mut renewed) = client.keep_alive().await.unwrap();
            for id in [lease, 12_345, lease] {
                renewals.send(&pb::LeaseKeepAliveRequest { id }).unwrap();
                let answer = renewed.next().await.unwrap().unwrap();
                assert_eq!((answer.id, answer.ttl), (id, if id == lease { 60 } else { 0 }), "{name}");
            }
            renewals.half_close().unwrap();
            assert!(renewed.next().await.unwrap().is_none(), "{name}: the end is passed on");
            let lock = |lease| pinion_kit::pb::v3lockpb::LockRequest { name: "l".into(), lease };
            let held = client.lock(&lock(lease)).await.unwrap();
            // Whoever waits and leaves leaves the queue: the members are told.
            let other = client.lease_grant(&pb::LeaseGrantRequest { id: 0, ttl: 60 }).await.unwrap().id;
            let impatient = client.clone().with_timeout("300m");
            let (code, text) = refusal(impatient.lock(&lock(other)).await);
            assert_eq!((code, &*text), (4, "context deadline exceeded"), "{name}");
            pinion_kit::until(crate::process::PATIENCE, async || {
                client.prefix("l/").await.unwrap().kvs.len() == 1
            })
            .await;
            client.unlock(held.key).await.unwrap();
        }
    });
}

#[test]
fn renewals_of_many_streams_and_leases_each_have_their_answer_whichever_member_gives_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        for (name, server, proxy) in in_front_of_each(&work, &[]).await {
            let client = proxy.client().await;
            let mut streams = Vec::new();
            let mut leases = Vec::new();
            for _ in 0..20 {
                let grant = pb::LeaseGrantRequest { id: 0, ttl: 60 + leases.len() as i64 };
                leases.push(client.lease_grant(&grant).await.unwrap().id);
                streams.push(client.keep_alive().await.unwrap());
            }
            for round in 0..5 {
                for (requests, _) in &mut streams {
                    for id in &leases {
                        requests.send(&pb::LeaseKeepAliveRequest { id: *id }).unwrap();
                    }
                    requests.send(&pb::LeaseKeepAliveRequest { id: 1 }).unwrap();
                }
                for (_, answers) in &mut streams {
                    for (number, id) in leases.iter().enumerate() {
                        let answer = answers.next().await.unwrap().unwrap();
                        assert_eq!((answer.id, answer.ttl), (*id, 60 + number as i64), "{name}, {round}");
                        assert!(0 < answer.header.unwrap().revision, "{name}");
                    }
                    let gone = answers.next().await.unwrap().unwrap();
                    assert_eq!((gone.id, gone.ttl), (1, 0), "{name}");
                }
            }
            // All of them are one stream at the member, for each of the proxy's shards.
            let page = Web::connect(server.client_port()).await.get("/metrics").await.text();
            let started = page
                .lines()
                .filter(|line| {
                    line.starts_with("grpc_server_started_total") && line.contains("LeaseKeepAlive")
                })
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>();
            assert!((1.0..=16.0).contains(&started), "{name}: {started} streams for 20");
        }
    });
}

#[test]
fn a_token_is_passed_on_and_nobody_has_anothers_rights() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        for (name, _server, proxy) in in_front_of_each(&work, &[]).await {
            let client = proxy.client().await;
            client.put_kv("open", "1").await.unwrap();
            client.put_kv("secret", "2").await.unwrap();
            let unary =
                async |method: &str, request: Vec<u8>| client.call(method, request.into()).await.unwrap();
            use prost::Message as _;
            for (user, role) in [("root", "root"), ("eve", "eve")] {
                let password = user.to_owned();
                let add = pb::AuthUserAddRequest { name: user.into(), password, ..Default::default() };
                unary("/etcdserverpb.Auth/UserAdd", add.encode_to_vec()).await;
                unary(
                    "/etcdserverpb.Auth/RoleAdd",
                    pb::AuthRoleAddRequest { name: role.into() }.encode_to_vec(),
                )
                .await;
                let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
                unary("/etcdserverpb.Auth/UserGrantRole", grant.encode_to_vec()).await;
            }
            let permission = pinion_kit::pb::authpb::Permission {
                perm_type: 0,
                key: "open".into(),
                range_end: Bytes::new(),
            };
            let grant = pb::AuthRoleGrantPermissionRequest { name: "eve".into(), perm: Some(permission) };
            unary("/etcdserverpb.Auth/RoleGrantPermission", grant.encode_to_vec()).await;
            unary("/etcdserverpb.Auth/AuthEnable", Vec::new()).await;
            let eve = client.logged_in("eve", "eve").await.unwrap();
            let root = client.logged_in("root", "root").await.unwrap();
            assert_eq!(eve.get("open").await.unwrap().as_deref(), Some(&b"1"[..]), "{name}");
            assert_eq!(
                refusal(eve.get("secret").await),
                (7, "etcdserver: permission denied".into()),
                "{name}"
            );
            assert_eq!(root.get("secret").await.unwrap().as_deref(), Some(&b"2"[..]), "{name}");
            // On the same connection, right behind one that may.
            assert_eq!(
                refusal(client.get("secret").await),
                (3, "etcdserver: user name is empty".into()),
                "{name}"
            );
            let forged = client.clone().with_token("forged.1");
            assert_eq!(
                refusal(forged.get("open").await),
                (16, "etcdserver: invalid auth token".into()),
                "{name}"
            );
            let (mut requests, mut answers) = eve.watch().await.unwrap();
            requests.create(pb::WatchCreateRequest { key: "secret".into(), ..Default::default() }).unwrap();
            let mut refused = answers.next().await.unwrap().unwrap();
            if !refused.canceled {
                refused = answers.next().await.unwrap().unwrap();
            }
            assert!(
                refused.canceled && refused.cancel_reason.contains("permission denied"),
                "{name}: {refused:?}"
            );
            // By JSON too.
            let mut web = Web::connect(proxy.port).await;
            let token = web.call("/v3/auth/authenticate", json!({"name": "eve", "password": "eve"})).await;
            let header = format!("Authorization: {}\r\n", token["token"].as_str().unwrap());
            let read = async |web: &mut Web, header: &str, key: &str| {
                web.post_with("/v3/kv/range", header, &json!({"key": b64(key)}).to_string()).await
            };
            assert_eq!(read(&mut web, &header, "open").await.json()["kvs"][0]["value"], b64("1"), "{name}");
            assert_eq!(read(&mut web, &header, "secret").await.status, 403, "{name}");
            assert_eq!(read(&mut web, "", "open").await.status, 400, "{name}");
            // Whoever wants a login has answered.
            assert_eq!(web.get("/health").await.status, 200, "{name}");
        }
    });
}

#[test]
fn json_streams_and_pages_are_served_on_the_same_port() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let metrics_port = free_port();
        let server = Launch::new(work.join("pinion")).start().await;
        let flags = [format!("--metrics-addr=http://127.0.0.1:{metrics_port}")];
        let proxy = Proxy::start(&work, &[at(server.client_port())], &flags);
        let mut web = Web::connect(proxy.port).await;
        let put = web.call("/v3/kv/put", json!({"key": b64("k"), "value": b64("v")})).await;
        assert_eq!(put["header"]["revision"], "2");
        let range = web.call("/v3/kv/range", json!({"key": b64("k"), "serializable": true})).await;
        assert_eq!(range["kvs"][0]["value"], b64("v"));
        let refused = web.post("/v3/kv/range", &json!({"key": b64("k"), "revision": 99}).to_string()).await;
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains("required revision is a future revision"), "{}", refused.text());
        assert!(web.get("/version").await.json()["etcdserver"].is_string());
        for path in ["/health", "/proxy/health"] {
            assert_eq!(web.get(path).await.json()["health"], "true", "{path}");
        }
        let members = web.get("/metrics").await;
        assert!(members.text().contains("etcd_server_has_leader 1"), "a member's own");
        let own = web.get("/proxy/metrics").await.text();
        assert!(own.contains("grpc_server_handled_total") && !own.contains("etcd_server_has_leader 1"));
        assert_eq!(web.get("/livez").await.status, 404);
        let mut stream = Web::connect(proxy.port).await;
        let create = json!({"create_request": {"key": b64("k"), "start_revision": "1"}});
        stream.begin("/v3/watch", "", &create.to_string()).await;
        assert_eq!(stream.head().await.unwrap().status, 200);
        assert_eq!(stream.line().await.unwrap()["result"]["created"], true);
        assert_eq!(stream.line().await.unwrap()["result"]["events"][0]["kv"]["value"], b64("v"));
        let mut apart = Web::connect(metrics_port).await;
        assert_eq!(apart.get("/proxy/health").await.status, 200);
        assert_eq!(apart.get("/version").await.status, 404);
        // With the member gone each page says so, in time.
        server.signal("KILL");
        let health = web.get("/health").await;
        assert_eq!((health.status, &health.json()["health"]), (503, &json!("false")));
        assert!(health.text().contains("GET ERROR:"), "{}", health.text());
        assert_eq!(web.get("/version").await.status, 503);
        assert_eq!(web.get("/metrics").await.status, 503);
        assert_eq!(web.get("/proxy/metrics").await.status, 200);
    });
}

#[test]
fn tls_is_spoken_to_clients_and_to_members_and_a_certificate_that_names_somebody_is_refused() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let (of_member, of_proxy) = (authority.issue("member"), authority.issue("proxy"));
        let nobody = authority.issue_with("nobody", &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
        });
        let ca = authority.certificate.display();
        let port = free_port();
        let launch = Launch { client_port: port, ..Launch::new(work.join("m")) };
        let server = of_member
            .flags("cert-file", "key-file")
            .into_iter()
            .chain([
                format!("--trusted-ca-file={ca}"),
                "--client-cert-auth".to_owned(),
                format!("--listen-client-urls=https://127.0.0.1:{port}"),
                format!("--advertise-client-urls=https://127.0.0.1:{port}"),
            ])
            .fold(launch, Launch::flag)
            .spawn();
        let front = of_proxy.flags("cert-file", "key-file");
        let flags = |holder: &tls::Holder| {
            let mut flags = front.to_vec();
            flags.extend(holder.flags("cert", "key"));
            flags.push(format!("--cacert={ca}"));
            flags
        };
        let proxy = Proxy::start(&work, &[at(port)], &flags(&nobody));
        let client: Client = tls::connect(proxy.port, &authority.certificate, None).await.unwrap();
        pinion_kit::eventually(async || client.put_kv("k", "v").await).await;
        assert_eq!(client.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
        assert!(Client::connect(proxy.port).await.unwrap().get("k").await.is_err(), "not without TLS");
        let program = std::process::Command::new(pinion_kit::server_binary());
        let mut refused = Proxy::spawn(program, &work, &[at(port)], &flags(&of_member));
        assert_eq!(refused.wait().code(), Some(1), "{}", refused.output());
        assert!(refused.output().contains("cert has non empty Common Name (member)"), "{}", refused.output());
        drop(server);
    });
}

/// 64 MiB that are asked for eight times and never read.
#[test]
fn a_long_answer_comes_whole_and_costs_little_when_nobody_reads_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("m")).start().await;
        let proxy = Proxy::start(&work, &[at(server.client_port())], &[]);
        let client = proxy.client().await;
        let value = "v".repeat(1 << 20);
        for number in 0..64 {
            client.put_kv(&format!("k{number:02}"), &value).await.unwrap();
        }
        let all = client.prefix("k").await.unwrap();
        assert_eq!(all.kvs.len(), 64);
        assert!(all.kvs.iter().all(|kv| kv.value == value));
        let before = proxy.memory();
        let mut never_read = Vec::new();
        for _ in 0..8 {
            let lazy = Client::connect_with_window(proxy.port, 1 << 16).await.unwrap();
            let request = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
            never_read.push((lazy.begin("/etcdserverpb.KV/Range", &request).await.unwrap(), lazy));
        }
        // Others are served meanwhile.
        assert_eq!(client.prefix("k").await.unwrap().kvs.len(), 64);
        let grown = proxy.memory().saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes for eight that are not read");
        // A request may be no larger than the flag says.
        let (code, text) = refusal(client.put_kv("large", &"v".repeat(1_600_000)).await);
        assert_eq!(code, 8);
        assert!(
            text.contains("trying to send message larger than max") && text.contains("vs. 1572864"),
            "{text}"
        );
    });
}
