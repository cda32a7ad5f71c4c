//! What a stream says of itself before its first byte.

use bytes::Bytes;
use prost::Message as _;

use crate::checkpoint::format::{Decoder, FRAME_HEADER_BYTES, Frame, Header};
use crate::pb::peer as pb;
use crate::raft::CheckpointMeta;

/// Version of the stream that this code speaks.
const FORMAT: u32 = 1;

/// A file of a member: equal ones have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begin {
    pub header: Header,
    /// The header as the file holds it.
    pub frame: Bytes,
    /// Of the whole file.
    pub bytes: u64,
    pub generation: u64,
}

impl Begin {
    pub(super) fn encode(&self) -> Bytes {
        let begin = pb::CheckpointBegin {
            format: FORMAT,
            header: self.frame.clone(),
            bytes: self.bytes,
            generation: self.generation,
        };
        begin.encode_to_vec().into()
    }

    /// # Errors
    /// Why this is no such header, for the other side and the log.
    pub(super) fn decode(bytes: Bytes) -> Result<Self, String> {
        let begin = pb::CheckpointBegin::decode(bytes)
            .map_err(|error| format!("a checkpoint's header does not decode: {error}"))?;
        if begin.format != FORMAT {
            return Err(format!(
                "a checkpoint stream of format {}, this version knows {FORMAT}: start a newer version",
                begin.format
            ));
        }
        let Some((head, payload)) = begin.header.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err("a checkpoint without a header".to_owned());
        };
        match Decoder::default().frame(*head, payload) {
            Ok(Frame::Header(header)) => {
                Ok(Self { header, frame: begin.header, bytes: begin.bytes, generation: begin.generation })
            }
            Ok(Frame::Block(_) | Frame::Trailer) => unreachable!("the first frame is a header or an error"),
            Err(error) => Err(format!("a checkpoint's header: {error}")),
        }
    }

    pub(super) fn meta(&self) -> CheckpointMeta {
        let Header { index, term, voters, learners, .. } = self.header.clone();
        CheckpointMeta { index, term, voters, learners }
    }
}
