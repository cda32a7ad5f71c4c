//! `--cipher-suites`: the names of Go's cipher suites, and which of them this member can speak.
//!
//! Operators copy lists for etcd and Kubernetes, so a name that Go knows is taken: if it cannot be spoken here it is
//! left out with a warning, as long as one remains. A name that nobody knows is refused.

use super::parse::{Refused, Settings};

/// A suite, by its number of IANA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSuite(pub u16);

/// How far a suite is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Yes,
    /// One of TLS 1.3, which the flag is not about.
    Always,
    /// CBC, RC4, 3DES, or a key exchange without forward secrecy.
    No,
}

use Spoken::{Always, No, Yes};

/// Go's names, and its two older ones.
static SUITES: [(&str, u16, Spoken); 27] = [
    ("TLS_AES_128_GCM_SHA256", 0x1301, Always),
    ("TLS_AES_256_GCM_SHA384", 0x1302, Always),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x1303, Always),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0xc02b, Yes),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 0xc02c, Yes),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca9, Yes),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", 0xcca9, Yes),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0xc02f, Yes),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 0xc030, Yes),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca8, Yes),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", 0xcca8, Yes),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", 0xc009, No),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", 0xc00a, No),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", 0xc013, No),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", 0xc014, No),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", 0xc023, No),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", 0xc027, No),
    ("TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", 0xc007, No),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", 0xc011, No),
    ("TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", 0xc012, No),
    ("TLS_RSA_WITH_RC4_128_SHA", 0x0005, No),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", 0x000a, No),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", 0x002f, No),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", 0x0035, No),
    ("TLS_RSA_WITH_AES_128_CBC_SHA256", 0x003c, No),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", 0x009c, No),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", 0x009d, No),
];

/// The suites of TLS 1.2 that may be used, None: all; and names that are left out.
pub(super) fn read(settings: &Settings) -> Result<(Option<Vec<CipherSuite>>, Vec<&'static str>), Refused> {
    let flag = "cipher-suites";
    if settings.text(flag).is_empty() {
        return Ok((None, Vec::new()));
    }
    let (mut suites, mut left_out, mut has_current) = (Vec::new(), Vec::new(), false);
    for name in settings.text(flag).split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match SUITES.iter().find(|(known, ..)| *known == name) {
            None => return Err(settings.invalid(flag, &format!("unexpected TLS cipher suite {name:?}"))),
            Some((_, number, Yes)) => suites.push(CipherSuite(*number)),
            // Whoever lists none of TLS 1.2 gets none of them, as with Go.
            Some((_, _, Always)) => has_current = true,
            Some((known, _, No)) => left_out.push(*known),
        }
    }
    if suites.is_empty() && !has_current {
        return Err(settings.invalid(
            flag,
            "none of these can be used here: CBC, RC4, 3DES and key exchange without forward secrecy are not spoken",
        ));
    }
    Ok((Some(suites), left_out))
}
