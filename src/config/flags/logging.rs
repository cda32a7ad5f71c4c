//! Logs, metrics and tracing.

use super::flag::Kind::{Bool, Duration, Number, Text};
use super::flag::{Flag, Group, missing_but, moot, used};
use crate::config::reasons::{NO_PROFILES, NO_TRACING};

/// In the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) static FLAGS: &[Flag] = &[
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
];
