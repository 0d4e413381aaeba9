//! Keeps the number of open segment files bounded: a second-chance (clock) queue of their descriptors.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::disk::DiskFile;
use super::mapping::BodyMaps;

/// Most segment files that are kept open. A process may have 1024 descriptors by default, and most of them should be for connections.
/// A store has these, one for each thread that is reading or writing, and fewer than 32 others: the segment that is appended to, the
/// reserve, the catalog, the locks.
pub(crate) const OPEN_FILES_MAX: usize = 32;

/// A segment's file, while it is open.
#[derive(Default)]
pub(crate) struct FileSlot {
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Used since it was last considered for closing.
    touched: AtomicBool,
}

/// The open files, the one that was opened first in front.
#[derive(Default)]
pub(crate) struct OpenFiles {
    slots: Mutex<VecDeque<Weak<FileSlot>>>,
    body_maps: Arc<BodyMaps>,
}

impl FileSlot {
    pub fn new(file: Arc<dyn DiskFile>) -> Self {
        FileSlot { file: Mutex::new(Some(file)), touched: AtomicBool::new(true) }
    }

    fn is_open(&self) -> bool {
        self.file.lock().is_some()
    }

    pub fn close(&self) {
        self.file.lock().take();
    }
}

impl OpenFiles {
    /// The slot's file, opened if necessary. It stays open for as long as the caller holds it.
    pub fn get(
        &self,
        slot: &Arc<FileSlot>,
        open: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        slot.touched.store(true, Ordering::Relaxed);
        let opened = {
            let mut file = slot.file.lock();
            if let Some(file) = &*file {
                return Ok(Arc::clone(file));
            }
            let opened = open()?;
            *file = Some(Arc::clone(&opened));
            opened
        };
        self.note(slot);
        Ok(opened)
    }

    /// The maps of body segments, which outlive their files' descriptors.
    pub fn body_maps(&self) -> &Arc<BodyMaps> {
        &self.body_maps
    }

    /// Notes that the slot's file was opened, and closes others if there are too many.
    pub fn note(&self, slot: &Arc<FileSlot>) {
        let mut slots = self.slots.lock();
        slots.push_back(Arc::downgrade(slot));
        if slots.len() <= OPEN_FILES_MAX {
            return;
        }
        slots.retain(|slot| slot.upgrade().is_some_and(|slot| slot.is_open()));
        // Each is passed over at most once for being touched.
        let mut passes = 2 * slots.len();
        while slots.len() > OPEN_FILES_MAX && passes > 0 {
            passes -= 1;
            let Some(slot) = slots.pop_front().and_then(|slot| slot.upgrade()) else { continue };
            if slot.touched.swap(false, Ordering::Relaxed) {
                slots.push_back(Arc::downgrade(&slot));
            } else {
                slot.close();
            }
        }
    }

    /// How many are open.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.slots.lock().iter().filter(|slot| slot.upgrade().is_some_and(|slot| slot.is_open())).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::disk::{Disk, SystemDisk};

    #[test]
    fn no_more_files_stay_open_than_the_limit_and_those_in_use_stay() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let (files, slots) = (OpenFiles::default(), (0..200).map(|_| Arc::default()).collect::<Vec<Arc<FileSlot>>>());
        for slot in &slots {
            files.get(slot, || SystemDisk.open(&path)).unwrap();
            files.get(&slots[0], || SystemDisk.open(&path)).unwrap();
            assert!(files.count() <= OPEN_FILES_MAX);
        }
        assert!(slots[0].is_open() && !slots[1].is_open());
    }
}
