//! What clients of the status server may cost.

use std::io::{Read, Write};

use scaler_object_storage::ObjectStore;

use crate::common::until;
use crate::http::{connect, get, say};
use crate::rig::Rig;

fn rig() -> Rig {
    Rig::start(ObjectStore::builder().memory().max_size_mb(64).open().unwrap())
}

#[test]
fn what_is_no_request_for_a_status_is_refused() {
    let rig = rig();
    let address = rig.address();
    assert_eq!(rig.get("/nothing").status, 404);
    assert_eq!(rig.get("/../../etc/passwd").status, 404);
    for method in ["POST", "PUT", "DELETE", "TRACE"] {
        let answer = say(address, &format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert!(answer.status == 405 && answer.head.contains("allow: get, head"), "{answer:?}");
    }
    let head = say(address, "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.status == 200 && head.body.is_empty(), "{head:?}");
    assert_eq!(say(address, "nonsense\r\n\r\n").status, 400);
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(40 << 10));
    assert!([431, 400, 0].contains(&say_to_the_end(address, &long)), "a head of 40 KiB");
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200));
    assert!([431, 400].contains(&say(address, &many).status), "200 headers");
    assert_eq!(rig.get("/healthz").status, 200);
}

/// As `say`, where the server may close while it is still being told.
fn say_to_the_end(address: std::net::SocketAddr, request: &str) -> u16 {
    let mut socket = connect(address);
    // A reset is as good as an answer.
    let _ = socket.write_all(request.as_bytes());
    let mut text = Vec::new();
    let _ = socket.read_to_end(&mut text);
    String::from_utf8_lossy(&text).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[test]
fn more_connections_than_there_may_be_are_closed_and_the_others_served() {
    let rig = rig();
    let mut silent: Vec<_> = (0..64).map(|_| connect(rig.address())).collect();
    let is_refused = || {
        let mut one_more = connect(rig.address());
        // A reset, too.
        one_more.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").is_err()
            || one_more.read(&mut [0; 100]).map_or(true, |length| length == 0)
    };
    until("all places are taken", is_refused);
    silent.truncate(10);
    until("there is a place again", || !is_refused());
    // And the store is not concerned.
    rig.store.put(b"id", b"data", b"").unwrap();
    silent[0].write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    silent[0].read_to_string(&mut text).unwrap();
    assert!(text.ends_with("ok\n"), "{text}");
}

#[test]
fn nothing_that_is_secret_is_shown() {
    let place = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let store = ObjectStore::builder().tiered(place.path(), "redis://user:s3cret@127.0.0.1:9/0").open().unwrap();
    let rig = Rig::start(store);
    until("it is degraded", || rig.get("/readyz").body.contains("degraded"));
    for path in ["/", "/metrics", "/readyz", "/status.json", "/history.json"] {
        let answer = get(rig.address(), path);
        assert!(answer.status == 200 && !answer.body.contains("s3cret"), "{path}: {}", answer.body);
        assert!(answer.head.contains("cache-control: no-store") && answer.head.contains("content-security-policy:"));
    }
}
