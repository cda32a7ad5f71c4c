//! Properties that no bytes may break, one module for each fuzz target.
//!
//! Each module has `run(data)`: it reads the engine's bytes as input (or as a recipe for one) and
//! panics if the property does not hold. The targets in `targets/` are one line each, so what they
//! claim also runs under plain `cargo test`, on the seeds.

pub mod auth;
pub mod bbolt;
pub mod checkpoint;
pub mod discovery;
pub mod framing;
pub mod headers;
pub mod hello;
pub mod http;
pub mod key_range;
pub mod memory;
pub mod message;
pub mod nodes;
pub mod peer;
pub mod requests;
pub mod seed;
pub mod tokens;
pub mod wal;
mod wal_image;

use arbitrary::Unstructured;

/// A number below `count`. Past the end of the input it is 0, so put the plainest choice first.
fn below(input: &mut Unstructured<'_>, count: usize) -> usize {
    assert!(0 < count, "a choice among none");
    input.int_in_range(0..=count - 1).unwrap_or(0)
}

/// True once in `count` times.
fn one_in(input: &mut Unstructured<'_>, count: usize) -> bool {
    below(input, count) == count - 1
}

/// At most `max` bytes of the input.
fn bytes<'a>(input: &mut Unstructured<'a>, max: usize) -> &'a [u8] {
    let count = below(input, max + 1).min(input.len());
    input.bytes(count).unwrap_or(&[])
}

/// Any number: mostly a small one, sometimes one at an end of the range.
fn number(input: &mut Unstructured<'_>) -> i64 {
    match below(input, 8) {
        0..=4 => i64::try_from(below(input, 24)).unwrap_or(0) - 2,
        5 => [i64::MIN, i64::MIN + 1, -1, i64::MAX - 1, i64::MAX][below(input, 5)],
        _ => input.arbitrary().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u64 = 300;

    fn hold(run: fn(&[u8]), target: &str) {
        let corpora = seed::corpora();
        let (_, inputs) = corpora.iter().find(|(name, _)| *name == target).expect("a corpus for the target");
        assert!(!inputs.is_empty());
        inputs.iter().for_each(|input| run(input));
        for round in 0..ROUNDS {
            println!("replay: seed::random({round}, 4000)");
            run(&seed::random(round, 4_000));
        }
    }

    #[test]
    fn bbolt_property_holds_on_its_seeds() {
        hold(bbolt::run, "bbolt");
    }

    #[test]
    fn wal_property_holds_on_its_seeds() {
        hold(wal::run, "wal");
    }

    #[test]
    fn framing_property_holds_on_its_seeds() {
        hold(framing::run, "framing");
    }

    #[test]
    fn hello_property_holds_on_its_seeds() {
        hold(hello::run, "hello");
    }

    #[test]
    fn tokens_property_holds_on_its_seeds() {
        hold(tokens::run, "tokens");
    }

    #[test]
    fn auth_property_holds_on_its_seeds() {
        hold(auth::run, "auth");
    }

    #[test]
    fn headers_property_holds_on_its_seeds() {
        hold(headers::run, "headers");
    }

    #[test]
    fn http_property_holds_on_its_seeds() {
        hold(http::run, "http");
    }

    #[test]
    fn nodes_property_holds_on_its_seeds() {
        hold(nodes::run, "nodes");
    }

    #[test]
    fn discovery_property_holds_on_its_seeds() {
        hold(discovery::run, "discovery");
    }

    #[test]
    fn requests_property_holds_on_its_seeds() {
        hold(requests::run, "requests");
    }

    #[test]
    fn peer_property_holds_on_its_seeds() {
        hold(peer::run, "peer");
    }

    #[test]
    fn key_range_property_holds_on_its_seeds() {
        hold(key_range::run, "key_range");
    }

    #[test]
    fn checkpoint_property_holds_on_its_seeds() {
        hold(checkpoint::run, "checkpoint");
    }
}
