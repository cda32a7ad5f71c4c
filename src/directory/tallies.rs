//! What was asked of nodes, for `/v2/stats/store`: counted in this process, no part of the state.

use std::cell::Cell;

use crate::request::NodeMethod;

/// Requests that went well, and those that did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub success: u64,
    pub fail: u64,
}

impl Tally {
    fn count(&mut self, is_well: bool) {
        *if is_well { &mut self.success } else { &mut self.fail } += 1;
    }
}

/// See the module. Writes count on every member, reads where they were asked.
#[derive(Debug, Clone, Default)]
pub struct Tallies {
    pub gets: Cell<Tally>,
    pub sets: Tally,
    pub deletes: Tally,
    pub updates: Tally,
    pub creates: Tally,
    pub swaps: Tally,
    pub compared_deletes: Tally,
    pub expired: u64,
}

impl Tallies {
    /// A read.
    pub fn on_get(&self, is_well: bool) {
        let mut gets = self.gets.get();
        gets.count(is_well);
        self.gets.set(gets);
    }

    /// A write.
    pub fn on_write(&mut self, method: NodeMethod, is_well: bool) {
        let tally = match method {
            NodeMethod::Set => &mut self.sets,
            NodeMethod::Create | NodeMethod::CreateInOrder => &mut self.creates,
            NodeMethod::Update => &mut self.updates,
            NodeMethod::CompareAndSwap => &mut self.swaps,
            NodeMethod::Delete => &mut self.deletes,
            NodeMethod::CompareAndDelete => &mut self.compared_deletes,
        };
        tally.count(is_well);
    }
}
