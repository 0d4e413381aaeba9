//! Tests of scanning: torn tails, damage, and what is synced before the seal.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::local::Underlying;
use crate::local::disk::{Disk, DiskFile, SystemDisk};
use crate::local::upkeep::by_hand::ByHand;

/// Scans the active segment as if a killed process had left it.
fn scan_active(store: &ByHand, rebooted: bool) -> Scanned {
    scan_segment(store, store.tier.journal.latest().segment(), rebooted)
}

fn scan_segment(store: &ByHand, number: u32, rebooted: bool) -> Scanned {
    scan(&store.tier.segments, &store.segment(number), rebooted, store.tier.index().fingerprints(), None).unwrap()
}

fn kinds(scanned: &Scanned) -> Vec<Kind> {
    scanned.hints.iter().map(|hint| hint.kind).collect()
}

// Invariant 7.
#[test]
fn a_torn_record_never_happened_and_the_segment_is_sealed() {
    let store = ByHand::open(None);
    (0..3u8).for_each(|id| store.put(&[id], 500));
    store.flip_body(&[1]);
    let (end, clock) = (u64::from(store.tier.journal.end().offset()), store.standing(&[2]).unwrap().header.version);
    // The second time it is sealed, and what was torn is void.
    for _ in 0..2 {
        let scanned = scan_active(&store, false);
        assert_eq!(kinds(&scanned), [Kind::Put, Kind::Void, Kind::Put]);
        assert_eq!((scanned.end, scanned.damaged), (end, 0));
        assert_eq!(scanned.clock, clock.clock_at_open());
    }
    let segment = store.segment(store.tier.journal.latest().segment());
    assert_eq!(segment.read_seal().unwrap(), Some(Seal { end, record_count: 3 }));
    assert_eq!(segment.path().metadata().unwrap().len(), end);
}

// Invariant 7: bodies are written before their records, so that only a power loss tears them.
#[test]
fn a_large_body_is_checked_after_a_power_loss() {
    for (rebooted, expected) in [(false, Kind::Put), (true, Kind::Void)] {
        let store = ByHand::open(None);
        store.put(b"whole", 200_000);
        store.put(b"torn", 200_000);
        store.put(b"deleted", 200_000);
        store.flip_body(b"torn");
        store.tier.delete(b"deleted").unwrap();
        let scanned = scan_active(&store, rebooted);
        assert_eq!(kinds(&scanned), [Kind::Put, expected, Kind::Put, Kind::Delete], "rebooted: {rebooted}");
    }
}

// Invariant 7.
#[test]
fn a_record_that_shares_a_payload_outlives_a_power_loss_with_it() {
    for data_bytes in [2000, 200_000] {
        let with_sharer = || {
            let store = ByHand::open(None);
            store.put(b"original", data_bytes);
            store.tier.duplicate(b"original", b"sharer", &mut |_| {}).unwrap();
            store
        };
        assert_eq!(kinds(&scan_active(&with_sharer(), true)), [Kind::Put, Kind::Duplicate]);
        let store = with_sharer();
        store.flip_body(b"original");
        assert_eq!(kinds(&scan_active(&store, true)), [Kind::Void, Kind::Void], "both are torn");

        let in_two_segments = || {
            let mut store = ByHand::open(None);
            store.put(b"original", data_bytes);
            let first = store.seal();
            store.tier.duplicate(b"original", b"sharer", &mut |_| {}).unwrap();
            (store, first)
        };
        let (store, _) = in_two_segments();
        store.flip_body(b"original");
        assert_eq!(kinds(&scan_active(&store, true)), [Kind::Duplicate], "what is sealed was durable");
        let (store, first) = in_two_segments();
        store.tier.segments.remove(&store.segment(first)).unwrap();
        assert_eq!(kinds(&scan_active(&store, true)), [Kind::Duplicate], "it had moved before");
    }
}

#[test]
fn each_damaged_stretch_is_counted_and_so_is_an_end_that_is_cut_off() {
    let mut store = ByHand::open(None);
    (0..5u8).for_each(|id| store.put(&[id], 500));
    for id in [1, 3] {
        store.flip_header(&[id]);
    }
    let number = store.seal();
    let scanned = scan_segment(&store, number, false);
    assert_eq!((scanned.hints.len(), scanned.damaged), (3, 2));
    assert_eq!(scanned.end, store.segment(number).records_end());

    let mut store = ByHand::open(None);
    (0..5u8).for_each(|id| store.put(&[id], 500));
    let number = store.seal();
    let segment = store.segment(number);
    assert_eq!(scan_segment(&store, number, false).damaged, 0);
    // Cut where the last record begins: nothing else shows that there was one.
    let last = store.place(&[4]);
    segment.lease().shrink(u64::from(last.offset()));
    let scanned = scan_segment(&store, number, false);
    assert_eq!((scanned.hints.len(), scanned.damaged), (4, 1));
}

/// A disk that notes its calls and their files, in order.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<(&'static str, PathBuf)>>>);

struct NotingFile {
    noting: Noting,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl Disk for Noting {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        SystemDisk.create(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(NotingFile { noting: self.clone(), path: path.into(), file: SystemDisk.open(path)? }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        SystemDisk.sync_directory(path)
    }
}

impl DiskFile for NotingFile {
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.noting.0.lock().push(("write", self.path.clone()));
        self.file.write_all_at(slices, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.noting.0.lock().push(("sync", self.path.clone()));
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

// Invariant 1: under a seal, a torn record counts.
#[test]
fn records_and_bodies_are_durable_before_the_seal_that_vouches_for_them() {
    let noting = Noting::default();
    let store = ByHand::open_on(Underlying { disk: Arc::new(noting.clone()), ..Underlying::default() }, None);
    store.put(b"external", 200_000);
    store.put(b"inline", 500);
    store.put(b"torn", 500);
    store.flip_body(b"torn");
    let records = store.segment(store.tier.journal.latest().segment());
    let bodies = store.segment(store.standing(b"external").unwrap().header.body_place.segment);
    // From here on, calls are noted.
    records.close_file();
    bodies.close_file();
    scan_active(&store, false);
    let (records, bodies) = (records.path().to_owned(), bodies.path().to_owned());
    let expected = [("write", &records), ("sync", &records), ("sync", &bodies), ("write", &records)];
    assert_eq!(*noting.0.lock(), expected.map(|(call, path)| (call, path.clone())));
}
