//! `--help` and `--version`, from the flag table.

use std::fmt::Write as _;

use super::flags::{self, GATES_FLAG, Group, Kind, Support};

/// The etcd version whose API and flags this follows. Clients read it from Status and /version.
pub const ETCD_API_VERSION: &str = "3.7.1";

/// Widest line of `--help`.
const COLUMNS: usize = 100;

/// Where flags are shown, in this order.
pub(super) const GROUPS: [(Group, &str); 8] = [
    (Group::Member, "Member"),
    (Group::Clustering, "Cluster"),
    (Group::Limits, "Limits and connections"),
    (Group::Security, "Certificates"),
    (Group::Auth, "Users and roles"),
    (Group::Logging, "Logging"),
    (Group::Pinion, "Pinion's own (variables begin with PINION_)"),
    (Group::Other, "Other"),
];

/// The commit that this binary was built from, with a `+` if files had changed; `unknown` outside of a repository.
pub const COMMIT: &str = env!("PINION_COMMIT");

/// How it was built: profile, target and compiler.
pub const BUILD: &str = env!("PINION_BUILD");

pub(super) fn version() -> String {
    let release = env!("CARGO_PKG_VERSION");
    format!("pinion {release}\netcd API version: {ETCD_API_VERSION}\nGit SHA: {COMMIT}\nBuild: {BUILD}\n")
}

pub(super) fn help() -> String {
    let mut text = String::from(
        "Usage: pinion [flags]\n\n\
         An etcd-v3-compatible, strictly serializable key-value store. Flags are etcd's; each can also be\n\
         given as a variable, ETCD_ and the name in capitals (--data-dir is ETCD_DATA_DIR). A flag beats\n\
         its variable. Without any flag a durable single member listens on 127.0.0.1:2379.\n",
    );
    for (group, title) in GROUPS {
        writeln!(text, "\n{title}:").expect("a String takes every write");
        for flag in flags::all().filter(|flag| flag.group == group && flag.support == Support::Used) {
            let hint = match flag.kind {
                Kind::Bool => "",
                Kind::Text => " <text>",
                Kind::Number => " <number>",
                Kind::Duration => " <duration>",
                Kind::Urls => " <urls>",
            };
            let default =
                if flag.default.is_empty() { String::new() } else { format!(" [{}]", flag.default) };
            let name = flag.name;
            let is_long = COLUMNS < 4 + name.len() + hint.len() + default.len();
            let default = if is_long { format!("\n     {default}") } else { default };
            writeln!(text, "  --{name}{hint}{default}").expect("a String takes every write");
            wrap(&mut text, 6, flag.help.split_whitespace());
        }
    }
    text.push_str("\nKnown, and refused unless given their default, since ignoring them would be a lie:\n");
    wrap(&mut text, 2, names(|support| matches!(support, Support::Missing { .. })));
    text.push_str("\nAccepted without effect, since they ask for nothing that is missing:\n");
    wrap(&mut text, 2, names(|support| matches!(support, Support::Moot { .. })));
    text.push_str("\nOlder names, each with today's in tuning/FLAGS.md:\n");
    wrap(
        &mut text,
        2,
        names(|support| {
            matches!(support, Support::Renamed { .. } | Support::StandsFor { .. } | Support::Gate(_))
        }),
    );
    text.push_str("\nAccepted without effect, as in etcd:\n");
    wrap(&mut text, 2, names(|support| matches!(support, Support::Ignored)));
    text
}

/// All flags as one table in Markdown.
pub(super) fn markdown() -> String {
    let mut text = String::from(
        "# Flags\n\n\
         Every flag and environment variable of etcd 3.4 to 3.7, and Pinion's own. Made by `pinion --help-markdown`, from \
         the table that\nthe binary reads its flags by; a test compares them.\n\n\
         | flag | variable | default | meaning |\n|---|---|---|---|\n",
    );
    for flag in flags::all() {
        let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
        let meaning = match flag.support {
            Support::Used => flag.help.split_whitespace().collect::<Vec<_>>().join(" "),
            Support::Missing { harmless, because } => {
                let also: String = harmless.iter().map(|word| format!(" or `{word}`")).collect();
                let default = if flag.default.is_empty() { "nothing".to_owned() } else { default.clone() };
                format!("Refused, unless it is {default}{also}: {because}.")
            }
            Support::Moot { because, .. } => format!("Accepted with a warning, no effect: {because}."),
            Support::Ignored => "Accepted without effect, as in etcd.".to_owned(),
            Support::Renamed { to } => format!("Older name of `--{to}`."),
            Support::StandsFor { to, text } => format!("If true, older name of `--{to}={text}`."),
            Support::Gate(gate) => format!("Older name of `--{GATES_FLAG}={gate}=true`."),
        };
        // A bar would end the cell.
        let meaning = meaning.replace('|', "\\|");
        let (name, variable) = (flag.name, flag.variable());
        writeln!(text, "| `--{name}` | `{variable}` | {default} | {meaning} |")
            .expect("a String takes every write");
    }
    text
}

fn names(is_wanted: fn(Support) -> bool) -> impl Iterator<Item = &'static str> {
    flags::all().filter(move |flag| is_wanted(flag.support)).map(|flag| flag.name)
}

/// Appends `words`, indented and broken before the last column.
fn wrap<'a>(text: &mut String, indent: usize, words: impl Iterator<Item = &'a str>) {
    let mut column = 0;
    for word in words {
        let width = word.chars().count();
        if column == 0 || column + 1 + width > COLUMNS {
            if column != 0 {
                text.push('\n');
            }
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}
