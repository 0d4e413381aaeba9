use proptest::prelude::*;

use super::*;
use crate::backend::{LISTED_MAX, ListPosition, Listed, ObjectState, Page, Usage};
use crate::error::Error;
use crate::id::ObjectId;
use crate::version::Version;

fn frame(bytes: &[u8]) -> (Head, &[u8]) {
    let (head, fields) = bytes.split_first_chunk::<HEAD_BYTES>().unwrap();
    let head = Head::decode(*head);
    assert_eq!(head.fields_bytes as usize, fields.len());
    (head, fields)
}

fn text(name: &str) -> String {
    name.to_owned()
}

/// Every request, with fields that differ.
fn requests() -> Vec<Request<'static>> {
    let ticket = 0x0102_0304_0506_0708;
    let id: &[u8] = b"an id";
    vec![
        Request::Greet { version: VERSION, session: 3, expected: vec![] },
        Request::Greet {
            version: VERSION,
            session: u64::MAX,
            expected: vec![(text("a"), text("1")), (text("b"), text(""))],
        },
        Request::Get { ticket, id },
        Request::Contains { id },
        Request::Put { id, metadata: b"metadata" },
        Request::Put { id: &[7; ID_BYTES_MAX], metadata: &[] },
        Request::Delete { name: 9, id },
        Request::Duplicate { original: id, new: b"another" },
        Request::Admit { id, bytes: 1 << 40 },
        Request::Reserve { ticket, id, data_bytes: 1 << 33, metadata_bytes: 77 },
        Request::Commit { body_hash: 0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20 },
        Request::Begin { id, data_bytes: 1 << 33, metadata: b"metadata" },
        Request::Piece,
        Request::Finish,
        Request::Slots,
        Request::Wait { name: 4, id },
        Request::Forget { name: 5 },
        Request::Claim { ticket, names: vec![] },
        Request::Claim { ticket, names: (0..NAMES_MAX as u64).collect() },
        Request::List { from: &[], limit: 1 },
        Request::List { from: b"a position", limit: u32::MAX },
        Request::Describe { verify: true, id },
        Request::Usage,
        Request::Count,
        Request::Stats,
        Request::Flush,
        Request::Clear,
        Request::Drain { limit_ms: 60_000 },
        Request::Listen,
        Request::Yield,
        Request::Replace { address: text("tcp://127.0.0.1:2346") },
    ]
}

/// Every error that goes over the socket as what it is.
fn errors() -> Vec<Error> {
    let id = || ObjectId::new(b"an id");
    vec![
        Error::InvalidId { len: 600, bytes_min: 1, bytes_max: 512 },
        Error::TooLarge { id: id(), bytes: 12, bytes_max: 11 },
        Error::Full { id: id(), bytes: 1, live_bytes: 2, capacity_bytes: 3, place: text("/a/place") },
        Error::Io { action: "write", path: "/a/file".into(), source: io::Error::from_raw_os_error(libc::ENOSPC) },
        Error::Io { action: "read", path: "/a/file".into(), source: io::Error::other("words of its own") },
        Error::Catalog { path: "/a/catalog".into(), reason: text("a reason") },
        Error::WritesRefused { path: "/a/store".into(), cause: text("a cause") },
        Error::Unreachable { address: text("redis:6379"), reason: text("a reason") },
        Error::Denied { address: text("redis:6379"), reason: text("a reason") },
        Error::Refused { address: text("redis:6379"), action: "store", id: id(), reason: text("OOM") },
        Error::Closed,
        Error::WriteFailed { id: id(), reason: text("a reason") },
        Error::LengthMismatch { id: id(), written: 5, announced: 6 },
        Error::Config(text("a setting")),
    ]
}

/// A page with an object in each state.
fn page() -> Page {
    let states = [
        ObjectState::Kept,
        ObjectState::Dirty,
        ObjectState::Clean,
        ObjectState::Suspect,
        ObjectState::Remote,
        ObjectState::Damaged { reason: text("a reason") },
    ];
    let objects = (1..).zip(states).map(|(number, state)| Listed {
        id: ObjectId::new(b"an id"),
        data_bytes: number,
        metadata_bytes: number << 8,
        version: (number % 2 == 0).then_some(Version { clock: number << 16, node: number << 24 }),
        expires_ms: (number % 3 == 0).then_some(number << 32),
        state,
        place: text("a place"),
    });
    Page { objects: objects.collect(), next: Some(ListPosition(b"a position".to_vec())) }
}

/// Every reply, with fields that differ.
fn replies() -> Vec<Reply<'static>> {
    let usage =
        Usage { objects: 1, payloads: 2, payload_bytes: 3, capacity_bytes: 4, physical_bytes: 5, damaged_objects: 6 };
    let mut replies = vec![
        Reply::Welcome { session: 0x0102, place: text("/a/place"), fingerprints: [3, u64::MAX] },
        Reply::Done { is_so: true, woken: vec![] },
        Reply::Done { is_so: false, woken: vec![1, u64::MAX] },
        Reply::Absent,
        Reply::Inline { metadata: b"metadata", known: Some((1, 2)) },
        Reply::Inline { metadata: b"", known: None },
        Reply::Placed {
            metadata: b"",
            known: Some((u64::MAX, 0)),
            segment: 1,
            offset: 4096,
            data_bytes: 70_000,
            file_bytes: 1 << 30,
        },
        Reply::Reserved { segment: u32::MAX, offset: 8, file_bytes: 16 },
        Reply::Later,
        Reply::Usage(usage),
        Reply::Count { objects: 7, bytes: 8 },
        Reply::Stats { json: "{\"objects\":7}" },
        Reply::Stats { json: "" },
        Reply::Listed(Page::default()),
        Reply::Listed(page()),
        Reply::Busy,
        Reply::Opening { done: 999 },
        Reply::Exists { name: 3, is_held: true, metadata: b"" },
        Reply::Exists { name: 3, is_held: false, metadata: b"metadata" },
        Reply::Deleted { name: 4, existed: true },
        Reply::Deleted { name: 4, existed: false },
    ];
    replies.extend(errors().into_iter().map(Reply::Failed));
    replies
}

fn request_may_have_data(request: &Request<'_>) -> bool {
    matches!(request, Request::Put { .. } | Request::Piece)
}

fn may_have_data(reply: &Reply<'_>) -> bool {
    matches!(reply, Reply::Inline { .. } | Reply::Exists { .. })
}

#[test]
fn every_request_reads_back() {
    let mut buffer = Vec::new();
    for request in requests() {
        for (is_durable, is_here) in [(false, false), (true, false), (false, true), (true, true)] {
            let manner = Manner { is_durable, is_here };
            let data_bytes = if request_may_have_data(&request) { 5 } else { 0 };
            request.encode(manner, 77, data_bytes, &mut buffer);
            let (head, fields) = frame(&buffer);
            assert_eq!((head.slot, head.data_bytes), (77, data_bytes));
            assert_eq!(head.check_request(), Ok(head));
            assert_eq!(Request::decode(head, fields), Ok((request.clone(), manner)));
        }
    }
}

#[test]
fn every_reply_reads_back() {
    let mut buffer = Vec::new();
    for reply in replies() {
        let data_bytes = if may_have_data(&reply) { 1 << 40 } else { 0 };
        reply.encode(data_bytes, &mut buffer);
        let (head, fields) = frame(&buffer);
        assert_eq!((head.slot, head.flags, head.data_bytes), (0, 0, data_bytes));
        assert_eq!(head.check_reply(), Ok(head));
        let decoded = Reply::decode(head, fields).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{reply:?}"));
        if let (Reply::Failed(sent), Reply::Failed(received)) = (&reply, &decoded) {
            assert_eq!(received.to_string(), sent.to_string());
        }
    }
}

#[test]
fn other_errors_keep_their_words() {
    let mut buffer = Vec::new();
    for error in [Error::Forked, Error::Locked { path: "/a/store".into(), holder: text("17") }] {
        let words = error.to_string();
        Reply::Failed(error).encode(0, &mut buffer);
        let (head, fields) = frame(&buffer);
        let Ok(Reply::Failed(received)) = Reply::decode(head, fields) else { panic!("not an error") };
        assert_eq!(received.to_string(), words);
    }
}

#[test]
fn the_bytes_of_messages() {
    let mut buffer = Vec::new();
    Request::Get { ticket: 0x0908, id: b"id" }.encode(
        Manner { is_durable: false, is_here: true },
        0x0201,
        0,
        &mut buffer,
    );
    assert_eq!(buffer, *b"\x0e\0\0\0\x02\x02\x01\x02\0\0\0\0\0\0\0\0\x08\x09\0\0\0\0\0\0\x02\0\0\0id");

    Request::Put { id: b"id", metadata: b"m" }.encode(
        Manner { is_durable: true, is_here: false },
        NO_SLOT,
        3,
        &mut buffer,
    );
    assert_eq!(buffer, *b"\x0b\0\0\0\x04\x01\xff\xff\x03\0\0\0\0\0\0\0\x02\0\0\0id\x01\0\0\0m");

    let expected = vec![(text("backend"), text("local"))];
    Request::Greet { version: VERSION, session: 5, expected }.encode(Manner::default(), NO_SLOT, 0, &mut buffer);
    assert_eq!(
        buffer,
        *b"\x24\0\0\0\x01\0\xff\xff\0\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0\x01\0\0\0\x07\0\0\0backend\x05\0\0\0local"
    );

    Reply::Placed { metadata: b"m", known: None, segment: 7, offset: 4096, data_bytes: 9, file_bytes: 8192 }
        .encode(0, &mut buffer);
    assert_eq!(
        buffer,
        *b"\x22\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0m\0\x07\0\0\0\0\x10\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\x20\0\0\0\0\0\0"
    );

    Reply::Failed(Error::TooLarge { id: ObjectId::new(b"id"), bytes: 12, bytes_max: 11 }).encode(0, &mut buffer);
    assert_eq!(buffer, *b"\x17\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\0\x02\x02\0\0\0id\x0c\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0");
}

#[test]
fn a_message_that_is_cut_short_or_too_long_is_refused() {
    let mut buffer = Vec::new();
    for request in requests() {
        request.encode(Manner::default(), NO_SLOT, 0, &mut buffer);
        let (head, fields) = frame(&buffer);
        for end in 0..fields.len() {
            assert!(Request::decode(head, &fields[..end]).is_err(), "{request:?} cut at {end}");
        }
        assert!(Request::decode(head, &[fields, &[0]].concat()).is_err(), "{request:?} and a byte");
    }
    for reply in replies() {
        reply.encode(0, &mut buffer);
        let (head, fields) = frame(&buffer);
        for end in 0..fields.len() {
            assert!(Reply::decode(head, &fields[..end]).is_err(), "{reply:?} cut at {end}");
        }
        assert!(Reply::decode(head, &[fields, &[0]].concat()).is_err(), "{reply:?} and a byte");
    }
}

#[test]
fn only_those_with_data_have_data() {
    let mut buffer = Vec::new();
    for request in requests() {
        request.encode(Manner::default(), NO_SLOT, 1, &mut buffer);
        let (head, fields) = frame(&buffer);
        assert_eq!(Request::decode(head, fields).is_ok(), request_may_have_data(&request), "{request:?}");
    }
    for reply in replies() {
        reply.encode(1, &mut buffer);
        let (head, fields) = frame(&buffer);
        assert_eq!(Reply::decode(head, fields).is_ok(), may_have_data(&reply), "{reply:?}");
    }
}

#[test]
fn what_is_longer_than_any_message_is_refused_by_its_head() {
    let head =
        Head { fields_bytes: REQUEST_FIELDS_MAX as u32, kind: 4, flags: 0, slot: 0, data_bytes: REQUEST_DATA_MAX };
    assert!(head.check_request().is_ok());
    assert!(Head { fields_bytes: head.fields_bytes + 1, ..head }.check_request().is_err());
    assert!(Head { data_bytes: head.data_bytes + 1, ..head }.check_request().is_err());
    let head = Head { fields_bytes: REPLY_FIELDS_MAX as u32, data_bytes: u64::MAX, ..head };
    assert!(head.check_reply().is_ok());
    assert!(Head { fields_bytes: head.fields_bytes + 1, ..head }.check_reply().is_err());
}

#[test]
fn a_greeting_in_another_language_is_read_as_far_as_its_version() {
    let mut buffer = Vec::new();
    Request::Greet { version: VERSION + 1, session: 5, expected: vec![] }.encode(Manner::default(), 0, 0, &mut buffer);
    buffer.extend_from_slice(b"what nobody here understands");
    let fields = &buffer[HEAD_BYTES..];
    let head = Head { fields_bytes: fields.len() as u32, kind: 1, flags: 0, slot: 0, data_bytes: 0 };
    let greeting = Request::Greet { version: VERSION + 1, session: 5, expected: vec![] };
    assert_eq!(Request::decode(head, fields), Ok((greeting, Manner::default())));
    let welcome = Head { fields_bytes: 4, kind: 1, flags: 0, slot: 0, data_bytes: 0 };
    assert!(Reply::decode(welcome, &(VERSION + 1).to_le_bytes()).is_err());
}

proptest! {
    #[test]
    fn hostile_requests_are_refused_or_mean_what_they_say(kind in 0_u8..32, flags: u8, slot: u16, fields: Vec<u8>) {
        let head = Head { fields_bytes: fields.len() as u32, kind, flags, slot, data_bytes: 0 };
        if let Ok((request, manner)) = Request::decode(head, &fields) {
            let mut buffer = Vec::new();
            request.encode(manner, slot, 0, &mut buffer);
            let (again, same) = frame(&buffer);
            prop_assert_eq!(again.kind, kind);
            let is_other_language = matches!(request, Request::Greet { version, .. } if version != VERSION);
            prop_assert!(is_other_language || same == fields);
        }
    }

    #[test]
    fn hostile_replies_are_refused_or_mean_what_they_say(kind in 0_u8..20, fields: Vec<u8>) {
        let head = Head { fields_bytes: fields.len() as u32, kind, flags: 0, slot: 0, data_bytes: 0 };
        if let Ok(reply) = Reply::decode(head, &fields) {
            let mut buffer = Vec::new();
            reply.encode(0, &mut buffer);
            let (again, same) = frame(&buffer);
            prop_assert_eq!(again.kind, kind);
            // The number of an error of the system has its own words, and an action is one of those that there are.
            let is_said_anew = matches!(reply, Reply::Failed(Error::Io { .. } | Error::Refused { .. }));
            prop_assert!(is_said_anew || same == fields);
        }
    }

    #[test]
    fn messages_with_flipped_bits_end_in_an_error_or_another_message(which: prop::sample::Index, at: prop::sample::Index, bit in 0_u8..8) {
        let mut buffer = Vec::new();
        let requests = requests();
        which.get(&requests).encode(Manner::default(), 1, 0, &mut buffer);
        let at = at.index(buffer.len());
        buffer[at] ^= 1 << bit;
        let (head, fields) = buffer.split_first_chunk::<HEAD_BYTES>().unwrap();
        let head = Head::decode(*head);
        let _ = head.check_request();
        if let Ok((request, manner)) = Request::decode(head, fields) {
            let mut again = Vec::new();
            request.encode(manner, head.slot, head.data_bytes, &mut again);
            let is_greeting = matches!(request, Request::Greet { .. });
            prop_assert!(is_greeting || again[HEAD_BYTES..] == *fields);
        }
    }
}

/// Whatever ids and words are in it, a page fits a message.
#[test]
fn the_longest_page_of_a_listing_fits_a_reply() {
    let object = Listed {
        id: ObjectId::new(&[7; ID_BYTES_MAX]),
        data_bytes: u64::MAX,
        metadata_bytes: u64::MAX,
        version: Some(Version { clock: u64::MAX, node: u64::MAX }),
        expires_ms: Some(1),
        state: ObjectState::Damaged { reason: "\u{e9}".repeat(1000) },
        place: "x".repeat(1000),
    };
    let mut buffer = Vec::new();
    let next = Some(ListPosition(vec![1; 8 + 1 + ID_BYTES_MAX]));
    Reply::Listed(Page { objects: vec![object; LISTED_MAX + 1], next }).encode(0, &mut buffer);
    let (head, fields) = frame(&buffer);
    assert_eq!(head.check_reply(), Ok(head));
    let Ok(Reply::Listed(page)) = Reply::decode(head, fields) else { panic!("not read back") };
    assert_eq!(page.objects.len(), LISTED_MAX);
    // One more than there may be.
    let mut more = fields.to_vec();
    more[..4].copy_from_slice(&(LISTED_MAX as u32 + 1).to_le_bytes());
    assert!(Reply::decode(head, &more).is_err());
}
