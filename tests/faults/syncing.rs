//! A sync that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scaler_object_storage::{Durability, Error};

use crate::disk::{Call, Fault};
use crate::world::World;

/// Lets the next sync of that kind fail; returns how many syncs of any kind were tried from then on.
fn fail_a_sync(world: &World, call: Call, bodies: bool) -> Arc<AtomicUsize> {
    let later = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&later);
    let mut failed = false;
    world.disk.set(move |attempt| {
        if !matches!(attempt.call, Call::Sync | Call::SyncDirectory) {
            return None;
        }
        if failed {
            count.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let name = attempt.path.to_string_lossy();
        let is_body = name.ends_with(".bodies") || name.ends_with(".body");
        let fits =
            attempt.call == call && (call == Call::SyncDirectory || !bodies || is_body || name.ends_with("spare"));
        failed = fits;
        fits.then_some(Fault::Refused(libc::EIO))
    });
    later
}

fn assert_refuses_writes(world: &mut World, later: &AtomicUsize) {
    for result in [
        world.put(b"new", (9, 100)),
        world.put(b"new", (9, 100_000)),
        world.stream(b"new", (9, 100_000)),
        world.delete(b"earlier").map(drop),
        world.duplicate(b"earlier", b"new").map(drop),
        world.store.flush(),
        world.store.flush(),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::WritesRefused { .. }), "{error}");
        assert!(error.to_string().contains("os error 5"), "{error}");
    }
    world.check();
    assert_eq!(later.load(Ordering::Relaxed), 0, "a failed sync was tried again, or another one after it");
}

// Invariant 1: nothing that was acknowledged depends on a sync that failed.
#[test]
fn after_a_failed_sync_writes_are_refused_until_the_store_is_reopened_and_reads_go_on() {
    for (call, length) in [(Call::Sync, 100), (Call::Sync, 100_000), (Call::SyncDirectory, 100_000)] {
        let mut world = World::new(Durability::Disk);
        world.put(b"earlier", (1, 5000)).unwrap();
        let later = fail_a_sync(&world, call, false);
        let error = world.put(b"id", (2, length)).unwrap_err();
        assert!(matches!(error, Error::Io { action: "sync", .. }), "{error}");
        assert_refuses_writes(&mut world, &later);
        world.store.close().unwrap_err();
        world.reopen();
        world.put(b"new", (3, 100)).unwrap();
        world.check_killed();
    }
}

#[test]
fn a_failed_delete_is_undone_or_done_but_not_forgotten() {
    let mut world = World::new(Durability::Disk);
    world.put(b"earlier", (1, 5000)).unwrap();
    world.put(b"id", (2, 5000)).unwrap();
    let later = fail_a_sync(&world, Call::Sync, false);
    world.delete(b"id").unwrap_err();
    assert_refuses_writes(&mut world, &later);
    world.reopen();
}

#[test]
fn a_flush_that_fails_refuses_writes_as_well() {
    for (bodies, call) in [(true, Call::Sync), (false, Call::Sync), (false, Call::SyncDirectory)] {
        let mut world = World::new(Durability::Process);
        world.put(b"earlier", (1, 100_000)).unwrap();
        let later = fail_a_sync(&world, call, bodies);
        let error = world.store.flush().unwrap_err();
        assert!(matches!(error, Error::Io { action: "sync", .. }), "{error}");
        assert_refuses_writes(&mut world, &later);
        world.check_killed();
        world.reopen();
    }
}
