//! Changes as events, each encoded once, many in one piece of memory.
//!
//! An event's bytes, its key and its previous version are slices of a piece that many events share, so
//! a change costs no allocation of its own. A piece is as long as what is in it and, but for one large
//! event alone, at most `PIECE_BYTES_MAX`: no event that someone keeps holds more than that beside it.

use bytes::Bytes;

use super::Event;
use crate::apply::encode::{Shown, kv_len, put_kv_field};
use crate::mvcc::{Change, KeyValueRef, Store};
use crate::types::proto::{bytes_field_len, message_field_len, put_int_field, varint_len};

/// Large enough that a small event's share of an allocation is nothing, small enough that a slow
/// client's last event does not hold much.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Fields of `mvccpb.Event`.
const TYPE: u8 = 1;
const KV: u8 = 2;
const PREV_KV: u8 = 3;
/// `EventType::DELETE`.
const DELETE: i64 = 1;

/// One that gets an event: a number that means something to the caller, and whether with `previous`.
pub(super) type Target = (u16, bool);

/// What `prev_kv` of a change shows: the version before its revision. None where that is compacted, and
/// none for a put that creates its key, even if the same transaction has deleted the key before (etcd
/// tells a creation by its revisions alone).
pub(super) fn previous<'a>(store: &'a Store, change: &Change<'_>) -> Option<KeyValueRef<'a>> {
    let creates = change.put.is_some_and(|kv| kv.create_revision == change.revision.main);
    let is_readable = store.compact_revision() < change.revision.main;
    if creates || !is_readable { None } else { store.version_before(change) }
}

/// The piece in the making.
#[derive(Debug, Default)]
pub(super) struct EventEncoder {
    piece: Vec<u8>,
    pending: Vec<Pending>,
    targets: Vec<Target>,
}

/// An event whose bytes are still in `piece`.
#[derive(Debug)]
struct Pending {
    revision: i64,
    is_delete: bool,
    body: usize,
    key: usize,
    key_len: usize,
    previous: usize,
    end: usize,
    /// End of its stretch of `targets`.
    targets: usize,
}

impl EventEncoder {
    /// Encodes `change` for `targets`; what becomes complete goes to `give`. Returns the bytes it took.
    pub(super) fn push(
        &mut self,
        change: &Change<'_>,
        previous: Option<&KeyValueRef<'_>>,
        targets: &[Target],
        mut give: impl FnMut(u16, Event),
    ) -> usize {
        let kv = change.put.unwrap_or(KeyValueRef {
            key: change.key,
            value: &[],
            create_revision: 0,
            mod_revision: change.revision.main,
            sub: change.revision.sub,
            version: 0,
            lease: 0,
            mark: change.mark,
        });
        let is_delete = change.put.is_none();
        let kv_len = kv_len(&kv, Shown::ALL);
        let previous_len = previous.map_or(0, |kv| message_field_len(self::kv_len(kv, Shown::ALL)));
        let len = usize::from(is_delete) * 2 + message_field_len(kv_len) + previous_len;
        if PIECE_BYTES_MAX < self.piece.len() + len {
            self.flush(&mut give);
        }
        if self.piece.is_empty() {
            self.piece.reserve_exact(len);
        }
        let body = self.piece.len();
        put_int_field(&mut self.piece, TYPE, if is_delete { DELETE } else { 0 });
        // The key is the first field of the first message.
        let key_head = bytes_field_len(kv.key) - kv.key.len();
        let key = self.piece.len() + 1 + varint_len(kv_len as u64) + key_head;
        put_kv_field(&mut self.piece, KV, &kv, Shown::ALL);
        let previous_at = self.piece.len();
        if let Some(previous) = previous {
            put_kv_field(&mut self.piece, PREV_KV, previous, Shown::ALL);
        }
        let end = self.piece.len();
        debug_assert_eq!(end - body, len, "the two passes disagree");
        self.targets.extend_from_slice(targets);
        self.pending.push(Pending {
            revision: change.revision.main,
            is_delete,
            body,
            key,
            key_len: kv.key.len(),
            previous: previous_at,
            end,
            targets: self.targets.len(),
        });
        len
    }

    /// Completes the piece and hands its events out, in the order they were pushed.
    pub(super) fn flush(&mut self, mut give: impl FnMut(u16, Event)) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = if PIECE_BYTES_MAX < self.piece.len() {
            // One large event, in memory of its exact size.
            Bytes::from(std::mem::take(&mut self.piece))
        } else {
            // Copied, so that the piece has no slack and the buffer stays.
            let bytes = Bytes::copy_from_slice(&self.piece);
            self.piece.clear();
            bytes
        };
        let mut targets = self.targets.drain(..);
        let mut taken = 0;
        for pending in self.pending.drain(..) {
            let event = Event {
                revision: pending.revision,
                key: bytes.slice(pending.key..pending.key + pending.key_len),
                is_delete: pending.is_delete,
                body: bytes.slice(pending.body..pending.previous),
                previous: bytes.slice(pending.previous..pending.end),
            };
            let count = pending.targets - taken;
            taken = pending.targets;
            for (target, previous) in targets.by_ref().take(count) {
                let mut event = event.clone();
                if !previous {
                    event.previous = Bytes::new();
                }
                give(target, event);
            }
        }
    }
}
