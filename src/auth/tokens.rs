//! Simple tokens: what a member knows of who has logged in.
//!
//! A token is sixteen letters, a dot, and the index of the log entry that brought it to all members. The log and the
//! table have a digest in the place of the letters, which only the client is told: whoever reads a log or a member's
//! memory cannot use what is found there. Each member keeps its own table in memory, and a token lives as long as it is used: `ttl_ms` from its last use at this
//! member. A member that starts anew knows none; clients log in again then, as with etcd.
//!
//! Cost: O(log tokens) each; a token takes about 150 bytes.
//! Compatibility: form and lifetime of etcd's simple tokens. The same token twice, which ends etcd, counts once.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// Letters of a token before its dot.
pub const TOKEN_PREFIX_LETTERS: usize = 16;

/// A token that was brought by the log entry at `index`.
#[must_use]
pub fn token_text(prefix: &str, index: u64) -> String {
    format!("{prefix}.{index}")
}

/// Letters that stand for those of a token, which they do not tell: 91 bits of SHA-256.
#[must_use]
pub fn prefix_digest(prefix: &str) -> String {
    let digest = Sha256::digest(prefix);
    let letter = |pair: &[u8]| {
        let drawn = (u16::from(pair[0]) << 8 | u16::from(pair[1])) % 52;
        let letter = u8::try_from(drawn % 26).expect("less than 26");
        char::from(if drawn < 26 { b'a' + letter } else { b'A' + letter })
    };
    digest.chunks_exact(2).map(letter).collect()
}

/// The index that a token names; `None` for what is no simple token.
#[must_use]
pub fn token_index(token: &[u8]) -> Option<u64> {
    parts(token).map(|(_, index)| index)
}

fn parts(token: &[u8]) -> Option<(&str, u64)> {
    let token = std::str::from_utf8(token).ok()?;
    let (prefix, index) = token.split_once('.')?;
    let is_prefix = prefix.len() == TOKEN_PREFIX_LETTERS && prefix.bytes().all(|b| b.is_ascii_alphabetic());
    // `parse` takes a plus sign.
    let is_index = index.bytes().all(|b| b.is_ascii_digit());
    if is_prefix && is_index { Some((prefix, index.parse().ok()?)) } else { None }
}

/// A token's user, and its end unless it is used before.
struct Known {
    user: String,
    until_ms: u64,
}

/// The tokens that a member knows, by their digests.
pub struct Tokens {
    ttl_ms: u64,
    known: BTreeMap<Box<str>, Known>,
}

impl std::fmt::Debug for Tokens {
    // Who can read a token can use it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("count", &self.known.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Tokens that live for so long without being used.
    #[must_use]
    pub fn new(ttl_ms: u64) -> Self {
        Self { ttl_ms, known: BTreeMap::new() }
    }

    /// A user has logged in. The digest is a token's text with `prefix_digest` of its letters.
    pub fn insert(&mut self, digest: &str, user: &str, now_ms: u64) {
        let until_ms = now_ms.saturating_add(self.ttl_ms);
        self.known.insert(digest.into(), Known { user: user.into(), until_ms });
    }

    /// The user of a token, which is used by that.
    pub fn use_token(&mut self, token: &[u8], now_ms: u64) -> Option<&str> {
        let (prefix, index) = parts(token)?;
        let digest = token_text(&prefix_digest(prefix), index);
        let known = self.known.get_mut(&*digest).filter(|known| now_ms < known.until_ms)?;
        known.until_ms = now_ms.saturating_add(self.ttl_ms);
        Some(&known.user)
    }

    /// The user is gone, or has another password.
    pub fn remove_user(&mut self, user: &str) {
        self.known.retain(|_, known| known.user != user);
    }

    /// Rights are not asked for any more.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// Forgets what nobody has used for too long. O(tokens); once a second is enough.
    pub fn sweep(&mut self, now_ms: u64) {
        self.known.retain(|_, known| now_ms < known.until_ms);
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_index_and_nothing_else_does() {
        let prefix = "abcdefghijKLMNOP";
        assert_eq!(token_index(token_text(prefix, 77).as_bytes()), Some(77));
        let max = token_text(prefix, u64::MAX);
        assert_eq!(token_index(max.as_bytes()), Some(u64::MAX));
        for wrong in [
            "",
            ".",
            "abcdefghijKLMNOP",
            "abcdefghijKLMNOP.",
            "abcdefghijKLMNOP.+7",
            "abcdefghijKLMNOP.-7",
            "abcdefghijKLMNOP.7.7",
            "abcdefghijKLMN0P.7",
            "short.7",
            "abcdefghijKLMNOP.18446744073709551616",
            "abcdefghijKLMNOP. 7",
            "abcdefghijKLMNO\u{e9}.7",
        ] {
            assert_eq!(token_index(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(token_index(b"abcdefghijKLMNO\xff.7"), None);
    }

    #[test]
    fn token_lives_while_it_is_used_and_ends_with_its_user() {
        let mut tokens = Tokens::new(1_000);
        let prefix = "abcdefghijKLMNOP";
        let [a, b] = [7, 8].map(|index| token_text(prefix, index).into_bytes());
        for (index, user) in [(7, "alice"), (8, "bob")] {
            tokens.insert(&token_text(&prefix_digest(prefix), index), user, 0);
        }
        assert_eq!(tokens.use_token(&a, 999), Some("alice"));
        assert_eq!(tokens.use_token(&a, 1_998), Some("alice"));
        assert_eq!(tokens.use_token(&b, 1_000), None, "nobody used it");
        tokens.sweep(1_998);
        assert_eq!(tokens.len(), 1);
        tokens.remove_user("alice");
        assert_eq!(tokens.use_token(&a, 1_999), None);
        assert!(tokens.is_empty());
    }

    #[test]
    fn what_the_log_and_the_table_hold_is_no_token() {
        let prefix = "abcdefghijKLMNOP";
        let digest = token_text(&prefix_digest(prefix), 7);
        assert_eq!(digest, "CheFJxccoocXPZnM.7");
        let mut tokens = Tokens::new(1_000);
        tokens.insert(&digest, "alice", 0);
        assert_eq!(tokens.use_token(digest.as_bytes(), 0), None);
        assert_eq!(tokens.use_token(b"abcdefghijKLMNOP.8", 0), None);
        assert_eq!(tokens.use_token(b"abcdefghijKLMNOP.7", 0), Some("alice"));
    }

    #[test]
    fn no_token_is_shown() {
        let mut tokens = Tokens::new(1);
        tokens.insert("secret.7", "alice", 0);
        assert_eq!(format!("{tokens:?}"), "Tokens { count: 1, .. }");
    }
}
