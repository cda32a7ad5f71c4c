//! The client role's executor: a client shard on its rings, and how any client shard serves.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Address;
use crate::replica::exchange::{ToRaft, ToShard, ToStore};
use crate::request::{Command, PieceOrder, Read, WaitOrder};
use crate::shell::client::{Backend, ClientShard, Endpoint, ShardConfig, sampling};
use crate::shell::net::listen::Held;
use crate::shell::runtime::mesh::{Doorbell, Receiver, Sender};
use crate::shell::runtime::scrape::now_ns;
use crate::shell::runtime::wiring::{Scrapes, ShardPorts};
use crate::types::Ticket;
use crate::watch;

/// The rest of the member, over rings.
struct Rings {
    shard: u16,
    to_raft: Sender<ToRaft>,
    to_store: Sender<ToStore>,
    /// A turn is under way, at whose end the others are rung.
    is_held: Cell<bool>,
}

impl Rings {
    fn ring(&self) {
        if !self.is_held.get() {
            self.to_raft.ring();
            self.to_store.ring();
        }
    }
}

impl Backend for Rings {
    fn submit(&self, ticket: Ticket, command: Command) -> Result<(), Command> {
        match command {
            Command::Read(read) if !read.linearizable && self.to_store.has_room() => {
                self.to_store.send_always(ToStore::Read { ticket, read });
            }
            Command::Read(Read { linearizable: false, .. }) => return Err(command),
            command if self.to_raft.has_room() => {
                self.to_raft.send_always(ToRaft::Command { ticket, command });
            }
            command => return Err(command),
        }
        self.ring();
        Ok(())
    }

    fn order(&self, order: watch::Order) -> Result<(), watch::Order> {
        if !self.to_store.has_room() {
            return Err(order);
        }
        self.to_store.send_always(ToStore::Watch { shard: self.shard, order });
        self.ring();
        Ok(())
    }

    fn order_pieces(&self, order: PieceOrder) {
        self.to_store.send_always(ToStore::Pieces { order });
        self.ring();
    }

    fn order_wait(&self, order: WaitOrder) {
        self.to_store.send_always(ToStore::Wait { shard: self.shard, order });
        self.ring();
    }

    fn hold(&self) {
        self.is_held.set(true);
    }

    fn release(&self) {
        self.is_held.set(false);
        self.ring();
    }
}

/// What the process tells the shard. Each flag comes with a ring of the role's bell.
#[derive(Debug, Clone, Default)]
pub(in crate::shell) struct ShardOrders {
    /// This member is published: clients may come.
    pub open: Arc<AtomicBool>,
    /// No more clients; finish what is under way.
    pub stop: Arc<AtomicBool>,
}

/// What comes to a shard from behind it.
pub(in crate::shell) trait Inbox<B: Backend> {
    /// Messages that wait, ring by ring.
    fn waiting(&self) -> impl Iterator<Item = usize>;

    /// Gives the shard what waits.
    fn take(&self, shard: &Rc<ClientShard<B>>);
}

/// The rings of a member's other roles.
struct FromRoles(Vec<Receiver<ToShard>>);

impl Inbox<Rings> for FromRoles {
    fn waiting(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(Receiver::len)
    }

    fn take(&self, shard: &Rc<ClientShard<Rings>>) {
        for ring in &self.0 {
            let _turn = shard.begin_turn();
            while let Some(message) = ring.take() {
                match message {
                    ToShard::Reply(reply) => shard.on_reply(reply),
                    ToShard::Pieces(notice) => shard.on_pieces(notice),
                    ToShard::Wait(news) => shard.on_wait_news(news),
                    ToShard::Watch { term, notice, made_ns } => {
                        shard.on_watch(term, notice);
                        shard.count_watch_lag(now_ns().saturating_sub(made_ns));
                    }
                    ToShard::Facts(facts) => shard.on_facts(facts),
                }
            }
        }
    }
}

/// Serves clients from `orders.open` until `orders.stop`: those that come to the addresses that were `held`
/// for this shard, and those that other shards accept for it. `on_serving` is called when it listens.
///
/// # Errors
/// When it cannot listen on an address.
pub(in crate::shell) async fn run(
    config: ShardConfig,
    ports: ShardPorts,
    held: Vec<(Endpoint, Held)>,
    orders: ShardOrders,
    on_serving: impl FnOnce(),
) -> Result<(), (Address, io::Error)> {
    let ShardPorts { bell, scrapes, to_raft, to_store, inbox } = ports;
    let ShardOrders { open, stop } = orders;
    // Rings that are about something else let nobody in.
    bell.wait(|| open.load(Ordering::Acquire) || stop.load(Ordering::Acquire)).await;
    if stop.load(Ordering::Acquire) {
        return Ok(());
    }
    let number = config.shard;
    let rings = Rings { shard: number, to_raft, to_store, is_held: Cell::new(false) };
    let on_listening = |shard: &Rc<ClientShard<Rings>>| {
        if number == 0 {
            glommio::spawn_local(sampling::run(Rc::downgrade(shard))).detach();
        }
        on_serving();
    };
    let ports = ServingPorts { bell, scrapes, stop };
    serve(config, rings, ports, held, &FromRoles(inbox), on_listening).await
}

/// What a shard that serves is woken by and asked.
pub(in crate::shell) struct ServingPorts {
    pub bell: Doorbell,
    pub scrapes: Scrapes,
    /// Comes with a ring: no more clients; finish what is under way.
    pub stop: Arc<AtomicBool>,
}

/// Serves clients until `ports.stop`, whatever stands behind the shard.
///
/// # Errors
/// When it cannot listen on an address.
pub(in crate::shell) async fn serve<B: Backend>(
    config: ShardConfig,
    backend: B,
    ports: ServingPorts,
    held: Vec<(Endpoint, Held)>,
    inbox: &impl Inbox<B>,
    on_listening: impl FnOnce(&Rc<ClientShard<B>>),
) -> Result<(), (Address, io::Error)> {
    let ServingPorts { bell, scrapes, stop } = ports;
    let mut listeners = Vec::new();
    for (endpoint, held) in held {
        let address = held.address().clone();
        listeners.push((endpoint, held.listen().map_err(|error| (address, error))?));
    }
    let (number, reception) = (usize::from(config.shard), Arc::clone(&config.reception));
    let shard = ClientShard::new(config, Rc::new(backend));
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
    on_listening(&shard);
    let mut is_stopping = false;
    while is_serving.get() {
        shard.take_waiting();
        inbox.take(&shard);
        while let Some(scrape) = scrapes.take() {
            let mut report = scrapes.begin_report(&scrape, inbox.waiting());
            shard.report(&mut report);
            scrape.answer(report);
        }
        shard.flush();
        if stop.load(Ordering::Acquire) && !is_stopping {
            is_stopping = true;
            shard.stop();
        }
        bell.wait_once(|| {
            !is_serving.get()
                || reception.has_waiting(number)
                || !scrapes.is_empty()
                || (!is_stopping && stop.load(Ordering::Acquire))
                || inbox.waiting().any(|waiting| 0 < waiting)
        })
        .await;
    }
    Ok(())
}
