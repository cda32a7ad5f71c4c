use super::Tree;
use super::history::concerns;
use crate::mvcc::Store;
use crate::types::{NodePath, Slice};

/// Keys `/d/child/key`, so many below each child.
fn children(count: u64, below_each: u64) -> Store {
    let mut store = Store::new();
    for child in 0..count {
        for number in 0..below_each {
            let mut txn = store.begin();
            txn.put(format!("/d/{child:02}/{number:06}").as_bytes(), b"v", 0);
            txn.commit();
        }
    }
    store
}

/// Children found, steps, and counted work.
fn listed(store: &Store) -> (usize, u64) {
    let entries = Store::new();
    let tree = Tree { keys: store, entries: &entries, at: store.current_revision() };
    let path = NodePath::clean("", b"/d").unwrap();
    let (mut slice, mut nodes) = (Slice::unbounded(), Vec::new());
    assert_eq!(tree.list(&path, false, None, &mut slice, &mut nodes), None);
    (nodes.len(), slice.spent_ns())
}

#[test]
fn a_list_of_children_costs_the_same_whatever_lies_below_them() {
    let (shallow, deep) = (listed(&children(10, 1)), listed(&children(10, 5_000)));
    assert_eq!(shallow, deep);
    // The children and the end.
    let per_child = listed(&children(20, 1)).1 - shallow.1;
    assert!(shallow.1 <= per_child / 10 * 11 + 10, "{shallow:?}, {per_child} for ten more");
}

#[test]
fn a_change_concerns_its_node_what_is_above_and_what_went_with_it() {
    let told = |key: &str, takes, path: &str, recursive| {
        concerns(key.as_bytes(), takes, path.as_bytes(), recursive, 0)
    };
    assert!(told("/a/b", false, "/a/b", false));
    assert!(!told("/a/b", false, "/a", false) && told("/a/b", false, "/a", true));
    assert!(told("/a/b", false, "", true) && !told("/ab", false, "/a", true));
    // Hidden below what is watched, not by itself.
    assert!(!told("/a/_b/c", false, "/a", true) && told("/a/_b/c", false, "/a/_b", true));
    assert!(told("/a/_b", false, "/a/_b", false));
    // A directory that goes takes all along that was below it.
    assert!(told("/a", true, "/a/b/c", false) && !told("/a", false, "/a/b/c", false));
    assert!(!told("/a", true, "/ab", false));
    // What is no path has no watchers.
    assert!(!told("/a//b", false, "/a", true) && !told("a/b", false, "", true));
    // Below the root of a prefix alone.
    assert!(concerns(b"/r/a", false, b"/r", true, 2) && !concerns(b"/q/a", false, b"/r", true, 2));
}
