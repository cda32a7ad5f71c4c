//! Certificates, users and tokens.

use super::flag::Kind::{Bool, Number, Text};
use super::flag::{Flag, Group, moot, used};
use crate::config::reasons::NO_GATEWAY_CLIENT;

/// In the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) static FLAGS: &[Flag] = &[
    used(
        Group::Security,
        "cert-file",
        Text,
        "",
        "Certificate in PEM, with those between it and the CA behind it, that clients are shown at \
        https URLs of --listen-client-urls, --listen-client-http-urls and --listen-metrics-urls. It, \
        its key, the CA and the list of revoked ones are read again when they change: new \
        connections use the new ones, open ones go on, and a file that cannot be used leaves the old \
        in use, with a line in the log.",
    ),
    used(
        Group::Security,
        "key-file",
        Text,
        "",
        "Its private key in PEM, not encrypted: RSA of 2048 bits or more, ECDSA on P-256, P-384 or \
        P-521, or Ed25519.",
    ),
    moot("client-cert-file", Text, "", NO_GATEWAY_CLIENT),
    moot("client-key-file", Text, "", NO_GATEWAY_CLIENT),
    used(
        Group::Security,
        "client-cert-auth",
        Bool,
        "false",
        "Clients at https URLs must show a certificate that --trusted-ca-file, or else this host, \
        believes. Where rights are asked for, its common name is the user of calls without a token; \
        not of calls through the JSON gateway, as in etcd.",
    ),
    used(
        Group::Security,
        "trusted-ca-file",
        Text,
        "",
        "Certificates in PEM whose holders are believed to sign those of clients. Given, clients must \
        show one even without --client-cert-auth.",
    ),
    used(
        Group::Security,
        "client-crl-file",
        Text,
        "",
        "List in DER of certificates of clients that are not believed any more. A serial number in it \
        counts whoever issued the certificate, and neither signature nor dates of the list are \
        looked at, as in etcd.",
    ),
    used(
        Group::Security,
        "client-cert-allowed-hostname",
        Text,
        "",
        "Names with commas between them: certificates of clients have to be for one. Empty: for any.",
    ),
    used(
        Group::Security,
        "auto-tls",
        Bool,
        "false",
        "Without --cert-file: make a certificate that signs itself, in fixtures/client of --data-dir, \
        and use it from then on. It encrypts, and proves nothing to a client that was not given it.",
    ),
    used(
        Group::Security,
        "peer-cert-file",
        Text,
        "",
        "Certificate in PEM that other members are shown, at https URLs of --listen-peer-urls and \
        where they are dialed; so it is for servers and for clients (extended key usage). Read again \
        when it changes, as --cert-file.",
    ),
    used(Group::Security, "peer-key-file", Text, "", "Its private key."),
    used(
        Group::Security,
        "peer-client-cert-file",
        Text,
        "",
        "Another one for members that are dialed. Empty: --peer-cert-file.",
    ),
    used(Group::Security, "peer-client-key-file", Text, "", "Its private key."),
    used(
        Group::Security,
        "peer-client-cert-auth",
        Bool,
        "false",
        "Members that dial must show a certificate that --peer-trusted-ca-file, or else this host, \
        believes. Without it whoever reaches the port can take part in the cluster, encrypted or \
        not.",
    ),
    used(
        Group::Security,
        "peer-trusted-ca-file",
        Text,
        "",
        "Certificates in PEM whose holders are believed to sign those of members, in both directions. \
        Given, members must show one even without --peer-client-cert-auth. Empty: those that this \
        host believes.",
    ),
    used(
        Group::Security,
        "peer-crl-file",
        Text,
        "",
        "List of members' certificates that are not believed any more, as --client-crl-file.",
    ),
    used(
        Group::Security,
        "peer-cert-allowed-cn",
        Text,
        "",
        "Common names with commas between them: a member's certificate has to have one. Empty: any. \
        Not together with --peer-cert-allowed-hostname.",
    ),
    used(
        Group::Security,
        "peer-cert-allowed-hostname",
        Text,
        "",
        "Names with commas between them: a member's certificate has to be for one. Empty: any.",
    ),
    used(
        Group::Security,
        "peer-skip-client-san-verification",
        Bool,
        "false",
        "Do not ask whether the certificate of a member that dials is for the address that it comes \
        from, for members behind address translation.",
    ),
    used(
        Group::Security,
        "peer-auto-tls",
        Bool,
        "false",
        "Without --peer-cert-file: make a certificate that signs itself, in fixtures/peer of --data- \
        dir. Connections between members are encrypted then, and nobody is asked who he is.",
    ),
    used(
        Group::Security,
        "self-signed-cert-validity",
        Number,
        "1",
        "Years of 365 days that a certificate of --auto-tls or --peer-auto-tls is valid. After them \
        delete its directory and start again.",
    ),
    used(
        Group::Security,
        "cipher-suites",
        Text,
        "",
        "Cipher suites of TLS 1.2 with commas between them, by Go's names. Those of Go that are not \
        spoken here (CBC, RC4, 3DES, no forward secrecy) are left out with a warning while one \
        remains; unknown names are refused. Empty: ECDHE with AES-GCM or ChaCha20-Poly1305. Those of \
        TLS 1.3 cannot be chosen.",
    ),
    used(Group::Security, "tls-min-version", Text, "TLS1.2", "TLS1.2 or TLS1.3."),
    used(Group::Security, "tls-max-version", Text, "", "TLS1.2 or TLS1.3. Empty: TLS1.3."),
    used(
        Group::Auth,
        "auth-token",
        Text,
        "simple",
        "What a login gives. simple: a token that members keep in memory. \
        jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m: a JSON web token, which every member \
        with the key takes, and which lives for ttl. Methods: RS, PS, ES or HS with 256, 384 or 512, and \
        EdDSA. Keys in PEM (a public one may be a certificate's); for HS priv-key is the shared secret, \
        each byte of the file. With pub-key alone the member checks tokens and gives none. Whoever has the \
        signing key can be any user. The files are read once, at the start.",
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
