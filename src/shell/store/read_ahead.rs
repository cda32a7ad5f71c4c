//! A large file read once from its beginning to its end, past the page cache, a piece ahead of its reader.
//!
//! Through the cache the kernel would copy each byte once more and push out pages that are wanted; direct reads are
//! also twice as fast on most disks. A file system without direct reads is read as it can.
//! Bounds: three pieces of memory, whatever the file's size.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread::Scope;

use crossbeam::channel::{self, Receiver, Sender};

/// What direct reads ask of addresses, lengths and offsets.
const ALIGNMENT: usize = 4096;

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;
const _: () = assert!(PIECE_BYTES.is_multiple_of(ALIGNMENT));

/// Pieces that wait to be taken.
const PIECES_AHEAD: usize = 1;

/// Memory of a piece, and how much of it holds bytes.
struct Piece {
    memory: Vec<u8>,
    /// Where its aligned part begins.
    start: usize,
    length: usize,
}

impl Piece {
    fn new() -> Self {
        let memory = vec![0; PIECE_BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "a byte pointer can always be aligned");
        Self { memory, start, length: 0 }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + PIECE_BYTES]
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

/// See the module. Dropped, the thread behind it ends.
pub(super) struct ReadAhead {
    pieces: Receiver<io::Result<Piece>>,
    spares: Sender<Piece>,
    /// The piece that is being taken, and how much of it is taken.
    current: Option<(Piece, usize)>,
}

impl ReadAhead {
    /// Opens a file, whose length is answered too, and begins to read it on a thread of `scope`.
    ///
    /// # Errors
    /// What the file system answered.
    pub(super) fn open<'scope>(scope: &'scope Scope<'scope, '_>, path: &Path) -> io::Result<(Self, u64)> {
        let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = match open(libc::O_DIRECT) {
            // tmpfs and some others have no O_DIRECT.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0)?,
            opened => opened?,
        };
        let bytes = file.metadata()?.len();
        let (give, pieces) = channel::bounded(PIECES_AHEAD);
        let (spares, spare) = channel::bounded(PIECES_AHEAD + 2);
        scope.spawn(move || read(&file, &give, &spare));
        Ok((Self { pieces, spares, current: None }, bytes))
    }
}

impl io::Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.as_ref().is_none_or(|(piece, taken)| piece.length == *taken) {
            if let Some((spent, _)) = self.current.take() {
                drop(self.spares.try_send(spent));
            }
            // The thread ends behind the last piece, and behind an error.
            let Ok(piece) = self.pieces.recv() else { return Ok(0) };
            self.current = Some((piece?, 0));
        }
        let Some((piece, taken)) = &mut self.current else { return Ok(0) };
        let rest = &piece.bytes()[*taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        *taken += count;
        Ok(count)
    }
}

/// The thread: reads until the end, or until nobody takes it.
fn read(file: &File, give: &Sender<io::Result<Piece>>, spare: &Receiver<Piece>) {
    let mut offset = 0;
    loop {
        let mut piece = spare.try_recv().unwrap_or_else(|_| Piece::new());
        let outcome = loop {
            match file.read_at(piece.room(), offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        let (length, is_last) = match &outcome {
            Ok(length) => (*length, !length.is_multiple_of(ALIGNMENT) || *length == 0),
            Err(_) => (0, true),
        };
        piece.length = length;
        offset += length as u64;
        // A direct read ends between two blocks nowhere but at the end of the file. Elsewhere another one would
        // begin there, which is refused.
        let is_taken = length == 0 && outcome.is_ok() || give.send(outcome.map(|_| piece)).is_ok();
        if is_last || !is_taken {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn every_length_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let lengths = [0, 1, ALIGNMENT - 1, ALIGNMENT, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1];
        for length in lengths.into_iter().chain([5 * PIECE_BYTES, 5 * PIECE_BYTES + 4_097]) {
            let whole: Vec<u8> = (0..length).map(|number| u8::try_from(number % 251).unwrap()).collect();
            std::fs::write(&path, &whole).unwrap();
            let (read, told) = std::thread::scope(|scope| {
                let (mut input, told) = ReadAhead::open(scope, &path).unwrap();
                let mut read = Vec::new();
                input.read_to_end(&mut read).unwrap();
                (read, told)
            });
            assert_eq!(told, length as u64);
            assert!(read == whole, "{length} bytes");
        }
    }

    #[test]
    fn a_reader_that_stops_early_is_waited_for_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 9 * PIECE_BYTES]).unwrap();
        let mut first = [0; 10];
        std::thread::scope(|scope| {
            let (mut input, _) = ReadAhead::open(scope, &path).unwrap();
            input.read_exact(&mut first).unwrap();
        });
        assert_eq!(first, [7; 10]);
    }

    #[test]
    fn an_error_of_the_file_system_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = std::thread::scope(|scope| {
            let (mut input, _) = ReadAhead::open(scope, dir.path()).unwrap();
            input.read(&mut [0; 10]).unwrap_err()
        });
        assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
    }
}
