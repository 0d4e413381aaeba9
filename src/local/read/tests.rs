//! Tests of gets that meet moves, removals, readers and deadlines.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::backend::Backend;
use crate::local::catalog::hints::Hint;
use crate::local::disk::{Disk, SystemDisk};
use crate::local::sharing::outbox::OutboxOptions;
use crate::local::upkeep::by_hand::{ByHand, outbox};
use crate::local::upkeep::room::Eviction;
use crate::local::{LocalBackend, LocalOptions, Underlying};
use crate::version::Version;

type Hook = Box<dyn FnMut(&Path) -> io::Result<()> + Send>;

/// A disk that tells a test before it opens a file.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Option<Hook>>>);

impl Disk for Watched {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        SystemDisk.create(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(before_open) = &mut *self.0.lock() {
            before_open(path)?;
        }
        SystemDisk.open(path)
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

fn open(place: &Path, disk: &Watched) -> LocalBackend {
    let options = LocalOptions { path: place.into(), max_size_mb: 64, ..LocalOptions::default() };
    let under = Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    LocalBackend::open_with(&options, under, None).unwrap()
}

/// A store that holds one object, which an earlier process wrote.
fn with_object(place: &Path, disk: &Watched, data: &[u8]) -> LocalBackend {
    let backend = open(place, disk);
    backend.tier().unwrap().put(b"id", data, b"metadata", &mut |_| {}).unwrap();
    backend.close().unwrap();
    open(place, disk)
}

fn place_of(tier: &LocalTier, id: &[u8]) -> Lsn {
    tier.standing(tier.index().fingerprint(id), id).unwrap().unwrap().lsn
}

/// Its segment's file is mapped, and not open: who checks the object opens it.
fn segment_of(tier: &LocalTier, id: &[u8]) -> Arc<Segment> {
    let segment = tier.segments.get(place_of(tier, id).segment()).unwrap();
    segment.close_file();
    segment
}

#[test]
fn a_get_that_meets_its_segments_removal_finds_the_object_where_it_has_moved() {
    for (data_bytes, id) in
        [(200, &b"id"[..]), (30_000, b"id"), (200_000, b"id"), (200, b"sharer"), (200_000, b"sharer")]
    {
        let (place, disk) = (tempfile::tempdir().unwrap(), Watched::default());
        let data: Vec<u8> = (0..data_bytes).map(|n| n as u8).collect();
        let backend = with_object(place.path(), &disk, &data);
        let tier = Arc::clone(backend.tier().unwrap());
        tier.duplicate(b"id", b"sharer", &mut |_| {}).unwrap();
        let at = place_of(&tier, b"id");
        let fingerprint = tier.index().fingerprint(b"id");
        let hint = Hint::of(&tier.record_at(at).unwrap().header, fingerprint);
        let segment = segment_of(&tier, b"id");
        let removing: Arc<Mutex<Option<JoinHandle<()>>>> = Arc::default();
        *disk.0.lock() = Some(Box::new({
            let (tier, segment, removing) = (Arc::clone(&tier), Arc::clone(&segment), Arc::clone(&removing));
            move |path| {
                if path == segment.path() && removing.lock().is_none() {
                    // Another get has checked it by now, and all of the segment is copied.
                    segment.set_verified(at.offset());
                    let (tier, segment) = (Arc::clone(&tier), Arc::clone(&segment));
                    *removing.lock() = Some(spawn(move || {
                        let eviction = Eviction::ahead_of_need(&tier.room);
                        assert!(tier.evacuate(&segment, &[hint], &eviction).unwrap());
                        tier.segments.remove(&segment).unwrap();
                    }));
                    while path.exists() {
                        sleep(Duration::from_millis(1));
                    }
                }
                Ok(())
            }
        }));
        let object = tier.get(id).unwrap().expect("it is there");
        assert!(object.data == data && object.metadata == "metadata", "{data_bytes} bytes");
        removing.lock().take().expect("it was removed meanwhile").join().unwrap();
        assert!(place_of(&tier, b"id").segment() > at.segment());
        *disk.0.lock() = None;
        backend.close().unwrap();
    }
}

#[test]
fn a_file_that_is_missing_is_looked_for_a_few_times_and_one_that_cannot_be_opened_once() {
    for (error, opens_expected) in [(libc::ENOENT, MOVES_MAX + 1), (libc::EACCES, 1)] {
        let (place, disk) = (tempfile::tempdir().unwrap(), Watched::default());
        let backend = with_object(place.path(), &disk, b"data");
        let tier = backend.tier().unwrap();
        let segment = segment_of(tier, b"id");
        let opens = Arc::new(AtomicU32::new(0));
        *disk.0.lock() = Some(Box::new({
            let (segment, opens) = (Arc::clone(&segment), Arc::clone(&opens));
            move |path| {
                if path != segment.path() {
                    return Ok(());
                }
                opens.fetch_add(1, Ordering::SeqCst);
                Err(io::Error::from_raw_os_error(error))
            }
        }));
        let failed = tier.get(b"id").unwrap_err();
        let Error::Io { source, .. } = &failed else { panic!("{failed}") };
        assert_eq!(source.raw_os_error(), Some(error));
        assert_eq!(opens.load(Ordering::SeqCst), opens_expected);
        *disk.0.lock() = None;
        assert_eq!(tier.get(b"id").unwrap().expect("nothing is lost").data, "data");
        backend.close().unwrap();
    }
}

/// Whether the object's bytes are those in the segment's map.
fn is_mapped(tier: &LocalTier, number: u32, object: &Object) -> bool {
    let segment = tier.segments.get(number).unwrap();
    let mapping = tier.segments.mapping(&segment).unwrap();
    mapping.slice(0, segment.bytes()).unwrap().as_ptr_range().contains(&object.data.as_ptr())
}

#[test]
fn large_bodies_are_handed_out_where_they_are_and_small_ones_as_copies() {
    let least = COPIED_BODY_BYTES_MAX as usize + 1 - b"metadata".len();
    for (data_bytes, expected) in [(100, false), (least - 1, false), (least, true), (200_000, true)] {
        for is_pinned_down in [false, true] {
            let (place, disk) = (tempfile::tempdir().unwrap(), Watched::default());
            let backend = with_object(place.path(), &disk, &vec![7; data_bytes]);
            let tier = backend.tier().unwrap();
            if is_pinned_down {
                tier.space.add_pinned(7 << 20);
            }
            let Standing { lsn, header } = tier.standing(tier.index().fingerprint(b"id"), b"id").unwrap().unwrap();
            let is_external = header.flags.has(Flags::EXTERNAL);
            let number = if is_external { header.body_place.segment } else { lsn.segment() };
            let object = tier.get(b"id").unwrap().unwrap();
            assert!(object.data == vec![7; data_bytes] && object.metadata == "metadata");
            let is_mapped = is_mapped(tier, number, &object);
            assert_eq!(is_mapped, expected && !is_pinned_down, "{data_bytes} bytes, pinned down: {is_pinned_down}");
            drop(object);
            backend.close().unwrap();
        }
    }
}

#[test]
fn a_small_body_that_was_checked_is_read_the_short_way_and_nothing_else_is() {
    let largest = COPIED_BODY_BYTES_MAX as usize - b"metadata".len();
    for (data_bytes, expected) in [(1, true), (largest, true), (largest + 1, false), (200_000, false)] {
        let (place, disk) = (tempfile::tempdir().unwrap(), Watched::default());
        let backend = with_object(place.path(), &disk, &vec![7; data_bytes]);
        let tier = backend.tier().unwrap();
        let at = place_of(tier, b"id");
        let segment = tier.segments.get(at.segment()).unwrap();
        assert!(tier.get_small(b"id").is_none(), "nobody has checked it");
        tier.get(b"id").unwrap().unwrap();
        let found = tier.get_small(b"id");
        assert_eq!(found.is_some(), expected, "{data_bytes} bytes");
        let is_whole = |it: &Object| it.data == vec![7; data_bytes] && it.metadata == "metadata";
        assert!(found.as_ref().is_none_or(is_whole));
        assert!(!segment.was_read(at.offset()), "of no use where nobody else has it");
        assert!(tier.get_small(b"other").is_none());
        drop(found);
        backend.close().unwrap();
    }
    let collide = Underlying { fingerprint_mask: 0, ..Underlying::default() };
    let store = ByHand::open_on(collide, None);
    store.put(b"first", 100);
    store.put(b"second", 100);
    assert!(store.tier.get_small(b"first").is_some() && store.tier.get_small(b"second").is_none());
    let store = ByHand::open(Some(OutboxOptions { object_ttl_ms: 1, ..outbox() }));
    store.know_time();
    store.put(b"id", 100);
    let Standing { lsn, header } = store.standing(b"id").unwrap();
    while !store.tier.journal.is_over(&header) {
        sleep(Duration::from_millis(1));
    }
    assert!(store.tier.get_small(b"id").is_none(), "it has lived its time");
    assert!(!store.tier.segments.get(lsn.segment()).unwrap().was_read(lsn.offset()));
    let store = ByHand::open(Some(outbox()));
    store.put(b"id", 100);
    let at = store.place(b"id");
    assert!(store.tier.get_small(b"id").is_some());
    assert!(store.tier.segments.get(at.segment()).unwrap().was_read(at.offset()), "so it is not evicted");
}

// Invariant 4.
#[test]
fn what_has_lived_its_time_or_was_overruled_is_not_served() {
    for data_bytes in [100, 200_000] {
        let is_served = |store: &ByHand| {
            let object = store.tier.get(b"id").unwrap();
            assert_eq!(object.is_some(), store.tier.contains(b"id").unwrap());
            object.is_some()
        };
        let store = ByHand::open(Some(OutboxOptions { object_ttl_ms: 1, ..outbox() }));
        store.put(b"id", data_bytes);
        assert!(is_served(&store), "nobody knows the time");
        store.know_time();
        store.put(b"id", data_bytes);
        let header = store.standing(b"id").unwrap().header;
        while !store.tier.journal.is_over(&header) {
            sleep(Duration::from_millis(1));
        }
        assert!(!is_served(&store));

        let store = ByHand::open(Some(outbox()));
        store.put(b"id", data_bytes);
        assert!(is_served(&store));
        store.outbox().hidden.insert(store.place(b"id"), Version::default());
        assert!(!is_served(&store));
        store.put(b"id", data_bytes);
        assert!(is_served(&store));
    }
}

#[test]
fn an_object_whose_file_was_cut_meanwhile_is_damaged() {
    for data_bytes in [30_000, 200_000] {
        let (place, disk) = (tempfile::tempdir().unwrap(), Watched::default());
        let backend = with_object(place.path(), &disk, &vec![7; data_bytes]);
        let tier = backend.tier().unwrap();
        let Standing { lsn, header } = tier.standing(tier.index().fingerprint(b"id"), b"id").unwrap().unwrap();
        let is_external = header.flags.has(Flags::EXTERNAL);
        let number = if is_external { header.body_place.segment } else { lsn.segment() };
        let path = tier.segments.get(number).unwrap().path().to_owned();
        std::fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
        assert!(tier.get(b"id").unwrap().is_none());
        assert_eq!(backend.usage().damaged_objects, 1);
        assert!(!tier.contains(b"id").unwrap());
        backend.close().unwrap();
    }
}

// Invariant 15: bytes that somebody can read are not written over.
#[test]
fn a_bodys_room_comes_free_with_the_last_who_holds_it() {
    let store = ByHand::open(None);
    // Two others keep its segment in use.
    for id in [b"a", b"b", b"c"] {
        store.put(id, 200_000);
    }
    let held = store.tier.get(b"b").unwrap().unwrap().data;
    let part = held.slice(100_000..100_010);
    assert!(store.tier.delete(b"b").unwrap());
    assert_eq!(store.tier.reap_bodies().unwrap(), 0, "it is held");
    drop(held);
    assert_eq!(store.tier.reap_bodies().unwrap(), 0, "a part of it is held");
    assert_eq!(part, [b'b'; 10][..]);
    drop(part);
    assert_eq!(store.tier.reap_bodies().unwrap(), 200_704);
}
