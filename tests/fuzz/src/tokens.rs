//! What shows who a client is: simple tokens, JSON web tokens, and the headers that they come in.
//!
//! Claims, for any bytes: a simple token is what a second reading of its form says; a header gives the part of itself that
//! its form names; a JSON web token is refused unless its three parts are base64 as a second reader reads it, its header
//! names the one algorithm, and its claims are of their types; what is accepted is signed over its own first two parts,
//! reads the same when it is made again, and is good for one span of time. `none` is never an algorithm. Nothing panics,
//! and memory follows the bytes that came.

use arbitrary::Unstructured;
use pinion::auth::{
    Claims, Tokens, WebToken, basic, bearer, may_be_web_token, prefix_digest, subprotocol, token_index,
    token_text, unsigned, with_signature,
};

use crate::{below, bytes, memory, one_in};

const ALGORITHMS: [&str; 4] = ["HS256", "RS512", "ES384", "EdDSA"];

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 5 {
        0 => simple(rest),
        1 => headers(rest),
        2 => drop(web_token(rest, ALGORITHMS[0])),
        3 => minted(&mut Unstructured::new(rest)),
        _ => table(&mut Unstructured::new(rest)),
    }
}

fn simple(token: &[u8]) {
    let (prefix, index) = token.split_at(token.len().min(16));
    let is_one = prefix.len() == 16
        && prefix.iter().all(u8::is_ascii_alphabetic)
        && index.first() == Some(&b'.')
        && 1 < index.len()
        && index[1..].iter().all(u8::is_ascii_digit);
    let number = is_one.then(|| {
        let digits = index[1..].iter().map(|digit| u64::from(digit - b'0'));
        digits.into_iter().try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(digit))
    });
    let found = memory::bounded(0, || token_index(token));
    assert_eq!(found, number.flatten());
    if let Some(index) = found {
        let prefix = std::str::from_utf8(prefix).expect("letters");
        assert_eq!(token_index(token_text(prefix, index).as_bytes()), Some(index));
    }
    assert!(!(found.is_some() && may_be_web_token(token)), "of two kinds");
}

fn headers(header: &[u8]) {
    let token = memory::bounded(0, || bearer(header));
    let cut = header.len() - token.len();
    assert!(header.ends_with(token) && (cut == 0 || (cut == 7 && header.starts_with(b"Bearer "))));
    if let Some(token) = memory::bounded(0, || subprotocol(header)) {
        assert!(token.is_empty() || header.windows(token.len()).any(|part| part == token));
        assert!(!token.contains(&b',') && token.trim_ascii() == token && header.contains(&b','));
    }
    let read = memory::bounded(4 * header.len() + 64, || basic(header));
    if let Some((user, password)) = read {
        assert!(header[..6].eq_ignore_ascii_case(b"basic ") && !user.contains(':'));
        // Again as it would be written: base64 that has a second form is none.
        let text = encode(format!("{user}:{password}").as_bytes()).replace('-', "+").replace('_', "/");
        let padding = "=".repeat(text.len().wrapping_neg() % 4);
        assert_eq!(header[6..].trim_ascii(), (text + &padding).as_bytes());
    }
}

/// base64url without padding, by itself.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(*piece.get(at).unwrap_or(&0)));
        for at in 0..=piece.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

/// The same the other way; only what `encode` writes is taken.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in text.chunks(4) {
        let mut bits = 0_u32;
        for at in 0..4 {
            let letter = match piece.get(at) {
                Some(letter) => ALPHABET.iter().position(|known| known == letter)?,
                None => 0,
            };
            bits = bits << 6 | u32::try_from(letter).expect("below 64");
        }
        let whole = bits.to_be_bytes();
        bytes.extend_from_slice(&whole[1..piece.len()]);
    }
    (encode(&bytes).as_bytes() == text).then_some(bytes)
}

/// Any bytes as a JSON web token.
fn web_token(token: &[u8], algorithm: &str) -> Option<Claims> {
    let read = || WebToken::read(token, algorithm).and_then(|read| Ok((read.claims()?, read)));
    // A value in memory is larger than its text: a byte may be a number in a list.
    let (claims, read) = match memory::bounded(256 * token.len() + 4_096, read) {
        Ok(read) => read,
        Err(reason) => {
            assert!(!reason.is_empty());
            return None;
        }
    };
    assert!(may_be_web_token(token));
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [header, _, signature] = parts[..] else { panic!("{} parts", parts.len()) };
    assert_eq!(decode(signature).as_deref(), Some(read.signature()));
    assert_eq!(read.signed(), &token[..token.len() - signature.len() - 1]);
    let header = decode(header).expect("a header that was read is base64");
    let header = String::from_utf8(header).expect("JSON is UTF-8");
    assert!(header.contains("alg") || header.contains("\\u"), "{header}");
    for other in ["none", "None", "", "HS512"] {
        assert!(WebToken::read(token, other).is_err(), "{other:?} beside {algorithm}");
    }
    assert!(claims.revision < 1 << 63, "a member's own login has a larger one");
    one_span(&claims);
    Some(claims)
}

/// A token is not good yet, then good, then over.
fn one_span(claims: &Claims) {
    let times = [0, 1, 999, 1_000, 1_001, 1_700_000_000_000, u64::MAX / 2_000, u64::MAX / 2, u64::MAX];
    let good: Vec<bool> = times.iter().map(|now| claims.ms_left(*now).is_some()).collect();
    let changes = good.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 1 + usize::from(!good[0]), "{claims:?}: {good:?}");
    for now in times {
        let Some(left) = claims.ms_left(now) else { continue };
        assert!(0 < left);
        assert!(claims.ms_left(now + (left - 1).min(u64::MAX - now)).is_some(), "{claims:?} at {now}");
        if let Some(end) =
            now.checked_add(left).filter(|end| i64::try_from(*end).is_ok_and(|end| end < i64::MAX))
        {
            assert_eq!(claims.ms_left(end), None, "{claims:?} at {end}");
        }
    }
}

/// A token that a minter could make, well or with something wrong.
fn minted(input: &mut Unstructured<'_>) {
    let algorithm = ALGORITHMS[below(input, ALGORITHMS.len())];
    let user = String::from_utf8_lossy(bytes(input, 20)).into_owned();
    let revision = input.arbitrary::<u64>().unwrap_or(7) >> below(input, 64).max(2);
    let expires_s = input.arbitrary::<u64>().unwrap_or(1) >> below(input, 64).max(1);
    let signature = [&[1_u8], bytes(input, 70)].concat();
    let good = with_signature(unsigned(algorithm, &user, revision, expires_s), &signature);
    let claims = web_token(good.as_bytes(), algorithm).expect("a good token");
    assert_eq!(claims.user, user);
    // A number of JSON is a float here, as in etcd.
    let near = |a: u64, b: u64| a.abs_diff(b) <= a >> 50;
    assert!(near(claims.revision, revision), "{claims:?}: {revision}");
    let end = claims.ms_left(0).unwrap_or(0);
    let expected = expires_s.saturating_mul(1_000).min(i64::MAX.unsigned_abs());
    assert!(near(end, expected), "{claims:?}: {end} instead of {expected}");
    for other in ALGORITHMS.iter().filter(|other| **other != algorithm) {
        assert!(WebToken::read(good.as_bytes(), other).is_err(), "{other} instead of {algorithm}");
    }
    // Some bytes are another's.
    let mut damaged = good.into_bytes();
    crate::message::damage(input, &mut damaged);
    web_token(&damaged, algorithm);
    // Parts of it, each written by hand.
    let text = |input: &mut Unstructured<'_>, plain: &str| match below(input, 4) {
        0 => plain.to_owned(),
        1 => String::from_utf8_lossy(bytes(input, 60)).into_owned(),
        2 => format!("{{\"alg\":\"none\",{}", plain.get(1..).unwrap_or("}")),
        _ => format!("[{plain}]"),
    };
    let header = text(input, &format!("{{\"alg\":\"{algorithm}\"}}"));
    let number = String::from_utf8_lossy(bytes(input, 24)).into_owned();
    let claims = match one_in(input, 2) {
        true => text(input, "{\"username\":\"a\",\"revision\":1}"),
        false => format!("{{\"username\":\"a\",\"revision\":{number},\"exp\":{number},\"nbf\":{number}}}"),
    };
    let token = format!("{}.{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()), encode(&signature));
    web_token(token.as_bytes(), algorithm);
}

/// What a member knows of tokens, beside a list.
fn table(input: &mut Unstructured<'_>) {
    const TTL_MS: u64 = 100;
    let mut tokens = Tokens::new(TTL_MS);
    let mut model: Vec<(usize, usize, u64)> = Vec::new();
    let (mut now, names) = (0, ["alice", "bob", ""]);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        now += below(input, 40) as u64;
        let (token, user) = (below(input, 6), below(input, names.len()));
        let text = token_text("abcdefghijklmnop", token as u64);
        match below(input, 6) {
            0 | 1 => {
                let digest = token_text(&prefix_digest("abcdefghijklmnop"), token as u64);
                tokens.insert(&digest, names[user], now);
                model.retain(|(known, ..)| *known != token);
                model.push((token, user, now + TTL_MS));
            }
            2 | 3 => {
                let known = model.iter_mut().find(|(known, _, until)| *known == token && now < *until);
                let expected = known.map(|(_, user, until)| {
                    *until = now + TTL_MS;
                    names[*user]
                });
                assert_eq!(tokens.use_token(text.as_bytes(), now), expected);
            }
            4 => {
                tokens.remove_user(names[user]);
                model.retain(|(_, known, _)| *known != user);
            }
            _ => {
                tokens.sweep(now);
                model.retain(|(_, _, until)| now < *until);
                assert_eq!(tokens.len(), model.len());
            }
        }
    }
}
