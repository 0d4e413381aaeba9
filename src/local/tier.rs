//! The local tier: the parts of one open directory together, room for writes, durability, and how damaged objects are let go. Its
//! operations are in `write`, `read`, `shared`, `sharing` and `upkeep`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLockReadGuard};

use super::bodies::{Bodies, Superseder};
use super::files::readers::Readers;
use super::files::space::{FreeRoom, RESERVE_SEGMENTS, Space};
use super::index::Index;
use super::index::liveness::{Counts, Liveness, Standing};
use super::journal::{
    AppendError, BodyPlace, FILE_BYTES_MIN, Header, Journal, Kind, Lsn, NewRecord, Purpose, Segments, SyncError,
};
use super::options::Durability;
use super::sharing::outbox::Outbox;
use super::upkeep::expiry::Expiry;
use super::upkeep::pace::Pace;
use super::upkeep::progress::{Progress, RoomDemand};
use super::upkeep::room::{Asking, Room, Verdict};
use super::work::Work;
use crate::backend::Patience;
use crate::clock::Reading;
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::gate::Gate;
use crate::version::Version;

/// How long a caller without room waits for Redis to take more before it looks again.
const REPLICATION_WAIT: Duration = Duration::from_millis(20);

/// Which room is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinds {
    Files,
    /// Files, for the rest or the record of a body that has a reservation already.
    Body,
    /// Bytes of live objects, under the limit on them.
    Live,
}

/// The objects on this node: journal, index, bodies, and what keeps them in step.
///
/// Lock order: the gate; the `writing` lock of an id's shard (the lower shard first if there are two); the shard's table; the payload table
/// or the bodies' stretches; `Journal::synced`; the journal's append lock; the reserve; the numbers. Never taken the other way round.
pub(crate) struct LocalTier {
    pub(in crate::local) segments: Arc<Segments>,
    pub(in crate::local) space: Arc<Space>,
    pub(in crate::local) journal: Journal,
    pub(in crate::local) bodies: Arc<Bodies>,
    pub(in crate::local) liveness: Liveness<Tally>,
    pub(in crate::local) readers: Readers,
    pub(in crate::local) room: Room,
    pub(in crate::local) progress: Progress,
    pub(in crate::local) work: Work,
    /// Hold back puts with inline bodies, and puts with external ones.
    pub(in crate::local) record_pace: Pace,
    pub(in crate::local) body_pace: Pace,
    pub(in crate::local) gate: Gate,
    pub(in crate::local) durability: Durability,
    /// Present if the objects are shared with other nodes.
    pub(in crate::local) outbox: Option<Outbox>,
    /// Present if they are not, unless the directory is only read.
    pub(in crate::local) expiry: Option<Expiry>,
    /// Wakes the sealer. Has room for one message: a second would say the same.
    pub(in crate::local) wake: Sender<Task>,
    /// Fingerprints and places of damaged records of which only the hints can tell what they took: see `release_lost`.
    pub(in crate::local) lost: Mutex<Vec<(u64, Lsn)>>,
    /// Called before reaping: they drop what attached processes have given back, who do that silently in their slots.
    pub(in crate::local) before_reaping: Mutex<Vec<Release>>,
    /// Held while dead bodies are reaped.
    pub(in crate::local) reaping: Mutex<()>,
}

/// A message to the sealer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Somebody waits for room.
    MakeRoom,
    /// Close the journal, seal what is pending, and end.
    Stop,
}

/// Drops what attached processes have given back, and what they merely remember of dead bodies. Its argument tells, by segment and offset,
/// whether a body is dead.
pub(crate) type Release = Box<dyn Fn(&dyn Fn(u32, u64) -> bool) + Send + Sync>;

/// Counters behind `info`, and live bytes.
pub(crate) struct Tally {
    pub segments: Arc<Segments>,
    pub space: Arc<Space>,
    pub bodies: Arc<Bodies>,
    pub payloads: AtomicU64,
    pub payload_bytes: AtomicU64,
    pub damaged_objects: AtomicU64,
}

impl Counts for Tally {
    type Superseder = Superseder;

    fn add_live(&self, segment: u32, bytes: u64) {
        if let Some(segment) = self.segments.load().get(&segment) {
            segment.add_live(bytes);
            self.space.add_live(bytes);
        }
    }

    fn remove_live(&self, segment: u32, bytes: u64) {
        if let Some(segment) = self.segments.load().get(&segment) {
            segment.remove_live(bytes);
            self.space.remove_live(bytes);
        }
    }

    fn payload_came(&self, bytes: u64) {
        self.payloads.fetch_add(1, Ordering::Relaxed);
        self.payload_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn payload_went(&self, bytes: u64) {
        self.payloads.fetch_sub(1, Ordering::Relaxed);
        self.payload_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn body_referred(&self, body: BodyPlace, record: Lsn) {
        self.bodies.referred(body, record);
    }

    fn body_released(&self, body: BodyPlace, by: Superseder) {
        self.bodies.release(body, by);
    }
}

impl Tally {
    pub fn count_damaged(&self, objects: u64) {
        self.damaged_objects.fetch_add(objects, Ordering::Relaxed);
    }
}

impl LocalTier {
    /// The outbox; None if the objects are not shared with other nodes.
    pub fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_ref()
    }

    /// The id of this node in versions and events: random, for one open.
    pub fn node(&self) -> u64 {
        self.journal.node()
    }

    /// The end of the journal, just behind the last record.
    pub fn end(&self) -> Lsn {
        self.journal.end()
    }

    /// Enters the gate, to be held while something is written. Refused once the store is being closed.
    pub fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        self.gate.enter()
    }

    /// Takes a reading of Redis's clock.
    pub fn set_time(&self, reading: Reading) {
        self.journal.set_time(reading);
    }

    /// Takes a lower bound on Redis's clock, from an id in the event stream.
    pub fn set_time_floor(&self, redis_ms: u64) {
        self.journal.time().set_floor(redis_ms);
    }

    /// Whether the version lies so far ahead that no clock in step with Redis's can have given it.
    pub fn is_too_far_ahead(&self, version: Version) -> bool {
        self.journal.is_too_far_ahead(version)
    }

    #[inline]
    pub fn index(&self) -> &Index {
        &self.liveness.index
    }

    /// Takes the spare files of an earlier open into the reserve: they exist even if the disk is full. Those that cannot be used are removed.
    pub fn adopt_spares(&self, found: Vec<(PathBuf, u64)>) {
        let mut spares = Vec::new();
        for (number, (path, bytes)) in found.into_iter().enumerate() {
            let spare = self.segments.found_spare(path.clone(), bytes);
            match spare {
                Ok(spare) if number < RESERVE_SEGMENTS && bytes >= FILE_BYTES_MIN => spares.push(spare),
                Ok(spare) => {
                    if let Err(error) = self.segments.remove_spare(&spare) {
                        tracing::warn!("{error}; the next open removes it");
                    }
                }
                Err(error) => tracing::warn!("{error}; the next open uses or removes it"),
            }
        }
        self.journal.adopt_spares(spares);
    }

    /// Preallocates files: those of the reserve always, one for puts only if nobody is short of room.
    pub fn refill_spares(&self) -> Result<(), Error> {
        self.journal.refill_reserve()?;
        if self.progress.is_quiet() { self.journal.prepare() } else { Ok(()) }
    }

    /// Waits until the limit on live bytes leaves room for an object, or refuses it.
    pub fn admit(&self, id: &[u8], bytes: u64, patience: Patience) -> Result<(), Error> {
        if self.room.admits(bytes) {
            return Ok(());
        }
        if let Some(bytes_max) = self.room.too_large(bytes) {
            return Err(Error::TooLarge { id: ObjectId::new(id), bytes, bytes_max });
        }
        let admitted = || if self.room.admits(bytes) { Ok(()) } else { Err(AppendError::NoRoom(None)) };
        self.with_room_of(Kinds::Live, id, bytes, patience, admitted)
    }

    /// The error for an object that finds no room.
    pub(super) fn full(&self, id: &[u8], bytes: u64) -> Error {
        Error::Full {
            id: ObjectId::new(id),
            bytes,
            live_bytes: self.space.live_bytes(),
            capacity_bytes: self.space.limit_bytes(),
            place: self.segments.directory().display().to_string(),
        }
    }

    /// Whether objects may have expired that still take room.
    pub(super) fn may_have_expired(&self) -> bool {
        self.expiry.as_ref().is_some_and(|expiry| expiry.is_possible(self.journal.time().passed_ms()))
    }

    /// Calls what needs room on disk until it finds some. A caller that may wait does so until room is made, or `Room` says that there will be
    /// none; one that may not is refused, and upkeep makes room for the next one. No lock is held while waiting.
    pub fn with_room<T>(
        &self,
        id: &[u8],
        bytes: u64,
        patience: Patience,
        attempt: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, Error> {
        self.with_room_of(Kinds::Files, id, bytes, patience, attempt)
    }

    /// As `with_room`, for this kind of room.
    pub(super) fn with_room_of<T>(
        &self,
        kind: Kinds,
        id: &[u8],
        bytes: u64,
        patience: Patience,
        mut attempt: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, Error> {
        let (mut asking, mut contest) = (None, None);
        loop {
            let seen = self.progress.seen();
            let disk_full = match attempt() {
                Ok(done) => return Ok(done),
                Err(AppendError::Failed(error)) => return Err(error),
                Err(AppendError::NoRoom(disk_full)) => disk_full,
            };
            // Nobody makes room for a store that takes no writes.
            self.journal.check_writable()?;
            let wanted = RoomDemand { bytes, is_disk_full: disk_full.is_some(), is_live: kind == Kinds::Live };
            let asking = asking.get_or_insert_with(|| Asking::new(patience));
            match self.room.ask(wanted, asking, self.may_have_expired()) {
                Verdict::Admit => {}
                Verdict::Evict if patience == Patience::Background => {
                    self.room.wish(wanted);
                    self.call_sealer();
                    return Err(self.full(id, bytes));
                }
                Verdict::Evict => {
                    // Others must not wait for this body while it waits itself.
                    let _waiting = (kind == Kinds::Body).then(|| self.bodies.waiting());
                    let (deadline, is_draining) = (asking.deadline(), self.is_being_emptied());
                    let begun = Instant::now();
                    let found = self.progress.wait(seen, wanted, deadline, &self.gate, || self.call_sealer());
                    self.work.room_waits.add(begun.elapsed());
                    asking.looked(found, is_draining || self.is_being_emptied());
                }
                Verdict::Wait => {
                    std::thread::sleep(REPLICATION_WAIT);
                    self.work.room_waits.add(REPLICATION_WAIT);
                    asking.waited();
                }
                Verdict::Refuse => return Err(disk_full.unwrap_or_else(|| self.full(id, bytes))),
            }
            if asking.is_in_vain() {
                contest.get_or_insert_with(|| self.room.contest());
            }
            if self.gate.is_closing() {
                return Err(Error::Closed);
            }
        }
    }

    /// Whether more may soon be evictable, because Redis takes what it is sent, or is being asked whether it is the one that it was.
    fn is_being_emptied(&self) -> bool {
        let is_draining = || self.outbox.as_ref().is_some_and(|outbox| outbox.is_draining(self.journal.end()));
        self.room.may_evict_soon() || is_draining()
    }

    /// Whether the record at `lsn` was overruled by another node and its drop is not in the journal yet: it must not be served.
    #[inline]
    pub fn is_hidden(&self, lsn: Lsn) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.hidden.has(lsn))
    }

    /// Holds a write back if room is being used up faster than it is made, or if others keep taking the room that somebody waits for.
    pub fn hold_back(&self, bytes: u64, is_inline: bool) {
        let free =
            |holes_bytes| if self.room.is_contested() { FreeRoom::Contested } else { self.space.free(holes_bytes) };
        let held_back = if is_inline {
            // The record takes some bytes too.
            self.record_pace.hold_back(bytes + 256, || free(0))
        } else {
            self.body_pace.hold_back(bytes, || free(self.bodies.hole_bytes()))
        };
        if let Some(waited) = held_back {
            self.work.stalls.add(waited);
        }
    }

    /// Wakes the sealer to make room.
    pub fn call_sealer(&self) {
        // Full: it is woken already. Disconnected: the store is being closed.
        let _ = self.wake.try_send(Task::MakeRoom);
    }

    /// Waits until the record at `lsn` is as durable as the setting `durability` promises.
    pub fn make_durable(&self, lsn: Lsn) -> Result<(), Error> {
        match self.durability {
            Durability::Process => Ok(()),
            Durability::Disk => self.journal.sync_to(lsn),
        }
    }

    /// Makes everything acknowledged so far survive a power loss: the records below the returned lsn, with their bodies.
    pub fn flush(&self) -> Result<Lsn, Error> {
        self.journal.check_writable()?;
        let end = self.journal.end();
        self.bodies.sync().map_err(|error| self.sync_failed(error))?;
        self.journal.sync()?;
        Ok(end)
    }

    /// The error of a failed sync of bodies, which also ends writing if the disk refused it.
    pub(super) fn sync_failed(&self, error: SyncError) -> Error {
        match error {
            SyncError::NotTried(error) => error,
            SyncError::Failed(error) => self.journal.fail(error),
        }
    }

    /// Drops what attached processes have given back, and what they merely remember of dead bodies.
    pub fn release_given_back(&self) {
        let is_dead = |segment, offset| match u32::try_from(offset) {
            Ok(offset) => self.bodies.find(BodyPlace { segment, offset }).is_none(),
            Err(_) => true,
        };
        self.before_reaping.lock().iter().for_each(|release| release(&is_dead));
    }

    /// Frees dead bodies, after making durable what superseded them: the journal, and those body segments that superseding records need.
    pub fn reap_bodies(&self) -> Result<u64, Error> {
        self.journal.check_writable()?;
        // Whoever finds nothing to free must first wait until another thread has freed, and announced, what it found.
        let _reaping = self.reaping.lock();
        self.release_given_back();
        self.bodies.sync_superseders().map_err(|error| self.sync_failed(error))?;
        let durable = self.journal.sync()?;
        let (freed_bytes, removed) = self.bodies.reap(durable);
        if freed_bytes > 0 {
            self.work.freed_bytes.add(freed_bytes);
            self.progress.freed();
        }
        if let Err(error) = removed {
            // The files' room comes back later; the stretches are free.
            tracing::warn!("{error}; tried again later");
        }
        Ok(freed_bytes)
    }

    /// Lets a damaged record go with all that it took, so that the id has no record any more. The caller holds the id.
    pub(super) fn lose(&self, fingerprint: u64, id: &[u8], lsn: Lsn, header: Option<Header>, reason: &str) {
        self.liveness.counts.count_damaged(1);
        tracing::error!("object {} at {lsn} is damaged: {reason}; it is treated as missing", ObjectId::new(id));
        // A drop is appended: a medium that fails only for a while must not bring the record back next to what is written meanwhile.
        let after = match self.append_drop(id, lsn) {
            Ok(after) => after,
            Err(error) => {
                tracing::warn!("{error}; the damaged object will be found again by the next open");
                self.journal.latest()
            }
        };
        match header {
            Some(header) => {
                self.liveness.leave(fingerprint, id, &Standing { lsn, header }, after.into(), |_| {});
            }
            None => {
                self.index().shard(fingerprint).table.write().remove(fingerprint, id, lsn);
                self.lost.lock().push((fingerprint, lsn));
                self.call_sealer();
            }
        }
    }

    /// As `lose`, for a record whose id is not known. The caller holds the shard.
    pub(super) fn lose_unnamed(&self, fingerprint: u64, lsn: Lsn, reason: &str) {
        let mut table = self.index().shard(fingerprint).table.write();
        if table.remove_place(fingerprint, lsn) {
            drop(table);
            self.liveness.counts.count_damaged(1);
            tracing::error!("the object at {lsn} is damaged: {reason}; it is lost");
            self.lost.lock().push((fingerprint, lsn));
            self.call_sealer();
        }
    }

    /// Appends a drop of the record at `lsn`, which no newer record superseded. Returns an lsn at or above the drop, from which on it counts as
    /// noted. Without room the drop is left out: it would matter only after a further failure.
    pub(super) fn append_drop(&self, id: &[u8], lsn: Lsn) -> Result<Lsn, Error> {
        match self.journal.append(&NewRecord::bare(id, Kind::Drop, lsn), Purpose::Delete) {
            Ok(appended) => Ok(appended.lsn),
            Err(AppendError::NoRoom(_)) => Ok(self.journal.latest()),
            Err(AppendError::Failed(error)) => Err(error),
        }
    }
}
