//! Waits for changes of nodes on the store's rings: orders in, news out, history in slices.

use prost::Message as _;

use crate::apply::Machine;
use crate::directory::Waits;
use crate::directory::tallies::Tally;
use crate::pb::peer;
use crate::replica::exchange::ToShard;
use crate::request::{Response, WaitNews, WaitOrder};
use crate::shell::runtime::mesh::Sender;
use crate::types::Slice;

/// The waits of the store role.
#[derive(Debug, Default)]
pub(in crate::shell) struct NodeWaits {
    waits: Waits,
}

impl NodeWaits {
    /// What was asked of nodes, and how many wait: `pinion.peer.v1.NodeTallies`.
    pub(in crate::shell) fn tallies(&self, machine: &Machine) -> Response {
        let tallies = &machine.directories().tallies;
        let both = |tally: Tally| vec![tally.success, tally.fail];
        let body = peer::NodeTallies {
            gets: both(tallies.gets.get()),
            sets: both(tallies.sets),
            deletes: both(tallies.deletes),
            updates: both(tallies.updates),
            creates: both(tallies.creates),
            swaps: both(tallies.swaps),
            compared_deletes: both(tallies.compared_deletes),
            expired: tallies.expired,
            waits: self.waits.len() as u64,
        };
        Response { body: body.encode_to_vec(), ..Response::default() }
    }

    /// Takes an order of `shard`.
    pub(in crate::shell) fn on_order(
        &mut self,
        shard: u16,
        order: WaitOrder,
        machine: &Machine,
        to_shards: &[Sender<ToShard>],
    ) {
        if let Some(news) = self.waits.on_order(shard, order, machine.store()) {
            send(to_shards, shard, news);
        }
    }

    /// Tells those whose change was applied since the last call.
    #[inline]
    pub(in crate::shell) fn collect(&mut self, machine: &Machine, to_shards: &[Sender<ToShard>]) {
        let entries = &machine.directories().entries;
        self.waits.collect(machine.store(), entries, |shard, news| send(to_shards, shard, news));
    }

    /// Another member's checkpoint has taken the state's place.
    pub(in crate::shell) fn jump(&mut self) {
        self.waits.jump();
    }

    /// A slice of history. Whether there is more to do.
    pub(in crate::shell) fn work(
        &mut self,
        machine: &Machine,
        to_shards: &[Sender<ToShard>],
        slice: &mut Slice,
    ) -> bool {
        while self.waits.has_work() && !slice.is_spent() {
            let entries = &machine.directories().entries;
            if let Some((shard, news)) = self.waits.work(machine.store(), entries, slice) {
                send(to_shards, shard, news);
            }
        }
        self.waits.has_work()
    }
}

fn send(to_shards: &[Sender<ToShard>], shard: u16, news: WaitNews) {
    to_shards[usize::from(shard)].send_always(ToShard::Wait(news));
}
