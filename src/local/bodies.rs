use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IoSlice;
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::mapping::Mapping;
use super::files::space::Space;
use super::journal::segment::BODY_ALIGNMENT;
use super::journal::{BodyPlace, Lsn, NoFile, Segment, SegmentKind, Segments};
use crate::error::Error;

/// A body segment of its own grows by this much at a time, as the bytes arrive.
const GROWTH_BYTES: u64 = 16 << 20;

/// Body segments that are wholly free, kept for the next bodies.
const EMPTY_SEGMENTS_KEPT: usize = 1;

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
    live: Mutex<HashMap<BodyPlace, Arc<Stretch>>>,
    free: Mutex<Free>,
    dead: Mutex<Dead>,
    /// Segments with bodies that no sync has covered.
    written: Mutex<BTreeMap<u32, Arc<Segment>>>,
    /// Held while they are synced: who finds none left may not go on before that is done.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct Free {
    by_place: BTreeMap<(u32, u32), u64>,
    by_bytes: BTreeSet<(u64, u32, u32)>,
}

#[derive(Default)]
struct Dead {
    stretches: Vec<DeadStretch>,
    bytes: u64,
}

struct DeadStretch {
    stretch: Arc<Stretch>,
    /// The record that made it dead.
    after: Lsn,
    pinned: bool,
}

impl Bodies {
    pub fn new(segments: Arc<Segments>, space: Arc<Space>, segment_bytes_max: u64) -> Self {
        Bodies {
            segments,
            space,
            segment_bytes: segment_bytes_max + BODY_ALIGNMENT,
            live: Mutex::default(),
            free: Mutex::default(),
            dead: Mutex::default(),
            written: Mutex::default(),
            syncing: Mutex::default(),
        }
    }

    /// Room for a body. Given back when dropped without being kept.
    pub fn reserve(self: &Arc<Self>, body_bytes: u64) -> Result<Reservation, NoFile> {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let stretch = if bytes + BODY_ALIGNMENT > self.segment_bytes {
            let segment = self.create_segment(SegmentKind::Body, BODY_ALIGNMENT + bytes.min(GROWTH_BYTES))?;
            Stretch { place: BodyPlace { segment: segment.number, offset: BODY_ALIGNMENT as u32 }, segment, bytes }
        } else {
            self.allocate(bytes)?
        };
        Ok(Reservation { bodies: Arc::clone(self), stretch: Some(Arc::new(stretch)), written: 0 })
    }

    fn allocate(&self, bytes: u64) -> Result<Stretch, NoFile> {
        let mut free = self.free.lock();
        if free.best_fit(bytes).is_none() {
            let segment = self.create_segment(SegmentKind::Bodies, self.segment_bytes)?;
            free.insert(segment.number, BODY_ALIGNMENT as u32, segment.bytes() - BODY_ALIGNMENT);
        }
        let (number, offset) = free.take(bytes).ok_or(NoFile::NoRoom)?;
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
        self.live.lock().get(&place).map(Arc::clone)
    }

    /// The record that referred to this body is superseded by the one at `after`.
    pub fn release(&self, place: BodyPlace, after: Lsn) {
        let Some(stretch) = self.live.lock().remove(&place) else { return };
        stretch.segment.remove_live(stretch.bytes);
        self.space.remove_live(stretch.bytes);
        let pinned = Arc::strong_count(&stretch) > 1;
        if pinned {
            self.space.add_pinned(stretch.bytes);
        }
        let mut dead = self.dead.lock();
        dead.bytes += stretch.bytes;
        dead.stretches.push(DeadStretch { stretch, after, pinned });
    }

    /// Bytes that wait for `reap`.
    pub fn dead_bytes(&self) -> u64 {
        self.dead.lock().bytes
    }

    /// Frees the dead stretches that nobody reads and whose superseding records are durable: those below `durable`.
    pub fn reap(&self, durable: Lsn) -> Result<u64, Error> {
        let reapable: Vec<DeadStretch> = {
            let mut dead = self.dead.lock();
            let is_free = |entry: &mut DeadStretch| entry.after < durable && Arc::strong_count(&entry.stretch) == 1;
            let reapable: Vec<_> = dead.stretches.extract_if(.., is_free).collect();
            dead.bytes -= reapable.iter().map(|entry| entry.stretch.bytes).sum::<u64>();
            reapable
        };
        let mut freed = 0;
        let mut result = Ok(());
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
        if segment.kind == SegmentKind::Bodies {
            let mut free = self.free.lock();
            free.insert(stretch.place.segment, stretch.place.offset, stretch.bytes);
            if !free.is_empty_segment(segment, EMPTY_SEGMENTS_KEPT) {
                return Ok(());
            }
            free.remove_segment(segment.number);
        }
        self.written.lock().remove(&segment.number);
        self.segments.remove(segment)
    }

    /// Makes every body durable that was written since the last call.
    pub fn sync(&self) -> Result<(), Error> {
        let _syncing = self.syncing.lock();
        let written = std::mem::take(&mut *self.written.lock());
        for segment in written.into_values() {
            segment.sync().map_err(Error::io("sync", segment.path()))?;
        }
        Ok(())
    }

    /// At open: a live record refers to this body. False where two claim the same bytes, which only damage can bring about.
    pub fn restore(&self, place: BodyPlace, body_bytes: u64, segment: &Arc<Segment>) -> bool {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let stretch = Stretch { place, segment: Arc::clone(segment), bytes };
        if self.live.lock().insert(place, Arc::new(stretch)).is_some() {
            return false;
        }
        segment.add_live(bytes);
        self.space.add_live(bytes);
        true
    }

    /// At open, when every live body is restored: what lies between them is free, and a segment without any is removed.
    pub fn restore_free(&self) -> Result<(), Error> {
        let mut by_segment: BTreeMap<u32, BTreeMap<u64, u64>> = BTreeMap::new();
        for (place, stretch) in self.live.lock().iter() {
            by_segment.entry(place.segment).or_default().insert(u64::from(place.offset), stretch.bytes);
        }
        let segments: Vec<_> = self.segments.load().values().map(Arc::clone).collect();
        for segment in segments.iter().filter(|segment| segment.kind != SegmentKind::Records) {
            let Some(stretches) = by_segment.get(&segment.number) else {
                self.segments.remove(segment)?;
                continue;
            };
            // Bytes that a store closed in this process handed out may lie in what looks free. They stay as they are.
            let file = segment.file().map_err(Error::io("open", segment.path()))?;
            let is_read = Mapping::is_mapped(file.file()).map_err(Error::io("look at", segment.path()))?;
            segment.close_file();
            if segment.kind == SegmentKind::Body || is_read {
                continue;
            }
            let mut free = self.free.lock();
            let mut at = BODY_ALIGNMENT;
            for (offset, bytes) in stretches {
                if *offset > at {
                    free.insert(segment.number, at as u32, offset - at);
                }
                at = at.max(offset + bytes);
            }
            if segment.bytes() > at {
                free.insert(segment.number, at as u32, segment.bytes() - at);
            }
        }
        Ok(())
    }
}

impl Free {
    fn best_fit(&self, bytes: u64) -> Option<(u64, u32, u32)> {
        self.by_bytes.range((bytes, 0, 0)..).next().copied()
    }

    /// The smallest free stretch that is large enough, cut to size.
    fn take(&mut self, bytes: u64) -> Option<(u32, u32)> {
        let found = self.best_fit(bytes)?;
        let (length, segment, offset) = found;
        self.by_bytes.remove(&found);
        self.by_place.remove(&(segment, offset));
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
    }

    fn remove(&mut self, segment: u32, offset: u32, bytes: u64) {
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
    written: u64,
}

impl Reservation {
    fn stretch(&self) -> Result<&Arc<Stretch>, Error> {
        self.stretch.as_ref().ok_or(Error::Closed)
    }

    pub fn place(&self) -> BodyPlace {
        self.stretch.as_ref().map(|stretch| stretch.place).unwrap_or_default()
    }

    /// Appends a piece of the body.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), NoFile> {
        let stretch = Arc::clone(self.stretch().map_err(NoFile::Failed)?);
        let segment = &stretch.segment;
        let failed = |action, error| NoFile::Failed(Error::io(action, segment.path())(error));
        let file = segment.file().map_err(|error| failed("open", error))?;
        let offset = u64::from(stretch.place.offset) + self.written;
        let end = offset + piece.len() as u64;
        if end > segment.bytes() {
            let whole = u64::from(stretch.place.offset) + stretch.bytes;
            let grown = (end + GROWTH_BYTES).min(whole).max(end);
            if !segment.lease().grow(grown) {
                return Err(NoFile::NoRoom);
            }
            file.grow(grown).map_err(|error| failed("grow", error))?;
        }
        file.write_all_at(&mut [IoSlice::new(piece)], offset).map_err(|error| failed("write", error))?;
        self.written = self.written.saturating_add(piece.len() as u64);
        // Before its record is appended: who makes that durable makes this durable first.
        self.bodies.written.lock().entry(segment.number).or_insert_with(|| Arc::clone(segment));
        Ok(())
    }

    /// The segment that it is in, and where its bytes begin there.
    pub fn location(&self) -> Option<(&Segment, u64)> {
        self.stretch.as_ref().map(|stretch| (&*stretch.segment, u64::from(stretch.place.offset)))
    }

    /// Makes the bytes durable.
    pub fn sync(&self) -> Result<(), Error> {
        let segment = &self.stretch()?.segment;
        segment.sync().map_err(Error::io("sync", segment.path()))
    }

    /// A record refers to it now: it lives until that one is superseded.
    pub fn keep(mut self) {
        let Some(stretch) = self.stretch.take() else { return };
        stretch.segment.add_live(stretch.bytes);
        self.bodies.space.add_live(stretch.bytes);
        self.bodies.live.lock().insert(stretch.place, stretch);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(stretch) = self.stretch.take()
            && let Err(error) = self.bodies.free(&stretch)
        {
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
        assert_eq!(free.take(4096), Some((1, 20480)));
        assert_eq!(free.take(4096), Some((1, 4096)));
        free.insert(1, 4096, 4096);
        free.insert(1, 20480, 4096);
        free.insert(1, 12288, 8192);
        assert_eq!(free.by_place.get(&(1, 4096)), Some(&20480));
        assert_eq!(free.by_bytes.len(), free.by_place.len());
        assert_eq!(free.take(1 << 20), None);
        free.remove_segment(1);
        assert_eq!(free.take(4096), Some((2, 4096)));
    }
}
