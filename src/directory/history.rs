//! Changes of both stores as events of v2, and which of them concern whom.
//!
//! A revision has one event, of a key or of a directory, and what it changed besides is marked `Along`; a transaction
//! of v3 has one for each key, the keys in the order of its operations.

use bytes::Bytes;

use super::shown::{Directory, index, node_of_directory, node_of_key};
use crate::mvcc::{Action, Change, Store};
use crate::pb::peer;
use crate::request::NodeAction;
use crate::types::node_path::{is_hidden, is_node};

/// What is left of a node that goes at `revision`.
#[must_use]
pub fn gone(previous: &peer::Node, revision: i64) -> peer::Node {
    peer::Node {
        path: previous.path.clone(),
        is_directory: previous.is_directory,
        is_gone: true,
        modified: index(revision),
        created: previous.created,
        ..peer::Node::default()
    }
}

/// An event.
#[must_use]
pub fn event(action: NodeAction, node: peer::Node, previous: Option<peer::Node>) -> peer::NodeEvent {
    peer::NodeEvent { action: action.number(), node: Some(node), previous }
}

/// The word for a change.
fn action_of(change: &Change<'_>) -> Option<NodeAction> {
    Some(match (change.mark.action, &change.put) {
        (Action::Along, _) => return None,
        (Action::Plain, Some(_)) => NodeAction::Set,
        (Action::Plain, None) => NodeAction::Delete,
        (Action::Create, _) => NodeAction::Create,
        (Action::Update, _) => NodeAction::Update,
        (Action::CompareAndSwap, _) => NodeAction::CompareAndSwap,
        (Action::CompareAndDelete, _) => NodeAction::CompareAndDelete,
        (Action::Expire, _) => NodeAction::Expire,
    })
}

/// Why a change cannot be told that is compacted, in etcd's words.
#[must_use]
pub fn cleared_cause(oldest: i64, wanted: i64) -> Bytes {
    format!("the requested history has been cleared [{oldest}/{wanted}]").into()
}

/// Where a change is: the key of its node.
#[must_use]
pub fn node_key<'c>(change: &Change<'c>, is_entry: bool) -> &'c [u8] {
    if is_entry { change.key.strip_suffix(b"/").unwrap_or(change.key) } else { change.key }
}

/// Whether watchers of v2 hear of a change at all.
#[must_use]
pub fn is_told(change: &Change<'_>) -> bool {
    change.mark.action != Action::Along && !change.mark.is_refresh
}

/// Whether a change takes a directory away, with all that was below it.
#[must_use]
pub fn takes_directory(change: &Change<'_>, is_entry: bool) -> bool {
    is_entry && change.put.is_none()
}

/// Whether a change at the node `key` concerns whoever waits for `path`, both keys under a root of `root_bytes`.
#[must_use]
pub fn concerns(key: &[u8], takes_directory: bool, path: &[u8], recursive: bool, root_bytes: usize) -> bool {
    let Some(shown) = key.get(root_bytes..).filter(|shown| is_node(shown)) else { return false };
    if key == path {
        return true;
    }
    if recursive && let Some(below) = key.strip_prefix(path).filter(|below| below.starts_with(b"/")) {
        return !is_hidden(&below[1..]);
    }
    takes_directory
        && !shown.is_empty()
        && path.strip_prefix(key).is_some_and(|below| below.starts_with(b"/"))
}

/// The event of a change of a key or, with `is_entry`, of a directory. None: it has none.
#[must_use]
pub fn event_of(
    keys: &Store,
    entries: &Store,
    change: &Change<'_>,
    is_entry: bool,
    root_bytes: usize,
) -> Option<peer::NodeEvent> {
    let action = action_of(change)?;
    let revision = change.revision.main;
    let key = node_key(change, is_entry);
    let path = key.get(root_bytes..)?;
    // The version before is known as long as the revision before can be read.
    let is_readable = keys.compact_revision() < revision;
    let previous = if !is_readable {
        None
    } else if is_entry {
        let entry = entries.version_before(change);
        let directory = entry.map(|entry| node_of_directory(path, &Directory::of_entry(&entry)));
        // Set in the place of a key; or a directory that had no entry goes.
        let key_before = || keys.get(key, revision - 1).map(|kv| node_of_key(path, &kv));
        let created = if change.mark.created == 0 { revision } else { change.mark.created };
        let made_by_keys = || {
            let (created, modified) = (index(created), index(created));
            peer::Node { created, modified, ..directory_without_indices(path) }
        };
        match &change.put {
            Some(_) => directory.or_else(key_before),
            None => Some(directory.unwrap_or_else(made_by_keys)),
        }
    } else {
        keys.version_before(change).map(|kv| node_of_key(path, &kv))
    };
    let node = match (&change.put, &previous) {
        (Some(kv), _) if is_entry => node_of_directory(path, &Directory::of_entry(kv)),
        (Some(kv), _) => node_of_key(path, kv),
        (None, Some(previous)) => gone(previous, revision),
        (None, None) => {
            let node = peer::Node { is_directory: is_entry, ..directory_without_indices(path) };
            gone(&node, revision)
        }
    };
    Some(event(action, node, previous))
}

fn directory_without_indices(path: &[u8]) -> peer::Node {
    peer::Node { path: Bytes::copy_from_slice(path), is_directory: true, ..peer::Node::default() }
}
