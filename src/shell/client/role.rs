//! The client role's executor: a client shard on its rings.

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
use crate::shell::runtime::mesh::Sender;
use crate::shell::runtime::scrape::now_ns;
use crate::shell::runtime::wiring::ShardPorts;
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
    let (open, stop) = (&orders.open, &orders.stop);
    // Rings that are about something else let nobody in.
    bell.wait(|| open.load(Ordering::Acquire) || stop.load(Ordering::Acquire)).await;
    if stop.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut listeners = Vec::new();
    for (endpoint, held) in held {
        let address = held.address().clone();
        listeners.push((endpoint, held.listen().map_err(|error| (address, error))?));
    }
    let (number, reception) = (config.shard, Arc::clone(&config.reception));
    let has_waiting = || reception.has_waiting(usize::from(number));
    let shard = ClientShard::new(
        config,
        Rc::new(Rings { shard: number, to_raft, to_store, is_held: Cell::new(false) }),
    );
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
    if number == 0 {
        glommio::spawn_local(sampling::run(Rc::downgrade(&shard))).detach();
    }
    on_serving();
    let mut is_stopping = false;
    while is_serving.get() {
        shard.take_waiting();
        for ring in &inbox {
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
        while let Some(scrape) = scrapes.take() {
            let mut report = scrapes.begin_report(&scrape, inbox.iter().map(|ring| ring.len()));
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
                || has_waiting()
                || !scrapes.is_empty()
                || (!is_stopping && stop.load(Ordering::Acquire))
                || inbox.iter().any(|ring| !ring.is_empty())
        })
        .await;
    }
    Ok(())
}
