//! The flags of `grpc-proxy start`, one table: what reads them is `grpc_proxy`.

use super::reasons::NO_PROFILES;

/// Kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    Number,
    Duration,
}

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Read here.
    Own,
    /// Passed on to the member's rules, under this name.
    Front(&'static str),
    /// Refused unless it asks for nothing; why.
    Refused(&'static str),
}

/// One flag.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) used: Use,
    pub(super) about: &'static str,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, used: Use, about: &'static str) -> Flag {
    Flag { name, kind, default, used, about }
}

use Kind::{Bool, Duration as Time, Number, Text};
use Use::{Front, Own, Refused as Not};

/// The reason where there is no other.
const NOT_YET: &str = "it is not built yet";

/// All of them.
pub(super) static FLAGS: &[Flag] = &[
    flag("listen-addr", Text, "127.0.0.1:23790", Own, "where clients come: gRPC, JSON and pages on one port"),
    flag("metrics-addr", Text, "", Front("listen-metrics-urls"), "URLs that have health and metrics alone"),
    flag(
        "max-concurrent-streams",
        Number,
        "4294967295",
        Front("max-concurrent-streams"),
        "calls of one connection",
    ),
    flag(
        "grpc-keepalive-min-time",
        Time,
        "5s",
        Front("grpc-keepalive-min-time"),
        "clients may ping this often",
    ),
    flag(
        "grpc-keepalive-interval",
        Time,
        "2h",
        Front("grpc-keepalive-interval"),
        "a silent client is pinged after this",
    ),
    flag("grpc-keepalive-timeout", Time, "20s", Front("grpc-keepalive-timeout"), "and let go after this"),
    flag(
        "endpoints",
        Text,
        "127.0.0.1:2379",
        Own,
        "members, with commas between them; without a scheme: by TLS if one of its flags is given",
    ),
    flag(
        "dial-keepalive-time",
        Time,
        "0s",
        Own,
        "a member that says nothing while calls are under way is pinged after this; 0: 10s",
    ),
    flag("dial-keepalive-timeout", Time, "20s", Own, "and its calls end after this"),
    flag("permit-without-stream", Bool, "false", Own, "ping members also while no calls are under way"),
    flag("max-send-bytes", Number, "1572864", Own, "of a request to a member"),
    flag("max-recv-bytes", Number, "2147483647", Own, "of an answer of a member"),
    flag(
        "cert",
        Text,
        "",
        Own,
        "certificate that members are shown; it names nobody (no CN), as it speaks for all clients",
    ),
    flag("key", Text, "", Own, "its private key"),
    flag("cacert", Text, "", Own, "whom members' certificates are verified by"),
    flag("insecure-skip-tls-verify", Bool, "false", Own, "believe whoever answers as a member"),
    flag("cert-file", Text, "", Front("cert-file"), "certificate that clients are shown"),
    flag("key-file", Text, "", Front("key-file"), "its private key"),
    flag("trusted-ca-file", Text, "", Front("trusted-ca-file"), "clients must show a certificate of these"),
    flag("client-crl-file", Text, "", Front("client-crl-file"), "and none of these"),
    flag(
        "auto-tls",
        Bool,
        "false",
        Front("auto-tls"),
        "make a certificate for clients that signs itself, in fixtures/proxy of --data-dir",
    ),
    flag("self-signed-cert-validity", Number, "1", Front("self-signed-cert-validity"), "its life, in years"),
    flag("listen-cipher-suites", Text, "", Front("cipher-suites"), "of TLS 1.2, for clients"),
    flag("tls-min-version", Text, "TLS1.2", Front("tls-min-version"), "the oldest that is spoken"),
    flag("tls-max-version", Text, "", Front("tls-max-version"), "the newest"),
    flag("data-dir", Text, "default.proxy", Own, "where --auto-tls keeps its certificate"),
    flag(
        "advertise-client-url",
        Text,
        "127.0.0.1:23790",
        Own,
        "where clients are told to come who ask for members; empty: they are told of the members",
    ),
    flag(
        "resolver-prefix",
        Text,
        "",
        Own,
        "register under this prefix; clients that ask for members are told of all proxies there",
    ),
    flag("resolver-ttl", Number, "0", Own, "seconds after which a proxy that is gone is registered no more"),
    flag("debug", Bool, "false", Own, "say more in the log"),
    flag(
        "experimental-serializable-ordering",
        Bool,
        "false",
        Own,
        "no answer to a read is older than one that any client had before, whichever member gives it",
    ),
    flag("namespace", Text, "", Not(NOT_YET), "a prefix of all keys"),
    flag(
        "endpoints-auto-sync-interval",
        Time,
        "0s",
        Not(NOT_YET),
        "how often members are asked for their list",
    ),
    flag("discovery-srv", Text, "", Not(NOT_YET), "ask DNS for the members"),
    flag("discovery-srv-name", Text, "", Not(NOT_YET), "by this name"),
    flag("insecure-discovery", Bool, "false", Not(NOT_YET), "believe it"),
    flag("experimental-enable-grpc-logging", Bool, "false", Not(NOT_YET), "log every call"),
    flag(
        "experimental-leasing-prefix",
        Text,
        "",
        Not("leases of keys are broken by every writer that does not use them"),
        "leases of keys",
    ),
    flag("enable-pprof", Bool, "false", Not(NO_PROFILES), "profiles"),
];

/// The names, for the table of commands.
pub(super) static NAMES: [&str; FLAGS.len()] = {
    let mut names = [""; FLAGS.len()];
    let mut at = 0;
    while at < FLAGS.len() {
        names[at] = FLAGS[at].name;
        at += 1;
    }
    names
};
