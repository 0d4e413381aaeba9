//! What attached processes remember.

use std::time::Duration;

use scaler_object_storage::{Keeper, KeeperOptions, ObjectStore};

use crate::common::{bytes, object, until};
use crate::{now_ms, version};

/// Deadlines hold whatever lifetime the store that is kept gives itself. No change of the index says that one is over.
#[test]
fn an_attached_process_remembers_no_object_beyond_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let builder = ObjectStore::builder().local(directory.path()).max_size_mb(64);
    let first = builder.clone().object_ttl(Duration::from_secs(3)).open().unwrap();
    let ids = [(&b"small"[..], 10), (b"middle", 40_000), (b"large", 1 << 20)];
    ids.iter().for_each(|(id, size)| first.put(id, &bytes(1, *size), b"").unwrap());
    first.close().unwrap();

    let store = builder.clone().open().unwrap();
    let _keeper = Keeper::listen(&store, builder.config(), KeeperOptions::default()).unwrap();
    let attached = builder.attach().unwrap();
    assert!(store.restore(b"restored", &object(b"data", b""), version(), now_ms() + 3000).unwrap());
    for id in ids.map(|(id, _)| id).into_iter().chain([&b"restored"[..]]) {
        until("it is gone for the keeper", || {
            attached.get(id).unwrap();
            store.get(id).unwrap().is_none()
        });
        assert!(attached.get(id).unwrap().is_none(), "{} is remembered though it is over", id.escape_ascii());
    }
}
