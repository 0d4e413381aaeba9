//! Each call to the disk fails once, or from then on, in a life of the store.

use scaler_object_storage::Durability;

use crate::common::splitmix;
use crate::disk::{CALLS, Call, Fault};
use crate::world::World;

const LENGTHS: [usize; 7] = [0, 100, 2000, 20_000, 65_000, 66_000, 700_000];

/// Some of everything; who looks on sees to it that no answer is wrong.
fn live(world: &mut World, seed: u64, steps: usize) {
    let mut random = seed;
    for _ in 0..steps {
        let id = [b'a' + (splitmix(&mut random) % 12) as u8];
        let other = [b'a' + (splitmix(&mut random) % 12) as u8];
        let content = (1 + splitmix(&mut random) % 40, LENGTHS[splitmix(&mut random) as usize % LENGTHS.len()]);
        // Failures are expected: the model knows what they may leave.
        let _ = match splitmix(&mut random) % 10 {
            0..5 => world.put(&id, content),
            5 => world.stream(&id, content),
            6 | 7 => world.delete(&id).map(drop),
            8 if id != other => world.duplicate(&id, &other).map(drop),
            _ => world.store.flush(),
        };
    }
}

fn fail(world: &World, call: Call, nth: usize, for_ever: bool, fault: Fault) {
    let mut seen = 0;
    world.disk.set(move |attempt| {
        if attempt.call != call {
            return None;
        }
        seen += 1;
        let fails = if for_ever { seen >= nth } else { seen == nth };
        fails.then_some(fault)
    });
}

// Invariants 1 and 7.
#[test]
fn after_any_failure_the_store_holds_what_it_acknowledged() {
    after_any_failure(Durability::Process);
}

// Invariants 1 and 7.
#[test]
fn after_any_failure_the_store_holds_what_it_acknowledged_with_disk_durability() {
    after_any_failure(Durability::Disk);
}

fn after_any_failure(durability: Durability) {
    for call in CALLS.into_iter().filter(|call| *call != Call::Read) {
        for nth in [1, 2, 9] {
            for for_ever in [false, true] {
                let fault = match nth % 3 {
                    0 => Fault::Short { bytes: nth * 30, error: libc::EIO },
                    1 => Fault::Refused(libc::EIO),
                    // A call that removes or renames reports no error once it is done.
                    _ if matches!(call, Call::Write | Call::Sync) => Fault::AfterAll(libc::EIO),
                    _ => Fault::Refused(libc::ENOSPC),
                };
                eprintln!("{durability:?}: {call:?} number {nth}, for ever: {for_ever}: {fault:?}");
                let mut world = World::new(durability);
                live(&mut world, nth as u64, 20);
                fail(&world, call, nth, for_ever, fault);
                live(&mut world, nth as u64 + 100, 60);
                world.check();
                world.reopen();
                live(&mut world, nth as u64 + 200, 20);
                world.check();
                world.reopen();
            }
        }
    }
}

#[test]
fn an_open_that_fails_changes_nothing_that_counts() {
    for call in CALLS.into_iter().filter(|call| *call != Call::Read) {
        for nth in 1..4 {
            let mut world = World::new(Durability::Process);
            live(&mut world, 5, 100);
            // A process that is killed leaves more to do than one that closes.
            let directory = world.directory();
            let killed = directory.with_file_name("killed");
            world.settle();
            crate::world::copy_directory(&directory, &killed);
            world.store.close().unwrap();
            std::fs::remove_dir_all(&directory).unwrap();
            std::fs::rename(&killed, &directory).unwrap();
            std::fs::remove_dir_all(directory.join("catalog")).unwrap();
            fail(&world, call, nth, true, Fault::Refused(libc::EIO));
            if world.try_reopen().is_ok() {
                world.check();
            }
            world.reopen();
        }
    }
}
