//! Facts of a certificate that `rustls` keeps to itself: names, serial number, dates, purposes.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::FromDer as _;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The subject's; empty if it has none. The last one counts, as with Go.
    pub(super) common_name: Option<String>,
    pub(super) dns: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
    /// Without leading zeros.
    pub(super) serial: Vec<u8>,
    /// Seconds since 1970.
    not_before: i64,
    not_after: i64,
}

/// Reads a certificate whole.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("a certificate with bytes behind its end".to_owned()),
        Err(_) => Err("a certificate that cannot be read".to_owned()),
    }
}

/// A serial number without leading zeros, so that two texts of one number are equal.
pub(super) fn bare(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

impl Facts {
    /// # Errors
    /// The certificate cannot be read.
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let certificate = parse(der)?;
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|_| "a certificate with names that cannot be read".to_owned())?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                _ => {}
            }
        }
        let common_name = certificate.subject().iter_common_name().last();
        let common_name = common_name.and_then(|name| name.as_str().ok()).map(str::to_owned);
        let validity = certificate.validity();
        Ok(Self {
            common_name,
            dns,
            ips,
            serial: bare(certificate.raw_serial()).to_vec(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Whether the certificate is for no name at all.
    pub(super) fn has_no_names(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty()
    }

    /// # Errors
    /// It is not valid yet, or not any more.
    pub(super) fn check_dates(&self) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if now < self.not_before || self.not_after < now {
            return Err("the certificate has expired or is not yet valid".to_owned());
        }
        Ok(())
    }

    /// Whether it is for this host: an address, or a name that one of its names covers, `*` for one label.
    pub(super) fn is_for(&self, host: &str) -> bool {
        match host.parse::<IpAddr>() {
            Ok(address) => self.ips.contains(&address),
            Err(_) => self.dns.iter().any(|pattern| covers(pattern, host)),
        }
    }
}

/// Whether a name in a certificate covers a host's.
pub(super) fn covers(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Whether a use is among the purposes of a certificate, as Go counts: none named is all.
pub(super) fn allows(purposes: Option<&ExtendedKeyUsage<'_>>, is_of_client: bool) -> bool {
    purposes.is_none_or(|purposes| {
        purposes.any || if is_of_client { purposes.client_auth } else { purposes.server_auth }
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| IpAddr::from(sixteen).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label() {
        for (pattern, host, is_covered) in [
            ("a.example", "A.example.", true),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", false),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("a*.example", "ab.example", false),
        ] {
            assert_eq!(covers(pattern, host), is_covered, "{pattern} {host}");
        }
    }

    #[test]
    fn a_serial_has_no_leading_zeros() {
        assert_eq!((bare(&[0, 0, 1, 0]), bare(&[0])), (&[1, 0][..], &[][..]));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for bytes in [&[][..], &[0x30, 0x80], &[0x30, 0x03, 1, 2, 3], &[0xff; 64]] {
            assert!(Facts::read(&CertificateDer::from(bytes)).is_err());
        }
    }
}
