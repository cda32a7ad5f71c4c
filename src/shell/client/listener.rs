//! Accepting connections.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;

use super::Backend;
use super::ClientShard;
use super::reception::{About, TooMany};
use super::signal::Signal;
use super::speaks::Endpoint;
use crate::shell::net::listen::Listening;

/// After a failed accept, most likely for want of file descriptors: those that end make room.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Takes in connections until the shard stops.
pub(super) async fn accept_until_stopped<B: Backend>(
    shard: Rc<ClientShard<B>>,
    endpoint: Endpoint,
    listener: Listening,
) {
    let stop = shard.signal_at_stop();
    let reception = &shard.config.reception;
    while let Some(accepted) = until(&stop, listener.accept()).await {
        match accepted {
            Ok(accepted) => match reception.receive(usize::from(shard.config.shard), endpoint, accepted) {
                Ok(Some((stream, place))) => shard.adopt(endpoint, stream, place),
                // Another shard has it.
                Ok(None) => {}
                Err(TooMany) => {
                    // The next one may have the place of one that never spoke.
                    shard.silent.drop_longest();
                    shard.counters.count(|counters| counters.turned_away += 1);
                    reception.tell_full();
                }
            },
            Err(error) => {
                shard.silent.drop_longest();
                shard.counters.count(|counters| counters.accept_errors += 1);
                if let Some(left_out) = reception.may_tell(About::AcceptFailed) {
                    tracing::warn!(%error, left_out, "cannot accept a connection");
                }
                if until(&stop, glommio::timer::sleep(ACCEPT_RETRY)).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Waits until the shard stops.
pub(super) async fn stopped<B: Backend>(shard: &ClientShard<B>) {
    let stop = shard.signal_at_stop();
    poll_fn(|cx| stop.poll_fired(cx)).await;
}

/// What `work` comes to; None once `stop` has fired.
async fn until<T>(stop: &Signal, work: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        poll_fn(|cx| stop.poll_fired(cx)).await;
        None
    };
    future::or(stopped, async { Some(work.await) }).await
}
