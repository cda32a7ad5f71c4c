use super::*;
use crate::rpc::status;

fn ask<'a>(method: &'a str, path: &'a str, headers: &'a [Header<'a>]) -> Ask<'a> {
    Ask { method, path, query: "", headers, is_secured: false, is_named: false }
}

fn header<'a>(name: &'a str, value: &'a str) -> Header<'a> {
    Header { name, value: value.as_bytes() }
}

#[test]
fn paths_and_methods_lead_where_etcd_leads_them() {
    let rules = Rules::default();
    let to = |method, path| route(&ask(method, path, &[]), &rules);
    assert_eq!(to("POST", "/v3/kv/put"), Route::Call(Method::Put));
    assert_eq!(to("POST", "/v3beta/kv/put"), Route::Call(Method::Put));
    assert_eq!(to("POST", "/v3/kv/lease/revoke"), Route::Call(Method::LeaseRevoke));
    assert_eq!(to("POST", "/v3/maintenance/transfer-leadership"), Route::Call(Method::MoveLeader));
    assert_eq!(to("POST", "/v3/auth/user/changepw"), Route::Call(Method::UserChangePassword));
    assert_eq!(to("GET", "/v3/kv/put"), Route::CallByOtherMethod);
    assert_eq!(to("POST", "/v3/kv/put/"), Route::NoCall);
    assert_eq!(to("POST", "/v3/"), Route::NoCall);
    assert_eq!(to("POST", "/v3alpha/kv/put"), Route::Page("/v3alpha/kv/put".into()));
    assert_eq!(to("GET", "/health"), Route::Page("/health".into()));
    assert_eq!(to("OPTIONS", "/v3/kv/put"), Route::Preflight);
    assert_eq!(to("PUT", "/v2/keys/a"), Route::V2(b"/v2/keys/a".into()));
    assert_eq!(to("PUT", "/%762/keys/a%252f%ff"), Route::V2(b"/v2/keys/a%2f\xff".into()));
    assert_eq!(to("GET", "/health%ff"), Route::Page("/health\u{fffd}".into()));
    for path in ["/v2/keys/%zz", "/%", "/v3/kv/put%4"] {
        assert_eq!(to("OPTIONS", path), Route::Malformed, "{path}");
    }
    assert_eq!(to("OPTIONS", "/v2/keys/a"), Route::Preflight);
    assert_eq!(to("GET", "/v2x"), Route::Page("/v2x".into()));
    let closed = Rules { serves_gateway: false, ..Rules::default() };
    assert_eq!(route(&ask("POST", "/v3/kv/put", &[]), &closed), Route::Page("/v3/kv/put".into()));
    assert_eq!(call_of(&ask("GET", "/v3/watch", &[]), &rules), Some(Method::Watch));
    let named = |method, path| Ask { is_named: true, ..ask(method, path, &[]) };
    for (method, path) in [("POST", "/v3/kv/put"), ("OPTIONS", "/v3/kv/put"), ("GET", "/v3beta/nowhere")] {
        assert_eq!(route(&named(method, path), &rules), Route::NamedInVain, "{method} {path}");
    }
    assert_eq!(route(&named("GET", "/health"), &rules), Route::Page("/health".into()));
    assert_eq!(route(&named("PUT", "/v2/keys/a"), &rules), Route::V2(b"/v2/keys/a".into()));
    assert_eq!(call_of(&named("GET", "/v3/watch"), &rules), None);
    assert_eq!(call_of(&ask("GET", "/health", &[]), &rules), None);
}

#[test]
fn whoever_asks_for_a_path_that_is_not_clean_is_sent_to_the_clean_one() {
    let rules = Rules::default();
    for (path, query, moved) in [
        ("//v3/kv/put", "", "/v3/kv/put"),
        ("/v3beta//kv/put", "", "/v3/kv/put"),
        ("/v3//kv/range", "a=b&c", "/v3/kv/range?a=b&c"),
        ("/v3", "", "/v3/"),
        ("//health", "", "/health"),
        ("/x/%2e%2e/version", "", "/version"),
        ("/v2/keys//a/", "dir=true", "/v2/keys/a/?dir=true"),
        ("//v2/keys/a%ff/.", "", "/v2/keys/a%FF"),
        ("/v2/keys/..", "", "/v2"),
        ("//evil.example/%0d%0aa", "", "/evil.example/%0D%0Aa"),
    ] {
        for method in ["GET", "POST", "PUT"] {
            let ask = Ask { query, ..ask(method, path, &[]) };
            assert_eq!(route(&ask, &rules), Route::Moved(moved.to_owned()), "{method} {path}");
        }
    }
    assert_eq!(route(&ask("OPTIONS", "//v3", &[]), &rules), Route::Preflight);
    assert_eq!(route(&ask("CONNECT", "/v2//keys", &[]), &rules), Route::V2(b"/v2//keys".into()));
    assert_eq!(route(&ask("POST", "/v3/%6bv/range", &[]), &rules), Route::Call(Method::Range));
    let closed = Rules { serves_gateway: false, ..Rules::default() };
    assert_eq!(route(&ask("GET", "/v3", &[]), &closed), Route::Page("/v3".into()));
    let mut page = Vec::new();
    put_moved("/a?b&\"<'>", &mut page);
    assert_eq!(page, b"<a href=\"/a?b&amp;&#34;&lt;&#39;&gt;\">Moved Permanently</a>.\n\n");
}

#[test]
fn method_is_overridden_where_the_body_is_a_form_and_nowhere_else() {
    let form = header("Content-Type", "application/x-www-form-urlencoded");
    for (headers, route) in [
        (vec![form, header("X-HTTP-Method-Override", "PUT")], Route::CallByOtherMethod),
        (vec![form, header("X-HTTP-Method-Override", "post")], Route::Call(Method::Range)),
        (vec![form, header("X-HTTP-Method-Override", "")], Route::Call(Method::Range)),
        (vec![form], Route::Call(Method::Range)),
        (vec![header("X-HTTP-Method-Override", "PUT")], Route::Call(Method::Range)),
    ] {
        assert_eq!(
            super::route(&ask("POST", "/v3/kv/range", &headers), &Rules::default()),
            route,
            "{headers:?}"
        );
    }
}

#[test]
fn every_path_of_the_gateway_is_one_methods() {
    let mut paths = Vec::new();
    for row in crate::rpc::method::table() {
        for &path in row.web_paths {
            assert_eq!(Method::of_web_path(path), Some(row.method));
            assert!(super::super::json::Call::of_path(row.path).is_some(), "{path}");
            paths.push(path);
        }
    }
    let count = paths.len();
    paths.sort_unstable();
    paths.dedup();
    // 46 methods of etcd have one path, and three leases' methods a second.
    assert_eq!((count, paths.len()), (51, 51));
}

#[test]
fn host_that_is_not_listed_is_turned_away_whatever_its_port() {
    let rules = Rules { hosts: vec!["a.example".into(), "::1".into()], ..Rules::default() };
    for (host, is_admitted) in [
        ("a.example", true),
        ("a.example:2379", true),
        ("[::1]:2379", true),
        ("[::1]", true),
        ("b.example", false),
        ("a.example.evil", false),
        ("", false),
        ("127.0.0.1:2379", false),
    ] {
        let headers = [header("Host", host)];
        let routed = route(&ask("GET", "/health", &headers), &rules);
        assert_eq!(routed != Route::Misdirected, is_admitted, "{host}");
    }
    let any = Rules { hosts: vec!["a.example".into(), "*".into()], ..Rules::default() };
    assert_ne!(route(&ask("GET", "/health", &[header("Host", "x")]), &any), Route::Misdirected);
}

#[test]
fn scripts_of_listed_origins_alone_may_read() {
    let headers = [header("Origin", "http://a")];
    let origin = |origins: &[&str], headers: &[Header<'_>]| {
        let rules =
            Rules { origins: origins.iter().map(|&word| word.to_owned()).collect(), ..Rules::default() };
        rules.origin_for(&ask("GET", "/", headers)).map(Cow::into_owned)
    };
    assert_eq!(origin(&[], &[]).as_deref(), Some("*"));
    assert_eq!(origin(&["*"], &headers).as_deref(), Some("*"));
    assert_eq!(origin(&["http://a", "http://b"], &headers).as_deref(), Some("http://a"));
    assert_eq!(origin(&["http://b"], &headers), None);
    assert_eq!(origin(&["http://b"], &[]), None);
}

#[test]
fn metadata_is_what_has_the_gateways_prefix() {
    let headers = [
        header("hasleader", "bare"),
        header("GRPC-Metadata-HasLeader", " true "),
        header("Grpc-Metadata-", "x"),
    ];
    let ask = ask("POST", "/", &headers);
    assert_eq!(ask.metadata("hasleader"), Some(&b"true"[..]));
    assert_eq!(ask.metadata("token"), None);
    assert_eq!(ask.header("HASLEADER"), Some(&b"bare"[..]));
}

#[test]
fn parameters_are_unescaped_and_may_come_again() {
    let ask = Ask { query: "exclude=a%2Fb&verbose&exclude=c+d&x=%zz", ..ask("GET", "/", &[]) };
    assert_eq!(ask.parameters("exclude").collect::<Vec<_>>(), ["a/b", "c d"]);
    assert_eq!(ask.parameters("verbose").collect::<Vec<_>>(), [""]);
    assert_eq!(ask.parameters("x").collect::<Vec<_>>(), ["%zz"]);
    assert_eq!(ask.parameters("y").count(), 0);
}

#[test]
fn errors_have_the_fields_of_both_kinds_of_gateway() {
    let mut out = Vec::new();
    put_error(&status::COMPACTED, &mut out);
    put_stream_error(&status::NO_LEADER, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"error\":\"etcdserver: mvcc: required revision has been compacted\",\"code\":11,\
         \"message\":\"etcdserver: mvcc: required revision has been compacted\"}\
         {\"error\":{\"grpc_code\":14,\"http_code\":503,\"http_status\":\"Service Unavailable\",\"code\":14,\
         \"message\":\"etcdserver: no leader\"}}\n"
    );
}

#[test]
fn version_of_the_cluster_has_no_last_number() {
    let mut out = Vec::new();
    put_version("3.7.1", "3.7.0", &mut out);
    assert_eq!(out, br#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
}

#[test]
fn dashboard_is_for_own_names_and_own_origin_and_for_no_script_of_others() {
    let rules = Rules { own_hosts: vec!["m1.example".into()], ..Rules::default() };
    let admit = |host: &str, origin: Option<&str>, is_secured| {
        let mut headers = vec![Header { name: "Host", value: host.as_bytes() }];
        headers.extend(origin.map(|origin| Header { name: "Origin", value: origin.as_bytes() }));
        let ask = Ask {
            method: "GET",
            path: "/dashboard/live",
            query: "",
            headers: &headers,
            is_secured,
            is_named: false,
        };
        assert_eq!(rules.origin_for(&ask), None);
        rules.admit_to_dashboard(&ask)
    };
    for host in ["127.0.0.1:2379", "[::1]:2379", "localhost:2379", "M1.example:2379", "10.1.2.3"] {
        assert_eq!(admit(host, None, false), Ok(()), "{host}");
        assert_eq!(admit(host, Some(&format!("http://{host}")), false), Ok(()), "{host}");
        assert_eq!(admit(host, Some("http://evil.example"), false), Err(DashboardRefusal::Origin));
        assert_eq!(admit(host, Some("null"), false), Err(DashboardRefusal::Origin));
    }
    for host in ["evil.example:2379", "", "localhost.evil.example", "m1.example.evil.example"] {
        assert_eq!(admit(host, None, false), Err(DashboardRefusal::Host), "{host}");
    }
    assert_eq!(admit("any.example", Some("https://any.example"), true), Ok(()));
    assert_eq!(admit("any.example", Some("http://any.example"), true), Err(DashboardRefusal::Origin));
    // Other pages stay as they were.
    let health = Ask {
        method: "GET",
        path: "/dashboards",
        query: "",
        headers: &[],
        is_secured: false,
        is_named: false,
    };
    assert_eq!(rules.origin_for(&health).as_deref(), Some("*"));
}
