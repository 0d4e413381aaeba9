//! Processes that fork while bytes are handed out, and children that outlive their parents.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use scaler_object_storage::{Error, ObjectStore};

use crate::builder;
use crate::common::{bytes, get, object};
use crate::process::{self, Forked, fork, in_its_own, kill_self};

/// Several bodies share a segment: of a store this large, one has 512 KiB.
const LIMIT_MB: u64 = 32;

/// Longest first: several of the next share a segment of bodies, and the last are in segments of records.
const LENGTHS: [usize; 4] = [1_000_000, 100_000, 70_000, 20_000];

fn open(directory: &Path) -> ObjectStore {
    builder(directory, LIMIT_MB).open().unwrap()
}

/// Bytes, and what they must stay.
struct Held(Vec<(u64, Bytes)>);

impl Held {
    /// Puts objects of every kind and holds every second one: so no segment of theirs is wholly free when those are deleted.
    fn hold(store: &ObjectStore) -> Held {
        let mut held = Vec::new();
        for (seed, length) in lengths() {
            store.put(&seed.to_le_bytes(), &bytes(seed, length), b"").unwrap();
            if seed.is_multiple_of(2) {
                held.push((seed, get(store, &seed.to_le_bytes()).data));
            }
        }
        Held(held)
    }

    /// How many are still what they were. Compares without taking memory: this is also called in forked children.
    fn unchanged(&self) -> u8 {
        let mut unchanged = 0;
        for (seed, data) in &self.0 {
            let mut state = *seed;
            let is_right =
                data.chunks(8).all(|chunk| crate::common::splitmix(&mut state).to_le_bytes().starts_with(chunk));
            unchanged += u8::from(is_right && !data.is_empty());
        }
        unchanged
    }

    fn count(&self) -> u8 {
        self.0.len() as u8
    }

    fn delete(store: &ObjectStore) {
        for (seed, _) in lengths().filter(|(seed, _)| seed.is_multiple_of(2)) {
            assert!(store.delete(&seed.to_le_bytes()).unwrap());
        }
    }
}

/// Seeds and lengths: 2.5 MB of each kind at most.
fn lengths() -> impl Iterator<Item = (u64, usize)> {
    let each = |(kind, length): (usize, usize)| {
        (0..24.min(2_400_000 / length)).map(move |n| ((kind * 100 + n) as u64, length))
    };
    LENGTHS.into_iter().enumerate().flat_map(each)
}

/// Puts and deletes four times what the store may hold, a little at a time.
fn refill(store: &ObjectStore) {
    for round in 0..36_u64 {
        let number = |n: u64| (round * 1000 + n).to_be_bytes();
        let mut count = 0;
        for (n, length) in (0..40).zip(LENGTHS.into_iter().cycle().skip(1).filter(|length| *length < 1_000_000)) {
            store.put(&number(n), &bytes(1_000_000 + round * 1000 + n, length), b"").unwrap();
            count += 1;
        }
        store.put(&number(999), &bytes(2_000_000 + round, 1_000_000), b"").unwrap();
        for n in (0..count).chain([999]) {
            assert!(store.delete(&number(n)).unwrap());
        }
    }
}

/// A child that says how many of the bytes it holds are right, each time it is asked.
fn fork_holding(held: &Held) -> Forked {
    fork(|from_parent, to_parent| {
        loop {
            let _ = to_parent.write_all(&[held.unchanged()]);
            if from_parent.read_exact(&mut [0]).is_err() {
                return;
            }
        }
    })
}

// Invariant 15.
#[test]
fn bytes_handed_out_before_a_fork_stay_in_the_child_what_they_were() {
    in_its_own("forks::bytes_handed_out_before_a_fork_stay_in_the_child_what_they_were", |directory| {
        let store = open(directory);
        let held = Held::hold(&store);
        let count = held.count();
        let mut child = fork_holding(&held);
        assert_eq!(child.hear(), count);
        drop(held);
        Held::delete(&store);
        refill(&store);
        child.tell();
        assert_eq!(child.hear(), count, "bytes of the child have changed");
    });
}

// Invariant 15: a child's child, which holds what it inherited twice over.
#[test]
fn bytes_handed_out_before_a_fork_stay_in_a_grandchild_what_they_were() {
    in_its_own("forks::bytes_handed_out_before_a_fork_stay_in_a_grandchild_what_they_were", |directory| {
        let store = open(directory);
        let held = Held::hold(&store);
        let count = held.count();
        let mut child = fork(|from_parent, to_parent| {
            // Sound: the child goes on reading, the parent of it ends.
            if unsafe { libc::fork() } != 0 {
                return;
            }
            loop {
                let _ = to_parent.write_all(&[held.unchanged()]);
                if from_parent.read_exact(&mut [0]).is_err() {
                    return;
                }
            }
        });
        assert_eq!(child.hear(), count);
        drop(held);
        Held::delete(&store);
        refill(&store);
        child.tell();
        assert_eq!(child.hear(), count, "bytes of the grandchild have changed");
    });
}

// Invariant 15.
#[test]
fn bytes_of_a_forked_child_stay_what_they_were_while_its_parent_opens_the_store_again() {
    in_its_own(
        "forks::bytes_of_a_forked_child_stay_what_they_were_while_its_parent_opens_the_store_again",
        |directory| {
            for deletes_before in [true, false] {
                let store = open(directory);
                store.clear().unwrap();
                let held = Held::hold(&store);
                let count = held.count();
                let mut child = fork_holding(&held);
                assert_eq!(child.hear(), count);
                drop(held);
                if deletes_before {
                    Held::delete(&store);
                }
                store.close().unwrap();
                drop(store);
                let store = open(directory);
                if !deletes_before {
                    Held::delete(&store);
                }
                refill(&store);
                child.tell();
                assert_eq!(child.hear(), count, "bytes of the child have changed; deleted before: {deletes_before}");
                store.close().unwrap();
            }
        },
    );
}

// Invariant 15.
#[test]
fn bytes_held_in_one_process_stay_what_they_were_over_a_close_and_an_open() {
    for deletes_before in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let store = open(place.path());
        let held = Held::hold(&store);
        if deletes_before {
            Held::delete(&store);
        }
        store.close().unwrap();
        drop(store);
        for _ in 0..2 {
            let store = open(place.path());
            if !deletes_before {
                for (seed, _) in lengths() {
                    store.delete(&seed.to_le_bytes()).unwrap();
                }
            }
            refill(&store);
            assert_eq!(held.unchanged(), held.count(), "deleted before: {deletes_before}");
            store.close().unwrap();
        }
        // Once they are let go, their room is used again.
        drop(held);
        let store = open(place.path());
        for (seed, _) in lengths() {
            store.delete(&seed.to_le_bytes()).unwrap();
        }
        fill_to_half(&store);
    }
}

/// More than half of what the limit is can be live.
#[track_caller]
fn fill_to_half(store: &ObjectStore) {
    for n in 0..((LIMIT_MB as usize) << 20) * 55 / 100 / 73_728 {
        let put = store.put(format!("half {n}").as_bytes(), &bytes(3_000_000 + n as u64, 70_000), b"");
        assert!(put.is_ok(), "after {n}: {put:?}");
    }
}

// Invariant 15: a child that lets go of what it inherited gives nothing of its parent's back.
#[test]
fn bytes_that_a_forked_child_drops_stay_in_the_parent_what_they_were() {
    in_its_own("forks::bytes_that_a_forked_child_drops_stay_in_the_parent_what_they_were", |directory| {
        let mut store = Some(open(directory));
        let mut held = Some(Held::hold(store.as_ref().unwrap()));
        let mut child = fork(|from_parent, to_parent| {
            drop(held.take());
            drop(store.take());
            let _ = to_parent.write_all(&[1]);
            let _ = from_parent.read_exact(&mut [0]);
        });
        assert_eq!(child.hear(), 1);
        let (store, held) = (store.unwrap(), held.unwrap());
        Held::delete(&store);
        refill(&store);
        assert_eq!(held.unchanged(), held.count());
        // Those not deleted are there.
        for (seed, length) in lengths().filter(|(seed, _)| !seed.is_multiple_of(2)) {
            assert!(get(&store, &seed.to_le_bytes()) == object(&bytes(seed, length), b""));
        }
    });
}

// Invariants 14 and 15.
#[test]
fn the_room_of_what_forked_children_held_comes_back_when_they_have_ended() {
    in_its_own("forks::the_room_of_what_forked_children_held_comes_back_when_they_have_ended", |directory| {
        let store = open(directory);
        for round in 0..6 {
            let held = Held::hold(&store);
            let mut child = fork_holding(&held);
            assert_eq!(child.hear(), held.count());
            // In turn: the child ends first, or the parent lets go first.
            if round % 2 == 0 {
                drop(child);
                drop(held);
            } else {
                drop(held);
                Held::delete(&store);
                drop(child);
            }
            for (seed, _) in lengths() {
                store.delete(&seed.to_le_bytes()).unwrap();
            }
            refill(&store);
        }
        assert_eq!(store.info().objects, 0);
        fill_to_half(&store);
    });
}

/// Names in the store's directory that say that something was set aside.
fn set_aside(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().chain(std::fs::read_dir(directory.join("journal")).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("damaged")).collect()
}

fn open_at_once(directory: &Path) -> Result<ObjectStore, Error> {
    builder(directory, LIMIT_MB).lock_wait(Duration::from_millis(500)).open()
}

// Invariant 1: a child that lives on keeps neither the directory nor the catalog.
#[test]
fn a_forked_child_that_lives_on_keeps_neither_directory_nor_catalog_from_its_parent() {
    in_its_own(
        "forks::a_forked_child_that_lives_on_keeps_neither_directory_nor_catalog_from_its_parent",
        |directory| {
            let store = open(directory);
            for (seed, length) in lengths() {
                store.put(&seed.to_le_bytes(), &bytes(seed, length), b"").unwrap();
            }
            let catalog = || std::fs::metadata(directory.join("catalog/db")).unwrap().ino();
            let (mut children, mut store, first) = (Vec::new(), Some(store), catalog());
            for _ in 0..3 {
                children.push(fork(|from_parent, to_parent| {
                    let _ = to_parent.write_all(&[1]);
                    let _ = from_parent.read_exact(&mut [0]);
                }));
                assert_eq!(children.last_mut().unwrap().hear(), 1);
                store.take().unwrap().close().unwrap();
                let again = open_at_once(directory).unwrap();
                assert_eq!(set_aside(directory), Vec::<String>::new());
                assert_eq!(catalog(), first, "no child had its lock, for which it would have been copied");
                for (seed, length) in lengths() {
                    assert!(get(&again, &seed.to_le_bytes()) == object(&bytes(seed, length), b""));
                }
                again.put(b"id", b"data", b"").unwrap();
                store = Some(again);
            }
            // The last first: each has the earlier ones' pipes as well, and keeps them open.
            while let Some(child) = children.pop() {
                drop(child);
            }
        },
    );
}

/// A forked child closes an open store's descriptors. After the store is closed, others have their numbers.
#[test]
fn what_is_opened_after_a_store_was_closed_stays_open_in_a_forked_child() {
    in_its_own("forks::what_is_opened_after_a_store_was_closed_stays_open_in_a_forked_child", |directory| {
        open(directory).close().unwrap();
        let files: Vec<_> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let mut child = fork(|_, to_parent| {
            let open = files.iter().filter(|file| file.metadata().is_ok()).count();
            let _ = to_parent.write_all(&[open as u8]);
        });
        assert_eq!(child.hear(), 100);
    });
}

/// What a process says that was told to open a directory.
fn opened_elsewhere(test: &str, directory: &Path) -> String {
    let output = process::start(test, directory).wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Another process opens the directory of a parent that has closed it, while the child lives.
// Invariant 1.
#[test]
fn a_forked_child_that_lives_on_keeps_neither_directory_nor_catalog_from_another_process() {
    const TEST: &str = "forks::a_forked_child_that_lives_on_keeps_neither_directory_nor_catalog_from_another_process";
    match process::directory() {
        None => in_its_own(TEST, |_| ()),
        Some(directory) if directory.exists() => {
            // The other process.
            match open_at_once(&directory) {
                Ok(store) => println!("\nopened with {:?}", get(&store, b"id").data),
                Err(error) => println!("\nrefused: {error}"),
            }
        }
        Some(directory) => {
            let store = open(&directory);
            store.put(b"id", b"data", b"").unwrap();
            let mut child = fork(|from_parent, to_parent| {
                let _ = to_parent.write_all(&[1]);
                let _ = from_parent.read_exact(&mut [0]);
            });
            assert_eq!(child.hear(), 1);
            store.close().unwrap();
            drop(store);
            let said = opened_elsewhere(TEST, &directory);
            assert!(said.contains("opened with b\"data\""), "{said}");
            assert_eq!(set_aside(&directory), Vec::<String>::new());
        }
    }
}

/// The parent is killed; its child holds bytes, and lives on while others use the directory.
// Invariants 1 and 15.
#[test]
fn what_a_child_of_a_killed_process_holds_stays_what_it_was_and_keeps_nobody_out() {
    const TEST: &str = "forks::what_a_child_of_a_killed_process_holds_stays_what_it_was_and_keeps_nobody_out";
    if let Some(directory) = process::directory() {
        let store = open(&directory);
        let held = Held::hold(&store);
        let (mut answers, mut answer) = std::io::pipe().unwrap();
        // Sound: the child reads its input, compares bytes, writes to its output, and ends.
        if unsafe { libc::fork() } == 0 {
            let (mut input, output) = (std::io::stdin(), std::io::stdout());
            let _ = answer.write_all(&[1]);
            let _ = input.read_exact(&mut [0]);
            let _ = writeln!(&output, "\nunchanged: {} of {}", held.unchanged(), held.count());
            unsafe { libc::_exit(0) };
        }
        answers.read_exact(&mut [0]).unwrap();
        kill_self();
    }
    for deletes in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("store");
        let mut parent = process::start(TEST, &directory);
        let (mut to_child, mut from_child) = (parent.stdin.take().unwrap(), parent.stdout.take().unwrap());
        assert!(!parent.wait().unwrap().success());
        let opened = open_at_once(&directory).map(|store| {
            for (seed, length) in lengths() {
                assert!(get(&store, &seed.to_le_bytes()) == object(&bytes(seed, length), b""));
            }
            if deletes {
                Held::delete(&store);
            }
            refill(&store);
            store.close().unwrap();
        });
        let set_aside = set_aside(&directory);
        to_child.write_all(b"x").unwrap();
        let mut said = String::new();
        from_child.read_to_string(&mut said).unwrap();
        opened.unwrap_or_else(|error| panic!("while the child lives: {error}"));
        assert_eq!(set_aside, Vec::<String>::new());
        let counts = said.lines().find_map(|line| line.strip_prefix("unchanged: "));
        let (unchanged, count) = counts.and_then(|line| line.split_once(" of ")).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(unchanged, count, "bytes of the child have changed; deleted: {deletes}");
    }
}
