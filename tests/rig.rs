//! The servers and faults that other tests are made of do what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::cell::RefCell;
use std::process::Command;
use std::time::Duration;

use common::redis::{Authority, Cluster, Mode, Proxy, RedisServer, Sentinel, valkey_is_there};
use common::until;
use redis::{Client, ClientTlsConfig, TlsCertificates};

fn ping(client: redis::RedisResult<Client>) -> Result<String, String> {
    let connect = |client: Client| client.get_connection_with_timeout(Duration::from_secs(1));
    let mut connection = client.and_then(connect).map_err(|error| error.to_string())?;
    connection.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    redis::cmd("PING").query(&mut connection).map_err(|error| error.to_string())
}

#[test]
fn a_server_can_be_killed_restarted_emptied_and_paused() {
    let mut server = RedisServer::start();
    assert_eq!(ping(Client::open(server.url())), Ok("PONG".into()));
    server.cli(&["SET", "a", "1"]);
    server.pause();
    assert!(ping(Client::open(server.url())).is_err());
    server.resume();
    assert_eq!(server.cli(&["GET", "a"]), "1");
    server.kill();
    assert!(ping(Client::open(server.url())).is_err());
    let port = server.port();
    server.restart();
    assert_eq!((server.port(), server.cli(&["EXISTS", "a"])), (port, "0".into()));

    let mut server = RedisServer::settings().persistent().start();
    server.cli(&["SET", "a", "1"]);
    server.restart();
    assert_eq!(server.cli(&["GET", "a"]), "1");
    server.restart_empty();
    assert_eq!(server.keys(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_server_with_users_takes_no_other() {
    for name in ["objects", "default"] {
        let server = RedisServer::settings().user(name, "hush").start();
        assert_eq!(ping(Client::open(server.url())), Ok("PONG".into()));
        assert_eq!(server.cli(&["PING"]), "PONG");
        assert!(ping(Client::open(server.url().replace("hush", "wrong"))).is_err());
        assert!(ping(Client::open(format!("redis://127.0.0.1:{}", server.port()))).is_err());
    }
}

#[test]
fn a_server_with_tls_and_its_clients_know_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let server = RedisServer::settings().tls(&authority, true).start();
    let read = |path: &std::path::PathBuf| std::fs::read(path).unwrap();
    for (authority, known) in [(&authority, true), (&Authority::new(), false)] {
        let [ca, cert, key] = authority.certify("client").write(directory.path());
        let client_tls = Some(ClientTlsConfig { client_cert: read(&cert), client_key: read(&key) });
        for (client_tls, certified) in [(client_tls, true), (None, false)] {
            let certificates = TlsCertificates { client_tls, root_cert: Some(read(&ca)) };
            let answer = ping(Client::build_with_tls(server.url(), certificates));
            assert_eq!(answer.is_ok(), known && certified, "{answer:?}");
        }
    }
}

#[test]
fn sentinel_fails_over_and_back() {
    let mut rig = Sentinel::start();
    let first = rig.master().port();
    rig.kill_master();
    assert_ne!(rig.master().port(), first);
    rig.revive();
    rig.exchange();
    assert_eq!(rig.master().port(), first);
}

#[test]
fn sentinel_fails_over_once_more_while_a_server_is_revived() {
    let mut rig = Sentinel::start();
    let first = rig.master().port();
    rig.kill_master();
    let second = rig.master().info("process_id");
    let signal = move |name: &str| assert!(Command::new("kill").args([name, &second]).status().unwrap().success());
    signal("-STOP");
    let sentinel = rig.url().replace("redis+sentinel://", "redis://").split(',').next().unwrap().to_owned();
    let resumed = std::thread::spawn(move || {
        let sentinel = RefCell::new(Client::open(sentinel).unwrap().get_connection().unwrap());
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg("objects");
        let named = || asked.query::<(String, u16)>(&mut *sentinel.borrow_mut()).unwrap().1;
        until("the sentinels fail over", || named() == first);
        signal("-CONT");
    });
    rig.revive();
    resumed.join().unwrap();
    let master = rig.master();
    assert_eq!((master.port(), master.info("connected_slaves").as_str()), (first, "1"));
}

#[test]
fn a_slot_of_a_cluster_moves_with_its_keys() {
    let cluster = Cluster::start();
    let slot = cluster.slot(b"{tag}1");
    let from = cluster.node_of(slot);
    for key in ["{tag}1", "{tag}2", "{tag}3", "{tag}4"] {
        cluster.nodes()[from].cli(&["SET", key, "value"]);
    }
    cluster.move_slot(slot, || {
        let left: usize = cluster.nodes()[from].command(&["DBSIZE"]);
        assert_eq!(left, 2);
    });
    let to = cluster.node_of(slot);
    assert_ne!(to, from);
    assert_eq!(cluster.nodes()[to].cli(&["GET", "{tag}4"]), "value");
}

#[test]
fn a_proxy_carries_resets_delays_and_swallows() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server);
    let url = server.url_at(proxy.port());
    let ask = || ping(Client::open(url.as_str()));
    assert_eq!(ask(), Ok("PONG".into()));

    proxy.set(Mode::Delay(Duration::from_secs(2)));
    assert!(ask().is_err());
    proxy.set(Mode::Blackhole);
    assert!(ask().is_err());
    proxy.set(Mode::Refuse);
    assert!(ask().unwrap_err().contains("refused"));
    proxy.set(Mode::Normal);
    assert_eq!(ask(), Ok("PONG".into()));

    let resets = proxy.resets();
    proxy.set(Mode::ResetAfter(10_000));
    let mut connection = Client::open(url.as_str()).unwrap().get_connection().unwrap();
    let mut set = |bytes: usize| redis::cmd("SET").arg("a").arg(vec![0_u8; bytes]).exec(&mut connection);
    set(5_000).unwrap();
    let error = set(20_000).unwrap_err().to_string();
    assert!(error.contains("reset") || error.contains("Broken pipe"), "{error}");
    assert_eq!(proxy.resets(), resets + 1);
    assert_eq!(server.cli(&["STRLEN", "a"]), "5000");
}

#[test]
fn valkey_where_it_is_installed() {
    if !valkey_is_there() {
        return println!("NOT tested with Valkey: there is no valkey-server");
    }
    let server = RedisServer::settings().program("valkey-server").start();
    assert_eq!(server.info("server_name"), "valkey");
}
