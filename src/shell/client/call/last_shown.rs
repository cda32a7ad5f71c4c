//! The login that a connection's last call had.
//!
//! The next call is likely to show the same token or certificate. Then it needs no copy of it, no hash and no look-up.
//! What is remembered here says nothing that the shard would not say itself: it holds at one auth revision, and no longer
//! than the shard's own knowledge.
//!
//! A token is compared in a time that tells nothing of where it differs: calls of several users may come on one connection,
//! through a proxy.
//! Bounded: one token of `TOKEN_BYTES_MAX` a connection; a longer one is looked up at each call.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;

use super::identity::Shown;
use crate::request::Login;

/// A JSON web token of etcd's has some 500 to 1,000 bytes.
const TOKEN_BYTES_MAX: usize = 2 << 10;

/// See the module.
#[derive(Default)]
pub(in crate::shell::client) struct LastShown(RefCell<Option<Seen>>);

struct Seen {
    shown: Shown,
    /// None: the token names nobody.
    login: Option<Arc<Login>>,
    revision: u64,
    /// On the shard's clock.
    until_ms: u64,
}

/// What compares equal in the same time wherever it differs.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && black_box(a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

impl LastShown {
    /// The token, if it was the last one.
    pub(super) fn token(&self, token: &[u8]) -> Option<Shown> {
        match &self.0.borrow().as_ref()?.shown {
            shown @ Shown::Token(last) if is_same(last.text(), token) => Some(shown.clone()),
            _ => None,
        }
    }

    /// The name in the connection's certificate, if it was shown last.
    pub(super) fn certificate(&self) -> Option<Shown> {
        let seen = self.0.borrow();
        seen.as_ref()
            .filter(|seen| matches!(seen.shown, Shown::Certificate(_)))
            .map(|seen| seen.shown.clone())
    }

    /// The login of what `token` or `certificate` gave, if it still holds.
    pub(super) fn recall(&self, shown: &Shown, revision: u64, now_ms: u64) -> Option<Option<Arc<Login>>> {
        // The same bytes in memory: they were compared when they were taken from here.
        let is_it = |a: &Bytes, b: &Bytes| a.as_ptr() == b.as_ptr() && a.len() == b.len();
        let seen = self.0.borrow();
        let seen = seen.as_ref()?;
        let is_it = match (&seen.shown, shown) {
            (Shown::Token(last), Shown::Token(now)) => is_it(last.text(), now.text()),
            (Shown::Certificate(last), Shown::Certificate(now)) => is_it(last, now),
            _ => false,
        };
        (is_it && seen.revision == revision && now_ms < seen.until_ms).then(|| seen.login.clone())
    }

    /// What the shard knows of what was shown, at an auth revision and until a time.
    pub(super) fn remember(&self, shown: &Shown, login: Option<Arc<Login>>, revision: u64, until_ms: u64) {
        let is_kept = !matches!(shown, Shown::Token(token) if TOKEN_BYTES_MAX < token.text().len());
        let seen = || Seen { shown: shown.clone(), login, revision, until_ms };
        self.0.replace(is_kept.then(seen));
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::{Account, Ledger};
    use super::super::identity::token;
    use super::*;

    fn login(name: &str) -> Option<Arc<Login>> {
        Some(Arc::new(Login { name: name.to_owned().into(), revision: 7 }))
    }

    #[test]
    fn the_last_login_holds_for_the_same_bytes_at_its_revision_and_in_its_time_only() {
        let account = Account::new(1, Ledger::default().into());
        let last = &account.last_shown;
        let first = token(b"Bearer abc.1", &account);
        assert_eq!(last.recall(&first, 7, 0), None);
        last.remember(&first, login("alice"), 7, 100);
        for (shown, revision, now_ms, is_known) in [
            (&b"abc.1"[..], 7, 99, true),
            (b"Bearer abc.1", 7, 0, true),
            (b"abc.1", 8, 99, false),
            (b"abc.1", 6, 99, false),
            (b"abc.1", 7, 100, false),
            (b"abc.2", 7, 99, false),
            (b"abc.", 7, 99, false),
            (b"abc.10", 7, 99, false),
            (b"Abc.1", 7, 99, false),
            (b"", 7, 99, false),
            (b"bearer abc.1", 7, 99, false),
        ] {
            let shown = token(shown, &account);
            assert_eq!(last.recall(&shown, revision, now_ms).is_some(), is_known, "{shown:?} at {revision}");
        }
        // A name is no token, though it has the same bytes.
        assert_eq!(last.recall(&Shown::Certificate("abc.1".into()), 7, 0), None);
        assert!(last.certificate().is_none());
        last.remember(&token(b"other", &account), None, 7, 100);
        assert_eq!(last.recall(&first, 7, 0), None, "another was shown since");
        assert_eq!(last.recall(&token(b"other", &account), 7, 0), Some(None));
    }

    #[test]
    fn a_token_that_is_shown_again_is_not_copied_and_a_long_one_is_not_kept() {
        let account = Account::new(1, Ledger::default().into());
        let text = |shown: &Shown| match shown {
            Shown::Token(token) => token.text().clone(),
            Shown::Certificate(name) => name.clone(),
        };
        let first = token(b"abc.1", &account);
        account.last_shown.remember(&first, login("alice"), 7, 100);
        assert_eq!(text(&token(b"abc.1", &account)).as_ptr(), text(&first).as_ptr());
        let long = vec![b'x'; TOKEN_BYTES_MAX + 1];
        account.last_shown.remember(&token(&long, &account), login("alice"), 7, 100);
        assert!(account.last_shown.token(&long).is_none());
        account.last_shown.remember(&Shown::Certificate("alice".into()), login("alice"), 7, 100);
        let name = account.last_shown.certificate().unwrap();
        assert!(account.last_shown.recall(&name, 7, 0).is_some());
    }
}
