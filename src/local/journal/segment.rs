//! A segment, one file of the journal: its descriptor and map, what is known of its records and bodies, sealing, cutting and removing it.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

use super::segment_header::{Seal, SegmentHeader, SegmentKind, read_header};
use crate::error::Error;
use crate::local::files::disk::{self, Disk, DiskFile};
use crate::local::files::mapping::Mapping;
use crate::local::files::open_files::{FileSlot, OpenFiles};
use crate::local::files::space::Lease;

/// Bodies begin at multiples of this, so that writing one never touches a page of another.
pub(crate) const BODY_ALIGNMENT: u64 = 4096;

/// The grain of `Marks`. No two records begin within this many bytes, as a record's header alone is longer.
const MARK_GRAIN_BYTES: u32 = 64;

/// One bit for each record (or body) of a segment, allocated when the first one is set.
#[derive(Default)]
struct Marks(OnceLock<Box<[AtomicU64]>>);

impl Marks {
    fn cell(&self, offset: u32, segment_bytes: u64) -> Option<(&AtomicU64, u64)> {
        let words = self.0.get_or_init(|| {
            let count = segment_bytes.div_ceil(u64::from(MARK_GRAIN_BYTES) * 64) as usize;
            std::iter::repeat_with(AtomicU64::default).take(count).collect()
        });
        let grain = offset / MARK_GRAIN_BYTES;
        Some((words.get(grain as usize / 64)?, 1 << (grain % 64)))
    }

    fn has(&self, offset: u32, segment_bytes: u64) -> bool {
        self.cell(offset, segment_bytes).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Reads before it writes: setting a bit that is set already takes the cache line from no other core.
    fn set(&self, offset: u32, segment_bytes: u64) {
        if let Some((word, bit)) = self.cell(offset, segment_bytes)
            && word.load(Ordering::Relaxed) & bit == 0
        {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn unset(&self, offset: u32, segment_bytes: u64) {
        if let Some((word, bit)) = self.cell(offset, segment_bytes) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    fn unset_all(&self) {
        self.0.get().into_iter().flatten().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// Why a segment is not durable.
#[derive(Debug)]
pub(crate) enum SyncError {
    /// The sync was not attempted, so it can be tried again.
    NotTried(Error),
    /// The sync failed: what was written may be lost, and a second try proves nothing.
    Failed(Error),
}

impl SyncError {
    pub fn into_error(self) -> Error {
        match self {
            SyncError::NotTried(error) | SyncError::Failed(error) => error,
        }
    }
}

/// An open segment. Its file is opened and mapped on use.
pub(crate) struct Segment {
    pub number: u32,
    pub kind: SegmentKind,
    pub nonce: u64,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    lease: Arc<Lease>,
    open_files: Arc<OpenFiles>,
    file: Arc<FileSlot>,
    mapping: ArcSwapOption<Mapping>,
    /// Used since the last sweep: see `Segments::sweep`.
    touched: AtomicBool,
    live_bytes: AtomicU64,
    /// Bodies that a live record refers to or that are being written: 0 only if nothing in the segment counts.
    bodies: AtomicU64,
    /// As `bodies`, plus those that are dead and not yet free: at 0 the file may be removed.
    stretches: AtomicU64,
    /// A session of an earlier open may still use bytes of it: nothing is written to its free room.
    withheld: AtomicBool,
    /// Where the records end, once no more are appended; 0 before.
    records_end: AtomicU64,
    /// Sealed on disk, with its hints in the catalog.
    sealed: AtomicBool,
    /// Present where the bytes come from an earlier open, so that the disk may have changed them.
    verified: Option<Marks>,
    /// Objects that were read since they were written here: eviction spares them at first.
    read: Marks,
    /// Suspects that were found to be what Redis has: see `LocalTier::trust`.
    trusted: Marks,
    /// Where values have no versions: records whose own events were heard.
    announced: Marks,
}

impl Segment {
    /// A segment that this open has just made.
    pub fn new(
        header: &SegmentHeader,
        path: PathBuf,
        disk: Arc<dyn Disk>,
        lease: Arc<Lease>,
        open_files: &Arc<OpenFiles>,
        file: Arc<dyn DiskFile>,
    ) -> Self {
        let file = Arc::new(FileSlot::new(file));
        open_files.note(&file);
        Segment { file, verified: None, ..Segment::found(header, path, disk, lease, open_files) }
    }

    /// A segment that an earlier open left behind.
    pub fn found(
        header: &SegmentHeader,
        path: PathBuf,
        disk: Arc<dyn Disk>,
        lease: Arc<Lease>,
        open_files: &Arc<OpenFiles>,
    ) -> Self {
        Segment {
            number: header.number,
            kind: header.kind,
            nonce: header.nonce,
            path,
            disk,
            lease,
            open_files: Arc::clone(open_files),
            file: Arc::default(),
            mapping: ArcSwapOption::empty(),
            touched: AtomicBool::new(false),
            live_bytes: AtomicU64::new(0),
            bodies: AtomicU64::new(0),
            stretches: AtomicU64::new(0),
            withheld: AtomicBool::new(false),
            records_end: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            verified: Some(Marks::default()),
            read: Marks::default(),
            trusted: Marks::default(),
            announced: Marks::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.lease.bytes()
    }

    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    pub fn add_live(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn remove_live(&self, bytes: u64) {
        let less = |live: u64| Some(live.saturating_sub(bytes));
        // The closure never returns None, so this cannot fail.
        let _ = self.live_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// A stretch was reserved, or a body restored at open.
    pub fn body_came(&self) {
        self.bodies.fetch_add(1, Ordering::SeqCst);
    }

    /// A body is dead, or its reservation was given back.
    pub fn body_went(&self) {
        self.bodies.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn has_bodies(&self) -> bool {
        self.bodies.load(Ordering::SeqCst) > 0
    }

    /// A stretch is not free any more.
    pub fn stretch_came(&self) {
        self.stretches.fetch_add(1, Ordering::SeqCst);
    }

    /// A stretch is free again.
    pub fn stretch_went(&self) {
        self.stretches.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn has_stretches(&self) -> bool {
        self.stretches.load(Ordering::SeqCst) > 0
    }

    pub fn is_withheld(&self) -> bool {
        self.withheld.load(Ordering::Acquire)
    }

    pub fn set_withheld(&self, is_withheld: bool) {
        self.withheld.store(is_withheld, Ordering::Release);
    }

    /// No more records are appended. The file is cut here, and must not be read behind this.
    pub fn set_records_end(&self, end: u64) {
        self.records_end.store(end, Ordering::Release);
    }

    pub fn records_end(&self) -> u64 {
        match self.records_end.load(Ordering::Acquire) {
            0 => self.bytes(),
            end => end,
        }
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub fn set_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// The open file, opened if it is not.
    pub fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.open_files.get(&self.file, || self.disk.open(&self.path))
    }

    /// The map, if there is one now.
    #[inline]
    pub fn mapping(&self) -> Guard<Option<Arc<Mapping>>> {
        self.touch();
        self.mapping.load()
    }

    /// Maps the file as long as it is now.
    pub fn map(&self) -> io::Result<Arc<Mapping>> {
        let file = self.file()?;
        let mapping = Mapping::new(file.file(), self.bytes(), Arc::clone(&self.lease))?;
        let mapping = Arc::new(match self.kind {
            SegmentKind::Records => mapping,
            SegmentKind::Bodies | SegmentKind::Body => mapping.listed(self.number, self.open_files.body_maps()),
        });
        self.mapping.store(Some(Arc::clone(&mapping)));
        Ok(mapping)
    }

    #[inline]
    fn touch(&self) {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since the last call.
    pub fn was_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Closes the descriptor; what is mapped stays mapped.
    pub fn close_file(&self) {
        self.file.close();
    }

    pub fn is_mapped(&self) -> bool {
        self.mapping.load().is_some()
    }

    /// Unmaps; readers that hold bytes keep them.
    pub fn unmap(&self) {
        self.mapping.store(None);
    }

    /// The mark's position and range for a record or a body. Bodies begin at far fewer places, so their marks are scaled down.
    #[inline]
    fn mark(&self, offset: u32) -> (u32, u64) {
        let part = BODY_ALIGNMENT / u64::from(MARK_GRAIN_BYTES);
        match self.kind {
            SegmentKind::Records => (offset, self.bytes()),
            SegmentKind::Bodies => ((u64::from(offset) / part) as u32, self.bytes() / part),
            // A single body, at the beginning.
            SegmentKind::Body => (0, u64::from(MARK_GRAIN_BYTES)),
        }
    }

    /// Whether the record, or the body, at `offset` still has to be checked before it is handed out.
    #[inline]
    pub fn needs_verification(&self, offset: u32) -> bool {
        let Some(verified) = &self.verified else { return false };
        let (offset, bytes) = self.mark(offset);
        !verified.has(offset, bytes)
    }

    pub fn set_verified(&self, offset: u32) {
        if let Some(verified) = &self.verified {
            let (offset, bytes) = self.mark(offset);
            verified.set(offset, bytes);
        }
    }

    pub fn was_read(&self, offset: u32) -> bool {
        self.read.has(offset, self.bytes())
    }

    #[inline]
    pub fn set_read(&self, offset: u32) {
        self.read.set(offset, self.bytes());
    }

    pub fn is_trusted(&self, offset: u32) -> bool {
        self.trusted.has(offset, self.bytes())
    }

    pub fn set_trusted(&self, offset: u32, is_trusted: bool) {
        if is_trusted {
            self.trusted.set(offset, self.bytes());
        } else {
            self.trusted.unset(offset, self.bytes());
        }
    }

    pub fn is_announced(&self, offset: u32) -> bool {
        self.announced.has(offset, self.bytes())
    }

    pub fn set_announced(&self, offset: u32) {
        self.announced.set(offset, self.bytes());
    }

    /// All suspects in the segment have to be checked again.
    pub fn trust_none(&self) {
        self.trusted.unset_all();
    }

    /// Writes the seal: from now on the segment has exactly the records up to `end`, and an invalid one is damage and not the end. Does not
    /// make it durable.
    pub fn write_seal(&self, seal: Seal) -> io::Result<()> {
        let SegmentHeader { number, kind, nonce, .. } = self.header();
        let header = SegmentHeader { number, kind, nonce, seal: Some(seal) }.encode();
        let file = self.file()?;
        file.write_all_at(&mut [IoSlice::new(&header)], 0)
    }

    /// The segment's seal, if it has one.
    pub fn read_seal(&self) -> io::Result<Option<Seal>> {
        Ok(read_header(&self.path)?.and_then(|header| header.seal))
    }

    /// Makes what was written durable, unless the segment was removed meanwhile: then nobody refers to it.
    pub fn sync(&self) -> Result<(), SyncError> {
        self.sync_through(None)
    }

    /// As `sync`, through the file if the caller has it open.
    pub fn sync_through(&self, file: Option<&dyn DiskFile>) -> Result<(), SyncError> {
        let Some(file) = file else {
            return match self.file() {
                Ok(file) => self.sync_through(Some(&*file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(SyncError::NotTried(Error::io("open", &self.path)(error))),
            };
        };
        loop {
            match file.sync() {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SyncError::Failed(Error::io("sync", &self.path)(error))),
            }
        }
    }

    /// Cuts the preallocated rest off.
    pub fn trim(&self, end: u64) -> io::Result<()> {
        if end < self.bytes() { self.cut(&*self.file()?, end) } else { Ok(()) }
    }

    /// As `trim`, through the open file, and also if the file is no longer than `end`.
    pub fn cut(&self, file: &dyn DiskFile, end: u64) -> io::Result<()> {
        file.truncate(end)?;
        self.lease.shrink(end.min(self.bytes()));
        Ok(())
    }

    /// Removes the file. Its space comes back when nobody maps it any more. Of a body segment in which nobody holds anything it comes back at
    /// once, by punching a hole: attached processes keep maps of those.
    pub fn remove(&self) -> io::Result<()> {
        let file = if self.kind == SegmentKind::Records || self.is_withheld() { None } else { Some(self.file()) };
        self.disk.remove(&self.path)?;
        match file {
            // The header stays: should the name come back after a power loss, it is an empty segment.
            Some(Ok(file)) => disk::punch(file.file(), BODY_ALIGNMENT),
            Some(Err(error)) => tracing::debug!("{}: {error}; maps of it keep its room", self.path.display()),
            None => {}
        }
        self.lease.unlink();
        self.close_file();
        self.unmap();
        Ok(())
    }

    fn header(&self) -> SegmentHeader {
        SegmentHeader { number: self.number, kind: self.kind, nonce: self.nonce, seal: None }
    }
}
