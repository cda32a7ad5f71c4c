//! Answers in pieces: what the store and the shard that asked say to each other about one.
//!
//! An answer that is long is not made in one go. Its `Begin` comes in the place of a reply and tells how long
//! the body is; the pieces follow as the client takes them. The store makes `PIECES_MAX` of them on its own
//! and one more for each `More`, so a client that stops reading costs these and what the read pins.
//!
//! ```text
//! store ─► Begin, Piece, Piece        Piece ...  End
//! store ◄─             More (one has left), ...      │ Cancel (nobody wants the rest)
//! ```

use super::Refusal;
use crate::types::{Term, Ticket};

/// Names an answer to the store that makes it. Not used again in the life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerId(pub u64);

/// From the store to the shard that asked.
#[derive(Debug)]
pub enum PieceNotice {
    /// The answer to `ticket` comes in pieces, `body_bytes` together; `revision` is its header's. A snapshot takes
    /// its time to be measured: it begins with 0, and `Length` follows.
    Begin { id: AnswerId, ticket: Ticket, term: Term, revision: i64, body_bytes: u64 },
    /// How long a snapshot is, before its first piece.
    Length { id: AnswerId, body_bytes: u64 },
    /// The next part of the body.
    Piece { id: AnswerId, bytes: Vec<u8> },
    /// All pieces are sent, or the rest will not come.
    End { id: AnswerId, result: Result<(), Refusal> },
}

/// From that shard to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceOrder {
    /// A piece has left.
    More { id: AnswerId },
    /// Nobody wants the rest. No `End` follows.
    Cancel { id: AnswerId },
    /// Nobody waits for the answer to this ticket. If the read is under way it is refused as timed out.
    Forget { ticket: Ticket },
}
