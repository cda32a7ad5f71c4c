//! What a member knows of users beside the state: tokens in its memory, and the word that tells its shards whether
//! rights are asked for.

use std::time::{Duration, Instant};

use prost::Message as _;

use crate::apply::Machine;
use crate::auth::{AuthChange, Realm, Tokens, token_index};
use crate::pb::peer;
use crate::request::{AuthRejection, Outcome, Response};
use crate::shell::runtime::rights::Rights;
use crate::types::LogIndex;

/// See the module.
pub(super) struct Logins {
    rights: Rights,
    tokens: Tokens,
    began: Instant,
}

impl Logins {
    pub(super) fn new(rights: Rights, token_ttl: Duration, realm: &Realm) -> Self {
        rights.set(realm.is_enabled(), realm.revision());
        let ttl_ms = u64::try_from(token_ttl.as_millis()).unwrap_or(u64::MAX);
        Self { rights, tokens: Tokens::new(ttl_ms), began: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes note of what a request has changed, before anybody is answered about it.
    pub(super) fn on_applied(&mut self, machine: &mut Machine) {
        for change in machine.take_auth_changes() {
            match change {
                AuthChange::Rights => {}
                AuthChange::LoggedIn { user, digest } => self.tokens.insert(&digest, &user, self.now_ms()),
                AuthChange::LoggedOut { user } => self.tokens.remove_user(&user),
                AuthChange::AllLoggedOut => self.tokens.clear(),
            }
            self.rights.set(machine.realm().is_enabled(), machine.realm().revision());
        }
    }

    /// Another state has taken the place of the one that tokens were given out in.
    pub(super) fn on_installed(&mut self, realm: &Realm) {
        self.tokens.clear();
        self.rights.set(realm.is_enabled(), realm.revision());
    }

    /// Forgets what nobody has used for too long.
    pub(super) fn on_idle_tick(&mut self) {
        let now_ms = self.now_ms();
        self.tokens.sweep(now_ms);
    }

    /// `TokenUser`: the user of a token. Of one that a later entry brings, as far as it says itself, the answer
    /// has revision 0: whoever asks must ask again behind everything that is committed.
    pub(super) fn user_of(&mut self, token: &[u8], machine: &Machine, applied: LogIndex) -> Outcome {
        let now_ms = self.now_ms();
        let answer = match self.tokens.use_token(token, now_ms) {
            Some(user) => peer::TokenUser {
                user: user.as_bytes().to_vec().into(),
                revision: machine.realm().revision(),
            },
            None if token_index(token).is_some_and(|index| applied.0 < index) => peer::TokenUser::default(),
            None => return Err(AuthRejection::InvalidToken.into()),
        };
        Ok(Response { body: answer.encode_to_vec(), ..Response::default() })
    }
}
