//! Accepting connections.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use glommio::net::TcpListener;

use super::signal::Signal;
use super::{Backend, ClientShard};

/// After a failed accept, most likely for want of file descriptors: those that end make room.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Takes in connections until the shard stops.
pub(super) async fn accept_until_stopped<B: Backend>(shard: &Rc<ClientShard<B>>, listener: &TcpListener) {
    let stop = shard.signal_at_stop();
    while let Some(accepted) = until(&stop, listener.accept()).await {
        match accepted {
            Ok(socket) => shard.adopt(socket.into()),
            Err(error) => {
                shard.counters.count(|counters| counters.accept_errors += 1);
                tracing::warn!(%error, "cannot accept a connection");
                if until(&stop, glommio::timer::sleep(ACCEPT_RETRY)).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// What `work` comes to; None once `stop` has fired.
async fn until<T>(stop: &Signal, work: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        poll_fn(|cx| stop.poll_fired(cx)).await;
        None
    };
    future::or(stopped, async { Some(work.await) }).await
}
