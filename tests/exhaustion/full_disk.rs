//! A disk that is full, by others' doing or the store's own, and gets room again.

use scaler_object_storage::{Durability, Error};

use crate::alone::alone;
use crate::disk::{Call, Fault};
use crate::room::Disk;
use crate::world::{Settings, World, copy_directory, soon};

const SETTINGS: Settings = Settings { durability: Durability::Process, max_size_mb: 16 };

fn id(number: u64) -> Vec<u8> {
    format!("object {number}").into_bytes()
}

/// A full disk refuses a write with these words, and no others.
#[track_caller]
fn assert_no_room(error: &Error) {
    let is_full = match error {
        Error::Io { source, .. } => source.raw_os_error() == Some(libc::ENOSPC),
        error => matches!(error, Error::Full { .. }),
    };
    assert!(is_full, "{error}");
}

/// Puts and deletes several times what the store may hold: only if segments are sealed and reclaimed does that go well.
#[track_caller]
fn churn(world: &mut World, seed: u64) {
    let mut put = 0;
    for step in 0.. {
        let length = [3000, 66_000, 400_000, 20_000][step as usize % 4];
        world.put(&id(step % 17), (seed + step, length)).unwrap();
        if step % 3 == 0 {
            world.delete(&id(step * 5 % 17)).unwrap();
        }
        put += length as u64;
        if put > 4 * (world.settings.max_size_mb << 20) {
            break;
        }
    }
    world.check();
}

/// What a store with some objects does while its disk is full: it reads and deletes, and refuses the rest in clear words.
#[track_caller]
fn endure(world: &mut World, deleted: impl Fn(usize) -> bool) {
    world.check();
    // Segments that have their room already fill up, and are to be sealed.
    for number in 0..2000 {
        if let Err(error) = world.put(&id(number % 100), (number, 3000)) {
            assert_no_room(&error);
            break;
        }
    }
    let _ = world.store().flush();
    for number in 0..20 {
        if let Err(error) = world.put(&id(100 + number), (number, 150_000)) {
            assert_no_room(&error);
        }
        if let Err(error) = world.stream(&id(200), (number, 1_000_000)) {
            assert_no_room(&error);
        }
    }
    for (number, id) in world.model.ids().into_iter().enumerate() {
        if deleted(number) {
            world.delete(&id).unwrap_or_else(|error| panic!("delete on a full disk: {error}"));
        }
    }
    world.check();
}

fn fills_up_and_gets_room_again(disk: &Disk) {
    let mut world = World::at(&disk.directory(), SETTINGS, 1);
    disk.limit(&world);
    for round in 0..3 {
        world.live_well(60);
        disk.fill();
        endure(&mut world, |number| number % 2 == 0);
        disk.free();
        soon("a put works again", || world.put(b"after", (round, 100_000)).is_ok());
        churn(&mut world, round * 1000);
    }
    world.reopen_unread();
    world.check();
    world.check_catalog_kept();
}

fn closes_and_opens_while_full(disk: &Disk) {
    let mut world = World::at(&disk.directory(), SETTINGS, 2);
    disk.limit(&world);
    world.live_well(60);
    disk.fill();
    for round in 0..3 {
        endure(&mut world, |number| number % 4 == round);
        // It may not get all on the disk that it would like to.
        let _ = world.close();
        world.open().unwrap_or_else(|error| panic!("a full disk does not open: {error}"));
    }
    endure(&mut world, |_| false);
    disk.free();
    soon("a put works again", || world.put(b"after", (1, 100_000)).is_ok());
    churn(&mut world, 1);
    world.reopen_unread();
    world.check();
    world.check_catalog_kept();
}

/// The process was killed, and when the next one opens the store, there is no room.
fn opens_what_a_killed_process_left(disk: &Disk) {
    let mut earlier = World::new(SETTINGS, 3);
    earlier.live_well(60);
    earlier.reopen();
    earlier.live_well(60);
    let earlier = earlier.killed(4);
    copy_directory(earlier.directory(), &disk.directory());
    disk.fill();
    let mut world = World::found(&disk.directory(), SETTINGS, 5);
    world.model = earlier.model.clone();
    disk.limit(&world);
    world.open().unwrap_or_else(|error| panic!("a full disk does not open: {error}"));
    endure(&mut world, |number| number % 2 == 0);
    disk.free();
    soon("a put works again", || world.put(b"after", (1, 100_000)).is_ok());
    churn(&mut world, 1);
    world.reopen_unread();
    world.check();
    world.check_catalog_kept();
}

/// The store may take more than the disk has. What fills the disk then is the store.
fn takes_all_there_is(disk: &Disk) {
    let settings = Settings { max_size_mb: 64, ..SETTINGS };
    let mut world = World::at(&disk.directory(), settings, 6);
    disk.limit(&world);
    for (round, length) in [(1, 60_000), (2, 3000), (3, 300_000)] {
        let mut count = 0;
        soon("the disk takes 4 MB", || {
            while let Ok(()) = world.put(&id(count), (round * 10_000 + count, length)) {
                count += 1;
            }
            count as usize * length > 4 << 20
        });
        if let Err(error) = world.put(b"more", (1, length)) {
            assert_no_room(&error);
        }
        world.check();
        for number in 0..count {
            assert!(world.delete(&id(number)).unwrap_or_else(|error| panic!("delete {number} of {count}: {error}")));
        }
        world.check();
        soon("the room of what was deleted is there again", || world.put(b"after", (round, 100_000)).is_ok());
        world.clear().unwrap();
    }
    world.reopen_unread();
    world.check();
    world.check_catalog_kept();
}

/// Who writes on after a write that failed, and commits, has committed nothing.
// Invariant 13.
#[test]
fn a_writer_whose_write_failed_commits_nothing() {
    for length in [50_000, 70_000, 700_000, 2_000_000] {
        let mut world = World::new(SETTINGS, 7);
        world.put(b"id", (1, 5000)).unwrap();
        for nth in [1, 2, 5] {
            let mut seen = 0;
            world.disk.set(move |attempt| {
                let takes = matches!(attempt.call, Call::Create | Call::Grow) || attempt.call == Call::Write;
                seen += usize::from(takes);
                (takes && seen == nth).then_some(Fault::Refused(libc::ENOSPC))
            });
            // Whether it was committed is for it to say; what stands there then is whole.
            let _ = world.stream_on(b"id", (nth as u64 + 1, length));
            world.disk.heal();
            world.check();
        }
        world.reopen();
    }
}

/// A test with a disk that counts, and one with a real file system where that can be had.
macro_rules! on_each_disk {
    ($($name:ident, $mounted:ident: $megabytes:literal, $run:ident;)+) => {$(
        // Invariants 1, 2, 13 and 14.
        #[test]
        fn $name() {
            $run(&Disk::counted($megabytes));
        }

        // Invariants 1, 2, 13 and 14.
        #[test]
        fn $mounted() {
            alone(concat!("full_disk::", stringify!($mounted)), || {
                if let Some(disk) = Disk::mounted($megabytes) {
                    $run(&disk);
                }
            });
        }
    )+};
}

on_each_disk! {
    a_store_endures_a_full_disk, a_store_endures_a_full_file_system: 40, fills_up_and_gets_room_again;
    a_store_closes_and_opens_on_a_full_disk, a_store_closes_and_opens_on_a_full_file_system: 40, closes_and_opens_while_full;
    what_was_killed_opens_on_a_full_disk, what_was_killed_opens_on_a_full_file_system: 40, opens_what_a_killed_process_left;
    a_store_that_fills_its_disk_works, a_store_that_fills_its_file_system_works: 24, takes_all_there_is;
}
