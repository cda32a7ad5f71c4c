//! `--auth-token`, `--auth-token-ttl`, `--bcrypt-cost`: how logins are shown and passwords are kept.

use std::time::Duration;

use super::parse::{Refused, Settings};

const TOKEN: &str = "auth-token";

/// What etcd takes for a TTL that is not positive.
const TTL_DEFAULT: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Of a simple token, from its last use on.
    pub token_ttl: Duration,
    pub bcrypt_cost: u32,
}

impl AuthConfig {
    pub(super) fn read(settings: &Settings) -> Result<Self, Refused> {
        let token_ttl = match settings.number("auth-token-ttl", 0, u64::from(u32::MAX))? {
            0 => TTL_DEFAULT,
            seconds => Duration::from_secs(seconds),
        };
        if !matches!(settings.text(TOKEN), "simple" | "") {
            return Err(settings.invalid(TOKEN, "JSON web tokens are not supported by Pinion yet"));
        }
        Ok(Self { token_ttl, bcrypt_cost: settings.number_u32("bcrypt-cost", 4, 31)? })
    }
}
