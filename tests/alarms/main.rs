//! Alarms, the comparison of data between members, and entries of later releases, with real processes.
//!
//! The difference that a comparison must find is made by hand: a stopped member's checkpoint is read,
//! one value in it exchanged, and all checksums made anew, which is what a fault in memory or an
//! earlier release's bug leaves behind. Nothing in the product can do that.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod against_etcd;
mod cluster;
mod corrupt;
mod forge;
mod quota;
mod versions;

use bytes::Bytes;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use prost::Message;

pub const GET: i32 = 0;
pub const ACTIVATE: i32 = 1;
pub const DEACTIVATE: i32 = 2;
pub const NO_SPACE: i32 = 1;
pub const CORRUPT: i32 = 2;

async fn unary<A: Message + Default>(
    client: &Client,
    path: &str,
    request: &impl Message,
) -> Result<A, CallError> {
    let answer: Bytes = client.call(path, request.encode_to_vec().into()).await?;
    Ok(A::decode(answer).unwrap())
}

pub async fn alarm(
    client: &Client,
    action: i32,
    alarm: i32,
    member_id: u64,
) -> Result<pb::AlarmResponse, CallError> {
    let request = pb::AlarmRequest { action, member_id, alarm };
    unary(client, "/etcdserverpb.Maintenance/Alarm", &request).await
}

pub async fn status(client: &Client) -> pb::StatusResponse {
    unary(client, "/etcdserverpb.Maintenance/Status", &pb::StatusRequest::default()).await.unwrap()
}

/// Code and text of a refusal.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, CallError>) -> (u32, String) {
    match answer {
        Err(CallError::Status { code, message }) => (code, message),
        other => panic!("no refusal: {other:?}"),
    }
}
