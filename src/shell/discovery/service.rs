//! Registering with a discovery service and waiting for the others, through endpoints that come and go.
//!
//! Every look at the service is one transaction that reads size and registrations at one revision; what
//! it means is judged by `discovery::registry`. A watch only says when to look again. So nothing has to be
//! resumed: whatever happened to a connection, the next one begins with a look.
//!
//! Waiting has no end, as in etcd; a signal ends it. Endpoints are asked in turn; when none serves, the
//! next round waits, longer each time.

use std::time::{Duration, Instant};

use super::Stop;
use super::grpc::{CallError, Client, Patience, Stream};
use crate::config::{MemberUrls, ServiceDiscovery, TlsPolicy, Url};
use crate::discovery::MEMBERS_MAX;
use crate::discovery::registry::{Instruction, Progress, Refusal, Registry};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::{
    AuthenticateRequest, AuthenticateResponse, Compare, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse, compare, request_op,
    response_op, watch_request,
};
use crate::shell::net::Dialer;
use crate::shell::net::tls::{Credentials, CredentialsError, Handshakes, Protocols, TlsConnector};

/// The first wait when no endpoint serves, ...
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// ... and the longest, etcd's.
const BACKOFF_MAX: Duration = Duration::from_secs(256);

/// After so long with one endpoint its end is nothing that has to be waited out.
const GOOD_SERVICE: Duration = Duration::from_secs(10);

/// How often to look without being told of a change, and to say who is missing.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// gRPC codes that say that the request is wrong, now and later.
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const PERMISSION_DENIED: u32 = 7;
const FAILED_PRECONDITION: u32 = 9;
const UNIMPLEMENTED: u32 = 12;

/// Why the service gives no list.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum ServiceError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the discovery service at {endpoint} refuses: {error}{advice}")]
    Service { endpoint: Box<Url>, error: CallError, advice: String },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("stopped while waiting for the members to register with the discovery service")]
    Interrupted,
}

/// Why one endpoint is given up.
enum Trouble {
    /// The next one may serve.
    Passing(String),
    Final(ServiceError),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Final(refusal.into())
    }
}

/// Registers the member with this name and these peer URLs, and waits until the cluster is complete.
///
/// # Errors
/// [`ServiceError`].
pub(super) async fn find(
    service: &ServiceDiscovery,
    policy: &TlsPolicy,
    name: &str,
    urls: &[Url],
    stop: &Stop<'_>,
) -> Result<MemberUrls, ServiceError> {
    let registry = Registry::new(&service.token, name, urls)?;
    let dialer = Dialer::new(service.dial_timeout, connector(service, policy)?);
    let mut visit = Visit { service, registry, stop, dialer, told: None };
    let mut backoff = BACKOFF_MIN;
    loop {
        for endpoint in &service.endpoints {
            let begun = Instant::now();
            match visit.attend(endpoint).await {
                Ok(members) => return Ok(members),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(reason)) => {
                    tracing::warn!(%endpoint, reason, "the discovery service does not serve");
                    stop.waiting.on(format!("the discovery service at {endpoint} does not serve: {reason}"));
                }
            }
            if stop.is_told() {
                return Err(ServiceError::Interrupted);
            }
            if GOOD_SERVICE <= begun.elapsed() {
                backoff = BACKOFF_MIN;
            }
        }
        tracing::info!(seconds = backoff.as_secs_f64(), "asking the discovery service again after a pause");
        if !stop.sleep(backoff).await {
            return Err(ServiceError::Interrupted);
        }
        backoff = (2 * backoff).min(BACKOFF_MAX);
    }
}

/// How endpoints with https are reached; None: there are none.
fn connector(service: &ServiceDiscovery, policy: &TlsPolicy) -> Result<Option<TlsConnector>, ServiceError> {
    if !service.endpoints.iter().any(Url::is_tls) {
        return Ok(None);
    }
    let credentials = Credentials::load(&service.security, policy, Protocols::Http)?;
    Ok(Some(TlsConnector::new(credentials, Handshakes::default())))
}

struct Visit<'a> {
    service: &'a ServiceDiscovery,
    registry: Registry,
    stop: &'a Stop<'a>,
    dialer: Dialer,
    /// What the log was told last.
    told: Option<Progress>,
}

impl<'a> Visit<'a> {
    /// Stays with one endpoint until the list is complete or it fails.
    async fn attend(&mut self, endpoint: &Url) -> Result<MemberUrls, Trouble> {
        let error = |error| trouble(endpoint, error);
        let mut client = self.connect(endpoint).await?;
        self.authenticate(&mut client).await.map_err(error)?;
        let mut watch: Option<Stream> = None;
        let mut is_registered = false;
        loop {
            let look = self.look(&mut client).await.map_err(error)?;
            match self.registry.judge(look.size.as_deref(), &look.members)? {
                Instruction::Complete(members) => {
                    let names = members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",");
                    tracing::info!(
                        token = self.service.token,
                        members = names,
                        "all members have registered"
                    );
                    return Ok(members);
                }
                // Nobody deletes it that fast: this service does not keep what it acknowledges.
                Instruction::Register if is_registered => {
                    return Err(Trouble::Passing("what was registered does not stay there".to_owned()));
                }
                Instruction::Register => {
                    is_registered = true;
                    if self.register(&mut client).await.map_err(error)? {
                        tracing::info!(
                            key = self.registry.own_key(),
                            value = self.registry.value(),
                            "registered with the discovery service"
                        );
                    }
                }
                Instruction::Wait(progress) => {
                    is_registered = false;
                    self.tell(progress);
                    let watch = match &mut watch {
                        Some(watch) => watch,
                        None => {
                            watch.insert(self.watch(&mut client, look.revision + 1).await.map_err(error)?)
                        }
                    };
                    self.wait(&mut client, watch).await.map_err(error)?;
                }
            }
        }
    }

    async fn connect(&self, endpoint: &Url) -> Result<Client<'a>, Trouble> {
        let service = self.service;
        let patience = Patience {
            request: service.request_timeout,
            keepalive_time: service.keepalive_time,
            keepalive_timeout: service.keepalive_timeout,
        };
        let authority = endpoint.authority();
        let begin = async |stream| Client::begin(stream, &authority, patience, self.stop).await;
        self.dialer.dial(endpoint, begin).await.map_err(|error| Trouble::Passing(error.to_string()))
    }

    async fn authenticate(&self, client: &mut Client<'_>) -> Result<(), CallError> {
        let Some(credentials) = &self.service.credentials else { return Ok(()) };
        let (name, password) = (credentials.user.clone(), credentials.password.clone());
        let answer: Result<AuthenticateResponse, CallError> =
            client.unary(AUTHENTICATE, &AuthenticateRequest { name, password }).await;
        match answer {
            Ok(answer) => client.set_token(&answer.token),
            // As etcd's own clients: whoever asks for nothing gets along with nothing.
            Err(CallError::Status { code: FAILED_PRECONDITION, message })
                if message.contains("not enabled") =>
            {
                tracing::warn!("the discovery service has no auth enabled; --discovery-user is not used");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn look(&self, client: &mut Client<'_>) -> Result<Look, CallError> {
        let size = RangeRequest { key: self.registry.size_key().into(), ..Default::default() };
        let prefix = self.registry.members_prefix();
        let members = RangeRequest {
            range_end: prefix_end(&prefix).into(),
            key: prefix.into(),
            limit: i64::try_from(MEMBERS_MAX).expect("a thousand") + 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..Default::default()
        };
        let range = |range| RequestOp { request: Some(request_op::Request::RequestRange(range)) };
        let request = TxnRequest { success: vec![range(size), range(members)], ..Default::default() };
        let answer: TxnResponse = client.unary(TXN, &request).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let mut ranges = answer.responses.into_iter().map(|op| match op.response {
            Some(response_op::Response::ResponseRange(range)) => Ok(range),
            _ => Err(CallError::Connection("an answer to another request".to_owned())),
        });
        let mut next = || -> Result<RangeResponse, CallError> {
            ranges.next().unwrap_or(Err(CallError::Connection("an answer with a part missing".to_owned())))
        };
        let size = next()?.kvs.into_iter().next().map(|kv| kv.value);
        Ok(Look { size, members: next()?.kvs, revision })
    }

    /// False: the key is there already, and the next look tells whose it is.
    async fn register(&self, client: &mut Client<'_>) -> Result<bool, CallError> {
        let key = self.registry.own_key();
        let is_absent = Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Create.into(),
            key: key.clone().into(),
            target_union: Some(compare::TargetUnion::CreateRevision(0)),
            ..Default::default()
        };
        let put = PutRequest {
            key: key.into(),
            value: self.registry.value().to_owned().into(),
            ..Default::default()
        };
        let put = RequestOp { request: Some(request_op::Request::RequestPut(put)) };
        let request = TxnRequest { compare: vec![is_absent], success: vec![put], ..Default::default() };
        client.unary::<TxnResponse>(TXN, &request).await.map(|answer| answer.succeeded)
    }

    async fn watch(&self, client: &mut Client<'_>, start_revision: i64) -> Result<Stream, CallError> {
        let prefix = self.registry.prefix();
        let create = WatchCreateRequest {
            range_end: prefix_end(&prefix).into(),
            key: prefix.into(),
            start_revision,
            ..Default::default()
        };
        let request = Some(watch_request::RequestUnion::CreateRequest(create));
        client.stream(WATCH, &WatchRequest { request_union: request }).await
    }

    /// Until something has changed, or it is time to look anyway.
    async fn wait(&self, client: &mut Client<'_>, watch: &mut Stream) -> Result<(), CallError> {
        let until = Instant::now() + LOOK_INTERVAL;
        loop {
            match client.next::<WatchResponse>(watch, until).await? {
                None => return Ok(()),
                Some(response) if response.canceled => {
                    let reason = response.cancel_reason;
                    return Err(CallError::Connection(format!("the watch was canceled: {reason}")));
                }
                Some(response) if !response.events.is_empty() => return Ok(()),
                // Created, or a word of progress.
                Some(_) => {}
            }
        }
    }

    fn tell(&mut self, progress: Progress) {
        let names = progress.registered.join(",");
        let (registered, missing) = (names.as_str(), progress.missing);
        let (there, all) = (progress.registered.len(), progress.registered.len() + missing);
        self.stop.waiting.on(format!("{there} of {all} members have registered with the discovery service"));
        if self.told.as_ref() == Some(&progress) {
            tracing::info!(registered, missing, "still waiting for members to register");
        } else {
            tracing::info!(registered, missing, "waiting for members to register");
            self.told = Some(progress);
        }
    }
}

/// What the service holds, at one revision.
struct Look {
    size: Option<bytes::Bytes>,
    members: Vec<crate::pb::mvccpb::KeyValue>,
    revision: i64,
}

/// What is wrong for good, and what a later try may mend.
fn trouble(endpoint: &Url, error: CallError) -> Trouble {
    let advice = match &error {
        CallError::Interrupted => return Trouble::Final(ServiceError::Interrupted),
        CallError::Connection(reason) => return Trouble::Passing(reason.clone()),
        // Users were changed between Authenticate and the call.
        CallError::Status { message, .. } if message.contains("revision of auth store is old") => "",
        CallError::Status { code: INVALID_ARGUMENT, message } if message.contains("user name is empty") => {
            ". It has auth enabled: give --discovery-user and its password"
        }
        CallError::Status { code: PERMISSION_DENIED, .. } => {
            ". The user of --discovery-user must be allowed to read and write /_etcd/registry/<token>/ and what is \
             below it"
        }
        CallError::Status { code: UNIMPLEMENTED, message } if message.contains("Authenticate") => {
            ". It has no users: leave --discovery-user away"
        }
        CallError::Status { code: INVALID_ARGUMENT, message }
            if message.contains("authentication failed") =>
        {
            ". Check --discovery-user and its password"
        }
        CallError::Status {
            code: INVALID_ARGUMENT | NOT_FOUND | FAILED_PRECONDITION | UNIMPLEMENTED,
            ..
        } => ". Check --discovery-endpoints",
        CallError::Status { .. } => "",
    };
    if advice.is_empty() {
        return Trouble::Passing(error.to_string());
    }
    let (endpoint, advice) = (Box::new(endpoint.clone()), advice.to_owned());
    Trouble::Final(ServiceError::Service { endpoint, error, advice })
}

/// The end of the range of keys with this prefix, which ends in a slash.
fn prefix_end(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').expect("prefixes of the registry end in a slash");
    // '0' follows '/'.
    format!("{stem}0")
}
