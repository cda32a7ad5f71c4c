//! The raft role's executor: feeds the replica and does what it asks.
//!
//! Decides nothing. Each turn takes everything that waits (requests, reads, completions of the log,
//! ticks), then carries out every `Ready`, then rings the other roles once.
//! Order that matters: committed entries and the reads released behind them leave on one ring to the
//! store, in this order, so the store answers a read when it comes to it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pinion_wal as wal;

use super::log_writer::{LogCommand, LogEvent, LogHandle};
use super::mesh::SharedRing;
use super::wiring::RaftPorts;
use super::{PUBLISH_TICKET, lease_number, shard_of};
use crate::apply::RequestKind;
use crate::raft::{Entry, HardState};
use crate::replica::exchange::{Facts, Query, Refusal, Reply, ToRaft, ToShard, ToStore};
use crate::replica::{Ready, Replica, Space};
use crate::types::Ticket;

/// A linearizable read that waits: its caller and what it asks.
pub(super) type WaitingRead = (Ticket, Query);

/// The raft role.
pub(super) struct Consensus {
    replica: Replica<WaitingRead>,
    ports: RaftPorts,
    log: LogHandle,
    log_events: Arc<SharedRing<LogEvent>>,
    /// This member's `PublishMember`.
    publish: Bytes,
    /// It is neither on its way nor applied.
    must_publish: Cell<bool>,
    facts: Facts,
    stop: Arc<AtomicBool>,
}

impl Consensus {
    /// `publish` is proposed as soon as there is a leader; `stop` together with the role's bell ends
    /// it.
    #[must_use]
    pub(super) fn new(
        replica: Replica<WaitingRead>,
        ports: RaftPorts,
        log: LogHandle,
        log_events: Arc<SharedRing<LogEvent>>,
        publish: Bytes,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let status = replica.status();
        let facts = Facts {
            leader: status.leader,
            term: status.term,
            committed: status.committed,
            is_learner: false,
        };
        Self { replica, ports, log, log_events, publish, must_publish: Cell::new(true), facts, stop }
    }

    /// Runs until stopped; then everything in the log is durable and the log is closed.
    pub(super) async fn run(mut self, tick: Duration) {
        let ticks = Rc::new(Cell::new(0_u32));
        let ticker = {
            let (ticks, bell) = (Rc::clone(&ticks), self.ports.bell.clone());
            glommio::spawn_local(async move {
                loop {
                    glommio::timer::sleep(tick).await;
                    ticks.set(ticks.get() + 1);
                    bell.ring();
                }
            })
        };
        let mut is_stopping = false;
        loop {
            for _tick in 0..ticks.take() {
                self.replica.on_tick();
            }
            self.take_messages();
            self.publish();
            let is_log_closed = self.take_log_events();
            self.carry_out();
            let is_waiting_for_room = self.ring();
            if is_log_closed {
                break;
            }
            if self.stop.load(Ordering::Acquire) && !is_stopping {
                is_stopping = true;
                self.replica.stop();
                self.carry_out();
                self.ring();
                self.log.send(LogCommand::Stop);
            }
            if is_waiting_for_room {
                glommio::executor().yield_now().await;
                continue;
            }
            let (inbox, log_events, stop) = (&self.ports.inbox, &self.log_events, &self.stop);
            self.ports
                .bell
                .wait(|| {
                    ticks.get() > 0
                        || !log_events.is_empty()
                        || inbox.iter().any(|ring| !ring.is_empty())
                        || (!is_stopping && stop.load(Ordering::Acquire))
                })
                .await;
        }
        ticker.cancel().await;
    }

    fn take_messages(&mut self) {
        for slot in 0..self.ports.inbox.len() {
            while let Some(message) = self.ports.inbox[slot].take() {
                match message {
                    ToRaft::Propose { ticket, kind, body } => {
                        if let Err(refusal) = self.replica.on_request(ticket, kind, &body) {
                            self.refuse(ticket, refusal);
                        }
                    }
                    ToRaft::Read { ticket, query } => {
                        if let Err((read, refusal)) = self.replica.on_read((ticket, query)) {
                            self.refuse(read.0, refusal);
                        }
                    }
                    ToRaft::Applied { index } => self.replica.on_applied(index),
                    ToRaft::Checkpointed { meta } => {
                        self.log.send(LogCommand::Release { through: meta.index.0 });
                        self.replica.on_checkpoint(meta);
                    }
                }
            }
        }
    }

    /// Proposes this member's own record once somebody leads and the replay leaves room: a long log
    /// that is still being applied counts as a backlog like any other.
    fn publish(&mut self) {
        if self.facts.leader.is_some() && self.must_publish.get() {
            let proposed = self.replica.on_request(PUBLISH_TICKET, RequestKind::PublishMember, &self.publish);
            self.must_publish.set(proposed.is_err());
        }
    }

    /// Whether the log has ended.
    fn take_log_events(&mut self) -> bool {
        while let Some(event) = self.log_events.take() {
            match event {
                LogEvent::Durable { number } => self.replica.on_durable(number),
                LogEvent::OutOfSpace => self.replica.on_space(Space::Exhausted),
                LogEvent::SpaceReturned => self.replica.on_space(Space::Ample),
                LogEvent::Stopped => return true,
            }
        }
        false
    }

    fn carry_out(&mut self) {
        while let Some(ready) = self.replica.take_ready() {
            let Ready { raft, reads, reads_index: _, refused_requests, refused_reads } = ready;
            if let Some(raft) = raft {
                assert!(raft.messages.is_empty(), "a sole member has nobody to send to");
                assert!(raft.checkpoint.is_none(), "a sole member gets no checkpoint from anybody");
                if raft.must_sync {
                    self.log.send(LogCommand::Append {
                        number: raft.number,
                        hard_state: raft.hard_state.map(hard_state_to_wal),
                        entries: raft.entries.into_iter().map(entry_to_wal).collect(),
                    });
                }
                self.facts.committed = self.replica.status().committed;
                if let Some(leadership) = raft.leadership {
                    self.facts.leader = leadership.leader;
                    self.facts.term = leadership.term;
                    tracing::info!(
                        role = ?leadership.role,
                        term = leadership.term.0,
                        leader = leadership.leader.map(|leader| leader.to_string()),
                        "raft leadership"
                    );
                    self.ports.to_store.send_always(ToStore::Leadership { facts: self.facts });
                }
                if !raft.committed.is_empty() {
                    let message = ToStore::Committed { entries: raft.committed, facts: self.facts };
                    self.ports.to_store.send_always(message);
                }
            }
            if !reads.is_empty() {
                self.ports.to_store.send_always(ToStore::Confirmed { reads });
            }
            for (ticket, refusal) in refused_requests {
                self.refuse(ticket, refusal);
            }
            for ((ticket, _query), refusal) in refused_reads {
                self.refuse(ticket, refusal);
            }
        }
    }

    fn refuse(&self, ticket: Ticket, refusal: Refusal) {
        if ticket == PUBLISH_TICKET {
            self.must_publish.set(true);
        }
        if lease_number(ticket).is_some() {
            self.ports.to_store.send_always(ToStore::Refused { ticket });
        }
        if let Some(sender) = self.ports.to_shards.get(shard_of(ticket)) {
            sender.send_always(ToShard::Reply(Reply { ticket, result: Err(refusal) }));
        }
    }

    /// Rings every role that was sent something; whether anything still waits for room.
    fn ring(&self) -> bool {
        let mut is_waiting = self.ports.to_store.ring();
        for sender in &self.ports.to_shards {
            is_waiting |= sender.ring();
        }
        is_waiting
    }
}

/// As the log writes it.
fn entry_to_wal(entry: Entry) -> wal::Entry {
    wal::Entry { index: entry.index.0, term: entry.term.0, kind: entry.kind.number(), data: entry.data }
}

fn hard_state_to_wal(state: HardState) -> wal::HardState {
    wal::HardState { term: state.term.0, vote: state.vote.map_or(0, |vote| vote.0), commit: state.commit.0 }
}
