//! A real redis-server for the tests of this folder.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tempfile::TempDir;

use super::body::Body;
use super::keys::Keys;
use super::link::Link;
use super::options::RedisOptions;
use super::pipeline::Reply;
use super::push::{Outgoing, Pusher, What};
use super::target::Target;
use crate::object::Object;
use crate::version::Version;

pub(super) const NODE: u64 = 0xfeed;

/// A server that listens on a unix socket only, and is killed when this is dropped.
pub(super) struct Server {
    process: Child,
    directory: TempDir,
}

impl Server {
    pub fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(directory.path().join("socket"))
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, from the system's packages");
        let server = Server { process, directory };
        let until = Instant::now() + Duration::from_secs(20);
        while server.target().connect(Duration::from_secs(5)).is_err() {
            assert!(Instant::now() < until, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub fn options(&self) -> RedisOptions {
        let url = format!("redis+unix://{}", self.directory.path().join("socket").display());
        RedisOptions { url, key_prefix: "t:".into(), ..RedisOptions::default() }
    }

    pub fn target(&self) -> Target {
        Target::new(&self.options()).unwrap()
    }

    pub fn link(&self) -> Link {
        self.target().connect(Duration::from_secs(5)).unwrap()
    }

    pub fn pusher(&self) -> Pusher {
        Pusher::new(&self.options(), NODE)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

pub(super) fn keys() -> Keys {
    Keys::new("t:")
}

/// Runs a command given by its words.
pub(super) fn call(link: &mut Link, words: &[&str]) -> Reply {
    let mut command = Cmd::new();
    command.arg(words);
    link.run_one(command).unwrap()
}

pub(super) fn number(reply: Reply) -> i64 {
    match reply {
        Ok(Value::Int(number)) => number,
        Ok(Value::BulkString(text)) => String::from_utf8(text).unwrap().parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn raw(link: &mut Link, key: &str) -> Vec<u8> {
    match call(link, &["GET", key]) {
        Ok(Value::BulkString(value)) => value,
        other => panic!("{key}: {other:?}"),
    }
}

pub(super) fn set_raw(link: &mut Link, key: &str, value: &[u8]) {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(value);
    link.run_one(set).unwrap().unwrap();
}

pub(super) fn version(clock: u64) -> Version {
    Version { clock, node: NODE }
}

pub(super) fn object(data: impl Into<Vec<u8>>) -> Object {
    Object { data: data.into().into(), metadata: "metadata".into() }
}

pub(super) fn put(id: &str, clock: u64, object: &Object) -> Outgoing<'static> {
    let body = [&object.metadata[..], &object.data[..]].concat();
    let body_hash = xxhash_rust::xxh3::xxh3_128(&body);
    Outgoing {
        id: id.into(),
        version: version(clock),
        what: What::Put { object: Body::Kept(object.clone()), body_hash: body_hash.into(), deadline_ms: 0 },
        is_repeat: false,
    }
}

pub(super) fn delete(id: &str, clock: u64) -> Outgoing<'static> {
    Outgoing { id: id.into(), version: version(clock), what: What::Delete, is_repeat: false }
}
