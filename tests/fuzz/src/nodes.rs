//! Requests of the v2 API, and directories that both APIs write.
//!
//! Claims, for any bytes: a form is what a slow second reading of Go's rules finds in it; a path is cleaned as a file
//! system's is, or refused for a reason that holds; a request gets an answer of one line of JSON, in memory bounded by
//! the request, and what it writes is carried out or refused by a fault. Whatever v3 has written, a list by steps is
//! the list at once, and it is a filter over all keys; what it shows is found by its name. A wait is told once, of
//! something it asked for, or of what is compacted.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use bytes::Bytes;
use pinion::apply::{Machine, StatusFacts};
use pinion::directory::{Found, Tree, Waits};
use pinion::pb::etcdserverpb as pb;
use pinion::pb::peer;
use pinion::request::{NodeFault, NodeQuery, NodeWait, Query, RequestKind, WaitId, WaitNews, WaitOrder};
use pinion::rpc::escape::unescape;
use pinion::rpc::nodes::show::{Listing, put_event};
use pinion::rpc::nodes::{Failure, Form, NodeAsk, Wanted};
use pinion::types::limits::SLICE_NS;
use pinion::types::node_path::{LEVELS_MAX, PATH_BYTES_MAX, PathFault, is_hidden, is_node};
use pinion::types::{FormatLevel, KeyRange, NodePath, Slice};
use prost::Message as _;

use crate::requests::{AT, ignore, machine, request};
use crate::{below, bytes, memory, number, one_in};

const STEPS_MAX: usize = 60;
const NOW_NS: u64 = 1_700_000_000_000_000_000;
const ROOTS: [&str; 3] = ["", "/r", "/r/s"];
const METHODS: [&str; 6] = ["PUT", "GET", "DELETE", "POST", "HEAD", "PATCH"];
const PARAMETERS: [&str; 13] = [
    "value",
    "dir",
    "ttl",
    "prevExist",
    "prevValue",
    "prevIndex",
    "refresh",
    "recursive",
    "sorted",
    "quorum",
    "wait",
    "waitIndex",
    "noValueOnSuccess",
];

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => form(rest),
        1 => path(rest),
        2 => raw(rest),
        _ => play(&mut Unstructured::new(rest)),
    }
}

/// What Go's `QueryUnescape` says. None: an escape is none.
fn plain(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'%' {
            let digits = std::str::from_utf8(text.get(at + 1..at + 3)?).ok()?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            out.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            out.push(if text[at] == b'+' { b' ' } else { text[at] });
            at += 1;
        }
    }
    Some(out)
}

fn form(rest: &[u8]) {
    let Some((split, text)) = rest.split_first() else { return };
    let (body, query) = text.split_at(usize::from(*split).min(text.len()));
    // Each parameter is two vectors and their place in a third, which grows by doubling.
    let read = memory::bounded(160 * text.len() + 4_096, || Form::read(body, query));
    let pairs = || body.split(|&byte| byte == b'&').chain(query.split(|&byte| byte == b'&'));
    let known = |pair: &[u8]| {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        let mut half = || plain(halves.next().unwrap_or_default());
        half().zip(half())
    };
    let is_good = |pair: &[u8]| !pair.contains(&b';') && known(pair).is_some();
    let Ok(form) = read else {
        let is_many = 10_000 < pairs().count();
        assert!(is_many || !pairs().all(is_good), "refused: {}", text.escape_ascii());
        return;
    };
    assert!(pairs().all(is_good), "taken: {}", text.escape_ascii());
    let mut first = BTreeMap::new();
    for (name, value) in pairs().filter(|pair| !pair.is_empty()).filter_map(known) {
        first.entry(name).or_insert(value);
    }
    for name in first.keys().filter_map(|name| std::str::from_utf8(name).ok()).chain(PARAMETERS) {
        assert_eq!(form.get(name), first.get(name.as_bytes()).map(Vec::as_slice), "{name}");
    }
}

fn path(rest: &[u8]) {
    let Some((choice, text)) = rest.split_first() else { return };
    let root = ROOTS[usize::from(*choice) % ROOTS.len()];
    // One byte repeated makes long and deep ones out of few.
    let times = [1, 1, 1, 100, 5_000][usize::from(*choice >> 4) % 5];
    let text = text.repeat(times.min(1 + 20_000 / text.len().max(1)));
    let cleaned = memory::bounded(40 * text.len() + 4_096, || NodePath::clean(root, &text));
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut passed = 0;
    // From the end: each `..` takes the next segment in front of it.
    for segment in text.split(|&byte| byte == b'/').rev() {
        match segment {
            b"" | b"." => {}
            b".." => passed += 1,
            _ if 0 < passed => passed -= 1,
            segment => segments.push(segment),
        }
    }
    segments.reverse();
    let mut key = root.as_bytes().to_vec();
    for segment in &segments {
        key.push(b'/');
        key.extend_from_slice(segment);
    }
    match cleaned {
        Ok(path) => {
            assert_eq!(path.key(), &key);
            assert_eq!(NodePath::of_parts(path.key().clone(), root.len()), Some(path.clone()));
            assert_eq!(path.ancestors().count(), segments.len().saturating_sub(1));
            assert_eq!(path.is_root(), segments.is_empty());
            assert!(path.is_root() || is_node(path.shown()));
            let last =
                segments.last().map_or("", |segment| std::str::from_utf8(segment).expect("it was taken"));
            let above = path.ancestors().last().map(|above| above.join(last));
            assert!(above.is_none_or(|joined| joined == path));
        }
        Err(PathFault::NotUtf8) => assert!(std::str::from_utf8(&text).is_err()),
        Err(PathFault::TooLong) => assert!(PATH_BYTES_MAX < text.len() || PATH_BYTES_MAX < key.len()),
        Err(PathFault::TooDeep) => assert!(LEVELS_MAX < segments.len()),
    }
}

/// A request whose every part is raw, to a store with something in it.
fn raw(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let mut world = World::new(ROOTS[below(&mut input, ROOTS.len())]);
    for name in ["/a/b", "/a/_h", "/k"] {
        world.ask("PUT", name, b"value=1", b"");
    }
    let method = METHODS[below(&mut input, METHODS.len())];
    let path = String::from_utf8_lossy(bytes(&mut input, 300)).into_owned();
    let query = bytes(&mut input, 300);
    world.ask(method, &path, input.take_rest(), query);
    world.check();
}

fn play(input: &mut Unstructured<'_>) {
    let mut world = World::new(ROOTS[below(input, ROOTS.len())]);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match below(input, 12) {
            0..=5 => {
                let method = METHODS[below(input, 5)];
                let (path, form) = (shown(input), parameters(input));
                match method {
                    "PUT" | "POST" => world.ask(method, &path, form.as_bytes(), b""),
                    _ => world.ask(method, &path, b"", form.as_bytes()),
                }
            }
            6..=8 => {
                let (key, value) = (key(input, world.root).into(), bytes(input, 8).to_vec().into());
                let put = pb::PutRequest { key, value, ..Default::default() };
                world.apply(RequestKind::Put, put.encode_to_vec());
            }
            9 => {
                let key = key(input, world.root);
                let range_end = if one_in(input, 3) { [&key[..], b"0"].concat() } else { Vec::new() };
                let delete = pb::DeleteRangeRequest {
                    key: key.into(),
                    range_end: range_end.into(),
                    ..Default::default()
                };
                world.apply(RequestKind::DeleteRange, delete.encode_to_vec());
            }
            10 => {
                let current = world.machine.store().current_revision();
                let revision = current.saturating_sub(number(input).clamp(0, 30));
                let compact = pb::CompactionRequest { revision, physical: false };
                world.apply(RequestKind::Compact, compact.encode_to_vec());
                while !world.machine.work_slice(1 + below(input, 300)) {}
            }
            _ => world.check(),
        }
        world.collect();
    }
    world.check();
    world.end();
}

/// A path in few names, and sometimes in many.
fn shown(input: &mut Unstructured<'_>) -> String {
    const NAMES: [&str; 12] = ["a", "b", "a-b", "_h", "a%2Fb", "..", ".", "", "%00", "d%20d", "%C3%A4", "c"];
    if one_in(input, 12) {
        return String::from_utf8_lossy(bytes(input, 60)).into_owned();
    }
    if one_in(input, 20) {
        return "/x".repeat(below(input, 200));
    }
    (0..=below(input, 4)).map(|_| format!("/{}", NAMES[below(input, NAMES.len())])).collect()
}

/// A key of v3: like those of v2, or nothing like them.
fn key(input: &mut Unstructured<'_>, root: &str) -> Vec<u8> {
    const NAMES: [&[u8]; 11] = [b"a", b"b", b"a-b", b"_h", b"", b".", b"..", b"\xff", b"\0", b"c", b"a\x2e"];
    let mut key = if one_in(input, 8) { Vec::new() } else { root.as_bytes().to_vec() };
    match below(input, 12) {
        0 => key.extend_from_slice(bytes(input, 20)),
        1 => key.extend_from_slice(&b"/x".repeat(below(input, 300))),
        2 => key.extend(std::iter::repeat_n(b'y', 20_000)),
        _ => {
            for _ in 0..=below(input, 4) {
                key.push(b'/');
                key.extend_from_slice(NAMES[below(input, NAMES.len())]);
            }
        }
    }
    if one_in(input, 6) {
        key.push(b'/');
    }
    if key.is_empty() { b"/".to_vec() } else { key }
}

fn parameters(input: &mut Unstructured<'_>) -> String {
    const VALUES: [&str; 12] =
        ["1", "true", "0", "false", "", "2", "5", "x", "-1", "18446744073709551615", "%ff", "%"];
    let mut form = String::new();
    for _ in 0..below(input, 5) {
        let value = match below(input, 4) {
            0 => number(input).to_string(),
            _ => VALUES[below(input, VALUES.len())].to_owned(),
        };
        form += &format!("{}={value}&", PARAMETERS[below(input, PARAMETERS.len())]);
    }
    form
}

/// One line of JSON.
fn check_line(line: &[u8]) {
    let line = std::str::from_utf8(line).expect("text");
    let text = line.strip_suffix('\n').expect("a whole line");
    assert!(!text.contains('\n'), "{text}");
    let mut rest = text.as_bytes();
    value(&mut rest, 0);
    assert!(rest.is_empty(), "more than one value: {text}");
}

/// Passes over a value of JSON, by the grammar.
fn value(rest: &mut &[u8], depth: usize) {
    assert!(depth <= 2 * LEVELS_MAX + 8, "deeper than any path");
    match take(rest) {
        b'"' => string(rest),
        open @ (b'{' | b'[') => {
            let close = if open == b'{' { b'}' } else { b']' };
            loop {
                if rest.first() == Some(&close) {
                    take(rest);
                    return;
                }
                if open == b'{' {
                    assert_eq!(take(rest), b'"', "a name");
                    string(rest);
                    assert_eq!(take(rest), b':');
                }
                value(rest, depth + 1);
                if rest.first() == Some(&b',') {
                    take(rest);
                    assert_ne!(rest.first(), Some(&close), "a comma in front of an end");
                } else {
                    assert_eq!(rest.first(), Some(&close), "{}", rest.escape_ascii());
                }
            }
        }
        b't' => *rest = rest.strip_prefix(b"rue").expect("true"),
        b'-' | b'0'..=b'9' => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            *rest = &rest[digits..];
        }
        other => panic!("{:?} begins no value", char::from(other)),
    }
}

fn string(rest: &mut &[u8]) {
    loop {
        match take(rest) {
            b'"' => return,
            b'\\' => match take(rest) {
                b'u' => (0..4).for_each(|_| assert!(take(rest).is_ascii_hexdigit())),
                escaped => assert!(b"\"\\/bfnrt".contains(&escaped)),
            },
            byte => assert!(b' ' <= byte, "a control character"),
        }
    }
}

fn take(rest: &mut &[u8]) -> u8 {
    let (&byte, more) = rest.split_first().expect("more");
    *rest = more;
    byte
}

struct World {
    root: &'static str,
    machine: Machine,
    waits: Waits,
    /// Those that are not over.
    open: BTreeMap<WaitId, NodeWait>,
    next: u64,
}

impl World {
    fn new(root: &'static str) -> Self {
        let mut machine = machine();
        let level = peer::FormatLevel { level: FormatLevel::HIGHEST.0 };
        ignore(machine.apply(&request(RequestKind::FormatLevel, level.encode_to_vec()), AT));
        Self { root, machine, waits: Waits::default(), open: BTreeMap::new(), next: 0 }
    }

    fn apply(&mut self, kind: RequestKind, body: impl Into<Bytes>) -> Option<Bytes> {
        ignore(self.machine.apply(&request(kind, body), AT)).map(|response| response.body.into())
    }

    fn ask(&mut self, method: &str, path: &str, body: &[u8], query: &[u8]) {
        let Ok(form) = Form::read(body, query) else { return };
        let Ok(path) = unescape(path.as_bytes(), false) else { return };
        let bytes_max = 16 * (path.len() + body.len() + query.len()) + 8_192;
        let asked = memory::bounded(bytes_max, || NodeAsk::read(self.root, method, &path, &form, NOW_NS));
        let mut line = Vec::new();
        match asked {
            Err(failure) => {
                assert_eq!((failure.status(), failure.index), (400, 0));
                failure.put(&mut line);
            }
            Ok(NodeAsk { wanted: Wanted::Write(body), shows_nothing }) => {
                assert!(!matches!(method, "GET" | "HEAD"));
                let before = self.machine.store().current_revision();
                let told = self.apply(RequestKind::NodeWrite, body).expect("what a shard made is decodable");
                let told = peer::NodeAnswer::decode(told).expect("the machine's own message");
                let after = self.machine.store().current_revision();
                assert_eq!(u64::try_from(after), Ok(told.index), "its index is its revision");
                assert_eq!(after, before + i64::from(told.fault == 0), "one revision, or none");
                self.put(&told, shows_nothing, &mut line);
            }
            Ok(NodeAsk { wanted: Wanted::Read { query, .. }, .. }) => {
                let (mut told, nodes) = self.read(query);
                if let Some(event) = told.event.take() {
                    let mut listing = Listing::default();
                    listing.add(nodes);
                    listing.begin(event.node.unwrap_or_default(), NOW_NS, &mut line);
                    while !listing.put(NOW_NS, usize::MAX, &mut Slice::of(SLICE_NS), &mut line) {}
                } else {
                    self.put(&told, false, &mut line);
                }
            }
            Ok(NodeAsk { wanted: Wanted::Wait { wait, .. }, .. }) => {
                assert_eq!(NodePath::clean(self.root, &path), Ok(wait.path.clone()));
                self.next += 1;
                let id = WaitId(self.next);
                self.open.insert(id, wait.clone());
                let order = WaitOrder::Begin { id, wait: wait.into() };
                if let Some(news) = self.waits.on_order(0, order, self.machine.store()) {
                    self.told(&news);
                }
                return;
            }
        }
        check_line(&line);
    }

    fn put(&self, told: &peer::NodeAnswer, shows_nothing: bool, line: &mut Vec<u8>) {
        match &told.event {
            Some(event) => put_event(event, shows_nothing, NOW_NS, line),
            None => {
                assert!(NodeFault::from_number(told.fault).is_some(), "{}", told.fault);
                Failure::new(told.fault, told.cause.to_vec()).at(told.index).put(line);
            }
        }
    }

    /// All pages of a read.
    fn read(&self, mut query: NodeQuery) -> (peer::NodeAnswer, Vec<peer::Node>) {
        let (mut first, mut nodes) = (None, Vec::new());
        loop {
            let told = self.machine.read(&Query::Node(query.clone().into()), &StatusFacts::default());
            let mut told = peer::NodeAnswer::decode(&told.expect("a present revision").body[..])
                .expect("its own message");
            nodes.append(&mut told.nodes);
            query.resume = told.resume.take();
            let first = first.get_or_insert(told);
            query.at = i64::try_from(first.index).expect("a revision");
            if query.resume.is_none() {
                return (first.clone(), nodes);
            }
        }
    }

    /// The list of all, in every way.
    fn check(&self) {
        let (keys, entries) = (self.machine.store(), &self.machine.directories().entries);
        let at = keys.current_revision();
        let tree = Tree { keys, entries, at };
        let path = |text: &[u8]| NodePath::of_parts(text.to_vec().into(), self.root.len());
        let top = path(self.root.as_bytes()).expect("the root is a path");
        let mut whole = Vec::new();
        assert_eq!(tree.list(&top, true, None, &mut Slice::unbounded(), &mut whole), None);
        let (mut stepped, mut resume, mut is_first) = (Vec::new(), None, true);
        while is_first || resume.is_some() {
            is_first = false;
            resume = tree.list(&top, true, resume.as_ref(), &mut Slice::of(1), &mut stepped);
        }
        assert_eq!(stepped, whole, "a list by steps is another");
        let listed: BTreeMap<&[u8], bool> =
            whole.iter().map(|node| (&node.path[..], node.is_directory)).collect();
        assert_eq!(listed.len(), whole.len(), "a node is listed twice");
        for (shown, is_directory) in &listed {
            let path = path(&[self.root.as_bytes(), shown].concat()).expect("what is listed is a path");
            match tree.find(&path) {
                Found::Key(_) => assert!(!is_directory, "{path:?}"),
                Found::Directory(_) => assert!(is_directory, "{path:?}"),
                Found::Missing => panic!("{path:?} is listed and not found"),
            }
        }
        // A key is listed exactly when it is a path that is not hidden, and no key is in its way.
        let mut expected = 0;
        for kv in keys.scan(KeyRange::From(b""), at) {
            let Some(path) = kv.key.starts_with(self.root.as_bytes()).then(|| path(kv.key)).flatten() else {
                continue;
            };
            let is_shown = !path.is_root()
                && !is_hidden(path.shown())
                && path.ancestors().all(|above| keys.get(above.key(), at).is_none());
            assert_eq!(listed.get(path.shown()), is_shown.then_some(&false), "{path:?}");
            expected += usize::from(is_shown);
        }
        assert_eq!(whole.iter().filter(|node| !node.is_directory).count(), expected);
    }

    /// Looks at what was applied for those who wait.
    fn collect(&mut self) {
        let mut told = Vec::new();
        let (keys, entries) = (self.machine.store(), &self.machine.directories().entries);
        self.waits.collect(keys, entries, |_, news| told.push(news));
        if let Some((_, news)) = self.waits.work(keys, entries, &mut Slice::of(500)) {
            told.push(news);
        }
        told.iter().for_each(|news| self.told(news));
    }

    fn told(&mut self, news: &WaitNews) {
        let wait = self.open.remove(&news.id).expect("told once, and only who waits");
        let told = peer::NodeAnswer::decode(news.answer.clone()).expect("the store's own message");
        let mut line = Vec::new();
        self.put(&told, false, &mut line);
        check_line(&line);
        let Some(event) = told.event else {
            assert_eq!(told.fault, NodeFault::Cleared.number());
            return;
        };
        assert!(u64::try_from(wait.from.max(0)).is_ok_and(|from| from <= told.index), "{wait:?}: {event:?}");
        let (changed, asked) = (event.node.expect("an event has a node").path, wait.path.shown().to_vec());
        let is_below = |below: &[u8], above: &[u8]| {
            below == above || below.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/"))
        };
        assert!(
            changed == asked || (wait.recursive && is_below(&changed, &asked)) || is_below(&asked, &changed),
            "{wait:?} is told of {}",
            changed.escape_ascii()
        );
    }

    fn end(mut self) {
        while self.waits.has_work() {
            self.collect();
        }
        assert_eq!(self.waits.len(), self.open.len());
        for id in self.open.keys() {
            assert_eq!(
                self.waits
                    .on_order(0, WaitOrder::Cancel { id: *id }, self.machine.store())
                    .map(|news| news.id),
                None
            );
        }
        assert!(self.waits.is_empty());
    }
}
