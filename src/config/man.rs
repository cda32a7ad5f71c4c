//! The manual page, from the tables of flags and commands, as troff with the `man` macros.

use std::fmt::Write as _;

use super::commands::{COMMANDS, Takes};
use super::flags::{self, Kind, Support};
use super::help;

/// Text as troff takes it: a backslash, a hyphen and a first dot have a meaning there, and not every troff reads UTF-8.
fn plain(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            ' '..='~' => escaped.push(c),
            _ => write!(escaped, "\\[u{:04X}]", u32::from(c)).expect(WRITES),
        }
    }
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

pub(super) fn page() -> String {
    let mut text = format!(
        ".TH PINION 1 \"\" \"pinion {}\" \"\"\n.SH NAME\npinion \\- {}\n.SH SYNOPSIS\n.B pinion\n[\\fIflags\\fR]\n",
        env!("CARGO_PKG_VERSION"),
        plain("an etcd-v3-compatible, strictly serializable key-value store"),
    );
    for command in COMMANDS {
        let takes = match command.takes {
            Takes::Nothing => String::new(),
            Takes::Path => " \\fIFILE\\fR".to_owned(),
            Takes::Directory => " \\fIDIR\\fR".to_owned(),
            Takes::Directories => " \\fIDIR\\fR...".to_owned(),
            Takes::Either => " \\fIDIR\\fR|\\fIFILE\\fR".to_owned(),
            Takes::Word(words) => format!(" {}", words.join("|")),
        };
        writeln!(text, ".br\n\\fBpinion {}\\fR{takes}", plain(command.words)).expect(WRITES);
    }
    text.push_str(".SH DESCRIPTION\n");
    let description = "Without a command this program is a member of a cluster, or a cluster of one member, and serves the API of etcd \
         3. Flags are etcd's; each can also be given as a variable, ETCD_ and the name in capitals (--data-dir is \
         ETCD_DATA_DIR), and a flag beats its variable. Without any flag a durable single member listens on \
         127.0.0.1:2379.";
    writeln!(text, "{}", plain(description)).expect(WRITES);
    text.push_str(".SH COMMANDS\n");
    for command in COMMANDS {
        let flags: Vec<String> = command.flags.iter().map(|name| format!("--{name}")).collect();
        let flags = if flags.is_empty() { String::new() } else { format!(" Flags: {}.", flags.join(", ")) };
        writeln!(text, ".TP\n.B {}\n{}.{}", plain(command.words), plain(command.about), plain(&flags))
            .expect(WRITES);
    }
    text.push_str(".SH OPTIONS\n");
    for (group, title) in help::GROUPS {
        writeln!(text, ".SS {}", plain(title)).expect(WRITES);
        for flag in flags::all().filter(|flag| flag.group == group && flag.support == Support::Used) {
            let value = match flag.kind {
                Kind::Bool => "",
                Kind::Text => "text",
                Kind::Number => "number",
                Kind::Duration => "duration",
                Kind::Urls => "urls",
            };
            let value = if value.is_empty() { String::new() } else { format!(" \\fI{value}\\fR") };
            let default =
                if flag.default.is_empty() { String::new() } else { format!(" [{}]", plain(flag.default)) };
            let about = flag.help.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(
                text,
                ".TP\n\\fB{}\\fR{value}{default}\n{}",
                plain(&format!("--{}", flag.name)),
                plain(&about)
            )
            .expect(WRITES);
        }
    }
    text.push_str(".SH EXIT STATUS\n");
    for (code, meaning) in EXITS {
        writeln!(text, ".TP\n.B {code}\n{}", plain(meaning)).expect(WRITES);
    }
    text.push_str(".SH SEE ALSO\n.BR etcdctl (1)\n");
    text
}

/// What the process ends with. The numbers of the last three are those of sysexits.h.
const EXITS: [(u8, &str); 6] = [
    (0, "It was told to stop, and everything acknowledged is on the disk."),
    (1, "It could not start, or flags contradict each other; the last line says what to do."),
    (2, "A flag is unknown, or its value is none."),
    (65, "The log lacks what this member acknowledged, or its data differs from that of the others."),
    (70, "The cluster writes a format that this release does not read."),
    (74, "A sync of the log failed, after which nothing later may be trusted."),
];

const WRITES: &str = "a String takes every write";
