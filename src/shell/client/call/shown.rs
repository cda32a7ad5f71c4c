//! What a call shows of who makes it, and the login that the connection's last call had.
//!
//! The next call is likely to show the same token or certificate. Then it needs no copy of it, no hash and no look-up.
//! What is remembered here says nothing that the shard would not say itself: it holds at one auth revision, and no longer
//! than the shard's own knowledge.
//!
//! A token is compared in a time that tells nothing of where it differs: calls of several users may come on one connection,
//! through a proxy.
//! Bounded: one token of `KEPT_BYTES_MAX` a connection; a longer one is looked up at each call.

use std::cell::RefCell;
use std::hint::black_box;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::bearer;
use crate::request::Login;
use crate::rpc::headers::Credential;

/// A token as a call shows it, in bytes at most. Those that this server gives out are far shorter.
pub(in crate::shell::client) const TOKEN_BYTES_MAX: usize = 16 << 10;

/// A JSON web token of etcd's has some 500 to 1,000 bytes.
const KEPT_BYTES_MAX: usize = 2 << 10;

/// What shows who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell::client) enum Shown {
    Token(Rc<Token>),
    /// The common name in the client's certificate.
    Certificate(Bytes),
}

/// A token, and where it comes from.
#[derive(PartialEq, Eq)]
pub(in crate::shell::client) struct Token {
    pub(super) text: Bytes,
    pub(super) address: Option<IpAddr>,
}

impl std::fmt::Debug for Token {
    // Who can read a token can use it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The last call's. See the module.
#[derive(Default)]
pub(in crate::shell::client) struct LastShown(RefCell<Option<Seen>>);

struct Seen {
    shown: Shown,
    /// The field that it came in, if that was shown by its place in the connection's table of headers.
    credential: Option<Rc<Credential>>,
    /// None: the token names nobody.
    login: Option<Arc<Login>>,
    revision: u64,
    /// On the shard's clock.
    until_ms: u64,
}

/// Compares in the same time wherever they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && black_box(a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

impl LastShown {
    /// The same of a field that was shown by its place in the connection's table of headers. One that was shown last needs
    /// no look at its bytes.
    pub(super) fn credential(&self, credential: &Rc<Credential>, address: Option<IpAddr>) -> Shown {
        let is_it =
            |seen: &&mut Seen| seen.credential.as_ref().is_some_and(|last| Rc::ptr_eq(last, credential));
        if let Some(seen) = self.0.borrow_mut().as_mut().filter(is_it) {
            return seen.shown.clone();
        }
        let shown = self.token(bearer(&credential.value), address);
        if let Some(seen) = self.0.borrow_mut().as_mut().filter(|seen| seen.shown == shown) {
            seen.credential = Some(Rc::clone(credential));
        }
        shown
    }

    /// A token that a client at this address shows.
    pub(super) fn token(&self, token: &[u8], address: Option<IpAddr>) -> Shown {
        if let Some(Seen { shown: shown @ Shown::Token(last), .. }) = &*self.0.borrow()
            && is_same(&last.text, token)
        {
            return shown.clone();
        }
        // One longer than any that is given out need not be kept to be refused: an empty one is no better.
        let is_kept = token.len() <= TOKEN_BYTES_MAX;
        let text = if is_kept { Bytes::copy_from_slice(token) } else { Bytes::new() };
        Shown::Token(Rc::new(Token { text, address }))
    }

    /// The name in the connection's certificate, which is always the same.
    pub(super) fn certificate(&self, name: &str) -> Shown {
        match &*self.0.borrow() {
            Some(Seen { shown: shown @ Shown::Certificate(_), .. }) => shown.clone(),
            _ => Shown::Certificate(Bytes::copy_from_slice(name.as_bytes())),
        }
    }

    /// The login of what `token` or `certificate` gave, if it still holds.
    pub(super) fn recall(&self, shown: &Shown, revision: u64, now_ms: u64) -> Option<Option<Arc<Login>>> {
        // The same place in memory: the bytes were compared when they were taken from here.
        let is_it = |a: &Bytes, b: &Bytes| a.as_ptr() == b.as_ptr() && a.len() == b.len();
        let seen = self.0.borrow();
        let seen = seen.as_ref()?;
        let is_it = match (&seen.shown, shown) {
            (Shown::Token(last), Shown::Token(now)) => Rc::ptr_eq(last, now),
            (Shown::Certificate(last), Shown::Certificate(now)) => is_it(last, now),
            _ => false,
        };
        (is_it && seen.revision == revision && now_ms < seen.until_ms).then(|| seen.login.clone())
    }

    /// What the shard knows of what was shown, at an auth revision and until a time.
    pub(super) fn remember(&self, shown: &Shown, login: Option<Arc<Login>>, revision: u64, until_ms: u64) {
        let is_kept = !matches!(shown, Shown::Token(token) if KEPT_BYTES_MAX < token.text.len());
        let seen = || Seen { shown: shown.clone(), credential: None, login, revision, until_ms };
        self.0.replace(is_kept.then(seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(name: &str) -> Option<Arc<Login>> {
        Some(Arc::new(Login { name: name.to_owned().into(), revision: 7 }))
    }

    #[test]
    fn the_last_login_holds_for_the_same_bytes_at_its_revision_and_in_its_time_only() {
        let last = LastShown::default();
        let first = last.token(b"abc.1", None);
        assert_eq!(last.recall(&first, 7, 0), None);
        last.remember(&first, login("alice"), 7, 100);
        for (shown, revision, now_ms, is_known) in [
            (&b"abc.1"[..], 7, 99, true),
            (b"abc.1", 7, 0, true),
            (b"abc.1", 8, 99, false),
            (b"abc.1", 6, 99, false),
            (b"abc.1", 7, 100, false),
            (b"abc.2", 7, 99, false),
            (b"abc.", 7, 99, false),
            (b"abc.10", 7, 99, false),
            (b"Abc.1", 7, 99, false),
            (b"", 7, 99, false),
        ] {
            let shown = last.token(shown, None);
            assert_eq!(last.recall(&shown, revision, now_ms).is_some(), is_known, "{shown:?} at {revision}");
        }
        // A name is no token, though it has the same bytes.
        assert_eq!(last.recall(&last.certificate("abc.1"), 7, 0), None);
        last.remember(&last.token(b"other", None), None, 7, 100);
        assert_eq!(last.recall(&first, 7, 0), None, "another was shown since");
        assert_eq!(last.recall(&last.token(b"other", None), 7, 0), Some(None));
    }

    #[test]
    fn a_field_that_is_shown_again_is_the_same_token_and_another_field_is_not() {
        let last = LastShown::default();
        let field = |value: &'static str| {
            Rc::new(Credential { name: "authorization".into(), value: Bytes::from_static(value.as_bytes()) })
        };
        let (alice, bob) = (field("Bearer abc.1"), field("abc.2"));
        let shown = last.credential(&alice, None);
        last.remember(&shown, login("alice"), 7, 100);
        for _ in 0..3 {
            assert_eq!(last.recall(&last.credential(&alice, None), 7, 0), Some(login("alice")));
            // As a header of its own it is the same token.
            assert_eq!(last.recall(&last.token(b"abc.1", None), 7, 0), Some(login("alice")));
            assert_eq!(last.recall(&last.credential(&bob, None), 7, 0), None);
        }
        last.remember(&last.credential(&bob, None), login("bob"), 7, 100);
        assert_eq!(last.recall(&last.credential(&alice, None), 7, 0), None);
        assert_eq!(last.recall(&last.credential(&bob, None), 7, 0), Some(login("bob")));
    }

    #[test]
    fn a_token_that_is_shown_again_is_not_copied_and_a_long_one_is_not_kept() {
        let last = LastShown::default();
        let text = |shown: &Shown| match shown {
            Shown::Token(token) => token.text.clone(),
            Shown::Certificate(name) => name.clone(),
        };
        let first = last.token(b"abc.1", None);
        last.remember(&first, login("alice"), 7, 100);
        assert_eq!(text(&last.token(b"abc.1", None)).as_ptr(), text(&first).as_ptr());
        let long = last.token(&vec![b'x'; KEPT_BYTES_MAX + 1], None);
        last.remember(&long, login("alice"), 7, 100);
        assert_eq!(last.recall(&long, 7, 0), None);
        assert!(text(&last.token(&vec![b'x'; TOKEN_BYTES_MAX + 1], None)).is_empty());
        last.remember(&last.certificate("alice"), login("alice"), 7, 100);
        assert!(last.recall(&last.certificate("alice"), 7, 0).is_some());
    }
}
