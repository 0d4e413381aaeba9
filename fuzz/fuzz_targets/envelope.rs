//! What stands in Redis: any bytes are read without a panic, and a changed byte never makes another object of one.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use scaler_object_storage::fuzzing::envelope;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    place: usize,
    change: u8,
    metadata: &'a [u8],
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    envelope::value(input.bytes);
    envelope::events(input.bytes);
    envelope::damaged(input.metadata, input.bytes, input.place, input.change);
});
