//! Flags that etcd does not have, and those that only print.

use super::flag::Kind::{Bool, Duration, Number, Text};
use super::flag::{FILE_FLAG, Flag, Group, used};

/// In the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) static FLAGS: &[Flag] = &[
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
        "v2-prefix",
        Text,
        "/",
        "Where the root of the v2 API is among the keys of v3, with --enable-v2: /v2/keys/a is the key /a, or with \
        /apps the key /apps/a. The same for every member.",
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
        "3",
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
];
