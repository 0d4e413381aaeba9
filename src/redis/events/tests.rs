//! Tests of the event stream: layout, lost pasts, and entries that cannot be read.

use std::time::Instant;

use super::*;
use crate::id::REDIS_ID_BYTES_MAX;
use crate::redis::testing::*;

const SHORT: Duration = Duration::from_millis(1);

fn hello<'a>() -> Notice<'a> {
    Notice { op: Op::Hello, id: b"", version: version(0) }
}

fn put(id: &[u8], clock: u64) -> Notice<'_> {
    Notice { op: Op::Put, id, version: version(clock) }
}

fn event(op: Op, id: &[u8], clock: u64) -> Event {
    Event { node: NODE, op, id: id.to_vec(), version: version(clock) }
}

#[test]
fn a_batch_has_the_documented_layout() {
    let version = Version { clock: 0x0102_0304_0506_0708, node: 0x1112_1314_1516_1718 };
    let batch = pack(&[Notice { op: Op::Delete, id: b"ab", version }, hello()]);
    assert_eq!(batch[..5], [2, 2, 0, b'a', b'b']);
    assert_eq!(batch[5..21], [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(batch[21..24], [4, 0, 0]);
    let mut events = Vec::new();
    assert!(unpack(NODE, &batch, &mut events));
    assert_eq!(events[0], Event { node: NODE, op: Op::Delete, id: b"ab".to_vec(), version });
    assert_eq!(pack_events(&events), batch);
}

#[test]
fn ids_are_as_long_as_the_redis_backend_takes() {
    let longest = vec![7; REDIS_ID_BYTES_MAX];
    let batch = pack(&[put(b"", 1), put(&longest, 2)]);
    let mut events = Vec::new();
    assert!(unpack(NODE, &batch, &mut events));
    assert_eq!(events, [event(Op::Put, b"", 1), event(Op::Put, &longest, 2)]);
}

// Invariant 11: a batch that does not add up is taken as a whole or not at all.
#[test]
fn a_malformed_batch_yields_nothing() {
    let good = pack(&[put(b"id", 1), put(b"other", 2)]);
    let mut events = Vec::new();
    for cut in (1..good.len()).filter(|cut| *cut != 21) {
        assert!(!unpack(NODE, &good[..cut], &mut events), "cut at {cut}");
        assert!(events.is_empty());
    }
    let too_many = pack(&vec![put(b"id", 1); EVENT_OPS_MAX + 1]);
    let unknown_op = [&[9], &good[1..]].concat();
    let named_hello = pack(&[Notice { op: Op::Hello, ..put(b"id", 1) }]);
    for batch in [too_many, unknown_op, named_hello] {
        assert!(!unpack(NODE, &batch, &mut events));
        assert!(events.is_empty());
    }
}

#[test]
fn a_reader_hears_what_is_published_in_its_order() {
    let server = Server::start();
    let mut link = server.link();
    let begin = publish(&mut link, &keys(), NODE, &[hello()]).unwrap();
    let ids: Vec<Vec<u8>> = (0..300u16).map(|n| n.to_be_bytes().to_vec()).collect();
    let notices: Vec<Notice<'_>> = ids.iter().map(|id| put(id, 7)).collect();
    let last = publish(&mut link, &keys(), NODE, &notices).unwrap();
    let first = read(&mut link, &keys(), &begin, SHORT, 2).unwrap();
    assert_eq!(first.events.len(), 2 * EVENT_OPS_MAX, "two entries were asked for");
    let second = read(&mut link, &keys(), &first.cursor, SHORT, 100).unwrap();
    assert_eq!(second.cursor, last);
    assert!(!first.lost_past && !second.lost_past);
    let heard: Vec<Event> = first.events.into_iter().chain(second.events).collect();
    assert_eq!(heard, ids.iter().map(|id| event(Op::Put, id, 7)).collect::<Vec<_>>());
    let silence =
        Read { events: Vec::new(), cursor: last.clone(), lost_past: false, has_unknown: false, entry_count: 0 };
    assert_eq!(read(&mut link, &keys(), &last, SHORT, 100).unwrap(), silence);
}

#[test]
fn a_blocked_reader_is_woken() {
    let server = Server::start();
    let (mut reader, mut writer) = (server.link(), server.link());
    let begin = publish(&mut writer, &keys(), NODE, &[hello()]).unwrap();
    let reading = std::thread::spawn(move || {
        // Longer than the test may take: only an event ends it in time.
        let block = Duration::from_secs(4);
        read(&mut reader, &keys(), &begin, block, 10).unwrap().events
    });
    let until = Instant::now() + Duration::from_secs(3);
    while !format!("{:?}", call(&mut writer, &["CLIENT", "LIST"])).contains("cmd=xread") {
        assert!(Instant::now() < until, "the reader does not block");
    }
    publish(&mut writer, &keys(), NODE, &[put(b"id", 1)]).unwrap();
    assert_eq!(reading.join().unwrap(), [event(Op::Put, b"id", 1)]);
}

// docs/replication.md, Hearing 4: XREAD does not report a lost past.
#[test]
fn a_past_that_was_flushed_trimmed_or_restarted_is_reported() {
    let lose: [fn(&mut Link); 3] = [
        |link| drop(call(link, &["FLUSHALL"]).unwrap()),
        |link| {
            publish(link, &keys(), NODE, &[put(b"id", 1)]).unwrap();
            call(link, &["XTRIM", "t:_events", "MAXLEN", "1"]).unwrap();
        },
        // A stream that begins anew with lower ids is silent until they pass the cursor.
        |link| {
            call(link, &["DEL", "t:_events"]).unwrap();
            call(link, &["XADD", "t:_events", "1-1", "n", "x", "b", "y"]).unwrap();
        },
    ];
    for lose in lose {
        let server = Server::start();
        let mut link = server.link();
        let cursor = publish(&mut link, &keys(), NODE, &[hello()]).unwrap();
        assert!(!read(&mut link, &keys(), &cursor, SHORT, 10).unwrap().lost_past);
        lose(&mut link);
        assert!(read(&mut link, &keys(), &cursor, SHORT, 10).unwrap().lost_past);
    }
}

// docs/replication.md, Hearing 4: FLUSHALL during BLOCK goes unnoticed by XREAD itself.
#[test]
fn a_flush_while_the_reader_blocks_is_reported() {
    let server = Server::start();
    let (mut reader, mut other) = (server.link(), server.link());
    let cursor = publish(&mut other, &keys(), NODE, &[hello()]).unwrap();
    let reading =
        std::thread::spawn(move || read(&mut reader, &keys(), &cursor, Duration::from_millis(300), 10).unwrap());
    let until = Instant::now() + Duration::from_secs(3);
    while !format!("{:?}", call(&mut other, &["CLIENT", "LIST"])).contains("cmd=xread") && !reading.is_finished() {
        assert!(Instant::now() < until, "the reader does not block");
    }
    call(&mut other, &["FLUSHALL"]).unwrap();
    assert!(reading.join().unwrap().lost_past);
}

// Invariant 11.
#[test]
fn entries_that_cannot_be_read_are_missed() {
    let server = Server::start();
    let mut link = server.link();
    for fields in [&["n", "short", "b", ""][..], &["x", "y"], &["b", "only"], &["n", "12345678", "b", "nonsense"]] {
        let cursor = publish(&mut link, &keys(), NODE, &[hello()]).unwrap();
        let words = [&["XADD", "t:_events", "*"], fields].concat();
        call(&mut link, &words).unwrap();
        let last = publish(&mut link, &keys(), NODE, &[put(b"id", 1)]).unwrap();
        let heard = read(&mut link, &keys(), &cursor, SHORT, 100).unwrap();
        assert_eq!((heard.events, heard.has_unknown), (vec![event(Op::Put, b"id", 1)], true), "{fields:?}");
        let gathered = gathered(&mut link, &keys(), Some(&cursor), 100).unwrap();
        assert_eq!((gathered.cursor, gathered.has_unknown), (last.clone(), true));
        assert!(!read(&mut link, &keys(), &last, SHORT, 100).unwrap().has_unknown);
    }
}

#[test]
fn an_answer_of_another_shape_is_not_silence() {
    let entry = || Value::Array(vec![Value::BulkString(b"1-1".into()), Value::Array(Vec::new())]);
    let stream = |entries| Value::Array(vec![Value::Array(vec![Value::BulkString(b"t:_events".into()), entries])]);
    assert_eq!(stream_entries(&Value::Nil), Some(&[][..]));
    assert_eq!(stream_entries(&stream(Value::Array(vec![entry()]))), Some(&[entry()][..]));
    for answer in [Value::Okay, Value::Int(0), Value::Array(Vec::new()), stream(Value::Okay), stream(Value::Int(1))] {
        assert_eq!(stream_entries(&answer), None, "{answer:?}");
    }
    assert_eq!(last_of(&Value::Array(Vec::new())), Some(None));
    assert_eq!(last_of(&Value::Array(vec![entry()])), Some(EntryId::parse("1-1")));
    for answer in [Value::Okay, Value::Array(vec![Value::Int(1)]), Value::Array(vec![entry(), entry()])] {
        assert_eq!(last_of(&answer), None, "{answer:?}");
    }
}

#[test]
fn the_stream_does_not_grow_without_a_bound() {
    let server = Server::start();
    let mut link = server.link();
    let batch: Vec<Cmd> = std::iter::repeat_with(|| adding(&keys(), NODE, &[put(b"id", 1)])).take(EVENTS_MAX).collect();
    for _ in 0..2 {
        link.run(&batch).unwrap();
    }
    let length = number(call(&mut link, &["XLEN", "t:_events"]));
    assert!(length >= EVENTS_MAX as i64 && length < EVENTS_MAX as i64 * 5 / 4, "{length}");
    // Neither where Redis is out of memory.
    call(&mut link, &["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    publish(&mut link, &keys(), NODE, &[put(b"id", 1)]).unwrap();
    let length = number(call(&mut link, &["XLEN", "t:_events"]));
    assert!(length < EVENTS_MAX as i64 * 5 / 4, "{length}");
}
