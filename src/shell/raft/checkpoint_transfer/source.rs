//! The sending side's thread: reads a checkpoint file ahead of the stream.
//!
//! Bounds: `PIECES_AHEAD` pieces of `PIECE_BYTES` in memory, whatever the file's size.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use crossbeam::channel::{self, TryRecvError};

use super::begin::Begin;
use crate::checkpoint::format::{Decoder, FRAME_HEADER_BYTES, Frame};
use crate::raft::CheckpointMeta;
use crate::shell::runtime::helpers::Helpers;
use crate::shell::runtime::mesh::{Doorbell, RingsAtEnd, SharedBell};
use crate::shell::store::checkpoint_file;

/// Bytes read at once: a stream's chunk, a tenth of a millisecond of a disk.
const PIECE_BYTES: u64 = 256 << 10;

/// Pieces that wait for the stream.
const PIECES_AHEAD: usize = 2;

/// Why a checkpoint is not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// A newer one has taken its place, or it is not there yet; raft will ask again.
    #[error("{path} is not there any more")]
    Gone { path: PathBuf },
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {problem}")]
    Damaged { path: PathBuf, problem: String },
    #[error("the thread that reads it could not be started")]
    NoThread,
}

/// A checkpoint file as a stream of pieces.
#[derive(Debug)]
pub(super) struct Source {
    pieces: channel::Receiver<Result<Piece, SourceError>>,
    start: channel::Sender<u64>,
    bell: Doorbell,
}

#[derive(Debug)]
enum Piece {
    Begin(Begin),
    Bytes(Bytes),
    End,
}

impl Source {
    /// Opens the checkpoint that `meta` stands for. The file may lose its name afterwards.
    pub(super) fn open(helpers: &Helpers, dir: &Path, meta: &CheckpointMeta) -> Self {
        let (give, pieces) = channel::bounded(PIECES_AHEAD);
        let (start, from) = channel::bounded(1);
        let shared = Arc::<SharedBell>::default();
        let (path, meta) = (checkpoint_file::path_of(dir, meta.index), meta.clone());
        let reader = Reader { path, from, give, _end: RingsAtEnd(Arc::clone(&shared)) };
        helpers.run_in_background("checkpoint-read", move || reader.run(&meta));
        Self { pieces, start, bell: Doorbell::new(shared) }
    }

    /// What the stream's header says.
    pub(super) async fn begin(&self) -> Result<Begin, SourceError> {
        match self.next_piece().await? {
            Piece::Begin(begin) => Ok(begin),
            Piece::Bytes(_) | Piece::End => unreachable!("the reader begins with the header"),
        }
    }

    /// Begins to read at `offset`, which is not past the end.
    pub(super) fn start_at(&self, offset: u64) {
        // A reader that is gone has said why.
        self.start.try_send(offset).ok();
    }

    /// The bytes that follow; none at the end.
    pub(super) async fn next(&self) -> Result<Option<Bytes>, SourceError> {
        match self.next_piece().await? {
            Piece::Bytes(bytes) => Ok(Some(bytes)),
            Piece::End => Ok(None),
            Piece::Begin(_) => unreachable!("the reader begins with the header once"),
        }
    }

    async fn next_piece(&self) -> Result<Piece, SourceError> {
        loop {
            match self.pieces.try_recv() {
                Ok(piece) => return piece,
                Err(TryRecvError::Disconnected) => return Err(SourceError::NoThread),
                Err(TryRecvError::Empty) => self.bell.wait_once(|| !self.pieces.is_empty()).await,
            }
        }
    }
}

/// The thread's side. The channel goes before the last ring.
struct Reader {
    path: PathBuf,
    from: channel::Receiver<u64>,
    give: channel::Sender<Result<Piece, SourceError>>,
    _end: RingsAtEnd,
}

impl Reader {
    fn run(self, meta: &CheckpointMeta) {
        if let Err(error) = self.read(meta) {
            self.give(Err(error));
        }
    }

    /// Whether anybody still wants it. Waits while enough is read ahead.
    fn give(&self, piece: Result<Piece, SourceError>) -> bool {
        let is_wanted = self.give.send(piece).is_ok();
        self._end.0.ring();
        is_wanted
    }

    fn read(&self, meta: &CheckpointMeta) -> Result<(), SourceError> {
        let io = |source| SourceError::Io { path: self.path.clone(), source };
        let mut file = OpenOptions::new().read(true).open(&self.path).map_err(|source| {
            let path = self.path.clone();
            if source.kind() == io::ErrorKind::NotFound {
                SourceError::Gone { path }
            } else {
                SourceError::Io { path, source }
            }
        })?;
        let begin = self.header(&mut file)?;
        let bytes = begin.bytes;
        if begin.header.index != meta.index || begin.header.term != meta.term {
            let problem = format!("it holds {:?} of {:?}", begin.header.index, begin.header.term);
            return Err(SourceError::Damaged { path: self.path.clone(), problem });
        }
        if !self.give(Ok(Piece::Begin(begin))) {
            return Ok(());
        }
        let Ok(mut offset) = self.from.recv() else { return Ok(()) };
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        while offset < bytes {
            let piece = PIECE_BYTES.min(bytes - offset);
            let mut buffer = vec![0; usize::try_from(piece).expect("a piece fits memory")];
            file.read_exact(&mut buffer).map_err(io)?;
            offset += piece;
            if !self.give(Ok(Piece::Bytes(buffer.into()))) {
                return Ok(());
            }
        }
        self.give(Ok(Piece::End));
        Ok(())
    }

    fn header(&self, file: &mut File) -> Result<Begin, SourceError> {
        let io = |source| SourceError::Io { path: self.path.clone(), source };
        let damaged = |problem: String| SourceError::Damaged { path: self.path.clone(), problem };
        let metadata = file.metadata().map_err(io)?;
        let written = metadata.modified().map_err(io)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut head = [0; FRAME_HEADER_BYTES];
        file.read_exact(&mut head).map_err(io)?;
        let mut decoder = Decoder::default();
        let length = decoder.payload_bytes(head).map_err(|error| damaged(error.to_string()))?;
        let mut frame = head.to_vec();
        frame.resize(FRAME_HEADER_BYTES + length, 0);
        file.read_exact(&mut frame[FRAME_HEADER_BYTES..]).map_err(io)?;
        let decoded = decoder.frame(head, &frame[FRAME_HEADER_BYTES..]);
        match decoded.map_err(|error| damaged(error.to_string()))? {
            Frame::Header(header) => Ok(Begin {
                header,
                frame: frame.into(),
                bytes: metadata.len(),
                // Cut to 64 bits; 584 years of nanoseconds.
                generation: u64::try_from(written.as_nanos()).unwrap_or(u64::MAX),
            }),
            Frame::Block(_) | Frame::Trailer => unreachable!("the first frame is a header or an error"),
        }
    }
}
