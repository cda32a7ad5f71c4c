//! Certificates, users and tokens.

use super::flag::Kind::{Bool, Number, Text};
use super::flag::{Flag, Group, missing, moot, moot_word, used};
use crate::config::reasons::NO_TLS;

/// In the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) static FLAGS: &[Flag] = &[
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
];
