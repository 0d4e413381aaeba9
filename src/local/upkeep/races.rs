//! Tests of what may and may not happen while a sync is under way.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::backend::Backend;
use crate::clock::Reading;
use crate::local::catalog::hints::Hint;
use crate::local::disk::{Disk, DiskFile, SystemDisk};
use crate::local::journal::BodyPlace;
use crate::local::sharing::outbox::OutboxOptions;
use crate::local::tier::LocalTier;
use crate::local::upkeep::room::Eviction;
use crate::local::{Durability, LocalBackend, LocalOptions, Underlying};

/// A disk whose syncs, of files or of names, a test can hold up.
#[derive(Clone, Default)]
struct Slow {
    holds_files: Arc<AtomicBool>,
    holds_names: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    /// Inodes of the files that were synced.
    synced: Arc<Mutex<Vec<u64>>>,
}

struct SlowFile {
    disk: Slow,
    file: Arc<dyn DiskFile>,
}

impl Slow {
    fn wait_while(&self, holds: &AtomicBool) {
        while holds.load(Ordering::SeqCst) {
            self.held.store(true, Ordering::SeqCst);
            sleep(Duration::from_millis(1));
        }
    }

    fn wait_until_held(&self) {
        while !self.held.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(1));
        }
    }
}

impl Disk for Slow {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile { disk: self.clone(), file: SystemDisk.create(path, bytes)? }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile { disk: self.clone(), file: SystemDisk.open(path)? }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.wait_while(&self.holds_names);
        SystemDisk.sync_directory(path)
    }
}

impl DiskFile for SlowFile {
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_all_at(slices, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.synced.lock().push(self.file.file().metadata()?.ino());
        self.disk.wait_while(&self.disk.holds_files);
        self.file.sync()
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        self.file.grow(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn file(&self) -> &File {
        self.file.file()
    }
}

fn open(place: &Path, disk: &Slow, durability: Durability, outbox: Option<OutboxOptions>) -> LocalBackend {
    let options = LocalOptions { path: place.into(), max_size_mb: 64, durability, ..LocalOptions::default() };
    let under = Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    LocalBackend::open_with(&options, under, outbox).unwrap()
}

fn put(tier: &LocalTier, id: u8, fill: u8) {
    tier.put(&[id], &vec![fill; 200_000], b"", &mut |_| {}).unwrap();
}

fn body_of(tier: &LocalTier, id: u8) -> BodyPlace {
    tier.standing(tier.index().fingerprint(&[id]), &[id]).unwrap().unwrap().header.body_place
}

/// Whether this stretch is free, so that a next body could be written there.
fn is_free(tier: &LocalTier, lsn: BodyPlace) -> bool {
    let reserved: Vec<_> = (0..4).map(|_| tier.bodies.reserve(200_000).unwrap()).collect();
    reserved.iter().any(|reservation| reservation.place() == lsn)
}

// Invariants 1 and 15: a killed process would find the record again, and other bytes.
#[test]
fn a_body_that_is_evicted_while_others_are_freed_stays_until_its_record_is_gone() {
    let (place, disk) = (tempfile::tempdir().unwrap(), Slow::default());
    let (wake, _woken) = bounded(1);
    let outbox =
        OutboxOptions { prefix: "t:".into(), object_ttl_ms: 300, tombstone_ttl_ms: 1000, has_versions: true, wake };
    let backend = open(place.path(), &disk, Durability::Process, Some(outbox));
    let tier = Arc::clone(backend.tier().unwrap());
    tier.journal.set_time(Reading { redis_ms: 1 << 40, at: Instant::now(), give_or_take: Duration::ZERO });
    (0..4).for_each(|n| put(&tier, n, n));
    tier.delete(&[3]).unwrap(); // something to free
    sleep(Duration::from_millis(400));
    disk.holds_files.store(true, Ordering::SeqCst);
    let reaping = spawn({
        let tier = Arc::clone(&tier);
        move || tier.reap_bodies().unwrap()
    });
    disk.wait_until_held();
    let fingerprint = tier.index().fingerprint(&[1]);
    let standing = tier.standing(fingerprint, &[1]).unwrap().unwrap();
    let record = tier.record_at(standing.lsn).unwrap();
    tier.evict(&record, &Hint::of(&record.header, fingerprint), &Eviction::ahead_of_need(&tier.room));
    assert!(tier.standing(fingerprint, &[1]).unwrap().is_none(), "it has lived its time");
    disk.holds_files.store(false, Ordering::SeqCst);
    reaping.join().unwrap();
    assert!(!is_free(&tier, standing.header.body_place));
    backend.close().unwrap();
}

// Invariant 1.
#[test]
fn a_body_stays_until_the_one_that_took_its_place_is_durable() {
    let (place, disk) = (tempfile::tempdir().unwrap(), Slow::default());
    let backend = open(place.path(), &disk, Durability::Process, None);
    let tier = Arc::clone(backend.tier().unwrap());
    put(&tier, 1, 1);
    put(&tier, 2, 2);
    tier.flush().unwrap();
    let old = body_of(&tier, 2);
    put(&tier, 1, 3);
    disk.holds_files.store(true, Ordering::SeqCst);
    let reaping = spawn({
        let tier = Arc::clone(&tier);
        move || tier.reap_bodies().unwrap()
    });
    disk.wait_until_held();
    // While the segment of bodies is synced, another body is written to it.
    put(&tier, 2, 4);
    let new = body_of(&tier, 2);
    assert_eq!(new.segment, old.segment);
    let inode = tier.segments.get(new.segment).unwrap().path().metadata().unwrap().ino();
    disk.synced.lock().clear();
    disk.holds_files.store(false, Ordering::SeqCst);
    reaping.join().unwrap();
    assert!(!is_free(&tier, old) || disk.synced.lock().contains(&inode), "free, and its successor is not durable");
    backend.close().unwrap();
}

// Invariant 1, with `disk` durability.
#[test]
fn a_body_is_moved_only_to_where_its_file_has_a_durable_name() {
    let (place, disk) = (tempfile::tempdir().unwrap(), Slow::default());
    let backend = open(place.path(), &disk, Durability::Disk, None);
    let tier = Arc::clone(backend.tier().unwrap());
    (0..5).for_each(|n| put(&tier, n, n));
    let standing = tier.standing(tier.index().fingerprint(&[0]), &[0]).unwrap().unwrap();
    let old = standing.header.body_place;
    disk.holds_names.store(true, Ordering::SeqCst);
    // A put that makes a new segment of bodies, whose name is not durable yet.
    let putting = spawn({
        let tier = Arc::clone(&tier);
        move || put(&tier, 9, 9)
    });
    disk.wait_until_held();
    let moving = spawn({
        let tier = Arc::clone(&tier);
        move || tier.move_body(standing.lsn, old.segment).unwrap()
    });
    sleep(Duration::from_millis(50));
    assert!(!moving.is_finished() || body_of(&tier, 0) == old, "moved to where no name is durable");
    disk.holds_names.store(false, Ordering::SeqCst);
    moving.join().unwrap();
    putting.join().unwrap();
    backend.close().unwrap();
}

// Invariant 15: others write there once the directory is theirs.
#[test]
fn a_close_waits_for_gets_that_are_under_way() {
    let (place, disk) = (tempfile::tempdir().unwrap(), Slow::default());
    let backend = Arc::new(open(place.path(), &disk, Durability::Process, None));
    let tier = Arc::clone(backend.tier().unwrap());
    put(&tier, 1, 1);
    let inside = tier.gate.enter().unwrap();
    let closing = spawn({
        let backend = Arc::clone(&backend);
        move || backend.close().unwrap()
    });
    while !tier.gate.is_closing() {
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(20));
    assert!(!closing.is_finished());
    assert!(tier.get(&[1]).is_err(), "none begins any more");
    drop(inside);
    closing.join().unwrap();
}
