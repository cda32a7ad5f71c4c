use super::history::concerns;

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
