//! The gateway's answers beside those of a real etcd: the same random requests to both, field by field.
//!
//! `PINION_ETCD_BIN` names the etcd, the installed one by default; skipped loudly without one. Debian's 3.4 and etcd
//! before 3.6 have a gateway of the first kind, and its statuses are of that kind: 412 where later ones say 400, and
//! 405 or a plain text where later ones have JSON.
//!
//! Masked: identities, addresses, terms, the time that a lease has left, the order of leases and of their keys, what HashKV says of
//! compactions. Compared of an error: its code, and its text unless it is about the JSON itself,
//! which each reader words for itself. Not sent: what the two kinds of gateway read differently (unknown fields,
//! `1.0`), which `src/rpc/json/tests.rs` holds to the later kind, and calls whose answer 3.4 does not have.
//! `PINION_HTTP_SEEDS` and `PINION_HTTP_OPS` make it longer.

use std::path::PathBuf;

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, env_number, installed};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use crate::web::{Answer, Web, b64};

const KEYS: [&[u8]; 7] = [b"a", b"b", b"c", b"a/1", b"a/2", b"\xff", b"\0"];

fn reference() -> Option<PathBuf> {
    std::env::var_os("PINION_ETCD_BIN").map(PathBuf::from).or_else(|| installed("etcd"))
}

/// Makes requests.
struct Generator {
    random: StdRng,
}

impl Generator {
    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.random.random_range(0..from.len())].clone()
    }

    fn key(&mut self) -> Value {
        let key = self.pick(&KEYS);
        b64(key).into()
    }

    fn maybe(&mut self, n: u32, message: &mut Map<String, Value>, name: &str, values: &[Value]) {
        if self.one_in(n) {
            message.insert(name.into(), self.pick(values));
        }
    }

    fn put(&mut self) -> Value {
        let value: Vec<u8> = (0..self.random.random_range(0..9)).map(|_| self.random.random()).collect();
        let mut message = Map::from_iter([("key".into(), self.key()), ("value".into(), b64(value).into())]);
        self.maybe(5, &mut message, "prev_kv", &[true.into(), false.into()]);
        self.maybe(8, &mut message, "lease", &[5.into(), "6".into(), 0.into(), 77.into()]);
        self.maybe(20, &mut message, "ignoreValue", &[true.into()]);
        self.maybe(30, &mut message, "key", &["".into(), Value::Null]);
        message.into()
    }

    fn range(&mut self) -> Value {
        let mut message = Map::from_iter([("key".into(), self.key())]);
        let end = self.key();
        self.maybe(2, &mut message, "range_end", &[end, "AA==".into()]);
        self.maybe(3, &mut message, "limit", &[1.into(), "2".into(), 0.into(), (-1).into()]);
        self.maybe(5, &mut message, "revision", &[1.into(), "5".into(), 99_999.into()]);
        self.maybe(
            3,
            &mut message,
            "sortOrder",
            &["ASCEND".into(), "DESCEND".into(), 1.into(), "NONE".into()],
        );
        // The order of equal keys is open for other targets.
        self.maybe(3, &mut message, "sort_target", &["KEY".into(), 0.into()]);
        for name in ["serializable", "count_only"] {
            self.maybe(10, &mut message, name, &[true.into(), false.into()]);
        }
        self.maybe(10, &mut message, "min_mod_revision", &["3".into()]);
        message.into()
    }

    fn delete(&mut self) -> Value {
        let mut message = Map::from_iter([("key".into(), self.key())]);
        let end = self.key();
        self.maybe(5, &mut message, "range_end", &[end]);
        self.maybe(3, &mut message, "prev_kv", &[true.into()]);
        message.into()
    }

    fn compare(&mut self) -> Value {
        let (target, field) = self.pick(&[
            ("VERSION", "version"),
            ("CREATE", "createRevision"),
            ("MOD", "mod_revision"),
            ("VALUE", "value"),
            ("LEASE", "lease"),
        ]);
        let result =
            self.pick(&[json!("EQUAL"), json!("GREATER"), json!("LESS"), json!("NOT_EQUAL"), json!(0)]);
        let value =
            if field == "value" { b64("x").into() } else { self.pick(&[json!(0), json!("1"), json!(2)]) };
        json!({"key": self.key(), "target": target, "result": result, field: value})
    }

    fn op(&mut self, depth: u32) -> Value {
        match self.random.random_range(0..if depth < 2 { 4 } else { 3 }) {
            0 => json!({"request_range": self.range()}),
            1 => json!({"requestPut": self.put()}),
            2 => json!({"request_delete_range": self.delete()}),
            _ => json!({"request_txn": self.txn(depth + 1)}),
        }
    }

    fn txn(&mut self, depth: u32) -> Value {
        let mut count = || self.random.random_range(0..3);
        let [compares, successes, failures] = [count(), count(), count()];
        let compare: Vec<Value> = (0..compares).map(|_| self.compare()).collect();
        let success: Vec<Value> = (0..successes).map(|_| self.op(depth)).collect();
        let failure: Vec<Value> = (0..failures).map(|_| self.op(depth)).collect();
        json!({"compare": compare, "success": success, "failure": failure})
    }

    fn broken(&mut self) -> String {
        self.pick(&[
            "{",
            "[]",
            "x",
            "5",
            "\"x\"",
            r#"{"key":5}"#,
            r#"{"key":"!"}"#,
            r#"{"key":"YQ==","lease":"x"}"#,
            r#"{"key":"YQ==","lease":99999999999999999999}"#,
            r#"{"key":"YQ==","lease":1.5}"#,
            r#"{"key":"YQ==","prev_kv":"yes"}"#,
        ])
        .to_owned()
    }

    /// What is asked about users and roles, while nobody is asked for rights.
    fn auth(&mut self) -> (&'static str, Value) {
        let user = self.pick(&["alice", "bob", ""]);
        let role = self.pick(&["reader", "writer", ""]);
        // 3.4 takes ranges that hold no key.
        let (key, end) =
            (self.pick(&[b64("a"), b64("b")]), self.pick(&[b64(""), b64("\0"), b64("c"), b64("z")]));
        match self.random.random_range(0..18) {
            0 => ("/v3/auth/user/add", json!({"name": user, "password": "p"})),
            1 => ("/v3/auth/user/add", json!({"name": user, "options": {"no_password": true}})),
            2..4 => ("/v3/auth/user/get", json!({"name": user})),
            4 => ("/v3/auth/user/list", json!({})),
            5 => ("/v3/auth/user/delete", json!({"name": user})),
            6 => ("/v3/auth/user/grant", json!({"user": user, "role": role})),
            7 => ("/v3/auth/user/revoke", json!({"name": user, "role": role})),
            8 => ("/v3/auth/user/changepw", json!({"name": user, "password": "q"})),
            9..11 => ("/v3/auth/role/add", json!({"name": role})),
            11 => ("/v3/auth/role/get", json!({"role": role})),
            12 => ("/v3/auth/role/list", json!({})),
            13 => ("/v3/auth/role/delete", json!({"role": role})),
            14..16 => {
                let kind = self.pick(&[json!("READ"), json!("WRITE"), json!(2), json!("READWRITE")]);
                let perm = json!({"permType": kind, "key": key, "range_end": end});
                // Without one 3.4 dies.
                ("/v3/auth/role/grant", json!({"name": role, "perm": perm}))
            }
            16 => ("/v3/auth/role/revoke", json!({"role": role, "key": key, "range_end": end})),
            // There is no root.
            _ => self.pick(&[
                ("/v3/auth/enable", json!({})),
                ("/v3/auth/disable", json!({})),
                ("/v3/auth/authenticate", json!({"name": "alice", "password": "p"})),
            ]),
        }
    }

    fn alarm(&mut self) -> Value {
        // None is raised: it would end all puts.
        let action = self.pick(&[json!("GET"), json!(0), json!("DEACTIVATE")]);
        let alarm = self.pick(&[json!("NONE"), json!("NOSPACE"), json!(2)]);
        json!({"action": action, "memberID": self.pick(&[json!(0), json!("5")]), "alarm": alarm})
    }

    /// What is asked about members, of which there stays one.
    fn cluster(&mut self) -> (&'static str, Value) {
        let urls =
            self.pick(&[json!([]), json!(["x"]), json!(["http://127.0.0.1:1/path"]), json!(["127.0.0.1:1"])]);
        self.pick(&[
            ("/v3/cluster/member/list", json!({})),
            ("/v3/cluster/member/add", json!({"peerURLs": urls})),
            ("/v3/cluster/member/remove", json!({"ID": "5"})),
            ("/v3/cluster/member/update", json!({"ID": 5, "peerURLs": ["http://127.0.0.1:1"]})),
            ("/v3/cluster/member/promote", json!({"ID": "7"})),
        ])
    }

    fn request(&mut self) -> (&'static str, String) {
        let id = self.pick(&[json!(5), json!("6"), json!(77)]);
        let (path, message) = match self.random.random_range(0..118) {
            100..112 => self.auth(),
            112 => {
                let path = self.pick(&["/v3/maintenance/hash", "/v3/maintenance/hashkv"]);
                (path, json!({"revision": self.pick(&[json!(0), json!(99_999)])}))
            }
            113..115 => ("/v3/maintenance/alarm", self.alarm()),
            115..118 => self.cluster(),
            0..30 => ("/v3/kv/put", self.put()),
            30..50 => ("/v3/kv/range", self.range()),
            50..60 => ("/v3/kv/deleterange", self.delete()),
            60..77 => ("/v3/kv/txn", self.txn(0)),
            77..80 => {
                let revision = self.pick(&[json!(1), json!("5"), json!(99_999)]);
                ("/v3/kv/compaction", json!({"revision": revision}))
            }
            80..83 => ("/v3/lease/grant", json!({"TTL": self.pick(&[json!(600), json!("6000")]), "ID": id})),
            83 => ("/v3/lease/revoke", json!({"ID": id})),
            84 => ("/v3/kv/lease/revoke", json!({"ID": id})),
            85..87 => ("/v3/kv/lease/timetolive", json!({"ID": id, "keys": true})),
            87 => ("/v3/lease/leases", json!({})),
            88..90 => ("/v3/lease/keepalive", json!({"ID": id})),
            90 => ("/v3/lock/unlock", json!({"key": self.key()})),
            91 => ("/v3/election/leader", json!({"name": self.key()})),
            92 => ("/v3beta/kv/range", self.range()),
            93 => ("/v3/nothing", json!({})),
            94 => ("/v2/keys", json!({})),
            _ => return (self.pick(&["/v3/kv/put", "/v3/kv/deleterange"]), self.broken()),
        };
        (path, message.to_string())
    }
}

/// What is compared of an answer.
#[derive(Debug, PartialEq)]
struct Said {
    status: u16,
    lines: Vec<Value>,
}

/// Takes out what each server has for itself.
fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["cluster_id", "member_id", "raft_term"] {
                fields.remove(name);
            }
            if let Some(Value::Array(members)) = fields.get_mut("members") {
                for member in members.iter_mut().filter_map(Value::as_object_mut) {
                    for name in ["ID", "name", "peerURLs", "clientURLs"] {
                        assert!(member.remove(name).is_some(), "{name} of a member");
                    }
                }
            }
            // A compaction is under way for as long as each server likes.
            if fields.contains_key("hash") {
                fields.remove("hash");
                fields.remove("compact_revision");
                // Later ones say it.
                fields.remove("hash_revision");
            }
            if fields.contains_key("grantedTTL") {
                // What is left is counted by two clocks.
                fields.remove("TTL");
                // etcd's come out of a map.
                if let Some(Value::Array(keys)) = fields.get_mut("keys") {
                    keys.sort_by_key(ToString::to_string);
                }
            }
            if let Some(Value::Array(leases)) = fields.get_mut("leases") {
                leases.sort_by_key(ToString::to_string);
            }
            fields.values_mut().for_each(mask);
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

fn said(answer: &Answer, is_broken: bool) -> Said {
    let status = match answer.status {
        // Of the first kind of gateway.
        412 => 400,
        status => status,
    };
    if status == 404 {
        return Said { status, lines: Vec::new() };
    }
    let text = answer.text();
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{answer:?}"));
        mask(&mut value);
        match value.get("code").cloned() {
            Some(code) if is_broken => json!({ "code": code }),
            Some(code) => json!({"code": code, "message": value["message"]}),
            None => value,
        }
    };
    Said { status, lines: text.lines().map(line).collect() }
}

#[test]
fn answers_are_etcds_field_by_field() {
    let Some(etcd) = reference() else { return };
    for seed in 1..=env_number("PINION_HTTP_SEEDS", 2) {
        println!("replay: PINION_HTTP_SEEDS={seed} cargo test --test http field_by_field");
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let [mut theirs, mut ours] =
                [Launch::binary(&etcd, work.join("etcd")), Launch::new(work.join("ours"))];
            for launch in [&mut theirs, &mut ours] {
                launch.flags.push("--bcrypt-cost=4".to_owned());
            }
            let (theirs, ours) = (theirs.start().await, ours.start().await);
            let mut theirs_web = Web::connect(theirs.client_port()).await;
            let mut ours_web = Web::connect(ours.client_port()).await;
            let mut generator = Generator { random: StdRng::seed_from_u64(seed) };
            for number in 0..env_number("PINION_HTTP_OPS", 1_500) {
                let (path, text) = generator.request();
                // Errors about a text are of its reader.
                let is_broken = serde_json::from_str::<Value>(&text).map_or(true, |value| {
                    !value.is_object() || value["lease"] == json!(1.5) || value["key"] == json!(5)
                }) || text.contains("\"!\"")
                    || text.contains("\"x\"}") && path == "/v3/kv/put"
                    || text.contains("9999999999999")
                    || text.contains("\"yes\"");
                let (their, our) = (theirs_web.post(path, &text).await, ours_web.post(path, &text).await);
                if path == "/v3/maintenance/hashkv" && their.status == 404 {
                    // 3.4 has it by gRPC only.
                    continue;
                }
                let [mut our_words, mut their_words] = [said(&our, is_broken), said(&their, is_broken)];
                if path == "/v3/maintenance/alarm" {
                    // 3.4's answers about alarms have no header.
                    for line in our_words.lines.iter_mut().chain(&mut their_words.lines) {
                        line.as_object_mut().expect("an answer is an object").remove("header");
                    }
                }
                assert_eq!(
                    our_words, their_words,
                    "seed {seed}, request {number}: {path} {text}\netcd: {their:?}\nours: {our:?}"
                );
            }
        });
    }
}
