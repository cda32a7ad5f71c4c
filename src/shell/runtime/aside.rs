//! An executor for work without roles: a boot asks other members and a discovery service, a gateway forwards.

use std::io;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

/// No file goes through the runtime, so its registered buffers are the smallest there are.
pub(in crate::shell) const IO_MEMORY_BYTES: usize = 64 << 10;

/// Rings of io_uring: a few sockets at a time.
const RING_DEPTH: usize = 64;

/// Longest stall of a wait that was put to sleep by mistake.
const TICK: Duration = Duration::from_millis(20);

/// Runs `work` to its end on this thread.
///
/// # Errors
/// When the runtime cannot start.
pub(in crate::shell) fn run_aside<T>(work: impl Future<Output = T>) -> io::Result<T> {
    run_with("boot", RING_DEPTH, work)
}

/// The same with rings of another depth.
///
/// # Errors
/// As above.
pub(in crate::shell) fn run_with<T>(
    name: &str,
    ring_depth: usize,
    work: impl Future<Output = T>,
) -> io::Result<T> {
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .name(name)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(ring_depth);
    let executor = builder.make().map_err(io::Error::from)?;
    Ok(executor.run(async {
        // The runtime may lose a wake-up (`pulse`); a timer brings it back.
        let ticker = glommio::spawn_local(async {
            loop {
                glommio::timer::sleep(TICK).await;
            }
        });
        let outcome = work.await;
        ticker.cancel().await;
        outcome
    }))
}
