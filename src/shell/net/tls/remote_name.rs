//! Whether a member's certificate is for the address that it comes from, asked of the system's resolver.
//!
//! Compatibility: etcd's rule. A name of the certificate has to be the address's own (`*` covers by its end), or, without
//! a `*`, lead to it. A certificate for addresses alone has to be for this one.

#![expect(unsafe_code, reason = "the name of an address, which std does not look up")]

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use super::certificate::Facts;

/// Names that are looked up.
const NAMES_MAX: usize = 32;

/// Bytes of a name.
const NAME_BYTES: usize = 1025;

/// Takes as long as the resolver does.
///
/// # Errors
/// It is not.
pub(super) fn check(facts: &Facts, remote: IpAddr) -> Result<(), String> {
    if facts.dns.is_empty() {
        let known = facts.ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("x509: certificate is valid for {known}, not {remote}"));
    }
    if let Some(own) = name_of(remote) {
        let is_own = |name: &&String| match name.strip_prefix('*') {
            Some(end) => own.to_ascii_lowercase().ends_with(&end.to_ascii_lowercase()),
            None => own.eq_ignore_ascii_case(name),
        };
        if facts.dns.iter().take(NAMES_MAX).any(|name| is_own(&name)) {
            return Ok(());
        }
    }
    let leads = |name: &&String| {
        let found = (name.as_str(), 0).to_socket_addrs();
        found.is_ok_and(|mut found| found.any(|found| found.ip().to_canonical() == remote))
    };
    let plain = facts.dns.iter().filter(|name| !name.starts_with('*'));
    if plain.take(NAMES_MAX).any(|name| leads(&name)) {
        return Ok(());
    }
    Err(format!("tls: {:?} does not match any of DNSNames {:?}", remote.to_string(), facts.dns))
}

/// The name of an address.
fn name_of(address: IpAddr) -> Option<String> {
    let address = socket2::SockAddr::from(SocketAddr::new(address, 0));
    let mut name = [0_u8; NAME_BYTES];
    let length = libc::socklen_t::try_from(name.len()).expect("it is small");
    // SAFETY: the address lives until the call returns and has the length that it says; the call writes at most
    // `length` bytes to `name`, the last of them a zero.
    let answer = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            name.as_mut_ptr().cast(),
            length,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    let end = name.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&name[..end]).ok()?;
    (answer == 0).then(|| name.trim_end_matches('.').to_owned())
}
