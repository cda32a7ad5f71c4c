//! `--auto-tls` and `--peer-auto-tls`: a certificate that signs itself, kept in the data directory.
//!
//! Compatibility: etcd's file names and rights, a P-521 key, no common name, the hosts of the addresses that are
//! listened on. It is used again as long as it lies there, even when it has expired: to have another, delete the
//! directory and start again.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P521_SHA512, SerialNumber,
};

use crate::config::PairFiles;

const DAYS_A_YEAR: u64 = 365;

/// The files in `dir`, made if they are not there.
///
/// # Errors
/// They cannot be made or written.
pub(in crate::shell) fn ensure(dir: &Path, hosts: &[String], years: u32) -> io::Result<PairFiles> {
    let files = PairFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    fs::create_dir_all(dir)?;
    let (certificate, key) = make(hosts, years).map_err(io::Error::other)?;
    write(&files.key, key.as_bytes(), 0o600)?;
    write(&files.certificate, certificate.as_bytes(), 0o644)?;
    tracing::info!(dir = %dir.display(), ?hosts, years, "made a self-signed certificate");
    Ok(files)
}

fn make(hosts: &[String], years: u32) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + Duration::from_secs(u64::from(years) * DAYS_A_YEAR * 24 * 60 * 60)).into();
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    // A number, not a negative one.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
    let certificate = params.self_signed(&key)?;
    Ok((pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", key.serialized_der())))
}

/// Text for bytes, as RFC 7468 has it.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// Whole, or not under this name.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let aside = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(aside, path)
}
