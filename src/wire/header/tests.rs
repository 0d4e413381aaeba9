//! Tests of headers against golden bytes and against the capnp crate.

use capnp::message::{Builder, HeapAllocator, ScratchSpaceHeapAllocator};

use super::*;

/// The header of a duplicate, as opengris-scaler 2.9.0 writes it for the id 00 01 .. 1f.
const GOLDEN_REQUEST: &str = "00000000090000000000000003000100887766554433221100ffeeddccbbaa99\
    03000000000000000000000004000000\
    07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918";

/// The header of the reply to an infoGetTotal, the same way.
const GOLDEN_REPLY: &str = "00000000090000000000000003000100887766554433221100ffeeddccbbaa99\
    05000000000000000000000004000000\
    07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918";

/// That id, as the payload of a duplicate.
const GOLDEN_ID: &str = "00000000050000000000000004000000\
    07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918";

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn golden_id() -> WireId {
    std::array::from_fn(|index| index as u8)
}

fn golden_header() -> RequestHeader {
    RequestHeader {
        id: golden_id(),
        payload_length: 0x1122_3344_5566_7788,
        request_id: 0x99aa_bbcc_ddee_ff00,
        request_type: RequestType::Duplicate,
    }
}

/// A request as the capnp crate writes it, in segments of `segment_words` if given.
fn capnp_request(header: &RequestHeader, kind: u16, id_first: bool, segment_words: Option<u32>) -> Vec<u8> {
    let allocator = HeapAllocator::new();
    let allocator = match segment_words {
        Some(words) => {
            allocator.first_segment_words(words).allocation_strategy(capnp::message::AllocationStrategy::FixedSize)
        }
        None => allocator,
    };
    let mut message = Builder::new(allocator);
    let mut root: header_capnp::request_header::Builder<'_> = message.init_root();
    let fill_id = |mut id: header_capnp::object_id::Builder<'_>| {
        let [a, b, c, d] = id_words(&header.id);
        id.set_field0(a);
        id.set_field1(b);
        id.set_field2(c);
        id.set_field3(d);
    };
    if id_first {
        fill_id(root.reborrow().init_object_id());
    }
    root.set_payload_length(header.payload_length);
    root.set_request_id(header.request_id);
    root.set_request_type(kind);
    if !id_first {
        // An id that was replaced leaves a gap between the root and the one that counts.
        let _ = root.reborrow().init_object_id();
        fill_id(root.init_object_id());
    }
    capnp::serialize::write_message_to_words(&message)
}

#[test]
fn a_request_header_reads_as_scalers_client_wrote_it() {
    assert_eq!(RequestHeader::decode(&bytes(GOLDEN_REQUEST)).unwrap(), golden_header());
    assert_eq!(decode_original(&bytes(GOLDEN_ID)).unwrap(), golden_id());
}

#[test]
fn a_reply_header_is_written_as_scalers_client_expects_it() {
    let head = ReplyHead {
        id: golden_id(),
        payload_length: 0x1122_3344_5566_7788,
        response_id: 0x99aa_bbcc_ddee_ff00,
        reply_type: ReplyType::InfoGetTotalOk,
    };
    let encoded = head.encode();
    assert_eq!(encoded[..8], 80_u64.to_le_bytes());
    assert_eq!(encoded[8..88], bytes(GOLDEN_REPLY)[..]);
    assert_eq!(encoded[88..], head.payload_length.to_le_bytes());
}

#[test]
fn capnp_writes_the_layout_that_is_read_by_hand() {
    assert_eq!(capnp_request(&golden_header(), 3, true, None), bytes(GOLDEN_REQUEST));
}

#[test]
fn capnp_reads_the_reply_that_is_written_by_hand() {
    let head =
        ReplyHead { id: golden_id(), payload_length: 7, response_id: u64::MAX, reply_type: ReplyType::DelNotExists };
    let encoded = head.encode();
    let words = aligned(&encoded[8..88]);
    let reader = read::<header_capnp::response_header::Owned>(&words).unwrap();
    let reply = reader.get().unwrap();
    let id = reply.get_object_id().unwrap();
    assert_eq!([id.get_field0(), id.get_field1(), id.get_field2(), id.get_field3()], id_words(&golden_id()));
    assert_eq!((reply.get_payload_length(), reply.get_response_id(), reply.get_response_type()), (7, u64::MAX, 3));
}

#[test]
fn every_legal_encoding_of_a_request_is_read() {
    let header = golden_header();
    for segment_words in [None, Some(1), Some(5), Some(6)] {
        for id_first in [true, false] {
            let message = capnp_request(&header, 3, id_first, segment_words);
            assert_eq!(RequestHeader::decode(&message).unwrap(), header, "{segment_words:?} {id_first}");
        }
    }
}

#[test]
fn fields_left_out_read_as_zero() {
    let mut scratch = [0; 64];
    let mut message = Builder::new(ScratchSpaceHeapAllocator::new(&mut scratch));
    let _: header_capnp::request_header::Builder<'_> = message.init_root();
    let message = capnp::serialize::write_message_to_words(&message);
    assert_eq!(message.len(), 48);
    let header = RequestHeader::decode(&message).unwrap();
    assert_eq!((header.id, header.payload_length, header.request_type), ([0; 32], 0, RequestType::Set));
}

#[test]
fn bytes_after_a_complete_header_are_ignored() {
    let mut message = bytes(GOLDEN_REQUEST);
    message.extend_from_slice(&[0xff; 13]);
    assert_eq!(RequestHeader::decode(&message).unwrap(), golden_header());
    let mut message = capnp_request(&golden_header(), 3, false, None);
    message.extend_from_slice(&[0xff; 13]);
    assert_eq!(RequestHeader::decode(&message).unwrap(), golden_header());
}

#[test]
fn a_header_that_is_too_short_is_refused() {
    let message = bytes(GOLDEN_REQUEST);
    for length in 0..message.len() {
        assert!(matches!(RequestHeader::decode(&message[..length]), Err(Malformed::Header { .. })), "{length}");
    }
}

#[test]
fn a_request_type_that_is_not_known_is_named() {
    let header = golden_header();
    for segment_words in [None, Some(1)] {
        for kind in [5, 99, u16::MAX] {
            let message = capnp_request(&header, kind, true, segment_words);
            assert_eq!(RequestHeader::decode(&message), Err(Malformed::RequestType(kind)));
        }
    }
}

#[test]
fn pointers_and_lengths_that_lead_outside_are_refused() {
    let golden = bytes(GOLDEN_REQUEST);
    for (at, word) in [
        (0, u64::MAX),                        // segments and words beyond every limit
        (0, 0x7fff_ffff << 32),               // one segment of 16 GiB
        (0, 511 | 9 << 32),                   // 512 segments
        (8, 3 << 32 | 1 << 48 | 0x0010_0000), // root far behind the end
        (8, u64::MAX),                        // root of an unknown kind
        (8, 0xffff << 32 | 0xffff << 48),     // root as large as can be
        (8, 1 | 7 << 32),                     // root is a list
        (40, 4 << 32 | 0x1000),               // id behind the end
        (40, 0x8000_0000 | 4 << 32),          // id before the start
        (40, 2 | 9 << 32),                    // id in segment 9
    ] {
        let mut message = golden.clone();
        message[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
        assert!(matches!(RequestHeader::decode(&message), Err(Malformed::Header { .. })), "{at} {word:x}");
    }
}

#[test]
fn a_root_that_points_at_itself_ends() {
    let mut message = bytes(GOLDEN_REQUEST);
    // The id pointer leads back to the root's own data: nonsense, but within the message.
    message[40..48].copy_from_slice(&(((-4_i64 as u64) << 2 & 0xffff_ffff) | 4 << 32).to_le_bytes());
    assert!(RequestHeader::decode(&message).is_ok());
}

#[test]
fn a_payload_that_is_no_id_is_refused() {
    for message in [vec![0xff; 48], vec![], vec![0; 47], bytes(GOLDEN_ID)[..47].to_vec()] {
        assert!(decode_original(&message).is_err(), "{message:?}");
    }
}
