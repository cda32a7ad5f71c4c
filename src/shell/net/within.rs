//! An end for every wait.

use std::io;
use std::time::Duration;

use futures_lite::future;

/// Work took longer than its caller waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer in time")]
pub(in crate::shell) struct TimedOut;

impl From<TimedOut> for io::Error {
    fn from(late: TimedOut) -> Self {
        Self::new(io::ErrorKind::TimedOut, late)
    }
}

/// The result of `work`, in time.
///
/// # Errors
/// Its own, or [`TimedOut`].
pub(in crate::shell) async fn within<T, E: From<TimedOut>>(
    patience: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = async {
        glommio::timer::sleep(patience).await;
        Err(TimedOut.into())
    };
    future::or(work, late).await
}
