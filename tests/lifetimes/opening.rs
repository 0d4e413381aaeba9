//! Deadlines that stand in the journal, and what deletes the objects whose are over.

use std::path::Path;
use std::time::Duration;

use scaler_object_storage::{Error, ObjectStore, Underlying};

use crate::common::{bytes, get, until};

const LIFETIME: Duration = Duration::from_secs(1);

/// Few fingerprints, so that most ids collide.
fn open(directory: &Path, lifetime: Duration) -> ObjectStore {
    let under = Underlying { fingerprint_mask: 7, ..Underlying::default() };
    ObjectStore::builder().local(directory).max_size_mb(16).object_ttl(lifetime).under(under).open().unwrap()
}

fn fill(store: &ObjectStore, seed: u64) -> u64 {
    let put = |number: u64| store.put(&(seed + number).to_le_bytes(), &bytes(seed + number, 50_000), b"");
    (0..).find(|number| matches!(put(*number).map_err(Some), Err(Some(Error::Full { .. })))).unwrap()
}

/// Lifetimes are given when an object is stored, and hold for whoever opens the directory later.
#[test]
fn an_object_expires_however_the_store_is_opened_next() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Duration::ZERO);
    store.put(b"for ever", b"data", b"").unwrap();
    store.close().unwrap();
    let store = open(directory.path(), LIFETIME);
    store.put(b"for a while", b"data", b"").unwrap();
    store.put(b"until then", &bytes(1, 200_000), b"").unwrap();
    store.close().unwrap();
    let store = open(directory.path(), Duration::ZERO);
    for id in [&b"for a while"[..], b"until then"] {
        until("it is gone", || store.get(id).unwrap().is_none());
    }
    assert_eq!(get(&store, b"for ever").data, "data");
    assert_eq!(store.objects().map(|object| object.unwrap().id.as_bytes().to_vec()).collect::<Vec<_>>(), [b"for ever"]);
    store.close().unwrap();
    // With lifetimes again, what is over is found though nobody wants its room; what has none stays.
    let store = open(directory.path(), 3600 * LIFETIME);
    until("it is deleted", || store.stats().unwrap().local.unwrap().expired == 2);
    assert_eq!(store.info().objects, 1);
    assert_eq!(get(&store, b"for ever").data, "data");
}

#[test]
fn a_store_that_is_opened_without_lifetimes_is_not_full_of_what_has_expired() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), LIFETIME);
    let count = fill(&store, 0);
    assert!(count > 100);
    store.close().unwrap();
    let store = open(directory.path(), Duration::ZERO);
    until("all of it has expired", || {
        (0..count).all(|number: u64| store.get(&number.to_le_bytes()).unwrap().is_none())
    });
    assert!(fill(&store, 1 << 32) > count / 2, "no room though all has expired");
}
