//! All segments of the journal: the map by number, new segments and spare files, the numbers that are given, removal.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::segment::Segment;
use super::segment_header::{SegmentHeader, SegmentKind, file_name};
use crate::error::{Error, is_disk_full};
use crate::local::files::disk::{Disk, DiskFile};
use crate::local::files::mapping::Mapping;
use crate::local::files::numbers::Numbers;
use crate::local::files::open_files::OpenFiles;
use crate::local::files::space::{Lease, Space};
use crate::random::random_u64;

/// Most segments that are mapped, besides those that readers hold bytes of. Linux allows a process 65 530 maps, of which other parts of
/// the process need some.
const MAPPED_SEGMENTS_MAX: usize = 16_384;

/// Segment numbers end here.
const NUMBER_MAX: u32 = u32::MAX - (1 << 16);

/// All segments, by number.
pub(crate) type SegmentMap = FxHashMap<u32, Arc<Segment>>;

/// All segments of the journal, by number.
pub(crate) struct Segments {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    space: Arc<Space>,
    by_number: ArcSwap<SegmentMap>,
    changing: Mutex<()>,
    open_files: Arc<OpenFiles>,
    numbers: Numbers,
    next_number: Mutex<u32>,
    /// Files were created or renamed since the last sync of the directory.
    names_unsynced: AtomicBool,
    syncing_names: Mutex<()>,
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

impl NoFile {
    /// Whether the disk is full, which may pass.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, NoFile::Failed(Error::Io { source, .. }) if is_disk_full(source))
    }
}

impl Spare {
    pub fn bytes(&self) -> u64 {
        self.lease.bytes()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts the file to this length, if it is longer.
    pub fn shorten(&self, bytes: u64) -> io::Result<()> {
        if self.bytes() > bytes {
            self.file.truncate(bytes)?;
            self.lease.shrink(bytes);
        }
        Ok(())
    }
}

impl Segments {
    pub fn new(
        directory: PathBuf,
        disk: Arc<dyn Disk>,
        space: Arc<Space>,
        open_files: Arc<OpenFiles>,
        found: SegmentMap,
        numbers: Numbers,
        next_number: u32,
    ) -> Self {
        Segments {
            directory,
            disk,
            space,
            by_number: ArcSwap::from_pointee(found),
            changing: Mutex::new(()),
            open_files,
            numbers,
            next_number: Mutex::new(next_number),
            names_unsynced: AtomicBool::new(true),
            syncing_names: Mutex::new(()),
            next_spare: AtomicU32::new(0),
            mapped: AtomicUsize::new(0),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The segments as they are now; later changes make a new map.
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

    /// The live bytes of the fullest record segment, at most `bytes_max`: what its evacuation would copy.
    pub fn largest_live_bytes(&self, bytes_max: u64) -> u64 {
        let segments = self.load();
        let records = segments.values().filter(|segment| segment.kind == SegmentKind::Records);
        records.map(|segment| segment.live_bytes()).max().unwrap_or(0).min(bytes_max)
    }

    /// The body segment in whose map these bytes are, and their offset in it.
    pub fn find_body(&self, bytes: &[u8]) -> Option<(Arc<Segment>, u64)> {
        let (number, offset) = self.open_files.body_maps().find(bytes)?;
        Some((self.get(number)?, offset))
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

    /// If too many segments are mapped, unmaps those that were not used since the last sweep, and more if that is not enough.
    pub fn sweep(&self) {
        let segments = self.load();
        let is_mapped = |segment: &&Arc<Segment>| segment.is_mapped();
        let mut mapped = segments.values().filter(is_mapped).count();
        if mapped >= MAPPED_SEGMENTS_MAX {
            let mut unmap = |is_asked: &dyn Fn(&Segment) -> bool| {
                for segment in segments.values().filter(is_mapped) {
                    if mapped > MAPPED_SEGMENTS_MAX / 4 * 3 && is_asked(segment) {
                        segment.unmap();
                        mapped -= 1;
                    }
                }
            };
            unmap(&|segment| !segment.was_touched());
            unmap(&|_| true);
        }
        self.mapped.store(mapped, Ordering::Relaxed);
    }

    /// Preallocates a file for puts.
    pub fn create_spare(&self, bytes: u64) -> Result<Spare, NoFile> {
        let lease = self.space.take(bytes).ok_or(NoFile::NoRoom)?;
        self.preallocate(bytes, lease)
    }

    /// Preallocates a file for the reserve, or for copies that do not fit into the reserve.
    pub fn create_reserved_spare(&self, bytes: u64) -> Result<Spare, NoFile> {
        self.preallocate(bytes, self.space.lease_beyond_limit(bytes))
    }

    fn preallocate(&self, bytes: u64, lease: Arc<Lease>) -> Result<Spare, NoFile> {
        let name = format!("{}.spare", self.next_spare.fetch_add(1, Ordering::Relaxed));
        let path = self.directory.join(name);
        match self.disk.create(&path, bytes) {
            Ok(file) => Ok(Spare { path, file, lease }),
            Err(error) => Err(NoFile::Failed(Error::io("create", path)(error))),
        }
    }

    /// A file that an earlier open preallocated.
    pub fn found_spare(&self, path: PathBuf, bytes: u64) -> Result<Spare, Error> {
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u32>().ok());
        // Spare files that are made from now on get higher numbers.
        self.next_spare.fetch_max(number.map_or(0, |number| number.wrapping_add(1)), Ordering::Relaxed);
        let file = self.disk.open(&path).map_err(Error::io("open", &path))?;
        Ok(Spare { path, file, lease: self.space.lease_existing(bytes) })
    }

    /// Whether files of this length could be made for puts now.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.space.has_ordinary_room(bytes)
    }

    /// The reserve's files have this length now.
    pub fn set_reserved_bytes(&self, bytes: u64) {
        self.space.set_reserved_bytes(bytes);
    }

    /// The next segment number, which is never given again.
    fn give_number(&self) -> Result<u32, Error> {
        let mut next = self.next_number.lock();
        let number = *next;
        if number >= NUMBER_MAX {
            return Err(Error::Config(format!(
                "{}: there are no segment numbers left; copy the objects to a store in another directory",
                self.directory.display()
            )));
        }
        self.numbers.give(number)?;
        *next = number + 1;
        Ok(number)
    }

    /// Gives a spare file the next number, and so makes a segment of it. If that fails, the file is removed.
    pub fn activate(&self, spare: Spare, kind: SegmentKind) -> Result<Arc<Segment>, Error> {
        let activated = self.give_number().and_then(|number| self.name(&spare, number, kind));
        let (header, path) = match activated {
            Ok(named) => named,
            Err(error) => {
                if let Err(error) = self.remove_spare(&spare) {
                    tracing::warn!("{error}; the next open removes it");
                    std::mem::forget(Arc::clone(&spare.lease)); // the file is there, so its room stays taken
                }
                return Err(error);
            }
        };
        let Spare { file, lease, .. } = spare;
        let disk = Arc::clone(&self.disk);
        let segment = Arc::new(Segment::new(&header, path, disk, lease, &self.open_files, file));
        self.change(|segments| segments.insert(header.number, Arc::clone(&segment)));
        Ok(segment)
    }

    fn name(&self, spare: &Spare, number: u32, kind: SegmentKind) -> Result<(SegmentHeader, PathBuf), Error> {
        let header = SegmentHeader { number, kind, nonce: random_u64(), seal: None };
        let path = self.directory.join(file_name(number, kind));
        let written = spare.file.write_all_at(&mut [IoSlice::new(&header.encode())], 0);
        written.map_err(Error::io("write", &spare.path))?;
        self.disk.rename(&spare.path, &path).map_err(Error::io("rename", &spare.path))?;
        self.names_unsynced.store(true, Ordering::Release);
        Ok((header, path))
    }

    /// Removes a segment that nothing refers to any more. One that cannot be removed stays in the map: as long as its file is there, so must
    /// be the newer segments that say what in it is dead.
    pub fn remove(&self, segment: &Segment) -> Result<(), Error> {
        match segment.remove() {
            // Removed before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(Error::io("remove", segment.path()))?,
        }
        self.change(|segments| segments.remove(&segment.number));
        Ok(())
    }

    /// Makes it durable that record segments up to this one are reclaimed. To be called before the file is removed.
    pub fn reclaimed(&self, number: u32) -> Result<(), Error> {
        self.numbers.reclaimed_below(number.saturating_add(1))
    }

    pub fn remove_spare(&self, spare: &Spare) -> Result<(), Error> {
        self.disk.remove(&spare.path).map_err(Error::io("remove", &spare.path))
    }

    /// Makes the directory's names durable.
    pub fn sync_directory(&self) -> io::Result<()> {
        let _syncing = self.syncing_names.lock();
        self.sync_names_locked()
    }

    /// Makes the names of new segments durable, if there are any.
    pub fn sync_names(&self) -> io::Result<()> {
        // Whoever finds no unsynced names must wait for the sync that another thread may be running.
        let _syncing = self.syncing_names.lock();
        if self.names_unsynced.load(Ordering::Acquire) { self.sync_names_locked() } else { Ok(()) }
    }

    fn sync_names_locked(&self) -> io::Result<()> {
        self.names_unsynced.store(false, Ordering::Release);
        self.disk.sync_directory(&self.directory).inspect_err(|_| self.names_unsynced.store(true, Ordering::Release))
    }

    fn change<T>(&self, change: impl FnOnce(&mut SegmentMap) -> T) -> T {
        let _changing = self.changing.lock();
        let mut segments = SegmentMap::clone(&self.by_number.load());
        let result = change(&mut segments);
        self.by_number.store(Arc::new(segments));
        result
    }
}
