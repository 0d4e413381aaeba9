//! A disk without space.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use scaler_object_storage::{Durability, Error};

use crate::common::until;
use crate::disk::{Call, Fault};
use crate::world::{World, listing};

/// A disk with this much space for the journal; the rest belongs to others, and they may go.
fn limit(world: &World, bytes: u64) -> Arc<AtomicU64> {
    let limit = Arc::new(AtomicU64::new(bytes));
    let (limit_now, journal) = (Arc::clone(&limit), world.directory().join("journal"));
    world.disk.set(move |attempt| {
        let more = match attempt.call {
            Call::Create => attempt.amount,
            Call::Grow => attempt.amount.saturating_sub(std::fs::metadata(attempt.path).map_or(0, |it| it.len())),
            _ => return None,
        };
        let used: u64 = listing(&journal).iter().map(|(_, bytes)| bytes).sum();
        (used + more > limit_now.load(Ordering::Relaxed)).then_some(Fault::Refused(libc::ENOSPC))
    });
    limit
}

fn fill(world: &mut World, length: usize) -> (usize, Error) {
    for number in 0..10_000 {
        if let Err(error) = world.put(format!("object {number}").as_bytes(), (number as u64, length)) {
            return (number, error);
        }
    }
    panic!("the disk is never full");
}

#[test]
fn a_full_disk_fails_puts_and_loses_nothing() {
    for (length, durability) in
        [(3000, Durability::Process), (100_000, Durability::Process), (30_000, Durability::Disk)]
    {
        let mut world = World::new(durability);
        let space = limit(&world, 8 << 20);
        let (count, error) = fill(&mut world, length);
        assert!(count > 20, "{count}");
        let Error::Io { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
        assert!(error.to_string().contains("journal"), "{error}");
        world.check();
        world.check_killed();
        // Deletes work, and make room.
        for number in 0..count {
            assert!(world.delete(format!("object {number}").as_bytes()).unwrap());
        }
        world.check();
        for number in 0..count / 2 {
            let id = format!("second {number}");
            until("there is room again", || match world.store.put(id.as_bytes(), b"", b"") {
                Ok(()) => world.store.delete(id.as_bytes()).unwrap(),
                Err(Error::Io { .. }) => false,
                Err(error) => panic!("{error}"),
            });
        }
        // Space returns.
        space.store(u64::MAX, Ordering::Relaxed);
        world.put(b"after", (7, length)).unwrap();
        world.check_killed();
        world.reopen();
    }
}

#[test]
fn a_full_disk_that_gets_space_again_takes_puts_again() {
    let mut world = World::new(Durability::Process);
    let space = limit(&world, 6 << 20);
    let (count, _) = fill(&mut world, 5000);
    space.store(12 << 20, Ordering::Relaxed);
    for number in count..count + 100 {
        world.put(format!("object {number}").as_bytes(), (number as u64, 5000)).unwrap();
    }
    world.check();
    world.reopen();
}

#[test]
fn a_large_body_that_does_not_fit_leaves_its_space_to_others() {
    let mut world = World::new(Durability::Process);
    limit(&world, 6 << 20);
    for _ in 0..20 {
        let error = world.stream(b"too large", (1, 20 << 20)).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    for number in 0..10 {
        world.put(format!("object {number}").as_bytes(), (number, 100_000)).unwrap();
    }
    world.check_killed();
    world.reopen();
}

/// Concurrent writers on a disk that is full now and then.
// Invariants 1 and 2.
#[test]
fn a_disk_that_is_full_now_and_then_loses_nothing_that_was_acknowledged() {
    let world = World::new(Durability::Process);
    let full = Arc::new(AtomicBool::new(false));
    let is_full = Arc::clone(&full);
    world.disk.set(move |attempt| {
        let takes_space = matches!(attempt.call, Call::Create | Call::Grow);
        (takes_space && is_full.load(Ordering::Relaxed)).then_some(Fault::Refused(libc::ENOSPC))
    });
    let world = Mutex::new(world);
    let store = world.lock().store.clone();
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writing = Arc::new(());
        for thread in 0..3u64 {
            let (store, refused, writing) = (store.clone(), &refused, Arc::clone(&writing));
            scope.spawn(move || {
                let _writing = writing;
                let mut last = std::collections::BTreeMap::new();
                // Until one was refused, however seldom they come to ask for space.
                for step in 0..100_000u64 {
                    if step >= 1500 && refused.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                    let id = format!("{thread} {}", step % 40).into_bytes();
                    let data = crate::common::bytes(step, (step % 9 * 4000) as usize);
                    match store.put(&id, &data, b"") {
                        Ok(()) => drop(last.insert(id, data)),
                        Err(Error::Io { .. }) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => panic!("{error}"),
                    }
                }
                for (id, data) in last {
                    assert_eq!(store.get(&id).unwrap().unwrap().data, data, "{}", String::from_utf8_lossy(&id));
                }
            });
        }
        while Arc::strong_count(&writing) > 1 {
            full.fetch_not(Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        full.store(false, Ordering::Relaxed);
    });
    let mut world = world.into_inner();
    world.put(b"after", (1, 1000)).unwrap();
    assert!(refused.load(Ordering::Relaxed) > 0, "the disk was never full");
}
