//! Fuzz target: `pinion_fuzz::checkpoint` says what it claims.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pinion_fuzz::checkpoint::run(data));
