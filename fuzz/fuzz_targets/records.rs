//! Journal records, segment headers and hints: any bytes are read without a panic, and a walk finds only what was written.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use scaler_object_storage::fuzzing::journal;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    changes: Vec<(u32, u8)>,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    journal::decode(input.bytes);
    journal::walk(input.bytes, &[]);
    journal::walk(input.bytes, &input.changes);
});
