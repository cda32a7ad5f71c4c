//! Raft and state machine joined, still without I/O.

mod candidacy;
pub mod exchange;
mod format_gate;
mod group;
pub mod hash_check;
mod large;
mod proposals;
mod reads;
#[expect(clippy::module_inception, reason = "the role's state is the module's subject")]
mod replica;
#[cfg(test)]
mod role_tests;
#[cfg(test)]
mod tests;
mod under_way;

pub use candidacy::Candidacy;
pub use format_gate::{FormatGate, HeldBack};
pub use proposals::GROUP_BYTES_MAX;
pub use replica::{Config, Ready, Replica, Space};
