use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IoSlice;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::DiskFile;
use super::files::space::Space;
use super::journal::segment::BODY_ALIGNMENT;
use super::journal::{BodyPlace, Lsn, NoFile, Segment, SegmentKind, Segments, SyncError};
use crate::error::Error;

/// A body segment of its own grows by this much at a time, as the bytes arrive.
const GROWTH_BYTES: u64 = 16 << 20;

/// Body segments that are wholly free, kept for the next bodies.
const EMPTY_SEGMENTS_KEPT: usize = 1;

/// A body that takes more than this part of a segment has a segment of its own: holes that are too small for the next body would
/// add up to too much otherwise.
const SHARED_SEGMENT_PART: u64 = 4;

/// A part of a body segment that belongs to one body. Whoever holds it can read the bytes: they are not written again before it
/// is dropped.
pub(crate) struct Stretch {
    pub place: BodyPlace,
    pub segment: Arc<Segment>,
    /// Length, a multiple of the alignment.
    bytes: u64,
}

/// The bodies that are too large to stand in their records.
///
/// A body segment's free stretches are used again, but only when nobody can read the old bytes any more: the record that
/// superseded the old body is durable, so that not even a power loss brings the old one back, and no reader holds it.
pub(crate) struct Bodies {
    segments: Arc<Segments>,
    space: Arc<Space>,
    segment_bytes: u64,
    live: Mutex<HashMap<BodyPlace, LiveBody>>,
    free: Mutex<Free>,
    dead: Mutex<Dead>,
    /// Segments with bodies that no sync has covered.
    written: Mutex<BTreeMap<u32, Arc<Segment>>>,
    /// Held while they are synced: who finds none left may not go on before that is done.
    syncing: Mutex<()>,
    /// Segments in which nothing counts, whose files could not be removed yet.
    unremoved: Mutex<Vec<Arc<Segment>>>,
}

struct LiveBody {
    stretch: Arc<Stretch>,
    /// The record that refers to it.
    record: Lsn,
}

#[derive(Default)]
struct Free {
    by_place: BTreeMap<(u32, u32), u64>,
    by_bytes: BTreeSet<(u64, u32, u32)>,
    /// Of all stretches together.
    bytes: u64,
}

#[derive(Default)]
struct Dead {
    stretches: Vec<DeadStretch>,
    bytes: u64,
}

struct DeadStretch {
    stretch: Arc<Stretch>,
    /// What made it dead.
    by: Superseder,
    pinned: bool,
}

/// What made a body dead: its bytes stay until that is durable.
#[derive(Clone)]
pub(crate) struct Superseder {
    pub lsn: Lsn,
    /// Where the superseding record's own body is, if it is a large one: without it, the record would not count after a power loss.
    pub body: Option<Arc<Segment>>,
}

impl From<Lsn> for Superseder {
    fn from(lsn: Lsn) -> Self {
        Superseder { lsn, body: None }
    }
}

impl Bodies {
    pub fn new(segments: Arc<Segments>, space: Arc<Space>) -> Self {
        Bodies {
            segments,
            segment_bytes: space.segment_bytes_max() + BODY_ALIGNMENT,
            space,
            live: Mutex::default(),
            free: Mutex::default(),
            dead: Mutex::default(),
            written: Mutex::default(),
            syncing: Mutex::default(),
            unremoved: Mutex::default(),
        }
    }

    /// Room for a body. Given back when dropped without being kept.
    pub fn reserve(self: &Arc<Self>, body_bytes: u64) -> Result<Reservation, NoFile> {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let stretch = if bytes + BODY_ALIGNMENT > self.segment_bytes / SHARED_SEGMENT_PART {
            let segment = self.create_segment(SegmentKind::Body, BODY_ALIGNMENT + bytes.min(GROWTH_BYTES))?;
            Stretch { place: BodyPlace { segment: segment.number, offset: BODY_ALIGNMENT as u32 }, segment, bytes }
        } else {
            self.allocate(bytes)?
        };
        self.reserved(stretch)
    }

    /// The same, in a hole that is there, outside one segment: for a body that is moved out of it.
    pub fn reserve_elsewhere(self: &Arc<Self>, body_bytes: u64, number: u32) -> Result<Option<Reservation>, NoFile> {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let taken = self.free.lock().take(bytes, |segment| segment != number);
        let Some((number, offset)) = taken else { return Ok(None) };
        let segment = self.segments.get(number).ok_or(NoFile::NoRoom)?;
        self.reserved(Stretch { place: BodyPlace { segment: number, offset }, segment, bytes }).map(Some)
    }

    fn reserved(self: &Arc<Self>, stretch: Stretch) -> Result<Reservation, NoFile> {
        stretch.segment.body_came();
        let mut reservation =
            Reservation { bodies: Arc::clone(self), stretch: Some(Arc::new(stretch)), file: None, written: 0 };
        let segment = Arc::clone(&reservation.stretch().map_err(NoFile::Failed)?.segment);
        // Open from here to the end: a write must not fail half-way for want of a descriptor.
        let file = segment.file().map_err(|error| NoFile::Failed(Error::io("open", segment.path())(error)))?;
        reservation.file = Some(file);
        Ok(reservation)
    }

    fn allocate(&self, bytes: u64) -> Result<Stretch, NoFile> {
        let mut free = self.free.lock();
        if free.best_fit(bytes).is_none() {
            let segment = self.create_segment(SegmentKind::Bodies, self.segment_bytes)?;
            free.insert(segment.number, BODY_ALIGNMENT as u32, segment.bytes() - BODY_ALIGNMENT);
        }
        let (number, offset) = free.take(bytes, |_| true).ok_or(NoFile::NoRoom)?;
        drop(free);
        let segment = self.segments.get(number).ok_or(NoFile::NoRoom)?;
        Ok(Stretch { place: BodyPlace { segment: number, offset }, segment, bytes })
    }

    fn create_segment(&self, kind: SegmentKind, bytes: u64) -> Result<Arc<Segment>, NoFile> {
        let spare = self.segments.create_spare(bytes)?;
        self.segments.activate(spare, kind).map_err(NoFile::Failed)
    }

    /// The body at a place that a live record refers to.
    pub fn find(&self, place: BodyPlace) -> Option<Arc<Stretch>> {
        self.live.lock().get(&place).map(|body| Arc::clone(&body.stretch))
    }

    /// Another record refers to the body now.
    pub fn referred(&self, place: BodyPlace, record: Lsn) {
        if let Some(body) = self.live.lock().get_mut(&place) {
            body.record = record;
        }
    }

    /// The record that referred to this body is superseded.
    pub fn release(&self, place: BodyPlace, by: Superseder) {
        let Some(LiveBody { stretch, .. }) = self.live.lock().remove(&place) else { return };
        stretch.segment.remove_live(stretch.bytes);
        self.space.remove_live(stretch.bytes);
        stretch.segment.body_went();
        let pinned = Arc::strong_count(&stretch) > 1;
        if pinned {
            self.space.add_pinned(stretch.bytes);
        }
        let mut dead = self.dead.lock();
        dead.bytes += stretch.bytes;
        dead.stretches.push(DeadStretch { stretch, by, pinned });
    }

    /// Free bytes inside the segments of bodies.
    pub fn hole_bytes(&self) -> u64 {
        self.free.lock().bytes
    }

    /// Bytes that wait for `reap` and that nobody reads.
    pub fn reapable_bytes(&self) -> u64 {
        let dead = self.dead.lock();
        let is_read = |entry: &&DeadStretch| entry.pinned && Arc::strong_count(&entry.stretch) > 1;
        dead.bytes - dead.stretches.iter().filter(is_read).map(|entry| entry.stretch.bytes).sum::<u64>()
    }

    /// Makes the bodies durable that have taken the place of dead ones: these may go then, once the records are durable as well.
    pub fn sync_superseders(&self) -> Result<(), SyncError> {
        let superseders: BTreeSet<u32> = {
            let dead = self.dead.lock();
            dead.stretches.iter().filter_map(|entry| entry.by.body.as_ref().map(|segment| segment.number)).collect()
        };
        self.sync_written(|number, _| superseders.contains(&number))?;
        for entry in &mut self.dead.lock().stretches {
            if entry.by.body.as_ref().is_some_and(|segment| superseders.contains(&segment.number)) {
                entry.by.body = None;
            }
        }
        Ok(())
    }

    /// Frees the dead stretches that nobody reads and whose superseding records, below `durable`, are durable with their bodies.
    pub fn reap(&self, durable: Lsn) -> Result<u64, Error> {
        let reapable: Vec<DeadStretch> = {
            let mut dead = self.dead.lock();
            let is_free = |entry: &mut DeadStretch| {
                entry.by.lsn < durable && entry.by.body.is_none() && Arc::strong_count(&entry.stretch) == 1
            };
            let reapable: Vec<_> = dead.stretches.extract_if(.., is_free).collect();
            dead.bytes -= reapable.iter().map(|entry| entry.stretch.bytes).sum::<u64>();
            reapable
        };
        let mut freed = 0;
        let mut result = self.remove_unremoved();
        for DeadStretch { stretch, pinned, .. } in reapable {
            freed += stretch.bytes;
            if pinned {
                self.space.remove_pinned(stretch.bytes);
            }
            result = result.and(self.free(&stretch));
        }
        result.map(|()| freed)
    }

    /// Makes a stretch's room free, and removes its segment where that leaves it empty.
    fn free(&self, stretch: &Stretch) -> Result<(), Error> {
        let segment = &stretch.segment;
        if segment.is_withheld() {
            if segment.has_bodies() {
                return Ok(());
            }
        } else if segment.kind == SegmentKind::Bodies {
            let mut free = self.free.lock();
            free.insert(stretch.place.segment, stretch.place.offset, stretch.bytes);
            if !free.is_empty_segment(segment, EMPTY_SEGMENTS_KEPT) {
                return Ok(());
            }
            free.remove_segment(segment.number);
        }
        self.remove(segment)
    }

    fn remove(&self, segment: &Arc<Segment>) -> Result<(), Error> {
        self.written.lock().remove(&segment.number);
        self.segments.remove(segment).inspect_err(|_| self.unremoved.lock().push(Arc::clone(segment)))
    }

    /// Tries again to remove what could not be removed.
    fn remove_unremoved(&self) -> Result<(), Error> {
        let segments = std::mem::take(&mut *self.unremoved.lock());
        segments.iter().map(|segment| self.remove(segment)).fold(Ok(()), Result::and)
    }

    /// Removes the segments that are wholly free; whether there were any.
    pub fn drop_empty(&self) -> Result<bool, Error> {
        let mut is_freed = false;
        let segments: Vec<_> = self.segments.load().values().map(Arc::clone).collect();
        for segment in segments.iter().filter(|segment| segment.kind == SegmentKind::Bodies) {
            let mut free = self.free.lock();
            if free.is_empty_segment(segment, 0) {
                free.remove_segment(segment.number);
                drop(free);
                self.remove(segment)?;
                is_freed = true;
            }
        }
        Ok(is_freed)
    }

    /// Makes every body durable that was written since the last call and that still counts.
    pub fn sync(&self) -> Result<(), SyncError> {
        self.sync_written(|_, segment| segment.has_bodies())
    }

    /// Syncs the written segments that are asked for; the others count as written still, unless nothing in them counts.
    fn sync_written(&self, is_asked: impl Fn(u32, &Segment) -> bool) -> Result<(), SyncError> {
        let _syncing = self.syncing.lock();
        let mut asked: Vec<Arc<Segment>> = {
            let mut written = self.written.lock();
            let asked = written.iter().filter(|(number, segment)| is_asked(**number, segment));
            let asked: Vec<_> = asked.map(|(_, segment)| Arc::clone(segment)).collect();
            asked.iter().for_each(|segment| drop(written.remove(&segment.number)));
            asked
        };
        while let Some(segment) = asked.first() {
            match segment.sync() {
                Ok(()) => drop(asked.remove(0)),
                Err(error) => {
                    // Still to be synced, if it can be tried again.
                    self.written.lock().extend(asked.into_iter().map(|segment| (segment.number, segment)));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// At open: a live record refers to this body. False where two claim the same bytes, which only damage can bring about.
    pub fn restore(&self, place: BodyPlace, body_bytes: u64, segment: &Arc<Segment>, record: Lsn) -> bool {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let stretch = Arc::new(Stretch { place, segment: Arc::clone(segment), bytes });
        if self.live.lock().insert(place, LiveBody { stretch, record }).is_some() {
            return false;
        }
        segment.body_came();
        segment.add_live(bytes);
        self.space.add_live(bytes);
        true
    }

    /// At open, when every live body is restored: what lies between them is free, and a segment without any is removed.
    pub fn restore_free(&self) -> Result<(), Error> {
        let segments: Vec<_> = self.segments.load().values().map(Arc::clone).collect();
        for segment in segments.iter().filter(|segment| segment.kind != SegmentKind::Records) {
            if !segment.has_bodies() {
                self.segments.remove(segment)?;
            } else if !segment.is_withheld() {
                self.restore_free_in(segment);
            }
        }
        Ok(())
    }

    fn restore_free_in(&self, segment: &Segment) {
        if segment.kind != SegmentKind::Bodies {
            return;
        }
        let live = self.live.lock();
        let dead = self.dead.lock();
        let in_use = live.values().map(|body| &body.stretch).chain(dead.stretches.iter().map(|entry| &entry.stretch));
        let here = in_use.filter(|stretch| stretch.segment.number == segment.number);
        let taken: BTreeMap<u64, u64> = here.map(|it| (u64::from(it.place.offset), it.bytes)).collect();
        let mut free = self.free.lock();
        let mut at = BODY_ALIGNMENT;
        for (offset, bytes) in taken {
            if offset > at {
                free.insert(segment.number, at as u32, offset - at);
            }
            at = at.max(offset + bytes);
        }
        if segment.bytes() > at {
            free.insert(segment.number, at as u32, segment.bytes() - at);
        }
    }

    /// Nobody can read unknown bytes of the segment any more: what is free in it may be written again.
    pub fn stop_withholding(&self, segment: &Arc<Segment>) -> Result<(), Error> {
        if !segment.is_withheld() {
            return Ok(());
        }
        if !segment.has_bodies() {
            return self.remove(segment);
        }
        self.restore_free_in(segment);
        segment.set_withheld(false);
        Ok(())
    }

    /// The body segments of which somebody holds bytes now.
    pub fn read_segments(&self) -> Vec<u32> {
        let live = self.live.lock();
        let dead = self.dead.lock();
        let all = live.values().map(|body| &body.stretch).chain(dead.stretches.iter().map(|entry| &entry.stretch));
        let read: BTreeSet<u32> = all.filter(|it| Arc::strong_count(it) > 1).map(|it| it.segment.number).collect();
        read.into_iter().collect()
    }

    /// The shared body segment with the most free room, unless it is wholly free, and the records of its bodies.
    pub fn sparsest(&self) -> Option<(Arc<Segment>, Vec<Lsn>)> {
        let free_bytes = |number: u32| -> u64 {
            self.free.lock().by_place.range((number, 0)..=(number, u32::MAX)).map(|(_, bytes)| bytes).sum()
        };
        let segments = self.segments.load();
        let shared =
            segments.values().filter(|it| it.kind == SegmentKind::Bodies && !it.is_withheld() && it.has_bodies());
        let segment = shared.max_by_key(|segment| free_bytes(segment.number))?;
        let whole = segment.bytes() - BODY_ALIGNMENT;
        // Wholly in use or wholly free: nothing to gain.
        if !(1..whole).contains(&free_bytes(segment.number)) {
            return None;
        }
        let live = self.live.lock();
        let here = live.values().filter(|body| body.stretch.segment.number == segment.number);
        let mut records: Vec<_> = here.map(|body| (body.record, body.stretch.bytes)).collect();
        // The largest first, as long as holes are large.
        records.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        Some((Arc::clone(segment), records.into_iter().map(|(record, _)| record).collect()))
    }
}

impl Free {
    fn best_fit(&self, bytes: u64) -> Option<(u64, u32, u32)> {
        self.by_bytes.range((bytes, 0, 0)..).next().copied()
    }

    /// The smallest free stretch that is large enough, in a segment that is asked for, cut to size.
    fn take(&mut self, bytes: u64, is_asked: impl Fn(u32) -> bool) -> Option<(u32, u32)> {
        let found = *self.by_bytes.range((bytes, 0, 0)..).find(|(_, segment, _)| is_asked(*segment))?;
        let (length, segment, offset) = found;
        self.remove(segment, offset, length);
        if length > bytes {
            self.insert(segment, offset + bytes as u32, length - bytes);
        }
        Some((segment, offset))
    }

    /// Adds a free stretch, merged with those that touch it.
    fn insert(&mut self, segment: u32, mut offset: u32, mut bytes: u64) {
        let before = self.by_place.range(..(segment, offset)).next_back().map(|(place, bytes)| (*place, *bytes));
        if let Some(((before_segment, before_offset), before_bytes)) = before
            && before_segment == segment
            && u64::from(before_offset) + before_bytes == u64::from(offset)
        {
            self.remove(segment, before_offset, before_bytes);
            offset = before_offset;
            bytes += before_bytes;
        }
        let end = u64::from(offset) + bytes;
        if let Ok(after_offset) = u32::try_from(end)
            && let Some(after_bytes) = self.by_place.get(&(segment, after_offset)).copied()
        {
            self.remove(segment, after_offset, after_bytes);
            bytes += after_bytes;
        }
        self.by_place.insert((segment, offset), bytes);
        self.by_bytes.insert((bytes, segment, offset));
        self.bytes += bytes;
    }

    fn remove(&mut self, segment: u32, offset: u32, bytes: u64) {
        self.bytes -= bytes;
        self.by_place.remove(&(segment, offset));
        self.by_bytes.remove(&(bytes, segment, offset));
    }

    fn remove_segment(&mut self, segment: u32) {
        let stretches: Vec<_> =
            self.by_place.range((segment, 0)..=(segment, u32::MAX)).map(|(at, n)| (*at, *n)).collect();
        for ((segment, offset), bytes) in stretches {
            self.remove(segment, offset, bytes);
        }
    }

    /// Whether this segment is wholly free, and more such segments exist than are kept.
    fn is_empty_segment(&self, segment: &Segment, kept: usize) -> bool {
        let whole = segment.bytes() - BODY_ALIGNMENT;
        let is_empty = self.by_place.get(&(segment.number, BODY_ALIGNMENT as u32)) == Some(&whole);
        is_empty && self.by_bytes.range((whole, 0, 0)..).count() > kept
    }
}

/// Room for a body on its way in: nobody else knows of it.
pub(crate) struct Reservation {
    bodies: Arc<Bodies>,
    stretch: Option<Arc<Stretch>>,
    file: Option<Arc<dyn DiskFile>>,
    written: u64,
}

impl Reservation {
    fn stretch(&self) -> Result<&Arc<Stretch>, Error> {
        self.stretch.as_ref().ok_or(Error::Closed)
    }

    pub fn place(&self) -> BodyPlace {
        self.stretch.as_ref().map(|stretch| stretch.place).unwrap_or_default()
    }

    /// Appends a piece of the body. One that fails may be written again.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), NoFile> {
        let stretch = Arc::clone(self.stretch().map_err(NoFile::Failed)?);
        let file = self.file.as_ref().ok_or(NoFile::Failed(Error::Closed))?;
        let segment = &stretch.segment;
        let failed = |action, error| NoFile::Failed(Error::io(action, segment.path())(error));
        let offset = u64::from(stretch.place.offset) + self.written;
        let end = offset + piece.len() as u64;
        let present = segment.bytes();
        if end > present {
            let whole = u64::from(stretch.place.offset) + stretch.bytes;
            let grown = (end + GROWTH_BYTES).min(whole).max(end);
            if !segment.lease().grow(grown) {
                return Err(NoFile::NoRoom);
            }
            if let Err(error) = file.grow(grown) {
                segment.lease().shrink(present);
                return Err(failed("grow", error));
            }
        }
        file.write_all_at(&mut [IoSlice::new(piece)], offset).map_err(|error| failed("write", error))?;
        self.written = self.written.saturating_add(piece.len() as u64);
        // Before its record is appended: who makes that durable makes this durable first.
        self.bodies.written.lock().entry(segment.number).or_insert_with(|| Arc::clone(segment));
        Ok(())
    }

    /// The segment that it is in, and where its bytes begin there.
    pub fn location(&self) -> Option<(&Arc<Segment>, u64)> {
        self.stretch.as_ref().map(|stretch| (&stretch.segment, u64::from(stretch.place.offset)))
    }

    /// Makes the bytes durable.
    pub fn sync(&self) -> Result<(), SyncError> {
        let stretch = self.stretch().map_err(SyncError::NotTried)?;
        stretch.segment.sync_through(self.file.as_deref())
    }

    /// The record at `lsn` refers to it now: it lives until that one is superseded.
    pub fn keep(mut self, lsn: Lsn) {
        let Some(stretch) = self.stretch.take() else { return };
        stretch.segment.add_live(stretch.bytes);
        self.bodies.space.add_live(stretch.bytes);
        self.bodies.live.lock().insert(stretch.place, LiveBody { stretch, record: lsn });
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(stretch) = self.stretch.take() else { return };
        stretch.segment.body_went();
        if let Err(error) = self.bodies.free(&stretch) {
            tracing::warn!("{error}; the next open removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_stretches_merge_and_the_smallest_that_fits_is_taken() {
        let mut free = Free::default();
        free.insert(1, 4096, 8192);
        free.insert(1, 20480, 4096);
        free.insert(2, 4096, 65536);
        assert_eq!(free.take(4096, |_| true), Some((1, 20480)));
        assert_eq!(free.take(4096, |_| true), Some((1, 4096)));
        free.insert(1, 4096, 4096);
        free.insert(1, 20480, 4096);
        free.insert(1, 12288, 8192);
        assert_eq!(free.by_place.get(&(1, 4096)), Some(&20480));
        assert_eq!(free.by_bytes.len(), free.by_place.len());
        assert_eq!(free.take(1 << 20, |_| true), None);
        free.remove_segment(1);
        assert_eq!(free.take(4096, |_| true), Some((2, 4096)));
    }
}
