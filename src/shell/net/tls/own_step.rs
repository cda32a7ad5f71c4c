//! Certificates that Go takes and webpki does not, verified here.
//!
//! | the leaf | who makes such | here |
//! |---|---|---|
//! | is a CA (`CA:TRUE`) | `openssl req -x509`, a self-signed certificate that is its own CA | taken if it is in the pool, byte for byte, or signed by a certificate of the pool |
//! | is of version 1 or 2 | `openssl x509 -req` without extensions | taken if signed by a certificate of the pool |
//! | has any purpose (`anyExtendedKeyUsage`) instead of the one needed | some corporate CAs | the same |
//!
//! One link and no intermediates: a longer chain under such a leaf is refused as one of an unknown issuer. So is a
//! leaf whose issuer constrains names. Everything else is webpki's (`verify`).
//!
//! Not taken, though Go takes them: keys of RSA under 2048 bits, and signatures with SHA-1 nobody takes.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::ASN1Time;
use x509_parser::x509::X509Version;

use super::certificate::{allows, parse};

const BAD: Error = Error::InvalidCertificate(CertificateError::BadEncoding);
const UNKNOWN: Error = Error::InvalidCertificate(CertificateError::UnknownIssuer);

fn read<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    parse(der).map_err(|_| BAD)
}

fn has_any_purpose(leaf: &X509Certificate<'_>) -> bool {
    leaf.extended_key_usage().is_ok_and(|usage| usage.is_some_and(|usage| usage.value.any))
}

/// Whether the leaf is one of those that this file is about.
pub(super) fn concerns(leaf: &CertificateDer<'_>) -> bool {
    read(leaf).is_ok_and(|leaf| leaf.version() != X509Version::V3 || leaf.is_ca() || has_any_purpose(&leaf))
}

/// Whether it is one whose key webpki cannot read.
pub(super) fn is_old(leaf: &CertificateDer<'_>) -> bool {
    read(leaf).is_ok_and(|leaf| leaf.version() != X509Version::V3)
}

/// Verifies such a leaf against the certificates that are trusted.
///
/// # Errors
/// It is not to be believed.
pub(super) fn verify(
    leaf: &CertificateDer<'_>,
    trusted: &[CertificateDer<'static>],
    algorithms: &WebPkiSupportedAlgorithms,
    now: UnixTime,
    is_of_client: bool,
) -> Result<(), Error> {
    let parsed = read(leaf)?;
    check_dates(&parsed, now)?;
    let purposes = parsed.extended_key_usage().map_err(|_| BAD)?;
    if !allows(purposes.map(|purposes| purposes.value), is_of_client) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    let is_unknown = |extension: &x509_parser::extensions::X509Extension<'_>| {
        extension.critical && extension.parsed_extension().unsupported()
    };
    if parsed.extensions().iter().any(is_unknown) {
        return Err(CertificateError::UnhandledCriticalExtension.into());
    }
    if trusted.iter().any(|known| known == leaf) {
        return Ok(());
    }
    let mut error = UNKNOWN;
    for issuer in trusted {
        match check_issued(&parsed, issuer, algorithms, now, is_of_client) {
            Ok(()) => return Ok(()),
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
            Err(other) => error = other,
        }
    }
    Err(error)
}

fn check_issued(
    leaf: &X509Certificate<'_>,
    issuer: &CertificateDer<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
    now: UnixTime,
    is_of_client: bool,
) -> Result<(), Error> {
    let issuer = read(issuer)?;
    if leaf.issuer().as_raw() != issuer.subject().as_raw() {
        return Err(UNKNOWN);
    }
    // One of version 1 in the pool is a CA because the operator says so, as with Go.
    let may_sign = issuer.version() != X509Version::V3
        || (issuer.is_ca()
            && issuer.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign())));
    let constrains = issuer.name_constraints().map_or(true, |constraints| constraints.is_some());
    let purposes = issuer.extended_key_usage().map_err(|_| BAD)?;
    if !may_sign || constrains || !allows(purposes.map(|purposes| purposes.value), is_of_client) {
        return Err(UNKNOWN);
    }
    check_dates(&issuer, now)?;
    let [_, algorithm, _] = signed_parts(leaf)?;
    let is_named =
        |known: &dyn SignatureVerificationAlgorithm| known.signature_alg_id().as_ref() == algorithm;
    let known = algorithms.all.iter().copied().filter(|known| is_named(*known));
    check_signature(known, issuer.public_key().raw, leaf.tbs_certificate.as_ref(), &leaf.signature_value.data)
}

fn check_dates(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(now).map_err(|_| BAD)?;
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if validity.not_after < now {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Verifies what a side of the handshake has signed with the key of such a leaf.
///
/// # Errors
/// It has not.
pub(super) fn verify_handshake(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    let parsed = read(leaf)?;
    let named = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    let known = named.flat_map(|(_, known)| known.iter().copied());
    check_signature(known, parsed.public_key().raw, message, signed.signature())
}

/// Whether one of the algorithms that fit the key finds the signature right. `key` is a SubjectPublicKeyInfo.
fn check_signature<'a>(
    known: impl Iterator<Item = &'a dyn SignatureVerificationAlgorithm>,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let (_, key) = element(key, 0x30).ok_or(BAD)?;
    let (rest, algorithm) = element(key, 0x30).ok_or(BAD)?;
    let (_, bits) = element(rest, 0x03).ok_or(BAD)?;
    // The first byte counts unused bits.
    let Some((0, bits)) = bits.split_first() else { return Err(BAD) };
    for known in known.filter(|known| known.public_key_alg_id().as_ref() == algorithm) {
        if known.verify_signature(bits, message, signature).is_ok() {
            return Ok(());
        }
    }
    Err(CertificateError::BadSignature.into())
}

/// What is signed, by which algorithm, and the signature, as DER without their heads.
fn signed_parts<'a>(certificate: &X509Certificate<'a>) -> Result<[&'a [u8]; 3], Error> {
    let (_, whole) = element(certificate.as_raw(), 0x30).ok_or(BAD)?;
    let (rest, signed) = element(whole, 0x30).ok_or(BAD)?;
    let (rest, algorithm) = element(rest, 0x30).ok_or(BAD)?;
    let (_, signature) = element(rest, 0x03).ok_or(BAD)?;
    Ok([signed, algorithm, signature])
}

/// The element with this tag that `der` begins with: what is behind it, and its contents.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((rest, contents))
}
