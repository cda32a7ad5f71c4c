//! Addresses that a member listens on, and whether they are encrypted.

use super::address::Address;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: Address,
    pub encryption: Encryption,
}

/// Whether what comes to an address is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    None,
    Tls,
    /// Both URLs were given, and the first byte tells.
    Either,
}

impl Encryption {
    #[must_use]
    pub fn has_tls(self) -> bool {
        self != Self::None
    }

    #[must_use]
    pub fn has_plain(self) -> bool {
        self != Self::Tls
    }
}
