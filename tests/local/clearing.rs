//! How often a store whose writes wait for the disk makes the disk work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scaler_object_storage::Durability;

use crate::builder_on;
use crate::common::bytes;
use crate::disk::{Call, FaultyDisk};

#[derive(Default)]
struct Counts {
    created: AtomicUsize,
    removed: AtomicUsize,
    syncs: AtomicUsize,
    directory_syncs: AtomicUsize,
}

impl Counts {
    fn of(disk: &FaultyDisk) -> Arc<Self> {
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        disk.set(move |attempt| {
            let count = match attempt.call {
                Call::Create => &counted.created,
                Call::Remove => &counted.removed,
                Call::Sync => &counted.syncs,
                Call::SyncDirectory => &counted.directory_syncs,
                _ => return None,
            };
            count.fetch_add(1, Ordering::Relaxed);
            None
        });
        counts
    }

    fn syncs(&self) -> usize {
        self.syncs.load(Ordering::Relaxed)
    }

    fn directory_syncs(&self) -> usize {
        self.directory_syncs.load(Ordering::Relaxed)
    }

    /// Files made or removed.
    fn files(&self) -> usize {
        self.created.load(Ordering::Relaxed) + self.removed.load(Ordering::Relaxed)
    }
}

// Invariant 1: it is as durable as a delete, but not one sync for each object.
#[test]
fn clear_waits_for_the_disk_a_few_times_however_many_objects_there_are() {
    let (place, disk) = (tempfile::tempdir().unwrap(), FaultyDisk::default());
    let store = builder_on(place.path(), 64, Durability::Process, &disk).open().unwrap();
    for number in 0..600_u64 {
        let length = if number.is_multiple_of(10) { 70_000 } else { 200 };
        store.put(&number.to_le_bytes(), &bytes(number, length), b"").unwrap();
    }
    store.close().unwrap();
    let store = builder_on(place.path(), 64, Durability::Disk, &disk).open().unwrap();
    assert_eq!(store.info().objects, 600);
    let counts = Counts::of(&disk);

    store.clear().unwrap();

    let (syncs, files) = (counts.syncs() + counts.directory_syncs(), counts.files());
    assert_eq!(store.info().objects, 0);
    assert!(syncs >= 1, "nothing was made durable");
    assert!(syncs <= 20 + 4 * files, "{syncs} syncs for 600 objects; {files} files were made or removed");
    store.close().unwrap();
    let store = builder_on(place.path(), 64, Durability::Disk, &disk).open().unwrap();
    assert_eq!(store.info().objects, 0);
}

// Invariant 1: what a commit needs of the directory is the name of its segment, once.
#[test]
fn the_directory_is_synced_for_new_segments_and_not_for_each_commit() {
    for (objects, length) in [(200_u64, 100), (40, 70_000)] {
        let (place, disk) = (tempfile::tempdir().unwrap(), FaultyDisk::default());
        let counts = Counts::of(&disk);
        let store = builder_on(place.path(), 64, Durability::Disk, &disk).open().unwrap();
        for number in 0..objects {
            store.put(&number.to_le_bytes(), &bytes(number, length), b"").unwrap();
        }
        let (directory_syncs, files) = (counts.directory_syncs(), counts.files());
        assert!(
            counts.syncs() as u64 >= objects,
            "{} syncs for {objects} commits, one after the other",
            counts.syncs()
        );
        assert!(directory_syncs >= 1, "the first segment's name was not made durable");
        assert!(
            directory_syncs <= 4 + 2 * files,
            "{directory_syncs} for {objects} commits; {files} files were made or removed"
        );
    }
}
