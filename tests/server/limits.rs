//! Limits on what a client may make the server hold, and how the server stops.

use std::io::Write;
use std::time::Duration;

use crate::client::*;

#[test]
fn a_client_that_does_not_read_its_replies_is_not_read_from() {
    const REQUESTS: u64 = 20_000;
    let server = start_with(options().with(|options| options.reply_bytes_max = 100_000));
    server.store.put(&id(1), &[1; 1000], b"").unwrap();
    let mut client = server.client("one");
    let mut sender = client.socket.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        // The store must not see them all: each get is followed by a set that tells that it was handled.
        for request in 0..REQUESTS {
            let requests = [get(id(1), request), set(id(2), &request.to_le_bytes(), request)].concat();
            sender.write_all(&requests).unwrap();
        }
    });
    let handled = || {
        let object = server.store.get(&id(2)).unwrap();
        object.map_or(0, |object| u64::from_le_bytes(object.data[..].try_into().unwrap()))
    };
    let mut before = u64::MAX;
    eventually("standing still", || {
        std::thread::sleep(MOMENT);
        std::mem::replace(&mut before, handled()) == handled()
    });
    assert!(before < REQUESTS - 1, "all of them were handled: {before}");
    assert_eq!(server.client("other").ask(&delete(id(9), 1)).kind, DEL_NOT_EXISTS);
    for request in 0..REQUESTS {
        assert_eq!(client.receive(), reply(GET_OK, id(1), request, &[1; 1000]));
        assert_eq!(client.receive(), reply(SET_OK, id(2), request, b""));
    }
    sending.join().unwrap();
}

/// Invariant 9: what is due to a client that does not read is references, and its own replies keep their order.
#[test]
fn replies_that_come_due_while_the_outbox_is_full_keep_their_order() {
    let server = start_with(options().with(|options| options.reply_bytes_max = 10_000));
    let mut client = server.client("one");
    client.send(&(0..500).flat_map(|request| get(id(1), request)).collect::<Vec<_>>());
    eventually("waiting", || server.store.info().waiting_requests == 500);
    client.send(&[set(id(1), &[1; 100_000], 500), get(id(1), 501), delete(id(1), 502)].concat());
    for request in 0..500 {
        assert_eq!(client.receive(), reply(GET_OK, id(1), request, &[1; 100_000]));
    }
    assert_eq!(client.receive(), reply(SET_OK, id(1), 500, b""));
    assert_eq!(client.receive(), reply(GET_OK, id(1), 501, &[1; 100_000]));
    assert_eq!(client.receive(), reply(DEL_OK, id(1), 502, b""));
}

#[test]
fn an_identity_may_have_so_many_waits_and_no_more() {
    let server = start_with(options().with(|options| {
        options.waits_max = 100;
        options.closed_hold = Duration::ZERO;
    }));
    let (mut greedy, mut modest) = (server.client("greedy"), server.client("modest"));
    modest.send(&get(id(1), 1));
    greedy.send(&(0..100).flat_map(|request| get(id(2), request)).collect::<Vec<_>>());
    assert_eq!(greedy.ask(&delete(id(3), 100)).kind, DEL_NOT_EXISTS);
    assert_eq!(server.counters.waits_refused.get(), 0);
    greedy.send(&duplicate(id(4), id(5), 101));
    greedy.expect_closed();
    assert_eq!(server.counters.waits_refused.get(), 1);
    eventually("dropped", || server.store.info().waiting_requests == 1);
    server.store.put(&id(1), b"x", b"").unwrap();
    assert_eq!(modest.receive(), reply(GET_OK, id(1), 1, b"x"));
}

#[test]
fn all_identities_together_may_have_so_many_waits() {
    let server = start_with(options().with(|options| {
        options.waits_total_max = 10;
        options.closed_hold = Duration::ZERO;
    }));
    for round in 0..20 {
        let mut client = server.client("one");
        client.send(&(0..9).flat_map(|request| get(id(1), request)).collect::<Vec<_>>());
        client.send(&get(id(2), 9));
        eventually("waiting", || server.store.info().waiting_requests == 10);
        let mut other = server.client("other");
        other.send(&get(id(1), 1));
        other.expect_closed();
        // What was answered, dropped, or never parked is no longer counted, in whatever way it ended.
        server.store.put(&id(2), b"x", b"").unwrap();
        assert_eq!(client.receive().request, 9);
        server.store.delete(&id(2)).unwrap();
        assert_eq!(server.counters.waits_refused.get(), round + 1);
        drop(client);
        eventually("dropped", || server.store.info().waiting_requests == 0);
    }
}

#[test]
fn so_many_connections_are_served_and_no_more() {
    let server = start_with(options().with(|options| options.connections_max = 3));
    let clients: Vec<_> = (0..3).map(|number| server.client(&format!("client {number}"))).collect();
    let mut fourth = server.socket();
    let mut byte = [0];
    // Closed or reset, whichever comes first.
    assert!(!matches!(std::io::Read::read(&mut fourth.socket, &mut byte), Ok(1..)));
    assert_eq!(server.counters.connections_refused.get(), 1);
    drop(clients);
    eventually("room", || {
        let mut client = server.socket();
        client.socket.write_all(b"YMQ\x02\x03\0\0\0\0\0\0\0one").is_ok()
            && std::io::Read::read(&mut client.socket, &mut byte).is_ok_and(|length| length == 1)
    });
}

#[test]
fn a_stop_finishes_the_replies_in_flight() {
    const BYTES: usize = 40 << 20;
    let mut server = start();
    let mut client = server.client("one");
    client.ask(&set(id(1), &vec![1; BYTES], 1));
    client.send(&[get(id(1), 2), delete(id(2), 3)].concat());
    client.socket.peek(&mut [0]).unwrap();
    server.begin_stop();
    std::thread::sleep(MOMENT);
    assert!(std::net::TcpStream::connect(("127.0.0.1", server.port())).is_err());
    assert_eq!(client.receive().payload.len(), BYTES);
    // The delete behind it may or may not have been read by then.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut client.socket, &mut rest).unwrap();
    assert!(rest.is_empty() || rest.len() == 88);
    server.stop();
}

#[test]
fn a_stop_does_not_wait_for_clients_that_do_not_read_or_say_anything() {
    let mut server = start_with(options().with(|options| options.closing_time_max = Duration::from_millis(100)));
    server.store.put(&id(1), &vec![1; 40 << 20], b"").unwrap();
    let mut deaf = server.client("deaf");
    deaf.send(&get(id(1), 1));
    deaf.socket.peek(&mut [0]).unwrap();
    let (silent, mut half) = (server.socket(), server.client("half"));
    half.send(&set(id(2), b"half", 1)[..99]);
    let mut lost = server.client("lost");
    lost.send(&get(id(3), 1));
    eventually("waiting", || server.store.info().waiting_requests == 1);
    lost.reset();
    let mut waiting = server.client("waiting");
    waiting.send(&get(id(3), 1));
    eventually("waiting", || server.store.info().waiting_requests == 2);
    server.stop();
    drop((deaf, silent));
    half.expect_closed();
    waiting.expect_closed();
    assert_eq!(server.store.info().waiting_requests, 0);
    assert!(!server.store.contains(&id(2)).unwrap());
    server.store.put(&id(4), b"the store is still open", b"").unwrap();
}

#[test]
fn hundreds_of_clients_come_and_vanish_while_others_work() {
    let server = start();
    let mut steady = server.client("steady");
    for round in 0..300_u64 {
        let mut client = server.client(&format!("client {}", round % 7));
        match round % 4 {
            0 => client.send(&get(id(1000 + round), 1)),
            1 => client.send(&set(id(1), &[1; 100_000], 1)[..50_000]),
            2 => client.send(&[0xff; 100]),
            _ => {}
        }
        if round % 3 == 0 {
            client.reset();
        }
        assert_eq!(steady.ask(&set(id(2), &round.to_le_bytes(), round)).kind, SET_OK);
        assert_eq!(steady.ask(&get(id(2), round)).payload, round.to_le_bytes());
    }
}

#[test]
fn a_hundred_thousand_waits_for_one_object_can_be_dropped() {
    const WAITS: u64 = 100_000;
    let server = start_with(options().with(|options| options.closed_hold = Duration::ZERO));
    let (mut first, mut second) = (server.client("first"), server.client("second"));
    second.send(&get(id(1), 7));
    for part in 0..100 {
        first.send(&(0..WAITS / 100).flat_map(|request| get(id(1), part * 1000 + request)).collect::<Vec<_>>());
    }
    eventually("waiting", || server.store.info().waiting_requests == WAITS + 1);
    drop(first);
    eventually("dropped", || server.store.info().waiting_requests == 1);
    server.store.put(&id(1), b"x", b"").unwrap();
    assert_eq!(second.receive(), reply(GET_OK, id(1), 7, b"x"));
}
