//! A pipe whose reader has stopped.

use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

/// A pipe that is full: a write of one byte more waits until somebody reads.
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    // Opened anew, since the writer that the process under test gets must block.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let mut piece = 4096;
    while 0 < piece {
        match filler.write(&vec![b'.'; piece]) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => piece /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    (reader, writer)
}
