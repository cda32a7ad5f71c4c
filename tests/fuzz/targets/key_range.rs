//! Fuzz target: `pinion_fuzz::key_range` says what it claims.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pinion_fuzz::key_range::run(data));
