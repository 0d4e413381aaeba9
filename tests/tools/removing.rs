//! `delete` and `clear`, beside a running server and without one.

use scaler_object_storage::ObjectStore;

use crate::program::{FILLED, Server, filled, listed, put_old, run};

#[test]
fn objects_are_deleted_with_and_without_a_server() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let store = directory.to_str().unwrap();
    let asked = run(&["delete", "--text", "large", "-s", store]);
    assert!(asked.status == 1 && asked.err.contains("--yes"), "{asked:?}");
    assert_eq!(listed(store).len(), FILLED);
    run(&["delete", "--yes", "--text", "large", "-s", store]).ok();
    assert_eq!(listed(store).len(), FILLED - 1);

    let server = Server::start(&directory);
    let asked = run(&["delete", "--text", "shared", "-s", store]);
    assert!(asked.status == 1 && asked.err.contains("nothing was done"), "{asked:?}");
    let deleted = run(&["delete", "-y", "0107", "0207", "-s", store]).ok();
    assert_eq!(deleted.out, "deleted 0107\ndeleted 0207\n");
    let missing = run(&["delete", "-y", "0107", "0507", "-s", store]);
    assert!(missing.status == 1 && missing.out == "deleted 0507\n" && missing.err.contains("0107"), "{missing:?}");
    assert_eq!(listed(store).len(), FILLED - 4);
    let attached = ObjectStore::attach_kept(&directory).unwrap().unwrap();
    assert_eq!(attached.get(&[1, 7]).unwrap(), None, "the server sees it");
    assert!(attached.get(b"shared").unwrap().is_some(), "its bytes are not the deleted one's");
    attached.close().unwrap();
    server.stop();
    assert_eq!(listed(store).len(), FILLED - 4);
}

#[test]
fn old_objects_are_deleted_and_young_ones_stay() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let store = directory.to_str().unwrap();
    let before = ObjectStore::builder().local(&directory).max_size_mb(64).open().unwrap();
    (0..5).for_each(|number| put_old(&before, &[b'o', number]));
    before.close().unwrap();
    let none = run(&["delete", "-y", "--older-than", "3h", "-s", store]).ok();
    assert_eq!(none.out, "deleted 0 objects\n");
    let server = Server::start(&directory);
    let asked = run(&["delete", "--older-than", "1h", "-s", store]);
    assert!(asked.status == 1 && asked.err.contains("Delete 5 objects"), "{asked:?}");
    // One that is written again is not old any more.
    let attached = ObjectStore::attach_kept(&directory).unwrap().unwrap();
    attached.put(b"o\x00", b"written again", b"").unwrap();
    let deleted = run(&["delete", "-y", "--older-than", "1h", "-s", store]).ok();
    assert_eq!(deleted.out, "deleted 4 objects\n");
    assert_eq!(listed(store).len(), FILLED + 1);
    assert!(attached.get(b"o\x00").unwrap().is_some());
    attached.close().unwrap();
    server.stop();
}

#[test]
fn clear_deletes_everything_beside_a_server_and_in_redis() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let store = directory.to_str().unwrap();
    let server = Server::start(&directory);
    let asked = run(&["clear", store]);
    assert!(asked.status == 1 && asked.err.contains("Delete all 22 objects"), "{asked:?}");
    assert_eq!(listed(store).len(), FILLED);
    run(&["clear", "--yes", store]).ok();
    assert!(listed(store).is_empty());
    server.stop();
    assert!(listed(store).is_empty());

    let redis = crate::common::redis::RedisServer::start();
    let shared = ObjectStore::builder().redis(redis.url()).open().unwrap();
    crate::program::fill(&shared);
    assert_eq!(listed(&redis.url()).len(), FILLED);
    run(&["clear", "--yes", &redis.url()]).ok();
    assert!(listed(&redis.url()).is_empty() && shared.get(b"large").unwrap().is_none());
    let missing = run(&["clear", "--yes", place.path().join("missing").to_str().unwrap()]);
    assert!(missing.status == 1 && missing.err.contains("no such directory"), "{missing:?}");
}
