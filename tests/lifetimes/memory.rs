//! Threads that want the room of what has expired, all at once.

use std::sync::Barrier;
use std::time::Duration;

use scaler_object_storage::{Error, ObjectStore};

use crate::common::{bytes, until};

const ROUNDS: u64 = 6;

#[test]
fn memory_is_never_full_of_what_has_expired_with_any_number_of_threads() {
    let lifetime = Duration::from_secs(1);
    let store = ObjectStore::builder().memory().max_size_mb(16).object_ttl(lifetime).open().unwrap();
    let data = bytes(1, 1 << 20);
    for round in 0..ROUNDS {
        // Many small ones, so that to free them takes a while. No more of them: some may expire meanwhile.
        let put = |number: u64| store.put(&(round << 32 | number).to_le_bytes(), &data[..500], &number.to_le_bytes());
        let full = (0..30_000).find(|number| matches!(put(*number), Err(Error::Full { .. }))).unwrap_or(30_000);
        let last = (round << 32 | (full - 1)).to_le_bytes();
        until("the last is gone", || store.get(&last).unwrap().is_none());
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (store, barrier, data) = (&store, &barrier, &data);
                scope.spawn(move || {
                    barrier.wait();
                    let id = (1 << 60 | round << 32 | thread).to_le_bytes();
                    let put = store.put(&id, &data[thread as usize..100_000], &id);
                    assert!(put.is_ok(), "round {round}, thread {thread}, {full} objects had expired: {put:?}");
                });
            }
        });
        store.clear().unwrap();
    }
}
