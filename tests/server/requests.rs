//! What each request does and what is replied.

use crate::client::*;
use scaler_object_storage::ObjectStore;

#[test]
fn a_set_is_acknowledged_and_then_read() {
    let server = start();
    let mut client = server.client("one");
    assert_eq!(client.ask(&set(id(1), b"payload", 10)), reply(SET_OK, id(1), 10, b""));
    assert_eq!(client.ask(&get(id(1), 11)), reply(GET_OK, id(1), 11, b"payload"));
    let mut other = server.client("two");
    assert_eq!(other.ask(&get(id(1), 12)), reply(GET_OK, id(1), 12, b"payload"));
}

#[test]
fn payloads_of_every_size_come_back_whole() {
    let server = start();
    let mut client = server.client("one");
    for (number, bytes) in
        [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 262_144, 1_000_003, 20_000_000].into_iter().enumerate()
    {
        let number = number as u64;
        let payload: Vec<u8> = (0..bytes).map(|at: usize| (at * 7 + at / 256) as u8).collect();
        assert_eq!(client.ask(&set(id(number), &payload, number)), reply(SET_OK, id(number), number, b""), "{bytes}");
        assert!(client.ask(&get(id(number), 99)) == reply(GET_OK, id(number), 99, &payload), "{bytes}");
    }
}

#[test]
fn ids_are_the_32_bytes_as_python_packs_them() {
    let server = start();
    let mut client = server.client("one");
    client.ask(&set(id(0x0102_0304_0506_0708), b"x", 1));
    assert!(server.store.contains(&id(0x0102_0304_0506_0708)).unwrap());
    let object = server.store.get(&id(0x0102_0304_0506_0708)).unwrap().unwrap();
    assert_eq!((&object.data[..], &object.metadata[..]), (&b"x"[..], &b""[..]));
}

#[test]
fn a_set_overwrites() {
    let server = start();
    let mut client = server.client("one");
    client.ask(&set(id(1), b"first", 1));
    client.ask(&set(id(1), b"second, longer", 2));
    assert_eq!(client.ask(&get(id(1), 3)).payload, b"second, longer");
}

#[test]
fn a_get_carries_at_most_what_it_asks_for() {
    let server = start();
    let mut client = server.client("one");
    client.ask(&set(id(1), b"0123456789", 1));
    for (wanted, expected) in [(0, &b""[..]), (1, b"0"), (10, b"0123456789"), (11, b"0123456789")] {
        let reply = client.ask(&message(&header(GET, id(1), wanted, 2)));
        assert_eq!((reply.kind, &reply.payload[..]), (GET_OK, expected), "{wanted}");
    }
    let large = vec![5; 300_000];
    client.ask(&set(id(2), &large, 3));
    assert_eq!(client.ask(&message(&header(GET, id(2), 200_000, 4))).payload, large[..200_000]);
}

#[test]
fn a_delete_says_whether_the_object_existed() {
    let server = start();
    let mut client = server.client("one");
    assert_eq!(client.ask(&delete(id(1), 1)), reply(DEL_NOT_EXISTS, id(1), 1, b""));
    client.ask(&set(id(1), b"x", 2));
    assert_eq!(client.ask(&delete(id(1), 3)), reply(DEL_OK, id(1), 3, b""));
    assert_eq!(client.ask(&delete(id(1), 4)), reply(DEL_NOT_EXISTS, id(1), 4, b""));
}

#[test]
fn a_duplicate_shares_the_content_and_outlives_the_original() {
    let server = start();
    let mut client = server.client("one");
    client.ask(&set(id(1), b"content", 1));
    client.ask(&set(id(2), b"old", 2));
    assert_eq!(client.ask(&duplicate(id(1), id(2), 3)), reply(DUPLICATE_OK, id(2), 3, b""));
    client.ask(&delete(id(1), 4));
    assert_eq!(client.ask(&get(id(2), 5)).payload, b"content");
    assert_eq!(server.store.info().payloads, 1);
}

#[test]
fn a_duplicate_onto_itself_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let local = ObjectStore::builder().local(directory.path()).max_size_mb(64).open().unwrap();
    for server in [start(), serve(options(), local)] {
        let mut client = server.client("one");
        client.ask(&set(id(1), b"content", 1));
        assert_eq!(client.ask(&duplicate(id(1), id(1), 2)), reply(DUPLICATE_OK, id(1), 2, b""));
        assert_eq!(client.ask(&get(id(1), 3)).payload, b"content");
        // One that does not exist is waited for, like any other original.
        client.send(&duplicate(id(2), id(2), 4));
        client.expect_silence();
        client.send(&set(id(2), b"late", 5));
        assert_eq!(client.receive(), reply(DUPLICATE_OK, id(2), 4, b""));
        assert_eq!(client.receive(), reply(SET_OK, id(2), 5, b""));
        assert_eq!(client.ask(&get(id(2), 6)).payload, b"late");
    }
}

#[test]
fn info_counts_ids_payloads_bytes_and_waits() {
    let server = start();
    let mut client = server.client("one");
    client.ask(&set(id(1), b"12345", 1));
    client.ask(&set(id(2), b"678", 2));
    client.ask(&duplicate(id(1), id(3), 3));
    client.send(&[get(id(8), 4), get(id(8), 5), get(id(9), 6)].concat());
    let info = client.ask(&message(&header(INFO, id(0), 0, 7)));
    assert_eq!((info.kind, info.id, info.request), (INFO_OK, id(0), 7));
    let numbers: Vec<u64> = info.payload.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(numbers[..5], [3, 2, 8, 3, 2]);
    assert_eq!(numbers.len(), 6);
    assert!(numbers[5] < 20);
}

#[test]
fn requests_in_flight_together_are_answered_in_their_order() {
    let server = start();
    let mut client = server.client("one");
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for number in 0..2000 {
        let payload = vec![number as u8; (number as usize * 37) % 9000];
        requests.extend(set(id(number), &payload, number * 3));
        expected.push(reply(SET_OK, id(number), number * 3, b""));
        requests.extend(get(id(number), number * 3 + 1));
        expected.push(reply(GET_OK, id(number), number * 3 + 1, &payload));
        requests.extend(delete(id(number), number * 3 + 2));
        expected.push(reply(DEL_OK, id(number), number * 3 + 2, b""));
    }
    let mut sender = Client { socket: client.socket.try_clone().unwrap() };
    let sending = std::thread::spawn(move || sender.send(&requests));
    for expected in expected {
        assert_eq!(client.receive(), expected);
    }
    sending.join().unwrap();
}
