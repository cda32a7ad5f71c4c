//! Tokens that one shard knows to be good, so that few calls have to ask.
//!
//! They are found by a hash whose key only this shard knows, and then compared whole: neither the time that a look-up
//! takes nor a hash that a client has made up tells or opens anything.
//!
//! Bounded in bytes. There are two halves: when the young one is full, the old one is forgotten and the young one is the
//! old one, and a token that is used in the old one moves. So what is in use stays.
//! Cost: a hash of the token and a look-up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::Claims;
use crate::request::Login;

/// Of each half. A simple token counts 150 bytes, a JSON web token some 500 to 1,000: 5,000 of those at least.
const HALF_BYTES: usize = 4 << 20;

/// What one counts besides its text.
const ENTRY_BYTES: usize = 128;

/// What a token is good for, and until when it need not be looked at again.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// None: the token names nobody.
    pub(super) login: Option<Arc<Login>>,
    /// On the shard's clock.
    pub(super) until_ms: u64,
    /// Of a JSON web token, whose times are looked at again then.
    pub(super) claims: Option<Arc<Claims>>,
}

#[derive(Default)]
struct Half {
    known: BTreeMap<u64, (Bytes, Known)>,
    bytes: usize,
}

impl Half {
    fn insert(&mut self, hash: u64, token: Bytes, known: Known) {
        self.bytes += token.len() + ENTRY_BYTES;
        if let Some((replaced, _)) = self.known.insert(hash, (token, known)) {
            self.bytes -= replaced.len() + ENTRY_BYTES;
        }
    }

    fn remove(&mut self, hash: u64) -> Option<(Bytes, Known)> {
        let removed = self.known.remove(&hash)?;
        self.bytes -= removed.0.len() + ENTRY_BYTES;
        Some(removed)
    }
}

/// See the module.
pub(super) struct KnownTokens {
    key: RandomState,
    halves: RefCell<[Half; 2]>,
}

impl Default for KnownTokens {
    fn default() -> Self {
        Self { key: RandomState::new(), halves: RefCell::default() }
    }
}

impl KnownTokens {
    /// What is known of a token.
    pub(super) fn get(&self, token: &[u8]) -> Option<Known> {
        let hash = self.key.hash_one(token);
        let mut halves = self.halves.borrow_mut();
        let [young, old] = &mut *halves;
        let is_it = |entry: &&(Bytes, Known)| entry.0 == token;
        if let Some((_, known)) = young.known.get(&hash).filter(is_it) {
            return Some(known.clone());
        }
        old.known.get(&hash).filter(is_it)?;
        let (token, known) = old.remove(hash).expect("it was found above");
        Self::put(&mut halves, hash, token, known.clone());
        Some(known)
    }

    /// Remembers a token, in the place of what was known of it.
    pub(super) fn insert(&self, token: Bytes, known: Known) {
        let hash = self.key.hash_one(&*token);
        let mut halves = self.halves.borrow_mut();
        halves[1].remove(hash);
        Self::put(&mut halves, hash, token, known);
    }

    fn put(halves: &mut [Half; 2], hash: u64, token: Bytes, known: Known) {
        if HALF_BYTES < halves[0].bytes + token.len() + ENTRY_BYTES {
            halves[1] = std::mem::take(&mut halves[0]);
        }
        halves[0].insert(hash, token, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(until_ms: u64) -> Known {
        Known { login: None, until_ms, claims: None }
    }

    fn bytes(tokens: &KnownTokens) -> usize {
        let halves = tokens.halves.borrow();
        for half in &*halves {
            let sum: usize = half.known.values().map(|(token, _)| token.len() + ENTRY_BYTES).sum();
            assert_eq!(half.bytes, sum);
        }
        halves.iter().map(|half| half.bytes).sum()
    }

    #[test]
    fn a_token_is_known_as_it_was_told_last_and_no_other_is() {
        let tokens = KnownTokens::default();
        tokens.insert("a.b.c".into(), known(1));
        tokens.insert("a.b.c".into(), known(2));
        assert_eq!(tokens.get(b"a.b.c").unwrap().until_ms, 2);
        for other in [&b""[..], b"a.b.", b"a.b.d", b"a.b.cc"] {
            assert!(tokens.get(other).is_none());
        }
        assert_eq!(bytes(&tokens), 5 + ENTRY_BYTES);
    }

    #[test]
    fn memory_is_bounded_and_a_token_in_use_stays() {
        let tokens = KnownTokens::default();
        let used = Bytes::from_static(b"in use");
        tokens.insert(used.clone(), known(7));
        let long = vec![b'x'; 16 << 10];
        for number in 0..2_000_u32 {
            let mut token = long.clone();
            token.extend(number.to_le_bytes());
            tokens.insert(token.into(), known(1));
            assert_eq!(tokens.get(&used).unwrap().until_ms, 7, "after {number}");
            assert!(bytes(&tokens) <= 2 * HALF_BYTES);
        }
        let mut first = long;
        first.extend(0_u32.to_le_bytes());
        assert!(tokens.get(&first).is_none(), "nobody used it");
    }
}
