//! One connection, both ways.
//!
//! A read goes into a buffer that all connections share, and out at once. Only what the other side does not take is
//! kept, and then nothing more is read: so a connection that is idle has no buffer, and a blocked one has at most one
//! read's bytes each way.
//!
//! The end of one direction is passed on and the other goes on, as between the two themselves. Where nothing moves any
//! more behind such an end, the connection is over; an error is the end of both.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::io::{AsyncRead as _, AsyncWrite as _};

use crate::shell::net::{Stream, TimedOut, within};

/// Bytes of one read.
pub(super) const READ_BYTES_MAX: usize = 64 << 10;

/// Reads of a turn, before others get theirs.
const READS_MAX: usize = 4;

/// How long one direction may be silent behind the end of the other.
const HALF_PATIENCE: Duration = Duration::from_secs(300);

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// What was read and is not taken yet, from `sent` on.
    held: Vec<u8>,
    sent: usize,
    /// The reader has come to its end.
    has_ended: bool,
    is_over: bool,
    /// Bytes that have been passed on.
    moved: u64,
}

impl Way {
    /// Moves what can be moved. Ready: the end was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let mut reads = 0;
        while !self.is_over {
            if self.sent < self.held.len() {
                let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, &self.held[self.sent..]) else {
                    return Poll::Pending;
                };
                self.on_written(written?)?;
                continue;
            }
            self.held = Vec::new();
            self.sent = 0;
            if self.has_ended {
                to.shut_write();
                self.is_over = true;
                break;
            }
            if reads == READS_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            let Poll::Ready(read) = Pin::new(&mut *from).poll_read(cx, scratch) else { return Poll::Pending };
            let bytes = &scratch[..read?];
            if bytes.is_empty() {
                self.has_ended = true;
                continue;
            }
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(written)) if written == bytes.len() => self.moved += written as u64,
                Poll::Ready(Ok(written)) => {
                    self.held = bytes.to_vec();
                    self.on_written(written)?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // A write that was pending is offered the same bytes again.
                Poll::Pending => self.held = bytes.to_vec(),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn on_written(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.sent += written;
        self.moved += written as u64;
        Ok(())
    }
}

/// Both directions of a connection.
struct Pair<'a> {
    client: &'a mut Stream,
    server: &'a mut Stream,
    scratch: &'a RefCell<Box<[u8]>>,
    up: Way,
    down: Way,
}

impl Pair<'_> {
    /// Moves what can be moved. Ready: both directions are over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = self.scratch.borrow_mut();
        let up = self.up.poll(cx, self.client, self.server, &mut scratch)?;
        let down = self.down.poll(cx, self.server, self.client, &mut scratch)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn moved(&self) -> u64 {
        self.up.moved + self.down.moved
    }

    async fn run(&mut self) -> io::Result<()> {
        // While neither has ended, silence means nothing: a watch may have none to tell for days.
        let is_over = poll_fn(|cx| match self.poll(cx)? {
            Poll::Ready(()) => Poll::Ready(Ok::<bool, io::Error>(true)),
            Poll::Pending if self.up.is_over || self.down.is_over => Poll::Ready(Ok(false)),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        if is_over {
            return Ok(());
        }
        loop {
            let before = self.moved();
            let rest =
                within(HALF_PATIENCE, async { poll_fn(|cx| self.poll(cx)).await.map_err(Cut::Failed) });
            match rest.await {
                Ok(()) => return Ok(()),
                Err(Cut::Failed(error)) => return Err(error),
                Err(Cut::Late) if before == self.moved() => return Err(io::ErrorKind::TimedOut.into()),
                Err(Cut::Late) => {}
            }
        }
    }
}

/// Forwards until both directions are over, or one of them fails. Answers the bytes to the server and from it.
pub(super) async fn forward(
    client: &mut Stream,
    server: &mut Stream,
    scratch: &RefCell<Box<[u8]>>,
) -> (u64, u64, io::Result<()>) {
    let mut pair = Pair { client, server, scratch, up: Way::default(), down: Way::default() };
    let ended = pair.run().await;
    (pair.up.moved, pair.down.moved, ended)
}

/// Why a wait has ended.
enum Cut {
    Failed(io::Error),
    Late,
}

impl From<TimedOut> for Cut {
    fn from(_: TimedOut) -> Self {
        Self::Late
    }
}
