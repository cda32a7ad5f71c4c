//! The table of every flag: name, kind, default, meaning, and whether this version acts on it.
//!
//! Parser, environment, `--help` and the refusals all read this one table, so a flag cannot be
//! known to one and not to another. Names and defaults are etcd 3.7's; `Group::Pinion` holds ours,
//! whose variables begin with `PINION_`, so that no later etcd can give them a second meaning.
//!
//! Not clap: Go's syntax (one dash or two, `-flag` alone only for booleans), etcd's exit codes, and
//! flags that are refused unless they have their default would each have to be worked around.

use super::reasons::{
    NO_BBOLT, NO_PROFILES, NO_PROXY, NO_TLS, NO_TRACING, NO_V2_DISCOVERY, NOT_YET, SYNCS_ANYWAY, WAITS_ANYWAY,
};

/// Where `--help` shows the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Member,
    Clustering,
    Limits,
    Auth,
    Logging,
    Pinion,
    Other,
}

/// How the flag's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    Number,
    Duration,
    Urls,
}

/// What this version does with the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// Acted on.
    Used,
    /// Refused by name, with the reason, unless the value is the default or one of these, which ask for
    /// nothing that is missing.
    Missing { harmless: &'static [&'static str], because: &'static str },
    /// Any value is taken, or any of these words if there are some, and has no effect: it asks for
    /// nothing that is missing. Whoever gives another than the default is told so, and why.
    Moot { words: &'static [&'static str], because: &'static str },
    /// Accepted and without effect, as in etcd.
    Ignored,
    /// An older name of another flag.
    Renamed { to: &'static str },
    /// An older boolean: true gives another flag this text.
    StandsFor { to: &'static str, text: &'static str },
    /// An older boolean for one of `--feature-gates`.
    Gate(&'static str),
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) group: Group,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) support: Support,
    /// Meaning and consequence; empty for what is not acted on.
    pub(super) help: &'static str,
}

impl Flag {
    /// The environment variable that sets the flag when the command line does not.
    pub(super) fn variable(&self) -> String {
        let prefix = if self.group == Group::Pinion { "PINION_" } else { "ETCD_" };
        format!("{prefix}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The flag of that name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// What `--low-latency` puts in the place of other flags' defaults. The pulse bounds how long an idle
/// executor can oversleep by 10 ms (`shell/runtime/pulse.rs`), so a shorter tick would promise what the runtime
/// does not keep; etcd's ratio of ten ticks to an election stays.
pub(super) static LOW_LATENCY: &[(&str, &str)] =
    &[("heartbeat-interval", "10"), ("election-timeout", "100"), ("spin-before-park", "200us")];

const fn used(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, group, kind, default, support: Support::Used, help }
}

const fn missing(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    missing_but(name, kind, default, &[], NOT_YET)
}

const fn missing_but(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    harmless: &'static [&'static str],
    because: &'static str,
) -> Flag {
    let support = Support::Missing { harmless, because };
    Flag { name, group: Group::Other, kind, default, support, help: "" }
}

const fn renamed(name: &'static str, kind: Kind, to: &'static str) -> Flag {
    Flag { name, group: Group::Other, kind, default: "", support: Support::Renamed { to }, help: "" }
}

const fn gate(name: &'static str, gate: &'static str) -> Flag {
    Flag { name, group: Group::Other, kind: Kind::Bool, default: "", support: Support::Gate(gate), help: "" }
}

const fn moot(name: &'static str, kind: Kind, default: &'static str, because: &'static str) -> Flag {
    moot_word(name, kind, default, &[], because)
}

const fn moot_word(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    words: &'static [&'static str],
    because: &'static str,
) -> Flag {
    Flag { name, group: Group::Other, kind, default, support: Support::Moot { words, because }, help: "" }
}

const fn ignored(name: &'static str, kind: Kind) -> Flag {
    Flag { name, group: Group::Other, kind, default: "", support: Support::Ignored, help: "" }
}

/// The flag that names a configuration file.
pub(super) const FILE_FLAG: &str = "config-file";

/// The flag that opens and closes gates.
pub(super) const GATES_FLAG: &str = "feature-gates";

use Kind::{Bool, Duration, Number, Text, Urls};

/// All flags, in the order `--help` shows them.
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
        localhost; 0.0.0.0 is all addresses, those of IPv6 too. Only http so far: do not expose it to a network you do not trust.",
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
        localhost; 0.0.0.0 is all addresses, those of IPv6 too. Nothing is encrypted and nobody is asked who he is: whoever reaches this port can take \
        part in the cluster, so keep it inside a network you trust.",
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
    used(
        Group::Clustering,
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        "This member's peer URLs, as told to the others. \
        Member and cluster ids are derived from them at the first start.",
    ),
    used(
        Group::Clustering,
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        "This member's client URLs, as told to clients in the member \
        list. Required if --listen-client-urls is given.",
    ),
    used(
        Group::Clustering,
        "initial-cluster",
        Text,
        "",
        "All members, name=url,name=url2,… A name may repeat, and then has several URLs. The same list on \
        all members that begin a cluster together. Ignored once data exists. Empty: this member alone, \
        <name>=<initial-advertise-peer-urls>.",
    ),
    used(
        Group::Clustering,
        "initial-cluster-state",
        Text,
        "new",
        "new: begin a cluster with the members of --initial-cluster. existing: join one that runs, after \
        `etcdctl member add`; --initial-cluster then lists all its members and this one, which asks the \
        others who it is. Ignored once data exists.",
    ),
    used(
        Group::Clustering,
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        "Goes into the member and cluster ids, so that clusters that were \
        created alike cannot be mixed up.",
    ),
    used(
        Group::Clustering,
        "pre-vote",
        Bool,
        "true",
        "Ask whether an election could be won before starting one, so that a member that was cut \
        off does not depose a healthy leader when it returns.",
    ),
    used(
        Group::Limits,
        "max-txn-ops",
        Number,
        "128",
        "Operations at most in one level of a transaction. The same on all members.",
    ),
    used(
        Group::Limits,
        "max-request-bytes",
        Number,
        "1572864",
        "Bytes at most in one write request, up to 67108864; above 10485760 with a warning. A gRPC message \
        may be 512 KiB larger. The same on all members.",
    ),
    used(
        Group::Limits,
        "quota-backend-bytes",
        Number,
        "0",
        "Bytes that the key space may take. 0: 2147483648. Negative: no bound. A member that reaches it \
        raises the NOSPACE alarm, under which nothing can be added anywhere until space was made by \
        deleting and compacting and the alarm is disarmed. Counted in memory, where all data is.",
    ),
    used(
        Group::Limits,
        "max-concurrent-streams",
        Number,
        "4294967295",
        "HTTP/2 streams at most on one connection. 0: 4294967295.",
    ),
    used(
        Group::Limits,
        "grpc-keepalive-min-time",
        Duration,
        "5s",
        "Clients that ping more often than this are disconnected (too_many_pings).",
    ),
    used(
        Group::Limits,
        "grpc-keepalive-interval",
        Duration,
        "2h",
        "Idle time after which the server pings a client. 0: never, so a vanished client \
        holds its connection for ever.",
    ),
    used(
        Group::Limits,
        "grpc-keepalive-timeout",
        Duration,
        "20s",
        "How long the server waits for the answer to its ping before it closes the \
        connection. 0: 20s.",
    ),
    used(
        Group::Limits,
        "socket-reuse-port",
        Bool,
        "false",
        "Share the listening addresses (SO_REUSEPORT) with other processes of this user that ask for the \
        same. The kernel then spreads connections over all of them: two members that share a client port \
        are two clusters to one client.",
    ),
    used(
        Group::Limits,
        "compaction-batch-limit",
        Number,
        "0",
        "Revisions looked at in one slice of a compaction. 0: 500. More: sooner done, longer \
        pauses for others.",
    ),
    used(
        Group::Limits,
        "compaction-sleep-interval",
        Duration,
        "0",
        "Pause between two slices of a compaction. 0: none, since other work goes on between slices anyway.",
    ),
    used(
        Group::Limits,
        "watch-progress-notify-interval",
        Duration,
        "0",
        "How often a quiet watcher that asked for progress_notify is told how far it has come. 0: 10m. \
        At least 100ms, which is taken for anything shorter. Shorter: a client that reconnects replays \
        less; one message a watcher each time.",
    ),
    used(
        Group::Clustering,
        "corrupt-check-time",
        Duration,
        "0s",
        "How often the leader compares the members' data, hash by hash. 0: never. A member that differs \
        raises the CORRUPT alarm, under which nothing can be written until it is disarmed. Each time \
        costs every member a pass over all it holds, in slices.",
    ),
    used(
        Group::Clustering,
        "compact-hash-check-time",
        Duration,
        "1m",
        "The same for what the last compaction left, if the gate CompactHashCheck is open; once for each \
        compaction.",
    ),
    used(
        Group::Clustering,
        "feature-gates",
        Text,
        "",
        "Name=true,… InitialCorruptCheck: compare data with the other members before serving, and do not \
        start if it differs. CompactHashCheck: see --compact-hash-check-time. Both are false.",
    ),
    used(
        Group::Logging,
        "logger",
        Text,
        "zap",
        "Only zap, which names the layout of a line; kept for etcd's sake.",
    ),
    used(
        Group::Logging,
        "log-level",
        Text,
        "info",
        "debug, info, warn, error, panic or fatal. panic and fatal print errors too.",
    ),
    used(
        Group::Logging,
        "log-format",
        Text,
        "",
        "json (one object a line) or console (for people). Empty: console where standard error is a terminal, \
        json elsewhere.",
    ),
    used(
        Group::Logging,
        "log-outputs",
        Text,
        "default",
        "default or stderr, stdout, or the path of a file to append to; several separated by commas. A file that \
        others rotate must be copied and truncated. What a full disk or a reader that has stopped does not take is \
        lost and counted.",
    ),
    used(
        Group::Logging,
        "warning-unary-request-duration",
        Duration,
        "300ms",
        "Log requests that take so long, with the part of the way on which they did: one line a kind of request in \
        ten seconds, and the number of those left out. Exact to a tick of 50 ms. 0: every request counts.",
    ),
    used(
        Group::Logging,
        "enable-log-rotation",
        Bool,
        "false",
        "Rotate the log file: --log-outputs must then be one file, and nothing else.",
    ),
    used(
        Group::Logging,
        "log-rotation-config-json",
        Text,
        r#"{"maxsize":100,"maxage":0,"maxbackups":0,"localtime":false,"compress":false}"#,
        "How, if --enable-log-rotation: the file's largest size in MiB, days that old files stay and their number \
        (0: no bound), whether their names have local time, and whether they are compressed (gzip).",
    ),
    used(
        Group::Pinion,
        "max-request-metadata-bytes",
        Number,
        "65536",
        "Bytes at most of the metadata that a client sends with one call, 32 more counted for each entry; \
        from 8192 to 8388608. A call with more is refused (ResourceExhausted). Tokens and the headers of a \
        service mesh take a few thousand; a client may make the member hold this much for each connection.",
    ),
    used(
        Group::Pinion,
        "placement",
        Text,
        "auto",
        "The core of each role, such as shards=2,3;raft=0;log=0;store=1. auto: from the cores the process \
        may use; not pinned if another member on this machine has claimed them. The plan is printed at start.",
    ),
    used(
        Group::Pinion,
        "wal-sync",
        Text,
        "auto",
        "How the log reaches the disk. mmap: store into a map, then fdatasync. direct: O_DIRECT writes with \
        O_DSYNC. auto: measured on this disk at the first start, then remembered.",
    ),
    used(
        Group::Pinion,
        "checkpoint-bytes",
        Number,
        "67108864",
        "Bytes of log after which a checkpoint is due, however few entries they are; but not before the \
        log is half as large as the state. Bounds the disk that the log holds and the time a restart \
        takes. At least 1048576.",
    ),
    used(
        Group::Pinion,
        "pinned-history-bytes",
        Number,
        "268435456",
        "Compacted history that lists under way may hold in memory. Beyond it the list that began first is ended \
        as Unavailable. More: lists of slow clients outlive more compactions; more memory at worst.",
    ),
    used(
        Group::Pinion,
        "spin-before-park",
        Duration,
        "30us",
        "How long an idle core looks for work before it sleeps, at most 10ms. Longer: lower \
        latency, more CPU burnt when idle.",
    ),
    used(
        Group::Pinion,
        "format-level-max",
        Number,
        "2",
        "The highest format level that this member lets the cluster write; at most what this release reads. A \
        cluster raises its level by itself as soon as all members read the next one, and then no member can go \
        back to a release that does not. To keep that way open after an update, give all members the level \
        of the release before (0.1.0: 0, 0.2.0: 1), and take the flag away when the new one has proven itself. A \
        member whose cluster has gone beyond it does not start.",
    ),
    used(
        Group::Pinion,
        "load-prefix-depth",
        Number,
        "2",
        "Segments of a key, up to a slash each, by which /metrics tells who causes the load: with 2, /registry/pods/ and \
        /registry/leases/. The heaviest alone are told. 0: none by key. At most 16.",
    ),
    used(
        Group::Pinion,
        "low-latency",
        Bool,
        "false",
        "For members one fast network apart, on disks that never pause: --heartbeat-interval=10, \
        --election-timeout=100 and --spin-before-park=200us, each unless it is given itself. A dead or \
        frozen leader is replaced in a tenth of the time, and an idle core sleeps less. It costs ten \
        times the heartbeats and about 2 % of each idle core; and a pause of 100 ms, of network, disk \
        or scheduler, now costs the leadership. The same on all members.",
    ),
    used(Group::Other, "version", Bool, "false", "Print the version and exit."),
    used(Group::Other, "help", Bool, "false", "Print this and exit."),
    used(
        Group::Other,
        "help-metrics",
        Bool,
        "false",
        "Print all metrics as a table and exit; tuning/METRICS.md is its output.",
    ),
    used(
        Group::Other,
        "help-markdown",
        Bool,
        "false",
        "Print all flags as a table and exit; tuning/FLAGS.md is its output.",
    ),
    used(
        Group::Other,
        FILE_FLAG,
        Text,
        "",
        "A file in YAML or JSON whose keys are the names of flags, or those of etcd's sections; all other \
        flags and variables are then ignored. Durations are whole nanoseconds, as in etcd; unknown keys \
        are warned about.",
    ),
    // Member
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
    // Clustering
    used(
        Group::Clustering,
        "strict-reconfig-check",
        Bool,
        "true",
        "Refuse to add or remove a member when the members that run would be too few for the new quorum.",
    ),
    used(
        Group::Clustering,
        "max-learners",
        Number,
        "1",
        "Learners that the cluster may have when this member is asked to add one. Give it to all members \
        alike, or the answer depends on whom one asks.",
    ),
    used(
        Group::Clustering,
        "force-new-cluster",
        Bool,
        "false",
        "Last resort when a majority of the members is lost for good: go on as a cluster of this member \
        alone, with its data. Every entry of its log is kept, also those of which nobody knows any more \
        whether they were committed; what only the lost members had is lost. All other members are removed \
        for ever: destroy their data directories, and add new members. Needs data; choose the member whose \
        raft index is highest. Give it for one start only: given again, it removes whoever was added since. Refused while the other \
        members answer and are a quorum with this one.",
    ),
    used(
        Group::Clustering,
        "force-new-cluster-against-quorum",
        Bool,
        "false",
        "Lets --force-new-cluster go on although the other members answer and are a quorum with this one. They are \
        removed and end; what they acknowledged and this member does not have is lost.",
    ),
    used(
        Group::Clustering,
        "discovery-srv",
        Text,
        "",
        "Instead of --initial-cluster: the domain whose SRV records _etcd-server._tcp.<domain> list the peer \
        URLs of all members. This one is the record that leads to its --initial-advertise-peer-urls. All \
        members must find the same records. Those of _etcd-server-ssl._tcp mean https and are refused so \
        far. Ignored once data exists.",
    ),
    used(
        Group::Clustering,
        "discovery-srv-name",
        Text,
        "",
        "Asks for _etcd-server-<text>._tcp.<domain> instead, so that a domain can have several clusters.",
    ),
    used(
        Group::Clustering,
        "discovery-endpoints",
        Text,
        "",
        "Instead of --initial-cluster: addresses, host:port,… of an etcd or Pinion that runs already, through \
        which the members of a new cluster find each other. First `etcdctl put \
        /_etcd/registry/<token>/_config/size 3` there; then the first 3 that register begin together, and \
        each waits for them. Ignored once data exists.",
    ),
    used(
        Group::Clustering,
        "discovery-token",
        Text,
        "",
        "Names this cluster in the discovery service, and takes the place of --initial-cluster-token. A new \
        one for each cluster.",
    ),
    used(
        Group::Clustering,
        "discovery-dial-timeout",
        Duration,
        "2s",
        "How long a connection to the discovery service may take.",
    ),
    used(
        Group::Clustering,
        "discovery-request-timeout",
        Duration,
        "5s",
        "How long the discovery service may take to answer a request. Waiting for members is no request and \
        has no end.",
    ),
    used(
        Group::Clustering,
        "discovery-keepalive-time",
        Duration,
        "2s",
        "A connection to the discovery service that is silent for so long is pinged, but not before 10 s, \
        since servers end connections that ping more often; 0: never.",
    ),
    used(
        Group::Clustering,
        "discovery-keepalive-timeout",
        Duration,
        "6s",
        "A connection to the discovery service is given up when a ping is unanswered for so long.",
    ),
    used(
        Group::Clustering,
        "discovery-user",
        Text,
        "",
        "Who to be with a discovery service that has auth enabled: user, or user:password.",
    ),
    used(
        Group::Clustering,
        "discovery-password",
        Text,
        "",
        "The password of that user. Arguments can be seen by others on this host, a variable cannot.",
    ),
    used(
        Group::Clustering,
        "discovery-fallback",
        Text,
        "exit",
        "What to do when discovery fails. exit: end; proxy, the default of etcd 3.5, which has it for v2 discovery \
        alone, does the same.",
    ),
    missing("discovery-insecure-transport", Bool, "true"),
    moot("discovery-insecure-skip-tls-verify", Bool, "false", NO_TLS),
    missing("discovery-cert", Text, ""),
    missing("discovery-key", Text, ""),
    missing("discovery-cacert", Text, ""),
    used(
        Group::Clustering,
        "auto-compaction-mode",
        Text,
        "periodic",
        "What --auto-compaction-retention counts: periodic, time; revision, revisions.",
    ),
    used(
        Group::Clustering,
        "auto-compaction-retention",
        Text,
        "0",
        "History that the leader leaves when nobody compacts: hours (12) or a duration (30m) of it, or so many \
        revisions. 0: all of it, and the key space grows until somebody compacts. A periodic one compacts for the \
        first time after that long, then as often, but every hour at least; one of revisions every five minutes. \
        The same on all members, since any may lead.",
    ),
    moot_word(
        "v2-deprecation",
        Text,
        "write-only",
        &["not-yet", "write-only", "write-only-drop-data", "gone"],
        "there is no v2 store",
    ),
    // Security
    missing("cert-file", Text, ""),
    missing("key-file", Text, ""),
    missing("client-cert-file", Text, ""),
    missing("client-key-file", Text, ""),
    missing("client-cert-auth", Bool, "false"),
    missing("trusted-ca-file", Text, ""),
    missing("client-crl-file", Text, ""),
    missing("client-cert-allowed-hostname", Text, ""),
    missing("auto-tls", Bool, "false"),
    missing("peer-cert-file", Text, ""),
    missing("peer-key-file", Text, ""),
    missing("peer-client-cert-file", Text, ""),
    missing("peer-client-key-file", Text, ""),
    missing("peer-client-cert-auth", Bool, "false"),
    missing("peer-trusted-ca-file", Text, ""),
    missing("peer-auto-tls", Bool, "false"),
    missing("peer-cert-allowed-cn", Text, ""),
    missing("peer-cert-allowed-hostname", Text, ""),
    moot("peer-skip-client-san-verification", Bool, "false", NO_TLS),
    missing("peer-crl-file", Text, ""),
    moot("self-signed-cert-validity", Number, "1", NO_TLS),
    moot("cipher-suites", Text, "", NO_TLS),
    moot_word("tls-min-version", Text, "TLS1.2", &["TLS1.2", "TLS1.3"], NO_TLS),
    moot_word("tls-max-version", Text, "", &["TLS1.2", "TLS1.3"], NO_TLS),
    // Auth
    used(
        Group::Auth,
        "auth-token",
        Text,
        "simple",
        "What a login gives: simple, a token that members keep in memory. (jwt: not yet.)",
    ),
    used(
        Group::Auth,
        "auth-token-ttl",
        Number,
        "300",
        "Seconds that a simple token lives after its last use.",
    ),
    used(
        Group::Auth,
        "bcrypt-cost",
        Number,
        "10",
        "Work of a password's hash, 4 to 31; each more doubles it. For passwords set from now on.",
    ),
    // Monitoring, logging, tracing
    used(
        Group::Logging,
        "metrics",
        Text,
        "basic",
        "What /metrics tells. extensive: also how long calls take, by method (grpc_server_handling_seconds), for two \
        looks at the clock a call.",
    ),
    missing_but("enable-pprof", Bool, "false", &[], NO_PROFILES),
    moot(
        "warning-apply-duration",
        Duration,
        "100ms",
        "how long it took to apply a request is part of --warning-unary-request-duration",
    ),
    missing_but("enable-distributed-tracing", Bool, "false", &[], "nothing is traced"),
    moot("distributed-tracing-address", Text, "localhost:4317", NO_TRACING),
    moot("distributed-tracing-service-name", Text, "etcd", NO_TRACING),
    moot("distributed-tracing-instance-id", Text, "", NO_TRACING),
    moot("distributed-tracing-sampling-rate", Number, "0", NO_TRACING),
    // Features and tuning.
    moot("downgrade-check-time", Duration, "5s", "a cluster of Pinion has one version and no downgrade"),
    moot("bootstrap-defrag-threshold-megabytes", Number, "0", "there is nothing to defragment"),
    // Unsafe
    moot("unsafe-no-fsync", Bool, "false", SYNCS_ANYWAY),
    // Accepted and without effect in etcd too
    ignored("cluster-active-size", Text),
    ignored("cluster-remove-delay", Text),
    ignored("cluster-sync-interval", Text),
    ignored("config", Text),
    ignored("force", Bool),
    ignored("max-result-buffer", Text),
    ignored("max-retry-attempts", Text),
    ignored("peer-heartbeat-interval", Text),
    ignored("peer-election-timeout", Text),
    ignored("retry-interval", Text),
    ignored("snapshot", Bool),
    ignored("v", Bool),
    ignored("vv", Bool),
    ignored("test.coverprofile", Text),
    ignored("test.outputdir", Text),
    // Names of etcd 3.4 to 3.6
    renamed("log-output", Text, "log-outputs"),
    Flag {
        name: "debug",
        group: Group::Other,
        kind: Bool,
        default: "false",
        support: Support::StandsFor { to: "log-level", text: "debug" },
        help: "",
    },
    moot("log-package-levels", Text, "", "there is one level for all, --log-level"),
    missing_but("enable-v2", Bool, "false", &[], "there is no v2 API yet"),
    missing_but("experimental-enable-v2v3", Text, "", &[], "there is no v2 API yet"),
    missing_but("proxy", Text, "off", &[], NO_PROXY),
    moot("proxy-failure-wait", Number, "5000", NO_PROXY),
    moot("proxy-refresh-interval", Number, "30000", NO_PROXY),
    moot("proxy-dial-timeout", Number, "1000", NO_PROXY),
    moot("proxy-write-timeout", Number, "5000", NO_PROXY),
    moot("proxy-read-timeout", Number, "0", NO_PROXY),
    missing_but("discovery", Text, "", &[], NO_V2_DISCOVERY),
    missing_but("discovery-proxy", Text, "", &[], NO_V2_DISCOVERY),
    renamed("experimental-backend-bbolt-freelist-type", Text, "backend-bbolt-freelist-type"),
    renamed(
        "experimental-bootstrap-defrag-threshold-megabytes",
        Number,
        "bootstrap-defrag-threshold-megabytes",
    ),
    gate("experimental-compact-hash-check-enabled", "CompactHashCheck"),
    renamed("experimental-compact-hash-check-time", Duration, "compact-hash-check-time"),
    renamed("experimental-compaction-batch-limit", Number, "compaction-batch-limit"),
    renamed("experimental-compaction-sleep-interval", Duration, "compaction-sleep-interval"),
    renamed("experimental-corrupt-check-time", Duration, "corrupt-check-time"),
    renamed("experimental-distributed-tracing-address", Text, "distributed-tracing-address"),
    renamed("experimental-distributed-tracing-instance-id", Text, "distributed-tracing-instance-id"),
    renamed("experimental-distributed-tracing-sampling-rate", Number, "distributed-tracing-sampling-rate"),
    renamed("experimental-distributed-tracing-service-name", Text, "distributed-tracing-service-name"),
    renamed("experimental-downgrade-check-time", Duration, "downgrade-check-time"),
    renamed("experimental-enable-distributed-tracing", Bool, "enable-distributed-tracing"),
    gate("experimental-enable-lease-checkpoint", "LeaseCheckpoint"),
    gate("experimental-enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
    gate("experimental-initial-corrupt-check", "InitialCorruptCheck"),
    renamed("experimental-max-learners", Number, "max-learners"),
    renamed("experimental-memory-mlock", Bool, "memory-mlock"),
    renamed("experimental-peer-skip-client-san-verification", Bool, "peer-skip-client-san-verification"),
    renamed("experimental-snapshot-catchup-entries", Number, "snapshot-catchup-entries"),
    gate("experimental-stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
    gate("experimental-txn-mode-write-with-shared-buffer", "TxnModeWriteWithSharedBuffer"),
    moot("experimental-wait-cluster-ready-timeout", Duration, "5s", WAITS_ANYWAY),
    renamed("experimental-warning-apply-duration", Duration, "warning-apply-duration"),
    renamed("experimental-warning-unary-request-duration", Duration, "warning-unary-request-duration"),
    renamed("experimental-watch-progress-notify-interval", Duration, "watch-progress-notify-interval"),
];
