//! Any bytes on a node's socket are refused or mean what they say, without a panic.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use scaler_object_storage::fuzzing::node;

#[derive(Arbitrary, Debug)]
enum Input {
    Raw(Vec<u8>),
    /// With a kind that there is.
    Message { kind: u8, flags: u8, slot: u16, fields: Vec<u8> },
    Request { kind: u8, id: Vec<u8>, number: u64, text: Vec<u8> },
}

fuzz_target!(|input: Input| match input {
    Input::Raw(bytes) => node::message(&bytes),
    Input::Message { kind, flags, slot, fields } => {
        let mut bytes = (fields.len() as u32).to_le_bytes().to_vec();
        bytes.extend([kind % 23, flags]);
        bytes.extend(slot.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fields);
        node::message(&bytes);
    }
    Input::Request { kind, id, number, text } => node::request(kind, &id, number, &text),
});
