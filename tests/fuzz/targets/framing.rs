//! Fuzz target: `pinion_fuzz::framing` says what it claims.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pinion_fuzz::framing::run(data));
