//! Catch-up by checkpoint: a leader's file becomes the state of a member that needs entries which
//! nobody holds any more.
//!
//! ```text
//! leader    raft: Snapshot message ─► file, piece by piece ─► bulk stream ───┐        ┌─► message
//! follower                            check, build the machine, write the file, sync, rename
//!                                     message stepped ─► install: log reset, store replaced
//! ```
//!
//! The content goes first, on a stream of its own; the Snapshot message follows when the receiver says
//! that the file is durable. So a message that is stepped always finds its content, and a crash
//! anywhere finds either the old state with its log, or the new file, before which the log gives way
//! (`wal`'s `recover`). A file that arrived is no promise: if its message never comes, the member goes on
//! with its log, and a restart takes the file, which holds nothing but what was committed.
//!
//! One stream to a peer and one incoming stream at a time; the newest incoming one wins, since whoever
//! leads now began it last. A stream that breaks is resumed where it broke, for `KEPT` long, when the
//! same file comes again.
//! While clients write, a stream rests between its pieces (`pace`); its helper threads have low priority.
//! Cost on the executor: the copies of the transport. Disk, checksums and the machine's making are
//! helper threads' work. Memory: some pieces on either side, and the machine at the receiver.

mod begin;
mod incoming;
mod pace;
mod source;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{self, TryRecvError, TrySendError};
use futures_lite::future;

use self::begin::Begin;
use self::incoming::{Fault, Incoming};
pub(in crate::shell) use self::pace::Load;
use self::pace::Pace;
use self::source::{Source, SourceError};
use crate::apply::Machine;
use crate::raft::{CheckpointMeta, Message};
use crate::shell::peer::{BulkError, BulkReader, Transport};
use crate::shell::runtime::helpers::Helpers;
use crate::shell::runtime::mesh::{Doorbell, RingsAtEnd, SharedBell};
use crate::shell::store::checkpoint_file;
use crate::types::{ClusterId, LogIndex, MemberId};

/// How long a stream's end may take to become a durable file and a machine.
const FINISH_PATIENCE: Duration = Duration::from_secs(300);

/// How long a failed transfer is left alone: raft asks again as soon as it hears of the failure.
const RETRY: Duration = Duration::from_secs(1);

/// How long what has come of a broken stream waits for the rest, and a whole one for its message.
const KEPT: Duration = Duration::from_secs(60);

/// Pieces that wait for the receiving thread.
const PIECES_WAITING_MAX: usize = 4;

/// A checkpoint whose file is durable.
pub(in crate::shell) struct Arrived {
    pub machine: Box<Machine>,
}

/// How a transfer to a peer ended.
#[derive(Debug)]
pub(in crate::shell) struct Sent {
    pub peer: MemberId,
    pub arrived: bool,
    /// What the content was sent for.
    pub message: Option<Message>,
    number: u64,
}

/// Whose checkpoints travel, and where they lie.
#[derive(Debug, Clone)]
pub(in crate::shell) struct Place {
    pub dir: PathBuf,
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// The raft role's transfers. Lives on its executor.
pub(in crate::shell) struct Transfers {
    place: Rc<Place>,
    helpers: Helpers,
    bell: Doorbell,
    load: Rc<Load>,
    outgoing: BTreeMap<MemberId, Outgoing>,
    /// Transfers begun so far.
    number: u64,
    sent: Rc<RefCell<VecDeque<Sent>>>,
    receiver: Rc<Receiver>,
    _receiving: glommio::Task<()>,
}

struct Outgoing {
    meta: CheckpointMeta,
    message: Rc<RefCell<Message>>,
    number: u64,
    /// Dropped, the transfer ends.
    _task: glommio::Task<()>,
}

impl Transfers {
    /// Transfers of a member whose state machine stands at `applied`; `bell` is rung when `take_sent`
    /// has something.
    #[must_use]
    pub(in crate::shell) fn new(place: Place, applied: LogIndex, helpers: Helpers, bell: Doorbell) -> Self {
        let place = Rc::new(place);
        let shared = Arc::<SharedBell>::default();
        let receiver = Rc::new(Receiver {
            place: Rc::clone(&place),
            helpers: helpers.clone(),
            bell: Doorbell::new(Arc::clone(&shared)),
            shared,
            files: Cell::new(0),
            next: RefCell::default(),
            applied: Cell::new(applied),
            partial: RefCell::default(),
            arrived: RefCell::default(),
        });
        let receiving = Rc::clone(&receiver);
        Self {
            place,
            helpers,
            bell,
            load: Rc::default(),
            outgoing: BTreeMap::new(),
            number: 0,
            sent: Rc::default(),
            receiver,
            _receiving: glommio::spawn_local(async move { receiving.run().await }),
        }
    }

    /// What the streams' pace is told.
    pub(in crate::shell) fn load(&self) -> &Load {
        &self.load
    }

    /// Sends the content that `message`, a Snapshot message, stands for. `take_sent` tells how that
    /// ended.
    pub(in crate::shell) fn send(&mut self, transport: &Rc<Transport>, message: Message) {
        let (peer, meta) = (message.to(), message.checkpoint().expect("a Snapshot message"));
        // How an earlier one ended says nothing about this one.
        let has_ended = {
            let mut sent = self.sent.borrow_mut();
            let before = sent.len();
            sent.retain(|sent| sent.peer != peer);
            sent.len() < before
        };
        if !has_ended
            && let Some(outgoing) = self.outgoing.get(&peer)
            && outgoing.meta == meta
        {
            // The same content for a newer term.
            outgoing.message.replace(message);
            return;
        }
        self.number += 1;
        let number = self.number;
        let message = Rc::new(RefCell::new(message));
        let task = {
            let transfer = Transfer {
                place: Rc::clone(&self.place),
                helpers: self.helpers.clone(),
                load: Rc::clone(&self.load),
                peer,
                meta: meta.clone(),
            };
            let (transport, message) = (Rc::clone(transport), Rc::clone(&message));
            let (sent, bell) = (Rc::clone(&self.sent), self.bell.clone());
            glommio::spawn_local(async move {
                let arrived = transfer.run(&transport).await;
                let message = Some(message.borrow().clone());
                sent.borrow_mut().push_back(Sent { peer, arrived, message, number });
                bell.ring();
            })
        };
        self.outgoing.insert(peer, Outgoing { meta, message, number, _task: task });
    }

    /// This member does not lead any more: what it sends is not for it to send.
    pub(in crate::shell) fn stop_sending(&mut self) {
        self.outgoing.clear();
        self.sent.borrow_mut().clear();
    }

    /// A transfer that has ended.
    pub(in crate::shell) fn take_sent(&mut self) -> Option<Sent> {
        let sent = self.sent.borrow_mut().pop_front()?;
        let ended = self.outgoing.remove(&sent.peer);
        assert!(ended.is_some_and(|ended| ended.number == sent.number), "one transfer to a peer at a time");
        Some(sent)
    }

    /// Whether `take_sent` has something.
    pub(in crate::shell) fn has_event(&self) -> bool {
        !self.sent.borrow().is_empty()
    }

    /// Takes a stream that another member began.
    pub(in crate::shell) fn receive(&mut self, reader: BulkReader) {
        let before = self.receiver.next.replace(Some(reader));
        if let Some(before) = before {
            before.refuse(SUPERSEDED);
        }
        self.receiver.bell.ring();
    }

    /// Whether the content of `meta` is here. What its message makes of it is taken in the same turn.
    pub(in crate::shell) fn has_arrived(&self, meta: &CheckpointMeta) -> bool {
        self.receiver.arrived.borrow().as_ref().is_some_and(|(arrived, _)| arrived == meta)
    }

    /// The content of `meta`, which has arrived. Older files go.
    pub(in crate::shell) fn take_arrived(&mut self, meta: &CheckpointMeta) -> Arrived {
        let (arrived, machine) = self.receiver.arrived.take().expect("raft installs what has arrived");
        assert_eq!(arrived, *meta, "raft installs what has arrived");
        let (dir, index) = (self.place.dir.clone(), meta.index);
        self.helpers.run("checkpoint-tidy", move || {
            if let Err(error) = checkpoint_file::remove_older(&dir, index) {
                tracing::warn!(%error, "an old checkpoint cannot be removed; the next one tries again");
            }
        });
        Arrived { machine }
    }

    /// The state machine stands at `applied`: nothing up to there needs to come.
    pub(in crate::shell) fn on_applied(&self, applied: LogIndex) {
        let receiver = &self.receiver;
        receiver.applied.set(applied);
        let is_overtaken = receiver.arrived.borrow().as_ref().is_some_and(|(meta, _)| meta.index <= applied);
        if is_overtaken {
            receiver.drop_arrived();
        }
        if receiver.is_overtaken() {
            receiver.bell.ring();
        }
    }
}

/// What the sender of an older stream hears.
const SUPERSEDED: &str = "a newer stream took its place";

/// The sending of one checkpoint to one peer.
struct Transfer {
    place: Rc<Place>,
    helpers: Helpers,
    load: Rc<Load>,
    peer: MemberId,
    meta: CheckpointMeta,
}

#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Stream(#[from] BulkError),
    #[error("the receiver asks for byte {offset} of {bytes}")]
    Offset { offset: u64, bytes: u64 },
}

impl Transfer {
    /// Whether the peer has it.
    async fn run(self, transport: &Rc<Transport>) -> bool {
        let (peer, index) = (self.peer, self.meta.index.0);
        match self.send(transport).await {
            Ok(()) => true,
            // Raft knows the newer one by the time it asks again.
            Err(TransferError::Source(error @ SourceError::Gone { .. })) => {
                tracing::debug!(%peer, index, %error, "checkpoint not sent");
                false
            }
            Err(error) => {
                tracing::warn!(%peer, index, %error, "checkpoint not sent; it is tried again");
                glommio::timer::sleep(RETRY).await;
                false
            }
        }
    }

    async fn send(&self, transport: &Rc<Transport>) -> Result<(), TransferError> {
        let started = Instant::now();
        let source = Source::open(&self.helpers, &self.place.dir, &self.meta);
        let begin = source.begin().await?;
        let mut writer = transport.open_bulk(self.peer, begin.encode()).await?;
        let (offset, bytes) = (writer.offset(), begin.bytes);
        if bytes < offset {
            return Err(TransferError::Offset { offset, bytes });
        }
        let (peer, index) = (self.peer, self.meta.index.0);
        tracing::info!(%peer, index, bytes, offset, "sending a checkpoint");
        source.start_at(offset);
        let mut pace = Pace::new(&self.load, bytes);
        let mut began = Instant::now();
        while let Some(piece) = source.next().await? {
            let piece_bytes = piece.len() as u64;
            writer.write(piece).await?;
            let now = Instant::now();
            let rest = pace.rest(now, piece_bytes, now - began, writer.offset());
            if !rest.is_zero() {
                glommio::timer::sleep(rest).await;
            }
            began = Instant::now();
        }
        writer.finish(FINISH_PATIENCE).await?;
        tracing::info!(%peer, index, seconds = started.elapsed().as_secs_f64(), "checkpoint sent");
        Ok(())
    }
}

/// The receiving side. One task takes one stream after another.
struct Receiver {
    place: Rc<Place>,
    helpers: Helpers,
    /// The task's.
    bell: Doorbell,
    shared: Arc<SharedBell>,
    /// Received so far: a file that is being removed has another name than the one that comes next.
    files: Cell<u64>,
    /// The stream that comes next.
    next: RefCell<Option<BulkReader>>,
    applied: Cell<LogIndex>,
    /// What has come of a stream that broke. None while one is being received.
    partial: RefCell<Option<Box<Incoming>>>,
    arrived: RefCell<Option<(CheckpointMeta, Box<Machine>)>>,
}

/// What the receiving thread made of a stream.
enum Outcome {
    Whole(Box<Machine>),
    /// The stream broke.
    Broken(Box<Incoming>),
    Refused(Fault),
}

/// How the stream to the receiving thread ended.
enum Ended {
    /// The thread has all, or wants no more.
    Handed,
    Broken(BulkError),
    Superseded,
    Overtaken,
}

enum Piece {
    Bytes(Bytes),
    End,
}

impl Receiver {
    async fn run(&self) {
        loop {
            let next = self.next.take();
            if let Some(reader) = next {
                self.receive(reader).await;
                continue;
            }
            let is_waiting = self.partial.borrow().is_some() || self.arrived.borrow().is_some();
            let is_called = || self.next.borrow().is_some() || self.is_overtaken();
            if is_waiting {
                let called = async {
                    self.bell.wait(is_called).await;
                    true
                };
                let late = async {
                    glommio::timer::sleep(KEPT).await;
                    false
                };
                if !future::or(called, late).await {
                    self.drop_partial();
                    self.drop_arrived();
                }
            } else {
                self.bell.wait(is_called).await;
            }
            if self.is_overtaken() {
                self.drop_partial();
            }
        }
    }

    /// Whether the state machine has got past what was coming.
    fn is_overtaken(&self) -> bool {
        self.partial.borrow().as_ref().is_some_and(|partial| self.is_applied(partial.begin().header.index))
    }

    fn is_applied(&self, index: LogIndex) -> bool {
        index <= self.applied.get()
    }

    fn drop_partial(&self) {
        if let Some(partial) = self.partial.take() {
            self.helpers.discard(partial);
        }
    }

    fn drop_arrived(&self) {
        if let Some(arrived) = self.arrived.take() {
            self.helpers.discard(arrived);
        }
    }

    async fn receive(&self, mut reader: BulkReader) {
        let from = reader.from;
        let begin = match Begin::decode(reader.header.clone()).and_then(|begin| self.admit(begin)) {
            Ok(begin) => begin,
            Err(reason) => {
                tracing::warn!(%from, reason, "a checkpoint that another member sends is refused");
                return reader.refuse(&reason);
            }
        };
        let (meta, bytes) = (begin.meta(), begin.bytes);
        if self.arrived.borrow().as_ref().is_some_and(|(arrived, _)| *arrived == meta) {
            // Its message was lost. Members have the same state at the same index.
            reader.accept(bytes);
            return match reader.next().await {
                Ok(None) => reader.finish(),
                Ok(Some(_)) => reader.refuse("bytes past the end"),
                Err(error) => tracing::debug!(%from, %error, "a stream that had arrived broke"),
            };
        }
        let started = Instant::now();
        let partial = self.partial.take();
        let partial = match partial {
            Some(partial) if *partial.begin() == begin => Some(partial),
            Some(other) => {
                self.helpers.discard(other);
                None
            }
            None => None,
        };
        let offset = partial.as_ref().map_or(0, |partial| partial.received());
        tracing::info!(%from, index = meta.index.0, bytes, offset, "receiving a checkpoint");
        let (pieces, outcome) = self.start_thread(begin, partial);
        reader.accept(offset);
        let ended = self.hand_over(&mut reader, meta.index, &pieces).await;
        drop(pieces);
        let outcome = loop {
            match outcome.try_recv() {
                Ok(outcome) => break Some(outcome),
                Err(TryRecvError::Disconnected) => break None,
                Err(TryRecvError::Empty) => self.bell.wait_once(|| !outcome.is_empty()).await,
            }
        };
        match (outcome, ended) {
            (Some(Outcome::Whole(machine)), _) => {
                tracing::info!(
                    %from,
                    index = meta.index.0,
                    revision = machine.store().current_revision(),
                    seconds = started.elapsed().as_secs_f64(),
                    "checkpoint received"
                );
                self.drop_arrived();
                if self.is_applied(meta.index) {
                    self.helpers.discard(machine);
                } else {
                    self.arrived.replace(Some((meta, machine)));
                }
                reader.finish();
            }
            (Some(Outcome::Broken(incoming)), ended) => {
                let offset = incoming.received();
                self.partial.replace(Some(incoming));
                match ended {
                    Ended::Superseded => reader.refuse(SUPERSEDED),
                    Ended::Overtaken => reader.refuse("this member has applied past it meanwhile"),
                    Ended::Broken(error) => {
                        tracing::warn!(%from, index = meta.index.0, offset, %error, "a checkpoint's stream broke");
                    }
                    Ended::Handed => unreachable!("the thread ends by itself with a verdict"),
                }
            }
            (Some(Outcome::Refused(fault)), _) => {
                tracing::error!(%from, index = meta.index.0, %fault, "a checkpoint that another member sent is not taken");
                reader.refuse(&format!("not taken: {fault}"));
            }
            (None, _) => reader.refuse("no thread could be started to receive it"),
        }
    }

    fn admit(&self, begin: Begin) -> Result<Begin, String> {
        let header = &begin.header;
        if header.cluster != self.place.cluster {
            return Err(format!(
                "the checkpoint is of cluster {}, this member belongs to {}",
                header.cluster, self.place.cluster
            ));
        }
        if self.is_applied(header.index) {
            return Err(format!(
                "the checkpoint ends at {}, this member has applied {}",
                header.index.0,
                self.applied.get().0
            ));
        }
        if let Some((arrived, _)) = self.arrived.borrow().as_ref()
            && header.index < arrived.index
        {
            return Err(format!("a newer checkpoint has arrived, at {}", arrived.index.0));
        }
        Ok(begin)
    }

    fn start_thread(
        &self,
        begin: Begin,
        partial: Option<Box<Incoming>>,
    ) -> (channel::Sender<Piece>, channel::Receiver<Outcome>) {
        let (pieces, inbox) = channel::bounded(PIECES_WAITING_MAX);
        let (give, outcome) = channel::bounded(1);
        let (dir, own) = (self.place.dir.clone(), self.place.member);
        self.files.set(self.files.get() + 1);
        let number = self.files.get();
        let taker = Taker { inbox, give, end: RingsAtEnd(Arc::clone(&self.shared)) };
        self.helpers.run_in_background("checkpoint-take", move || {
            let incoming = match partial {
                Some(partial) => Ok(partial),
                None => Incoming::create(&dir, number, begin, own).map(Box::new),
            };
            taker.run(incoming);
        });
        (pieces, outcome)
    }

    /// Gives what the stream brings to the thread, until either of them ends or something newer comes.
    async fn hand_over(
        &self,
        reader: &mut BulkReader,
        index: LogIndex,
        pieces: &channel::Sender<Piece>,
    ) -> Ended {
        let is_called = || self.next.borrow().is_some() || self.is_applied(index);
        loop {
            let read = async { Some(reader.next().await) };
            let called = async {
                self.bell.wait(is_called).await;
                None
            };
            let piece = match future::or(read, called).await {
                Some(Ok(Some((_offset, bytes)))) => Piece::Bytes(bytes),
                Some(Ok(None)) => Piece::End,
                Some(Err(error)) => return Ended::Broken(error),
                None if self.is_applied(index) => return Ended::Overtaken,
                None => return Ended::Superseded,
            };
            let is_end = matches!(piece, Piece::End);
            let mut waiting = Some(piece);
            while let Some(piece) = waiting.take() {
                match pieces.try_send(piece) {
                    Ok(()) => {}
                    Err(TrySendError::Disconnected(_)) => return Ended::Handed,
                    Err(TrySendError::Full(piece)) => {
                        waiting = Some(piece);
                        self.bell.wait_once(|| !pieces.is_full()).await;
                    }
                }
            }
            if is_end {
                return Ended::Handed;
            }
        }
    }
}

/// The receiving thread's side. The channels go before the last ring.
struct Taker {
    inbox: channel::Receiver<Piece>,
    give: channel::Sender<Outcome>,
    end: RingsAtEnd,
}

impl Taker {
    fn run(self, incoming: Result<Box<Incoming>, Fault>) {
        let outcome = incoming.and_then(|incoming| self.take(incoming)).unwrap_or_else(Outcome::Refused);
        // Nobody waits for it any more when the process stops.
        self.give.send(outcome).ok();
    }

    fn take(&self, mut incoming: Box<Incoming>) -> Result<Outcome, Fault> {
        while let Ok(piece) = self.inbox.recv() {
            self.end.0.ring();
            match piece {
                Piece::Bytes(bytes) => incoming.take(&bytes)?,
                Piece::End => return incoming.finish().map(Outcome::Whole),
            }
        }
        Ok(Outcome::Broken(incoming))
    }
}
