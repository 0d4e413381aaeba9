use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::segment::{Segment, SegmentHeader, SegmentKind, file_name};
use crate::error::Error;
use crate::local::files::disk::{Disk, DiskFile};
use crate::local::files::mapping::Mapping;
use crate::local::files::space::{Lease, Space};
use crate::random::random_u64;

/// Linux allows a process 65 530 maps; other parts of the process want some.
const MAPPED_SEGMENTS_MAX: usize = 16_384;

/// A process may have 1024 descriptors by default; most of them belong to connections.
const OPEN_FILES_MAX: usize = 64;

pub(crate) type SegmentMap = FxHashMap<u32, Arc<Segment>>;

/// All segments of the journal, by number.
pub(crate) struct Segments {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    space: Arc<Space>,
    by_number: ArcSwap<SegmentMap>,
    changing: Mutex<()>,
    next_number: AtomicU32,
    next_spare: AtomicU32,
    mapped: AtomicUsize,
}

/// A preallocated file that has no number yet.
pub(crate) struct Spare {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    lease: Arc<Lease>,
}

/// Why there is no new file.
#[derive(Debug)]
pub(crate) enum NoFile {
    /// The store's limit leaves no room.
    NoRoom,
    Failed(Error),
}

impl Segments {
    pub fn new(
        directory: PathBuf,
        disk: Arc<dyn Disk>,
        space: Arc<Space>,
        found: SegmentMap,
        next_number: u32,
    ) -> Self {
        Segments {
            directory,
            disk,
            space,
            by_number: ArcSwap::from_pointee(found),
            changing: Mutex::new(()),
            next_number: AtomicU32::new(next_number),
            next_spare: AtomicU32::new(0),
            mapped: AtomicUsize::new(0),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    #[inline]
    pub fn load(&self) -> Guard<Arc<SegmentMap>> {
        self.by_number.load()
    }

    pub fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.load().get(&number).map(Arc::clone)
    }

    /// How many segments of records there are.
    pub fn record_segments(&self) -> usize {
        self.load().values().filter(|segment| segment.kind == SegmentKind::Records).count()
    }

    /// The segment's map, made if there is none.
    pub fn mapping(&self, segment: &Segment) -> Result<Arc<Mapping>, Error> {
        if let Some(mapping) = &*segment.mapping() {
            return Ok(Arc::clone(mapping));
        }
        let mapping = segment.map().map_err(Error::io("map", segment.path()))?;
        if self.mapped.fetch_add(1, Ordering::Relaxed) >= MAPPED_SEGMENTS_MAX {
            self.sweep();
        }
        Ok(mapping)
    }

    /// Closes and unmaps what was not used since the last sweep, where too much is open or mapped.
    pub fn sweep(&self) {
        let segments = self.load();
        let open = segments.values().filter(|segment| segment.is_file_open()).count();
        let mapped = segments.values().filter(|segment| segment.is_mapped()).count();
        self.mapped.store(mapped, Ordering::Relaxed);
        for segment in segments.values() {
            if segment.was_touched() {
                continue;
            }
            if open > OPEN_FILES_MAX {
                segment.close_file();
            }
            if mapped >= MAPPED_SEGMENTS_MAX && segment.is_mapped() {
                segment.unmap();
                self.mapped.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Preallocates a file for a later segment.
    pub fn create_spare(&self, bytes: u64) -> Result<Spare, NoFile> {
        let lease = self.space.take(bytes).ok_or(NoFile::NoRoom)?;
        let name = format!("{}.spare", self.next_spare.fetch_add(1, Ordering::Relaxed));
        let path = self.directory.join(name);
        match self.disk.create(&path, bytes) {
            Ok(file) => Ok(Spare { path, file, lease }),
            Err(error) => Err(NoFile::Failed(Error::io("create", path)(error))),
        }
    }

    /// Gives a spare file the next number: it is a segment from here on.
    pub fn activate(&self, spare: Spare, kind: SegmentKind) -> Result<Arc<Segment>, Error> {
        let Spare { path: spare_path, file, lease } = spare;
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let header = SegmentHeader { number, kind, nonce: random_u64(), seal: None };
        let path = self.directory.join(file_name(number, kind));
        file.write_all_at(&mut [IoSlice::new(&header.encode())], 0).map_err(Error::io("write", &spare_path))?;
        self.disk.rename(&spare_path, &path).map_err(Error::io("rename", &spare_path))?;
        let segment = Arc::new(Segment::new(&header, path, Arc::clone(&self.disk), lease, file));
        self.change(|segments| segments.insert(number, Arc::clone(&segment)));
        Ok(segment)
    }

    /// Removes a segment that nothing refers to any more. One that cannot be removed stays: as long as its file is there, so must
    /// be the newer ones that say what in it is dead.
    pub fn remove(&self, segment: &Segment) -> Result<(), Error> {
        segment.remove().map_err(Error::io("remove", segment.path()))?;
        self.change(|segments| segments.remove(&segment.number));
        Ok(())
    }

    pub fn remove_spare(&self, spare: &Spare) -> Result<(), Error> {
        self.disk.remove(&spare.path).map_err(Error::io("remove", &spare.path))
    }

    pub fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory(&self.directory)
    }

    fn change<T>(&self, change: impl FnOnce(&mut SegmentMap) -> T) -> T {
        let _changing = self.changing.lock();
        let mut segments = SegmentMap::clone(&self.by_number.load());
        let result = change(&mut segments);
        self.by_number.store(Arc::new(segments));
        result
    }
}
