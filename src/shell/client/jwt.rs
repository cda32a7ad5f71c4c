//! The keys of JSON web tokens: they sign logins that nobody has to remember, and check those that others signed.
//!
//! A token says its user, the auth revision at which it was made, and when it ends (`auth::WebToken`), and is signed. So
//! it is good on every member that has the key, through restarts too. It cannot be taken back before it ends; but a
//! change of rights makes its revision one of the past, which reads and writes of keys refuse (`apply/permit.rs`).
//! Whoever has the signing key can be any user at any revision; a member's own login no token can be.
//!
//! Own code, thin, over the library that TLS signs with: `jsonwebtoken`, the crate that is kept for this, has no ES512.
//! Compatibility: methods, key files and texts are etcd's. RSA keys have 2048 bits or more, and the salt of PS256 and its
//! kin is as long as the hash, as RFC 7518 wants; etcd takes shorter keys and any salt.
//!
//! Cost: a signature is verified on a helper thread, once for a token and shard while `call/identity.rs` remembers it.
//! Signing takes place on the thread that has compared the password.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    self as s, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RsaKeyPair, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::auth::{Claims, WebToken, unsigned, with_signature};
use crate::config::{JwtConfig, SignMethod};
use crate::shell::runtime::fair_threads::{Crowded, FairThreads, Rank, Waiting};
use crate::shell::runtime::helpers::Helpers;

/// The largest key file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The shortest RSA key, in bytes.
const RSA_BYTES_MIN: usize = 256;

/// A signature takes 20 to 500 us, by method, of one of two threads: the last of these waits for half a second or so.
const WAITING: Waiting = Waiting { max: 4_096, of_asker_max: 1_024 };

/// Why tokens can be neither made nor checked, at a start. No key is in it.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum JwtError {
    #[error("--auth-token: auth: invalid auth options: {option}={path}: {reason}")]
    File { option: &'static str, path: String, reason: String },
    #[error("--auth-token: auth: missing key data: priv-key={path} is empty")]
    Empty { path: String },
    #[error("--auth-token: auth: public and private keys don't match")]
    Mismatch,
}

/// This member only checks tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) struct VerifyOnly;

enum Signer {
    Rsa(RsaKeyPair, &'static dyn s::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

enum Checker {
    Public(ParsedPublicKey),
    Shared(Box<hmac::Key>),
}

/// See the module.
pub(in crate::shell) struct Keys {
    method: SignMethod,
    /// None: this member only checks tokens, or shares a secret.
    signer: Option<Signer>,
    checker: Checker,
    ttl: Duration,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("method", &self.method).finish_non_exhaustive()
    }
}

/// The hash of a shared secret; for public keys the algorithm that checks.
fn algorithm(method: SignMethod) -> Result<&'static dyn VerificationAlgorithm, hmac::Algorithm> {
    match method {
        SignMethod::Hs256 => Err(hmac::HMAC_SHA256),
        SignMethod::Hs384 => Err(hmac::HMAC_SHA384),
        SignMethod::Hs512 => Err(hmac::HMAC_SHA512),
        SignMethod::Rs256 => Ok(&s::RSA_PKCS1_2048_8192_SHA256),
        SignMethod::Rs384 => Ok(&s::RSA_PKCS1_2048_8192_SHA384),
        SignMethod::Rs512 => Ok(&s::RSA_PKCS1_2048_8192_SHA512),
        SignMethod::Ps256 => Ok(&s::RSA_PSS_2048_8192_SHA256),
        SignMethod::Ps384 => Ok(&s::RSA_PSS_2048_8192_SHA384),
        SignMethod::Ps512 => Ok(&s::RSA_PSS_2048_8192_SHA512),
        SignMethod::Es256 => Ok(&s::ECDSA_P256_SHA256_FIXED),
        SignMethod::Es384 => Ok(&s::ECDSA_P384_SHA384_FIXED),
        SignMethod::Es512 => Ok(&s::ECDSA_P521_SHA512_FIXED),
        SignMethod::EdDsa => Ok(&s::ED25519),
    }
}

fn is_rsa(method: SignMethod) -> bool {
    matches!(method.name().as_bytes(), [b'R' | b'P', b'S', ..])
}

fn unfit(method: SignMethod) -> String {
    format!("the key is not one for {}", method.name())
}

impl Signer {
    /// Reads a private key; the error shows nothing of it. `method` has one.
    fn read(method: SignMethod, pem: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| "no private key in PEM without encryption".to_owned())?;
        let unfit = |_: KeyRejected| match &key {
            PrivateKeyDer::Pkcs1(_) | PrivateKeyDer::Pkcs8(_) if is_rsa(method) => {
                format!("{}, which are RSA of 2048 to 8192 bits", unfit(method))
            }
            _ => unfit(method),
        };
        let rsa = |encoding: &'static dyn s::RsaEncoding| {
            let pair = match &key {
                PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
                key => RsaKeyPair::from_pkcs8(key.secret_der()),
            };
            Ok(Self::Rsa(pair.map_err(unfit)?, encoding))
        };
        let ecdsa = |algorithm: &'static s::EcdsaSigningAlgorithm| {
            let pair = match &key {
                PrivateKeyDer::Sec1(der) => {
                    EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der())
                }
                key => EcdsaKeyPair::from_pkcs8(algorithm, key.secret_der()),
            };
            Ok(Self::Ecdsa(pair.map_err(unfit)?))
        };
        match method {
            SignMethod::Rs256 => rsa(&s::RSA_PKCS1_SHA256),
            SignMethod::Rs384 => rsa(&s::RSA_PKCS1_SHA384),
            SignMethod::Rs512 => rsa(&s::RSA_PKCS1_SHA512),
            SignMethod::Ps256 => rsa(&s::RSA_PSS_SHA256),
            SignMethod::Ps384 => rsa(&s::RSA_PSS_SHA384),
            SignMethod::Ps512 => rsa(&s::RSA_PSS_SHA512),
            SignMethod::Es256 => ecdsa(&s::ECDSA_P256_SHA256_FIXED_SIGNING),
            SignMethod::Es384 => ecdsa(&s::ECDSA_P384_SHA384_FIXED_SIGNING),
            SignMethod::Es512 => ecdsa(&s::ECDSA_P521_SHA512_FIXED_SIGNING),
            SignMethod::EdDsa => {
                Ok(Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.secret_der()).map_err(unfit)?))
            }
            SignMethod::Hs256 | SignMethod::Hs384 | SignMethod::Hs512 => unreachable!("a shared secret"),
        }
    }

    fn public_key(&self) -> &[u8] {
        match self {
            Self::Rsa(pair, _) => pair.public_key().as_ref(),
            Self::Ecdsa(pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        const SIGNS: &str = "a key that was read signs";
        match self {
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut signature).expect(SIGNS);
                signature
            }
            Self::Ecdsa(pair) => pair.sign(&SystemRandom::new(), message).expect(SIGNS).as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// The public key in PEM: as it is, in a certificate, or in RSA's own form.
fn read_public(pem: &[u8]) -> Result<Vec<u8>, String> {
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(pem) {
        return Ok(key.to_vec());
    }
    if let Ok(certificate) = CertificateDer::from_pem_slice(pem) {
        let (_, certificate) = X509Certificate::from_der(&certificate)
            .map_err(|_| "a certificate that cannot be read".to_owned())?;
        return Ok(certificate.public_key().raw.to_vec());
    }
    let text = String::from_utf8_lossy(pem);
    let body = text
        .split_once("-----BEGIN RSA PUBLIC KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END RSA PUBLIC KEY-----"))
        .map(|(body, _)| body.split_whitespace().collect::<String>());
    let der = body.and_then(|body| BASE64.decode(body).ok());
    der.ok_or_else(|| "no public key or certificate in PEM".to_owned())
}

fn checker(
    method: SignMethod,
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
) -> Result<Checker, String> {
    let parsed = ParsedPublicKey::new(algorithm, key).map_err(|_| unfit(method))?;
    let is_short =
        is_rsa(method) && rsa::PublicKey::from_der(key).is_ok_and(|key| key.modulus_len() < RSA_BYTES_MIN);
    if is_short {
        return Err(format!("{}, which are RSA of 2048 to 8192 bits", unfit(method)));
    }
    Ok(Checker::Public(parsed))
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(io::Error::other(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

impl Keys {
    /// Reads the files.
    ///
    /// # Errors
    /// [`JwtError`].
    pub(in crate::shell) fn load(config: &JwtConfig) -> Result<Self, JwtError> {
        let refused = |option, path: &Path| {
            let path = path.display().to_string();
            move |reason| JwtError::File { option, path, reason }
        };
        let read =
            |option, path: &Path| read_file(path).map_err(|error| refused(option, path)(error.to_string()));
        let (method, ttl) = (config.method, config.ttl);
        let private = config.private_key.as_deref();
        let algorithm = match algorithm(method) {
            Ok(algorithm) => algorithm,
            Err(hash) => {
                let path = private.expect("the configuration asks for it");
                let secret = read("priv-key", path)?;
                if secret.is_empty() {
                    return Err(JwtError::Empty { path: path.display().to_string() });
                }
                let checker = Checker::Shared(Box::new(hmac::Key::new(hash, &secret)));
                return Ok(Self { method, signer: None, checker, ttl });
            }
        };
        let signer = match private {
            Some(path) => {
                let pem = read("priv-key", path)?;
                Some(Signer::read(method, &pem).map_err(refused("priv-key", path))?)
            }
            None => None,
        };
        let checker = match (config.public_key.as_deref(), &signer) {
            (Some(path), _) => {
                let pem = read("pub-key", path)?;
                let key = read_public(&pem).and_then(|key| checker(method, algorithm, &key));
                key.map_err(refused("pub-key", path))?
            }
            (None, Some(signer)) => checker(method, algorithm, signer.public_key())
                .map_err(refused("priv-key", private.expect("it is where the signer is from")))?,
            (None, None) => unreachable!("the configuration asks for one of them"),
        };
        let keys = Self { method, signer, checker, ttl };
        if let Some(signer) = &keys.signer
            && !keys.verifies(b"a trial", &signer.sign(b"a trial"))
        {
            return Err(JwtError::Mismatch);
        }
        Ok(keys)
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.checker {
            Checker::Public(key) => key.verify_sig(message, signature).is_ok(),
            Checker::Shared(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }

    /// A token for a user who has shown its password.
    ///
    /// # Errors
    /// This member only checks tokens.
    pub(in crate::shell) fn sign(&self, user: &str, revision: u64) -> Result<String, VerifyOnly> {
        let expires_s = now_ms() / 1_000 + self.ttl.as_secs();
        let unsigned = unsigned(self.method.name(), user, revision, expires_s);
        let signature = match (&self.signer, &self.checker) {
            (Some(signer), _) => signer.sign(unsigned.as_bytes()),
            (None, Checker::Shared(key)) => hmac::sign(key, unsigned.as_bytes()).as_ref().to_vec(),
            (None, Checker::Public(_)) => return Err(VerifyOnly),
        };
        Ok(with_signature(unsigned, &signature))
    }

    /// What a token says, if it is good now.
    ///
    /// # Errors
    /// Why it is not.
    fn check(&self, token: &[u8]) -> Result<Claims, &'static str> {
        let token = WebToken::read(token, self.method.name())?;
        if !self.verifies(token.signed(), token.signature()) {
            return Err("the signature is not right");
        }
        let claims = token.claims()?;
        claims.ms_left(now_ms()).map(|_| claims).ok_or("not good now: it has ended, or has not begun")
    }
}

/// Milliseconds since 1970.
pub(in crate::shell::client) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The keys, and the threads that check. Clones share both.
#[derive(Clone)]
pub(in crate::shell) struct Jwt {
    keys: Arc<Keys>,
    threads: FairThreads,
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.fmt(f)
    }
}

impl Jwt {
    pub(in crate::shell) fn new(keys: Keys, helpers: Helpers) -> Self {
        Self {
            keys: Arc::new(keys),
            threads: FairThreads::new("tokens", Rank::Background, WAITING, Some(helpers)),
        }
    }

    pub(in crate::shell::client) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// What a token says that a client at this address shows, if it is good.
    ///
    /// # Errors
    /// Too many wait to be checked.
    pub(in crate::shell::client) async fn check(
        &self,
        address: Option<IpAddr>,
        token: Bytes,
    ) -> Result<Result<Claims, &'static str>, Crowded> {
        let keys = Arc::clone(&self.keys);
        // Whom a token names is not to be believed yet, so askers are told apart by address alone.
        self.threads.run((address, String::new()), move || keys.check(&token)).await
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
