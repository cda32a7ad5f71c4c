//! The machine's state as a stream, written in slices while requests go on being applied.
//!
//! ```text
//! stream  = section* end
//! section = tag u8 | version u8 | len u32 | payload
//! end     = a section with tag 0, version 1 and no payload
//! ```
//! Integers are little endian. Sections come in this order:
//!
//! | tag | version | times | payload |
//! |---|---|---|---|
//! | 1 | 1 | 1 | membership: `pinion.peer.v1.Membership` |
//! | 2 | 1 | ≥ 1 | the next block of the key space, `mvcc`'s own bytes |
//!
//! The stream may be cut anywhere on its way: a reader collects what a section still misses. Sections
//! carry no checksum, that is the container's task (`checkpoint::format`); what they cannot be is
//! misread. A tag or version that is not known is refused, never skipped: it is state that other
//! members have. Leases, auth and alarms will be new tags.
//! Invariant: the state written is the one at `begin`, whatever is applied meanwhile.

use bytes::Bytes;

use super::Machine;
use crate::membership::Cluster;
use crate::mvcc;

const END: u8 = 0;
const MEMBERSHIP: u8 = 1;
const KEY_SPACE: u8 = 2;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 6;

/// A checkpoint under way. Ended by `Machine::end_checkpoint`, finished or not.
#[must_use = "holds back compaction until it is ended"]
pub struct Checkpoint {
    /// Written first; membership is small.
    membership: Option<Vec<u8>>,
    key_space: mvcc::CheckpointCursor,
    done: bool,
}

/// Why a stream is not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("section {tag} of version {version} is not understood: written by a newer release?")]
    Unknown { tag: u8, version: u8 },
    #[error("section {tag} is out of place")]
    Order { tag: u8 },
    #[error("the membership section does not decode: {0}")]
    Membership(String),
    #[error("the stream ends early")]
    Truncated,
    #[error("bytes follow the end of the stream")]
    Trailing,
    #[error("the key space: {0}")]
    KeySpace(#[from] mvcc::RestoreError),
}

impl Machine {
    /// Starts a checkpoint of the present state.
    pub fn begin_checkpoint(&mut self) -> Checkpoint {
        Checkpoint {
            membership: Some(self.cluster.encode()),
            key_space: self.store.begin_checkpoint(),
            done: false,
        }
    }

    /// Appends about `bytes_max` bytes of the stream to `out`. True when that was the last.
    pub fn checkpoint_slice(&self, checkpoint: &mut Checkpoint, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        assert!(!checkpoint.done, "a slice was asked for behind the last");
        if let Some(membership) = checkpoint.membership.take() {
            put_section(out, MEMBERSHIP, |out| out.extend_from_slice(&membership));
            return false;
        }
        let key_space = &mut checkpoint.key_space;
        put_section(out, KEY_SPACE, |out| {
            checkpoint.done = self.store.checkpoint_slice(key_space, bytes_max, out);
        });
        if checkpoint.done {
            put_section(out, END, |_| ());
        }
        checkpoint.done
    }

    /// Lets compaction go on.
    pub fn end_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.store.end_checkpoint(checkpoint.key_space);
    }
}

fn put_section(out: &mut Vec<u8>, tag: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[tag, VERSION, 0, 0, 0, 0]);
    let start = out.len();
    payload(out);
    let len = u32::try_from(out.len() - start).expect("a slice is far below 4 GiB");
    out[start - 4..start].copy_from_slice(&len.to_le_bytes());
}

/// Rebuilds a machine from a stream.
#[derive(Default)]
pub struct Restore {
    /// The head of a section whose rest has not come yet.
    pending: Vec<u8>,
    cluster: Option<Cluster>,
    key_space: Option<mvcc::Restore>,
    ended: bool,
}

impl Restore {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the stream, cut wherever.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        let mut rest = piece;
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(piece);
            let pending = std::mem::take(&mut self.pending);
            let used = self.sections(&pending)?;
            self.pending = pending;
            self.pending.drain(..used);
            return Ok(());
        }
        let used = self.sections(rest)?;
        rest = &rest[used..];
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Takes all complete sections in front; returns how many bytes they are.
    fn sections(&mut self, bytes: &[u8]) -> Result<usize, RestoreError> {
        let mut rest = bytes;
        while let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let &[tag, version, l0, l1, l2, l3] = header;
            // Refused before its payload is waited for, and so before it can take memory.
            self.check_section(tag, version)?;
            let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            let Some((payload, behind)) = body.split_at_checked(len) else { break };
            self.section(tag, payload)?;
            rest = behind;
        }
        if self.ended && !rest.is_empty() {
            return Err(RestoreError::Trailing);
        }
        Ok(bytes.len() - rest.len())
    }

    fn check_section(&self, tag: u8, version: u8) -> Result<(), RestoreError> {
        if self.ended {
            return Err(RestoreError::Trailing);
        }
        if version != VERSION || !matches!(tag, END | MEMBERSHIP | KEY_SPACE) {
            return Err(RestoreError::Unknown { tag, version });
        }
        let in_place = match tag {
            MEMBERSHIP => self.cluster.is_none() && self.key_space.is_none(),
            KEY_SPACE => self.cluster.is_some(),
            _ => self.key_space.is_some(),
        };
        if in_place { Ok(()) } else { Err(RestoreError::Order { tag }) }
    }

    fn section(&mut self, tag: u8, payload: &[u8]) -> Result<(), RestoreError> {
        match tag {
            MEMBERSHIP => {
                let cluster = Cluster::decode(Bytes::copy_from_slice(payload))
                    .map_err(|error| RestoreError::Membership(error.to_string()))?;
                self.cluster = Some(cluster);
            }
            KEY_SPACE => self.key_space.get_or_insert_default().feed(payload)?,
            _ => self.ended = true,
        }
        Ok(())
    }

    /// The machine, once the whole stream was fed.
    pub fn finish(self) -> Result<Machine, RestoreError> {
        if !self.ended {
            return Err(RestoreError::Truncated);
        }
        let (Some(cluster), Some(key_space)) = (self.cluster, self.key_space) else {
            return Err(RestoreError::Truncated);
        };
        Ok(Machine::new(key_space.finish()?, cluster))
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
