//! What belongs to an identity outlives its connection.

use std::time::Duration;

use crate::client::*;

#[test]
fn waits_survive_a_reset() {
    let server = start();
    let mut client = server.client("one");
    client.send(&get(id(1), 7));
    eventually("waiting", || server.store.info().waiting_requests == 1);
    client.reset();
    eventually("lost", || server.counters.lost.get() == 1);
    assert_eq!(server.store.info().waiting_requests, 1);
    let mut client = server.client("one");
    client.expect_silence();
    server.store.put(&id(1), b"late", b"").unwrap();
    assert_eq!(client.receive(), reply(GET_OK, id(1), 7, b"late"));
}

#[test]
fn a_reply_that_came_due_after_a_reset_is_held_for_the_identity() {
    let server = start();
    let mut client = server.client("one");
    let large = vec![1; 1 << 20];
    client.send(&[get(id(1), 7), duplicate(id(1), id(2), 8), get(id(3), 9)].concat());
    eventually("waiting", || server.store.info().waiting_requests == 3);
    client.reset();
    eventually("lost", || server.counters.lost.get() == 1);
    server.store.put(&id(1), &large, b"").unwrap();
    // What is held are the bytes that were stored then.
    server.store.put(&id(1), b"other", b"").unwrap();
    server.store.delete(&id(1)).unwrap();
    server.client("two").expect_silence();
    let mut client = server.client("one");
    assert!(client.receive() == reply(GET_OK, id(1), 7, &large));
    assert_eq!(client.receive(), reply(DUPLICATE_OK, id(2), 8, b""));
    server.store.put(&id(3), b"x", b"").unwrap();
    assert_eq!(client.receive(), reply(GET_OK, id(3), 9, b"x"));
}

#[test]
fn a_second_connection_replaces_the_first_and_receives_what_it_waited_for() {
    let server = start();
    let mut first = server.client("one");
    first.send(&get(id(1), 7));
    eventually("waiting", || server.store.info().waiting_requests == 1);
    let mut second = server.client("one");
    first.expect_closed();
    server.store.put(&id(1), b"late", b"").unwrap();
    assert_eq!(second.receive(), reply(GET_OK, id(1), 7, b"late"));
    assert_eq!(server.counters.replaced.get(), 1);
    assert_eq!(second.ask(&delete(id(1), 8)).kind, DEL_OK);
}

#[test]
fn identities_are_any_bytes() {
    let server = start();
    for identity in [&b""[..], &[0xff; 65_536], b"\0\n{}%s"] {
        let mut client = server.socket();
        client.greet(2, identity);
        client.send(&get(id(1), 7));
        eventually("waiting", || server.store.info().waiting_requests == 1);
        let mut again = server.socket();
        again.greet(2, identity);
        client.expect_closed();
        server.store.put(&id(1), b"x", b"").unwrap();
        assert_eq!(again.receive(), reply(GET_OK, id(1), 7, b"x"));
        server.store.delete(&id(1)).unwrap();
    }
}

#[test]
fn waits_survive_a_close_in_good_order_for_a_moment() {
    let server = start();
    let mut client = server.client("one");
    client.send(&get(id(1), 7));
    eventually("waiting", || server.store.info().waiting_requests == 1);
    drop(client);
    let mut client = server.client("one");
    client.expect_silence();
    server.store.put(&id(1), b"late", b"").unwrap();
    assert_eq!(client.receive(), reply(GET_OK, id(1), 7, b"late"));
}

/// Invariant 9: the waits of a client that is gone for good are gone.
#[test]
fn waits_end_when_the_identity_does_not_return() {
    let holds = options().with(|options| {
        options.closed_hold = Duration::from_millis(20);
        options.lost_hold = Duration::from_millis(20);
    });
    let server = start_with(holds);
    for number in 1..=2 {
        let mut client = server.client("one");
        client.send(&[get(id(1), 7), duplicate(id(1), id(2), 8)].concat());
        eventually("waiting", || server.store.info().waiting_requests == 2);
        if number == 1 {
            client.reset();
        } else {
            drop(client);
        }
        eventually("dropped", || server.counters.waits_dropped.get() == 2 * number);
        assert_eq!(server.store.info().waiting_requests, 0);
    }
    server.store.put(&id(1), b"x", b"").unwrap();
    server.client("one").expect_silence();
    assert!(!server.store.contains(&id(2)).unwrap());
}

#[test]
fn a_lost_connection_is_held_for_longer_than_a_closed_one() {
    let server = start_with(options().with(|options| options.closed_hold = Duration::from_millis(20)));
    let (mut closed, mut lost) = (server.client("closed"), server.client("lost"));
    closed.send(&get(id(1), 1));
    lost.send(&get(id(2), 2));
    eventually("waiting", || server.store.info().waiting_requests == 2);
    lost.reset();
    drop(closed);
    eventually("dropped", || server.counters.waits_dropped.get() == 1);
    server.store.put(&id(1), b"x", b"").unwrap();
    server.store.put(&id(2), b"y", b"").unwrap();
    assert_eq!(server.client("lost").receive(), reply(GET_OK, id(2), 2, b"y"));
    server.client("closed").expect_silence();
}

#[test]
fn an_earlier_absence_does_not_end_a_later_one() {
    let server = start_with(options().with(|options| options.lost_hold = Duration::from_millis(400)));
    let mut client = server.client("one");
    client.send(&get(id(1), 7));
    eventually("waiting", || server.store.info().waiting_requests == 1);
    for losses in 1..=8 {
        // Together they take longer than the hold, each of them does not.
        client.reset();
        eventually("lost", || server.counters.lost.get() == losses);
        std::thread::sleep(Duration::from_millis(80));
        client = server.client("one");
    }
    server.store.put(&id(1), b"x", b"").unwrap();
    assert_eq!(client.receive(), reply(GET_OK, id(1), 7, b"x"));
}

#[test]
fn what_a_client_asked_before_it_closed_is_answered() {
    let server = start();
    let mut client = server.client("one");
    client.send(
        &[set(id(1), &[1; 200_000], 1), get(id(1), 2), delete(id(1), 3), set(id(2), b"half", 4)[..90].to_vec()]
            .concat(),
    );
    client.finish();
    assert_eq!(client.receive(), reply(SET_OK, id(1), 1, b""));
    assert_eq!(client.receive(), reply(GET_OK, id(1), 2, &[1; 200_000]));
    assert_eq!(client.receive(), reply(DEL_OK, id(1), 3, b""));
    client.expect_closed();
    assert_eq!(server.counters.lost.get(), 0);
}

#[test]
fn a_half_request_dies_with_its_connection() {
    let server = start();
    // Of every length that a request of two messages can be cut at.
    let request = set(id(1), b"payload of the first", 1);
    for cut in (1..request.len()).step_by(5) {
        let mut client = server.client("one");
        client.send(&request[..cut]);
        client.reset();
        let mut client = server.client("one");
        assert_eq!(client.ask(&delete(id(1), 2)), reply(DEL_NOT_EXISTS, id(1), 2, b""), "{cut}");
        drop(client);
    }
}

#[test]
fn a_large_set_cut_off_by_a_reset_leaves_nothing() {
    let server = start();
    let mut client = server.client("one");
    let request = set(id(1), &vec![1; 10 << 20], 1);
    client.send(&request[..6 << 20]);
    client.reset();
    let mut client = server.client("one");
    assert_eq!(client.ask(&delete(id(1), 2)).kind, DEL_NOT_EXISTS);
    let info = server.store.info();
    assert_eq!((info.objects, info.payloads, info.payload_bytes), (0, 0, 0));
}

#[test]
fn replies_that_were_not_begun_are_kept_for_the_next_connection() {
    // With room for all of them, they are queued behind a reply that the sockets do not take; without, they wait in the session.
    for reply_bytes_max in [1 << 30, 1] {
        let server = start_with(options().with(|options| options.reply_bytes_max = reply_bytes_max));
        server.store.put(&id(1), &vec![1; 40 << 20], b"").unwrap();
        let mut client = server.client("one");
        client.send(&[get(id(2), 2), get(id(3), 3), get(id(4), 4)].concat());
        eventually("waiting", || server.store.info().waiting_requests == 3);
        client.send(&get(id(1), 1));
        client.socket.peek(&mut [0]).unwrap();
        server.store.put(&id(2), b"two", b"").unwrap();
        server.store.put(&id(3), &vec![3; 100_000], b"").unwrap();
        server.store.put(&id(4), b"", b"").unwrap();
        client.send(&delete(id(4), 5));
        if reply_bytes_max > 1 {
            eventually("all handled", || !server.store.contains(&id(4)).unwrap());
        }
        client.reset();
        eventually("lost", || server.counters.lost.get() == 1);
        let mut client = server.client("one");
        assert_eq!(client.receive(), reply(GET_OK, id(2), 2, b"two"));
        assert_eq!(client.receive(), reply(GET_OK, id(3), 3, &[3; 100_000]));
        assert_eq!(client.receive(), reply(GET_OK, id(4), 4, b""));
        if reply_bytes_max > 1 {
            assert_eq!(client.receive(), reply(DEL_OK, id(4), 5, b""));
        }
        client.expect_silence();
    }
}

#[test]
fn identities_that_are_gone_are_kept_up_to_a_limit() {
    let server = start_with(options().with(|options| options.absent_identities_max = 10));
    for number in 0..15 {
        let mut client = server.client(&format!("client {number}"));
        client.send(&get(id(1), number));
        eventually("waiting", || server.store.info().waiting_requests == number.min(10) + 1);
        client.reset();
        eventually("lost", || server.counters.lost.get() == number + 1);
        eventually("over the limit", || server.store.info().waiting_requests <= 10);
    }
    assert_eq!(server.counters.waits_dropped.get(), 5);
    server.store.put(&id(1), b"x", b"").unwrap();
    assert_eq!(server.client("client 9").receive().request, 9);
    server.client("client 10").expect_silence();
}

#[test]
fn both_protocol_versions_are_spoken_on_one_port() {
    let server = start();
    for version in [1, 2] {
        let mut client = server.socket();
        client.greet(version, b"one");
        assert_eq!(client.ask(&delete(id(1), 1)).kind, DEL_NOT_EXISTS);
    }
}

#[test]
fn the_server_answers_a_version_before_the_identity_is_complete() {
    let server = start();
    let mut client = server.socket();
    client.send(b"YMQ\x01\x03\0\0");
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut client.socket, &mut magic).unwrap();
    assert_eq!(&magic, b"YMQ\x01");
    assert_eq!(client.receive_message(), b"ObjectStorageServer");
    client.send(b"\0\0\0\0\0one");
    assert_eq!(client.ask(&delete(id(1), 1)).kind, DEL_NOT_EXISTS);
}
