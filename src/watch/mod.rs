//! Watch: every change of the keys someone asked about, in order, once, whole.
//!
//! The work is split where the data is. The *feed* (`feed`, the store's side) knows which ranges each
//! client shard cares for; it encodes each change once and hands a shard one *batch* for each group
//! of revisions applied. The *hub* (`hub`, a client shard's side) knows the watchers: it finds those
//! that a change concerns, remembers how far each has come, and writes their responses. A watcher
//! that is behind (it began in the past, or its client reads too slowly) holds nothing but its
//! position; the hub asks the store for the changes from there on, a slice at a time.
//!
//! Both sides exchange `Order`s and `Notice`s. A shard's notices travel on one ring in the order the
//! store made them, and that order is what the guarantees rest on: whoever was told that the store
//! stands at revision r has got every subscribed change up to r before.

pub mod event;
pub mod exchange;
pub mod range;
pub mod response;

pub mod interval;

mod event_encoder;
pub mod feed;
mod history;

mod delivery;
mod group;
pub mod hub;
mod inbox;
pub mod received;
pub mod remote;
mod stream;
mod unsynced;
mod watcher;
pub mod wire;

#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod model_tests;

pub use event::{Batch, Event};
pub use exchange::{CatchUp, Notice, Order, Token};
pub use feed::Feed;
pub use hub::{Hub, HubLimits};
pub use interval::IntervalIndex;
pub use range::WatchRange;
pub use received::Received;
pub use remote::RemoteFeed;
pub use response::{Events, Response, Sink, StreamId};
