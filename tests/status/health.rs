//! `/healthz` and `/readyz` in each state.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use scaler_object_storage::ObjectStore;
use scaler_object_storage::server::StatusServer;

use crate::common::redis::RedisServer;
use crate::common::{bytes, until};
use crate::http::get;
use crate::rig::Rig;

fn tells(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = get(address, path);
    (answer.status, answer.body.trim_end().to_owned())
}

#[test]
fn a_server_is_ready_from_when_it_accepts_until_it_stops() {
    let status = StatusServer::listen(&"0".parse().unwrap()).unwrap();
    let address = status.local_address();
    assert!(address.ip().is_loopback());
    assert_eq!(tells(address, "/readyz"), (503, "starting".into()));
    assert_eq!(tells(address, "/healthz"), (200, "ok".into()));
    assert!(get(address, "/metrics").body.contains("scaler_object_storage_ready 0\n"));
    assert!(get(address, "/status.json").body.contains(r#""state":"starting","age_seconds":null"#));
    drop(status);

    let rig = Rig::start(ObjectStore::builder().memory().max_size_mb(64).open().unwrap());
    assert_eq!(tells(rig.address(), "/readyz"), (200, "ready".into()));
    assert!(rig.get("/metrics").body.contains("scaler_object_storage_ready 1\n"));
    rig.status.stopping();
    assert_eq!(tells(rig.address(), "/readyz"), (503, "stopping".into()));
    assert_eq!(tells(rig.address(), "/healthz"), (200, "ok".into()));
    assert!(rig.get("/metrics").body.contains("scaler_object_storage_ready 0\n"));
}

#[test]
fn a_redis_that_is_away_or_refuses_makes_it_degraded_with_the_reason_and_it_stays_ready() {
    let (mut redis, place) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let store = ObjectStore::builder().tiered(place.path(), redis.url()).max_size_mb(64).open().unwrap();
    let rig = Rig::start(store);
    until("it is well", || tells(rig.address(), "/readyz") == (200, "ready".into()));
    // A Redis without room for an epoch is none that refuses single objects.
    until("it takes part", || redis.cli(&["EXISTS", "scaler:obj:_epoch"]) == "1");
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    rig.store.put(b"id", &bytes(1, 1000), b"").unwrap();
    let degraded = |words: &str| {
        let (status, text) = tells(rig.address(), "/readyz");
        assert_eq!(status, 200);
        text.starts_with("ready, degraded: ") && text.contains(words)
    };
    until("it is told that Redis refuses", || degraded("OOM command not allowed"));
    // Where nothing at all is taken, nothing can be pushed.
    let kinds =
        ["refused", "not_pushed"].map(|kind| format!("scaler_object_storage_complaint_seconds{{kind=\"{kind}\"}} "));
    until("the metrics tell it", || {
        let body = rig.get("/metrics").body;
        kinds.iter().any(|kind| body.contains(kind))
    });
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    until("it is well again", || tells(rig.address(), "/readyz") == (200, "ready".into()));
    redis.kill();
    until("it is told that Redis is away", || degraded(&redis.port().to_string()));
    assert!(rig.get("/metrics").body.contains("scaler_object_storage_degraded 1\n"));
    redis.restart();
}

#[test]
fn the_backend_redis_without_its_redis_is_degraded_too() {
    let mut redis = RedisServer::start();
    let store = ObjectStore::builder().redis(redis.url()).open().unwrap();
    let rig = Rig::start(store);
    assert_eq!(tells(rig.address(), "/readyz"), (200, "ready".into()));
    redis.kill();
    until("it is told", || tells(rig.address(), "/readyz").1.starts_with("ready, degraded: "));
    assert!(rig.get("/metrics").body.contains("scaler_object_storage_complaint_seconds{kind=\"redis_away\"} "));
    redis.restart();
    until("it is well again", || tells(rig.address(), "/readyz") == (200, "ready".into()));
}

#[test]
fn the_program_serves_its_status_where_it_is_told_to_and_nowhere_otherwise() {
    let place = tempfile::tempdir().unwrap();
    let start = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scaler_object_storage_server"));
        command.args(["tcp://127.0.0.1:0", "--backend", "memory"]).args(arguments).current_dir(place.path());
        command.env_remove("SCALER_OBJECT_STORAGE_METRICS_ADDRESS").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut child = start(&["--metrics-address", "0"]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = None;
    for line in lines.map(Result::unwrap) {
        told = told.or(line.split("the status page are on http://").nth(1).map(str::to_owned));
        if line.contains(": listening on ") {
            break;
        }
    }
    let address: SocketAddr = told.unwrap().trim_end_matches('/').parse().unwrap();
    until("it is ready", || tells(address, "/readyz") == (200, "ready".into()));
    let taken = start(&["--metrics-address", &address.port().to_string()]).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let stderr = String::from_utf8(taken.stderr).unwrap();
    assert!(!taken.status.success() && stderr.contains("cannot serve metrics on 127.0.0.1:"), "{stderr}");
    for wrong in ["everywhere", "127.0.0.1", "1.2.3.4:99999", ":"] {
        let refused = start(&["--metrics-address", wrong]).output().unwrap();
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && stderr.contains("metrics_address: "), "{wrong}: {stderr}");
    }
}
