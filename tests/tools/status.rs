//! `status` and `top` of a running store.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::program::{FILLED, Server, filled, run};

#[test]
fn the_numbers_of_a_running_store_are_shown() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let store = directory.to_str().unwrap();
    let nobody = run(&["status", store]);
    assert!(nobody.status == 1 && nobody.err.contains("no process keeps it now"), "{nobody:?}");

    let server = Server::start(&directory);
    let shown = run(&["status", store]).ok().out;
    for expected in
        ["local in ", "health       ok", "objects      22, ", "waiting      nobody", "attached     1 processes"]
    {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let stats = run(&["status", store, "--json"]).ok().json();
    assert_eq!(stats[0]["objects"], FILLED);
    assert_eq!(stats[0]["backend"], "local");
    let top = run(&["top", store]);
    assert!(top.status == 1 && top.err.contains("for a terminal"), "{top:?}");
    server.stop();
    let redis = run(&["status", "redis://127.0.0.1:1"]);
    assert!(redis.status == 1 && redis.err.contains("metrics address"), "{redis:?}");
}

/// Answers one request over HTTP with this.
fn answering(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
            request.push(byte[0]);
        }
        assert!(request.starts_with(b"GET /status.json "), "{}", String::from_utf8_lossy(&request));
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).unwrap();
    });
    address
}

#[test]
fn a_server_is_asked_at_its_metrics_address() {
    let address = answering(
        r#"{"state":"ready","stats":{"backend":"tiered","place":"/x and redis","objects":7,"health":{"state":"degraded",
            "reasons":[{"kind":"redis_away","text":"Redis is away","since_seconds":5}]},"replication":{"dirty_records":3}}}"#,
    );
    let said = run(&["status", &address]);
    assert_eq!(said.status, 1, "it is degraded: {said:?}");
    for expected in ["tiered in /x and redis", "degraded", "Redis is away (for 5.0s)", "3 writes"] {
        assert!(said.out.contains(expected), "{expected}: {said:?}");
    }
    let starting = run(&["status", &answering(r#"{"state":"starting","stats":null}"#)]);
    assert!(starting.status == 1 && starting.err.contains("starting"), "{starting:?}");
    let free = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let nobody = run(&["status", &format!("http://{free}")]);
    assert!(nobody.status == 1 && nobody.err.contains("metrics_address"), "{nobody:?}");
}
