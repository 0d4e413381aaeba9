//! What the server says and does at its start about the Redis that it finds, or does not find.

use super::program::Program;
use super::{BACKENDS, Nodes, RedisServer};
use crate::common::{get, object, until};

fn program(backend: &str, url: &str) -> Program {
    Program::start(["--backend", backend, "--redis-url", url, "--redis-drain-timeout-ms", "100"])
}

/// The lines of the log at this level or above, after the server has met its Redis and ended.
fn warnings(backend: &str, server: &RedisServer) -> Vec<String> {
    let mut program = program(backend, &server.url());
    program.until_it_listens();
    until("the server has met its Redis", || !server.keys().is_empty());
    let (status, log) = program.end();
    assert!(status.success(), "{log}");
    let is_warning = |line: &&str| [" WARNING ", " ERROR ", " CRITICAL "].iter().any(|level| line.contains(level));
    log.lines().filter(is_warning).map(str::to_string).collect()
}

#[test]
fn it_warns_of_eviction_and_of_no_persistence() {
    for backend in BACKENDS {
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let server = RedisServer::settings().line(format!("maxmemory-policy {policy}")).start();
            let warnings = warnings(backend, &server);
            let about = |what: &str| warnings.iter().filter(|line| line.contains(what)).count();
            assert_eq!((about(policy), about("persistence")), (1, 1), "{warnings:?}");
        }
    }
}

#[test]
fn it_has_nothing_to_say_about_a_redis_that_keeps_what_it_is_given() {
    for backend in BACKENDS {
        for settings in [RedisServer::settings().persistent(), RedisServer::settings().line("save 3600 1")] {
            assert_eq!(warnings(backend, &settings.start()), Vec::<String>::new());
        }
    }
}

/// Invariant 12.
#[test]
fn the_password_is_in_no_log_line() {
    for backend in BACKENDS {
        let server = RedisServer::settings().user("objects", "hush").start();
        let mut program = Program::start([
            "--backend",
            backend,
            "--redis-url",
            &server.url(),
            "--logging-level",
            "DEBUG",
            "--redis-drain-timeout-ms",
            "100",
        ]);
        program.until_it_listens();
        until("the server has met its Redis", || !server.keys().is_empty());
        // And after it is not let in any more.
        server.cli(&["ACL", "SETUSER", "objects", "resetpass", ">other"]);
        server.cli(&["CLIENT", "KILL", "USER", "objects"]);
        let (status, log) = program.end();
        assert!(status.success(), "{log}");
        assert!(!log.contains("hush"), "{log}");
        assert!(log.contains(&server.port().to_string()), "the log says where Redis is: {log}");
    }
}

/// Invariant 10: Redis absent at start is no reason not to start.
#[test]
fn tiered_starts_without_redis_and_says_so() {
    let mut server = RedisServer::settings().user("objects", "hush").start();
    server.kill();
    let mut program = program("tiered", &server.url());
    program.until_it_listens();
    let port = server.port().to_string();
    until("it says that Redis is not there", || {
        program.log().lines().any(|line| line.contains(" WARNING ") && line.contains(&port))
    });
    server.restart();
    until("it finds Redis when it comes", || !server.keys().is_empty());
    let (status, log) = program.end();
    assert!(status.success() && !log.contains("hush"), "{log}");
}

#[test]
fn redis_does_not_start_without_redis_and_says_why() {
    let mut server = RedisServer::settings().user("objects", "hush").start();
    server.kill();
    let (status, log) = program("redis", &server.url()).ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(&format!("127.0.0.1:{}", server.port())) && !log.contains("hush"), "{log}");
}

/// Invariant 10, as the library has it: what was put meanwhile reaches Redis when it comes.
#[test]
fn a_tiered_store_opens_without_redis_and_pushes_when_it_comes() {
    let mut server = RedisServer::start();
    server.kill();
    let nodes = Nodes::new("tiered", server.url());
    let (a, b) = (nodes.open(), nodes.open());
    a.put(b"put without Redis", b"data", b"").unwrap();
    assert_eq!(get(&a, b"put without Redis"), object(b"data", b""));
    server.restart();
    until("the other node has it", || b.get(b"put without Redis").is_ok_and(|found| found.is_some()));
}
