//! In whose name a call is made.
//!
//! While rights are not asked for, nobody is looked at. Else a call's token says who makes it: of a token that the
//! shard has seen lately, at the revision of now, it knows the user; for others it asks the store, which keeps this
//! member's tokens. The shard judges nothing: the login goes along with the command, and whoever applies or answers
//! it decides what it may do. Only what the store does not carry out itself is asked of it beforehand (`permit`).
//!
//! Without a token the certificate that the client has shown names the user, where certificates name users. It is a
//! login at the revision of now: what it may do is looked up anyway.
//!
//! Cost: a look-up in a map of the shard for each call; nothing but a load while rights are not asked for.
//! Compatibility: metadata `token` goes before `authorization`; a leading `Bearer ` is cut; a token that is not good is
//! refused, and never passes for none. Calls that come through the gateway have no user by certificate.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::account::Account;
use crate::auth::token_index;
use crate::pb::peer;
use crate::request::{Command, Guarded, Login, Permit, Query, Read};
use crate::rpc::{Status, status};
use crate::shell::client::{Backend, ClientShard};
use crate::shell::runtime::rights::Rights;

/// Tokens that one shard remembers; when there are more, all are asked for again.
const KNOWN_MAX: usize = 16_384;

/// A token is used at the store at least this often, so that the store does not forget one that is in use.
const USE_MS: u64 = 500;

/// A token as a call shows it, in bytes at most. Those that this server gives out are far shorter.
pub(in crate::shell::client) const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What shows who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell::client) enum Shown {
    Token(Bytes),
    /// The common name in the client's certificate.
    Certificate(Bytes),
}

impl Shown {
    /// The name in a connection's certificate, if there is one.
    pub(in crate::shell::client) fn certificate_of(account: &Account) -> Option<Self> {
        account.user().map(|user| Self::Certificate(Bytes::copy_from_slice(user.as_bytes())))
    }
}

/// A token that was good lately.
struct Known {
    login: Arc<Login>,
    since_ms: u64,
}

/// What a shard knows of tokens.
pub(in crate::shell::client) struct Identities {
    rights: Rights,
    known: RefCell<BTreeMap<Bytes, Known>>,
    /// Logins by certificate, by name.
    named: RefCell<BTreeMap<Bytes, Arc<Login>>>,
}

impl Identities {
    pub(in crate::shell::client) fn new(rights: Rights) -> Self {
        Self { rights, known: RefCell::default(), named: RefCell::default() }
    }

    /// The auth revision, where rights are asked for.
    #[inline]
    pub(in crate::shell::client) fn revision(&self) -> Option<u64> {
        self.rights.revision()
    }

    /// The user of a token that was good lately.
    fn recall(&self, token: &[u8], revision: u64, now_ms: u64) -> Option<Arc<Login>> {
        let known = self.known.borrow();
        let known = known.get(token)?;
        let is_fresh = known.login.revision == revision && now_ms < known.since_ms + USE_MS;
        is_fresh.then(|| Arc::clone(&known.login))
    }

    /// The login of a user whom a certificate names.
    fn named(&self, name: &Bytes, revision: u64) -> Arc<Login> {
        let mut named = self.named.borrow_mut();
        if let Some(login) = named.get(name).filter(|login| login.revision == revision) {
            return Arc::clone(login);
        }
        if KNOWN_MAX <= named.len() {
            named.clear();
        }
        let login = Arc::new(Login { name: name.clone(), revision });
        named.insert(name.clone(), Arc::clone(&login));
        login
    }

    fn remember(&self, token: Bytes, login: &Arc<Login>, now_ms: u64) {
        let mut known = self.known.borrow_mut();
        if KNOWN_MAX <= known.len() {
            known.clear();
        }
        known.insert(token, Known { login: Arc::clone(login), since_ms: now_ms });
    }
}

/// Who makes a call, as far as it can be said at once.
pub(in crate::shell::client) enum Identity {
    /// Nobody is asked.
    Unasked,
    /// This login; none without credentials.
    Login(Option<Arc<Login>>),
    /// The store has to be asked.
    Unknown,
}

/// A command in the name of a login.
pub(in crate::shell::client) fn guarded(command: Command, login: Option<Arc<Login>>) -> Command {
    match command {
        Command::Propose { kind, body, .. } => Command::Propose { kind, body, login },
        Command::Read(Read { linearizable, query }) if !query.is_for_leader() => {
            let query = Query::Guarded(Box::new(Guarded { login, query }));
            Command::Read(Read { linearizable, query })
        }
        // Asked beforehand.
        command @ (Command::Read(_) | Command::Member(_) | Command::AppendStats) => command,
    }
}

/// A read of the member's own, which asks no right.
pub(in crate::shell::client) fn own_read(linearizable: bool, query: Query) -> Command {
    guarded(Command::Read(Read { linearizable, query }), Some(Arc::new(Login::member())))
}

/// The token in what a client shows.
pub(in crate::shell::client) fn token(shown: &[u8]) -> Shown {
    let token = shown.strip_prefix(b"Bearer ").unwrap_or(shown);
    // One longer than any that is given out need not be kept to be refused: an empty one is no better.
    let is_kept = token.len() <= TOKEN_BYTES_MAX;
    Shown::Token(if is_kept { Bytes::copy_from_slice(token) } else { Bytes::new() })
}

impl<B: Backend> ClientShard<B> {
    /// Who makes a call that shows this, without asking anybody.
    pub(super) fn identify(&self, shown: Option<&Shown>) -> Result<Identity, Status> {
        let Some(revision) = self.identities.revision() else { return Ok(Identity::Unasked) };
        let token = match shown {
            None => return Ok(Identity::Login(None)),
            Some(Shown::Certificate(name)) => {
                return Ok(Identity::Login(Some(self.identities.named(name, revision))));
            }
            Some(Shown::Token(token)) => token,
        };
        if let Some(login) = self.identities.recall(token, revision, self.now_ms()) {
            return Ok(Identity::Login(Some(login)));
        }
        token_index(token).map(|_| Identity::Unknown).ok_or(status::INVALID_AUTH_TOKEN)
    }

    /// Who makes a call that shows this: `None` where nobody is asked.
    ///
    /// # Errors
    /// The token is not good, or the member cannot tell.
    pub(super) async fn login(&self, shown: Option<&Shown>) -> Result<Option<Option<Arc<Login>>>, Status> {
        match self.identify(shown)? {
            Identity::Unasked => Ok(None),
            Identity::Login(login) => Ok(Some(login)),
            Identity::Unknown => {
                let Some(Shown::Token(token)) = shown else { unreachable!("only a token can be unknown") };
                let login = self.ask_for_user(token).await?;
                self.identities.remember(token.clone(), &login, self.now_ms());
                Ok(Some(Some(login)))
            }
        }
    }

    async fn ask_for_user(&self, token: &Bytes) -> Result<Arc<Login>, Status> {
        // Once behind everything that was acknowledged, if this member may just not have heard of it.
        for linearizable in [false, true] {
            let (_, response) = self.ask(own_read(linearizable, Query::Token(token.clone()))).await?;
            let user = peer::TokenUser::decode(&response.body[..]).expect("the store's answer decodes");
            if user.revision != 0 {
                return Ok(Arc::new(Login { name: user.user, revision: user.revision }));
            }
        }
        Err(status::INVALID_AUTH_TOKEN)
    }

    /// Whether a login may do what the store does not carry out itself.
    ///
    /// # Errors
    /// It may not, or the member cannot tell.
    pub(in crate::shell::client) async fn permit(
        &self,
        login: Option<Arc<Login>>,
        permit: Permit,
    ) -> Result<(), Status> {
        let read = Command::Read(Read { linearizable: false, query: Query::Permit(permit) });
        self.ask(guarded(read, login)).await.map(|_| ())
    }

    /// A command in the name of whoever shows this, as far as it is the store's to decide.
    ///
    /// # Errors
    /// The token is not good, or the member cannot tell.
    pub(super) async fn in_the_name_of(
        self: &Rc<Self>,
        shown: Option<&Shown>,
        command: Command,
    ) -> Result<Command, Status> {
        let Some(login) = self.login(shown).await? else { return Ok(command) };
        match command {
            Command::Read(Read { query: Query::LeaseKeepAlive(id), linearizable }) => {
                self.permit(login, Permit::Ask(Box::new(Query::LeaseKeepAlive(id)))).await?;
                Ok(Command::Read(Read { query: Query::LeaseKeepAlive(id), linearizable }))
            }
            Command::Read(Read { query: Query::LeaseTimeToLive(request), linearizable }) => {
                self.permit(login, Permit::Ask(Box::new(Query::LeaseTimeToLive(request)))).await?;
                Ok(Command::Read(Read { query: Query::LeaseTimeToLive(request), linearizable }))
            }
            Command::Member(call) => {
                self.permit(login, Permit::Admin).await?;
                Ok(Command::Member(call))
            }
            command => Ok(guarded(command, login)),
        }
    }
}
