//! Each call that the store makes fails: once, for a while, or until the fault is mended by hand.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scaler_object_storage::Durability;

use crate::disk;
use crate::system::Call;
use crate::world::{Settings, World};

/// Which of the store's files are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    Journal,
    Catalog,
    /// The directory itself, FORMAT, LOCK.
    Others,
}

impl Files {
    fn contain(self, directory: &Path, path: &Path) -> bool {
        let files = match path.strip_prefix(directory).ok().and_then(|rest| rest.components().next()) {
            Some(first) if first.as_os_str() == "journal" => Files::Journal,
            Some(first) if first.as_os_str() == "catalog" => Files::Catalog,
            _ => Files::Others,
        };
        files == self
    }
}

/// What fails: a call that passes through libc, or one that only the `Disk` sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    System(Call),
    Disk(disk::Call),
}

/// Kinds of calls, and an error with which the system may refuse each.
const KINDS: [(Kind, i32); 18] = [
    (Kind::System(Call::Open), libc::EMFILE),
    (Kind::System(Call::Open), libc::ENOSPC),
    (Kind::System(Call::Map), libc::ENOMEM),
    (Kind::System(Call::Read), libc::EIO),
    (Kind::System(Call::Write), libc::ENOSPC),
    (Kind::System(Call::Write), libc::EIO),
    (Kind::System(Call::Sync), libc::EIO),
    (Kind::System(Call::Truncate), libc::EIO),
    (Kind::System(Call::Rename), libc::EIO),
    (Kind::System(Call::Remove), libc::EIO),
    (Kind::System(Call::MakeDirectory), libc::ENOSPC),
    (Kind::System(Call::List), libc::EMFILE),
    (Kind::System(Call::Lock), libc::ENOLCK),
    (Kind::System(Call::Lock), libc::EWOULDBLOCK),
    (Kind::Disk(disk::Call::Create), libc::ENOSPC),
    (Kind::Disk(disk::Call::Create), libc::EMFILE),
    (Kind::Disk(disk::Call::Write), libc::ENOSPC),
    (Kind::Disk(disk::Call::Grow), libc::ENOSPC),
];

/// At which call the fault begins: counted from the beginning of a life, and from when the store is open.
const NTH: [(Begins, usize); 8] = [
    (Begins::AtOnce, 1),
    (Begins::AtOnce, 2),
    (Begins::AtOnce, 5),
    (Begins::AtOnce, 12),
    (Begins::Opened, 1),
    (Begins::Opened, 2),
    (Begins::Opened, 7),
    (Begins::Opened, 20),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    AtOnce,
    Opened,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    Once,
    /// It ends in the middle of the store's life.
    AWhile,
    /// It ends when the life is over.
    Throughout,
}

/// Lets calls of this kind fail from the nth on. Returns the count of such calls.
fn fail(world: &World, files: Files, (kind, error): (Kind, i32), nth: usize, lasts: Lasts) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let (count, directory) = (Arc::clone(&seen), world.directory().to_path_buf());
    let fails = move |path: &Path| {
        if !files.contain(&directory, path) {
            return false;
        }
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        if lasts == Lasts::Once { number == nth } else { number >= nth }
    };
    match kind {
        Kind::System(call) => world.system.set(move |attempt| {
            let concerned = attempt.call == call && (error != libc::ENOSPC || call != Call::Open || attempt.creates);
            (concerned && fails(attempt.path)).then_some(error)
        }),
        Kind::Disk(call) => world
            .disk
            .set(move |attempt| (attempt.call == call && fails(attempt.path)).then_some(disk::Fault::Refused(error))),
    }
    seen
}

/// What an earlier process left when it was killed: several segments, and a tail.
fn left_behind(durability: Durability) -> World {
    let mut world = World::new(Settings { durability, max_size_mb: 16 }, 1);
    world.live_well(60);
    world.reopen();
    world.live_well(30);
    world.killed(2)
}

/// A life in which one kind of call fails. False where there are not so many such calls.
fn fails_in_a_life(
    earlier: &World,
    files: Files,
    kind: (Kind, i32),
    (begins, nth): (Begins, usize),
    lasts: Lasts,
) -> bool {
    let mut world = earlier.copied(nth as u64 * 7);
    if begins == Begins::Opened {
        world.open().unwrap();
    }
    let seen = fail(&world, files, kind, nth, lasts);
    if begins == Begins::AtOnce && world.open().is_err() {
        // It was refused; what fails once works then, what lasts ends.
        if lasts != Lasts::Once {
            world.heal();
        }
        world.open().unwrap();
    }
    world.live(25);
    if lasts == Lasts::AWhile {
        world.heal();
    }
    world.live(25);
    let happened = seen.load(Ordering::Relaxed) >= nth;
    world.heal();
    world.check();
    if world.model.sync_failed {
        let can_be = matches!(kind.0, Kind::System(Call::Sync | Call::Open)) && files != Files::Catalog;
        assert!(can_be, "a sync of the journal is said to have failed");
        world.reopen();
    }
    world.live_well(40);
    world.check();
    if kind.1 != libc::EIO {
        world.check_catalog_kept();
    }
    if nth == 2 {
        let mut killed = world.killed(3);
        killed.open().unwrap();
        killed.check();
        killed.live_well(10);
    }
    world.reopen();
    world.live_well(10);
    happened
}

/// All of it, though some of it fails: which calls are concerned says more than the first of them. `expected`: calls that are made in
/// any case; without them the test would prove nothing.
fn every_call(files: Files, durability: Durability, expected: &[Call]) {
    let earlier = left_behind(durability);
    let (mut happened, mut wrong) = (Vec::new(), Vec::new());
    for kind in KINDS {
        for lasts in [Lasts::Once, Lasts::AWhile, Lasts::Throughout] {
            let mut rare = Vec::new();
            for nth in NTH {
                if rare.contains(&nth.0) {
                    continue;
                }
                let case = format!("{durability:?}: {kind:?} on {files:?}, from {nth:?} on, lasts: {lasts:?}");
                match catch_unwind(AssertUnwindSafe(|| fails_in_a_life(&earlier, files, kind, nth, lasts))) {
                    Ok(true) => happened.push(kind.0),
                    Ok(false) => rare.push(nth.0),
                    Err(reason) => {
                        let text = reason.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| reason.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                        wrong.push(format!("{case}: {}", text.unwrap_or_default()));
                        happened.push(kind.0);
                    }
                }
            }
        }
    }
    for call in expected {
        assert!(happened.contains(&Kind::System(*call)), "no such call was seen: {call:?}");
    }
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

// Invariants 1, 2, 13 and 14.
#[test]
fn whatever_fails_on_the_journal_is_an_error_and_nothing_else() {
    every_call(Files::Journal, Durability::Process, &[Call::Open, Call::Map, Call::Remove, Call::Sync, Call::List]);
}

// Invariants 1, 2, 13 and 14.
#[test]
fn whatever_fails_on_the_journal_is_an_error_and_nothing_else_with_disk_durability() {
    every_call(Files::Journal, Durability::Disk, &[Call::Open, Call::Map, Call::Remove, Call::Sync, Call::List]);
}

// Invariants 1, 2, 13 and 14.
#[test]
fn whatever_fails_on_the_catalog_is_an_error_and_nothing_else() {
    every_call(Files::Catalog, Durability::Process, &[Call::Open, Call::Read, Call::Write, Call::Sync, Call::Lock]);
}

// Invariants 1, 2, 13 and 14.
#[test]
fn whatever_fails_on_the_directory_is_an_error_and_nothing_else() {
    every_call(Files::Others, Durability::Process, &[Call::Open, Call::Read, Call::Write]);
}

// Invariant 14.
#[test]
fn a_signal_in_a_system_call_is_not_noticed() {
    let mut world = left_behind(Durability::Process);
    let mut seen = 0u64;
    world.system.set(move |attempt| {
        // Calls that signals may interrupt, and their callers are to make again.
        let concerned = matches!(attempt.call, Call::Open | Call::Read | Call::Write);
        seen += u64::from(concerned);
        (concerned && seen.is_multiple_of(3)).then_some(libc::EINTR)
    });
    world.open().unwrap();
    for _ in 0..5 {
        world.live_well(60);
        world.reopen();
    }
    world.check_catalog_kept();
}
