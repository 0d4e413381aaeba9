//! Tests of decoding request streams that arrive in any chunks.

use super::*;
use crate::wire::{ReplyHead, ReplyType};

/// A request and a reply differ in what their numbers mean, not in their layout.
fn header_message(kind: u16, payload_length: u64) -> Vec<u8> {
    let head = ReplyHead { id: [7; 32], payload_length, response_id: 1, reply_type: ReplyType::SetOk };
    let mut bytes = head.encode()[..ReplyHead::BYTES].to_vec();
    bytes[40..42].copy_from_slice(&kind.to_le_bytes());
    bytes
}

fn payload_message(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u64).to_le_bytes(), payload].concat()
}

fn header(request_type: RequestType, payload_length: u64) -> RequestHeader {
    RequestHeader { id: [7; 32], payload_length, request_id: 1, request_type }
}

/// Everything that a stream decodes to when it arrives in chunks of this size, with the payload pieces joined.
fn decode(stream: &[u8], chunk_bytes: usize) -> Result<Vec<(String, Vec<u8>)>, Malformed> {
    let mut decoder = RequestDecoder::new(1 << 20);
    let (mut kept, mut events, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in stream.chunks(chunk_bytes) {
        kept.extend_from_slice(chunk);
        loop {
            match decoder.next(&kept)? {
                Step::Event { event, consumed } => {
                    match event {
                        Event::Request(header) => events.push((format!("{:?}", header.request_type), vec![])),
                        Event::Set(_, payload) => events.push(("Set".to_owned(), payload.to_vec())),
                        Event::SetBegins(_) => pieces.clear(),
                        Event::Piece(piece, last) => {
                            pieces.extend_from_slice(piece);
                            if last {
                                events.push(("Set".to_owned(), pieces.clone()));
                            }
                        }
                        Event::Duplicate(_, original) => events.push(("Duplicate".to_owned(), original.to_vec())),
                    }
                    kept.drain(..consumed);
                }
                Step::Incomplete { consumed, needed } => {
                    kept.drain(..consumed);
                    assert!(kept.len() < needed, "{} bytes are enough", kept.len());
                    break;
                }
            }
        }
    }
    assert!(kept.is_empty());
    Ok(events)
}

#[test]
fn requests_are_the_same_however_the_stream_is_cut() {
    let whole = vec![1; PAYLOAD_BYTES_WHOLE_MAX];
    let long = vec![2; PAYLOAD_BYTES_WHOLE_MAX + 1];
    let mut original = [5_u64 << 32, 4 << 32].map(u64::to_le_bytes).concat();
    original.extend_from_slice(&[9; 32]);
    let stream = [
        header_message(1, 0),
        header_message(0, 0),
        payload_message(b""),
        header_message(0, whole.len() as u64),
        payload_message(&whole),
        header_message(2, 0),
        header_message(0, long.len() as u64),
        payload_message(&long),
        header_message(3, 48),
        payload_message(&original),
        header_message(4, 0),
    ]
    .concat();
    let expected = [
        ("Get", vec![]),
        ("Set", vec![]),
        ("Set", whole),
        ("Delete", vec![]),
        ("Set", long),
        ("Duplicate", vec![9; 32]),
        ("InfoGetTotal", vec![]),
    ]
    .map(|(name, payload)| (name.to_owned(), payload));
    for chunk_bytes in [1, 7, 88, 4096, 65_544, stream.len()] {
        assert_eq!(decode(&stream, chunk_bytes).unwrap(), expected, "{chunk_bytes}");
    }
}

#[test]
fn a_payload_of_another_length_is_read_as_a_header() {
    let stream = [header_message(0, 10), header_message(1, 0)].concat();
    assert_eq!(decode(&stream, stream.len()).unwrap(), [("Get".to_owned(), vec![])]);
    let stream = [header_message(0, 10), payload_message(b"eleven bytes")].concat();
    assert!(matches!(decode(&stream, stream.len()), Err(Malformed::Header { bytes: 12, .. })));
}

#[test]
fn a_set_whose_payload_is_as_long_as_a_header_takes_it_as_payload() {
    let payload = &header_message(1, 0)[8..];
    let stream = [header_message(0, 80), payload_message(payload)].concat();
    assert_eq!(decode(&stream, 1).unwrap(), [("Set".to_owned(), payload.to_vec())]);
}

#[test]
fn lengths_beyond_their_limits_are_refused_before_their_bytes_arrive() {
    let mut decoder = RequestDecoder::new(1 << 20);
    let length = HEADER_BYTES_MAX as u64 + 1;
    assert_eq!(decoder.next(&length.to_le_bytes()), Err(Malformed::HeaderLength(length)));
    assert_eq!(decoder.next(&u64::MAX.to_le_bytes()), Err(Malformed::HeaderLength(u64::MAX)));

    let mut decoder = RequestDecoder::new(1 << 20);
    let refused = Malformed::ObjectLength { bytes: (1 << 20) + 1, bytes_max: 1 << 20 };
    assert_eq!(decoder.next(&header_message(0, (1 << 20) + 1)), Err(refused));
    for length in [0, 47, 49, u64::MAX] {
        let mut decoder = RequestDecoder::new(1 << 20);
        assert_eq!(decoder.next(&header_message(3, length)), Err(Malformed::Original(length)));
    }
}

#[test]
fn a_get_may_ask_for_any_length() {
    let mut decoder = RequestDecoder::new(0);
    let event = Event::Request(header(RequestType::Get, u64::MAX));
    assert_eq!(decoder.next(&header_message(1, u64::MAX)), Ok(Step::Event { event, consumed: 88 }));
}

#[test]
fn the_length_of_a_payload_in_pieces_may_be_any_number() {
    let mut decoder = RequestDecoder::new(u64::MAX);
    let stream = [header_message(0, u64::MAX), u64::MAX.to_le_bytes().to_vec(), vec![1, 2, 3]].concat();
    let begins = Event::SetBegins(header(RequestType::Set, u64::MAX));
    assert_eq!(decoder.next(&stream), Ok(Step::Event { event: begins, consumed: 96 }));
    assert_eq!(decoder.next(&stream[96..]), Ok(Step::Event { event: Event::Piece(&[1, 2, 3], false), consumed: 3 }));
}
