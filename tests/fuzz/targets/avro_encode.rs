//! Any text of any type in any mode is a record that apache-avro decodes, or an error that names the column and leaves
//! nothing behind. The first two bytes choose type and mode, the rest is what Postgres would have sent.

#![no_main]

#[path = "../../../crates/avro/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use support::Cell;
use support::compiled::COMPILED;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, text)) = bytes.split_first_chunk::<2>() else { return };
    let compiled = &COMPILED[usize::from(u16::from_be_bytes(*choice)) % COMPILED.len()];
    if let Err(error) = compiled.round_trip(Cell::Text(text)) {
        assert!(error.to_string().contains("\"c\""), "{error}");
    }
});
