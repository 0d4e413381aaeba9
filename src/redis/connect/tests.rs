//! Tests of every topology against real servers.

use super::*;
use crate::redis::events::{self, Notice, Op};
use crate::redis::fetch::{Fetched, fetch, heads};
use crate::redis::options::RedisOptions;
use crate::redis::push::{Outgoing, Pushed, Pusher};
use crate::redis::server;
use crate::redis::testing::*;
use redis_for_tests::{Authority, Cluster as Servers, RedisServer, Sentinel};

const TIMEOUT: Duration = Duration::from_secs(5);

fn options(url: impl Into<String>) -> RedisOptions {
    RedisOptions { url: url.into(), key_prefix: "t:".into(), ..RedisOptions::default() }
}

fn target(url: impl Into<String>) -> Target {
    Target::new(&options(url)).unwrap()
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("id{n}")).collect()
}

fn puts(ids: &[String], clock: u64) -> Vec<Outgoing<'static>> {
    ids.iter().map(|id| put(id, clock, &object(format!("{id} {clock}")))).collect()
}

/// Writes, events and reads of every kind over this link.
fn everything_works(link: &mut Link) {
    let mut pusher = Pusher::new(&options(""), NODE);
    let hello = Notice { op: Op::Hello, id: b"", version: version(0) };
    let cursor = events::publish(link, &keys(), NODE, &[hello]).unwrap();
    let ids = ids(200);
    let large = object(vec![7; 5 << 20]);
    let mut writes = puts(&ids, 1);
    writes.push(put("large", 1, &large));
    let pushed = pusher.push(link, &writes).unwrap();
    assert!(pushed.iter().all(|pushed| *pushed == Ok(Pushed::Applied { replaced: None })), "{pushed:?}");
    let again: Vec<Outgoing> = ids.iter().map(|id| delete(id, 3)).collect();
    let pushed = pusher.push(link, &puts(&ids[..100], 2)).unwrap();
    assert!(pushed.iter().all(|pushed| matches!(pushed, Ok(Pushed::Applied { replaced: Some(_) }))), "{pushed:?}");
    let pushed = pusher.push(link, &again[150..]).unwrap();
    assert!(pushed.iter().all(Result::is_ok), "{pushed:?}");
    for (n, (id, fetched)) in ids.iter().zip(fetch(link, &keys(), &ids, 0).unwrap()).enumerate() {
        match fetched.unwrap() {
            Fetched::Object(found) if n < 150 => {
                let clock = if n < 100 { 2 } else { 1 };
                assert_eq!((found.version, found.object), (version(clock), object(format!("{id} {clock}"))));
            }
            Fetched::Tombstone(found) if n >= 150 => assert_eq!(found, version(3)),
            other => panic!("{id}: {other:?}"),
        }
    }
    let fetched = fetch(link, &keys(), &["large"], 0).unwrap().pop().unwrap().unwrap();
    assert!(matches!(fetched, Fetched::Object(found) if found.object == large));
    assert!(heads(link, &keys(), &ids).unwrap().iter().all(|head| matches!(head, Ok(Some(_)))));
    let mut heard = 0;
    let mut cursor = cursor;
    while heard < 201 + 100 + 50 {
        let read = events::read(link, &keys(), &cursor, Duration::from_millis(100), 100).unwrap();
        assert!(!read.lost_past && !read.events.is_empty());
        heard += read.events.len();
        cursor = read.cursor;
    }
    assert_eq!(server::begin_epoch(link, &keys()).unwrap().len(), 32);
    assert!(server::time(link, &keys()).unwrap().redis_ms > 1_500_000_000_000);
    assert!(server::memory(link).unwrap().is_some());
    let mut scanned = Vec::new();
    let collect = |_: &mut Link, ids: Vec<Vec<u8>>| {
        scanned.extend(ids);
        Ok(())
    };
    server::scan_ids(link, &keys(), collect).unwrap();
    scanned.sort();
    scanned.dedup();
    assert_eq!(scanned.len(), 201);
    pusher.settle_counters(link).unwrap();
    assert_eq!(server::counters(link, &keys()).unwrap().0, 151);
}

#[test]
fn one_redis_over_tcp_with_a_database() {
    let server = RedisServer::start();
    let url = format!("redis://127.0.0.1:{}/5", server.port());
    everything_works(&mut target(url).connect(TIMEOUT).unwrap());
    assert!(server.cli(&["INFO", "keyspace"]).contains("db5:"));
}

#[test]
fn a_user_with_a_password() {
    let server = RedisServer::settings().user("store", "p@ss:w/rd").start();
    let url = format!("redis://store:p%40ss%3Aw%2Frd@127.0.0.1:{}", server.port());
    everything_works(&mut target(url).connect(TIMEOUT).unwrap());
    let wrong = target(format!("redis://store:wrong@127.0.0.1:{}", server.port()));
    let error = wrong.connect(TIMEOUT).err().unwrap();
    assert!(matches!(&error, Error::Denied { reason, .. } if reason.contains("WRONGPASS invalid")), "{error}");
    assert!(!error.to_string().contains("wrong@"), "{error}");
}

/// What a connection fails with.
fn failure(options: &RedisOptions) -> Error {
    Target::new(options).unwrap().connect(TIMEOUT).err().expect("it cannot be used")
}

fn text(error: &Error) -> String {
    error.to_string()
}

#[test]
fn a_redis_that_does_not_serve_this_store_is_not_said_to_be_away() {
    let server = RedisServer::start();
    let port = server.port();
    let no_password = failure(&options(format!("redis://:secret@127.0.0.1:{port}")));
    assert!(
        matches!(&no_password, Error::Denied { .. }) && text(&no_password).contains("without any password"),
        "{no_password}"
    );
    assert!(!text(&no_password).contains("secret"), "{no_password}");
    let database = failure(&options(format!("redis://127.0.0.1:{port}/99")));
    assert!(matches!(&database, Error::Denied { .. }) && text(&database).contains("out of range"), "{database}");
    assert!(text(&database).contains("database 99"), "{database}");
    let cluster = failure(&options(format!("redis+cluster://127.0.0.1:{port}")));
    assert!(matches!(&cluster, Error::Denied { .. }) && text(&cluster).contains("write redis://"), "{cluster}");
}

#[test]
fn a_redis_with_as_many_clients_as_it_takes_says_so() {
    let server = RedisServer::settings().line("maxclients 1").start();
    let _held = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    for url in [format!("redis://127.0.0.1:{}", server.port()), format!("redis://:p@127.0.0.1:{}", server.port())] {
        let full = failure(&options(url));
        assert!(matches!(&full, Error::Unreachable { .. }), "{full:?}");
        assert!(text(&full).contains("max number of clients") && text(&full).contains("raise maxclients"), "{full}");
    }
}

#[test]
fn tls_where_there_is_none_and_none_where_there_is_are_named() {
    let (plain, authority) = (RedisServer::start(), Authority::new());
    let encrypted = RedisServer::settings().tls(&authority, false).start();
    let quick = |url: String| RedisOptions { connect_timeout_ms: 1000, ..options(url.as_str()) };
    let tls = failure(&quick(format!("rediss://127.0.0.1:{}", plain.port())));
    assert!(text(&tls).contains("TLS handshake") && text(&tls).contains("redis://"), "{tls}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = failure(&quick(format!("rediss://{}", silent.local_addr().unwrap())));
    assert!(text(&silent).contains("TLS handshake is not answered"), "{silent}");
    let none = failure(&quick(format!("redis://127.0.0.1:{}", encrypted.port())));
    assert!(text(&none).contains("rediss://"), "{none}");
}

#[test]
fn tls_with_an_authority_and_a_certificate_of_ones_own() {
    let authority = Authority::new();
    let server = RedisServer::settings().tls(&authority, true).start();
    let directory = tempfile::tempdir().unwrap();
    let [ca, cert, key] = authority.certify("client").write(directory.path());
    let url = format!("rediss://127.0.0.1:{}", server.port());
    let with = RedisOptions { tls_ca: Some(ca), tls_cert: Some(cert), tls_key: Some(key), ..options(url.as_str()) };
    everything_works(&mut Target::new(&with).unwrap().connect(TIMEOUT).unwrap());
    // A client without a certificate is refused, and so is a server whose certificate an unknown authority signed.
    let without = RedisOptions { tls_cert: None, tls_key: None, ..with.clone() };
    assert!(matches!(Target::new(&without).unwrap().connect(TIMEOUT), Err(Error::Unreachable { .. })));
    let unknown = RedisOptions { tls_ca: None, ..with.clone() };
    assert!(matches!(Target::new(&unknown).unwrap().connect(TIMEOUT), Err(Error::Unreachable { .. })));
    // Settings that cannot work are an error at once.
    let half = RedisOptions { tls_key: None, ..with.clone() };
    assert!(matches!(Target::new(&half), Err(Error::Config(_))));
    let missing = RedisOptions { tls_ca: Some(directory.path().join("nothing")), ..with.clone() };
    assert!(matches!(Target::new(&missing), Err(Error::Io { .. })));
    std::fs::write(directory.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    assert!(matches!(Target::new(&with), Err(Error::Config(_))));
}

#[test]
fn a_master_behind_sentinels_and_its_successor() {
    let mut servers = Sentinel::start();
    let target = target(servers.url());
    let mut link = target.connect(TIMEOUT).unwrap();
    everything_works(&mut link);
    servers.kill_master();
    assert!(matches!(link.run(&[redis::cmd("PING")]), Err(Error::Unreachable { .. })));
    let mut link = target.connect(TIMEOUT).unwrap();
    let pushed = Pusher::new(&options(""), NODE).push(&mut link, &puts(&ids(3), 9)).unwrap();
    assert!(pushed.iter().all(Result::is_ok), "{pushed:?}");
    // A sentinel that is away does not keep the others from being asked.
    let wrong = servers.url().replace("redis+sentinel://", "redis+sentinel://127.0.0.1:1,");
    self::target(wrong).connect(TIMEOUT).unwrap();
    let unknown = servers.url().replace("/objects/", "/nobody/");
    let error = self::target(unknown).connect(TIMEOUT).err().unwrap();
    assert!(error.to_string().contains("knows no master named nobody"), "{error}");
}

#[test]
fn a_cluster_of_three() {
    let servers = Servers::start();
    let mut link = target(servers.url()).connect(TIMEOUT).unwrap();
    everything_works(&mut link);
    assert!(!link.take_redirected());
    // From one node the others are discovered.
    let first = servers.url().split(',').next().unwrap().to_owned();
    let mut link = target(first).connect(TIMEOUT).unwrap();
    assert_eq!(link.masters(), 3);
    assert!(fetch(&mut link, &keys(), &ids(20), 0).unwrap().iter().all(Result::is_ok));
}

// docs/replication.md, Pushing 6: who had asked a node that no longer holds the key has to hear of it.
#[test]
fn a_slot_that_moves_is_followed_at_every_moment() {
    let servers = Servers::start();
    let mut link = target(servers.url()).connect(TIMEOUT).unwrap();
    let mut pusher = Pusher::new(&RedisOptions { key_prefix: "{x}".into(), ..options("") }, NODE);
    let keys = crate::redis::keys::Keys::new("{x}"); // all in one slot
    let ids = ids(50);
    let slot = servers.slot(b"{x}");
    let mut check = |link: &mut Link, clock: u64| {
        let mut writes = puts(&ids, clock);
        writes.push(delete("gone", clock));
        writes.push(put("large", clock, &object(vec![clock as u8; 3 << 20])));
        let pushed = pusher.push(link, &writes).unwrap();
        assert!(pushed.iter().all(|pushed| matches!(pushed, Ok(Pushed::Applied { .. }))), "{clock}: {pushed:?}");
        for fetched in fetch(link, &keys, &ids, 0).unwrap() {
            assert!(matches!(fetched, Ok(Fetched::Object(found)) if found.version == version(clock)));
        }
    };
    check(&mut link, 1);
    servers.move_slot(slot, || {
        check(&mut link, 2);
        assert!(!link.take_redirected(), "asking elsewhere loses nothing");
    });
    assert!(!link.take_redirected());
    check(&mut link, 3);
    assert!(link.take_redirected());
    assert!(!link.take_redirected());
    check(&mut link, 4);
    assert!(!link.take_redirected());
}
