//! Calls that carry a password: to log in, to make a user, to change a password.
//!
//! The password is compared or hashed on a helper thread, outside of everything, and goes no further: what is in the
//! log is a hash, or that somebody logged in and a digest of the token; a JSON web token is signed on that thread, and nothing is logged. Rights may change meanwhile, so a login counts only at the revision
//! at which its password was looked up; else it is all done again.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use prost::Message as _;

use super::account::Account;
use super::identity::{guarded, own_read};
use super::{Head, Recipient, decode, overloaded};
use crate::auth::{TOKEN_PREFIX_LETTERS, prefix_digest, token_index, token_text};
use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{Command, Login, Query, RequestKind, Response};
use crate::rpc::method::{HeaderShape, Password, Weight};
use crate::rpc::{Method, Status, convert, status};
use crate::shell::client::jwt::VerifyOnly;
use crate::shell::client::responder::Responder;
use crate::shell::client::{Backend, ClientShard};
use crate::shell::runtime::fair_threads::Crowded;
use crate::shell::runtime::passwords::PASSWORD_BYTES_MAX;
use crate::types::Term;

/// How often a login is tried again because rights have changed meanwhile.
const TRIES: usize = 10;

impl From<VerifyOnly> for Status {
    fn from(VerifyOnly: VerifyOnly) -> Self {
        status::VERIFY_ONLY_KEY
    }
}

impl From<Crowded> for Status {
    fn from(Crowded: Crowded) -> Self {
        overloaded("too many passwords wait to be compared or hashed")
    }
}

/// Letters that nobody can guess.
fn token_prefix() -> String {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut prefix = String::with_capacity(TOKEN_PREFIX_LETTERS);
    while prefix.len() < TOKEN_PREFIX_LETTERS {
        let mut drawn = [0; 32];
        getrandom::fill(&mut drawn).expect("the kernel has randomness");
        // 208 is the largest multiple of 52 in a byte: each letter is as likely as any other.
        let letters = drawn.iter().filter(|byte| **byte < 208);
        prefix.extend(
            letters
                .take(TOKEN_PREFIX_LETTERS - prefix.len())
                .map(|byte| char::from(LETTERS[usize::from(*byte % 52)])),
        );
    }
    prefix
}

/// The answer to a login, with the token's letters in the place of their digest.
fn with_prefix(response: Response, prefix: &str) -> Response {
    let mut answer =
        pb::AuthenticateResponse::decode(&response.body[..]).expect("the store's answer decodes");
    let index = token_index(answer.token.as_bytes()).expect("the store's answer is a token");
    answer.token = token_text(prefix, index);
    Response { body: answer.encode_to_vec(), ..response }
}

impl<B: Backend> ClientShard<B> {
    /// Gives a call with a password its task.
    pub(super) fn spawn_password(
        self: &Rc<Self>,
        account: &Rc<Account>,
        password: Password,
        head: &Head,
        payload: Bytes,
        responder: Responder,
    ) {
        let place = match self.place_to_identify(2 * payload.len()) {
            Ok(place) => place,
            Err(status) => return responder.refuse(&status),
        };
        let (shard, account, head) = (Rc::clone(self), Rc::clone(account), head.clone());
        glommio::spawn_local(async move {
            let _place = place;
            let mut responder = Some(responder);
            let answered = match password {
                Password::LogIn => {
                    let login = shard.log_in(account.address, payload);
                    shard.in_time(&head, login).await.map(Some)
                }
                Password::UserAdd | Password::Change => {
                    let command = shard.with_hash(account.address, &head, payload);
                    shard.in_time(&head, command).await.map(|(bytes, command)| {
                        let responder = responder.take().expect("it was put there above");
                        let recipient = Recipient::Unary { responder, header: HeaderShape::Full };
                        let deadline_ms = head.client_deadline_ms;
                        shard.submit(&account, Weight::Light, bytes, deadline_ms, command, recipient);
                        None
                    })
                }
            };
            let Some(responder) = responder else { return };
            match answered {
                Ok(Some((term, response))) => {
                    let head = |out: &mut Vec<u8>| shard.headers.put(out, response.revision, term);
                    responder.answer(&account, head, response.body);
                }
                Ok(None) => unreachable!("a command takes its responder along"),
                Err(status) => responder.refuse(&status),
            }
        })
        .detach();
    }

    async fn log_in(
        self: &Rc<Self>,
        address: Option<IpAddr>,
        payload: Bytes,
    ) -> Result<(Term, Response), Status> {
        let pb::AuthenticateRequest { name, password } = decode(payload)?;
        let asker = (address, name.clone());
        // Beyond the queue a login costs no more than its refusal: whoever tries passwords sends many.
        if self.identities.revision().is_some() {
            self.config.passwords.check_room(&asker)?;
        }
        for _ in 0..TRIES {
            let looked_up = self.ask(own_read(true, Query::PasswordOf(name.clone()))).await;
            let record = match looked_up {
                Ok((term, response)) => {
                    let record = peer::PasswordRecord::decode(&response.body[..]);
                    Some((record.expect("the store's answer decodes"), (term, response)))
                }
                Err(status) if status == status::AUTH_FAILED => None,
                Err(status) => return Err(status),
            };
            let hash = record.as_ref().and_then(|(record, _)| String::from_utf8(record.hash.to_vec()).ok());
            let revision = record.as_ref().map(|(record, _)| record.revision);
            let keys = self.config.jwt.as_ref().map(|jwt| Arc::clone(jwt.keys()));
            let user = name.clone();
            let sign = move || keys.zip(revision).map(|(keys, revision)| keys.sign(&user, revision));
            let fits = self.config.passwords.if_fits(asker.clone(), password.clone(), hash, sign).await?;
            let (Some((record, (term, response))), Some(signed)) = (record, fits) else {
                return Err(status::AUTH_FAILED);
            };
            if let Some(token) = signed {
                // Nobody needs to know of it but whoever shows it. A change of rights meanwhile has made it old.
                if self.identities.revision() == Some(record.revision) {
                    let body = pb::AuthenticateResponse { header: None, token: token? }.encode_to_vec();
                    return Ok((term, Response { body, ..response }));
                }
                continue;
            }
            let prefix = token_prefix();
            let is_digest = record.takes_digest;
            let body = peer::Authenticate {
                user: name.clone(),
                prefix: if is_digest { prefix_digest(&prefix) } else { prefix.clone() },
                revision: record.revision,
                is_digest,
            };
            let body = body.encode_to_vec().into();
            let login = Login::member().into();
            let command = Command::Propose { kind: RequestKind::Authenticate, body, login: Some(login) };
            match self.ask(command).await {
                Err(status) if status == status::AUTH_OLD_REVISION => {}
                Ok((term, response)) => return Ok((term, with_prefix(response, &prefix))),
                Err(status) => return Err(status),
            }
        }
        Err(status::AUTH_OLD_REVISION)
    }

    /// The command that a request with a password becomes: with its hash instead.
    async fn with_hash(
        self: &Rc<Self>,
        address: Option<IpAddr>,
        head: &Head,
        payload: Bytes,
    ) -> Result<(usize, Command), Status> {
        // Before the work is done, so that it is not done for everybody.
        let login = self.login(head.shown.as_ref()).await?;
        let bytes = payload.len();
        let command = if head.method == Method::UserAdd {
            let mut request: pb::AuthUserAddRequest = decode(payload)?;
            if !request.options.is_some_and(|options| options.no_password) {
                let password = std::mem::take(&mut request.password);
                request.hashed_password = self.hash(address, &request.name, password).await?;
            }
            request.password.clear();
            convert::hashed(RequestKind::UserAdd, &request, &self.limits)?
        } else {
            let mut request: pb::AuthUserChangePasswordRequest = decode(payload)?;
            // Without a password the request's own hash counts.
            if !request.password.is_empty() {
                let password = std::mem::take(&mut request.password);
                request.hashed_password = self.hash(address, &request.name, password).await?;
            }
            convert::hashed(RequestKind::UserChangePassword, &request, &self.limits)?
        };
        Ok((
            bytes,
            match login {
                Some(login) => guarded(command, login),
                None => command,
            },
        ))
    }

    async fn hash(&self, address: Option<IpAddr>, user: &str, password: String) -> Result<String, Status> {
        if PASSWORD_BYTES_MAX < password.len() {
            return Err(status::PASSWORD_TOO_LONG);
        }
        let hash = self.config.passwords.hash((address, user.to_owned()), password).await?;
        Ok(BASE64.encode(hash.ok_or(status::PASSWORD_TOO_LONG)?))
    }
}
