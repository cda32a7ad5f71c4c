//! A small gRPC client: one HTTP/2 connection, unary calls, a deadline on every one. Calls of many
//! messages are in `stream.rs`.
//!
//! It shows what is on the wire — code and text of an error, bytes of an answer — where a full client
//! library would retry, translate and hide.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::pb::etcdserverpb as pb;
use crate::pb::v3electionpb as election;
use crate::pb::v3lockpb as lock;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A call that is not answered by then hangs.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The server's own "no": gRPC code and text.
    Status { code: u32, message: String },
    /// The connection ended, so whether the call was carried out is unknown.
    Transport(String),
    /// Neither answer nor end within the deadline.
    Deadline,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, message } => write!(f, "status {code}: {message}"),
            Self::Transport(reason) => write!(f, "connection: {reason}"),
            Self::Deadline => write!(f, "no answer within {CALL_DEADLINE:?}"),
        }
    }
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Transport(error.to_string())
    }
}

/// The answer of a unary call that has begun.
pub struct Answering(h2::RecvStream);

impl Answering {
    /// Takes the rest of the answer: its message, or how it ended.
    pub async fn finish(self) -> Result<Bytes, CallError> {
        let Self(mut body) = self;
        within_deadline(async {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                bytes.extend_from_slice(&chunk);
            }
            match body.trailers().await? {
                None => return Err(CallError::Transport("no trailers".to_owned())),
                Some(trailers) => match status(&trailers)? {
                    Some(error) => return Err(error),
                    None if trailers.contains_key("grpc-status") => {}
                    None => return Err(CallError::Transport("trailers without grpc-status".to_owned())),
                },
            }
            unframe(bytes.freeze())
        })
        .await
    }
}

/// Code and text of the status that a call must end with; any other end fails the test.
pub fn refusal<T: fmt::Debug>(result: Result<T, CallError>) -> (u32, String) {
    match result {
        Err(CallError::Status { code, message }) => (code, message),
        other => panic!("not refused by the server: {other:?}"),
    }
}

/// What `told` makes of an answer, or the code and text of a refusal.
pub fn refusal_or<T: fmt::Debug, U>(
    result: Result<T, CallError>,
    told: impl FnOnce(T) -> U,
) -> Result<U, (u32, String)> {
    match result {
        Ok(answer) => Ok(told(answer)),
        Err(error) => Err(refusal(Err::<T, _>(error))),
    }
}

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Client {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) authority: String,
    pub(super) needs_leader: bool,
    pub(super) api_version: Option<&'static str>,
    pub(super) token: Option<String>,
    pub(super) timeout: Option<&'static str>,
    pub(super) not_older_than: Option<String>,
    pub(super) is_gateway: bool,
}

impl Client {
    pub async fn connect(port: u16) -> Result<Self, CallError> {
        Self::connect_with_window(port, 1 << 30).await
    }

    /// A connection on which the server may send `window` bytes per call before it must wait for the
    /// reader, and as many in all (but at least the 65,535 that HTTP/2 grants a connection).
    pub async fn connect_with_window(port: u16, window: u32) -> Result<Self, CallError> {
        let connect = async {
            let io = |error: std::io::Error| CallError::Transport(error.to_string());
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(io)?;
            stream.set_nodelay(true).map_err(io)?;
            Self::greet(stream, &format!("127.0.0.1:{port}"), window).await
        };
        within_deadline(connect).await
    }

    /// Over a connection that is there, such as an encrypted one.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        authority: &str,
    ) -> Result<Self, CallError> {
        within_deadline(Self::greet(stream, authority, 1 << 30)).await
    }

    /// The connection itself, for requests that are not gRPC's.
    #[must_use]
    pub fn requests(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    async fn greet(
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        authority: &str,
        window: u32,
    ) -> Result<Self, CallError> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::task::spawn_local(async move {
            // How it ended is told by the calls that were on it.
            drop(connection.await);
        });
        Ok(Self {
            sender,
            authority: authority.to_owned(),
            needs_leader: false,
            api_version: None,
            token: None,
            timeout: None,
            not_older_than: None,
            is_gateway: false,
        })
    }

    /// The same connection for calls that no member without a leader may serve.
    #[must_use]
    pub fn requiring_leader(mut self) -> Self {
        self.needs_leader = true;
        self
    }

    /// The same connection for a client that says so of its API's version.
    #[must_use]
    pub fn speaking(mut self, api_version: Option<&'static str>) -> Self {
        self.api_version = api_version;
        self
    }

    /// The same connection in the name of whoever has this token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// The same connection for calls that the server ends after this time, as `grpc-timeout` writes it: `100m`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: &'static str) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The same connection for reads whose answers may not be older than this revision.
    #[must_use]
    pub fn not_older_than(mut self, revision: impl ToString) -> Self {
        self.not_older_than = Some(revision.to_string());
        self
    }

    /// The same connection as that of a gateway, which passes on calls of others.
    #[must_use]
    pub fn as_gateway(mut self) -> Self {
        self.is_gateway = true;
        self
    }

    /// The same connection in the name of this user.
    pub async fn logged_in(&self, name: &str, password: &str) -> Result<Self, CallError> {
        Ok(self.clone().with_token(&self.authenticate(name, password).await?))
    }

    /// A token for this user.
    pub async fn authenticate(&self, name: &str, password: &str) -> Result<String, CallError> {
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        let answer: pb::AuthenticateResponse =
            self.unary("/etcdserverpb.Auth/Authenticate", &request).await?;
        Ok(answer.token)
    }

    pub(super) fn post(&self, method: &str, content_type: &str) -> Request<()> {
        let mut request = Request::post(format!("http://{}{method}", self.authority))
            .header("content-type", content_type)
            .header("te", "trailers");
        if self.needs_leader {
            request = request.header("hasleader", "true");
        }
        if let Some(version) = self.api_version {
            request = request.header("client-api-version", version);
        }
        if let Some(token) = &self.token {
            request = request.header("token", token);
        }
        if let Some(timeout) = self.timeout {
            request = request.header("grpc-timeout", timeout);
        }
        if self.is_gateway {
            request = request.header("grpcgateway-accept", "*/*");
        }
        if let Some(revision) = &self.not_older_than {
            request = request.header("pinion-not-older-than", revision);
        }
        request.body(()).unwrap()
    }

    /// A unary call of bytes.
    pub async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, CallError> {
        let mut body = BytesMut::with_capacity(5 + message.len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).unwrap());
        body.put(message);
        self.call_framed(method, "application/grpc", body.freeze()).await
    }

    /// A call whose body is sent as it is, right or wrong, with any content type.
    pub async fn call_framed(
        &self,
        method: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        self.begin_framed(method, content_type, body).await?.finish().await
    }

    /// Begins a unary call of a message: waits until its answer begins, and takes nothing of it yet.
    pub async fn begin(&self, method: &str, message: &impl Message) -> Result<Answering, CallError> {
        let message = message.encode_to_vec();
        let mut body = BytesMut::with_capacity(5 + message.len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).unwrap());
        body.put(&message[..]);
        self.begin_framed(method, "application/grpc", body.freeze()).await
    }

    async fn begin_framed(
        &self,
        method: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answering, CallError> {
        within_deadline(async {
            let request = self.post(method, content_type);
            let mut sender = self.sender.clone().ready().await?;
            let (response, mut stream) = sender.send_request(request, false)?;
            // h2 keeps what the window does not take. A server may have answered and reset already;
            // then the answer is what counts.
            drop(stream.send_data(body, true));
            let (head, body) = response.await?.into_parts();
            if let Some(error) = status(&head.headers)? {
                return Err(error);
            }
            if head.status != 200 {
                return Err(CallError::Transport(format!("HTTP status {}", head.status)));
            }
            Ok(Answering(body))
        })
        .await
    }

    pub async fn unary<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let answer = self.call(method, request.encode_to_vec().into()).await?;
        A::decode(answer).map_err(|error| CallError::Transport(format!("undecodable answer: {error}")))
    }

    pub async fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, CallError> {
        self.unary("/etcdserverpb.KV/Range", request).await
    }

    pub async fn put(&self, request: &pb::PutRequest) -> Result<pb::PutResponse, CallError> {
        self.unary("/etcdserverpb.KV/Put", request).await
    }

    pub async fn delete(
        &self,
        request: &pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, CallError> {
        self.unary("/etcdserverpb.KV/DeleteRange", request).await
    }

    pub async fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, CallError> {
        self.unary("/etcdserverpb.KV/Txn", request).await
    }

    pub async fn compact(
        &self,
        request: &pb::CompactionRequest,
    ) -> Result<pb::CompactionResponse, CallError> {
        self.unary("/etcdserverpb.KV/Compact", request).await
    }

    pub async fn lease_grant(
        &self,
        request: &pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, CallError> {
        self.unary("/etcdserverpb.Lease/LeaseGrant", request).await
    }

    pub async fn lease_revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, CallError> {
        self.unary("/etcdserverpb.Lease/LeaseRevoke", &pb::LeaseRevokeRequest { id }).await
    }

    pub async fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<pb::LeaseTimeToLiveResponse, CallError> {
        self.unary("/etcdserverpb.Lease/LeaseTimeToLive", &pb::LeaseTimeToLiveRequest { id, keys }).await
    }

    pub async fn leases(&self) -> Result<pb::LeaseLeasesResponse, CallError> {
        self.unary("/etcdserverpb.Lease/LeaseLeases", &pb::LeaseLeasesRequest {}).await
    }

    pub async fn lock(&self, request: &lock::LockRequest) -> Result<lock::LockResponse, CallError> {
        self.unary("/v3lockpb.Lock/Lock", request).await
    }

    pub async fn unlock(&self, key: Bytes) -> Result<lock::UnlockResponse, CallError> {
        self.unary("/v3lockpb.Lock/Unlock", &lock::UnlockRequest { key }).await
    }

    pub async fn campaign(
        &self,
        request: &election::CampaignRequest,
    ) -> Result<election::CampaignResponse, CallError> {
        self.unary("/v3electionpb.Election/Campaign", request).await
    }

    pub async fn proclaim(
        &self,
        request: &election::ProclaimRequest,
    ) -> Result<election::ProclaimResponse, CallError> {
        self.unary("/v3electionpb.Election/Proclaim", request).await
    }

    pub async fn leader(&self, name: Bytes) -> Result<election::LeaderResponse, CallError> {
        self.unary("/v3electionpb.Election/Leader", &election::LeaderRequest { name }).await
    }

    pub async fn resign(
        &self,
        leader: Option<election::LeaderKey>,
    ) -> Result<election::ResignResponse, CallError> {
        self.unary("/v3electionpb.Election/Resign", &election::ResignRequest { leader }).await
    }

    pub async fn status(&self) -> Result<pb::StatusResponse, CallError> {
        self.unary("/etcdserverpb.Maintenance/Status", &pb::StatusRequest::default()).await
    }

    /// As a quorum has it if `linearizable`, or else as the asked member knows it.
    pub async fn member_list(&self, linearizable: bool) -> Result<pb::MemberListResponse, CallError> {
        self.unary("/etcdserverpb.Cluster/MemberList", &pb::MemberListRequest { linearizable }).await
    }

    pub async fn member_add(&self, url: &str, is_learner: bool) -> Result<pb::MemberAddResponse, CallError> {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
        self.unary("/etcdserverpb.Cluster/MemberAdd", &request).await
    }

    pub async fn member_promote(&self, id: u64) -> Result<pb::MemberPromoteResponse, CallError> {
        self.unary("/etcdserverpb.Cluster/MemberPromote", &pb::MemberPromoteRequest { id }).await
    }

    pub async fn member_remove(&self, id: u64) -> Result<pb::MemberRemoveResponse, CallError> {
        self.unary("/etcdserverpb.Cluster/MemberRemove", &pb::MemberRemoveRequest { id }).await
    }

    pub async fn member_update(&self, id: u64, url: &str) -> Result<pb::MemberUpdateResponse, CallError> {
        let request = pb::MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
        self.unary("/etcdserverpb.Cluster/MemberUpdate", &request).await
    }

    pub async fn move_leader(&self, target_id: u64) -> Result<pb::MoveLeaderResponse, CallError> {
        self.unary("/etcdserverpb.Maintenance/MoveLeader", &pb::MoveLeaderRequest { target_id }).await
    }

    /// What the member holds up to a revision; 0: its newest.
    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, CallError> {
        self.unary("/etcdserverpb.Maintenance/HashKV", &pb::HashKvRequest { revision }).await
    }

    /// Action and alarm as numbers, so that those which do not exist can be asked for.
    pub async fn alarm(
        &self,
        action: i32,
        alarm: i32,
        member_id: u64,
    ) -> Result<pb::AlarmResponse, CallError> {
        let request = pb::AlarmRequest { action, member_id, alarm };
        self.unary("/etcdserverpb.Maintenance/Alarm", &request).await
    }

    /// A put of a key and a value.
    pub async fn put_kv(&self, key: &str, value: &str) -> Result<pb::PutResponse, CallError> {
        self.put(&pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        })
        .await
    }

    /// The key's value, if it exists.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, CallError> {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        Ok(self.range(&request).await?.kvs.into_iter().next().map(|kv| kv.value))
    }

    /// Every key with this prefix, which must not end in 0xff.
    pub async fn prefix(&self, prefix: &str) -> Result<pb::RangeResponse, CallError> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix is not empty") += 1;
        let request =
            pb::RangeRequest { key: prefix.to_owned().into(), range_end: end.into(), ..Default::default() };
        self.range(&request).await
    }
}

pub(super) async fn within_deadline<T>(
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(CALL_DEADLINE, call).await.unwrap_or(Err(CallError::Deadline))
}

/// The error that headers or trailers carry, if they do.
pub(super) fn status(headers: &HeaderMap) -> Result<Option<CallError>, CallError> {
    let Some(code) = headers.get("grpc-status") else { return Ok(None) };
    let text = code.to_str().unwrap_or("?");
    let code: u32 =
        text.parse().map_err(|_| CallError::Transport(format!("grpc-status {text:?} is no number")))?;
    if code == 0 {
        return Ok(None);
    }
    let message =
        headers.get("grpc-message").map(|value| percent_decoded(value.as_bytes())).unwrap_or_default();
    Ok(Some(CallError::Status { code, message }))
}

fn percent_decoded(bytes: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| tail.get(..2)).flatten();
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match value {
            Some(value) => {
                decoded.push(value);
                rest = &tail[2..];
            }
            None => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The one message in a body of length-prefixed messages.
fn unframe(body: Bytes) -> Result<Bytes, CallError> {
    let bad = |what: &str| CallError::Transport(format!("{what}: {} bytes", body.len()));
    let Some((head, message)) = body.split_first_chunk::<5>() else {
        return Err(bad("answer without a message"));
    };
    if head[0] != 0 {
        return Err(bad("compressed answer that nobody asked for"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if usize::try_from(length).ok() != Some(message.len()) {
        return Err(bad("not exactly one message"));
    }
    Ok(body.slice(5..))
}
