//! `--auth-token`, `--auth-token-ttl`, `--bcrypt-cost`: how logins are shown and passwords are kept.
//!
//! Syntax, keys and texts of `--auth-token` are etcd's: a kind, and behind commas `key=value`, each key once. A key that
//! nobody knows is told in a warning, as there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::parse::{Refused, Settings};
use super::value;

const TOKEN: &str = "auth-token";

/// What etcd takes for a TTL that is not positive.
const TTL_DEFAULT: Duration = Duration::from_secs(300);

const INVALID_OPTIONS: &str = "auth: invalid auth options";
const INVALID_METHOD: &str = "auth: invalid auth options: auth: invalid auth signature method";
const MISSING_KEY: &str = "auth: missing key data";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    pub tokens: TokenConfig,
    /// Of a simple token, from its last use on.
    pub token_ttl: Duration,
    pub bcrypt_cost: u32,
}

/// What a login gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenConfig {
    /// A token that members keep in memory.
    Simple,
    /// A JSON web token, which says itself whose it is.
    Jwt(JwtConfig),
}

/// The keys and the method of JSON web tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    pub method: SignMethod,
    /// Signs; or the shared secret of HMAC. None: this member only checks tokens.
    pub private_key: Option<PathBuf>,
    /// Checks. None: the private key's own.
    pub public_key: Option<PathBuf>,
    /// Of a token, from its making on.
    pub ttl: Duration,
    /// Keys that mean nothing.
    unknown: Vec<String>,
}

/// How tokens are signed, by the names of RFC 7518 and RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignMethod {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl SignMethod {
    /// All of them, which are etcd's.
    pub const ALL: [Self; 13] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The name in a token's header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Whether one secret both signs and checks.
    #[must_use]
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

impl AuthConfig {
    pub(super) fn read(settings: &Settings) -> Result<Self, Refused> {
        let token_ttl = match settings.number("auth-token-ttl", 0, u64::from(u32::MAX))? {
            0 => TTL_DEFAULT,
            seconds => Duration::from_secs(seconds),
        };
        // etcd reads it when the server starts, so the command line is in order.
        let tokens = read_tokens(settings.text(TOKEN))
            .map_err(|reason| Refused { exit_code: 1, ..settings.invalid(TOKEN, &reason) })?;
        Ok(Self { tokens, token_ttl, bcrypt_cost: settings.number_u32("bcrypt-cost", 4, 31)? })
    }

    /// What is taken, and means nothing.
    pub(super) fn warnings(&self) -> Option<String> {
        match &self.tokens {
            TokenConfig::Jwt(jwt) if !jwt.unknown.is_empty() => {
                Some(format!("--{TOKEN} has unknown JWT options: {}", jwt.unknown.join(", ")))
            }
            TokenConfig::Jwt(_) | TokenConfig::Simple => None,
        }
    }
}

fn read_tokens(text: &str) -> Result<TokenConfig, String> {
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options = BTreeMap::new();
    for part in parts {
        let pair = part.split_once('=').filter(|(_, value)| !value.contains('='));
        let (key, value) = pair.ok_or_else(|| format!("{INVALID_OPTIONS}: {part:?} is not key=value"))?;
        if options.insert(key, value).is_some() {
            return Err(format!("{INVALID_OPTIONS}: {key} is given twice"));
        }
    }
    match kind {
        "simple" | "" => Ok(TokenConfig::Simple),
        "jwt" => Ok(TokenConfig::Jwt(JwtConfig::read(options)?)),
        other => Err(format!("{INVALID_OPTIONS}: {other:?} is neither simple nor jwt")),
    }
}

impl JwtConfig {
    #[must_use]
    pub fn new(
        method: SignMethod,
        private_key: Option<PathBuf>,
        public_key: Option<PathBuf>,
        ttl: Duration,
    ) -> Self {
        Self { method, private_key, public_key, ttl, unknown: Vec::new() }
    }

    fn read(mut options: BTreeMap<&str, &str>) -> Result<Self, String> {
        let name = options.remove("sign-method").unwrap_or_default();
        let method = SignMethod::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| {
            let known = SignMethod::ALL.map(SignMethod::name).join(", ");
            format!("{INVALID_METHOD}: sign-method is {name:?}; expected one of {known}")
        })?;
        let ttl = match options.remove("ttl") {
            Some(text) => {
                value::parse_duration(text).map_err(|reason| format!("{INVALID_OPTIONS}: ttl: {reason}"))?
            }
            None => TTL_DEFAULT,
        };
        if ttl < Duration::from_secs(1) {
            return Err(format!("{INVALID_OPTIONS}: ttl: tokens would be over when they are given out"));
        }
        let mut path = |key| options.remove(key).filter(|path| !path.is_empty()).map(PathBuf::from);
        let (private_key, public_key) = (path("priv-key"), path("pub-key"));
        if private_key.is_none() && (method.is_shared() || public_key.is_none()) {
            let needed = if method.is_shared() { "priv-key" } else { "priv-key or pub-key" };
            return Err(format!("{MISSING_KEY}: {name} needs {needed}"));
        }
        let unknown = options.into_keys().map(str::to_owned).collect();
        Ok(Self { unknown, ..Self::new(method, private_key, public_key, ttl) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(text: &str) -> JwtConfig {
        match read_tokens(text) {
            Ok(TokenConfig::Jwt(jwt)) => jwt,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn options_of_json_web_tokens_are_read_as_etcd_reads_them() {
        assert_eq!(read_tokens("simple"), Ok(TokenConfig::Simple));
        assert_eq!(read_tokens("simple,a=b"), Ok(TokenConfig::Simple));
        let all = jwt("jwt,pub-key=a.pub,priv-key=b c,sign-method=RS256,ttl=10m");
        assert_eq!((all.method, all.ttl), (SignMethod::Rs256, Duration::from_secs(600)));
        assert_eq!((all.public_key, all.private_key), (Some("a.pub".into()), Some("b c".into())));
        let checks = jwt("jwt,sign-method=EdDSA,pub-key=a");
        assert_eq!((checks.private_key, checks.ttl), (None, Duration::from_secs(300)));
        assert_eq!(jwt("jwt,sign-method=HS512,priv-key=s,more=1,x=").unknown, ["more", "x"]);
        for method in SignMethod::ALL {
            assert_eq!(jwt(&format!("jwt,priv-key=a,sign-method={}", method.name())).method, method);
        }
    }

    #[test]
    fn options_that_say_nothing_usable_are_refused_in_the_words_of_etcd() {
        for (text, reason) in [
            ("other", INVALID_OPTIONS),
            ("Simple", INVALID_OPTIONS),
            ("simple,", INVALID_OPTIONS),
            ("simple,a", INVALID_OPTIONS),
            ("jwt", INVALID_METHOD),
            ("jwt,", INVALID_OPTIONS),
            ("jwt,sign-method", INVALID_OPTIONS),
            ("jwt,sign-method=RS256=1", INVALID_OPTIONS),
            ("jwt,sign-method=RS256,sign-method=RS256", INVALID_OPTIONS),
            ("jwt,sign-method=none,priv-key=a", INVALID_METHOD),
            ("jwt,sign-method=rs256,priv-key=a", INVALID_METHOD),
            ("jwt,sign-method=RS256,priv-key=a,ttl=5", INVALID_OPTIONS),
            ("jwt,sign-method=RS256,priv-key=a,ttl=-5m", INVALID_OPTIONS),
            ("jwt,sign-method=RS256,priv-key=a,ttl=10ms", INVALID_OPTIONS),
            ("jwt,sign-method=RS256", MISSING_KEY),
            ("jwt,sign-method=RS256,priv-key=", MISSING_KEY),
            ("jwt,sign-method=HS256,pub-key=a", MISSING_KEY),
        ] {
            let told = read_tokens(text).unwrap_err();
            assert!(told.starts_with(reason), "{text}: {told}");
        }
    }
}
