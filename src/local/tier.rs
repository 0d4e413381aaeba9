use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};

use super::bodies::Bodies;
use super::files::space::Space;
use super::index::Index;
use super::index::payloads::Payloads;
use super::journal::{AppendError, Flags, Header, Journal, Lsn, NoFile, Segments};
use super::options::Durability;
use super::sharing::outbox::Outbox;
use super::upkeep::sealer::Task;
use crate::error::Error;
use crate::object::ObjectId;

/// How long a put waits for reclaiming to make room before it is refused.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether Redis has more by now.
const REPLICATION_WAIT: Duration = Duration::from_millis(20);

/// The objects on this node: journal, index, and what keeps them in step.
///
/// Lock order: an id's shard (the lower first where there are two), then the payload table, then the journal's append lock.
pub(crate) struct LocalTier {
    pub segments: Arc<Segments>,
    pub space: Arc<Space>,
    pub journal: Journal,
    pub bodies: Arc<Bodies>,
    pub index: Index,
    pub payloads: Payloads,
    pub totals: Totals,
    pub progress: Progress,
    pub durability: Durability,
    /// Present where other nodes share the objects.
    pub outbox: Option<Outbox>,
    /// Wakes the sealer. It holds one message at most: a second would say the same.
    pub wake: Sender<Task>,
}

/// Counters behind `info`.
pub(crate) struct Totals {
    pub payloads: AtomicU64,
    pub payload_bytes: AtomicU64,
    pub damaged_objects: AtomicU64,
}

/// Lets those who need room wait for the sealer's work.
#[derive(Default)]
pub(crate) struct Progress {
    state: Mutex<Passes>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Passes {
    begun: u64,
    done: u64,
    /// Bytes freed by all passes together.
    freed_bytes: u64,
}

impl Totals {
    pub fn new(payloads: u64, payload_bytes: u64, damaged_objects: u64) -> Self {
        Totals {
            payloads: AtomicU64::new(payloads),
            payload_bytes: AtomicU64::new(payload_bytes),
            damaged_objects: AtomicU64::new(damaged_objects),
        }
    }

    pub fn count_damaged(&self, objects: u64) {
        self.damaged_objects.fetch_add(objects, Ordering::Relaxed);
    }
}

impl LocalTier {
    /// A record has come to be the one that counts for its id.
    pub fn came_alive(&self, lsn: Lsn, header: &Header) {
        self.move_live(None, Some(lsn), header);
        if header.has_body() {
            self.totals.payloads.fetch_add(1, Ordering::Relaxed);
            self.totals.payload_bytes.fetch_add(header.body_bytes(), Ordering::Relaxed);
        }
    }

    /// The id at this record was deleted or overwritten by the record at `after`.
    pub fn superseded(&self, place: Lsn, after: Lsn) {
        // What cannot be read stays counted as live: its segment is kept, the next open counts anew.
        let Ok(record) = self.record_at(place) else { return };
        let header = record.header;
        if header.flags.has(Flags::SHARED) {
            self.move_live(Some(place), None, &header);
            if let Some(holder) = self.payloads.release(header.payload) {
                self.payload_died(holder, after);
            }
        } else if !self.payloads.owner_left(header.payload_name(), header.body_hash) {
            self.payload_died(place, after);
        }
    }

    /// Nobody refers to the bytes of the record at `place` any more.
    pub fn payload_died(&self, place: Lsn, after: Lsn) {
        let Ok(record) = self.record_at(place) else { return };
        let header = record.header;
        self.move_live(Some(place), None, &header);
        self.totals.payloads.fetch_sub(1, Ordering::Relaxed);
        self.totals.payload_bytes.fetch_sub(header.body_bytes(), Ordering::Relaxed);
        if header.flags.has(Flags::EXTERNAL) {
            self.bodies.release(header.body_place, after);
        }
    }

    /// Accounts for a record that is live no longer at one place, or from now on at another.
    pub fn move_live(&self, from: Option<Lsn>, to: Option<Lsn>, header: &Header) {
        let bytes = header.stride();
        let segments = self.segments.load();
        if let Some(segment) = from.and_then(|lsn| segments.get(&lsn.segment())) {
            segment.remove_live(bytes);
            self.space.remove_live(bytes);
        }
        if let Some(segment) = to.and_then(|lsn| segments.get(&lsn.segment())) {
            segment.add_live(bytes);
            self.space.add_live(bytes);
        }
    }

    /// Refuses an object that the store's limit leaves no room for.
    pub fn admit(&self, id: &[u8], bytes: u64) -> Result<(), Error> {
        if self.space.admits(bytes) {
            return Ok(());
        }
        if self.outbox.is_none() || !self.space.could_admit(bytes) {
            return Err(self.full(id, bytes));
        }
        // What Redis has can go.
        self.with_room(id, bytes, || if self.space.admits(bytes) { Ok(()) } else { Err(AppendError::NoRoom) })
    }

    /// As `admit`, for what is not worth waiting for.
    pub fn admits_now(&self, bytes: u64) -> bool {
        let admits = self.space.admits(bytes);
        if !admits {
            self.call_sealer();
        }
        admits
    }

    pub(super) fn full(&self, id: &[u8], bytes: u64) -> Error {
        Error::Full {
            id: ObjectId::new(id),
            bytes,
            live_bytes: self.space.live_bytes(),
            capacity_bytes: self.space.limit_bytes(),
            place: self.segments.directory().display().to_string(),
        }
    }

    /// Does what needs room on disk; where there is none, waits for reclaiming to make some, for as long as it makes any. Nothing
    /// is locked meanwhile.
    pub fn with_room<T>(
        &self,
        id: &[u8],
        bytes: u64,
        mut attempt: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + ROOM_WAIT_MAX;
        let mut is_hopeless = false;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(AppendError::Failed(error)) => return Err(error),
                Err(AppendError::NoRoom) => {
                    if is_hopeless {
                        // What Redis is about to have can go soon.
                        if !self.outbox.as_ref().is_some_and(Outbox::is_emptied) || Instant::now() >= deadline {
                            return Err(self.full(id, bytes));
                        }
                        std::thread::sleep(REPLICATION_WAIT);
                    }
                    is_hopeless = !self.progress.wait(deadline, || self.call_sealer());
                }
            }
        }
    }

    fn call_sealer(&self) {
        // Full: the call is there already. Disconnected: the store is being closed.
        let _ = self.wake.try_send(Task::MakeRoom);
    }

    /// Waits until the record is as durable as the store promises.
    pub fn make_durable(&self, lsn: Lsn) -> Result<(), Error> {
        match self.durability {
            Durability::Process => Ok(()),
            Durability::Disk => self.journal.sync_to(lsn),
        }
    }
}

impl From<NoFile> for AppendError {
    fn from(error: NoFile) -> Self {
        match error {
            NoFile::NoRoom => AppendError::NoRoom,
            NoFile::Failed(error) => AppendError::Failed(error),
        }
    }
}

impl Progress {
    /// Called by the sealer when it begins to look for room.
    pub fn begin(&self) {
        self.state.lock().begun += 1;
    }

    /// Called by the sealer when it has looked.
    pub fn done(&self, freed_bytes: u64) {
        let mut state = self.state.lock();
        state.done = state.begun;
        state.freed_bytes += freed_bytes;
        self.changed.notify_all();
    }

    /// Waits for a pass that begins after this call; whether bytes were freed meanwhile.
    fn wait(&self, deadline: Instant, wake: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        let before = *state;
        wake();
        while state.done <= before.begun {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.freed_bytes > before.freed_bytes
    }
}
