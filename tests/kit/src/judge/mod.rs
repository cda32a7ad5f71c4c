//! What runs on the real binary are held to. Pure: what clients sent and were told comes in, the first broken
//! rule goes out. Each judge is proven by planted faults, in the file beside it.

pub mod history;
pub mod leases;
pub mod ledger;
pub mod order;
pub mod watch;

#[cfg(test)]
mod leases_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod watch_tests;
