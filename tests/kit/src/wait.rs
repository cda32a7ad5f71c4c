//! Waiting for what members settle by themselves.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// What a cluster has to do is done by then, or never.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often something is asked again.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Repeats `call` until it succeeds.
pub async fn eventually<T, E: Debug>(mut call: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {error:?}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until something is so.
pub async fn until(within: Duration, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is_so().await {
        assert!(Instant::now() < deadline, "it does not come about in {within:?}");
        tokio::time::sleep(POLL).await;
    }
}
