//! Limits on what clients may ask for and keep.

use super::flag::Kind::{Bool, Duration, Number};
use super::flag::{Flag, Group, used};

/// In the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) static FLAGS: &[Flag] = &[
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
];
