//! Rights: v2's callers are users of v3, shown by HTTP Basic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinion_kit::{TEST_DEADLINE, WorkDir, block_on};
use serde_json::json;

use crate::v2::{ask, member, request};
use crate::web::{Answer, Web, b64};

async fn ask_as(web: &mut Web, who: &str, method: &str, path: &str, form: &str) -> Answer {
    let header = format!("Authorization: Basic {}\r\n", STANDARD.encode(who));
    web.send(request(method, path, &header, form)).await;
    web.answer().await.expect("an answer")
}

#[test]
fn users_of_v3_have_their_rights_and_whoever_lacks_them_is_told_110() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        for (user, role) in [("root", "root"), ("ann", "app")] {
            web.call("/v3/auth/user/add", json!({"name": user, "password": user})).await;
            web.call("/v3/auth/role/add", json!({"name": role})).await;
            web.call("/v3/auth/user/grant", json!({"user": user, "role": role})).await;
        }
        let perm =
            |key: &str, end: &str| json!({"permType": "READWRITE", "key": b64(key), "range_end": b64(end)});
        for (key, end) in [("/app/", "/app0"), ("/one", "")] {
            web.call("/v3/auth/role/grant", json!({"name": "app", "perm": perm(key, end)})).await;
        }
        web.call("/v3/auth/enable", json!({})).await;

        let denied = |answer: &Answer| {
            let body = answer.json();
            (answer.status, body["errorCode"].clone(), body["cause"].clone(), body["index"].clone())
        };
        let no = (401, json!(110), json!("Insufficient credentials"), json!(0));
        assert_eq!(denied(&ask(web, "PUT", "/keys/app/a", "value=1").await), no, "nobody");
        assert_eq!(denied(&ask_as(web, "ann:wrong", "GET", "/keys/app/a", "").await), no);
        assert_eq!(denied(&ask_as(web, "bob:bob", "GET", "/keys/app/a", "").await), no);
        for (method, path, form, is_well) in [
            ("PUT", "/keys/app/a", "value=1", true),
            ("GET", "/keys/app/a", "", true),
            ("POST", "/keys/app/q", "value=1", true),
            ("PUT", "/keys/app/d", "dir=true", true),
            ("PUT", "/keys/one", "value=1", true),
            ("GET", "/keys/app/?recursive=true", "", false),
            ("GET", "/keys/app/q?recursive=true", "", true),
            ("DELETE", "/keys/app/q?recursive=true", "", true),
            ("PUT", "/keys/one/below", "value=1", false),
            ("PUT", "/keys/other", "value=1", false),
            ("GET", "/keys/other", "", false),
            ("GET", "/keys/", "", false),
            ("DELETE", "/keys/app?recursive=true", "", false),
            ("GET", "/keys/other?wait=true", "", false),
        ] {
            let answer = ask_as(web, "ann:ann", method, path, form).await;
            assert_eq!(answer.status < 300, is_well, "{method} {path}: {} {}", answer.status, answer.text());
            if !is_well {
                assert_eq!(denied(&answer), no, "{method} {path}");
            }
        }
        assert!(ask_as(web, "root:root", "GET", "/keys/?recursive=true", "").await.status == 200);

        // A password is compared once: what takes a tenth of a second took none of this.
        for _ in 0..200 {
            assert_eq!(ask_as(web, "ann:ann", "GET", "/keys/app/a", "").await.status, 200);
        }
        // Another password is another revision.
        let token = web.call("/v3/auth/authenticate", json!({"name": "root", "password": "root"})).await;
        let header = format!("Authorization: {}\r\n", token["token"].as_str().unwrap());
        let change = json!({"name": "ann", "password": "new"}).to_string();
        assert_eq!(web.post_with("/v3/auth/user/changepw", &header, &change).await.status, 200);
        assert_eq!(denied(&ask_as(web, "ann:ann", "GET", "/keys/app/a", "").await), no);
        assert_eq!(ask_as(web, "ann:new", "GET", "/keys/app/a", "").await.status, 200);

        // A wait whose rights are gone is told nothing.
        let mut waits = Web::connect(server.client_port()).await;
        let basic = format!("Authorization: Basic {}\r\n", STANDARD.encode("ann:new"));
        waits.send(request("GET", "/keys/app/a?wait=true", &basic, "")).await;
        assert_eq!(waits.head().await.unwrap().status, 200);
        let revoke = json!({"name": "ann", "role": "app"}).to_string();
        assert_eq!(web.post_with("/v3/auth/user/revoke", &header, &revoke).await.status, 200);
        assert_eq!(ask_as(web, "root:root", "PUT", "/keys/app/a", "value=secret").await.status, 200);
        assert!(waits.chunk().await.is_none(), "the change is not told");

        // Members: anybody may look, the cluster's root may change.
        assert_eq!(ask(web, "GET", "/members", "").await.status, 200);
        assert_eq!(ask_as(web, "ann:new", "DELETE", "/members/1", "").await.status, 401);
        assert_eq!(ask_as(web, "root:root", "DELETE", "/members/1", "").await.status, 404);
        let auth = ask(web, "GET", "/auth/enable", "").await;
        assert_eq!(auth.status, 404);
        assert!(auth.text().contains("/v3/auth"), "{}", auth.text());
    });
}
