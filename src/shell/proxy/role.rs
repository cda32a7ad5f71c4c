//! A proxy's executor: a client shard, whose backend is the members behind it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::watches::{Joints, News};
use crate::config::Address;
use crate::replica::exchange::Facts;
use crate::request::{Command, PieceOrder, WaitOrder};
use crate::shell::client::role::{Inbox, ServingPorts, serve};
use crate::shell::client::{Backend, ClientShard, Endpoint, ShardConfig};
use crate::shell::net::listen::Held;
use crate::shell::runtime::mesh::{Receiver, Sender, shared_receiver, shared_sender};
use crate::shell::upstream::Upstream;
use crate::types::{ClusterId, LogIndex, MemberId, Term, Ticket};
use crate::watch;

/// The members, in the place of a member's roles. Calls do not come here: they are passed on before they are commands.
struct Behind {
    upstream: Rc<Upstream>,
    joints: Arc<Joints>,
    orders: Sender<(u64, watch::Order)>,
    /// Of the feed, as this shard knows it.
    epoch: Rc<Cell<u64>>,
}

impl Backend for Behind {
    fn submit(&self, _ticket: Ticket, command: Command) -> Result<(), Command> {
        unreachable!("a proxy has nobody to carry out {command:?}")
    }

    fn order(&self, order: watch::Order) -> Result<(), watch::Order> {
        if !self.orders.has_room() {
            return Err(order);
        }
        self.orders.send_always((self.epoch.get(), order));
        self.orders.ring();
        Ok(())
    }

    fn order_pieces(&self, order: PieceOrder) {
        unreachable!("a proxy has nobody to carry out {order:?}")
    }

    fn order_wait(&self, order: WaitOrder) {
        unreachable!("a proxy has nobody to carry out {order:?}")
    }

    fn upstream(&self) -> Option<&Rc<Upstream>> {
        Some(&self.upstream)
    }

    fn joins_watches(&self) -> bool {
        self.joints.is_joined()
    }

    fn raise_floor(&self, revision: i64) {
        self.joints.raise_floor(revision);
    }
}

/// What comes of the joined watches.
struct FromFeed {
    news: Receiver<News>,
    epoch: Rc<Cell<u64>>,
    member: Cell<MemberId>,
}

impl Inbox<Behind> for FromFeed {
    fn waiting(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.news.len())
    }

    fn take(&self, shard: &Rc<ClientShard<Behind>>) {
        while let Some(news) = self.news.take() {
            match news {
                News::Notice { epoch, term, notice } if epoch == self.epoch.get() => {
                    shard.on_watch(term, notice);
                }
                // An answer to somebody who was told to begin anew.
                News::Notice { .. } => {}
                News::Answerer(answerer) => {
                    self.member.set(MemberId(answerer.member));
                    shard.answer_for(ClusterId(answerer.cluster), MemberId(answerer.member));
                }
                News::Renew { epoch, reason } => {
                    self.epoch.set(epoch);
                    shard.renew_watches(&reason);
                }
                News::Leader(has_leader) => shard.on_facts(Facts {
                    leader: has_leader.then(|| self.member.get()),
                    term: Term(0),
                    committed: LogIndex(0),
                    is_learner: false,
                    in_touch: has_leader,
                }),
            }
        }
    }
}

/// Serves clients until `ports.stop`. `on_serving` is called when it listens.
///
/// # Errors
/// When it cannot listen on an address.
pub(super) async fn run(
    config: ShardConfig,
    upstream: Rc<Upstream>,
    joints: Arc<Joints>,
    ports: ServingPorts,
    held: Vec<(Endpoint, Held)>,
    on_serving: impl FnOnce(),
) -> Result<(), (Address, io::Error)> {
    let shard = usize::from(config.shard);
    let epoch = Rc::new(Cell::new(0));
    let inbox = FromFeed {
        news: shared_receiver(joints.news_of(shard)),
        epoch: Rc::clone(&epoch),
        member: Cell::new(MemberId(0)),
    };
    let behind = Behind { upstream, orders: shared_sender(joints.orders_of(shard)), joints, epoch };
    serve(config, behind, ports, held, &inbox, |_| on_serving()).await
}
