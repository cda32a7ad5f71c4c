//! A proxy's executor: a client shard, whose backend is the members behind it.

use std::io;
use std::rc::Rc;

use crate::config::Address;
use crate::request::{Command, PieceOrder, WaitOrder};
use crate::shell::client::role::{Inbox, ServingPorts, serve};
use crate::shell::client::{Backend, ClientShard, Endpoint, ShardConfig};
use crate::shell::net::listen::Held;
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

/// Nothing comes from behind: calls have their answers themselves.
struct Nothing;

impl Inbox<Behind> for Nothing {
    fn waiting(&self) -> impl Iterator<Item = usize> {
        std::iter::empty()
    }

    fn take(&self, _shard: &Rc<ClientShard<Behind>>) {}
}

/// Serves clients until `ports.stop`. `on_serving` is called when it listens.
///
/// # Errors
/// When it cannot listen on an address.
pub(super) async fn run(
    config: ShardConfig,
    upstream: Rc<Upstream>,
    ports: ServingPorts,
    held: Vec<(Endpoint, Held)>,
    on_serving: impl FnOnce(),
) -> Result<(), (Address, io::Error)> {
    serve(config, Behind(upstream), ports, held, &Nothing, |_| on_serving()).await
}
