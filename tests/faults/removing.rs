//! Files that cannot be removed, made or renamed.

use scaler_object_storage::{Durability, Error};

use crate::common::until;
use crate::disk::{Call, Fault};
use crate::world::{World, listing};

fn first_segment(world: &World) -> String {
    let names = listing(&world.directory().join("journal"));
    let mut records = names.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "records"));
    records.next().unwrap().0.file_name().unwrap().to_string_lossy().into_owned()
}

/// Makes all but the newest segments hold nothing that counts.
fn churn(world: &mut World, rounds: u64) {
    for round in 0..rounds {
        for number in 0..100u64 {
            world.put(format!("filler {number}").as_bytes(), (round * 1000 + number, 30_000)).unwrap();
        }
    }
}

// Invariant 1: a segment that cannot be removed keeps the deletes that came after it.
#[test]
fn a_segment_that_cannot_be_removed_does_not_come_back_without_what_superseded_it() {
    let mut world = World::new(Durability::Process);
    world.put(b"id", (1, 100)).unwrap();
    let first = first_segment(&world);
    let path = first.clone();
    world.disk.set(move |attempt| {
        (attempt.call == Call::Remove && attempt.path.ends_with(&path)).then_some(Fault::Refused(libc::EIO))
    });
    churn(&mut world, 1);
    world.delete(b"id").unwrap();
    churn(&mut world, 6);
    assert_eq!(first_segment(&world), first);
    world.check_killed();
    world.disk.heal();
    churn(&mut world, 2);
    until("it is removed, now that that works again", || first_segment(&world) != first);
    world.check_killed();
    world.reopen();
}

#[test]
fn where_no_file_can_be_made_puts_fail_and_work_again_later() {
    for (call, lengths) in [(Call::Create, [20_000, 100_000]), (Call::Rename, [20_000, 100_000])] {
        for length in lengths {
            let mut world = World::new(Durability::Process);
            world.put(b"before", (1, 5000)).unwrap();
            world.disk.set(move |attempt| (attempt.call == call).then_some(Fault::Refused(libc::EACCES)));
            let mut failure = None;
            for number in 0..1000u64 {
                if let Err(error) = world.put(format!("object {number}").as_bytes(), (number, length)) {
                    failure = Some(error);
                    break;
                }
            }
            let error = failure.expect("files are needed");
            assert!(matches!(error, Error::Io { .. }), "{error}");
            world.check();
            world.check_killed();
            world.disk.heal();
            for number in 0..50u64 {
                world.put(format!("later {number}").as_bytes(), (number, length)).unwrap();
            }
            world.check();
            world.reopen();
        }
    }
}
