//! Gets and duplicates of objects that do not exist yet.

use crate::client::*;

/// Invariants 4 and 9: the waiter is answered.
#[test]
fn a_get_is_answered_when_its_object_comes_to_exist() {
    let server = start();
    let (mut waiter, mut writer) = (server.client("waiter"), server.client("writer"));
    waiter.send(&get(id(1), 7));
    waiter.expect_silence();
    writer.ask(&set(id(1), b"late", 1));
    assert_eq!(waiter.receive(), reply(GET_OK, id(1), 7, b"late"));
}

#[test]
fn a_waiting_get_is_answered_by_a_large_set_and_by_a_duplicate() {
    let server = start();
    let (mut waiter, mut writer) = (server.client("waiter"), server.client("writer"));
    waiter.send(&[get(id(1), 7), message(&header(GET, id(2), 5, 8))].concat());
    eventually("waiting", || server.store.info().waiting_requests == 2);
    let large = vec![3; 1 << 20];
    writer.ask(&set(id(1), &large, 1));
    assert!(waiter.receive() == reply(GET_OK, id(1), 7, &large));
    writer.ask(&duplicate(id(1), id(2), 2));
    assert_eq!(waiter.receive(), reply(GET_OK, id(2), 8, &[3; 5]));
}

#[test]
fn a_set_answers_the_waits_of_its_own_connection_before_its_own_reply() {
    let server = start();
    let mut client = server.client("one");
    client.send(
        &[get(id(1), 1), duplicate(id(1), id(2), 2), get(id(2), 3), get(id(1), 4), set(id(1), b"now", 5)].concat(),
    );
    client.send(&get(id(1), 6));
    let replies: Vec<_> = (0..6).map(|_| client.receive()).collect();
    assert_eq!(
        replies,
        [
            reply(GET_OK, id(1), 1, b"now"),
            reply(DUPLICATE_OK, id(2), 2, b""),
            reply(GET_OK, id(1), 4, b"now"),
            // What waits for the duplicate comes after it.
            reply(GET_OK, id(2), 3, b"now"),
            reply(SET_OK, id(1), 5, b""),
            reply(GET_OK, id(1), 6, b"now"),
        ]
    );
}

#[test]
fn a_wait_does_not_hold_up_what_comes_after_it() {
    let server = start();
    let mut client = server.client("one");
    client.send(&[get(id(1), 1), set(id(2), b"x", 2), get(id(2), 3), delete(id(3), 4)].concat());
    let kinds: Vec<_> = (0..3).map(|_| client.receive().request).collect();
    assert_eq!(kinds, [2, 3, 4]);
}

#[test]
fn duplicates_that_wait_for_each_other_complete_in_a_chain() {
    let server = start();
    let mut client = server.client("one");
    for number in (1..100).rev() {
        client.send(&duplicate(id(number - 1), id(number), number));
    }
    client.send(&get(id(99), 1000));
    client.expect_silence();
    client.send(&set(id(0), b"chain", 2000));
    for number in 1..100 {
        assert_eq!(client.receive(), reply(DUPLICATE_OK, id(number), number, b""));
    }
    assert_eq!(client.receive(), reply(GET_OK, id(99), 1000, b"chain"));
    assert_eq!(client.receive(), reply(SET_OK, id(0), 2000, b""));
    assert_eq!(server.store.info().payloads, 1);
}

#[test]
fn a_waiting_duplicate_leaves_the_old_content_in_place() {
    let server = start();
    let mut client = server.client("one");
    client.ask(&set(id(2), b"old", 1));
    client.send(&duplicate(id(1), id(2), 2));
    assert_eq!(client.ask(&get(id(2), 3)), reply(GET_OK, id(2), 3, b"old"));
    client.send(&set(id(1), b"new", 4));
    assert_eq!(client.receive(), reply(DUPLICATE_OK, id(2), 2, b""));
    assert_eq!(client.receive(), reply(SET_OK, id(1), 4, b""));
    assert_eq!(client.ask(&get(id(2), 5)), reply(GET_OK, id(2), 5, b"new"));
}

#[test]
fn a_delete_neither_answers_waiters_nor_drops_them() {
    let server = start();
    let (mut waiter, mut other) = (server.client("waiter"), server.client("other"));
    waiter.send(&get(id(1), 7));
    eventually("waiting", || server.store.info().waiting_requests == 1);
    assert_eq!(other.ask(&delete(id(1), 1)).kind, DEL_NOT_EXISTS);
    waiter.expect_silence();
    other.ask(&set(id(1), b"x", 2));
    assert_eq!(waiter.receive(), reply(GET_OK, id(1), 7, b"x"));
}

/// Invariant 9. The set and the delete right behind it leave nothing to read by the time a waiter could look.
#[test]
fn a_delete_right_after_the_set_does_not_lose_the_waiter() {
    let server = start();
    let (mut waiter, mut writer) = (server.client("waiter"), server.client("writer"));
    for round in 0..500 {
        waiter.send(&get(id(1), round));
        // Before, between and after the two, as it happens.
        writer.send(&[set(id(1), b"brief", 1), delete(id(1), 2)].concat());
        assert_eq!((writer.receive().kind, writer.receive().kind), (SET_OK, DEL_OK));
        // The request is handled, one way or the other, once its connection has answered another.
        waiter.send(&delete(id(2), 1_000_000));
        let mut reply_seen = waiter.receive();
        if reply_seen.request == 1_000_000 {
            writer.send(&[set(id(1), b"brief", 3), delete(id(1), 4)].concat());
            assert_eq!((writer.receive().kind, writer.receive().kind), (SET_OK, DEL_OK));
            reply_seen = waiter.receive();
        } else {
            assert_eq!(waiter.receive().request, 1_000_000);
        }
        assert_eq!(reply_seen, reply(GET_OK, id(1), round, b"brief"));
    }
}

#[test]
fn thousands_of_waits_are_all_answered() {
    const WAITS: u64 = 20_000;
    let server = start();
    let mut waiters: Vec<_> = (0..4).map(|number| server.client(&format!("waiter {number}"))).collect();
    for waiter in &mut waiters {
        let requests: Vec<u8> = (0..WAITS / 4).flat_map(|request| get(id(request % 50), request)).collect();
        waiter.send(&requests);
    }
    eventually("waiting", || server.store.info().waiting_requests == WAITS);
    assert_eq!(server.store.info().waiting_ids, 50);
    let writing = std::thread::spawn({
        let mut writer = server.client("writer");
        move || (0..50).for_each(|number| drop(writer.ask(&set(id(number), &number.to_le_bytes(), number))))
    });
    for waiter in &mut waiters {
        let mut answered = vec![false; usize::try_from(WAITS / 4).unwrap()];
        for _ in 0..WAITS / 4 {
            let reply = waiter.receive();
            assert_eq!(reply.payload, (reply.request % 50).to_le_bytes());
            assert!(!std::mem::replace(&mut answered[reply.request as usize], true));
        }
    }
    writing.join().unwrap();
    assert_eq!(server.store.info().waiting_requests, 0);
}

/// Sixteen waiters of one large object share its bytes.
#[test]
fn many_waiters_of_one_large_object_get_no_copies() {
    const BYTES: usize = 32 << 20;
    let server = start();
    let mut waiters: Vec<_> = (0..16).map(|number| server.client(&format!("waiter {number}"))).collect();
    for waiter in &mut waiters {
        waiter.send(&get(id(1), 1));
    }
    eventually("waiting", || server.store.info().waiting_requests == 16);
    server.store.put(&id(1), &vec![1; BYTES], b"").unwrap();
    let before = resident_bytes();
    // None of them reads yet: whatever the server holds for them, it holds now.
    std::thread::sleep(MOMENT);
    assert!(resident_bytes() < before + 2 * BYTES, "{} then {}", before, resident_bytes());
    for waiter in &mut waiters {
        assert_eq!(waiter.receive().payload.len(), BYTES);
    }
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn an_overwrite_does_not_touch_a_reply_on_its_way() {
    const BYTES: usize = 40 << 20;
    let server = start();
    let (mut reader, mut writer) = (server.client("reader"), server.client("writer"));
    writer.ask(&set(id(1), &vec![1; BYTES], 1));
    reader.send(&get(id(1), 2));
    // Its first bytes are here, the rest cannot all be in the sockets' buffers.
    reader.socket.peek(&mut [0]).unwrap();
    writer.ask(&set(id(1), &vec![2; BYTES], 3));
    writer.ask(&delete(id(1), 4));
    let payload = reader.receive().payload;
    assert!(payload.len() == BYTES && payload.iter().all(|byte| *byte == 1));
}
