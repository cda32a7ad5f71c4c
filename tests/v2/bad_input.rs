//! What hostile input gets: a clear answer, and the next request is served.

use pinion_kit::{TEST_DEADLINE, WorkDir, block_on};
use serde_json::json;

use crate::v2::{ask, fault, member, paths, request, well};
use crate::web::{Web, b64};

#[test]
fn paths_that_are_none_are_cleaned_or_refused() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        for (path, cleaned) in [
            ("/keys//a/./b", "/v2/keys/a/b"),
            ("/keys/x/../a/b/", "/v2/keys/a/b/"),
            ("/keys/../../a/b", "/a/b"),
            ("/keys/%2e%2e/a%2Fb", "/v2/a/b"),
            ("/keys/%ff/.?dir=true", "/v2/keys/%FF?dir=true"),
        ] {
            let answer = ask(web, "PUT", path, "value=1").await;
            assert_eq!((answer.status, answer.header("location")), (301, Some(cleaned)), "{path}");
        }
        for path in ["/keys/a/b/", "/keys/a%2Fb", "/k%65ys/a/b"] {
            assert_eq!(well(web, "PUT", path, "value=1").await["node"]["key"], "/a/b", "{path}");
        }
        assert_eq!(well(web, "PUT", "/keys/n%00l", "value=1").await["node"]["key"], "/n\0l");
        assert_eq!(well(web, "GET", "/keys/n%00l", "").await["node"]["value"], "1");
        assert_eq!(fault(web, "PUT", "/keys/a%ff", "value=1").await, 209, "no UTF-8");
        assert_eq!(
            fault(web, "PUT", "/keys/a%252F%25", "prevExist=true").await,
            100,
            "escapes are undone once"
        );
        let mut other = Web::connect(server.client_port()).await;
        let refused = ask(&mut other, "PUT", "/keys/a%zz", "value=1").await;
        assert_eq!((refused.status, &refused.text()[..]), (400, "400 Bad Request"), "no escape");
        assert!(other.is_ended().await);
        assert_eq!(fault(web, "PUT", &format!("/keys/{}", "x".repeat(20_000)), "value=1").await, 209);
        assert_eq!(fault(web, "PUT", &format!("/keys{}", "/x".repeat(10_000)), "value=1").await, 209);
        well(web, "PUT", &format!("/keys{}", "/x".repeat(128)), "value=1").await;
        assert_eq!(fault(web, "GET", &format!("/keys{}", "/y".repeat(128)), "").await, 100);
        let deep = well(web, "GET", &format!("/keys{}?recursive=true", "/x".repeat(120)), "").await;
        assert_eq!(paths(&deep["node"]).len(), 8);
        let root = well(web, "GET", "/keys", "").await;
        assert_eq!(paths(&root["node"]), ["/a", "/n\0l", "/x"]);
        // A name of 64 KiB is no head.
        let mut other = Web::connect(server.client_port()).await;
        other.send(request("PUT", &format!("/keys/{}", "x".repeat(70_000)), "", "")).await;
        assert_eq!(other.answer().await.unwrap().status, 431);
    });
}

#[test]
fn forms_times_and_indexes_that_are_none_are_refused_and_change_nothing() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        for (form, code) in [
            ("value=%zz", 210),
            ("value=1;x", 210),
            ("ttl=-1", 202),
            ("ttl=9223372036854775808", 202),
            ("ttl=99999999999999999999", 202),
            ("ttl=5000000001", 202),
            ("prevIndex=18446744073709551616", 203),
            ("prevIndex=18446744073709551615", 100),
        ] {
            assert_eq!(fault(web, "PUT", "/keys/a", form).await, code, "{form}");
        }
        well(web, "PUT", "/keys/long", "ttl=5000000000").await;
        assert_eq!(fault(web, "GET", "/keys/a", "").await, 100);
        let mut headers = "Content-Type: multipart/form-data; boundary=x\r\n".to_owned();
        web.send(format!("PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 3\r\n\r\nabc"))
            .await;
        let refused = web.answer().await.unwrap();
        assert_eq!((refused.status, &refused.json()["errorCode"]), (400, &json!(210)));
        // Values of bytes that are no text are kept as they are.
        well(web, "PUT", "/keys/raw", "value=%ff%00").await;
        let kv = web.call("/v3/kv/range", json!({"key": b64("/raw")})).await;
        assert_eq!(kv["kvs"][0]["value"], b64(b"\xff\0"));
        assert_eq!(well(web, "GET", "/keys/raw", "").await["node"]["value"], "\u{fffd}\0");
        // A value that is larger than a request may be; the body is not read to its end.
        headers = "Content-Type: application/x-www-form-urlencoded\r\n".to_owned();
        let mut other = Web::connect(server.client_port()).await;
        other
            .send(format!(
                "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 99999999999\r\n\r\n"
            ))
            .await;
        assert_eq!(other.answer().await.unwrap().status, 500);
        let large = format!("value={}", "x".repeat(1_600_000));
        let refused = ask(web, "PUT", "/keys/a", &large).await;
        assert_eq!(refused.json()["cause"], "etcdserver: request is too large");
        well(web, "PUT", "/keys/a", &format!("value={}", "%41".repeat(400_000))).await;
        assert_eq!(well(web, "GET", "/keys/a", "").await["node"]["value"].as_str().unwrap().len(), 400_000);
    });
}

#[test]
fn keys_of_v3_that_are_no_paths_are_left_out_and_never_an_error() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        let odd: [&[u8]; 12] = [
            b"a",
            b"\0",
            b"\xff\xfe",
            b"/",
            b"//",
            b"/x//y",
            b"/x/",
            b"/x/.",
            b"/x/../y",
            b"/x/\xff",
            b"/k",
            b"/k/below",
        ];
        for key in odd {
            web.call("/v3/kv/put", json!({"key": b64(key), "value": b64(b"\xff")})).await;
        }
        let root = well(web, "GET", "/keys?recursive=true", "").await;
        // A key hides the directory of its name; both are found by name.
        assert_eq!(paths(&root["node"]), ["/k", "/x"]);
        assert_eq!(well(web, "GET", "/keys/k", "").await["node"]["value"], "\u{fffd}");
        assert_eq!(well(web, "GET", "/keys/k/below", "").await["node"]["key"], "/k/below");
        assert_eq!(fault(web, "PUT", "/keys/k/new", "value=1").await, 104);
        // What is too deep or too long for a path is left out, and does not make an answer long.
        let deep = b64("/deep".to_owned() + &"/x".repeat(500_000));
        let long = b64("/long/".to_owned() + &"y".repeat(20_000));
        for key in [deep, long] {
            web.call("/v3/kv/put", json!({"key": key, "value": b64("v")})).await;
        }
        let root = ask(web, "GET", "/keys?recursive=true", "").await;
        assert!(root.body.len() < 100_000, "{}", root.body.len());
        assert_eq!(root.text().matches(r#"{"key":"/deep"#).count(), 128);
        assert_eq!(well(web, "GET", "/keys/long", "").await["node"]["dir"], true);
        let deepest = format!("/keys/deep{}", "/x".repeat(127));
        assert!(well(web, "GET", &deepest, "").await["node"].get("nodes").is_none());
        for gone in ["/keys/deep?recursive=true", "/keys/long?recursive=true"] {
            well(web, "DELETE", gone, "").await;
        }
        assert_eq!(paths(&well(web, "GET", "/keys?recursive=true", "").await["node"]), ["/k", "/x"]);
        well(web, "DELETE", "/keys/x?recursive=true", "").await;
        let left = web
            .call("/v3/kv/range", json!({"key": b64("/x"), "range_end": b64("/x0"), "count_only": true}))
            .await;
        assert!(left.get("count").is_none(), "what was below it went, path or not: {left}");
    });
}
