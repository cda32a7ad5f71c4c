//! Keys of every kind, right and wrong, and tokens that are almost right.

use std::fs;
use std::path::PathBuf;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _, SignatureAlgorithm,
};

use super::*;

/// A directory with key files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Option<PathBuf> {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        Some(path)
    }
}

fn load(
    method: SignMethod,
    private_key: Option<PathBuf>,
    public_key: Option<PathBuf>,
) -> Result<Keys, JwtError> {
    Keys::load(&JwtConfig::new(method, private_key, public_key, Duration::from_secs(60)))
}

fn pair(kind: &'static SignatureAlgorithm) -> (KeyPair, String, String) {
    let key = KeyPair::generate_for(kind).unwrap();
    let (private, public) = (key.serialize_pem(), key.public_key_pem());
    (key, private, public)
}

fn kind(method: SignMethod) -> &'static SignatureAlgorithm {
    match method {
        SignMethod::Es256 => &PKCS_ECDSA_P256_SHA256,
        SignMethod::Es384 => &PKCS_ECDSA_P384_SHA384,
        SignMethod::Es512 => &PKCS_ECDSA_P521_SHA512,
        SignMethod::EdDsa => &PKCS_ED25519,
        _ => &PKCS_RSA_SHA256,
    }
}

fn methods_of_pairs() -> impl Iterator<Item = SignMethod> {
    SignMethod::ALL.into_iter().filter(|method| !method.is_shared())
}

#[test]
fn each_method_checks_what_it_signed_and_what_no_other_key_did() {
    let files = Files::new();
    let other_rsa = pair(&PKCS_RSA_SHA256);
    for method in methods_of_pairs() {
        let (_, private, public) = pair(kind(method));
        let (private, public) = (files.write("private", private), files.write("public", public));
        let both = load(method, private.clone(), public.clone()).unwrap();
        let signs = load(method, private, None).unwrap();
        let checks = load(method, None, public).unwrap();
        let token = signs.sign("alice", 7).unwrap();
        for keys in [&both, &signs, &checks] {
            let claims = keys.check(token.as_bytes()).unwrap();
            assert_eq!((&*claims.user, claims.revision), ("alice", 7), "{method:?}");
            assert!((59_000..=60_000).contains(&claims.ms_left(now_ms()).unwrap()), "{method:?}");
        }
        assert_eq!(checks.sign("alice", 7), Err(VerifyOnly));
        let other = if is_rsa(method) { other_rsa.1.clone() } else { pair(kind(method)).1 };
        let stranger = load(method, files.write("stranger", other), None).unwrap();
        let forged = stranger.sign("alice", 7).unwrap();
        assert_eq!(checks.check(forged.as_bytes()), Err("the signature is not right"), "{method:?}");
        let other = load(
            method,
            files.write("stranger", pair(kind(method)).1),
            files.write("public", pair(kind(method)).2),
        );
        assert!(matches!(other, Err(JwtError::Mismatch)), "{method:?}: {other:?}");
    }
}

/// RFC 7515, appendix A.1: its header, claims and key.
#[test]
fn signatures_of_a_shared_secret_are_those_of_the_rfc() {
    let files = Files::new();
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let secret = URL_SAFE_NO_PAD.decode(secret).unwrap();
    let keys = load(SignMethod::Hs256, files.write("secret", secret), None).unwrap();
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                 eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                 dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    assert_eq!(keys.check(token.as_bytes()), Err("no username"), "the signature is right");
    let longer = token.replace("dBj", "dBk");
    assert_eq!(keys.check(longer.as_bytes()), Err("the signature is not right"));
}

#[test]
fn every_byte_of_a_shared_secret_counts() {
    let files = Files::new();
    let shared = |method, secret: &str| load(method, files.write("secret", secret), None).unwrap();
    let token = shared(SignMethod::Hs256, "secret\n").sign("alice", 7).unwrap();
    assert!(shared(SignMethod::Hs256, "secret\n").check(token.as_bytes()).is_ok());
    assert!(shared(SignMethod::Hs256, "secret").check(token.as_bytes()).is_err());
    assert!(shared(SignMethod::Hs384, "secret\n").check(token.as_bytes()).is_err());
}

#[test]
fn a_token_is_good_as_it_was_made_and_in_no_other_way() {
    let files = Files::new();
    let keys = load(SignMethod::Hs256, files.write("secret", "secret"), None).unwrap();
    let token = keys.sign("alice", 7).unwrap();
    for at in 0..token.len() {
        for letter in [b'A', b'_', b'.', b'=', 0, 0xff] {
            let mut changed = token.clone().into_bytes();
            changed[at] = letter;
            let is_same = changed == token.as_bytes();
            assert_eq!(keys.check(&changed).is_ok(), is_same, "letter {at} is {letter}");
        }
        assert!(keys.check(&token.as_bytes()[..at]).is_err());
    }
    // A public key that a client knows is no shared secret.
    let (_, private, public) = pair(&PKCS_ECDSA_P256_SHA256);
    let checks = load(SignMethod::Es256, files.write("private", private), None).unwrap();
    let confused = load(SignMethod::Hs256, files.write("public", public), None).unwrap();
    let confused = confused.sign("root", 1).unwrap();
    assert_eq!(checks.check(confused.as_bytes()), Err("another signing method"));
}

#[test]
fn public_keys_are_read_from_certificates_and_in_rsas_own_form() {
    let files = Files::new();
    for method in methods_of_pairs() {
        let (key, private, _) = pair(kind(method));
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let keys = load(method, files.write("private", private), files.write("certificate", certificate));
        assert!(keys.is_ok(), "{method:?}: {keys:?}");
    }
    let (key, private, _) = pair(&PKCS_RSA_SHA256);
    let own = rsa::PublicKey::from_der(&key.subject_public_key_info()).unwrap();
    let body = BASE64.encode(own.as_ref());
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{body}\n-----END RSA PUBLIC KEY-----\n");
    load(SignMethod::Ps384, files.write("private", private), files.write("own", pem)).unwrap();
}

#[test]
fn files_that_do_not_fit_the_method_are_refused_with_what_is_wrong() {
    let files = Files::new();
    let (_, p256, p256_public) = pair(&PKCS_ECDSA_P256_SHA256);
    let (_, rsa, rsa_public) = pair(&PKCS_RSA_SHA256);
    let (p256, p256_public) = (files.write("p256", p256), files.write("p256.pub", p256_public));
    let (rsa, rsa_public) = (files.write("rsa", rsa), files.write("rsa.pub", rsa_public));
    let (nothing, text) = (files.write("nothing", ""), files.write("text", "no key"));
    let missing = Some(files.0.path().join("missing"));
    let large = files.write("large", vec![b'x'; (1 << 20) + 1]);
    for (method, private, public, reason) in [
        (SignMethod::Rs256, &p256, &None, "the key is not one for RS256"),
        (SignMethod::Es384, &p256, &None, "the key is not one for ES384"),
        (SignMethod::Es256, &rsa, &None, "the key is not one for ES256"),
        (SignMethod::EdDsa, &rsa, &None, "the key is not one for EdDSA"),
        (SignMethod::EdDsa, &None, &p256_public, "the key is not one for EdDSA"),
        (SignMethod::Es512, &None, &p256_public, "the key is not one for ES512"),
        (SignMethod::Es256, &None, &rsa_public, "the key is not one for ES256"),
        (SignMethod::Ps256, &None, &p256_public, "the key is not one for PS256"),
        (SignMethod::Rs256, &text, &None, "no private key in PEM"),
        (SignMethod::Rs256, &rsa_public, &None, "no private key in PEM"),
        (SignMethod::Rs256, &None, &text, "no public key or certificate in PEM"),
        (SignMethod::Rs256, &None, &nothing, "no public key or certificate in PEM"),
        (SignMethod::Rs256, &missing, &None, "No such file"),
        (SignMethod::Hs256, &missing, &None, "No such file"),
        (SignMethod::Hs256, &large, &None, "more than 1048576 bytes"),
        (SignMethod::Hs256, &nothing, &None, "auth: missing key data"),
    ] {
        let told = load(method, private.clone(), public.clone()).unwrap_err().to_string();
        assert!(told.contains(reason), "{method:?}: {told}");
        assert!(told.starts_with("--auth-token: auth: "), "{told}");
    }
    assert!(load(SignMethod::Rs512, rsa, None).is_ok());
}
