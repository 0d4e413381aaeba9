//! `wait`: blocks until the object exists.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use scaler_object_storage::{CancelToken, Error, ObjectStore, Waited};

use crate::common::{Fixture, bytes, much_later, object, until};

contract!(
    an_object_that_exists_ends_a_wait_at_once,
    a_put_answers_everyone_who_waits,
    a_commit_answers_who_waits,
    a_duplicate_answers_who_waits_for_the_new_id,
    an_overwrite_or_another_id_answers_nobody,
    a_wait_ends_at_its_deadline,
    a_wait_ends_when_it_is_cancelled,
    a_cancelled_token_ends_later_waits,
    an_object_comes_before_a_deadline_or_a_cancel,
    a_wait_ends_when_the_store_is_closed,
    waiters_are_answered_though_the_object_is_deleted_at_once,
    no_wait_is_lost_beside_the_only_put,
    no_wait_is_lost_between_puts_and_deletes,
    deletes_and_clear_keep_who_waits,
    waits_are_counted_until_they_end,
);

fn waiting(store: &ObjectStore) -> (u64, u64) {
    let info = store.info();
    (info.waiting_requests, info.waiting_ids)
}

/// Waits on threads of their own for `ids`, runs `then` when all of them wait, and returns how each ended.
fn wait_on_threads(store: &ObjectStore, ids: &[&[u8]], then: impl FnOnce()) -> Vec<Result<Waited, Error>> {
    thread::scope(|scope| {
        let threads: Vec<_> = ids.iter().map(|id| scope.spawn(|| store.wait(id, much_later(), None))).collect();
        until("all of them wait", || store.info().waiting_requests == ids.len() as u64);
        then();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn an_object_that_exists_ends_a_wait_at_once(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"data", b"metadata").unwrap();

    let waited = store.wait(b"id", None, None).unwrap();

    assert_eq!(waited, Waited::Object(object(b"data", b"metadata")));
    assert_eq!(waiting(&store), (0, 0));
}

fn a_put_answers_everyone_who_waits(fixture: &Fixture) {
    let store = fixture.open();
    for size in [0, 100, 20_000, 100_000] {
        store.clear().unwrap();
        let waited = wait_on_threads(&store, &[&b"id"[..]; 8], || store.put(b"id", &bytes(1, size), b"m").unwrap());

        for result in waited {
            assert!(result.unwrap() == Waited::Object(object(&bytes(1, size), b"m")));
        }
        assert_eq!(waiting(&store), (0, 0));
    }
}

fn a_commit_answers_who_waits(fixture: &Fixture) {
    let store = fixture.open();
    for size in [0, 100, 100_000] {
        store.clear().unwrap();
        let waited = wait_on_threads(&store, &[&b"id"[..]; 2], || {
            let mut writer = store.writer(b"id", size as u64, b"m").unwrap();
            writer.write(&bytes(1, size)).unwrap();
            assert_eq!(store.info().waiting_requests, 2);
            writer.commit().unwrap();
        });

        for result in waited {
            assert!(result.unwrap() == Waited::Object(object(&bytes(1, size), b"m")));
        }
    }
}

fn a_duplicate_answers_who_waits_for_the_new_id(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"original", b"data", b"").unwrap();

    let waited = wait_on_threads(&store, &[b"new"], || assert!(store.duplicate(b"original", b"new").unwrap()));

    assert_eq!(waited.into_iter().next().unwrap().unwrap(), Waited::Object(object(b"data", b"")));
}

fn an_overwrite_or_another_id_answers_nobody(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"other", b"data", b"").unwrap();

    let waited = wait_on_threads(&store, &[b"id"], || {
        store.put(b"other", b"overwritten", b"").unwrap();
        store.put(b"id2", b"another", b"").unwrap();
        store.duplicate(b"missing", b"id").unwrap();
        assert_eq!(waiting(&store), (1, 1));
        store.put(b"id", b"data", b"").unwrap();
    });

    assert_eq!(waited.into_iter().next().unwrap().unwrap(), Waited::Object(object(b"data", b"")));
}

fn a_wait_ends_at_its_deadline(fixture: &Fixture) {
    let store = fixture.open();

    for deadline in [Instant::now(), Instant::now() + Duration::from_millis(20)] {
        assert_eq!(store.wait(b"id", Some(deadline), None).unwrap(), Waited::TimedOut);
        assert!(Instant::now() >= deadline);
    }

    assert_eq!(waiting(&store), (0, 0));
}

fn a_wait_ends_when_it_is_cancelled(fixture: &Fixture) {
    let store = fixture.open();
    let token = CancelToken::new();

    let ended = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| store.wait(b"id", much_later(), Some(&token.clone())))).collect();
        until("all of them wait", || waiting(&store).0 == 4);
        token.cancel();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<_>>()
    });

    assert_eq!(ended, vec![Waited::Cancelled; 4]);
    assert_eq!(waiting(&store), (0, 0));
}

fn a_cancelled_token_ends_later_waits(fixture: &Fixture) {
    let store = fixture.open();
    let token = CancelToken::new();
    token.cancel();
    token.cancel();

    assert_eq!(store.wait(b"id", much_later(), Some(&token)).unwrap(), Waited::Cancelled);
    assert_eq!(store.wait(b"id", Some(Instant::now()), Some(&CancelToken::new())).unwrap(), Waited::TimedOut);
}

fn an_object_comes_before_a_deadline_or_a_cancel(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"data", b"").unwrap();
    let token = CancelToken::new();
    token.cancel();

    let waited = store.wait(b"id", Some(Instant::now()), Some(&token)).unwrap();

    assert_eq!(waited, Waited::Object(object(b"data", b"")));
}

fn a_wait_ends_when_the_store_is_closed(fixture: &Fixture) {
    let store = fixture.open();
    let other = store.clone();

    let waited = wait_on_threads(&store, &[b"a", b"a", b"b"], || other.close().unwrap());

    for result in waited {
        assert!(matches!(result, Err(Error::Closed)), "{result:?}");
    }
}

/// Invariant 9: a delete right behind the put cannot leave who waited for ever.
fn waiters_are_answered_though_the_object_is_deleted_at_once(fixture: &Fixture) {
    let store = fixture.open();
    for round in 0..50_u64 {
        let size = [10, 5000, 100_000][round as usize % 3];
        let waited = wait_on_threads(&store, &[&b"id"[..]; 3], || {
            store.put(b"id", &bytes(round, size), b"").unwrap();
            assert!(store.delete(b"id").unwrap());
        });
        for result in waited {
            assert!(result.unwrap() == Waited::Object(object(&bytes(round, size), b"")));
        }
    }
}

/// Invariant 9: a wait that begins in the same moment as the put either finds the object or is woken.
fn no_wait_is_lost_beside_the_only_put(fixture: &Fixture) {
    const ROUNDS: u64 = 3000;
    let store = fixture.open();
    let begun = AtomicU64::new(0);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            for round in 1..=ROUNDS {
                begun.store(round, SeqCst);
                let waited = store.wait(&round.to_le_bytes(), much_later(), None).unwrap();
                assert!(matches!(waited, Waited::Object(_)), "round {round}: {waited:?}");
            }
        });
        for round in 1..=ROUNDS {
            while begun.load(SeqCst) < round && !waiter.is_finished() {
                thread::yield_now();
            }
            store.put(&round.to_le_bytes(), b"", b"").unwrap();
        }
    });
    assert_eq!(waiting(&store), (0, 0));
}

/// Invariant 9, with everything at once: one thread puts what another deletes at the same moment.
fn no_wait_is_lost_between_puts_and_deletes(fixture: &Fixture) {
    const ROUNDS: u64 = 300;
    let store = fixture.open();
    // The round that each waiter is in.
    let rounds: [AtomicU64; 2] = Default::default();
    let current = || rounds.iter().map(|own| own.load(SeqCst)).min().filter(|round| *round < ROUNDS);
    thread::scope(|scope| {
        for own in &rounds {
            let store = &store;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let waited = store.wait(&round.to_le_bytes(), much_later(), None).unwrap();
                    assert!(waited == Waited::Object(object(&bytes(round, 100), b"")), "round {round}: {waited:?}");
                    own.store(round + 1, SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while let Some(round) = current() {
                store.delete(&round.to_le_bytes()).unwrap();
                thread::yield_now();
            }
        });
        // Who comes too late for one put is answered by the next.
        while let Some(round) = current() {
            store.put(&round.to_le_bytes(), &bytes(round, 100), b"").unwrap();
            thread::yield_now();
        }
    });
    assert_eq!(waiting(&store), (0, 0));
}

fn deletes_and_clear_keep_who_waits(fixture: &Fixture) {
    let store = fixture.open();

    let waited = wait_on_threads(&store, &[b"id", b"id"], || {
        assert!(!store.delete(b"id").unwrap());
        store.clear().unwrap();
        assert_eq!(waiting(&store), (2, 1));
        store.put(b"id", b"data", b"").unwrap();
    });

    for result in waited {
        assert_eq!(result.unwrap(), Waited::Object(object(b"data", b"")));
    }
}

fn waits_are_counted_until_they_end(fixture: &Fixture) {
    let store = fixture.open();
    assert_eq!(store.info().oldest_wait, Duration::ZERO);

    wait_on_threads(&store, &[b"a", b"a", b"b", b"c", b"a"], || {
        assert_eq!(waiting(&store), (5, 3));
        assert!(store.info().oldest_wait > Duration::ZERO);
        store.put(b"a", b"", b"").unwrap();
        assert_eq!(waiting(&store), (2, 2));
        store.put(b"b", b"", b"").unwrap();
        assert_eq!(waiting(&store), (1, 1));
        store.put(b"c", b"", b"").unwrap();
    });

    assert_eq!(waiting(&store), (0, 0));
    assert_eq!(store.info().oldest_wait, Duration::ZERO);
}
