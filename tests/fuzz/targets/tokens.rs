//! Fuzz target: `pinion_fuzz::tokens` says what it claims.
#![no_main]
#![expect(clippy::disallowed_types, reason = "the engine's macro opens a file")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pinion_fuzz::tokens::run(data));
