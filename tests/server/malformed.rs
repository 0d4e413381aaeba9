//! What a client may send that is not a request, and how slowly.

use std::io::Write;
use std::time::Duration;

use crate::client::*;
use scaler_object_storage::ObjectStore;

/// The server has answered what came before, closed the connection, and serves others.
fn expect_malformed(server: &TestServer, bytes: &[u8], counted: u64) {
    let mut client = server.client("bad");
    client.send(&[&set(id(1), b"before", 1)[..], &get(id(1), 2), bytes].concat());
    assert_eq!(client.receive(), reply(SET_OK, id(1), 1, b""));
    assert_eq!(client.receive(), reply(GET_OK, id(1), 2, b"before"));
    client.expect_closed();
    assert_eq!(server.counters.malformed.get(), counted);
    assert_eq!(server.client("good").ask(&delete(id(1), 3)).kind, DEL_OK);
}

#[test]
fn what_cannot_be_a_request_closes_the_connection_after_what_came_before() {
    let server = start();
    let good = header(GET, id(1), u64::MAX, 9);
    let lengths = |length: u64| length.to_le_bytes().to_vec();
    let cases = [
        ("garbage", vec![0xff; 5000]),
        ("text", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("an empty header", message(b"")),
        ("a header of 79 bytes", message(&good[..79])),
        ("a header of 8 bytes", message(&good[..8])),
        ("a header of zeros", message(&[0; 80])[..].to_vec()),
        ("a header of ones", message(&[0xff; 80])),
        ("a request type that is not known", message(&header(5, id(1), 0, 9))),
        ("a request type that is not known at all", message(&header(0xffff, id(1), 0, 9))),
        ("a duplicate of 47 bytes", message(&header(DUPLICATE, id(1), 47, 9))),
        ("a duplicate of no bytes", message(&header(DUPLICATE, id(1), 0, 9))),
        ("a duplicate of nonsense", [message(&header(DUPLICATE, id(1), 48, 9)), message(&[0xff; 48])].concat()),
        ("a header of 64 KiB and one", lengths((64 << 10) + 1)),
        ("a header of 2^40 bytes", lengths(1 << 40)),
        ("a header of 2^64 - 1 bytes", lengths(u64::MAX)),
        (
            "a set of another length that is no header",
            [message(&header(SET, id(1), 10, 9)), message(&[0; 11])].concat(),
        ),
    ];
    for (counted, (what, bytes)) in (1..).zip(cases) {
        println!("{what}");
        expect_malformed(&server, &bytes, counted);
    }
}

#[test]
fn bytes_after_a_complete_header_are_ignored() {
    let server = start();
    let mut client = server.client("one");
    for extra in [1, 7, 8, 1000, 60_000] {
        let header = [header(DELETE, id(1), 0, extra as u64), vec![0xee; extra]].concat();
        assert_eq!(client.ask(&message(&header)), reply(DEL_NOT_EXISTS, id(1), extra as u64, b""));
    }
}

#[test]
fn a_header_in_another_legal_encoding_is_understood() {
    let server = start();
    let mut client = server.client("one");
    // Two segments: the root in the first, the id behind a far pointer in the second.
    let mut header = vec![1, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0];
    header.extend_from_slice(&0_u64.to_le_bytes());
    header.extend_from_slice(&77_u64.to_le_bytes());
    header.extend_from_slice(&u64::from(DELETE).to_le_bytes());
    header.extend_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0]);
    header.extend_from_slice(&[0, 0, 0, 0, 4, 0, 0, 0]);
    header.extend_from_slice(&crate::client::original(id(5))[16..]);
    assert_eq!(client.ask(&message(&header)), reply(DEL_NOT_EXISTS, id(5), 77, b""));
}

#[test]
fn a_payload_of_another_length_drops_its_set_and_is_read_as_a_header() {
    let server = start();
    let mut client = server.client("one");
    client.send(&message(&header(SET, id(1), 10, 1)));
    assert_eq!(client.ask(&delete(id(1), 2)), reply(DEL_NOT_EXISTS, id(1), 2, b""));
    client.send(&message(&header(DUPLICATE, id(1), 48, 3)));
    assert_eq!(client.ask(&set(id(1), b"x", 4)), reply(SET_OK, id(1), 4, b""));
}

#[test]
fn a_connection_that_is_no_client_is_closed() {
    let server = start();
    let greetings: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"YMP\x02",
        b"\0",
        b"YMQ\x03",
        b"YMQ\x00",
        b"YMQ\x02\xff\xff\xff\xff\xff\xff\xff\xff",
        b"YMQ\x02\x01\x00\x01\x00\0\0\0\0",
    ];
    for (failed, greeting) in (1..).zip(greetings) {
        let mut client = server.socket();
        client.send(greeting);
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut client.socket, &mut answer).unwrap_or(0);
        assert!(answer.is_empty() || answer.starts_with(b"YMQ\x02"), "{answer:?}");
        eventually("counted", || server.counters.greetings_failed.get() == failed);
    }
    assert_eq!(server.client("good").ask(&delete(id(1), 1)).kind, DEL_NOT_EXISTS);
}

#[test]
fn a_connection_that_does_not_introduce_itself_is_closed() {
    let server = start_with(options().with(|options| options.greeting_time_max = Duration::from_millis(50)));
    let (mut silent, mut half) = (server.socket(), server.socket());
    half.send(b"YMQ\x02\x05\0\0\0\0\0\0\0one");
    silent.expect_closed();
    eventually("counted", || server.counters.greetings_failed.get() == 2);
}

#[test]
fn requests_that_arrive_byte_by_byte_are_served() {
    let server = start();
    let mut client = server.socket();
    let stream = [
        b"YMQ\x02\x03\0\0\0\0\0\0\0one".to_vec(),
        set(id(1), b"slowly", 1),
        duplicate(id(1), id(2), 2),
        get(id(2), 3),
        set(id(3), &[7; 6000], 4),
    ]
    .concat();
    let mut other = server.client("other");
    for (at, byte) in stream.iter().enumerate() {
        client.socket.write_all(&[*byte]).unwrap();
        if at % 1000 == 0 {
            // Meanwhile others are served.
            assert_eq!(other.ask(&delete(id(9), 1)).kind, DEL_NOT_EXISTS);
        }
    }
    let mut greeting = [0; 31];
    std::io::Read::read_exact(&mut client.socket, &mut greeting).unwrap();
    assert_eq!(client.receive(), reply(SET_OK, id(1), 1, b""));
    assert_eq!(client.receive(), reply(DUPLICATE_OK, id(2), 2, b""));
    assert_eq!(client.receive(), reply(GET_OK, id(2), 3, b"slowly"));
    assert_eq!(client.receive(), reply(SET_OK, id(3), 4, b""));
}

#[test]
fn a_large_set_that_arrives_in_odd_pieces_is_whole() {
    let server = start();
    let mut client = server.client("one");
    let payload: Vec<u8> = (0..200_000_u32).map(|at| (at / 3) as u8).collect();
    let stream = [set(id(1), &payload, 1), get(id(1), 2)].concat();
    for piece in stream.chunks(7919) {
        client.send(piece);
    }
    assert_eq!(client.receive(), reply(SET_OK, id(1), 1, b""));
    assert_eq!(client.receive(), reply(GET_OK, id(1), 2, &payload));
}

/// Invariant 11: what is announced is not allocated.
#[test]
fn an_announced_length_allocates_nothing() {
    let server = start();
    let before = address_space_bytes();
    let mut clients: Vec<_> = (0..50).map(|number| server.client(&format!("client {number}"))).collect();
    for client in &mut clients {
        client.send(
            &[message(&header(SET, id(1), 400 << 20, 1)), (400_u64 << 20).to_le_bytes().to_vec(), vec![1; 100]]
                .concat(),
        );
    }
    assert_eq!(server.client("good").ask(&delete(id(1), 1)).kind, DEL_NOT_EXISTS);
    drop(clients);
    let grown = address_space_bytes().saturating_sub(before);
    assert!(grown < 4 << 30, "{grown} bytes");
}

fn address_space_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn a_set_that_the_store_refuses_closes_the_connection_and_stores_nothing() {
    let store = ObjectStore::builder().memory().max_size_mb(1).open().unwrap();
    let server = serve(options(), store);
    let large = vec![1; 3 << 20];
    for (counted, payload) in (1..).zip([&large[..], &large[..1_100_000]]) {
        let mut client = server.client("one");
        client.ask(&set(id(2), b"small", 1));
        let mut sender = client.socket.try_clone().unwrap();
        let request = set(id(1), payload, 2);
        // The client goes on sending: it must still learn that the connection was closed, not reset.
        let sending = std::thread::spawn(move || sender.write_all(&request));
        client.expect_closed();
        let _ = sending.join().unwrap();
        assert_eq!(server.counters.refused.get(), counted);
        let mut other = server.client("other");
        assert_eq!(other.ask(&get(id(2), 3)).payload, b"small");
        assert_eq!(other.ask(&delete(id(1), 4)).kind, DEL_NOT_EXISTS);
    }
}

#[test]
fn a_small_set_that_does_not_fit_closes_the_connection_and_a_delete_makes_room() {
    let store = ObjectStore::builder().memory().max_size_mb(1).open().unwrap();
    let server = serve(options(), store);
    let mut client = server.client("one");
    let payload = |number: u64| -> Vec<u8> { (0..50_000).map(|at| (at * number) as u8).collect() };
    let mut stored = 0;
    while server.counters.refused.get() == 0 && stored < 1000 {
        stored += 1;
        client.send(&set(id(stored), &payload(stored), stored));
        let mut byte = [0];
        if client.socket.peek(&mut byte).unwrap() == 0 {
            break;
        }
        client.receive();
    }
    assert_eq!(server.counters.refused.get(), 1);
    let mut client = server.client("one");
    assert_eq!(client.ask(&delete(id(1), 1)).kind, DEL_OK);
    assert_eq!(client.ask(&set(id(stored), &payload(stored), 2)).kind, SET_OK);
}

#[test]
fn a_set_beyond_the_limit_for_objects_is_refused_when_it_is_announced() {
    let server = start_with(options().with(|options| options.object_bytes_max = 1000));
    let mut client = server.client("one");
    assert_eq!(client.ask(&set(id(1), &[1; 1000], 1)).kind, SET_OK);
    client.send(&message(&header(SET, id(2), 1001, 2)));
    client.expect_closed();
    assert_eq!(server.counters.refused.get(), 1);
}
