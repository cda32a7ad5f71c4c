//! The house rules that neither compiler nor clippy checks: layout, names, docs, and what a pure core
//! must not name. Reads the sources as text; each rule has a planted violation that proves it sees.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use self::tidy::imports::{Import, circles, imports};

mod tidy {
    pub(crate) mod imports;
}

/// What the top level holds, and nothing else.
const TOP_LEVEL: [&str; 20] = [
    ".ci",
    ".clippy.toml",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "bench",
    "build.rs",
    "deny.toml",
    "proto",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "src",
    "tests",
    "tuning",
    "wal",
];

/// Made by git, cargo, a running member, or the machine; never part of the source.
fn is_made(name: &str) -> bool {
    matches!(name, ".git" | "target" | ".cargo" | "pinion-data" | "shared") || name.ends_with(".etcd")
}

/// Concepts that have a directory in `src/`.
const CONCEPTS: [&str; 21] = [
    "apply",
    "auth",
    "backup",
    "checkpoint",
    "config",
    "directory",
    "discovery",
    "lease",
    "membership",
    "metrics",
    "mvcc",
    "peer",
    "raft",
    "replica",
    "request",
    "rpc",
    "shell",
    "sim",
    "types",
    "upkeep",
    "watch",
];

/// Directories of `src/` whose code is a function of what is passed in.
const CORES: [&str; 19] = [
    "apply",
    "auth",
    "backup",
    "checkpoint",
    "config",
    "directory",
    "discovery",
    "lease",
    "membership",
    "metrics",
    "mvcc",
    "peer",
    "raft",
    "replica",
    "request",
    "rpc",
    "types",
    "upkeep",
    "watch",
];

/// Folders of `src/` from the top down, and those that each may use. All of these stand below it, so no folder
/// is part of a circle. The shell's own folders count one by one, and a file of the crate's root is a folder.
const FOLDERS: &[(&str, &str)] = &[
    ("shell", "shell/gateway shell/proxy shell/demo shell/doctor shell/boot shell/runtime config"),
    ("shell/demo", "config"),
    ("shell/doctor", "shell/runtime config"),
    ("shell/gateway", "shell/boot shell/discovery shell/net shell/runtime discovery config"),
    (
        "shell/proxy",
        "shell/boot shell/client shell/upstream shell/net shell/runtime replica watch rpc request config types pb",
    ),
    (
        "shell/boot",
        "shell/client shell/raft shell/store shell/log shell/peer shell/discovery \
        shell/net shell/runtime replica backup apply membership mvcc checkpoint peer raft \
        request config types pb",
    ),
    (
        "shell/client",
        "shell/upstream shell/net shell/runtime metrics replica watch raft auth rpc request config types pb",
    ),
    (
        "shell/raft",
        "shell/store shell/log shell/peer shell/net shell/runtime metrics replica apply membership \
        checkpoint peer raft rpc request config types pb",
    ),
    (
        "shell/store",
        "shell/runtime metrics replica watch upkeep backup apply directory auth lease membership mvcc checkpoint raft \
        rpc \
        request config types pb",
    ),
    ("shell/log", "shell/runtime metrics raft types"),
    ("shell/peer", "shell/net shell/runtime metrics peer raft rpc config types pb"),
    ("shell/discovery", "shell/net shell/runtime discovery rpc config pb"),
    ("shell/upstream", "shell/net shell/runtime rpc config types pb"),
    ("shell/net", "shell/runtime config types"),
    ("shell/runtime", "metrics replica config types"),
    ("metrics", "rpc request types"),
    ("replica", "watch apply membership raft rpc request types pb"),
    ("watch", "apply mvcc types pb"),
    ("upkeep", "config types"),
    ("backup", "apply auth lease membership mvcc raft request types pb"),
    ("apply", "directory auth lease membership mvcc request types pb"),
    ("directory", "lease mvcc request types pb"),
    ("auth", "request types pb"),
    ("lease", "types pb"),
    ("discovery", "membership config types pb"),
    ("membership", "raft request types pb"),
    ("mvcc", "types"),
    ("checkpoint", "types"),
    ("peer", "raft types pb"),
    ("raft", "types pb"),
    ("rpc", "request config types pb"),
    ("request", "types pb"),
    ("config", "types"),
    ("types", ""),
    ("pb", ""),
];

/// Circles of files inside one folder that are tolerated: each is one type, and files that carry out a part
/// of its work.
const CIRCLES: &[&[&str]] = &[
    // `Store`, and what it holds.
    &["mvcc/compaction.rs", "mvcc/store.rs", "mvcc/txn.rs"],
    // `Node`.
    &["raft/node.rs", "raft/node/catch_up.rs"],
    // `Transport`.
    &[
        "shell/peer/bulk.rs",
        "shell/peer/call.rs",
        "shell/peer/events.rs",
        "shell/peer/link.rs",
        "shell/peer/listener.rs",
        "shell/peer/mod.rs",
        "shell/peer/pages.rs",
        "shell/peer/traffic.rs",
    ],
    // `ClientShard`, its calls and what their front end gives them.
    &[
        "shell/client/call/account.rs",
        "shell/client/call/body.rs",
        "shell/client/call/end.rs",
        "shell/client/call/identity.rs",
        "shell/client/call/keep_alive.rs",
        "shell/client/call/local_watch.rs",
        "shell/client/call/mod.rs",
        "shell/client/call/outbox.rs",
        "shell/client/call/pieces.rs",
        "shell/client/call/snapshot.rs",
        "shell/client/call/streams.rs",
        "shell/client/call/watch.rs",
        "shell/client/call/revocation.rs",
        "shell/client/connection.rs",
        "shell/client/counters.rs",
        "shell/client/grpc/bidi.rs",
        "shell/client/grpc/request.rs",
        "shell/client/grpc/response.rs",
        "shell/client/http1/connection.rs",
        "shell/client/http1/exchange.rs",
        "shell/client/listener.rs",
        "shell/client/load.rs",
        "shell/client/mod.rs",
        "shell/client/responder.rs",
        "shell/client/rest.rs",
        "shell/client/tally.rs",
        "shell/client/upload.rs",
        "shell/client/web/gateway.rs",
        "shell/client/web/incoming.rs",
        "shell/client/web/lines.rs",
        "shell/client/web/sink.rs",
        "shell/client/web/taker.rs",
        "shell/client/web/v2/basic.rs",
        "shell/client/web/v2/keys.rs",
        "shell/client/web/v2/mod.rs",
        "shell/client/web/v2/waits.rs",
    ],
];
const _: () = assert!(CIRCLES.len() <= 5, "break one up first");

/// Words that a core must not contain, comments and tests aside.
const BANNED_WORDS: [&str; 25] = [
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "Mutex",
    "RwLock",
    "File",
    "OpenOptions",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "thread_local",
    "thread_rng",
    "glommio",
    "tokio",
    "h2",
    "http",
    "hyper",
    "crossbeam",
    "libc",
    "mimalloc",
    "stdin",
    "stdout",
    "println",
    "eprintln",
];

/// Words of the front ends, which a call of a client must not know.
const TRANSPORT_WORDS: [&str; 5] = ["h2", "http", "hyper", "grpc", "http1"];

/// Modules of std that a core must not use. `io` is not among them: its error type is the storage
/// trait's, and its functions need a file or a socket, which the words above keep out.
const BANNED_STD: [&str; 5] = ["fs", "thread", "env", "process", "os"];

const LINES_MAX: usize = 900;
const TEST_LINES_MAX: usize = 1_500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir`, relative to the root, in a fixed order.
fn files_below(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(root().join(&dir)) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                if !is_made(&name) && !matches!(name.as_str(), "corpus" | "artifacts") {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Whether a file holds tests alone: it lies in `tests/`, or beside what it tests with that in its name.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or("");
    name == "tests" || name.ends_with("_tests") || path.iter().any(|part| part == "tests")
}

fn sources() -> Vec<(PathBuf, String)> {
    read(files_below(Path::new(""), "rs"))
}

fn read(files: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).unwrap();
            (path, text)
        })
        .collect()
}

/// Fails with all complaints at once.
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Runs a rule over every source file.
fn check_sources(rule: fn(&Path, &str) -> Vec<String>) {
    let sources = sources();
    assert!(sources.len() > 20, "the sources were not found");
    let mut complaints = Vec::new();
    for (path, text) in &sources {
        complaints.extend(rule(path, text).into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    assert_none(&complaints);
}

#[test]
fn top_level_holds_nothing_but_the_house() {
    let mut complaints = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !is_made(&name) && !TOP_LEVEL.contains(&name.as_str()) {
            complaints.push(format!("{name} is not part of the top level"));
        }
    }
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_known = if entry.file_type().unwrap().is_dir() {
            CONCEPTS.contains(&name.as_str())
        } else {
            matches!(name.as_str(), "lib.rs" | "main.rs" | "pb.rs" | "ARCHITECTURE.md" | "GLOSSARY.md")
        };
        if !is_known {
            complaints.push(format!("src/{name} is not a concept that the architecture has"));
        }
    }
    assert_none(&complaints);
}

#[test]
fn nothing_is_left_undone() {
    check_sources(|_, text| undone(text));
    let docs = read(files_below(Path::new(""), "md"));
    for (path, text) in docs {
        let complaints: Vec<String> =
            undone(&text).into_iter().map(|what| format!("{}: {what}", path.display())).collect();
        assert_none(&complaints);
    }
}

/// Markers of unfinished work. Put together here, so that this file does not contain them.
fn undone(text: &str) -> Vec<String> {
    let markers = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X:"),
        concat!("dbg", "!("),
    ];
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for marker in markers {
            if line.contains(marker) {
                complaints.push(format!("line {}: {marker}", number + 1));
            }
        }
    }
    complaints
}

#[test]
fn files_can_be_read_in_a_sitting() {
    check_sources(|path, text| {
        let lines = text.lines().count();
        let max = if is_test(path) { TEST_LINES_MAX } else { LINES_MAX };
        if lines > max { vec![format!("{lines} lines, more than {max}")] } else { Vec::new() }
    });
}

#[test]
fn every_module_says_what_it_means() {
    // What a test file beside its subject means is told by its name and its tests.
    check_sources(
        |path, text| if is_test(path) && !path.starts_with("tests") { Vec::new() } else { missing_doc(text) },
    );
}

fn missing_doc(text: &str) -> Vec<String> {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!/")).unwrap_or("");
    let doc = first.strip_prefix("//!").map(str::trim);
    let is_told = first.starts_with("#![doc = include_str!") || doc.is_some_and(|doc| doc.len() >= 20);
    if is_told { Vec::new() } else { vec![format!("begins with {first:?} and not with what it means")] }
}

#[test]
fn every_exception_gives_its_reason() {
    check_sources(|_, text| exceptions_without_reason(text));
}

/// `allow`, `expect` and `ignore` attributes without a reason.
fn exceptions_without_reason(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for name in ["allow(", "expect(", "ignore"] {
        for open in ["#[", "#!["] {
            let start = format!("{open}{name}");
            for (at, _) in text.match_indices(&start) {
                let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
                let is_comment = text[line_start..at].contains("//");
                let is_string = text[line_start..at].contains('"');
                let attribute = &text[at..at + text[at..].find("]\n").unwrap_or(text.len() - at)];
                let has_reason = attribute.contains("reason = \"") || attribute.starts_with("#[ignore = \"");
                if !is_comment && !is_string && !has_reason {
                    complaints.push(format!("{} without a reason", attribute.lines().next().unwrap_or("")));
                }
            }
        }
    }
    complaints
}

#[test]
fn no_machine_is_named() {
    let mut files = sources();
    for extension in ["md", "toml", "proto", "json"] {
        files.extend(read(files_below(Path::new(""), extension)));
    }
    let mut complaints = Vec::new();
    for (path, text) in files {
        for (number, line) in text.lines().enumerate() {
            for home in
                [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")]
            {
                if line.contains(home) {
                    complaints.push(format!(
                        "{}:{}: names a path of one machine",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn test_names_are_claims() {
    check_sources(|_, text| names_that_claim_nothing(text));
}

/// Names of tests with fewer than three words.
fn names_that_claim_nothing(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if is_test && let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split('(').next().unwrap_or(rest);
            if name.split('_').count() < 3 {
                complaints.push(format!("{name} is not a claim"));
            }
            is_test = false;
        }
    }
    complaints
}

#[test]
fn cores_name_no_clock_no_file_no_thread_and_no_hash_map() {
    let mut complaints = Vec::new();
    let mut checked = 0;
    for (path, text) in sources() {
        if !is_core(&path) || is_test(&path) {
            continue;
        }
        checked += 1;
        complaints.extend(impurities(&text).into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    assert!(checked > 20, "only {checked} files of cores were found");
    assert_none(&complaints);
}

#[test]
fn calls_of_clients_know_no_transport() {
    let mut complaints = Vec::new();
    let mut checked = 0;
    for (path, text) in sources() {
        if path.starts_with("src/shell/client/call") && !is_test(&path) {
            checked += 1;
            let found = words_in_code(&text, &TRANSPORT_WORDS);
            complaints.extend(found.into_iter().map(|what| format!("{}: {what}", path.display())));
        }
    }
    assert!(checked > 10, "only {checked} files of calls were found");
    assert_none(&complaints);
}

/// Those of `banned` that code has, line by line. Tests inside the file come last and are left out.
fn words_in_code(text: &str, banned: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut in_string = false;
    for (number, line) in text.lines().enumerate().take_while(|(_, line)| line.trim() != "mod tests {") {
        let code = code_of(line, &mut in_string);
        let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| banned.contains(word)) {
            complaints.push(format!("line {}: {word}", number + 1));
        }
    }
    complaints
}

fn is_core(path: &Path) -> bool {
    if let Ok(inside) = path.strip_prefix("src") {
        return CORES.iter().any(|core| inside.starts_with(core));
    }
    let Ok(inside) = path.strip_prefix("wal/src") else { return false };
    let lib = fs::read_to_string(root().join("wal/src/lib.rs")).unwrap();
    inside.iter().next().is_some_and(|first| {
        let module = first.to_str().unwrap().trim_end_matches(".rs");
        pure_modules(&lib).contains(module)
    })
}

/// Modules that the crate root declares without a feature: these are built where no file exists.
fn pure_modules(lib: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    let mut has_feature = false;
    for line in lib.lines().map(str::trim) {
        let declared = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ");
        if let Some(name) = declared.and_then(|name| name.strip_suffix(';')) {
            if !has_feature {
                modules.insert(name.to_owned());
            }
            has_feature = false;
        } else if line.contains("feature =") {
            has_feature = true;
        }
    }
    modules
}

/// Banned words in code, line by line. Tests inside the file come last and are left out.
fn impurities(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut in_string = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim() == "mod tests {" {
            break;
        }
        let code = code_of(line, &mut in_string);
        let words = || code.split(|c: char| !c.is_alphanumeric() && c != '_');
        for word in BANNED_WORDS {
            if words().any(|found| found == word) {
                complaints.push(format!("line {}: {word}", number + 1));
            }
        }
        for module in BANNED_STD {
            let is_used = code.contains(&format!("std::{module}"))
                || (code.trim_start().starts_with("use std::{") && words().any(|found| found == module));
            if is_used {
                complaints.push(format!("line {}: std::{module}", number + 1));
            }
        }
    }
    complaints
}

/// The line without comments and strings. A string goes on in the next line after a backslash.
fn code_of(line: &str, in_string: &mut bool) -> String {
    let mut code = String::new();
    let mut quoted = std::mem::take(in_string);
    let mut before = ' ';
    for c in line.chars() {
        if c == '"' && before != '\\' && before != '\'' {
            quoted = !quoted;
        } else if !quoted {
            if c == '/' && before == '/' {
                break;
            }
            code.push(c);
        }
        before = c;
    }
    *in_string = quoted && line.ends_with('\\');
    code
}

#[test]
fn folders_use_only_what_stands_below_them() {
    let imports = imports(&crate_sources());
    assert!(300 < imports.len(), "only {} imports were found", imports.len());
    assert_none(&misplaced(FOLDERS, &imports));
}

#[test]
fn files_that_use_each_other_in_a_circle_are_listed() {
    assert_none(&unlisted_circles(CIRCLES, &imports(&crate_sources())));
}

/// The sources in `src/`, tests aside, with paths below it.
fn crate_sources() -> Vec<(PathBuf, String)> {
    let files = read(files_below(Path::new("src"), "rs")).into_iter();
    let files = files.filter(|(path, _)| !is_test(path));
    files.map(|(path, text)| (path.strip_prefix("src").unwrap().to_owned(), text)).collect()
}

/// The folder that a file below `src/` counts to: the first one, and of the shell's the second too.
fn folder_of(path: &Path) -> String {
    let path = path.with_extension("");
    let mut parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    if 1 < parts.len() {
        parts.pop();
    }
    parts.truncate(if parts[0] == "shell" { 2 } else { 1 });
    parts.join("/")
}

/// Imports that the table of folders does not have, and what is wrong with the table itself.
fn misplaced(folders: &[(&str, &str)], imports: &[Import]) -> Vec<String> {
    let height = |name: &str| folders.iter().position(|(folder, _)| *folder == name);
    let mut complaints = Vec::new();
    let mut unused = BTreeSet::new();
    for (place, (folder, uses)) in folders.iter().enumerate() {
        unused.extend(uses.split_whitespace().map(|used| (folder.to_string(), used.to_string())));
        for used in uses.split_whitespace() {
            match height(used) {
                None => complaints.push(format!("{folder} uses {used}, which the table lacks")),
                Some(other) if other <= place => {
                    complaints.push(format!("the table's own arrow from {folder} back up to {used}"));
                }
                Some(_) => {}
            }
        }
    }
    for import in imports {
        let (from, to) = (folder_of(&import.from), folder_of(&import.to));
        if from == to {
            continue;
        }
        match (height(&from), height(&to)) {
            (None, _) => complaints.push(format!("{import}: the table lacks {from}")),
            (_, None) => complaints.push(format!("{import}: the table lacks {to}")),
            (Some(own), Some(other)) if other < own => {
                complaints.push(format!("{import}: an arrow from {from} back up to {to}"));
            }
            (Some(own), Some(_)) => {
                unused.remove(&(from.clone(), to.clone()));
                if !folders[own].1.split_whitespace().any(|used| used == to) {
                    complaints.push(format!("{import}: {from} may not use {to}"));
                }
            }
        }
    }
    complaints.extend(unused.into_iter().map(|(from, to)| format!("{from} does not use {to}: strike it")));
    complaints
}

/// Circles of files that are not on the list, and entries of the list that are no circle.
fn unlisted_circles(listed: &[&[&str]], imports: &[Import]) -> Vec<String> {
    let mut listed: BTreeSet<BTreeSet<PathBuf>> =
        listed.iter().map(|files| files.iter().map(PathBuf::from).collect()).collect();
    let mut complaints = Vec::new();
    for circle in circles(imports) {
        if !listed.remove(&circle) {
            let arrows =
                imports.iter().filter(|import| circle.contains(&import.from) && circle.contains(&import.to));
            let arrows: Vec<String> = arrows.map(|import| format!("\n    {import}")).collect();
            complaints.push(format!("a circle of {} files:{}", circle.len(), arrows.concat()));
        }
    }
    complaints
        .extend(listed.into_iter().map(|files| format!("no circle any more, or another one: {files:?}")));
    complaints
}

#[test]
fn a_planted_back_arrow_and_a_planted_circle_are_seen() {
    let folders = [("replica", "apply"), ("apply", "types"), ("types", "")];
    let sources = |extra: &[(&str, &str)]| -> Vec<(PathBuf, String)> {
        let house = [
            ("lib.rs", "pub mod apply;\npub mod replica;\npub mod types;\n"),
            ("replica/mod.rs", "mod role;\npub use role::Role;\n"),
            ("replica/role.rs", "use crate::apply::{self, Machine};\npub struct Role(Machine);\n"),
            ("apply/mod.rs", "mod machine;\nmod range;\npub use machine::Machine;\n"),
            (
                "apply/machine.rs",
                "use super::range;\nuse crate::types::Ticket;\npub struct Machine(Ticket);\n",
            ),
            ("apply/range.rs", "// use super::Machine;\nconst A: &str = \"super::Machine\";\n"),
            ("types/mod.rs", "pub struct Ticket;\n"),
        ];
        let own = |(path, text): &(&str, &str)| (PathBuf::from(path), (*text).to_owned());
        let kept = house.iter().filter(|(path, _)| extra.iter().all(|(other, _)| other != path));
        kept.chain(extra).map(own).collect()
    };
    let complaints = |extra: &[(&str, &str)]| {
        let imports = imports(&sources(extra));
        [misplaced(&folders, &imports), unlisted_circles(&[], &imports)].concat()
    };
    assert_eq!(complaints(&[]), Vec::<String>::new());

    // An arrow that runs back up, in each of its forms, named with its place.
    for arrow in [
        "use crate::replica::Role;",
        "use crate::{replica::Role as Other};",
        "pub use crate::replica::*;",
        "use super::super::replica;",
        "fn f(role: &crate::replica::Role) {}",
        "use crate::replica; fn f(role: &'static replica::Role) {}",
        "mod inner { use crate::replica::role::Role; }",
    ] {
        let found = complaints(&[("apply/range.rs", &format!("\n{arrow}\n#[cfg(test)]\nmod tests {{}}"))]);
        assert!(found[0].starts_with("apply/range.rs:2: "), "{arrow}: {found:?}");
        assert!(found[0].ends_with("an arrow from apply back up to replica"), "{arrow}: {found:?}");
    }
    // Tests may use anything.
    let test = "#[cfg(test)]\nmod tests {\n    use crate::replica::Role;\n}\n";
    assert_eq!(complaints(&[("apply/range.rs", test)]), Vec::<String>::new());
    let script = [
        ("apply/range.rs", "#[cfg(test)]\nmod script;\n"),
        ("apply/range/script.rs", "use crate::replica::Role;\n"),
    ];
    assert_eq!(complaints(&script), Vec::<String>::new());

    // A circle of folders: whichever way the table puts them, one arrow runs back up.
    let back = [("types/mod.rs", "use crate::apply::Machine;\npub struct Ticket;\n")];
    let found = complaints(&back);
    assert_eq!(found[0], "types/mod.rs:1: crate::apply::Machine: an arrow from types back up to apply");
    assert!(found[1].starts_with("a circle of 2 files:"), "{found:?}");
    let table = [("apply", "types"), ("types", "apply")];
    assert_eq!(
        misplaced(&table, &imports(&sources(&back)))[0],
        "the table's own arrow from types back up to apply"
    );

    // A circle of files, also through a name that the parent re-exports.
    for closing in
        ["use super::machine::Machine;", "use super::Machine;", "use super::*; fn f(m: &super::Machine) {}"]
    {
        let files = [("apply/range.rs", closing)];
        let found = complaints(&files);
        assert_eq!(
            found,
            [format!(
                "a circle of 2 files:\n    apply/machine.rs:1: super::range\n    apply/range.rs:1: {}",
                if closing.contains('*') { "super::Machine" } else { &closing[4..closing.len() - 1] }
            )]
        );
        let listed: &[&str] = &["apply/machine.rs", "apply/range.rs"];
        assert_eq!(unlisted_circles(&[listed], &imports(&sources(&files))), Vec::<String>::new());
        assert_eq!(unlisted_circles(&[listed], &imports(&sources(&[]))).len(), 1, "the list is kept short");
    }

    // An arrow that the table does not have, one that it has for nothing, and a folder that it lacks.
    let found = complaints(&[("replica/role.rs", "use crate::types::Ticket;\n")]);
    assert_eq!(
        found,
        [
            "replica/role.rs:1: crate::types::Ticket: replica may not use types",
            "replica does not use apply: strike it"
        ]
    );
    let found = complaints(&[("range.rs", "use crate::types::Ticket;\n")]);
    assert_eq!(found, ["range.rs:1: crate::types::Ticket: the table lacks range"]);
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let mut complaints = Vec::new();
    for (path, text) in read(files_below(Path::new(""), "toml")) {
        if !path.ends_with("Cargo.toml") {
            continue;
        }
        complaints.extend(unexplained(&text).into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    assert_none(&complaints);
}

fn unexplained(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut complaints = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let is_dependency =
            matches!(section, "[workspace.dependencies]" | "[dependencies]" | "[build-dependencies]")
                && line.contains('=')
                && !line.starts_with('#');
        if is_dependency
            && !line.contains("workspace = true")
            && !line.contains("path =")
            && !line.contains("# ")
        {
            complaints.push(format!("no reason for {line}"));
        }
    }
    complaints
}

#[test]
fn every_dependency_is_used_by_the_code_that_declares_it() {
    let mut manifests = read(files_below(Path::new(""), "toml"));
    manifests.retain(|(path, _)| path.ends_with("Cargo.toml"));
    assert!(4 < manifests.len(), "only {} packages were found", manifests.len());
    let packages: Vec<&Path> = manifests.iter().map(|(path, _)| path.parent().unwrap()).collect();
    let mut owned: Vec<Vec<(PathBuf, String)>> = vec![Vec::new(); packages.len()];
    for (path, text) in sources() {
        // Of packages inside each other, the inner one.
        let holds = |package: &usize| path.starts_with(packages[*package]);
        let package =
            (0..packages.len()).filter(holds).max_by_key(|package| packages[*package].iter().count());
        let package = package.expect("the root holds everything");
        owned[package].push((path.strip_prefix(packages[package]).unwrap().to_owned(), text));
    }
    let mut complaints = Vec::new();
    for ((path, manifest), sources) in manifests.iter().zip(&owned) {
        complaints
            .extend(unused(manifest, sources).into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    let inherited = |name: &str| {
        let line = |line: &str| {
            let (found, rest) = line.split_once(['.', ' ']).unwrap_or((line, ""));
            found == name && rest.contains("workspace = true")
        };
        manifests.iter().any(|(_, manifest)| manifest.lines().any(line))
    };
    let (_, root) = &manifests[packages.iter().position(|package| package.iter().next().is_none()).unwrap()];
    for (section, name) in dependencies(root) {
        if section == "[workspace.dependencies]" && !inherited(name) {
            complaints.push(format!("Cargo.toml: no package inherits {name}"));
        }
    }
    assert_none(&complaints);
}

/// Names in the tables of dependencies, each with its table.
fn dependencies(manifest: &str) -> Vec<(&str, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && !line.starts_with('#') && line.contains('=') {
            found.push((section, line.split(['.', ' ', '=']).next().unwrap()));
        }
    }
    found
}

/// Dependencies that no source names which is built with them: a build script has a table of its own, and what
/// only tests name belongs into theirs.
fn unused(manifest: &str, sources: &[(PathBuf, String)]) -> Vec<String> {
    let is_script = |path: &Path| path == Path::new("build.rs");
    let mut complaints = Vec::new();
    for (section, name) in dependencies(manifest) {
        let is_built_with = |path: &Path| match section {
            "[dependencies]" => !is_script(path) && !is_test(path) && !path.starts_with("examples"),
            "[build-dependencies]" => is_script(path),
            _ => !is_script(path),
        };
        let is_used = sources.iter().any(|(path, text)| is_built_with(path) && names_crate(text, name));
        // What packages inherit is none's own.
        if !is_used && section != "[workspace.dependencies]" {
            complaints.push(format!("nothing uses {name} of {section}"));
        }
    }
    complaints
}

/// Whether a path in the code begins with the crate, or a `use` takes it as it is.
fn names_crate(text: &str, name: &str) -> bool {
    let name = name.replace('-', "_");
    let mut in_string = false;
    text.lines().any(|line| {
        let code = code_of(line, &mut in_string);
        code.match_indices(&name).any(|(at, _)| {
            let (before, behind) = (&code[..at], &code[at + name.len()..]);
            let is_begun = !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '.'));
            let is_taken = before.trim_end().ends_with("use") && behind.starts_with([';', ' ']);
            is_begun && (behind.starts_with("::") || is_taken)
        })
    })
}

#[test]
fn documents_that_are_named_are_here() {
    let documents = files_below(Path::new(""), "md");
    let mut files = Vec::new();
    for extension in ["rs", "toml", "md", "proto", "service", "sh", "yml", "c"] {
        files.extend(read(files_below(Path::new(""), extension)));
    }
    files.extend(read(vec![PathBuf::from(".ci/run")]));
    // Results record the command that made them, whose output may have been moved since.
    files.retain(|(path, _)| !path.starts_with("bench/results"));
    let mut complaints = Vec::new();
    for (path, text) in files {
        let missing = missing_documents(&text, &documents).into_iter();
        complaints.extend(missing.map(|name| format!("{} names {name}, which is not here", path.display())));
    }
    assert_none(&complaints);
}

/// Names of documents that no path of a document ends with. A path from the machine's root is elsewhere.
fn missing_documents(text: &str, documents: &[PathBuf]) -> Vec<String> {
    /// Stands for the name that the reader chooses.
    const PLACEHOLDER: &str = "NAME.md";
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '/' | '-' | '_');
    let mut missing = Vec::new();
    for word in text.split(|c: char| !is_of_name(c)) {
        let word = word.trim_end_matches(['.', '/']);
        let name: PathBuf =
            Path::new(word).iter().filter(|part| !matches!(part.to_str(), Some("." | ".."))).collect();
        let is_document = name.extension().is_some_and(|extension| extension == "md");
        let is_here = documents.iter().any(|document| document.ends_with(&name));
        if is_document && !is_here && !name.is_absolute() && !name.ends_with(PLACEHOLDER) {
            missing.push(word.to_owned());
        }
    }
    missing
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut complaints = Vec::new();
    for (path, text) in read(files_below(Path::new(""), "md")) {
        for target in links(&text) {
            let file = target.split('#').next().unwrap_or("");
            let is_outside = target.contains("://") || target.starts_with("mailto:") || file.is_empty();
            if !is_outside && !root().join(&path).parent().unwrap().join(file).exists() {
                complaints.push(format!("{} links to {target}, which is not there", path.display()));
            }
        }
    }
    assert_none(&complaints);
}

fn links(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut links = Vec::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if is_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            if let Some(end) = rest.find(')') {
                links.push(&rest[..end]);
            }
        }
    }
    links
}

#[test]
fn each_rule_sees_a_planted_violation() {
    assert_eq!(undone(concat!("fn f() { to", "do!() }")).len(), 1);
    assert_eq!(missing_doc("fn main() {}\n").len(), 1);
    assert_eq!(missing_doc("//! config.\n").len(), 1, "a word is not a meaning");
    assert_eq!(missing_doc("//! Which keys die together, and when.\n").len(), 0);
    assert_eq!(exceptions_without_reason("#[allow(dead_code)]\nfn f() {}\n").len(), 1);
    assert_eq!(exceptions_without_reason("#[ignore]\nfn f() {}\n").len(), 1);
    assert_eq!(exceptions_without_reason("#[expect(x, reason = \"y\")]\nfn f() {}\n").len(), 0);
    assert_eq!(names_that_claim_nothing("#[test]\nfn round_trip() {}\n").len(), 1);
    assert_eq!(names_that_claim_nothing("#[test]\nfn torn_tail_is_dropped() {}\n").len(), 0);
    for impure in [
        "use std::time::Instant;",
        "let now = std::time::SystemTime::now();",
        "use std::{fs, fmt};",
        "std::thread::spawn(f);",
        "let map: HashMap<u8, u8>;",
        "use tokio::io;",
    ] {
        assert_ne!(impurities(impure), Vec::<String>::new(), "{impure}");
    }
    for pure in [
        "// an Instant",
        "use std::time::Duration;",
        "mod tests {\nuse std::fs;",
        "let s = \"tokio\";",
        "f(\"a \\\n http b\")",
    ] {
        assert_eq!(impurities(pure), Vec::<String>::new(), "{pure}");
    }
    for transport in ["use h2::Reason;", "fn f(head: &http::HeaderMap) {}", "use crate::shell::client::grpc;"]
    {
        assert_eq!(words_in_code(transport, &TRANSPORT_WORDS).len(), 1, "{transport}");
    }
    for call in ["// as `h2` keeps it", "let s = \"http\";", "use h2_io;", "mod tests {\nuse h2::Reason;"] {
        assert_eq!(words_in_code(call, &TRANSPORT_WORDS), Vec::<String>::new(), "{call}");
    }
    assert_eq!(unexplained("[dependencies]\nleft-pad = \"1\"\n").len(), 1);
    assert_eq!(unexplained("[dependencies]\nleft-pad = \"1\" # pads\n").len(), 0);
    assert_eq!(links("see [a](b) and\n```\n[c](d)\n```\n"), ["b"]);
    let documents = ["README.md", "wal/FORMAT.md"].map(PathBuf::from);
    for here in ["../FORMAT.md", "wal/FORMAT.md.", "(README.md#a)", "file:///usr/share/README.md", "a.mdx"] {
        assert_eq!(missing_documents(here, &documents), Vec::<String>::new(), "{here}");
    }
    for missing in [concat!("plan", ".md"), concat!("bench/FORMAT", ".md")] {
        assert_eq!(missing_documents(&format!("`{missing}`'s table"), &documents), [missing]);
    }
    let manifest = "[dependencies]\nleft-pad.workspace = true\n[build-dependencies]\nleft-pad = \"1\"\n";
    let unused_with = |path: &str, text: &str| unused(manifest, &[(path.into(), text.to_owned())]).len();
    for used in ["use left_pad::pad;", "use left_pad as pad;", "let a = (left_pad::pad)();"] {
        assert_eq!(unused_with("src/lib.rs", used), 1, "{used}");
        assert_eq!(unused_with("build.rs", used), 1, "{used}");
        assert_eq!(unused_with("src/lib_tests.rs", used), 2, "{used}");
    }
    for unused in
        ["// left_pad::pad", "use crate::left_pad::pad;", "let left_pad = 1;", "f(\"left_pad::pad\")"]
    {
        assert_eq!(unused_with("src/lib.rs", unused), 2, "{unused}");
    }
    let lib = "pub mod scan;\n#[cfg(feature = \"map\")]\npub mod map;\nmod record;\n";
    assert_eq!(pure_modules(lib).into_iter().collect::<Vec<_>>(), ["record", "scan"]);
}
