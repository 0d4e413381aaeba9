//! The same is seen beside a running server, and where nobody keeps the directory.

use std::fs;
use std::path::Path;

use scaler_object_storage::ObjectStore;

use crate::program::{FILLED, Server, filled, listed, run};

fn names(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        names.push(format!("{} {:?}", path.display(), fs::metadata(&path).unwrap().modified().unwrap()));
        if path.is_dir() {
            names.extend(self::names(&path));
        }
    }
    names.sort();
    names
}

#[test]
fn a_server_and_the_directory_alone_show_the_same() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let store = directory.to_str().unwrap();
    let before = names(&directory);
    let alone = listed(store);
    assert_eq!(alone.len(), FILLED);
    let shown = run(&["show", "--text", "large", "--store", store, "--json"]).ok().json();
    assert_eq!(names(&directory), before, "reading has changed something");

    let server = Server::start(&directory);
    assert_eq!(listed(store), alone);
    let beside = run(&["show", "--text", "large", "--store", store, "--json"]).ok().json();
    for key in ["id", "data_bytes", "metadata_bytes", "version", "state", "place"] {
        assert_eq!(beside[0][key], shown[0][key], "{key}");
    }
    // What is written meanwhile is seen.
    let attached = ObjectStore::attach_kept(&directory).unwrap().unwrap();
    attached.put(b"new", b"it", b"").unwrap();
    assert_eq!(listed(store).len(), FILLED + 1);
    attached.close().unwrap();
    server.stop();
    assert_eq!(listed(store).len(), FILLED + 1);
}

#[test]
fn the_store_is_found_by_its_settings_as_the_server_finds_it() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let config = place.path().join("config.toml");
    fs::write(&config, format!("[object_storage_server.local]\npath = {directory:?}")).unwrap();
    let of_file = run(&["list", "--json", "--config", config.to_str().unwrap()]).ok();
    let of_option = run(&["list", "--json", "--local-path", directory.to_str().unwrap()]).ok();
    let mut command = crate::program::command(&["list", "--json"]);
    let of_environment = command.env("SCALER_OBJECT_STORAGE_LOCAL_PATH", &directory).output().unwrap();
    for found in [of_file.json(), of_option.json(), crate::program::said(of_environment).ok().json()] {
        assert_eq!(found.len(), FILLED);
    }
}

#[test]
fn what_cannot_be_read_is_an_error_with_a_reason() {
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("missing");
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (store, expected) in [
        (missing.to_str().unwrap(), "there is no such directory"),
        (empty.to_str().unwrap(), "there is no store in it"),
        ("tcp://127.0.0.1:1", "name its directory"),
        ("redis://127.0.0.1:1", "cannot be reached"),
    ] {
        let said = run(&["list", store]);
        assert!(said.status == 1 && said.err.contains(expected), "{said:?}");
    }
    assert!(!missing.exists() && fs::read_dir(&empty).unwrap().next().is_none());
    let said = run(&["list", "--backend", "memory"]);
    assert!(said.status == 1 && said.err.contains("in its server's memory"), "{said:?}");

    // Of a program that has it open and lets nobody attach.
    let directory = place.path().join("store");
    let _store = ObjectStore::builder().local(&directory).max_size_mb(64).open().unwrap();
    let said = run(&["list", directory.to_str().unwrap()]);
    assert!(said.status == 1 && said.err.contains("is in use by process"), "{said:?}");
}
