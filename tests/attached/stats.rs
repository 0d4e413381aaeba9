//! What a keeper tells of the processes that are attached to its store.

use scaler_object_storage::{Keeper, KeeperOptions, ObjectStore};

use crate::common::{bytes, get, much_later, until};

#[test]
fn attached_processes_and_what_they_hold_are_counted_and_seen_by_all() {
    let place = tempfile::tempdir().unwrap();
    let builder = || ObjectStore::builder().local(place.path()).max_size_mb(64);
    let store = builder().open().unwrap();
    assert_eq!(store.stats().unwrap().keeper, None, "nobody may attach yet");
    let keeper = Keeper::listen(&store, builder().config(), KeeperOptions::default()).unwrap();
    assert_eq!(store.stats().unwrap().keeper.unwrap().attached, 0);
    let attached = [builder().attach().unwrap(), builder().attach().unwrap()];
    attached[0].put(b"large", &bytes(1, 200_000), b"").unwrap();
    let held = get(&attached[1], b"large");
    let told = attached[1].stats().unwrap().keeper.unwrap();
    assert!(told.attached == 2 && told.connections >= 2 && told.leases >= 1, "{told:?}");
    let waiting = std::thread::spawn({
        let store = attached[0].clone();
        move || store.wait(b"later", much_later(), None).unwrap()
    });
    until("it waits", || store.stats().unwrap().keeper.unwrap().waits == 1);
    store.put(b"later", b"", b"").unwrap();
    waiting.join().unwrap();
    drop((held, attached));
    until("they are gone", || {
        let told = store.stats().unwrap().keeper.unwrap();
        (told.attached, told.connections, told.leases, told.waits) == (0, 0, 0, 0)
    });
    keeper.close();
    assert_eq!(store.stats().unwrap().operations.puts, 2);
    store.close().unwrap();
}
