//! How a `RangeStream` is cut into slices.
//!
//! The first slice pins the revision that all others are read at, so the stream is one consistent
//! answer though writes go on between slices; a compaction that overtakes it ends it with the
//! compacted error. Slices start small, so that the first keys come at once, and then follow the
//! size of what was sent: a message is neither tiny nor far above what a unary request may be.
//!
//! Compatibility: etcd 3.7's chunk sizes; header, `more` and `count` are in the last message only.

use crate::pb::etcdserverpb as pb;
use crate::request::{RangeSlice, Response};

/// Keys of the first slice.
const KEYS_FIRST: u32 = 10;

/// Where a stream stands between two slices.
#[derive(Debug)]
pub struct RangeStream {
    request: pb::RangeRequest,
    /// Revision at which the first slice was answered: the header of the last message.
    revision: Option<i64>,
    keys_max: u32,
    keys_sent: u64,
    /// `--max-request-bytes`: what the slices' size is steered by.
    request_bytes_max: u32,
}

impl RangeStream {
    /// The slice that every stream begins with.
    #[must_use]
    pub fn first_slice(request: pb::RangeRequest) -> RangeSlice {
        RangeSlice { start: request.key.clone(), request, keys_max: KEYS_FIRST, keys_sent: 0 }
    }

    /// Follows the stream that begins with `first`.
    #[must_use]
    pub fn new(first: &RangeSlice, request_bytes_max: u32) -> Self {
        Self {
            request: first.request.clone(),
            revision: None,
            keys_max: first.keys_max,
            keys_sent: 0,
            request_bytes_max,
        }
    }

    /// Takes the answer to the last slice; returns the next one to ask for, none after the last.
    pub fn on_slice(&mut self, answer: &Response) -> Option<RangeSlice> {
        if self.revision.is_none() {
            self.revision = Some(answer.revision);
            if self.request.revision <= 0 {
                self.request.revision = answer.revision;
            }
        }
        let start = answer.resume.clone()?;
        // A slice that is not the last one is full.
        self.keys_sent += u64::from(self.keys_max);
        let (bytes, bytes_max) = (answer.body.len(), self.request_bytes_max as usize);
        if bytes < bytes_max / 2 {
            self.keys_max = self.keys_max.saturating_mul(2);
        } else if bytes > bytes_max.saturating_mul(2) {
            self.keys_max = (self.keys_max / 2).max(1);
        }
        Some(RangeSlice {
            request: self.request.clone(),
            start,
            keys_max: self.keys_max,
            keys_sent: self.keys_sent,
        })
    }

    /// `header.revision` of the last message; known once the first slice was answered.
    #[must_use]
    pub fn revision(&self) -> Option<i64> {
        self.revision
    }
}
