//! Tests of who gets what a disk has room for.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::local::Underlying;
use crate::local::files::disk::{Disk, DiskFile, SystemDisk};
use crate::local::upkeep::by_hand::{ByHand, outbox};

/// A disk that has room for so many more files.
#[derive(Clone)]
struct Small(Arc<AtomicI64>);

impl Disk for Small {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        if self.0.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        SystemDisk.create(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
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

/// Invariant 14: the disk was full, has room again, and is filled by others before the sealer comes.
#[test]
fn a_disk_that_has_room_again_serves_the_reserve_before_puts() {
    let disk = Small(Arc::new(AtomicI64::new(i64::MAX)));
    let has_room_for = |files| disk.0.store(files, Ordering::SeqCst);
    let mut store =
        ByHand::open_on(Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() }, Some(outbox()));
    assert!(store.fill(b"first", b"data") && store.fill(b"second", b"data"));
    store.tier.refill_spares().unwrap();
    store.tier.journal.drop_prepared();
    store.seal();

    has_room_for(0);
    assert!(!store.fill(b"third", b"data"));
    assert!(store.tier.delete(b"first").unwrap());
    has_room_for(1);
    assert!(!store.fill(b"third", b"data"), "the room is a delete's");
    store.seal();
    assert!(store.tier.delete(b"second").unwrap());
    has_room_for(3);
    assert!(store.fill(b"third", b"data"));
}
