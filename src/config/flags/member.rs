//! The member itself: its name, its directories, where it listens and what it advertises of itself.

use super::flag::Kind::{Bool, Duration, Number, Text, Urls};
use super::flag::{Flag, Group, moot, used};
use crate::config::reasons::{NO_BBOLT, SYNCS_ANYWAY};

/// In the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) static FLAGS: &[Flag] = &[
    used(
        Group::Member,
        "name",
        Text,
        "default",
        "Human-readable name of this member; its key in --initial-cluster.",
    ),
    used(
        Group::Member,
        "data-dir",
        Text,
        "",
        "Directory of everything that must survive a restart. Created with mode 0700, and locked \
        while the member runs. Empty: <name>.etcd in the working directory.",
    ),
    used(
        Group::Member,
        "wal-dir",
        Text,
        "",
        "Directory of the log alone, for a disk of its own: every write waits for a sync of this \
        disk. Empty: inside --data-dir.",
    ),
    used(
        Group::Member,
        "listen-client-urls",
        Urls,
        "http://localhost:2379",
        "Where clients connect. Hosts must be IP addresses or \
        localhost; 0.0.0.0 is all addresses, those of IPv6 too. https: by TLS, with --cert-file or --auto-tls; http and https may share an address.",
    ),
    used(
        Group::Member,
        "listen-client-http-urls",
        Urls,
        "",
        "Where clients connect for HTTP alone: the JSON gateway, health and metrics. The addresses of \
        --listen-client-urls then serve gRPC alone. Empty: those serve both.",
    ),
    used(
        Group::Member,
        "listen-metrics-urls",
        Urls,
        "",
        "Where health and metrics are served, and nothing else, besides the addresses for clients. What probes a \
        member here needs no way to its data.",
    ),
    used(
        Group::Member,
        "enable-grpc-gateway",
        Bool,
        "true",
        "Serve calls as JSON over HTTP/1.1, under /v3/. false: gRPC alone; health and metrics stay.",
    ),
    used(
        Group::Member,
        "enable-v2",
        Bool,
        "false",
        "Serve etcd's v2 API over HTTP/1.1: directories under /v2/keys, /v2/members, /v2/machines and /v2/stats. It is \
        on the keys of v3: /v2/keys/a/b is the key /a/b, below --v2-prefix. Give it to every member.",
    ),
    used(
        Group::Member,
        "cors",
        Text,
        "*",
        "Origins, with commas between them, whose scripts a browser lets read answers of the HTTP API. Empty or *: all.",
    ),
    used(
        Group::Member,
        "host-whitelist",
        Text,
        "*",
        "Host names, with commas between them, by which HTTP requests may ask for this member where nothing is encrypted; \
        others get 421. Empty or *: any. It keeps web pages from reaching the member by a name of their own.",
    ),
    used(
        Group::Member,
        "listen-peer-urls",
        Urls,
        "http://localhost:2380",
        "Where other members connect. Hosts must be IP addresses or \
        localhost; 0.0.0.0 is all addresses, those of IPv6 too. With http nothing is encrypted and nobody is asked who he is: whoever reaches this port can take \
        part in the cluster, so keep it inside a network you trust, or use https with --peer-client-cert-auth.",
    ),
    used(
        Group::Member,
        "snapshot-count",
        Number,
        "10000",
        "Applied log entries after which a checkpoint is due, but not before the log is half as large as \
        the state. One entry holds all requests that arrived while the previous sync ran, so this counts \
        groups, not requests. Fewer: faster restart, more writing. 0: 10000. See also --checkpoint-bytes.",
    ),
    used(
        Group::Member,
        "snapshot-catchup-entries",
        Number,
        "250000",
        "Log entries kept behind a checkpoint for members that were away, so that they come back by the \
        log: at most 128 MiB of them, and none without other members. For half a minute (30 election \
        timeouts) after a member was last heard of the log keeps all that it misses, up to 1 GiB or twice \
        the checkpoint. 0: neither, only what a member needs that is catching up.",
    ),
    used(
        Group::Member,
        "heartbeat-interval",
        Number,
        "100",
        "Milliseconds of one raft tick, at which a leader says that it lives. About one \
        network round trip between members.",
    ),
    used(
        Group::Member,
        "election-timeout",
        Number,
        "1000",
        "Milliseconds without a heartbeat after which a follower stands for election. At \
        least 5 heartbeats, at most 50000. Also sets the server's request timeout, 5 s + 2 of these.",
    ),
    moot("max-snapshots", Number, "5", "one checkpoint is kept, the newest"),
    moot(
        "max-wals",
        Number,
        "5",
        "the log keeps what the checkpoint and other members need, and recycles the rest",
    ),
    moot("initial-election-tick-advance", Bool, "true", "no member shortens its first election timeout"),
    moot("backend-bbolt-freelist-type", Text, "map", NO_BBOLT),
    moot("backend-batch-interval", Duration, "0", NO_BBOLT),
    moot("backend-batch-limit", Number, "0", NO_BBOLT),
    moot("socket-reuse-address", Bool, "false", "every listener has SO_REUSEADDR, as with Go"),
    moot("raft-read-timeout", Duration, "5s", "connections between members have deadlines of their own"),
    moot("raft-write-timeout", Duration, "5s", "connections between members have deadlines of their own"),
    used(
        Group::Member,
        "memory-mlock",
        Bool,
        "false",
        "Keep in RAM what the process has touched, all of it, so that nothing of it is ever swapped out. Needs \
        as much locked memory (LimitMEMLOCK= of systemd) as the member may grow to.",
    ),
    moot("unsafe-no-fsync", Bool, "false", SYNCS_ANYWAY),
];
