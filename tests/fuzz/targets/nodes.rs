//! Fuzz target: `pinion_fuzz::nodes` says what it claims.
#![no_main]
#![expect(clippy::disallowed_types, reason = "the engine's macro opens a file")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pinion_fuzz::nodes::run(data));
