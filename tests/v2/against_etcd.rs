//! Answers of v2 beside those of a real etcd with `--enable-v2`: the same random requests to both, field by field.
//!
//! Indexes are compared by their order: both sides' numbers of all answers so far must be in one order, and numbers
//! that are equal on one side must be so on the other. What is left of times to live may differ by what passes between
//! the two. Masked: dates, cluster, raft's index and term. Not sent: what
//! etcd answers with an error of its own making (a directory's time to live renewed, which is `both.rs`'s).
//! `PINION_ETCD_BIN` names the etcd; skipped loudly without one. `PINION_V2_SEEDS` and `PINION_V2_OPS` make it longer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, env_number, installed};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::time::Instant;

use crate::v2::{ask, escaped, json_request};
use crate::web::{Answer, Web};

fn reference() -> Option<PathBuf> {
    std::env::var_os("PINION_ETCD_BIN").map(PathBuf::from).or_else(|| installed("etcd"))
}

/// Both sides' indexes, as far as they are known.
#[derive(Default)]
struct Indexes {
    to_ours: BTreeMap<u64, u64>,
}

impl Indexes {
    /// Notes a pair. False: the order or an equality differs.
    fn pair(&mut self, theirs: u64, ours: u64) -> bool {
        if let Some(known) = self.to_ours.get(&theirs) {
            return *known == ours;
        }
        let below = self.to_ours.range(..theirs).next_back().is_none_or(|(_, below)| *below < ours);
        let above = self.to_ours.range(theirs..).next().is_none_or(|(_, above)| ours < *above);
        self.to_ours.insert(theirs, ours);
        below && above
    }
}

/// Makes requests.
struct Generator {
    random: StdRng,
    /// The last modifiedIndex of either side: theirs, ours.
    last: (u64, u64),
    last_value: String,
}

impl Generator {
    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.random.random_range(0..from.len())]
    }

    fn path(&mut self) -> String {
        if self.one_in(40) {
            return self.pick(&["", "/"]).to_owned();
        }
        let levels = [1, 1, 2, 2, 3][self.random.random_range(0..5)];
        let mut path = String::new();
        for _ in 0..levels {
            path.push('/');
            path.push_str(self.pick(&["a", "b", "c", "a-b", "_h", "%C3%A4", "d%20d"]));
            if self.one_in(30) {
                path.push_str(self.pick(&[
                    "/",
                    "//",
                    "/.",
                    "/..",
                    "%2F%2f",
                    "/%2e%2E/%ff",
                    "/../../a",
                    "/../../..",
                ]));
            }
        }
        if self.one_in(20) { path + "/" } else { path }
    }

    /// A form in which `INDEX` stands for the last modifiedIndex.
    fn form(&mut self, method: &str) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut add = |word: String| words.push(word);
        let value = ["", "1", "2", "ä <&> \"x\"", "%"][self.random.random_range(0..5)];
        match method {
            "PUT" => {
                let refreshes = self.one_in(12);
                if !refreshes && !self.one_in(8) {
                    add(format!("value={}", escaped(value)));
                }
                if refreshes {
                    add("refresh=true".into());
                    // etcd cannot renew a directory's: it is asked of keys by a condition alone.
                    add("prevValue=".to_owned()
                        + &escaped(if self.one_in(2) { &self.last_value } else { "1" }));
                }
                if refreshes || self.one_in(6) {
                    add("ttl=".to_owned() + self.pick(&["100", "1000", "5000"]));
                }
                if !refreshes && self.one_in(5) {
                    add("dir=true".into());
                }
                if !refreshes && self.one_in(4) {
                    add("prevExist=".to_owned() + self.pick(&["false", "0", "F"]));
                } else if self.one_in(5) {
                    // With a value: etcd cannot update a directory without one.
                    words = vec!["prevExist=true".into(), format!("value={}", escaped("u"))];
                } else if self.one_in(4) {
                    add("prevIndex=".to_owned() + self.pick(&["INDEX", "INDEX", "0", "3"]));
                }
                if !refreshes && self.one_in(6) {
                    let last = self.last_value.clone();
                    words.push("prevValue=".to_owned() + &escaped(if self.one_in(2) { &last } else { "1" }));
                }
                if self.one_in(10) {
                    words.push("noValueOnSuccess=true".into());
                }
            }
            "POST" => {
                add(format!("value={}", escaped(value)));
                if self.one_in(4) {
                    add("ttl=500".into());
                }
            }
            "DELETE" => {
                if self.one_in(3) {
                    add("dir=true".into());
                }
                if self.one_in(3) {
                    add("recursive=true".into());
                }
                if self.one_in(6) {
                    add("prevIndex=INDEX".into());
                }
                if self.one_in(6) {
                    add("prevValue=".to_owned() + &escaped(&self.last_value));
                }
            }
            _ => {
                add("sorted=true".into());
                if self.one_in(2) {
                    add("recursive=true".into());
                }
                if self.one_in(4) {
                    add("quorum=true".into());
                }
            }
        }
        words.retain(|word| word != "prevValue=");
        if self.one_in(25) {
            let broken = [
                "prevIndex=x",
                "waitIndex=-1",
                "recursive=yes",
                "sorted=2",
                "dir=maybe",
                "prevValue=",
                "ttl=x",
                "ttl=-1",
                "prevExist=",
                "refresh=x",
                "refresh=true",
                "refresh=true&value=x&ttl=5",
                "noValueOnSuccess=x",
                "quorum=x",
                "stream=x",
                "x=%zz",
                "a;b",
            ];
            words.push(self.pick(&broken).to_owned());
        }
        words.join("&")
    }
}

/// Numbers that differ between two servers which do the same, in the order of their fields.
#[derive(Default)]
struct Numbers {
    indexes: Vec<u64>,
    /// Seconds that are left of times to live.
    left_s: Vec<i64>,
}

/// What is compared of a value as it is; the rest goes to `numbers`.
fn masked(value: &mut Value, numbers: &mut Numbers) {
    match value {
        Value::Object(fields) => {
            if let Some(date) = fields.get_mut("expiration") {
                assert!(date.as_str().unwrap().ends_with('Z'));
                *date = "a date".into();
            }
            if let Some(left) = fields.get_mut("ttl")
                && let Some(seconds) = left.as_i64()
            {
                numbers.left_s.push(seconds);
                *left = "what is left".into();
            }
            for name in ["modifiedIndex", "createdIndex", "index"] {
                if let Some(index) = fields.get_mut(name)
                    && let Some(number) = index.as_u64().filter(|number| *number != 0)
                {
                    numbers.indexes.push(number);
                    *index = "an index".into();
                }
            }
            // What a comparison failed on, and an in-order key, have an index in their text.
            for name in ["cause", "key"] {
                let Some(Value::String(text)) = fields.get_mut(name) else { continue };
                let mut out = String::new();
                for piece in text.split_inclusive(|byte: char| !byte.is_ascii_digit()) {
                    let digits: String = piece.chars().take_while(char::is_ascii_digit).collect();
                    if digits.len() == 20 || (name == "cause" && !digits.is_empty()) {
                        let number: u64 = digits.parse().unwrap_or(0);
                        if digits.len() == 20 {
                            numbers.indexes.push(number);
                        }
                        out.push_str(&piece.replace(&digits, "N"));
                    } else {
                        out.push_str(piece);
                    }
                }
                *text = out;
            }
            fields.values_mut().for_each(|value| masked(value, numbers));
            if let Some(Value::Array(nodes)) = fields.get_mut("nodes") {
                nodes.sort_by_key(|node| node["key"].to_string());
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| masked(value, numbers)),
        _ => {}
    }
}

/// All headers but the date, in order.
fn headers(answer: &Answer) -> Vec<(String, String)> {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    headers.sort();
    headers
}

/// An answer without what differs, and that. `last` is the index that was asked about.
fn said(answer: &Answer, last: u64) -> ((u16, Value, Vec<bool>), Numbers) {
    if answer.status == 301 {
        // Nothing in it is a server's own but what it was asked.
        let told = format!("{:?} {}", headers(answer), answer.text());
        let told = told.replace(&format!("prevIndex={last}"), "prevIndex=INDEX");
        return ((301, told.into(), Vec::new()), Numbers::default());
    }
    let mut body = answer.json();
    let mut numbers = Numbers::default();
    let header = |name: &str| answer.header(name);
    let index: Option<u64> = header("x-etcd-index").and_then(|text| text.parse().ok());
    numbers.indexes.extend(index.filter(|index| *index != 0));
    masked(&mut body, &mut numbers);
    let names = ["x-etcd-index", "x-raft-index", "x-raft-term", "x-etcd-cluster-id"];
    let headers = names.iter().map(|name| header(name).is_some()).collect();
    ((answer.status, body, headers), numbers)
}

#[test]
fn answers_of_v2_are_etcds_field_by_field() {
    let Some(etcd) = reference() else { return };
    for seed in 1..=env_number("PINION_V2_SEEDS", 2) {
        println!("replay: PINION_V2_SEEDS={seed} cargo test --test v2 field_by_field");
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let launch = |binary: Launch| binary.flag("--enable-v2");
            let theirs = launch(Launch::binary(&etcd, work.join("etcd"))).start().await;
            let ours = launch(Launch::new(work.join("ours"))).start().await;
            let mut theirs_web = Web::connect(theirs.client_port()).await;
            let mut ours_web = Web::connect(ours.client_port()).await;
            let mut indexes = Indexes::default();
            // A time to live begins, and is read, on both sides within one pair of requests.
            let mut longest_pair = Duration::ZERO;
            let random = StdRng::seed_from_u64(seed);
            let mut generator = Generator { random, last: (1, 1), last_value: "1".into() };
            let operations = env_number("PINION_V2_OPS", 1_500);
            let mut moves = 0;
            for number in 0..operations {
                let method = match generator.random.random_range(0..10) {
                    0..5 => "PUT",
                    5 => "POST",
                    6..8 => "DELETE",
                    _ => "GET",
                };
                let (mut path, form) = (generator.path(), generator.form(method));
                if method == "POST" && path.len() <= 1 {
                    path = "/q".into();
                }
                let (their_form, our_form) = (
                    form.replace("INDEX", &generator.last.0.to_string()),
                    form.replace("INDEX", &generator.last.1.to_string()),
                );
                let target = |form: &str| match method {
                    "PUT" | "POST" => format!("/keys{path}"),
                    _ => format!("/keys{path}?{form}"),
                };
                let asked = Instant::now();
                let their = ask(&mut theirs_web, method, &target(&their_form), &their_form).await;
                let our = ask(&mut ours_web, method, &target(&our_form), &our_form).await;
                longest_pair = longest_pair.max(asked.elapsed());
                let context = || {
                    format!(
                        "seed {seed}, request {number}: {method} {path} {form}\netcd: {} {}ours: {} {}",
                        their.status,
                        their.text(),
                        our.status,
                        our.text()
                    )
                };
                let ((their_said, theirs), (our_said, ours)) =
                    (said(&their, generator.last.0), said(&our, generator.last.1));
                assert_eq!(our_said, their_said, "{}", context());
                // Of a second that has begun either side may tell the whole.
                let apart = i64::try_from(longest_pair.as_secs()).unwrap() + 2;
                let is_alike = |(theirs, ours): (&i64, &i64)| (theirs - ours).abs() <= apart;
                assert_eq!(ours.left_s.len(), theirs.left_s.len(), "{}", context());
                assert!(theirs.left_s.iter().zip(&ours.left_s).all(is_alike), "{}", context());
                assert_eq!(ours.indexes.len(), theirs.indexes.len(), "{}", context());
                for (theirs, ours) in theirs.indexes.iter().zip(&ours.indexes) {
                    assert!(indexes.pair(*theirs, *ours), "indexes {theirs} and {ours}: {}", context());
                }
                if our.status == 301 {
                    moves += 1;
                    continue;
                }
                let node = |answer: &Answer| answer.json()["node"].clone();
                let index = |answer: &Answer| node(answer)["modifiedIndex"].as_u64();
                if let (Some(theirs), Some(ours)) = (index(&their), index(&our)) {
                    generator.last = (theirs, ours);
                    if let Some(value) = node(&our)["value"].as_str() {
                        generator.last_value = value.to_owned();
                    }
                }
            }
            assert!(operations / 100 <= moves, "{moves} of {operations} paths were unclean");
        });
    }
}

#[test]
fn members_machines_and_refusals_of_methods_are_etcds() {
    let Some(etcd) = reference() else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let theirs = Launch::binary(&etcd, work.join("etcd")).flag("--enable-v2").start().await;
        let ours = Launch::new(work.join("ours")).flag("--enable-v2").start().await;
        let mut webs = [Web::connect(theirs.client_port()).await, Web::connect(ours.client_port()).await];
        for (method, path) in [
            ("GET", "/members"),
            ("GET", "/members/leader"),
            ("GET", "/members/nobody"),
            ("DELETE", "/members/abc"),
            ("DELETE", "/members/xyz"),
            ("POST", "/members"),
            ("PUT", "/members/abc"),
            ("PATCH", "/members"),
            ("GET", "/machines"),
            ("POST", "/machines"),
            ("PATCH", "/keys/a"),
            ("POST", "/stats/store"),
            ("GET", "/nothing"),
            ("GET", "/members//leader"),
            ("DELETE", "/./members/abc"),
            ("POST", "/machines/../members/"),
            ("GET", "//machines"),
            ("PUT", "/stats/../keys/a?dir=true&x=%3c'"),
            ("GET", "/stats"),
            ("GET", "/stats/"),
            ("GET", "/machines/"),
            ("GET", ""),
            ("GET", "/"),
            ("GET", "/.."),
            ("GET", "/%2e%2e/version/"),
            ("GET", "/m%65mbers/nobody"),
            ("GET", "/members/leader/"),
            ("DELETE", "/members/abc/"),
        ] {
            let mut told = Vec::new();
            for web in &mut webs {
                let answer = ask(web, method, path, "").await;
                let body = match serde_json::from_slice::<Value>(&answer.body) {
                    // Identities, ports and texts are each server's own; the fields are not.
                    Ok(Value::Object(fields)) => fields.keys().cloned().collect::<Vec<_>>().join(" "),
                    _ if answer.status == 200 => "text".into(),
                    _ => answer.text(),
                };
                let header = |name| answer.header(name).map(str::to_owned);
                told.push((answer.status, header("allow"), header("location"), body));
            }
            assert_eq!(told[1], told[0], "{method} {path}");
        }
        for path in ["/stats/store", "/stats/self", "/stats/leader"] {
            let mut names = Vec::new();
            for web in &mut webs {
                let answer = ask(web, "GET", path, "").await;
                assert_eq!(answer.status, 200, "{path}");
                let fields = answer.json();
                names.push(fields.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
            }
            assert_eq!(names[1], names[0], "{path}");
        }
        // A member that was there once is gone for good; one without a vote comes and goes without a quorum of its own.
        let mut removed = Vec::new();
        for (server, web) in [&theirs, &ours].into_iter().zip(&mut webs) {
            let client = server.connect().await;
            let id = client.member_add("http://127.0.0.1:1", true).await.unwrap().member.unwrap().id;
            client.member_remove(id).await.unwrap();
            let answer = ask(web, "DELETE", &format!("/members/{id:x}"), "").await;
            let told = answer.json()["message"].as_str().unwrap().to_owned();
            assert_eq!((answer.status, told), (410, format!("Member permanently removed: {id:x}")));
            removed.push(id);
        }
        // What is sent to `MEMBER` goes to the member that is there, to `REMOVED` to the one that was.
        let mut told = Vec::new();
        for (removed, web) in removed.into_iter().zip(&mut webs) {
            let list = ask(web, "GET", "/members", "").await.json();
            let (own, own_url) = (&list["members"][0]["id"], &list["members"][0]["peerURLs"][0]);
            let mut answers = Vec::new();
            for (method, path, body) in [
                ("PUT", "REMOVED", "{\"peerURLs\":[\"http://127.0.0.1:2\"]}"),
                ("PUT", "abc", "{\"peerURLs\":[\"http://127.0.0.1:2\"]}"),
                ("PUT", "xyz", "{\"peerURLs\":[\"http://127.0.0.1:2\"]}"),
                ("PUT", "REMOVED", "{"),
                ("PUT", "MEMBER", "{"),
                ("PUT", "MEMBER", "{\"peerURLs\":[]}"),
                ("PUT", "MEMBER", "{\"peerURLs\":[\"foo\"]}"),
                ("PUT", "MEMBER", "[]"),
                ("PUT", "MEMBER", ""),
                ("POST", "", "{\"peerURLs\":[]}"),
                ("POST", "", "{\"peerURLs\":[\"OWN\"]}"),
                ("POST", "", "{"),
                ("PUT", "MEMBER", "{\"peerURLs\":[\"http://127.0.0.1:2\"]}"),
            ] {
                let path = path.replace("REMOVED", &format!("{removed:x}"));
                let path = path.replace("MEMBER", own.as_str().unwrap());
                let body = body.replace("OWN", own_url.as_str().unwrap());
                web.send(json_request(method, &format!("/members/{path}"), &body)).await;
                let answer = web.answer().await.unwrap();
                let told = match answer.status {
                    // The words of Go's own parser are its own.
                    400 => String::new(),
                    _ => answer.text().replace(&format!("{removed:x}"), "REMOVED"),
                };
                answers.push((method, body.replace(own_url.as_str().unwrap(), "OWN"), answer.status, told));
            }
            told.push(answers);
        }
        assert_eq!(told[1], told[0]);
    });
}
