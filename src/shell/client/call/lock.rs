//! `v3lockpb.Lock`: `Lock` and `Unlock`.
//!
//! The queue is `rpc::queue`; how a call waits and ends is `recipe`.

use bytes::Bytes;
use prost::Message as _;

use super::decode;
use super::end::Ended;
use super::recipe::{Caller, RecipeAnswer, standing};
use crate::pb::{etcdserverpb as pb, v3lockpb};
use crate::request::{Command, RequestKind};
use crate::rpc::queue::{Contender, Purpose, rethrown};
use crate::rpc::validate;
use crate::shell::client::Backend;
use crate::types::LeaseId;

impl<B: Backend> Caller<B> {
    /// Answers when the caller holds the name.
    pub(in crate::shell::client) async fn lock(&mut self, payload: Bytes) -> Result<RecipeAnswer, Ended> {
        let request: v3lockpb::LockRequest = decode(payload)?;
        let session = self.session(LeaseId(request.lease)).await?;
        let mut contender = Contender::new(Purpose::Lock, &request.name, session.lease, Bytes::new());
        drop(request);
        let standing = self.acquire(&mut contender, session).await?;
        let key = contender.key().clone();
        Ok(RecipeAnswer { standing, body: v3lockpb::LockResponse { header: None, key }.encode_to_vec() })
    }

    /// Deletes the key, whoever's it is and whether or not it is there.
    pub(in crate::shell::client) async fn unlock(&mut self, payload: Bytes) -> Result<RecipeAnswer, Ended> {
        let request: v3lockpb::UnlockRequest = decode(payload)?;
        let delete = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
        validate::delete_range(&delete).map_err(rethrown)?;
        let body: Bytes = delete.encode_to_vec().into();
        validate::request_bytes(body.len(), self.shard.limits.request_bytes_max).map_err(rethrown)?;
        let (term, response) =
            self.ask(Command::Propose { kind: RequestKind::DeleteRange, body, login: None }).await?;
        Ok(RecipeAnswer { standing: standing(term, &response), body: Vec::new() })
    }
}
