//! `verify`: what is damaged is found, wherever it is looked at, and nothing is changed.

use std::fs;
use std::path::{Path, PathBuf};

use scaler_object_storage::ObjectStore;

use crate::program::{FILLED, Server, filled, listed, run};

fn segments(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|it| it == extension)).collect()
}

/// Changes a byte of the large object's body, in place.
fn damage(directory: &Path) {
    use std::os::unix::fs::FileExt;
    let large = crate::common::bytes(99, 300_000);
    let needle = &large[1000..1100];
    for path in [segments(directory, "bodies"), segments(directory, "body")].concat() {
        let content = fs::read(&path).unwrap();
        if let Some(at) = content.windows(needle.len()).position(|it| it == needle) {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[!needle[50]], at as u64 + 50).unwrap();
            return;
        }
    }
    panic!("the large body is in no segment");
}

#[test]
fn damage_is_found_with_and_without_a_server() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let store = directory.to_str().unwrap();
    let sound = run(&["verify", store]).ok();
    assert!(sound.out.contains("22 objects") && sound.out.contains("0 damaged"), "{sound:?}");

    damage(&directory);
    let check = || {
        let said = run(&["verify", store, "--json"]);
        assert_eq!(said.status, 1, "{said:?}");
        let mut lines = said.json();
        let summary = lines.pop().unwrap();
        // The large one and the one that shares its bytes.
        let mut ids: Vec<_> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["6c61726765", "736861726564"], "{said:?}");
        assert!(
            lines
                .iter()
                .all(|line| line["state"] == "damaged" && line["damage"].as_str().unwrap().contains("checksum"))
        );
        let counts = ["sound", "damaged", "unchecked"].map(|key| summary[key].as_u64().unwrap());
        assert_eq!(counts, [FILLED as u64 - 2, 2, 0]);
    };
    check();
    let words = run(&["verify", store]);
    assert!(words.status == 1 && words.out.contains("damaged: 6c61726765"), "{words:?}");
    let server = Server::start(&directory);
    // Twice: what is found is not let go.
    check();
    check();
    assert_eq!(listed(store).len(), FILLED);
    server.stop();
    check();
}

#[test]
fn a_damaged_record_is_found() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    for path in segments(&directory, "records") {
        let mut content = fs::read(&path).unwrap();
        let needle = [19, 7, 19, 19, 19];
        if let Some(at) = content.windows(needle.len()).position(|it| it == needle) {
            // In the header in front of the id.
            content[at - 20] ^= 1;
            fs::write(&path, content).unwrap();
        }
    }
    let said = run(&["verify", directory.to_str().unwrap()]);
    assert!(said.status == 1 && said.out.contains("are damaged; objects in them are lost"), "{said:?}");
}

#[test]
fn what_cannot_be_checked_is_told_apart_from_damage() {
    let place = tempfile::tempdir().unwrap();
    let said = run(&["verify", place.path().join("missing").to_str().unwrap()]);
    assert!(said.status == 2 && said.err.contains("no such directory"), "{said:?}");
    assert_eq!(run(&["verify", "redis://127.0.0.1:1"]).status, 2);
}

#[test]
fn what_stands_in_redis_is_verified() {
    let redis = crate::common::redis::RedisServer::start();
    let store = ObjectStore::builder().redis(redis.url()).open().unwrap();
    crate::program::fill(&store);
    run(&["verify", &redis.url()]).ok();
    let mut connection = redis.connection();
    let key = "scaler:obj:0607";
    let mut value: Vec<u8> = redis::cmd("GET").arg(key).query(&mut connection).unwrap();
    let last = value.len() - 1;
    value[last] ^= 1;
    let () = redis::cmd("SET").arg(key).arg(value).query(&mut connection).unwrap();
    let said = run(&["verify", &redis.url(), "--json"]);
    assert!(said.status == 1 && said.out.contains("0607"), "{said:?}");
}
