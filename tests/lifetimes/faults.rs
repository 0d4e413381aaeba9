//! A disk that does not read, write or grow while objects expire.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scaler_object_storage::{ObjectStore, Underlying};

use crate::common::{bytes, object, until};
use crate::disk::{Call, Fault, FaultyDisk};
use crate::{now_ms, version};

fn records(directory: &std::path::Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory.join("journal"))
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "records"))
        .collect();
    files.sort();
    files
}

fn open(directory: &std::path::Path, disk: &FaultyDisk, lifetime: Duration) -> ObjectStore {
    let under = Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    ObjectStore::builder().local(directory).max_size_mb(16).object_ttl(lifetime).under(under).open().unwrap()
}

/// One file that cannot be read now keeps no other object's room.
#[test]
fn what_cannot_be_read_keeps_nothing_else_from_being_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let store = open(directory.path(), &disk, Duration::ZERO);
    let (version, deadline) = (version(), now_ms() + 5000);
    let mut count = 0_u64;
    while let Ok(true) = store.restore(&count.to_le_bytes(), &object(&bytes(count, 3000), b""), version, deadline) {
        count += 1
    }
    store.close().unwrap();
    let store = open(directory.path(), &disk, Duration::ZERO);
    let last = records(directory.path()).pop().unwrap();
    let files = records(directory.path()).len();
    disk.set(move |attempt| (attempt.call == Call::Open && attempt.path == last).then_some(Fault::Refused(libc::EIO)));
    while now_ms() < deadline + 100 {
        std::thread::sleep(Duration::from_millis(10))
    }
    let put = |number: u64| store.put(&(1 << 40 | number).to_le_bytes(), &bytes(1 << 40 | number, 3000), b"");
    let again = (0..count).find(|number| put(*number).is_err()).unwrap_or(count);
    assert!(
        again > count / 2,
        "{count} objects have expired, one file of {files} cannot be read, and {again} found room"
    );
}

/// What failed is tried again, but not without a pause.
#[test]
fn a_disk_that_refuses_deletes_is_not_asked_fifty_times_a_second() {
    let mut most = 0;
    for error in [libc::EIO, libc::ENOSPC] {
        let directory = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let store = open(directory.path(), &disk, Duration::from_secs(1));
        (0..100_u64).for_each(|number| store.put(&number.to_le_bytes(), &bytes(number, 100), b"").unwrap());
        let writes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&writes);
        disk.set(move |attempt| {
            (matches!(attempt.call, Call::Write | Call::Create | Call::Grow)
                && attempt.path.to_string_lossy().contains("journal"))
            .then(|| {
                counted.fetch_add(1, Ordering::SeqCst);
                Fault::Refused(error)
            })
        });
        until("it is tried", || writes.load(Ordering::SeqCst) > 0);
        let before = writes.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(3));
        let tried = writes.load(Ordering::SeqCst) - before;
        disk.heal();
        until("all are deleted", || store.info().objects == 0);
        most = most.max(tried);
    }
    assert!(most <= 20, "{most} writes in 3 s");
}

/// How often a full disk is asked in 3 s by a store in which nobody does anything.
fn asked(lifetime: Duration) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let store = open(directory.path(), &disk, lifetime);
    (0..100_u64).for_each(|number| store.put(&number.to_le_bytes(), &bytes(number, 100), b"").unwrap());
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    disk.set(move |attempt| {
        matches!(attempt.call, Call::Write | Call::Create | Call::Grow).then(|| {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Refused(libc::ENOSPC)
        })
    });
    // As users do.
    store.put(b"another", b"data", b"").unwrap_err();
    let before = asked.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_secs(3));
    asked.load(Ordering::SeqCst) - before
}

#[test]
fn a_full_disk_is_not_asked_without_a_pause_because_something_expires() {
    let (without, with) = (asked(Duration::ZERO), asked(Duration::from_secs(1)));
    assert!(with < 10 * without + 100, "asked {with} times in 3 s; without lifetimes {without} times");
}
