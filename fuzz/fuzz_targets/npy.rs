#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vecstore_fuzz::timely(vecstore_fuzz::npy, data));
