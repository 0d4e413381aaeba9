//! Every way in which Redis is run, each for real: the same promises are kept with all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod program;
mod promises;
mod refused;
mod start;

use std::path::Path;

use common::redis::{Authority, Cluster, Nodes, RedisServer, Sentinel, valkey_is_there};
use promises::are_kept;

/// Those that use Redis.
const BACKENDS: [&str; 2] = ["redis", "tiered"];

/// The same tests for both backends that use Redis.
macro_rules! with_both_backends {
    ($($test:ident),* $(,)?) => {
        mod redis_backend {
            $(#[test] fn $test() { super::$test("redis") })*
        }
        mod tiered_backend {
            $(#[test] fn $test() { super::$test("tiered") })*
        }
    };
}

with_both_backends! {
    one_redis,
    a_user_who_may_touch_only_our_keys,
    a_password_without_a_user,
    tls_with_an_authority_of_ones_own,
    tls_with_a_certificate_for_the_client,
    a_unix_socket,
    a_database_number,
    sentinel,
    a_cluster_of_three,
    valkey,
}

fn one_redis(backend: &'static str) {
    let server = RedisServer::start();
    are_kept(&Nodes::new(backend, server.url()));
}

/// The rights of a user in a Redis that is shared or rented: no CONFIG, no KEYS, nobody else's keys.
fn a_user_who_may_touch_only_our_keys(backend: &'static str) {
    let rights = "resetkeys ~scaler:obj:* &* +@all -@dangerous";
    let server = RedisServer::settings().user("objects", "hu:sh/1@%").rights(rights).start();
    are_kept(&Nodes::new(backend, server.url()));
}

fn a_password_without_a_user(backend: &'static str) {
    let server = RedisServer::settings().user("default", "hush").start();
    are_kept(&Nodes::new(backend, server.url()));
}

fn tls_with_an_authority_of_ones_own(backend: &'static str) {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = RedisServer::settings().tls(&authority, false).start();
    are_kept(&trusting(&authority, directory.path(), Nodes::new(backend, server.url())));
}

fn tls_with_a_certificate_for_the_client(backend: &'static str) {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = RedisServer::settings().tls(&authority, true).start();
    are_kept(&certified(&authority, directory.path(), Nodes::new(backend, server.url())));
}

fn a_unix_socket(backend: &'static str) {
    let server = RedisServer::settings().line("port 0").start();
    are_kept(&Nodes::new(backend, server.socket_url()));
}

fn a_database_number(backend: &'static str) {
    let server = RedisServer::start();
    let in_database = |number: u8| format!("redis://127.0.0.1:{}/{number}", server.port());
    let nodes = Nodes::new(backend, in_database(3));
    are_kept(&nodes);

    let third = nodes.open();
    third.put(b"only in 3", b"data", b"").unwrap();
    common::until("it is in database 3", || server.info("db3").contains("keys="));
    assert_eq!(server.keys(), Vec::<Vec<u8>>::new(), "something of it is in database 0");
    let others = Nodes::new(backend, in_database(0));
    assert_eq!(others.open().get(b"only in 3").unwrap(), None);
}

fn sentinel(backend: &'static str) {
    let rig = Sentinel::start();
    are_kept(&Nodes::new(backend, rig.url()));
}

/// Nothing of ours needs two keys in one slot: the cluster would refuse.
fn a_cluster_of_three(backend: &'static str) {
    let cluster = Cluster::start();
    are_kept(&Nodes::new(backend, cluster.url()));
    for node in cluster.nodes() {
        assert_ne!(node.cli(&["DBSIZE"]), "0", "every node has its share");
    }
}

fn valkey(backend: &'static str) {
    if !valkey_is_there() {
        return println!("NOT tested with Valkey: there is no valkey-server");
    }
    let server = RedisServer::settings().program("valkey-server").start();
    are_kept(&Nodes::new(backend, server.url()));
}

/// Knows the authority of the server.
fn trusting(authority: &Authority, directory: &Path, nodes: Nodes) -> Nodes {
    let [ca, ..] = authority.certify("client").write(directory);
    nodes.with(move |options| options.tls_ca = Some(ca.clone()))
}

/// Also shows a certificate of that authority.
fn certified(authority: &Authority, directory: &Path, nodes: Nodes) -> Nodes {
    let [ca, cert, key] = authority.certify("client").write(directory);
    nodes.with(move |options| {
        options.tls_ca = Some(ca.clone());
        options.tls_cert = Some(cert.clone());
        options.tls_key = Some(key.clone());
    })
}
