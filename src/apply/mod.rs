//! Committed entries in, answers out: the state machine every member runs alike.

pub mod alarm;
mod alarm_requests;
mod auth;
#[cfg(test)]
mod auth_script;
pub(crate) mod encode;
mod lease;
mod lease_read;
mod long_read;
mod moves;
mod node;
mod node_removal;
mod node_write;
pub mod parts;
mod permit;
mod preparation;
mod range;
#[cfg(test)]
mod script;
mod sort;
mod txn;
mod view;
mod write;

pub mod checkpoint;
pub mod machine;
pub mod session;

pub use alarm::{Alarm, AlarmType, Alarms};
pub use checkpoint::{Checkpoint, Restore, RestoreError};
pub use lease_read::LeaseRead;
pub use long_read::LongRead;
pub use machine::{Applied, Begun, Machine, StatusFacts};
pub use parts::Parts;
pub use session::Sessions;
