//! Objects that had a lifetime in another store.

use std::time::{Duration, Instant};

use scaler_object_storage::{ObjectStore, Waited};

use crate::common::{object, until};
use crate::{now_ms, version};

fn each(check: impl Fn(&str, ObjectStore)) {
    let directory = tempfile::tempdir().unwrap();
    check("memory", ObjectStore::builder().memory().open().unwrap());
    check("local", ObjectStore::builder().local(directory.path()).max_size_mb(16).open().unwrap());
}

#[test]
fn what_is_restored_after_its_time_is_not_there_for_who_waits_either() {
    each(|backend, store| {
        let deadline = Instant::now() + Duration::from_secs(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.wait(b"id", Some(deadline), None).unwrap());
            until("it waits", || store.stats().unwrap().waits.requests == 1);
            assert!(!store.restore(b"id", &object(b"old", b""), version(), now_ms() - 60_000).unwrap(), "{backend}");
            assert!(store.get(b"id").unwrap().is_none());
            let waited = waiting.join().unwrap();
            assert!(!matches!(waited, Waited::Object(_)), "{backend}: {waited:?}");
        });
    });
}

#[test]
fn what_has_expired_does_not_keep_its_id_from_being_restored() {
    each(|backend, store| {
        let version = version();
        assert!(store.restore(b"id", &object(b"a", b""), version, now_ms() + 300).unwrap());
        until("it is gone", || store.get(b"id").unwrap().is_none());
        assert!(store.restore(b"id", &object(b"a", b""), version, 0).unwrap(), "{backend}: there is no object");
        assert_eq!(store.get(b"id").unwrap().unwrap().data, "a");
    });
}

#[test]
fn no_lifetime_and_no_deadline_is_too_long() {
    for seconds in [u64::MAX, u64::MAX / 1000, 1 << 47, (1 << 47) / 1000, i64::MAX as u64] {
        let directory = tempfile::tempdir().unwrap();
        let local = ObjectStore::builder().local(directory.path()).max_size_mb(16);
        for builder in [ObjectStore::builder().memory(), local] {
            let store = builder.object_ttl(Duration::from_secs(seconds)).open().unwrap();
            store.put(b"id", b"data", b"").unwrap();
            assert!(store.duplicate(b"id", b"copy").unwrap());
            assert_eq!(store.get(b"copy").unwrap().unwrap().data, "data");
            for deadline in [u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 47, (1 << 47) + 1] {
                let id = deadline.to_le_bytes();
                assert!(store.restore(&id, &object(b"a", b""), version(), deadline).unwrap());
                assert!(store.get(&id).unwrap().is_some(), "{deadline}");
            }
            assert!(store.delete(b"id").unwrap());
        }
    }
}
