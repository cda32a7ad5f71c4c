//! A proxy's executor: a client shard, whose backend is the members behind it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Address;
use crate::request::{Command, PieceOrder, WaitOrder};
use crate::shell::client::{Backend, ClientShard, Endpoint, ShardConfig};
use crate::shell::net::listen::Held;
use crate::shell::runtime::mesh::Doorbell;
use crate::shell::runtime::wiring::Scrapes;
use crate::shell::upstream::Upstream;
use crate::types::Ticket;
use crate::watch;

/// The members, in the place of a member's roles. Calls do not come here: they are passed on before they are commands.
struct Behind(Rc<Upstream>);

impl Backend for Behind {
    fn submit(&self, _ticket: Ticket, command: Command) -> Result<(), Command> {
        unreachable!("a proxy has nobody to carry out {command:?}")
    }

    fn order(&self, order: watch::Order) -> Result<(), watch::Order> {
        unreachable!("a proxy has nobody to carry out {order:?}")
    }

    fn order_pieces(&self, order: PieceOrder) {
        unreachable!("a proxy has nobody to carry out {order:?}")
    }

    fn order_wait(&self, order: WaitOrder) {
        unreachable!("a proxy has nobody to carry out {order:?}")
    }

    fn upstream(&self) -> Option<&Rc<Upstream>> {
        Some(&self.0)
    }
}

/// What a shard is woken by and asked.
pub(super) struct Ports {
    pub bell: Doorbell,
    pub scrapes: Scrapes,
    /// Comes with a ring: no more clients; finish what is under way.
    pub stop: Arc<AtomicBool>,
}

/// Serves clients until `stop`. `on_serving` is called when it listens.
///
/// # Errors
/// When it cannot listen on an address.
pub(super) async fn run(
    config: ShardConfig,
    upstream: Rc<Upstream>,
    ports: Ports,
    held: Vec<(Endpoint, Held)>,
    on_serving: impl FnOnce(),
) -> Result<(), (Address, io::Error)> {
    let Ports { bell, scrapes, stop } = ports;
    let mut listeners = Vec::new();
    for (endpoint, held) in held {
        let address = held.address().clone();
        listeners.push((endpoint, held.listen().map_err(|error| (address, error))?));
    }
    let (number, reception) = (usize::from(config.shard), Arc::clone(&config.reception));
    let shard = ClientShard::new(config, Rc::new(Behind(upstream)));
    let is_serving = Rc::new(Cell::new(true));
    let serving = {
        let (shard, is_serving, bell) = (Rc::clone(&shard), Rc::clone(&is_serving), bell.clone());
        async move {
            shard.serve(listeners).await;
            is_serving.set(false);
            bell.ring();
        }
    };
    glommio::spawn_local(serving).detach();
    on_serving();
    let mut is_stopping = false;
    while is_serving.get() {
        shard.take_waiting();
        while let Some(scrape) = scrapes.take() {
            let mut report = scrapes.begin_report(&scrape, std::iter::empty());
            shard.report(&mut report);
            scrape.answer(report);
        }
        if stop.load(Ordering::Acquire) && !is_stopping {
            is_stopping = true;
            shard.stop();
        }
        bell.wait_once(|| {
            !is_serving.get()
                || reception.has_waiting(number)
                || !scrapes.is_empty()
                || (!is_stopping && stop.load(Ordering::Acquire))
        })
        .await;
    }
    Ok(())
}
