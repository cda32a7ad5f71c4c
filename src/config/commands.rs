//! The commands of `pinion` and their flags, as one table: `help`, completions, the manual page and the guesses at
//! misspelt words read it. What each takes is parsed in `tool`; a test holds the two together.

/// The arguments of a command besides flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    /// One file.
    Path,
    Directory,
    Directories,
    /// A file or a directory.
    Either,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    /// As it is typed behind `pinion`.
    pub(super) words: &'static str,
    pub(super) takes: Takes,
    /// Without dashes.
    pub(super) flags: &'static [&'static str],
    pub(super) about: &'static str,
}

/// The shells that completions are made for.
pub(super) const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// All of them.
pub(super) static COMMANDS: &[Command] = &[
    Command {
        words: "snapshot restore",
        takes: Takes::Path,
        flags: &[
            "name",
            "data-dir",
            "wal-dir",
            "initial-cluster",
            "initial-cluster-token",
            "initial-advertise-peer-urls",
            "skip-hash-check",
            "bump-revision",
            "mark-compacted",
        ],
        about: "make a data directory out of a snapshot, of etcd or of Pinion",
    },
    Command {
        words: "snapshot status",
        takes: Takes::Path,
        flags: &["write-out"],
        about: "hash, revision, keys, size and version of a snapshot",
    },
    Command {
        words: "recover",
        takes: Takes::Directories,
        flags: &[
            "data-dir",
            "name",
            "initial-advertise-peer-urls",
            "initial-cluster-token",
            "bump-revision",
            "mark-compacted",
            "force-new-cluster",
            "force-new-cluster-of-older",
            "write-out",
        ],
        about: "make a new cluster out of what the survivors of a lost majority hold",
    },
    Command {
        words: "status",
        takes: Takes::Directory,
        flags: &["wal-dir", "write-out"],
        about: "what a data directory of Pinion holds",
    },
    Command {
        words: "hashkv",
        takes: Takes::Either,
        flags: &["rev", "wal-dir", "write-out"],
        about: "etcd's HashKV of a data directory of Pinion, or of a snapshot",
    },
    Command {
        words: "gateway start",
        takes: Takes::Nothing,
        flags: &[
            "endpoints",
            "listen-addr",
            "retry-delay",
            "discovery-srv",
            "discovery-srv-name",
            "trusted-ca-file",
            "insecure-discovery",
        ],
        about: "forward TCP connections to members",
    },
    Command {
        words: "grpc-proxy start",
        takes: Takes::Nothing,
        flags: &super::proxy_flags::NAMES,
        about: "pass calls on to members, of Pinion or of etcd",
    },
    Command {
        words: "demo",
        takes: Takes::Nothing,
        flags: &["port", "dir"],
        about: "three members on this machine, with data, a load, and keys to kill and bring back",
    },
    Command {
        words: "doctor",
        takes: Takes::Nothing,
        flags: &["data-dir", "cores", "peers", "apply", "unit", "write-out"],
        about: "whether this host gives a member what it needs, and what to type where not",
    },
    Command {
        words: "completion",
        takes: Takes::Word(SHELLS),
        flags: &[],
        about: "completions of commands and flags for a shell",
    },
    Command {
        words: "man",
        takes: Takes::Nothing,
        flags: &[],
        about: "this program's manual page, as troff",
    },
    Command {
        words: "version",
        takes: Takes::Nothing,
        flags: &[],
        about: "release, etcd's API version, commit and build",
    },
    Command { words: "help", takes: Takes::Nothing, flags: &[], about: "the commands" },
];

/// The first words of all commands, each once if they stand together.
pub(super) fn first_words() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    COMMANDS.iter().filter_map(move |command| {
        let first = command.words.split(' ').next().expect("a text has a first word, if an empty one");
        (std::mem::replace(&mut last, first) != first).then_some(first)
    })
}
