//! Bodies that are too large to stand in their records: which stretches of the body segments are live, dead or free, and when a dead one
//! may be written again.

mod free;
mod reservation;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::files::space::Space;
use super::journal::segment::BODY_ALIGNMENT;
use super::journal::{BodyPlace, Lsn, NoFile, Segment, SegmentKind, Segments, SyncError};
use crate::error::Error;
use free::Free;
pub(crate) use reservation::Reservation;

/// A body segment of its own grows by this much at a time, as the bytes arrive.
const GROWTH_BYTES: u64 = 16 << 20;

/// Body segments that are wholly free are kept for the next bodies, up to this part of the limit, or this much: to write to new files takes
/// longer. With less room for puts than `PLENTY_PART` of the limit, one is kept.
const EMPTY_PART: u64 = 8;
const EMPTY_BYTES_MAX: u64 = 256 << 20;
const PLENTY_PART: u64 = 4;

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
    stretches: Mutex<Stretches>,
    /// Segments with bodies that no sync has covered.
    written: Mutex<BTreeMap<u32, Arc<Segment>>>,
    /// Held while the `written` segments are synced: whoever finds `written` empty must wait until the sync that emptied it is done.
    syncing: Mutex<()>,
    /// Segments in which nothing counts, whose files could not be removed yet.
    unremoved: Mutex<Vec<Arc<Segment>>>,
    /// Bodies being written that others may wait for: see `Reservation::set_blocks_waiters`.
    reservations: AtomicUsize,
}

/// Every stretch is live, dead, free, or held by a `Reservation`. It changes state under one lock, so that no stretch in use is ever seen
/// as free.
#[derive(Default)]
struct Stretches {
    live: HashMap<BodyPlace, LiveBody>,
    /// In the order in which they died.
    dead: Vec<DeadStretch>,
    dead_bytes: u64,
    free: Free,
    /// Used at open only: (segment, begin) of each restored body, and its end.
    restored: BTreeMap<(u32, u64), u64>,
}

/// A body that a live record refers to.
struct LiveBody {
    stretch: Arc<Stretch>,
    /// Length of the body itself.
    body_bytes: u64,
    /// The record that refers to it.
    record: Lsn,
}

/// A stretch whose body no record refers to any more, and that is not free yet.
struct DeadStretch {
    stretch: Arc<Stretch>,
    /// What made it dead, and must be durable before the stretch is free.
    by: Superseder,
    pinned: bool,
}

/// What made a body dead: its bytes stay until that is durable.
#[derive(Clone)]
pub(crate) struct Superseder {
    pub lsn: Lsn,
    /// Where the body is that the superseding record refers to, if it is a large one: without it, the record would not count after a
    /// power loss.
    pub body: Option<Arc<Segment>>,
    /// Set where no record superseded the body: it may go once this record segment, which holds its record, has been removed.
    pub gone: Option<u32>,
}

impl Superseder {
    /// For a body that no record superseded: it goes with the record segment that holds its record.
    pub fn with_segment(number: u32) -> Self {
        Superseder { lsn: Lsn::NONE, body: None, gone: Some(number) }
    }
}

impl From<Lsn> for Superseder {
    fn from(lsn: Lsn) -> Self {
        Superseder { lsn, body: None, gone: None }
    }
}

/// Guard of `Bodies::waiting`.
pub(crate) struct Waiting<'a>(&'a Bodies);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.reservations.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bodies {
    pub fn new(segments: Arc<Segments>, space: Arc<Space>) -> Self {
        Bodies {
            segments,
            segment_bytes: space.segment_bytes_max() + BODY_ALIGNMENT,
            space,
            stretches: Mutex::default(),
            written: Mutex::default(),
            syncing: Mutex::default(),
            unremoved: Mutex::default(),
            reservations: AtomicUsize::new(0),
        }
    }

    /// Reserves a stretch for a body. It is given back when the reservation is dropped without `keep`.
    pub fn reserve(self: &Arc<Self>, body_bytes: u64) -> Result<Reservation, NoFile> {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let stretch = if bytes + BODY_ALIGNMENT > self.segment_bytes / SHARED_SEGMENT_PART {
            let segment = self.create_segment(SegmentKind::Body, BODY_ALIGNMENT + bytes.min(GROWTH_BYTES))?;
            Stretch { place: BodyPlace { segment: segment.number, offset: BODY_ALIGNMENT as u32 }, segment, bytes }
        } else {
            self.allocate(bytes)?
        };
        Reservation::new(self, stretch)
    }

    /// As `reserve`, but only in an existing hole, and not in segment `number`: for a body that is moved out of that segment.
    pub fn reserve_elsewhere(self: &Arc<Self>, body_bytes: u64, number: u32) -> Result<Option<Reservation>, NoFile> {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let taken = self.stretches.lock().free.take(bytes, |segment| segment != number);
        let Some((number, offset)) = taken else { return Ok(None) };
        let segment = self.segments.get(number).ok_or(NoFile::NoRoom)?;
        Reservation::new(self, Stretch { place: BodyPlace { segment: number, offset }, segment, bytes }).map(Some)
    }

    fn allocate(&self, bytes: u64) -> Result<Stretch, NoFile> {
        let found = self.stretches.lock().free.take(bytes, |_| true);
        let (number, offset) = match found {
            Some(found) => found,
            None => {
                // Created without the lock, which gets need too. Two threads may therefore create a segment each.
                let segment = self.create_segment(SegmentKind::Bodies, self.segment_bytes)?;
                let free = &mut self.stretches.lock().free;
                free.insert(segment.number, BODY_ALIGNMENT as u32, segment.bytes() - BODY_ALIGNMENT);
                free.take(bytes, |_| true).ok_or(NoFile::NoRoom)?
            }
        };
        let segment = self.segments.get(number).ok_or(NoFile::NoRoom)?;
        Ok(Stretch { place: BodyPlace { segment: number, offset }, segment, bytes })
    }

    fn create_segment(&self, kind: SegmentKind, bytes: u64) -> Result<Arc<Segment>, NoFile> {
        let spare = self.segments.create_spare(bytes)?;
        self.segments.activate(spare, kind).map_err(NoFile::Failed)
    }

    /// The body at a place that a live record refers to.
    pub fn find(&self, place: BodyPlace) -> Option<Arc<Stretch>> {
        self.stretches.lock().live.get(&place).map(|body| Arc::clone(&body.stretch))
    }

    /// From now on the body's record is the one at `record`, a copy.
    pub fn referred(&self, place: BodyPlace, record: Lsn) {
        if let Some(body) = self.stretches.lock().live.get_mut(&place) {
            body.record = record;
        }
    }

    /// The record that referred to this body is superseded.
    pub fn release(&self, place: BodyPlace, by: Superseder) {
        let mut stretches = self.stretches.lock();
        let Some(LiveBody { stretch, .. }) = stretches.live.remove(&place) else { return };
        stretch.segment.remove_live(stretch.bytes);
        self.space.remove_live(stretch.bytes);
        stretch.segment.body_went();
        let pinned = Arc::strong_count(&stretch) > 1;
        if pinned {
            self.space.add_pinned(stretch.bytes);
        }
        stretches.dead_bytes += stretch.bytes;
        stretches.dead.push(DeadStretch { stretch, by, pinned });
    }

    /// The body of the record at `record`, and its length: for a record whose header is damaged, so that only its lsn is known.
    pub fn of_record(&self, record: Lsn) -> Option<(BodyPlace, u64)> {
        let stretches = self.stretches.lock();
        let found = stretches.live.iter().find(|(_, body)| body.record == record);
        found.map(|(place, body)| (*place, body.body_bytes))
    }

    /// Whether dead bodies wait for record segments up to this one to be removed for good.
    pub fn wait_for_segment(&self, number: u32) -> bool {
        self.stretches.lock().dead.iter().any(|entry| entry.by.gone.is_some_and(|gone| gone <= number))
    }

    /// Record segments up to this one are removed for good: bodies that waited for that (`Superseder::gone`) may now be freed.
    pub fn segments_gone(&self, number: u32) {
        let is_gone = |entry: &&mut DeadStretch| entry.by.gone.is_some_and(|gone| gone <= number);
        self.stretches.lock().dead.iter_mut().filter(is_gone).for_each(|entry| entry.by.gone = None);
    }

    /// Adds a kept body to the live bytes of its segment and of the store.
    pub fn count(&self, stretch: &Stretch) {
        stretch.segment.add_live(stretch.bytes);
        self.space.add_live(stretch.bytes);
    }

    /// Until the guard is dropped, one reservation is not counted as being written: it waits for room itself, so nobody should wait for it.
    pub fn waiting(&self) -> Waiting<'_> {
        self.reservations.fetch_sub(1, Ordering::SeqCst);
        Waiting(self)
    }

    /// Whether bodies are being written: what they supersede may come free soon.
    pub fn has_reservations(&self) -> bool {
        self.reservations.load(Ordering::SeqCst) > 0
    }

    /// Free bytes inside the segments of bodies.
    pub fn hole_bytes(&self) -> u64 {
        self.stretches.lock().free.bytes
    }

    /// Whether bodies are dead and not yet free.
    pub fn has_dead(&self) -> bool {
        self.stretches.lock().dead_bytes > 0
    }

    /// Dead bytes that the next `reap` can free: no reader holds them, and they wait for no segment's removal.
    pub fn reapable_bytes(&self) -> u64 {
        let stretches = self.stretches.lock();
        let is_kept =
            |entry: &&DeadStretch| entry.by.gone.is_some() || (entry.pinned && Arc::strong_count(&entry.stretch) > 1);
        stretches.dead_bytes - stretches.dead.iter().filter(is_kept).map(|entry| entry.stretch.bytes).sum::<u64>()
    }

    /// Makes durable the large bodies of the records that superseded dead bodies. Once those records are durable too, the dead bodies may be
    /// freed. One thread at a time.
    pub fn sync_superseders(&self) -> Result<(), SyncError> {
        let (superseders, count): (BTreeSet<u32>, usize) = {
            let dead = &self.stretches.lock().dead;
            let bodies = dead.iter().filter_map(|entry| entry.by.body.as_ref().map(|segment| segment.number));
            (bodies.collect(), dead.len())
        };
        self.sync_written(|number, _| superseders.contains(&number))?;
        // Only the entries that were there before the sync: later ones may have been superseded by bodies that it did not cover.
        for entry in self.stretches.lock().dead.iter_mut().take(count) {
            entry.by.body = None;
        }
        Ok(())
    }

    /// Frees the dead stretches that nobody reads and whose superseding records, below `durable`, are durable with their bodies. One
    /// thread at a time. Returns the bytes freed, and the result of removing the files that became empty.
    pub fn reap(&self, durable: Lsn) -> (u64, Result<(), Error>) {
        let mut emptied = std::mem::take(&mut *self.unremoved.lock());
        let kept = self.empty_segments_kept();
        let mut freed = 0;
        {
            let mut stretches = self.stretches.lock();
            let is_free = |entry: &mut DeadStretch| {
                let by = &entry.by;
                let is_superseded = by.lsn < durable && by.body.is_none() && by.gone.is_none();
                is_superseded && Arc::strong_count(&entry.stretch) == 1
            };
            let reapable: Vec<_> = stretches.dead.extract_if(.., is_free).collect();
            for DeadStretch { stretch, pinned, .. } in reapable {
                freed += stretch.bytes;
                stretches.dead_bytes -= stretch.bytes;
                if pinned {
                    self.space.remove_pinned(stretch.bytes);
                }
                emptied.extend(stretches.give_back(&stretch, kept));
            }
        }
        let removed = emptied.iter().map(|segment| self.remove(segment)).fold(Ok(()), Result::and);
        (freed, removed)
    }

    /// How many body segments that are wholly free are kept for the next bodies.
    fn empty_segments_kept(&self) -> usize {
        let limit = self.space.limit_bytes();
        if !self.space.has_ordinary_room(limit / PLENTY_PART) {
            return 1;
        }
        ((limit / EMPTY_PART).min(EMPTY_BYTES_MAX) / self.space.segment_bytes_max()) as usize
    }

    /// Removes an empty body segment. One that cannot be removed now is tried again by the next `reap`.
    fn remove(&self, segment: &Arc<Segment>) -> Result<(), Error> {
        self.written.lock().remove(&segment.number);
        self.segments.remove(segment).inspect_err(|_| self.unremoved.lock().push(Arc::clone(segment)))
    }

    /// Removes the segments that are wholly free. Returns whether there were any.
    pub fn drop_empty(&self) -> Result<bool, Error> {
        self.drop_empty_but(0)
    }

    /// Removes the segments that are wholly free and were kept while there was more room.
    pub fn trim_empty(&self) -> Result<(), Error> {
        self.drop_empty_but(self.empty_segments_kept()).map(drop)
    }

    fn drop_empty_but(&self, kept: usize) -> Result<bool, Error> {
        let mut is_freed = false;
        let segments: Vec<_> = self.segments.load().values().map(Arc::clone).collect();
        for segment in segments.iter().filter(|segment| segment.kind == SegmentKind::Bodies) {
            let mut stretches = self.stretches.lock();
            if stretches.free.is_empty_segment(segment, kept) {
                stretches.free.remove_segment(segment.number);
                drop(stretches);
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

    /// Syncs the written segments for which `is_asked`. The others stay in `written`, unless nothing in them counts.
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
                    // Put back, so that the next call syncs them if that can be tried again.
                    self.written.lock().extend(asked.into_iter().map(|segment| (segment.number, segment)));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// At open, newest record first: enters the body of a live record. Returns false where it overlaps the body of a newer record, which is
    /// possible only through damage.
    pub fn restore(&self, place: BodyPlace, body_bytes: u64, segment: &Arc<Segment>, record: Lsn) -> bool {
        let bytes = body_bytes.max(1).next_multiple_of(BODY_ALIGNMENT);
        let begin = u64::from(place.offset);
        let Some(end) = begin.checked_add(bytes) else { return false };
        let mut stretches = self.stretches.lock();
        let before = stretches.restored.range(..(place.segment, end)).next_back();
        if before.is_some_and(|((number, _), before_end)| *number == place.segment && *before_end > begin) {
            return false;
        }
        stretches.restored.insert((place.segment, begin), end);
        let stretch = Arc::new(Stretch { place, segment: Arc::clone(segment), bytes });
        stretches.live.insert(place, LiveBody { stretch, body_bytes, record });
        segment.body_came();
        segment.stretch_came();
        segment.add_live(bytes);
        self.space.add_live(bytes);
        true
    }

    /// At open, when every live body is restored: what lies between them is free, and a segment without any is removed.
    pub fn restore_free(&self) -> Result<(), Error> {
        self.stretches.lock().restored = BTreeMap::new();
        let segments: Vec<_> = self.segments.load().values().map(Arc::clone).collect();
        for segment in segments.iter().filter(|segment| segment.kind != SegmentKind::Records) {
            if segment.is_withheld() {
                // A session of an earlier open may still read dead bytes in it, or write to it: it stays as it is, and counts against the limit.
                continue;
            }
            if !segment.has_stretches() {
                self.segments.remove(segment)?;
            } else {
                self.stretches.lock().restore_free_in(segment);
            }
        }
        Ok(())
    }

    /// No session of an earlier open can use the segment any more: what is free in it may be written again.
    pub fn stop_withholding(&self, segment: &Arc<Segment>) -> Result<(), Error> {
        let mut stretches = self.stretches.lock();
        if segment.kind == SegmentKind::Records || !segment.is_withheld() {
            return Ok(());
        }
        segment.set_withheld(false);
        if segment.has_stretches() {
            stretches.restore_free_in(segment);
            return Ok(());
        }
        drop(stretches);
        self.remove(segment)
    }

    /// The body segments of which somebody holds bytes now.
    pub fn read_segments(&self) -> Vec<u32> {
        let stretches = self.stretches.lock();
        let live = stretches.live.values().map(|body| &body.stretch);
        let all = live.chain(stretches.dead.iter().map(|entry| &entry.stretch));
        let read: BTreeSet<u32> = all.filter(|it| Arc::strong_count(it) > 1).map(|it| it.segment.number).collect();
        read.into_iter().collect()
    }

    /// The shared body segment with the most free room, unless it is wholly free, and the records of its bodies.
    pub fn sparsest(&self) -> Option<(Arc<Segment>, Vec<Lsn>)> {
        let stretches = self.stretches.lock();
        let free_bytes = |number: u32| stretches.free.bytes_in(number);
        let segments = self.segments.load();
        let is_asked = |it: &&Arc<Segment>| it.kind == SegmentKind::Bodies && !it.is_withheld() && it.has_bodies();
        let segment = segments.values().filter(is_asked).max_by_key(|segment| free_bytes(segment.number))?;
        let whole = segment.bytes() - BODY_ALIGNMENT;
        // Wholly in use or wholly free: nothing to gain.
        if !(1..whole).contains(&free_bytes(segment.number)) {
            return None;
        }
        let here = stretches.live.values().filter(|body| body.stretch.segment.number == segment.number);
        let mut records: Vec<_> = here.map(|body| (body.record, body.stretch.bytes)).collect();
        // The largest first, as long as holes are large.
        records.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        Some((Arc::clone(segment), records.into_iter().map(|(record, _)| record).collect()))
    }
}

impl Stretches {
    /// Makes the stretch free. Returns its segment if that is now empty and to be removed, as `kept` others are.
    fn give_back(&mut self, stretch: &Stretch, kept: usize) -> Option<Arc<Segment>> {
        let segment = &stretch.segment;
        segment.stretch_went();
        if segment.is_withheld() {
            // A session of an earlier open may use it: it stays, and counts against the limit, until that is over.
            return None;
        }
        if segment.kind == SegmentKind::Body {
            return (!segment.has_stretches()).then(|| Arc::clone(segment));
        }
        self.free.insert(stretch.place.segment, stretch.place.offset, stretch.bytes);
        if !self.free.is_empty_segment(segment, kept) {
            return None;
        }
        self.free.remove_segment(segment.number);
        Some(Arc::clone(segment))
    }

    /// What lies between the stretches of a segment is free.
    fn restore_free_in(&mut self, segment: &Segment) {
        if segment.kind != SegmentKind::Bodies {
            return;
        }
        let live = self.live.values().map(|body| &body.stretch);
        let in_use = live.chain(self.dead.iter().map(|entry| &entry.stretch));
        let here = in_use.filter(|stretch| stretch.segment.number == segment.number);
        let taken: BTreeMap<u64, u64> = here.map(|it| (u64::from(it.place.offset), it.bytes)).collect();
        let mut at = BODY_ALIGNMENT;
        for (offset, bytes) in taken {
            if offset > at {
                self.free.insert(segment.number, at as u32, offset - at);
            }
            at = at.max(offset + bytes);
        }
        if segment.bytes() > at {
            self.free.insert(segment.number, at as u32, segment.bytes() - at);
        }
    }
}

#[cfg(test)]
mod tests;
