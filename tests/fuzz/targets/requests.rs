//! Fuzz target: `pinion_fuzz::requests` says what it claims.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pinion_fuzz::requests::run(data));
