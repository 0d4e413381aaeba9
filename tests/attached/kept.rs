//! Attaching to a keeper that is there, whatever its settings are, and to no other.

use scaler_object_storage::{Error, Keeper, KeeperOptions, ObjectStore};

#[test]
fn only_a_keeper_that_is_there_is_attached_to() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    assert!(ObjectStore::attach_kept(&directory).unwrap().is_none());
    assert!(!directory.exists(), "looking for a keeper makes nothing");
    // Other settings than any default.
    let builder = ObjectStore::builder().local(&directory).max_size_mb(77);
    let store = builder.clone().open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    assert!(ObjectStore::attach_kept(&directory).unwrap().is_none());
    let keeper = Keeper::listen(&store, builder.config(), KeeperOptions::default()).unwrap();
    let attached = ObjectStore::attach_kept(&directory).unwrap().unwrap();
    assert_eq!(attached.objects().map(|object| object.unwrap().data_bytes).sum::<u64>(), 4);
    keeper.close();
    store.close().unwrap();
    let lost = attached.get(b"id").unwrap_err();
    assert!(matches!(&lost, Error::Detached { reason, .. } if reason.contains("no process keeps it")), "{lost}");
}
