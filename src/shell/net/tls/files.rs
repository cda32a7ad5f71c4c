//! What the files hold that the flags name: certificates, keys, CAs, a revocation list.
//!
//! A key is in no debug output and in no error.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::config::{PairFiles, Security};

/// The largest file: a revocation list of a hundred thousand certificates has 4 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A certificate and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) pair: Option<Pair>,
    pub(super) client_pair: Option<Pair>,
    pub(super) trusted: Option<Vec<u8>>,
    pub(super) revoked: Option<Vec<u8>>,
}

impl Files {
    /// # Errors
    /// The file that cannot be read, and why.
    pub(super) fn read(security: &Security) -> Result<Self, String> {
        let whole = |path: &Path| read_whole(path).map_err(|error| format!("{}: {error}", path.display()));
        let pair = |files: &PairFiles| {
            Ok::<_, String>(Pair { certificate: whole(&files.certificate)?, key: whole(&files.key)? })
        };
        Ok(Self {
            pair: security.pair.as_ref().map(pair).transpose()?,
            client_pair: security.client_pair.as_ref().map(pair).transpose()?,
            trusted: security.trusted_ca.as_deref().map(whole).transpose()?,
            revoked: security.revoked.as_deref().map(whole).transpose()?,
        })
    }
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(io::Error::other(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
