//! JSON web tokens as text: their three parts, what the header has to say, and what the claims say.
//!
//! A token is `header.claims.signature`, each part in base64 for URLs without padding. Nothing of it is believed before
//! the signature has been verified, which the shell does; the reader here sees to it that the header names the one
//! method that is configured, and reads the claims only afterwards ([`WebToken::claims`]).
//!
//! Every function is total: bytes of a client are refused with a reason for the log, never with a panic. What is read
//! of a token is bounded by its length; `serde_json` bounds its depth.
//! Compatibility: claims and rules are etcd 3.7's. `exp` and `nbf` count where they are there, in whole seconds and
//! without leeway; `iat` and other claims are passed over. Stricter than etcd: bits behind the end of a base64 text, a
//! revision that is negative or beyond 2^63, `exp` 0 as a time without end, and a header with `crit` are refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Map, Value, json};

/// A token whose header is in order. Its signature is still to be verified.
#[derive(Debug)]
pub struct WebToken<'t> {
    signed: &'t [u8],
    signature: Vec<u8>,
    claims: &'t [u8],
}

/// What a token says, in whole seconds since 1970 where it is about time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub user: String,
    /// The auth revision at which it was made. 0: the token is nobody's.
    pub revision: u64,
    expires_s: Option<i64>,
    begins_s: Option<i64>,
}

/// Header, claims and signature, if these are the parts of a token.
fn split(token: &[u8]) -> Option<[&[u8]; 3]> {
    let mut parts = token.split(|byte| *byte == b'.');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    (parts.next().is_none() && three.iter().all(|part| !part.is_empty())).then_some(three)
}

/// Whether a token may be one: what else is shown need not be looked at.
#[must_use]
pub fn may_be_web_token(token: &[u8]) -> bool {
    split(token).is_some()
}

fn object(part: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&BASE64.decode(part).ok()?) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

impl<'t> WebToken<'t> {
    /// Reads a token whose header names `algorithm`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(token: &'t [u8], algorithm: &str) -> Result<Self, &'static str> {
        let [header, claims, signature] = split(token).ok_or("not three parts")?;
        let object = object(header).ok_or("the header is no JSON object in base64")?;
        if object.get("alg").and_then(Value::as_str) != Some(algorithm) {
            return Err("another signing method");
        }
        if object.contains_key("crit") {
            return Err("the header asks for extensions");
        }
        let signature = BASE64.decode(signature).map_err(|_| "the signature is no base64")?;
        Ok(Self { signed: &token[..header.len() + 1 + claims.len()], signature, claims })
    }

    /// The bytes that the signature is over.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        self.signed
    }

    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// What a token says whose signature has been verified.
    ///
    /// # Errors
    /// It does not say whose it is, or it says it in another form.
    pub fn claims(&self) -> Result<Claims, &'static str> {
        let claims = object(self.claims).ok_or("the claims are no JSON object in base64")?;
        let user = claims.get("username").and_then(Value::as_str).ok_or("no username")?;
        let revision = claims.get("revision").and_then(Value::as_f64).ok_or("no revision")?;
        if !(0.0..9_223_372_036_854_775_808.0).contains(&revision) {
            return Err("a revision out of range");
        }
        let date = |name| match claims.get(name) {
            None => Ok(None),
            Some(date) => date.as_f64().map(|date| Some(whole(date))).ok_or("a time that is no number"),
        };
        Ok(Claims {
            user: user.to_owned(),
            revision: whole(revision).unsigned_abs(),
            expires_s: date("exp")?,
            begins_s: date("nbf")?,
        })
    }
}

/// The number without its fraction; the nearest one that there is for one out of range.
#[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
fn whole(number: f64) -> i64 {
    number as i64
}

impl Claims {
    /// How long the token is still good at `now_ms`, in milliseconds since 1970. None: it is not, or not yet.
    #[must_use]
    pub fn ms_left(&self, now_ms: u64) -> Option<u64> {
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let is_later = self.begins_s.is_some_and(|begins| now < begins.saturating_mul(1_000));
        let end = self.expires_s.map_or(i64::MAX, |expires| expires.saturating_mul(1_000));
        let left = u64::try_from(end.saturating_sub(now)).ok().filter(|left| 0 < *left);
        left.filter(|_| !is_later)
    }
}

/// Header and claims of a token, as its signature is made over them.
#[must_use]
pub fn unsigned(algorithm: &str, user: &str, revision: u64, expires_s: u64) -> String {
    let header = json!({ "alg": algorithm, "typ": "JWT" });
    let claims = json!({ "exp": expires_s, "revision": revision, "username": user });
    BASE64.encode(header.to_string()) + "." + &BASE64.encode(claims.to_string())
}

/// The whole token.
#[must_use]
pub fn with_signature(mut unsigned: String, signature: &[u8]) -> String {
    unsigned.push('.');
    BASE64.encode_string(signature, &mut unsigned);
    unsigned
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn minted(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", BASE64.encode(header), BASE64.encode(claims))
    }

    fn read(header: &str, claims: &str) -> Result<Claims, &'static str> {
        WebToken::read(minted(header, claims).as_bytes(), "HS256")?.claims()
    }

    #[test]
    fn a_token_reads_as_it_was_made() {
        let token = with_signature(unsigned("ES512", "al\"ice", 7, 50), &[0, 255]);
        let read = WebToken::read(token.as_bytes(), "ES512").unwrap();
        assert_eq!((read.signature(), read.signed().len()), (&[0, 255][..], token.len() - 4));
        let claims = read.claims().unwrap();
        assert_eq!((&*claims.user, claims.revision), ("al\"ice", 7));
        assert_eq!((claims.ms_left(49_999), claims.ms_left(50_000)), (Some(1), None));
    }

    #[test]
    fn headers_that_are_not_in_order_are_refused() {
        let claims = r#"{"username":"a","revision":1}"#;
        assert!(read(HEADER, claims).is_ok());
        assert!(read(r#"{"alg":"HS256"}"#, claims).is_ok());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"HS512"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"ALG":"HS256"}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":null}"#,
            r#"{"typ":"JWT"}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"HS256""#,
            r#"{"alg":"HS256"} {}"#,
            r#""HS256""#,
            "[]",
            "",
        ] {
            assert!(read(header, claims).is_err(), "{header}");
        }
        let deep = "[".repeat(5_000);
        assert!(read(&format!(r#"{{"alg":"HS256","x":{deep}"#), claims).is_err());
    }

    #[test]
    fn claims_are_judged_as_etcd_judges_them() {
        let at = 1_000_000;
        for (claims, is_good) in [
            (r#"{"username":"a","revision":1}"#, true),
            (r#"{"username":"a","revision":1,"more":[1],"iat":9999999999}"#, true),
            (r#"{"username":"a","revision":1.9,"exp":1001}"#, true),
            (r#"{"username":"","revision":0}"#, true),
            (r#"{"username":"a","revision":1,"exp":1000}"#, false),
            (r#"{"username":"a","revision":1,"exp":1000.9}"#, false),
            (r#"{"username":"a","revision":1,"exp":0}"#, false),
            (r#"{"username":"a","revision":1,"exp":-5}"#, false),
            (r#"{"username":"a","revision":1,"exp":1e300}"#, true),
            (r#"{"username":"a","revision":1,"exp":1e400}"#, false),
            (r#"{"username":"a","revision":1,"exp":"1001"}"#, false),
            (r#"{"username":"a","revision":1,"exp":null}"#, false),
            (r#"{"username":"a","revision":1,"nbf":1000}"#, true),
            (r#"{"username":"a","revision":1,"nbf":1001}"#, false),
            (r#"{"username":"a","revision":1,"nbf":[]}"#, false),
            (r#"{"revision":1}"#, false),
            (r#"{"username":1,"revision":1}"#, false),
            (r#"{"username":"a"}"#, false),
            (r#"{"username":"a","revision":"1"}"#, false),
            (r#"{"username":"a","revision":-1}"#, false),
            (r#"{"username":"a","revision":18446744073709551615}"#, false),
            (r#"{"username":"a","revision":9223372036854775808}"#, false),
            ("{\"username\":\"\u{0}\",\"revision\":1}", false),
            ("[]", false),
            ("", false),
        ] {
            let read = read(HEADER, claims);
            let is_in_time = read.as_ref().is_ok_and(|claims| claims.ms_left(at).is_some());
            assert_eq!(is_in_time, is_good, "{claims}: {read:?}");
        }
        // A member's own login, which may everything, is no token's to be.
        assert!(read(HEADER, r#"{"username":"","revision":1.8446744073709551615e19}"#).is_err());
    }

    #[test]
    fn other_shapes_are_no_tokens() {
        for token in ["", ".", "..", "...", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d", "abcdefghijklmnop.7"] {
            assert!(!may_be_web_token(token.as_bytes()), "{token:?}");
            assert!(WebToken::read(token.as_bytes(), "HS256").is_err(), "{token:?}");
        }
        let good = minted(HEADER, r#"{"username":"a","revision":1}"#);
        let (body, _) = good.rsplit_once('.').unwrap();
        // Bits behind the end, padding, the other alphabet, spaces.
        for signature in ["c2lnZ", "c2k=", "c2+/", "c2ln ", "c2l\u{e9}"] {
            assert!(
                WebToken::read(format!("{body}.{signature}").as_bytes(), "HS256").is_err(),
                "{signature:?}"
            );
        }
        assert!(WebToken::read(b"\xff\xfe.\x00.\x00", "HS256").is_err());
    }
}
