//! Calls whose messages go both ways: one half sends, the other receives, each at its own pace.
//!
//! Nothing is retried and nothing is read ahead: bytes that the receiving half did not ask for stay in
//! the connection's window, so a test that stops asking is a client that stopped reading.

use std::marker::PhantomData;

use crate::pb::etcdserverpb as pb;
use crate::pb::v3electionpb as election;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use prost::Message;

use crate::client::{CallError, Client, status, within_deadline};

/// The sending half. The call is reset when both halves are dropped.
pub struct Requests<Q> {
    stream: SendStream<Bytes>,
    request: PhantomData<fn(Q)>,
}

impl<Q: Message> Requests<Q> {
    /// Never waits: what the window does not take is kept by h2.
    pub fn send(&mut self, message: &Q) -> Result<(), CallError> {
        let mut body = BytesMut::with_capacity(5 + message.encoded_len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).unwrap());
        message.encode(&mut body).expect("a BytesMut grows");
        Ok(self.stream.send_data(body.freeze(), false)?)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) -> Result<(), CallError> {
        Ok(self.stream.send_data(Bytes::new(), true)?)
    }

    /// Ends the call at once, as a client does whose user lost interest.
    pub fn reset(mut self) {
        self.stream.send_reset(h2::Reason::CANCEL);
    }
}

impl Requests<pb::WatchRequest> {
    pub fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), CallError> {
        self.union(pb::watch_request::RequestUnion::CreateRequest(request))
    }

    pub fn cancel(&mut self, watch_id: i64) -> Result<(), CallError> {
        let request = pb::WatchCancelRequest { watch_id };
        self.union(pb::watch_request::RequestUnion::CancelRequest(request))
    }

    pub fn progress(&mut self) -> Result<(), CallError> {
        self.union(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
    }

    fn union(&mut self, union: pb::watch_request::RequestUnion) -> Result<(), CallError> {
        self.send(&pb::WatchRequest { request_union: Some(union) })
    }
}

/// The receiving half.
pub struct Answers<A> {
    /// Until the first answer: gRPC servers send the head with it.
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
    answer: PhantomData<fn() -> A>,
}

impl<A: Message + Default> Answers<A> {
    /// The next message, or `None` at an end with status OK. Cancel-safe. Waits at most as long as a
    /// unary call may take.
    pub async fn next(&mut self) -> Result<Option<A>, CallError> {
        within_deadline(self.next_unbounded()).await
    }

    /// The next message, however long it takes.
    pub async fn next_unbounded(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            if let Some(head) = &mut self.head {
                let (head, body) = head.await?.into_parts();
                self.head = None;
                if let Some(error) = status(&head.headers)? {
                    return Err(error);
                }
                self.body = Some(body);
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            if let Some(chunk) = body.data().await {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                self.buffer.extend_from_slice(&chunk);
                continue;
            }
            let trailers = body.trailers().await?;
            self.body = None;
            if !self.buffer.is_empty() {
                return Err(CallError::Transport("the stream ended within a message".to_owned()));
            }
            return match trailers {
                None => Err(CallError::Transport("no trailers".to_owned())),
                Some(trailers) => match status(&trailers)? {
                    Some(error) => Err(error),
                    None => Ok(None),
                },
            };
        }
    }

    fn take_message(&mut self) -> Result<Option<A>, CallError> {
        let Some(head) = self.buffer.first_chunk::<5>() else { return Ok(None) };
        if head[0] != 0 {
            return Err(CallError::Transport("compressed answer that nobody asked for".to_owned()));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        let message = self.buffer.split_to(length).freeze();
        match A::decode(message) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(CallError::Transport(format!("undecodable answer: {error}"))),
        }
    }
}

impl Client {
    /// Opens a call of many messages. The server sees it at once, its head comes with its first answer.
    pub async fn open<Q: Message, A: Message + Default>(
        &self,
        method: &str,
    ) -> Result<(Requests<Q>, Answers<A>), CallError> {
        within_deadline(async {
            let request = self.post(method, "application/grpc");
            let mut sender = self.sender.clone().ready().await?;
            let (head, stream) = sender.send_request(request, false)?;
            let answers =
                Answers { head: Some(head), body: None, buffer: BytesMut::new(), answer: PhantomData };
            Ok((Requests { stream, request: PhantomData }, answers))
        })
        .await
    }

    pub async fn watch(&self) -> Result<(Requests<pb::WatchRequest>, Answers<pb::WatchResponse>), CallError> {
        self.open("/etcdserverpb.Watch/Watch").await
    }

    pub async fn keep_alive(
        &self,
    ) -> Result<(Requests<pb::LeaseKeepAliveRequest>, Answers<pb::LeaseKeepAliveResponse>), CallError> {
        self.open("/etcdserverpb.Lease/LeaseKeepAlive").await
    }

    /// Who leads an election, now and from now on.
    pub async fn observe(
        &self,
        name: &str,
    ) -> Result<(Requests<election::LeaderRequest>, Answers<election::LeaderResponse>), CallError> {
        let (mut requests, answers) = self.open("/v3electionpb.Election/Observe").await?;
        requests.send(&election::LeaderRequest { name: name.to_owned().into() })?;
        requests.half_close()?;
        Ok((requests, answers))
    }
}
