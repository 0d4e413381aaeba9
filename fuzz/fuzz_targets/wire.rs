//! The bytes of a client, cut anywhere, decode to the same requests as in one piece, without a panic and within the limits.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use scaler_object_storage::fuzzing::wire::{
    Event, Greeting, Malformed, ReplyHead, ReplyType, RequestDecoder, RequestHeader, RequestType, Step, WireId,
};

/// Largest object that the decoder is told to let in.
const OBJECT_BYTES_MAX: u64 = 1 << 20;

/// Most bytes that it may ask to be kept: a payload that it hands over whole, with its length.
const NEEDED_BYTES_MAX: usize = (64 << 10) + 8;

/// Raw bytes find what is malformed; requests find their way deeper in.
#[derive(Arbitrary, Debug)]
enum Part {
    Raw(Vec<u8>),
    Request { id: WireId, kind: u8, request_id: u64, payload: Vec<u8>, repeat: u8, announced: Option<u64> },
    Duplicate { original: [u64; 4] },
}

impl Part {
    fn append(self, stream: &mut Vec<u8>) {
        match self {
            Part::Raw(bytes) => stream.extend(bytes),
            Part::Request { id, kind, request_id, payload, repeat, announced } => {
                let payload = payload.repeat(usize::from(repeat));
                let length = announced.unwrap_or(payload.len() as u64);
                header(stream, id, u64::from(kind % 6), request_id, length);
                if kind % 6 == 0 || kind % 6 == 3 {
                    message(stream, &payload);
                }
            }
            Part::Duplicate { original } => {
                header(stream, [7; 32], 3, 1, 48);
                let words = [&[5 << 32, 4 << 32][..], &original].concat();
                message(stream, &words.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>());
            }
        }
    }
}

fn header(stream: &mut Vec<u8>, id: WireId, kind: u64, request_id: u64, length: u64) {
    let words = [9 << 32, 3 << 32 | 1 << 48, length, request_id, kind, 4 << 32];
    let fields = id.as_chunks::<8>().0.iter().map(|field| u64::from_be_bytes(*field));
    message(stream, &words.into_iter().chain(fields).flat_map(u64::to_le_bytes).collect::<Vec<_>>());
}

fn message(stream: &mut Vec<u8>, bytes: &[u8]) {
    stream.extend((bytes.len() as u64).to_le_bytes());
    stream.extend(bytes);
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let Ok(cuts) = <Vec<u16>>::arbitrary(&mut input) else { return };
    let Ok(parts) = <Vec<Part>>::arbitrary_take_rest(input) else { return };
    let mut stream = Vec::new();
    parts.into_iter().for_each(|part| part.append(&mut stream));
    stream.truncate(4 << 20);

    greeting(bytes);
    greeting(&stream);
    single_header(bytes);
    assert_eq!(decode(&stream, &[]), decode(&stream, &cuts));
});

fn greeting(bytes: &[u8]) {
    if let Ok(Greeting::Complete { identity, consumed, .. }) = Greeting::decode(bytes) {
        assert!(consumed <= bytes.len() && bytes[..consumed].ends_with(identity));
        assert_eq!(Greeting::decode(&bytes[..consumed]), Greeting::decode(bytes));
    }
}

fn single_header(bytes: &[u8]) {
    let Ok(RequestHeader { id, payload_length, request_id, request_type }) = RequestHeader::decode(bytes) else {
        return;
    };
    // What was understood, written down plainly, is understood as the same.
    let mut plain = Vec::new();
    header(&mut plain, id, request_type as u64, request_id, payload_length);
    let again = RequestHeader::decode(&plain[8..]).unwrap();
    assert_eq!(again, RequestHeader { id, payload_length, request_id, request_type });
    let reply = ReplyHead { id, payload_length, response_id: request_id, reply_type: ReplyType::GetOk }.encode();
    assert_eq!(reply[24..32], payload_length.to_le_bytes());
}

/// A request with its payload, however it was handed over.
#[derive(Debug, PartialEq)]
enum Request {
    Plain(RequestHeader),
    Set(RequestHeader, Vec<u8>),
    /// Its payload is not complete.
    Begun(RequestHeader, Vec<u8>),
    Duplicate(RequestHeader, WireId),
}

/// Gives the decoder the stream in pieces of these lengths, and the rest at once.
fn decode(stream: &[u8], cuts: &[u16]) -> (Vec<Request>, Option<Malformed>) {
    let mut decoder = RequestDecoder::new(OBJECT_BYTES_MAX);
    let mut requests = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut cuts = cuts.iter().map(|cut| usize::from(*cut)).chain([stream.len()]);
    while let Some(cut) = cuts.next() {
        end = (end + cut).min(stream.len());
        loop {
            match decoder.next(&stream[start..end]) {
                Ok(Step::Event { event, consumed }) => {
                    take(&mut requests, event);
                    assert!(consumed > 0, "no progress");
                    start += consumed;
                }
                Ok(Step::Incomplete { consumed, needed }) => {
                    start += consumed;
                    assert!(start <= end && needed > end - start, "it has all that it needs");
                    assert!(needed <= NEEDED_BYTES_MAX);
                    break;
                }
                Err(malformed) => return (requests, Some(malformed)),
            }
        }
    }
    (requests, None)
}

fn take(requests: &mut Vec<Request>, event: Event<'_>) {
    match event {
        Event::Request(header) => requests.push(Request::Plain(header)),
        Event::Set(header, payload) => {
            assert_eq!((payload.len() as u64, header.request_type), (header.payload_length, RequestType::Set));
            requests.push(Request::Set(header, payload.to_vec()));
        }
        Event::SetBegins(header) => {
            assert!(header.payload_length <= OBJECT_BYTES_MAX);
            requests.push(Request::Begun(header, Vec::new()));
        }
        Event::Piece(piece, last) => {
            let Some(Request::Begun(header, mut payload)) = requests.pop() else { panic!("a piece of nothing") };
            payload.extend(piece);
            assert_eq!(last, payload.len() as u64 == header.payload_length);
            requests.push(if last { Request::Set(header, payload) } else { Request::Begun(header, payload) });
        }
        Event::Duplicate(header, original) => requests.push(Request::Duplicate(header, original)),
    }
}
