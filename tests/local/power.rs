//! What is there after a power loss.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scaler_object_storage::Durability;

use crate::common::{bytes, object};
use crate::disk::{Call, FaultyDisk};
use crate::hidden::{copy_all, find};
use crate::{builder, builder_on, segments};

// Invariant 1.
#[test]
fn a_body_superseded_by_a_shared_payload_stays_until_that_payload_is_durable() {
    let place = tempfile::tempdir().unwrap();
    let (live, lost) = (place.path().join("live"), place.path().join("lost"));
    let disk = FaultyDisk::default();
    let store = builder_on(&live, 64, Durability::Process, &disk).open().unwrap();
    let (x, y, z) = (bytes(1, 200_000), bytes(2, 200_000), bytes(3, 200_000));
    store.put(b"a", &x, b"").unwrap();
    store.flush().unwrap();
    store.close().unwrap();
    // Opened anew, its files are known by the names that say what is in them.
    let store = builder_on(&live, 64, Durability::Process, &disk).open().unwrap();
    let synced = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&synced);
    disk.set(move |it| {
        if it.call == Call::Sync && it.path.to_string_lossy().contains("bod") {
            flag.store(true, Ordering::SeqCst)
        }
        None
    });
    store.put(b"c", &y, b"").unwrap();
    store.put(b"a", &y, b"").unwrap();
    // What is dead is freed some seconds later, whatever that needs.
    std::thread::sleep(Duration::from_secs(12));
    store.put(b"d", &z, b"").unwrap();
    copy_all(&live, &lost);
    // The power is lost: what was never synced.
    if !synced.load(Ordering::SeqCst) {
        for path in segments(&lost, &["bodies", "body", "spare"]) {
            let mut content = fs::read(&path).unwrap();
            if let Some(at) = find(&content, &y[..64]) {
                content[at..at + y.len()].fill(0);
            }
            fs::write(&path, content).unwrap();
        }
    }
    fs::write(lost.join("LOCK"), format!("{:<127}\n", "1\nanother-boot\n")).unwrap();
    let again = builder(&lost, 64).open().unwrap();
    let a = again.get(b"a").unwrap();
    assert!(
        a.is_some_and(|a| a == object(&x, b"") || a == object(&y, b"")),
        "a is neither what was durable nor what was put then"
    );
}

// Invariant 1.
#[test]
fn a_store_opens_though_what_was_not_synced_is_lost() {
    let place = tempfile::tempdir().unwrap();
    let store = builder(place.path(), 16).durability(Durability::Disk).open().unwrap();
    store.put(b"a", b"acknowledged", b"").unwrap();
    let lost = place.path().join("lost");
    fs::create_dir(&lost).unwrap();
    for name in ["journal", "LOCK", "NUMBERS"] {
        let from = place.path().join(name);
        if from.is_dir() {
            copy_all(&from, &lost.join(name))
        } else {
            fs::copy(from, lost.join(name)).map(drop).unwrap()
        }
    }
    fs::write(lost.join("FORMAT"), b"").unwrap(); // its name was synced, its bytes were not
    fs::write(lost.join("LOCK"), b"").unwrap();
    let again = builder(&lost, 16).open();
    assert_eq!(again.unwrap().get(b"a").unwrap().unwrap().data, &b"acknowledged"[..]);
}
