//! In whose name a call is made.
//!
//! While rights are not asked for, nobody is looked at. Else a call's token says who makes it. The shard knows the user of
//! a token that it has seen lately (`known_tokens`). For others it asks: about a simple token the store, which keeps this
//! member's; about a JSON web token a helper thread, which verifies its signature (`jwt`). The shard judges nothing: the
//! login goes along with the command, and whoever applies or answers it decides what it may do. Only what the store does
//! not carry out itself is asked of it beforehand (`permit`).
//!
//! Without a token the certificate that the client has shown names the user, where certificates name users. It is a
//! login at the revision of now: what it may do is looked up anyway.
//!
//! Cost: a comparison with what the connection has shown last (`shown`), else a look-up in a map of the shard; nothing
//! but a load while rights are not asked for. Calls that come with one token while it is being verified share that.
//! Compatibility: metadata `token` goes before `authorization`; a leading `Bearer ` is cut; a token that is not good is
//! refused, and never passes for none. Calls that come through the gateway have no user by certificate.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::account::Account;
use super::known_tokens::{Known, KnownTokens};
use super::overloaded;
use super::shown::{Shown, Token};
use crate::auth::{Claims, bearer, may_be_web_token, token_index};
use crate::pb::peer;
use crate::request::{Command, Login, Permit, Query, Read};
use crate::rpc::headers::Credential;
use crate::rpc::{Status, status};
use crate::shell::client::jwt::{self, Jwt};
use crate::shell::client::signal::Signal;
use crate::shell::client::{Backend, ClientShard};
use crate::shell::runtime::rights::Rights;

/// Certificates' names that one shard remembers; when there are more, all are forgotten.
const NAMED_MAX: usize = 16_384;

/// A simple token is used at the store at least this often, so that the store does not forget one that is in use. As
/// often the times of a JSON web token are compared with the clock, which may have been set.
const USE_MS: u64 = 500;

/// Between two lines about JSON web tokens that were refused.
const TOLD_MS: u64 = 1_000;

/// Who makes a call that shows a token: nobody where it names nobody.
type Caller = Result<Option<Arc<Login>>, Status>;

/// A JSON web token that is being verified, and the calls that wait for it.
#[derive(Default)]
struct Checking {
    caller: OnceCell<Caller>,
    waiting: RefCell<Vec<Rc<Signal>>>,
}

/// What a shard knows of tokens.
pub(in crate::shell::client) struct Identities {
    rights: Rights,
    known: KnownTokens,
    checking: RefCell<BTreeMap<Bytes, Rc<Checking>>>,
    /// Logins by certificate, by name.
    named: RefCell<BTreeMap<Bytes, Arc<Login>>>,
    /// JSON web tokens that were refused since the log was told, and when that was.
    refused: Cell<u64>,
    told_ms: Cell<Option<u64>>,
}

impl Identities {
    pub(in crate::shell::client) fn new(rights: Rights) -> Self {
        Self {
            rights,
            known: KnownTokens::default(),
            checking: RefCell::default(),
            named: RefCell::default(),
            refused: Cell::default(),
            told_ms: Cell::default(),
        }
    }

    /// The auth revision, where rights are asked for.
    #[inline]
    pub(in crate::shell::client) fn revision(&self) -> Option<u64> {
        self.rights.revision()
    }

    /// Who shows this, as far as the shard knows, and until when that holds at `revision`.
    fn recall(&self, shown: &Shown, revision: u64, now_ms: u64) -> Option<(Option<Arc<Login>>, u64)> {
        let token = match shown {
            Shown::Certificate(name) => return Some((Some(self.named(name, revision)), u64::MAX)),
            Shown::Token(token) => &token.text,
        };
        let known = self.known.get(token)?;
        let is_due = known.until_ms <= now_ms;
        match &known.claims {
            // A simple token is a login at the revision of now.
            None => {
                let is_of_now = known.login.as_ref().is_some_and(|login| login.revision == revision);
                (is_of_now && !is_due).then_some((known.login, known.until_ms))
            }
            Some(_) if !is_due => Some((known.login, known.until_ms)),
            Some(claims) => {
                let until_ms = now_ms + claims.ms_left(jwt::now_ms())?.min(USE_MS);
                let login = known.login.clone();
                self.known.insert(token.clone(), Known { until_ms, ..known });
                Some((login, until_ms))
            }
        }
    }

    /// The login of a user whom a certificate names.
    fn named(&self, name: &Bytes, revision: u64) -> Arc<Login> {
        let mut named = self.named.borrow_mut();
        if let Some(login) = named.get(name).filter(|login| login.revision == revision) {
            return Arc::clone(login);
        }
        if NAMED_MAX <= named.len() {
            named.clear();
        }
        let login = Arc::new(Login { name: name.clone(), revision });
        named.insert(name.clone(), Arc::clone(&login));
        login
    }

    /// Says why a JSON web token was refused, at most once in a while.
    fn tell_refused(&self, address: Option<IpAddr>, reason: &str, now_ms: u64) {
        self.refused.set(self.refused.get() + 1);
        if self.told_ms.get().is_some_and(|told_ms| now_ms < told_ms + TOLD_MS) {
            return;
        }
        self.told_ms.set(Some(now_ms));
        let address = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        tracing::warn!(address, reason, count = self.refused.take(), "a JSON web token is refused");
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
        Command::Read(Read { linearizable, query, .. }) if !query.is_for_leader() => {
            Command::Read(Read { linearizable, login, query })
        }
        // Asked beforehand.
        command @ (Command::Read(_) | Command::Member(_) | Command::AppendStats) => command,
    }
}

/// A read of the member's own, which asks no right.
pub(in crate::shell::client) fn own_read(linearizable: bool, query: Query) -> Command {
    Command::Read(Read { linearizable, login: Some(Arc::new(Login::member())), query })
}

/// The token in what a client shows on this connection.
pub(in crate::shell::client) fn token(shown: &[u8], account: &Account) -> Shown {
    account.last_shown.token(bearer(shown), account.address)
}

/// The token in a field that the connection's requests show by its place in the table of headers.
pub(in crate::shell::client) fn credential(credential: &Rc<Credential>, account: &Account) -> Shown {
    account.last_shown.credential(credential, account.address)
}

/// The name in a connection's certificate, if there is one.
pub(in crate::shell::client) fn certificate_of(account: &Account) -> Option<Shown> {
    account.user().map(|user| account.last_shown.certificate(&user))
}

impl<B: Backend> ClientShard<B> {
    /// Who makes a call that shows this on its connection, without asking anybody.
    pub(super) fn identify_on(&self, account: &Account, shown: Option<&Shown>) -> Result<Identity, Status> {
        let (Some(shown), Some(revision)) = (shown, self.identities.revision()) else {
            return self.identify(shown);
        };
        let last = &account.last_shown;
        if let Some(login) = last.recall(shown, revision, self.now_ms()) {
            return Ok(Identity::Login(login));
        }
        match self.identities.recall(shown, revision, self.now_ms()) {
            Some((login, until_ms)) => {
                last.remember(shown, login.clone(), revision, until_ms);
                Ok(Identity::Login(login))
            }
            None => self.identify(Some(shown)),
        }
    }

    /// Who makes a call that shows this, without asking anybody.
    fn identify(&self, shown: Option<&Shown>) -> Result<Identity, Status> {
        let Some(revision) = self.identities.revision() else { return Ok(Identity::Unasked) };
        let Some(shown) = shown else { return Ok(Identity::Login(None)) };
        if let Some((login, _)) = self.identities.recall(shown, revision, self.now_ms()) {
            return Ok(Identity::Login(login));
        }
        let Shown::Token(token) = shown else { unreachable!("a certificate's name is a login") };
        let token = &token.text;
        let may_be_good = match &self.config.jwt {
            Some(_) => may_be_web_token(token),
            None => token_index(token).is_some(),
        };
        if may_be_good { Ok(Identity::Unknown) } else { Err(status::INVALID_AUTH_TOKEN) }
    }

    /// Who makes a call that shows this: `None` where nobody is asked.
    ///
    /// # Errors
    /// The token is not good, or the member cannot tell.
    pub(in crate::shell::client) async fn login(
        self: &Rc<Self>,
        shown: Option<&Shown>,
    ) -> Result<Option<Option<Arc<Login>>>, Status> {
        match self.identify(shown)? {
            Identity::Unasked => Ok(None),
            Identity::Login(login) => Ok(Some(login)),
            Identity::Unknown => {
                let Some(Shown::Token(token)) = shown else { unreachable!("only a token can be unknown") };
                match &self.config.jwt {
                    Some(jwt) => self.check_web_token(jwt, token).await.map(Some),
                    None => {
                        let login = Some(self.ask_for_user(&token.text).await?);
                        let until_ms = self.now_ms() + USE_MS;
                        let known = Known { login: login.clone(), until_ms, claims: None };
                        self.identities.known.insert(token.text.clone(), known);
                        Ok(Some(login))
                    }
                }
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

    /// Waits until a token has been verified, which the first call with it begins.
    async fn check_web_token(self: &Rc<Self>, jwt: &Jwt, token: &Rc<Token>) -> Caller {
        let under_way = self.identities.checking.borrow().get(&token.text).map(Rc::clone);
        let checking = under_way.unwrap_or_else(|| self.begin_to_check(jwt.clone(), Rc::clone(token)));
        // A task runs until it waits when it is spawned, and need not wait where a signature is verified that fast.
        if checking.caller.get().is_none() {
            let signal = Rc::<Signal>::default();
            checking.waiting.borrow_mut().push(Rc::clone(&signal));
            poll_fn(|cx| signal.poll_fired(cx)).await;
        }
        checking.caller.get().expect("it is told before the signal").clone()
    }

    /// Verifies a token in a task of its own: the call that came first may end first.
    fn begin_to_check(self: &Rc<Self>, jwt: Jwt, token: Rc<Token>) -> Rc<Checking> {
        let checking = Rc::<Checking>::default();
        self.identities.checking.borrow_mut().insert(token.text.clone(), Rc::clone(&checking));
        let (shard, given) = (Rc::clone(self), Rc::clone(&checking));
        glommio::spawn_local(async move {
            let checked = jwt.check(token.address, token.text.clone()).await;
            let caller = match checked {
                Ok(Ok(claims)) => Ok(shard.remember_claims(&token.text, claims)),
                Ok(Err(reason)) => {
                    shard.identities.tell_refused(token.address, reason, shard.now_ms());
                    Err(status::INVALID_AUTH_TOKEN)
                }
                Err(_) => Err(overloaded("too many tokens wait to be verified")),
            };
            shard.identities.checking.borrow_mut().remove(&token.text);
            assert!(given.caller.set(caller).is_ok(), "a token is checked once at a time");
            for signal in given.waiting.take() {
                signal.fire();
            }
        })
        .detach();
        checking
    }

    fn remember_claims(&self, token: &Bytes, claims: Claims) -> Option<Arc<Login>> {
        // A revision that no state has is nobody's, as in etcd.
        let login = (claims.revision != 0)
            .then(|| Arc::new(Login { name: claims.user.clone().into(), revision: claims.revision }));
        if let Some(ms_left) = claims.ms_left(jwt::now_ms()) {
            let until_ms = self.now_ms() + ms_left.min(USE_MS);
            let claims = Some(Arc::new(claims));
            self.identities.known.insert(token.clone(), Known { login: login.clone(), until_ms, claims });
        }
        login
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
        let read = Command::Read(Read { linearizable: false, login, query: Query::Permit(permit) });
        self.ask(read).await.map(|_| ())
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
            Command::Read(Read { query: Query::LeaseKeepAlive(id), linearizable, .. }) => {
                self.permit(login, Permit::Ask(Box::new(Query::LeaseKeepAlive(id)))).await?;
                Ok(Command::Read(Read::new(linearizable, Query::LeaseKeepAlive(id))))
            }
            Command::Read(Read { query: Query::LeaseTimeToLive(request), linearizable, .. }) => {
                self.permit(login, Permit::Ask(Box::new(Query::LeaseTimeToLive(request)))).await?;
                Ok(Command::Read(Read::new(linearizable, Query::LeaseTimeToLive(request))))
            }
            Command::Member(call) => {
                self.permit(login, Permit::Admin).await?;
                Ok(Command::Member(call))
            }
            command => Ok(guarded(command, login)),
        }
    }
}
