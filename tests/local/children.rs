//! Forked children that outlive the process that handed bytes out.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use scaler_object_storage::Durability;

use crate::common::{bytes, get};
use crate::disk::{Call, FaultyDisk};
use crate::process::{self, kill_self};
use crate::{builder, builder_on, segments};

// Invariant 1.
#[test]
fn record_segments_survive_the_end_of_a_child_of_a_killed_process() {
    const TEST: &str = "children::record_segments_survive_the_end_of_a_child_of_a_killed_process";
    if let Some(directory) = process::directory() {
        let store = builder(&directory, 16).open().unwrap();
        store.put(b"small", b"data", b"").unwrap();
        store.put(b"large", &bytes(1, 1_000_000), b"").unwrap();
        let held = get(&store, b"large").data;
        let (mut answers, mut answer) = std::io::pipe().unwrap();
        if unsafe { libc::fork() } == 0 {
            let _ = answer.write_all(&[held[0]]);
            let _ = std::io::stdin().read_exact(&mut [0]);
            unsafe { libc::_exit(0) };
        }
        answers.read_exact(&mut [0]).unwrap();
        kill_self();
    }
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    let mut parent = process::start(TEST, &directory);
    let mut to_child = parent.stdin.take().unwrap();
    assert!(!parent.wait().unwrap().success());
    let store = builder(&directory, 16).open().unwrap();
    assert_eq!(get(&store, b"small").data, &b"data"[..]);
    let before = segments(&directory, &["records"]);
    to_child.write_all(b"x").unwrap(); // the child ends
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(segments(&directory, &["records"]), before);
}

// Invariants 1 and 14.
#[test]
fn a_store_goes_on_when_a_child_ends_whose_bytes_were_deleted() {
    process::in_its_own("children::a_store_goes_on_when_a_child_ends_whose_bytes_were_deleted", |directory| {
        let disk = FaultyDisk::default();
        let missing = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let open = || builder_on(directory, 16, Durability::Process, &disk).open().unwrap();
        let store = open();
        store.put(b"a", &bytes(1, 200_000), b"").unwrap();
        let held = get(&store, b"a").data;
        let mut child = process::fork(|from_parent, to_parent| {
            let _ = to_parent.write_all(&[held[0]]);
            let _ = from_parent.read_exact(&mut [0]);
        });
        child.hear();
        drop(held);
        store.close().unwrap();
        drop(store);
        let store = open();
        store.delete(b"a").unwrap(); // dead; freed after a while, ...
        drop(child); // ... before which nobody reads it any more.
        std::thread::sleep(Duration::from_secs(12));
        let count = Arc::clone(&missing);
        disk.set(move |it| {
            if it.call == Call::Remove && !it.path.exists() {
                count.fetch_add(1, Ordering::SeqCst);
            }
            None
        });
        let failed = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (store, failed) = (&store, &failed);
                scope.spawn(move || {
                    for n in 0..150_u64 {
                        let id = (thread * 2 + n % 2).to_le_bytes();
                        if let Err(error) = store.put(&id, &bytes(thread * 1000 + n, 1_100_000), b"") {
                            failed.lock().unwrap().push((thread, n, error.to_string()));
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap();
        assert_eq!(missing.load(Ordering::SeqCst), 0, "removals of a file that is gone");
        assert!(failed.is_empty(), "{} refused: {:?}", failed.len(), failed.first());
    });
}
