//! The fuzz target of [`check`]; `make fuzz` starts it from real models.
#![no_main]

#[path = "../model_text.rs"]
mod model_text;

libfuzzer_sys::fuzz_target!(|data: &[u8]| model_text::check(data));
