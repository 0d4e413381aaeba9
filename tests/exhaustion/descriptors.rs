//! Few descriptors, or none. A limit is a process's, so each test runs in a process of its own.

use std::fs::File;
use std::path::Path;

use scaler_object_storage::{Durability, Error, ObjectStore, StoreConfig};

use crate::alone::alone;
use crate::world::{Settings, World, listing, soon};

/// Descriptors that a store may have open while it is read, however many segments it has.
const STORE_DESCRIPTORS_MAX: usize = 64;

const SETTINGS: Settings = Settings { durability: Durability::Process, max_size_mb: 64 };

/// How many descriptors this process may have.
fn limit_descriptors(count: u64) {
    // Sound: both calls get a structure of their own to read and write.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = count.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

/// Takes all descriptors that are left, but so many.
fn exhaust(left: usize) -> Vec<File> {
    let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    held.truncate(held.len() - left);
    held
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn segment_files(directory: &Path) -> usize {
    listing(&directory.join("journal")).len()
}

/// One of the objects of a store that had many lives.
fn id(number: u64) -> Vec<u8> {
    format!("object {number}").into_bytes()
}

/// Each life puts some objects of its own, and overwrites some of the one before it.
fn many_lives(lives: u64, length: usize) -> World {
    let mut world = World::quick(SETTINGS, 1);
    for life in 1..=lives {
        for number in life * 3 - 1..life * 3 + 3 {
            world.put(&id(number), (life, length)).unwrap();
        }
        world.reopen_unread();
    }
    world
}

// Invariants 2, 13 and 14.
#[test]
fn with_hardly_a_descriptor_left_operations_fail_or_are_right() {
    alone("descriptors::with_hardly_a_descriptor_left_operations_fail_or_are_right", || {
        let mut earlier = World::new(SETTINGS, 3);
        for _ in 0..6 {
            earlier.live_well(12);
            earlier.reopen_unread();
        }
        earlier.live_well(12);
        let earlier = earlier.killed(1);
        limit_descriptors(128);
        for left in [0, 0, 0, 1, 2, 3, 5] {
            for settled in [false, true] {
                let mut world = earlier.copied(left as u64 * 2 + u64::from(settled));
                world.open().unwrap();
                if settled {
                    world.settle();
                }
                let held = exhaust(left);
                world.live(60);
                drop(held);
                world.check();
                world.live_well(20);
                world.reopen();
                world.check_catalog_kept();
            }
        }
    });
}

// Invariants 13 and 14.
#[test]
fn a_process_without_a_descriptor_left_still_says_how_many_it_has() {
    alone("descriptors::a_process_without_a_descriptor_left_still_says_how_many_it_has", || {
        let store = ObjectStore::open(&StoreConfig::default()).unwrap();
        limit_descriptors(100);
        let held = exhaust(0);
        let process = store.stats().unwrap().process;
        drop(held);
        assert_eq!((process.descriptors, process.descriptors_max, process.resident_bytes), (Some(100), 100, None));
        let process = store.stats().unwrap().process;
        assert!(process.descriptors.unwrap() < 100 && process.resident_bytes.unwrap() > 0, "{process:?}");
    });
}

#[test]
fn a_store_that_finds_too_few_descriptors_at_open_opens_when_they_are_back() {
    alone("descriptors::a_store_that_finds_too_few_descriptors_at_open_opens_when_they_are_back", || {
        let mut earlier = World::new(SETTINGS, 3);
        for _ in 0..4 {
            earlier.live_well(12);
            earlier.reopen_unread();
        }
        earlier.live_well(12);
        let earlier = earlier.killed(1);
        limit_descriptors(128);
        let (mut refused, mut opened) = (0, 0);
        for left in 0..24 {
            let mut world = earlier.copied(left as u64);
            let held = exhaust(left);
            match world.open() {
                Ok(()) => {
                    opened += 1;
                    world.live(30);
                }
                Err(error) => {
                    assert!(matches!(error, Error::Io { .. } | Error::Catalog { .. }), "{error}");
                    refused += 1;
                }
            }
            drop(held);
            world.close().unwrap();
            world.open().unwrap();
            world.check();
            world.live_well(20);
            world.reopen();
            world.check_catalog_kept();
        }
        assert!(refused > 0 && opened > 0, "{refused} refused, {opened} opened");
    });
}

// Invariants 2 and 14.
#[test]
fn a_thousand_short_lives_leave_few_files_and_work_with_few_descriptors() {
    alone("descriptors::a_thousand_short_lives_leave_few_files_and_work_with_few_descriptors", || {
        let mut world = many_lives(1100, 120);
        world.close().unwrap();
        for limit in [1024, 256] {
            limit_descriptors(limit);
            world.open().unwrap();
            world.check();
            for number in (2..3300).step_by(3) {
                world.put(&id(number), (limit + number, 150)).unwrap();
            }
            world.check();
            world.reopen();
            assert!(world.delete(&id(limit)).unwrap());
            world.close().unwrap();
        }
        limit_descriptors(1 << 14);
        world.open().unwrap();
        soon("few files are left", || segment_files(world.directory()) <= 200);
        world.check();
        world.reopen();
    });
}

// Invariant 14.
#[test]
fn many_segments_with_large_bodies_are_read_and_written_with_few_descriptors() {
    alone("descriptors::many_segments_with_large_bodies_are_read_and_written_with_few_descriptors", || {
        let mut world = many_lives(150, 70_000);
        limit_descriptors(256);
        world.reopen_unread();
        let before = descriptors();
        let mut held = Vec::new();
        for id in world.model.ids() {
            world.get(&id).unwrap();
            held.push(world.store().get(&id).unwrap());
            assert!(descriptors() <= before + STORE_DESCRIPTORS_MAX, "{} descriptors", descriptors());
        }
        drop(held);
        for number in (2..450).step_by(2) {
            world.put(&id(number), (number, 80_000)).unwrap();
            assert!(world.delete(&id(number + 1)).unwrap());
        }
        world.check();
        world.reopen();
        world.close().unwrap();
        assert!(descriptors() <= before, "a closed store has descriptors");
    });
}

// Invariant 14.
#[test]
fn a_store_of_large_bodies_works_with_few_descriptors() {
    alone("descriptors::a_store_of_large_bodies_works_with_few_descriptors", || {
        limit_descriptors(256);
        let settings = Settings { max_size_mb: 512, ..SETTINGS };
        let mut world = World::new(settings, 5);
        let mut failures = Vec::new();
        for round in 0..3u64 {
            for number in 0..40 {
                failures.extend(world.put(&id(number), (round * 100 + number, 3_000_000)).err());
                failures.extend(world.stream(&id(number + 100), (round * 100 + number, 1_200_000)).err());
                failures.extend(world.delete(&id(number * 7 % 40)).err());
            }
            world.check();
            world.reopen();
        }
        assert!(failures.is_empty(), "{failures:?}");
    });
}
