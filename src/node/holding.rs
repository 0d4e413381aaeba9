//! What a process holds of one keeper's objects: slots, and the segments that it has mapped.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

use crate::fork;
use crate::local::slots::{self, FREE, SLOTS, Slots};

/// Slots that are kept for writes, of which each is soon over.
const SLOTS_FOR_WRITES: usize = 64;

/// Segments that stay mapped though nothing in them is held, so that the next object in one of them needs no map of its own, and none is
/// unmapped by a get. A map keeps no blocks of a file that is gone: the keeper empties it.
const MAPS_KEPT: usize = 1024;

/// Until its last `Bytes` is dropped: those that were handed out keep it.
pub(super) struct Holding {
    /// `fork::count` when it was made. With a fork it ends for new questions: a child may hold what the parent gives back.
    count: u64,
    slots: OnceLock<SlotFile>,
    /// Where there was no room for slots: tells the keeper that the session is not over.
    _lifeline: Option<File>,
    free: Mutex<Vec<u16>>,
    next_ticket: AtomicU64,
    maps: Mutex<Maps>,
}

struct SlotFile {
    slots: Slots,
    /// Keeps its lock: while somebody has it, the keeper takes nothing back.
    _file: File,
}

/// A segment's file in this process.
struct SegmentMap {
    map: MmapRaw,
}

/// The segments that are mapped, by number, and the order in which they were.
#[derive(Default)]
struct Maps {
    by_segment: HashMap<u32, Arc<SegmentMap>>,
    order: VecDeque<u32>,
}

impl Maps {
    /// The segment's map, if it is as long as its file is now.
    fn get(&self, segment: u32, file_bytes: u64) -> Option<Arc<SegmentMap>> {
        self.by_segment.get(&segment).filter(|map| map.map.len() as u64 >= file_bytes).map(Arc::clone)
    }

    /// What it takes the place of, to be unmapped.
    fn insert(&mut self, segment: u32, map: &Arc<SegmentMap>) -> [Option<Arc<SegmentMap>>; 2] {
        let replaced = self.by_segment.insert(segment, Arc::clone(map));
        if replaced.is_none() {
            self.order.push_back(segment);
        }
        let oldest = if self.order.len() > MAPS_KEPT { self.order.pop_front() } else { None };
        [replaced, oldest.and_then(|oldest| self.by_segment.remove(&oldest))]
    }
}

/// A slot of this process, until dropped.
pub(super) struct Slot {
    holding: Arc<Holding>,
    pub number: u16,
    pub ticket: u64,
}

/// Bytes of a segment that a slot holds: handed out, or remembered.
pub(super) struct Lent {
    map: Arc<SegmentMap>,
    offset: usize,
    bytes: usize,
    /// The slot's words: while somebody uses them, and while they are remembered only.
    held: u64,
    remembered: u64,
    users: Mutex<usize>,
    slot: Slot,
}

/// The bytes in somebody's hands.
struct Held(Arc<Lent>);

impl Holding {
    /// What came from the keeper for a session: a file of slots, or, where there is no room for one, the end of a pipe; then this process can
    /// hold nothing yet.
    pub fn new(file: File) -> io::Result<Arc<Self>> {
        let is_pipe = file.metadata()?.file_type().is_fifo();
        let (file, lifeline) = if is_pipe { (None, Some(file)) } else { (Some(file), None) };
        let holding = Holding {
            count: fork::count(),
            slots: OnceLock::new(),
            _lifeline: lifeline,
            free: Mutex::default(),
            next_ticket: AtomicU64::new(1),
            maps: Mutex::default(),
        };
        file.map_or(Ok(()), |file| holding.take_slots(file))?;
        Ok(Arc::new(holding))
    }

    /// Takes the file of slots for which there was no room before.
    pub fn take_slots(&self, file: File) -> io::Result<()> {
        let file = SlotFile { slots: Slots::map(&file)?, _file: file };
        if self.slots.set(file).is_ok() {
            *self.free.lock() = (0..SLOTS).rev().collect();
        }
        Ok(())
    }

    pub fn has_slots(&self) -> bool {
        self.slots.get().is_some()
    }

    fn cell(&self, slot: u16) -> Option<&AtomicU64> {
        self.slots.get()?.slots.get(slot)
    }

    /// Whether this is the process that it was made in, and that has not forked since.
    pub fn is_current(&self) -> bool {
        self.count == fork::count()
    }

    /// A slot to ask in for an object; None where all are taken, or there is none: the answer is a copy then.
    pub fn slot(self: &Arc<Self>) -> Option<Slot> {
        self.slot_beyond(SLOTS_FOR_WRITES)
    }

    /// A slot to write through: there are some that objects do not take. None where those are taken, too: the body is sent then.
    pub fn slot_to_write(self: &Arc<Self>) -> Option<Slot> {
        self.slot_beyond(0)
    }

    fn slot_beyond(self: &Arc<Self>, kept: usize) -> Option<Slot> {
        let mut free = self.free.lock();
        if free.len() <= kept {
            return None;
        }
        let number = free.pop()?;
        drop(free);
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        self.cell(number)?.store(slots::asked(ticket), Ordering::Release);
        Some(Slot { holding: Arc::clone(self), number, ticket })
    }

    /// The bytes that a slot holds, in the file that came with the answer; the slot, where they cannot be mapped.
    pub fn lent(
        &self,
        slot: Slot,
        (segment, file_bytes): (u32, u64),
        file: &File,
        (offset, bytes): (u64, u64),
    ) -> Result<Arc<Lent>, (Slot, io::Error)> {
        let (held, remembered) = (slots::held(segment, offset), slots::remembered(segment, offset));
        match self.place(segment, file_bytes, file, (offset, bytes)) {
            Ok((map, offset, bytes)) => {
                Ok(Arc::new(Lent { map, offset, bytes, held, remembered, users: Mutex::new(0), slot }))
            }
            Err(error) => Err((slot, error)),
        }
    }

    fn place(
        &self,
        segment: u32,
        file_bytes: u64,
        file: &File,
        (offset, bytes): (u64, u64),
    ) -> io::Result<(Arc<SegmentMap>, usize, usize)> {
        let map = self.map(segment, file_bytes, file)?;
        let place = usize::try_from(offset).ok().zip(usize::try_from(bytes).ok());
        let (offset, bytes) = place.ok_or_else(|| io::Error::other("an object is longer than memory"))?;
        if offset.checked_add(bytes).is_none_or(|end| end > map.map.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an object goes past its file's end"));
        }
        Ok((map, offset, bytes))
    }

    fn map(&self, segment: u32, file_bytes: u64, file: &File) -> io::Result<Arc<SegmentMap>> {
        if let Some(map) = self.maps.lock().get(segment, file_bytes) {
            return Ok(map);
        }
        let length = usize::try_from(file_bytes).map_err(io::Error::other)?;
        if file.metadata()?.len() < file_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a segment is shorter than the keeper says"));
        }
        let map = Arc::new(SegmentMap { map: MmapOptions::new().len(length).map_raw_read_only(file)? });
        let replaced = self.maps.lock().insert(segment, &map);
        drop(replaced);
        Ok(map)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // After a fork a child may use what this holds: the lock tells when nobody does any more.
        if !self.holding.is_current() {
            return;
        }
        if let Some(word) = self.holding.cell(self.number) {
            // Whatever the keeper has made of it: held, or not yet.
            word.store(FREE, Ordering::Release);
            self.holding.free.lock().push(self.number);
        }
    }
}

impl Lent {
    /// For a first user: the keeper has just said that the slot holds them.
    pub fn first(self: &Arc<Self>) -> Bytes {
        *self.users.lock() += 1;
        Bytes::from_owner(Held(Arc::clone(self)))
    }

    /// For one more user, where the keeper has not taken them back.
    pub fn hand_out(self: &Arc<Self>) -> Option<Bytes> {
        let mut users = self.users.lock();
        if *users == 0 {
            let cell = self.slot.holding.cell(self.slot.number)?;
            cell.compare_exchange(self.remembered, self.held, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        }
        *users += 1;
        drop(users);
        Some(Bytes::from_owner(Held(Arc::clone(self))))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let lent = &self.0;
        // After a fork a child may use them: see `Slot`.
        if !lent.slot.holding.is_current() {
            return;
        }
        let mut users = lent.users.lock();
        *users -= 1;
        if *users == 0
            && let Some(cell) = lent.slot.holding.cell(lent.slot.number)
        {
            // Where nobody remembers them, the slot is given back at once: it goes with `self`.
            let _ = cell.compare_exchange(lent.held, lent.remembered, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        let Lent { map, offset, bytes, .. } = &*self.0;
        // Sound: within the map, which lives as long as `self`; `lent` has looked. The keeper lets nobody write there and does not cut the file
        // while the slot holds it.
        unsafe { std::slice::from_raw_parts(map.map.as_ptr().add(*offset), *bytes) }
    }
}
