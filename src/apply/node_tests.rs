//! Nodes against a model that walks a plain map, with both APIs writing.
//!
//! Each seed draws writes of v2 and of v3 on a few short names. After each, the answer, the whole tree and who ends are
//! compared; at the end, the history as waits tell it. In between the state goes through a checkpoint and is compacted.
//! `PINION_MODEL_OPS` sets the number of writes, `PINION_MODEL_SEED` replays one seed.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::apply::script::{AT, machine, request};
use crate::apply::{Applied, Begun, Restore};
use crate::directory::Waits;
use crate::pb::etcdserverpb as pb;
use crate::request::{NodeWait, RequestKind, WaitId, WaitOrder};
use crate::types::FormatLevel;
use crate::types::limits::KEY_NS;

/// A machine at the level of nodes.
fn leveled() -> Machine {
    let mut machine = machine();
    let body = peer::FormatLevel { level: FormatLevel::HIGHEST.0 }.encode_to_vec();
    let _told = machine.apply(&request(RequestKind::FormatLevel, body), AT);
    machine
}

fn path(text: &str) -> NodePath {
    NodePath::clean("", text.as_bytes()).unwrap()
}

fn apply(machine: &mut Machine, kind: RequestKind, body: Vec<u8>) -> Outcome {
    let request = request(kind, body);
    let begun = match machine.begin_apply(&request, AT, false) {
        Begun::Waiting => machine.begin_apply(&request, AT, true),
        begun => begun,
    };
    match begun {
        Begun::Applied(Applied::Now(outcome)) => outcome,
        Begun::Applied(Applied::AfterCompaction(response)) => Ok(response),
        Begun::Waiting => unreachable!("it has room"),
        Begun::Preparing => prepare(machine, kind),
    }
}

/// Applies what is begun, a key or two at a time. Nobody sees a part of it.
fn prepare(machine: &mut Machine, kind: RequestKind) -> Outcome {
    let seen = |machine: &Machine| (machine.store().current_revision(), tree(machine));
    let before = seen(machine);
    let (mut announced, mut slices) = (false, 0);
    loop {
        slices += 1;
        assert!(slices < 10_000, "it goes on");
        let announce = |_: &_, _: &mut _| {
            announced = !announced;
            !announced
        };
        let outcome = machine.prepare_slice(&mut Slice::of(2 * KEY_NS), announce);
        match outcome {
            Some(outcome) => return outcome,
            // Those that end are a revision each.
            None if kind == RequestKind::NodeExpire => {}
            None => assert_eq!(seen(machine), before, "half of it is seen"),
        }
    }
}

fn write(machine: &mut Machine, write: &peer::NodeWrite) -> peer::NodeAnswer {
    let response = apply(machine, RequestKind::NodeWrite, write.encode_to_vec()).unwrap();
    peer::NodeAnswer::decode(&response.body[..]).unwrap()
}

/// All below the root, in pages.
fn tree(machine: &Machine) -> Vec<peer::Node> {
    let mut query = NodeQuery { path: path("/"), recursive: true, is_standing: false, at: 0, resume: None };
    let mut nodes = Vec::new();
    loop {
        let response = machine.read_node(&query, LogIndex(0)).unwrap();
        let mut answer = peer::NodeAnswer::decode(&response.body[..]).unwrap();
        nodes.append(&mut answer.nodes);
        match answer.resume {
            None => return nodes,
            resume => query.resume = resume,
        }
    }
}

/// A key of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    value: String,
    created: u64,
    modified: u64,
    /// Of the first put of v3's life of the key.
    born: u64,
    ends: bool,
}

#[derive(Debug, Clone, Default)]
struct Model {
    keys: BTreeMap<String, Key>,
    /// Made by v2: created, modified, whether it ends.
    directories: BTreeMap<String, (u64, u64, bool)>,
    index: u64,
    /// Index, action, path, whether watchers hear of it.
    events: Vec<(u64, NodeAction, String)>,
}

impl Model {
    fn is_directory(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.directories.contains_key(path)
            || self.keys.keys().chain(self.directories.keys()).any(|key| key.starts_with(&below))
    }

    /// Created and modified.
    fn indices(&self, path: &str) -> (u64, u64) {
        if let Some(&(created, modified, _)) = self.directories.get(path) {
            return (created, modified);
        }
        let below = format!("{path}/");
        let first = self.keys.iter().find(|(key, _)| key.starts_with(&below)).map(|(_, key)| key.born);
        let first = first.or_else(|| {
            let below = self.directories.iter().filter(|(key, _)| key.starts_with(&below));
            // An entry of a directory is born when it was made first.
            below.map(|(_, &(created, _, _))| created).next()
        });
        let first = first.expect("it is a directory");
        (first, first)
    }

    fn above(path: &str) -> impl Iterator<Item = &str> {
        path.match_indices('/').skip(1).map(|(at, _)| &path[..at])
    }

    /// Why a path that names nothing does not.
    fn fault(&self, path: &str) -> (NodeFault, String) {
        for above in Self::above(path) {
            if self.keys.contains_key(above) {
                return (NodeFault::NotDirectory, above.to_owned());
            }
            if !self.is_directory(above) {
                return (NodeFault::NotFound, above.to_owned());
            }
        }
        (NodeFault::NotFound, path.to_owned())
    }

    fn make_above(&mut self, path: &str) -> Result<(), (NodeFault, String)> {
        let blocked = Self::above(path).find(|above| self.keys.contains_key(*above));
        if let Some(above) = blocked {
            return Err((NodeFault::NotDirectory, above.to_owned()));
        }
        let missing: Vec<_> =
            Self::above(path).filter(|above| !self.is_directory(above)).map(str::to_owned).collect();
        for above in missing {
            self.directories.insert(above, (self.index + 1, self.index + 1, false));
        }
        Ok(())
    }

    fn remove_directory(&mut self, path: &str) {
        let below = format!("{path}/");
        self.keys.retain(|key, _| !key.starts_with(&below));
        self.directories.retain(|key, _| key != path && !key.starts_with(&below));
    }

    fn tell(&mut self, action: NodeAction, path: &str) {
        self.index += 1;
        self.events.push((self.index, action, path.to_owned()));
    }

    /// Returns the fault and its cause, or nothing.
    fn write(
        &mut self,
        method: NodeMethod,
        at: &str,
        ask: &peer::NodeWrite,
    ) -> Result<(), (NodeFault, String)> {
        let next = self.index + 1;
        let at = if method == NodeMethod::CreateInOrder { format!("{at}/{next:020}") } else { at.to_owned() };
        let at = at.as_str();
        let not_file = Err((NodeFault::NotFile, at.to_owned()));
        let (key, is_directory) =
            (self.keys.get(at).cloned(), self.is_directory(at) && !self.keys.contains_key(at));
        let value = String::from_utf8(ask.value.to_vec()).unwrap();
        let ends = ask.expiry.is_some();
        let put = |created: u64, born: u64, value: String| Key { value, created, modified: next, born, ends };
        if at.is_empty() {
            return Err((NodeFault::RootReadOnly, "/".to_owned()));
        }
        match method {
            NodeMethod::Set | NodeMethod::Create | NodeMethod::CreateInOrder => {
                if method != NodeMethod::Set && (key.is_some() || is_directory) {
                    return Err((NodeFault::Exists, at.to_owned()));
                }
                if is_directory {
                    return not_file;
                }
                if key.is_none() {
                    if ask.refresh {
                        return Err(self.fault(at));
                    }
                    self.make_above(at)?;
                }
                if ask.is_directory {
                    self.keys.remove(at);
                    self.directories.insert(at.to_owned(), (next, next, ends));
                } else {
                    let value = key.as_ref().filter(|_| ask.refresh).map_or(value, |key| key.value.clone());
                    let born = key.map_or(next, |key| key.born);
                    self.keys.insert(at.to_owned(), put(next, born, value));
                }
                let action = if method == NodeMethod::Set { NodeAction::Set } else { NodeAction::Create };
                if ask.refresh {
                    self.index += 1;
                } else {
                    self.tell(action, at);
                }
            }
            NodeMethod::Update if is_directory => {
                if !value.is_empty() {
                    return not_file;
                }
                let created = self.indices(at).0;
                self.directories.insert(at.to_owned(), (created, next, ends));
                if ask.refresh {
                    self.index += 1;
                } else {
                    self.tell(NodeAction::Update, at);
                }
            }
            NodeMethod::Delete if is_directory => {
                let below = format!("{at}/");
                let is_empty =
                    !self.keys.keys().chain(self.directories.keys()).any(|key| key.starts_with(&below));
                match (ask.recursive, ask.is_directory) {
                    (false, false) => return not_file,
                    (false, true) if !is_empty => return Err((NodeFault::NotEmpty, at.to_owned())),
                    _ => {}
                }
                self.remove_directory(at);
                self.tell(NodeAction::Delete, at);
            }
            _ if is_directory => return not_file,
            _ => {
                let Some(key) = key else { return Err(self.fault(at)) };
                if matches!(method, NodeMethod::CompareAndSwap | NodeMethod::CompareAndDelete) {
                    let wanted = String::from_utf8(ask.previous_value.to_vec()).unwrap();
                    let of_value = format!("[{wanted} != {}]", key.value);
                    let of_index = format!("[{} != {}]", ask.previous_index, key.modified);
                    let is_value = wanted.is_empty() || wanted == key.value;
                    let is_index = ask.previous_index == 0 || ask.previous_index == key.modified;
                    let cause = match (is_value, is_index) {
                        (true, true) => None,
                        (false, true) => Some(of_value),
                        (true, false) => Some(of_index),
                        (false, false) => Some(format!("{of_value} {of_index}")),
                    };
                    if let Some(cause) = cause {
                        return Err((NodeFault::CompareFailed, cause));
                    }
                }
                let action = match method {
                    NodeMethod::Update => NodeAction::Update,
                    NodeMethod::CompareAndSwap => NodeAction::CompareAndSwap,
                    NodeMethod::CompareAndDelete => NodeAction::CompareAndDelete,
                    _ => NodeAction::Delete,
                };
                if matches!(action, NodeAction::Delete | NodeAction::CompareAndDelete) {
                    self.keys.remove(at);
                } else {
                    let value = if ask.refresh { key.value.clone() } else { value };
                    self.keys.insert(at.to_owned(), put(key.created, key.born, value));
                }
                if ask.refresh {
                    self.index += 1;
                } else {
                    self.tell(action, at);
                }
            }
        }
        Ok(())
    }

    /// Path, value or none for a directory, created and modified.
    fn tree(&self) -> BTreeSet<(String, Option<String>, u64, u64)> {
        let mut names = BTreeSet::new();
        for (key, is_key) in self
            .keys
            .keys()
            .map(|key| (key, true))
            .chain(self.directories.keys().map(|directory| (directory, false)))
        {
            // Below a key, and below what is hidden, nothing is listed.
            for name in Self::above(key).chain([key.as_str()]) {
                if name.contains("/_") {
                    break;
                }
                let is_end = self.keys.contains_key(name);
                if is_key || !is_end || name != key {
                    names.insert(name.to_owned());
                }
                if is_end {
                    break;
                }
            }
        }
        names
            .into_iter()
            .map(|name| match self.keys.get(&name) {
                Some(key) => (name, Some(key.value.clone()), key.created, key.modified),
                None => {
                    let (created, modified) = self.indices(&name);
                    (name, None, created, modified)
                }
            })
            .collect()
    }
}

fn shown(nodes: &[peer::Node]) -> BTreeSet<(String, Option<String>, u64, u64)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let node = |node: &peer::Node| {
        let value = (!node.is_directory).then(|| text(&node.value));
        (text(&node.path), value, node.created, node.modified)
    };
    let set: BTreeSet<_> = nodes.iter().map(node).collect();
    assert_eq!(set.len(), nodes.len(), "a node was listed twice");
    set
}

/// The state out of its own checkpoint.
fn through_checkpoint(mut machine: Machine) -> Machine {
    let mut checkpoint = machine.begin_checkpoint();
    let mut stream = Vec::new();
    while !machine.checkpoint_slice(&mut checkpoint, 64, &mut stream) {}
    machine.end_checkpoint(checkpoint);
    let mut restore = Restore::new();
    for piece in stream.chunks(37) {
        restore.feed(piece).unwrap();
    }
    let restored = restore.finish().unwrap();
    assert_eq!(restored.directories().table(), machine.directories().table());
    restored
}

/// What a recursive wait of the root is told from `from` on.
fn history(machine: &Machine, from: i64) -> Vec<(u64, NodeAction, String)> {
    let (mut waits, mut told, mut next) = (Waits::default(), Vec::new(), (from, 0));
    for number in 0.. {
        let wait = NodeWait { path: path("/"), recursive: true, from: next.0, passed: next.1 };
        let order = WaitOrder::Begin { id: WaitId(number), wait: wait.into() };
        let mut news = waits.on_order(3, order, machine.store());
        let entries = &machine.directories().entries;
        while news.is_none() && waits.has_work() {
            news = waits.work(machine.store(), entries, &mut Slice::of(150)).map(|(_, news)| news);
        }
        let Some(news) = news else { break };
        let answer = peer::NodeAnswer::decode(news.answer).unwrap();
        let event = answer.event.expect("nothing of it is compacted");
        let path = String::from_utf8(event.node.unwrap().path.to_vec()).unwrap();
        told.push((answer.index, NodeAction::from_number(event.action).unwrap(), path));
        next = (i64::try_from(answer.index).unwrap(), news.passed);
    }
    told
}

fn play(seed: u64, ops: u64) {
    println!("replay: PINION_MODEL_SEED={seed} cargo test --lib nodes_are_what_a_model_says");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut machine, mut model) = (leveled(), Model { index: 1, ..Model::default() });
    // Every other one has all its deletions in slices.
    let short_keys_max = if seed.is_multiple_of(2) { 0 } else { machine.short_keys_max };
    machine.short_keys_max = short_keys_max;
    let names = ["a", "b", "a-b", "_h", "c"];
    for number in 0..ops {
        let mut pick = |count: usize| random.random_range(0..count);
        let levels = [1, 1, 2, 2, 3][pick(5)];
        let at: String = (0..levels).map(|_| format!("/{}", names[pick(names.len())])).collect();
        let context = format!("seed {seed}, write {number} at {at}");
        match pick(10) {
            0 | 1 => {
                let put = pb::PutRequest { key: at.clone().into(), value: "v3".into(), ..Default::default() };
                apply(&mut machine, RequestKind::Put, put.encode_to_vec()).unwrap();
                let next = model.index + 1;
                let born = model.keys.get(&at).map_or(next, |key| key.born);
                let key = Key { value: "v3".into(), created: next, modified: next, born, ends: false };
                model.keys.insert(at.clone(), key);
                model.tell(NodeAction::Set, &at);
            }
            2 => {
                let delete = pb::DeleteRangeRequest { key: at.clone().into(), ..Default::default() };
                apply(&mut machine, RequestKind::DeleteRange, delete.encode_to_vec()).unwrap();
                if model.keys.remove(&at).is_some() {
                    model.tell(NodeAction::Delete, &at);
                }
            }
            _ => {
                let method = NodeMethod::ALL[pick(7)];
                let refreshes =
                    matches!(method, NodeMethod::Set | NodeMethod::Update | NodeMethod::CompareAndSwap);
                let refresh = refreshes && pick(6) == 0;
                let previous = model.keys.get(&at).cloned();
                let modified = previous.as_ref().map_or(5, |key| key.modified);
                let value = previous.map_or("x".into(), |key| key.value);
                let compares = matches!(method, NodeMethod::CompareAndSwap | NodeMethod::CompareAndDelete);
                let ask = peer::NodeWrite {
                    method: method.number(),
                    key: at.clone().into(),
                    value: if refresh { "" } else { ["", "1", "2"][pick(3)] }.into(),
                    is_directory: pick(4) == 0 && !refresh,
                    recursive: pick(4) == 0 && method == NodeMethod::Delete,
                    refresh,
                    previous_value: if compares {
                        [value.as_str(), "", "z"][pick(3)].to_owned()
                    } else {
                        String::new()
                    }
                    .into(),
                    previous_index: if compares { [modified, 0, 3][pick(3)] } else { 0 },
                    expiry: (refresh || pick(4) == 0).then_some(peer::NodeExpiry { at_ns: 9, ttl_s: 60 }),
                    ..Default::default()
                };
                let expected = model.write(method, &at, &ask);
                let answer = write(&mut machine, &ask);
                let fault = NodeFault::from_number(answer.fault);
                let cause = String::from_utf8(answer.cause.to_vec()).unwrap();
                let told = fault.map_or(Ok(()), |fault| Err((fault, cause)));
                assert_eq!(told, expected, "{context}: {ask:?}");
                assert_eq!(answer.index, model.index, "{context}: {ask:?}");
            }
        }
        if pick(40) == 0 {
            // The ones that end, a few of them now.
            let some = 1 + pick(3);
            let ids: Vec<i64> = machine.directories().table().iter().map(|(id, _)| id.0).take(some).collect();
            let ended: Vec<_> = ids
                .iter()
                .filter_map(|&id| machine.directories().deadlines.meant(LeaseId(id), LogIndex(u64::MAX)))
                .map(|ending| String::from_utf8(ending.key().to_vec()).unwrap())
                .collect();
            let expire = peer::LeaseExpire { term: AT.term.0, ids, through: u64::MAX };
            apply(&mut machine, RequestKind::NodeExpire, expire.encode_to_vec()).unwrap();
            for name in ended {
                match name.strip_suffix('/') {
                    // One that has gone with a directory does not end again.
                    Some(directory) if !model.directories.contains_key(directory) => {}
                    None if !model.keys.contains_key(&name) => {}
                    Some(directory) => {
                        model.remove_directory(directory);
                        model.tell(NodeAction::Expire, directory);
                    }
                    None => {
                        model.keys.remove(&name);
                        model.tell(NodeAction::Expire, &name);
                    }
                }
            }
        }
        assert_eq!(machine.store().current_revision().unsigned_abs(), model.index, "{context}");
        assert_eq!(shown(&tree(&machine)), model.tree(), "{context}");
        let ends = model.keys.values().filter(|key| key.ends).count()
            + model.directories.values().filter(|(_, _, ends)| *ends).count();
        assert_eq!(machine.directories().table().len(), ends, "{context}: who ends");
        if pick(100) == 0 {
            machine = through_checkpoint(machine);
            machine.short_keys_max = short_keys_max;
        }
    }
    machine.store().check_invariants();
    machine.directories().entries.check_invariants();
    let visible = |events: Vec<(u64, NodeAction, String)>| -> Vec<_> {
        events.into_iter().filter(|(_, _, path)| !path.contains("/_")).collect()
    };
    let events = visible(model.events.clone());
    assert_eq!(history(&machine, 2), events, "seed {seed}: the history");
    // What is compacted is not told any more, and what is behind it is.
    let at = machine.store().current_revision() / 2;
    let compact = pb::CompactionRequest { revision: at, physical: false };
    apply(&mut machine, RequestKind::Compact, compact.encode_to_vec()).unwrap();
    while !machine.work_slice(7) {}
    let machine = through_checkpoint(machine);
    let behind: Vec<_> = events.into_iter().filter(|(index, _, _)| at.unsigned_abs() < *index).collect();
    assert_eq!(history(&machine, at + 1), behind, "seed {seed}: the history behind a compaction");
    assert_eq!(shown(&tree(&machine)), model.tree(), "seed {seed}: after a compaction");
    machine.store().check_invariants();
    machine.directories().entries.check_invariants();
}

#[expect(clippy::disallowed_methods, reason = "how long a model test runs is asked of its runner")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nodes_are_what_a_model_says_whichever_api_writes() {
    let ops = number("PINION_MODEL_OPS").unwrap_or(1_000);
    match number("PINION_MODEL_SEED") {
        Some(seed) => play(seed, ops),
        None => (1..=4).for_each(|seed| play(seed, ops)),
    }
}

#[test]
fn a_write_of_a_node_below_its_level_is_refused_and_changes_nothing() {
    let mut machine = machine();
    let ask = peer::NodeWrite { method: 1, key: "/a".into(), ..Default::default() };
    let refused = apply(&mut machine, RequestKind::NodeWrite, ask.encode_to_vec());
    assert_eq!(refused, Err(Rejection::NotCapable));
    assert_eq!(machine.store().current_revision(), 1);
}

#[test]
fn what_no_release_writes_is_refused_by_name() {
    let mut machine = leveled();
    let good = peer::NodeWrite { method: 1, key: "/a".into(), ..Default::default() };
    for bad in [
        peer::NodeWrite { method: 99, ..good.clone() },
        peer::NodeWrite { key: "a".into(), ..good.clone() },
        peer::NodeWrite { key: "/a//b".into(), ..good.clone() },
        peer::NodeWrite { root_bytes: 3, ..good.clone() },
        peer::NodeWrite { root_bytes: u32::MAX, ..good.clone() },
    ] {
        let refused = apply(&mut machine, RequestKind::NodeWrite, bad.encode_to_vec());
        assert!(matches!(refused, Err(Rejection::Undecodable(_))), "{bad:?}: {refused:?}");
    }
    let expiry = Some(peer::NodeExpiry { at_ns: u64::MAX, ttl_s: u64::MAX });
    assert_eq!(write(&mut machine, &peer::NodeWrite { expiry, ..good }).fault, 0);
    let machine = through_checkpoint(machine);
    assert_eq!(machine.directories().table().len(), 1);
}

#[test]
fn a_list_jumps_over_what_is_below_its_children_and_leaves_out_what_is_no_path() {
    let mut machine = leveled();
    let put = |machine: &mut Machine, key: &[u8]| {
        let put = pb::PutRequest { key: Bytes::copy_from_slice(key), ..Default::default() };
        apply(machine, RequestKind::Put, put.encode_to_vec()).unwrap();
    };
    for child in 0..10 {
        for grandchild in 0..2_000 {
            put(&mut machine, format!("/d/{child}/{grandchild}").as_bytes());
        }
    }
    for odd in
        [&b"/d//x"[..], b"/d/.", b"/d/../x", b"/d/\xff", b"/d/\xff/x", b"d", b"", b"/d/_h", b"/d/3", b"\0"]
    {
        if !odd.is_empty() {
            put(&mut machine, odd);
        }
    }
    let query = NodeQuery { path: path("/d"), recursive: false, is_standing: false, at: 0, resume: None };
    let response = machine.read_node(&query, LogIndex(0)).unwrap();
    let answer = peer::NodeAnswer::decode(&response.body[..]).unwrap();
    assert!(answer.resume.is_none(), "one page, though there are 20,000 keys below");
    let names: Vec<_> = answer.nodes.iter().map(|node| (&node.path[..], node.is_directory)).collect();
    let expected: Vec<_> = (0..10).map(|child| (format!("/d/{child}"), child != 3)).collect();
    assert_eq!(names, expected.iter().map(|(name, dir)| (name.as_bytes(), *dir)).collect::<Vec<_>>());
}
