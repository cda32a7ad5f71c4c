//! Fuzz target: `pinion_fuzz::wal` says what it claims.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pinion_fuzz::wal::run(data));
