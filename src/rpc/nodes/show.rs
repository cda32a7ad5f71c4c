//! Nodes and events as JSON.
//!
//! Compatibility: Go's names, order and omissions. What is not UTF-8 is shown with U+FFFD in the place of each byte.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::pb::peer;
use crate::request::NodeAction;
use crate::rpc::json::put_text;
use crate::types::Slice;

const NS_PER_S: u64 = 1_000_000_000;

/// Price of a node that is written, its bytes apart.
const NODE_NS: u64 = 500;

/// The word for an action.
#[must_use]
pub fn word(action: NodeAction) -> &'static str {
    match action {
        NodeAction::Get => "get",
        NodeAction::Set => "set",
        NodeAction::Create => "create",
        NodeAction::Update => "update",
        NodeAction::CompareAndSwap => "compareAndSwap",
        NodeAction::Delete => "delete",
        NodeAction::CompareAndDelete => "compareAndDelete",
        NodeAction::Expire => "expire",
    }
}

/// Which time to live is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// What was asked for.
    Whole,
    /// What is left at this moment, in nanoseconds since 1970.
    LeftAt(u64),
}

/// Appends bytes as a JSON string.
pub fn put_lossy(bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => put_text(text, out),
        Err(_) => {
            let mut text = String::with_capacity(bytes.len());
            let mut rest = bytes;
            while !rest.is_empty() {
                match std::str::from_utf8(rest) {
                    Ok(valid) => {
                        text.push_str(valid);
                        break;
                    }
                    Err(error) => {
                        let (valid, bad) = rest.split_at(error.valid_up_to());
                        text.push_str(&String::from_utf8_lossy(valid));
                        text.push('\u{fffd}');
                        rest = &bad[1..];
                    }
                }
            }
            put_text(&text, out);
        }
    }
}

/// Appends a moment as RFC 3339 has it, in UTC, with as many digits of a second as it needs.
pub fn put_time(since_1970_ns: u64, out: &mut Vec<u8>) {
    let (seconds, ns) = (since_1970_ns / NS_PER_S, since_1970_ns % NS_PER_S);
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    // 2^64 ns are 585 years.
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let day = days + 1;
    out.extend_from_slice(
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}").as_bytes(),
    );
    if ns != 0 {
        let digits = format!(".{ns:09}");
        out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    }
    out.push(b'Z');
}

fn put_number(name: &str, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

/// Appends the fields of a node in front of its children.
fn put_front(node: &peer::Node, ttl: Ttl, out: &mut Vec<u8>) {
    out.push(b'{');
    if !node.path.is_empty() {
        out.extend_from_slice(b"\"key\":");
        put_lossy(&node.path, out);
        out.push(b',');
    }
    if node.is_directory {
        out.extend_from_slice(b"\"dir\":true,");
    } else if !node.is_gone {
        out.extend_from_slice(b"\"value\":");
        put_lossy(&node.value, out);
        out.push(b',');
    }
    if let Some(peer::NodeExpiry { at_ns, ttl_s }) = node.expiry {
        out.extend_from_slice(b"\"expiration\":\"");
        put_time(at_ns, out);
        out.extend_from_slice(b"\",");
        let (is_over, left_s) = match ttl {
            Ttl::Whole => (false, ttl_s),
            Ttl::LeftAt(now_ns) if now_ns <= at_ns => (false, (at_ns - now_ns).div_ceil(NS_PER_S)),
            Ttl::LeftAt(now_ns) => (true, (now_ns - at_ns) / NS_PER_S),
        };
        if left_s != 0 {
            let sign = if is_over { "-" } else { "" };
            out.extend_from_slice(format!("\"ttl\":{sign}{left_s},").as_bytes());
        }
    }
}

/// Appends the fields behind its children.
fn put_back(node: &peer::Node, out: &mut Vec<u8>) {
    put_number("\"modifiedIndex\":", node.modified, out);
    if node.modified != 0 && node.created != 0 {
        out.push(b',');
    }
    put_number("\"createdIndex\":", node.created, out);
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.push(b'}');
}

fn put_node(node: &peer::Node, ttl: Ttl, out: &mut Vec<u8>) {
    put_front(node, ttl, out);
    put_back(node, out);
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|below| below.starts_with(b"/"))
}

/// A path, in the order of names: each directory in front of what it holds.
#[derive(Debug, PartialEq, Eq)]
struct ByName(Bytes);

impl ByName {
    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/')
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A node with all that is below it, as a read answers: gathered a page at a time, sorted by name at each level, and
/// written in slices. A node is gone when it is written.
#[derive(Debug, Default)]
pub struct Listing {
    below: BTreeMap<ByName, peer::Node>,
    /// Directories whose end is not written yet, and whether anything is in them.
    open: Vec<(peer::Node, bool)>,
}

impl Listing {
    /// Takes in some of the nodes below, in any order.
    pub fn add(&mut self, nodes: Vec<peer::Node>) {
        self.below.extend(nodes.into_iter().map(|node| (ByName(node.path.clone()), node)));
    }

    /// Begins to write the answer to a read of `node`.
    pub fn begin(&mut self, node: peer::Node, now_ns: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"action\":\"get\",\"node\":");
        put_front(&node, Ttl::LeftAt(now_ns), out);
        self.open.push((node, false));
    }

    /// Writes until the slice is spent, or so many bytes are there. True when all is written.
    pub fn put(&mut self, now_ns: u64, bytes_max: usize, slice: &mut Slice, out: &mut Vec<u8>) -> bool {
        while !self.open.is_empty() {
            if slice.is_spent() || bytes_max <= out.len() {
                return false;
            }
            let before = out.len();
            self.put_next(now_ns, out);
            slice.spend(NODE_NS);
            slice.spend_bytes(out.len() - before);
        }
        true
    }

    /// Writes the next node, or the end of a directory.
    fn put_next(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        let is_root = self.open.len() == 1;
        let (directory, has_children) = self.open.last_mut().expect("there is one open");
        let next = self.below.first_entry();
        let Some(next) = next.filter(|next| is_root || is_below(&next.key().0, &directory.path)) else {
            if *has_children {
                out.extend_from_slice(b"],");
            }
            put_back(directory, out);
            self.open.pop();
            if is_root {
                out.extend_from_slice(b"}\n");
            }
            return;
        };
        out.extend_from_slice(if std::mem::replace(has_children, true) { b"," } else { &b"\"nodes\":["[..] });
        let child = next.remove();
        put_front(&child, Ttl::LeftAt(now_ns), out);
        if child.is_directory {
            self.open.push((child, false));
        } else {
            put_back(&child, out);
        }
    }
}

/// Appends an event, or the answer to a write, as a line.
pub fn put_event(event: &peer::NodeEvent, shows_nothing: bool, now_ns: u64, out: &mut Vec<u8>) {
    let action = NodeAction::from_number(event.action).unwrap_or(NodeAction::Get);
    out.extend_from_slice(format!("{{\"action\":\"{}\"", word(action)).as_bytes());
    if !shows_nothing {
        if let Some(node) = &event.node {
            out.extend_from_slice(b",\"node\":");
            match action {
                NodeAction::Get => put_node(node, Ttl::LeftAt(now_ns), out),
                _ => put_node(node, Ttl::Whole, out),
            }
        }
        if let Some(previous) = &event.previous {
            out.extend_from_slice(b",\"prevNode\":");
            put_node(previous, Ttl::LeftAt(now_ns), out);
        }
    }
    out.extend_from_slice(b"}\n");
}

/// The HTTP status of an answer that goes well.
#[must_use]
pub fn status_of(event: &peer::NodeEvent) -> u16 {
    match NodeAction::from_number(event.action) {
        Some(NodeAction::Create) => 201,
        Some(NodeAction::Set) if event.previous.is_none() => 201,
        _ => 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits::SLICE_NS;

    fn time(ns: u64) -> String {
        let mut out = Vec::new();
        put_time(ns, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn moments_are_written_as_go_writes_them() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_399 * NS_PER_S + 500_000_000), "2000-02-28T23:59:59.5Z");
        assert_eq!(time(951_782_400 * NS_PER_S), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_764_547_199 * NS_PER_S + 64_491_425), "2025-11-30T23:59:59.064491425Z");
        assert_eq!(time(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    fn node(path: &str, is_directory: bool) -> peer::Node {
        let (path, value) = (path.to_owned().into(), if is_directory { "" } else { "v" }.into());
        peer::Node { path, is_directory, value, modified: 4, created: 3, ..peer::Node::default() }
    }

    fn listed(below: Vec<peer::Node>) -> String {
        let (mut listing, mut out) = (Listing::default(), Vec::new());
        // Pages come in any order.
        below.chunks(2).rev().for_each(|page| listing.add(page.to_vec()));
        listing.begin(peer::Node { is_directory: true, ..peer::Node::default() }, 0, &mut out);
        assert!(listing.put(0, usize::MAX, &mut Slice::unbounded(), &mut out));
        let _json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn shown(event: &peer::NodeEvent, now_s: u64) -> String {
        let mut out = Vec::new();
        put_event(event, false, now_s * NS_PER_S, &mut out);
        let _json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_tree_is_nested_and_sorted_by_name_at_each_level() {
        let below = vec![
            node("/a-x", false),
            node("/a", true),
            node("/a/b", true),
            node("/a/b/c", false),
            node("/a/d", false),
            node("/e", true),
        ];
        let leaf = |path: &str| {
            format!("{{\"key\":\"{path}\",\"value\":\"v\",\"modifiedIndex\":4,\"createdIndex\":3}}")
        };
        let directory = |path: &str, nodes: &[String]| {
            let nodes =
                if nodes.is_empty() { String::new() } else { format!("\"nodes\":[{}],", nodes.join(",")) };
            format!("{{\"key\":\"{path}\",\"dir\":true,{nodes}\"modifiedIndex\":4,\"createdIndex\":3}}")
        };
        let a = directory("/a", &[directory("/a/b", &[leaf("/a/b/c")]), leaf("/a/d")]);
        let all = [a, leaf("/a-x"), directory("/e", &[])].join(",");
        assert_eq!(
            listed(below),
            format!("{{\"action\":\"get\",\"node\":{{\"dir\":true,\"nodes\":[{all}]}}}}\n")
        );
        assert_eq!(listed(Vec::new()), "{\"action\":\"get\",\"node\":{\"dir\":true}}\n");
    }

    #[test]
    fn a_list_of_a_hundred_thousand_nodes_is_written_in_slices_and_pieces() {
        const NODES: usize = 100_000;
        const PIECE: usize = 128 << 10;
        let mut listing = Listing::default();
        let nodes: Vec<_> = (0..NODES)
            .map(|number| match number % 100 {
                0 => node(&format!("/{:04}", number / 100), true),
                of => node(&format!("/{:04}/{of:02}", number / 100), false),
            })
            .collect();
        for page in nodes.chunks(1_000).rev() {
            listing.add(page.to_vec());
        }
        let (mut piece, mut whole, mut slices) = (Vec::new(), Vec::new(), 0);
        listing.begin(peer::Node { is_directory: true, ..peer::Node::default() }, 0, &mut piece);
        loop {
            let mut slice = Slice::of(SLICE_NS);
            let is_over = listing.put(0, PIECE, &mut slice, &mut piece);
            assert!(slice.spent_ns() <= SLICE_NS + 2 * NODE_NS, "{} ns were spent at once", slice.spent_ns());
            assert!(piece.len() <= PIECE + 200, "{} bytes are a piece", piece.len());
            slices += 1;
            if is_over || PIECE <= piece.len() {
                whole.append(&mut piece);
            }
            if is_over {
                break;
            }
        }
        assert!(200 <= slices, "{slices} slices");
        let whole: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        let directories = whole["node"]["nodes"].as_array().unwrap();
        assert_eq!(directories.len(), NODES / 100);
        assert!(directories.iter().all(|directory| directory["nodes"].as_array().unwrap().len() == 99));
        assert_eq!(directories[7]["nodes"][41]["key"], "/0007/42");
    }

    #[test]
    fn time_to_live_is_whole_in_events_and_rounded_up_in_reads() {
        let expiry = Some(peer::NodeExpiry { at_ns: 100 * NS_PER_S + 1, ttl_s: 60 });
        let key = peer::Node { expiry, ..node("/a", false) };
        let event = |action: NodeAction, previous| peer::NodeEvent {
            action: action.number(),
            node: Some(key.clone()),
            previous,
        };
        let set = shown(&event(NodeAction::Set, Some(key.clone())), 50);
        assert!(set.contains("\"ttl\":60,\"modifiedIndex\":4,\"createdIndex\":3},\"prevNode\":"), "{set}");
        assert!(set.contains("00:01:40.000000001Z\",\"ttl\":51,"), "{set}");
        assert!(shown(&event(NodeAction::Get, None), 103).contains("\"ttl\":-2,"));
        assert!(!shown(&event(NodeAction::Get, None), 101).contains("\"ttl\""));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_one_by_one() {
        let mut out = Vec::new();
        put_lossy(b"a\xff\xfeb\xe4\xb8c", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\u{fffd}\u{fffd}b\u{fffd}\u{fffd}c\"");
    }
}
