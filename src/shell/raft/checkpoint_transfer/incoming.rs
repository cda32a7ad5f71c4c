//! The receiving side's work, done on a helper thread: another member's checkpoint becomes a file of
//! this member and a state machine at the same time.
//!
//! Every frame is checked when it is complete, fed to the machine in the making, and written under
//! this member's own header, since recovery takes no other member's file. Under its final name the file
//! is whole, durable and known to be a state; until then it is `*.incoming`, removed with this value or
//! at the next start.
//! Memory: the machine, a frame and a piece.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::begin::Begin;
use crate::apply::Machine;
use crate::apply::checkpoint::{Restore, RestoreError};
use crate::checkpoint::format::{Decoder, Encoder, FRAME_HEADER_BYTES, FormatError, Frame, Header};
use crate::shell::store::checkpoint_file::{INCOMING_SUFFIX, Output, path_of, sync_dir};
use crate::types::MemberId;

/// Why a checkpoint is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Format(#[from] FormatError),
    #[error("its state: {0}")]
    State(#[from] RestoreError),
    #[error("it is not what its header says: {0}")]
    Header(&'static str),
    #[error("writing it to {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A checkpoint of which a first part is here.
pub(super) struct Incoming {
    begin: Begin,
    dir: PathBuf,
    aside: PathBuf,
    decoder: Decoder,
    encoder: Encoder,
    restore: Restore,
    pub(super) output: Option<Output>,
    received: u64,
    /// A frame whose rest has not come.
    pending: Vec<u8>,
    /// Frames on their way to the file.
    frames: Vec<u8>,
    trailer: bool,
}

impl Incoming {
    /// Begins the checkpoint's file in `dir`, as one of member `own`. `number` makes its name unique.
    ///
    /// # Errors
    /// What the file system answered.
    pub(super) fn create(dir: &Path, number: u64, begin: Begin, own: MemberId) -> Result<Self, Fault> {
        let aside = path_of(dir, begin.header.index).with_extension(format!("{number}.{INCOMING_SUFFIX}"));
        let output = Output::create(&aside).map_err(|source| Fault::Io { path: aside.clone(), source })?;
        let mut frames = Vec::new();
        let encoder = Encoder::new(&Header { member: own, ..begin.header.clone() }, &mut frames);
        Ok(Self {
            begin,
            dir: dir.to_owned(),
            aside,
            decoder: Decoder::default(),
            encoder,
            restore: Restore::new(),
            output: Some(output),
            received: 0,
            pending: Vec::new(),
            frames,
            trailer: false,
        })
    }

    pub(super) fn begin(&self) -> &Begin {
        &self.begin
    }

    /// From where on the rest is wanted.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Takes the bytes that follow.
    ///
    /// # Errors
    /// Then nothing more can be taken.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.received += bytes.len() as u64;
        if self.begin.bytes < self.received {
            return Err(Fault::Header("it is longer"));
        }
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while let Some((head, body)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
            let Some((payload, behind)) = body.split_at_checked(self.decoder.payload_bytes(*head)?) else {
                break;
            };
            self.frame(*head, payload)?;
            rest = behind;
        }
        let used = pending.len() - rest.len();
        self.pending = pending;
        self.pending.drain(..used);
        let Self { output, frames, aside, .. } = self;
        let output = output.as_mut().expect("taken at the end");
        output.write(frames).map_err(|source| Fault::Io { path: aside.clone(), source })?;
        frames.clear();
        Ok(())
    }

    fn frame(&mut self, head: [u8; FRAME_HEADER_BYTES], payload: &[u8]) -> Result<(), Fault> {
        match self.decoder.frame(head, payload)? {
            // Its own was written at the beginning.
            Frame::Header(header) if header == self.begin.header => {}
            Frame::Header(_) => return Err(Fault::Header("it begins with another header")),
            Frame::Block(block) => {
                self.restore.feed(block)?;
                self.encoder.block(block, &mut self.frames);
            }
            Frame::Trailer => self.trailer = true,
        }
        Ok(())
    }

    /// The stream has ended: the file gets its name, durably, and the machine is whole.
    ///
    /// # Errors
    /// When something is missing or the disk does not take it.
    pub(super) fn finish(mut self) -> Result<Box<Machine>, Fault> {
        if self.received != self.begin.bytes || !self.trailer {
            self.decoder.finish()?;
            return Err(Fault::Header("it is shorter"));
        }
        let machine = Box::new(std::mem::take(&mut self.restore).finish()?);
        let (cluster, header) = (machine.cluster(), &self.begin.header);
        let is_same = cluster.id() == header.cluster
            && cluster.voters().eq(header.voters.iter().copied())
            && cluster.learners().eq(header.learners.iter().copied());
        if !is_same {
            return Err(Fault::Header("its members are others"));
        }
        let path = path_of(&self.dir, header.index);
        let mut write = || -> io::Result<()> {
            let mut output = self.output.take().expect("taken here only");
            let encoder = std::mem::replace(&mut self.encoder, Encoder::new(header, &mut Vec::new()));
            encoder.finish(&mut self.frames);
            output.write(&self.frames)?;
            output.finish()?;
            fs::rename(&self.aside, &path)?;
            sync_dir(&self.dir)
        };
        write().map_err(|source| Fault::Io { path: path.clone(), source })?;
        Ok(machine)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After the rename there is nothing of this name.
        fs::remove_file(&self.aside).ok();
    }
}
