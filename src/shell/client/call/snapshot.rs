//! `Maintenance.Snapshot`: the pieces of a file, each a message, and the hash of all behind them.
//!
//! The file is made by the store (`backup::Export`); here it is summed and framed. A piece is asked for when one has
//! left, so a client that does not read costs `PIECES_MAX` of them and what the file pins in the store.
//!
//! Compatibility: `remaining_bytes` counts the file without its hash, as in etcd, and there is no header. Each message
//! says the version of the layout, as those of etcd 3.6 and later.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::account::Account;
use super::end::{CallEnd, Ended};
use super::pieces::Passing;
use crate::shell::client::Backend;
use crate::shell::client::responder::{AnswerStream, Responder};
use crate::shell::client::signal::Signal;
use crate::types::format::ETCD_STORAGE_VERSION;
use crate::types::proto::{put_bytes_field, put_message_head, put_uint_field};

/// Bytes that are summed before others have their turn.
const SUMMED_BYTES: usize = 32 << 10;

/// Fields of `SnapshotResponse`.
const REMAINING_BYTES: u8 = 2;
const BLOB: u8 = 3;
const VERSION: u8 = 4;

/// What comes next.
enum Next {
    Piece(Bytes),
    /// That was the last piece.
    End,
}

/// Passes a snapshot on to a client.
pub(super) async fn pass_on<B: Backend>(
    passing: &Passing<B>,
    account: &Rc<Account>,
    responder: Responder,
    end: &CallEnd,
) {
    let Some(mut stream) = responder.open() else { return };
    let ended = pass_pieces(passing, account, &mut stream, end).await;
    stream.end(ended);
}

async fn pass_pieces<B: Backend>(
    passing: &Passing<B>,
    account: &Rc<Account>,
    stream: &mut AnswerStream,
    end: &CallEnd,
) -> Result<(), Ended> {
    let mut leaving = VecDeque::<Rc<Signal>>::new();
    let mut sum = Sha256::new();
    let mut sent_bytes = 0;
    loop {
        let next = poll_fn(|cx| {
            if stream.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Ended::Gone));
            }
            if let Poll::Ready(status) = end.poll(cx) {
                return Poll::Ready(Err(status.into()));
            }
            while leaving.front().is_some_and(|has_left| has_left.poll_fired(cx).is_ready()) {
                leaving.pop_front();
                passing.ask_for_more();
            }
            passing.poll_next(cx).map(|next| match next {
                Ok(Some(piece)) => Ok(Next::Piece(piece)),
                Ok(None) => Ok(Next::End),
                Err(status) => Err(status.into()),
            })
        });
        match next.await? {
            Next::Piece(piece) => {
                for part in piece.chunks(SUMMED_BYTES) {
                    sum.update(part);
                    glommio::yield_if_needed().await;
                }
                sent_bytes += piece.len() as u64;
                let remaining_bytes = passing.body_bytes().saturating_sub(sent_bytes);
                leaving.push_back(send(stream, account, remaining_bytes, piece)?);
            }
            Next::End => {
                send(stream, account, 0, sum.finalize().to_vec().into())?;
                return Ok(());
            }
        }
    }
}

fn send(
    stream: &mut AnswerStream,
    account: &Rc<Account>,
    remaining_bytes: u64,
    blob: Bytes,
) -> Result<Rc<Signal>, Ended> {
    let mut version = Vec::new();
    put_bytes_field(&mut version, VERSION, ETCD_STORAGE_VERSION.as_bytes());
    let head = |out: &mut Vec<u8>| {
        put_uint_field(out, REMAINING_BYTES, remaining_bytes);
        put_message_head(out, BLOB, blob.len());
    };
    let mut messages = stream.messages();
    messages.begin(head, blob.len() + version.len())?;
    messages.share(blob);
    messages.rest().extend_from_slice(&version);
    messages.end();
    Ok(stream.send_gathered(account)?)
}
