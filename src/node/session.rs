//! One attachment of this process to one keeper: its slots, its connections, and what it has mapped.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::interrupt;
use super::messages::{Head, Malformed, Manner, NO_SLOT, Reply, Request, SLICE, VERSION};
use super::remembered::Remembered;
use super::socket::{self, Connection, Frame};
use crate::error::Error;
use crate::fork;
use crate::local::slots::{self, FREE, SLOTS, Slots};
use crate::local::{Counters, Fingerprints};

/// Calls of one process at a time; further ones wait for a connection.
const CONNECTIONS_MAX: usize = 16;

/// A connection that was not used for longer is closed at the end of a later call, so that the keeper has its thread back.
const UNUSED_MAX: Duration = Duration::from_secs(10);

/// Slots that are kept for writes, of which each is soon over.
const SLOTS_FOR_WRITES: usize = 64;

/// Segments that stay mapped though nothing in them is held, so that the next object in one of them needs no map of its own, and none is
/// unmapped by a get. A map keeps no blocks of a file that is gone: the keeper empties it.
const MAPS_KEPT: usize = 1024;

/// Until its last `Bytes` is dropped: those that it handed out keep it.
pub(super) struct Session {
    pub id: u64,
    /// Where the keeper's objects are.
    pub place: String,
    /// `fork::count` when it was made. With a fork it ends for new questions: a child may hold what the parent gives back.
    count: u64,
    /// Of the process that made it.
    generation: u64,
    slots: Slots,
    /// Keeps the lock.
    _file: File,
    free: Mutex<Vec<u16>>,
    next_ticket: AtomicU64,
    pool: Mutex<Pool>,
    returned: Condvar,
    maps: Mutex<Maps>,
    /// Goes with the session's keeper.
    pub remembered: Option<Remembered>,
    lost: AtomicBool,
}

#[derive(Default)]
struct Pool {
    /// With the moment of its last use, the longest unused first.
    idle: VecDeque<(Instant, Connection)>,
    open: usize,
}

/// A segment's file in this process.
struct SegmentMap {
    map: MmapRaw,
}

thread_local! {
    /// The connection that this thread used last: its other end is a thread that has run beside this one, and finds its memory warm.
    static USED_LAST: Cell<RawFd> = const { Cell::new(-1) };
}

impl Pool {
    /// The connection that this thread used last, or else the one that was used last of all.
    fn take(&mut self) -> Option<Connection> {
        let last = USED_LAST.get();
        let place = self.idle.iter().rposition(|(_, connection)| connection.as_fd().as_raw_fd() == last);
        let taken = match place {
            Some(place) => self.idle.remove(place),
            None => self.idle.pop_back(),
        };
        taken.map(|(_, connection)| connection)
    }
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
    session: Arc<Session>,
    number: u16,
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

/// What the keeper said.
pub(super) struct Answered {
    fields: Vec<u8>,
    pub frame: Frame,
}

impl Answered {
    pub fn reply(&self) -> Result<Reply<'_>, Malformed> {
        Reply::decode(self.frame.head, &self.fields)
    }
}

/// Why a call has no answer.
pub(super) enum Unanswered {
    /// The keeper cannot have seen it.
    NotSent(io::Error),
    /// It may have been carried out.
    Lost(io::Error),
}

/// How attaching ended.
pub(super) enum Greeted {
    Session(Arc<Session>),
    /// The keeper is there, and cannot take one more now.
    NotYet(String),
    /// It reads its journal, and has done so many parts of a thousand.
    Opening {
        done: u32,
    },
}

impl Session {
    /// Attaches to whoever keeps the directory. An io error where nobody can be reached.
    pub fn begin(
        directory: &Path,
        expected: &[(String, String)],
        limit: Instant,
    ) -> io::Result<Result<Greeted, Error>> {
        let count = fork::count();
        let stream = timed(socket::connect(directory)?)?;
        let mut connection = Connection::new(Arc::new(stream));
        let greeting = Request::Greet { version: VERSION, session: 0, expected: expected.to_vec() };
        greeting.encode(Manner::default(), NO_SLOT, 0, &mut connection.output);
        let frame = exchange(&mut connection, &[], limit).map_err(Unanswered::into_io)?;
        match Reply::decode(frame.head, connection.fields())? {
            Reply::Welcome { session, place, fingerprints: [seed, mask] } => {
                let mut files = frame.files;
                let file = files.pop_front();
                let file = file.ok_or_else(|| io::Error::other("no descriptor is left for the session's file"))?;
                let slots = Slots::map(&file)?;
                // Without a descriptor or a map left for them, the keeper is asked each time.
                let counters = files.pop_front().and_then(|file| Counters::map(&file).ok());
                let remembered = counters.map(|counters| Remembered::new(counters, Fingerprints { seed, mask }));
                let pool = Pool { idle: VecDeque::from([(Instant::now(), connection)]), open: 1 };
                Ok(Ok(Greeted::Session(Arc::new(Session {
                    id: session,
                    place,
                    count,
                    generation: fork::generation(),
                    slots,
                    _file: file,
                    free: Mutex::new((0..SLOTS).rev().collect()),
                    next_ticket: AtomicU64::new(1),
                    pool: Mutex::new(pool),
                    returned: Condvar::new(),
                    maps: Mutex::default(),
                    remembered,
                    lost: AtomicBool::new(false),
                }))))
            }
            Reply::Busy => Ok(Ok(Greeted::NotYet("it has no thread or descriptor left".to_owned()))),
            Reply::Opening { done } => Ok(Ok(Greeted::Opening { done })),
            Reply::Failed(error) => Ok(Err(error)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to a greeting is none")),
        }
    }

    /// Whether it is of use for another question.
    pub fn is_current(&self) -> bool {
        !self.lost.load(Ordering::Acquire) && self.count == fork::count()
    }

    /// Its keeper is gone.
    pub fn set_lost(&self) {
        self.lost.store(true, Ordering::Release);
        let mut pool = self.pool.lock();
        pool.open -= pool.idle.len();
        pool.idle.clear();
        self.returned.notify_all();
        drop(pool);
        // They refer to the session. A forked child leaves its parent's as it is: anything may have been locked.
        if let Some(remembered) = self.remembered.as_ref().filter(|_| self.generation == fork::generation()) {
            remembered.clear();
        }
    }

    /// A slot to ask in for an object; None where all are taken: the answer is a copy then.
    pub fn slot(self: &Arc<Self>) -> Option<Slot> {
        self.slot_beyond(SLOTS_FOR_WRITES)
    }

    /// A slot to write through: there are some that objects do not take.
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
        self.slots.get(number)?.store(slots::asked(ticket), Ordering::Release);
        Some(Slot { session: Arc::clone(self), number, ticket })
    }

    /// Sends a question and waits for its answer.
    pub fn ask(
        &self,
        directory: &Path,
        (request, manner, slot, data): (&Request<'_>, Manner, Option<&Slot>, &[u8]),
        limit: Instant,
    ) -> Result<Answered, Unanswered> {
        let mut connection = self.connection(directory, limit).map_err(Unanswered::NotSent)?;
        let number = slot.map_or(NO_SLOT, |slot| slot.number);
        request.encode(manner, number, data.len() as u64, &mut connection.output);
        let answered = exchange(&mut connection, data, limit);
        let answered = answered.map(|frame| Answered { fields: connection.fields().to_vec(), frame });
        // One without an answer is closed: its late answer would be taken for the next one's.
        self.give_back(answered.is_ok().then_some(connection));
        answered
    }

    /// A connection of its own that belongs to this session, for whoever listens.
    pub fn listener(&self, directory: &Path, limit: Instant) -> io::Result<Connection> {
        let mut connection = self.greet(directory, limit)?;
        Request::Listen.encode(Manner::default(), NO_SLOT, 0, &mut connection.output);
        exchange(&mut connection, &[], limit).map_err(Unanswered::into_io)?;
        Ok(connection)
    }

    fn greet(&self, directory: &Path, limit: Instant) -> io::Result<Connection> {
        let mut connection = Connection::new(Arc::new(timed(socket::connect(directory)?)?));
        let greeting = Request::Greet { version: VERSION, session: self.id, expected: Vec::new() };
        greeting.encode(Manner::default(), NO_SLOT, 0, &mut connection.output);
        let frame = exchange(&mut connection, &[], limit).map_err(Unanswered::into_io)?;
        match Reply::decode(frame.head, connection.fields())? {
            Reply::Welcome { .. } => Ok(connection),
            Reply::Busy => Err(io::ErrorKind::WouldBlock.into()),
            Reply::Failed(error) => Err(io::Error::other(error.to_string())),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to a greeting is none")),
        }
    }

    fn connection(&self, directory: &Path, limit: Instant) -> io::Result<Connection> {
        {
            let mut pool = self.pool.lock();
            loop {
                if let Some(connection) = pool.take() {
                    if connection.is_ended() {
                        pool.open -= 1;
                        continue;
                    }
                    return Ok(connection);
                }
                if pool.open < CONNECTIONS_MAX {
                    pool.open += 1;
                    break;
                }
                if self.returned.wait_for(&mut pool, SLICE).timed_out() {
                    MutexGuard::unlocked(&mut pool, interrupt::look)?;
                    if Instant::now() >= limit {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
            }
        }
        self.greet(directory, limit).inspect_err(|_| self.give_back(None))
    }

    fn give_back(&self, connection: Option<Connection>) {
        let mut pool = self.pool.lock();
        match connection {
            Some(connection) if !self.lost.load(Ordering::Acquire) => {
                USED_LAST.set(connection.as_fd().as_raw_fd());
                pool.idle.push_back((Instant::now(), connection));
            }
            _ => pool.open -= 1,
        }
        let mut unused = Vec::new();
        while pool.idle.len() > 1 && pool.idle.front().is_some_and(|(since, _)| since.elapsed() > UNUSED_MAX) {
            pool.open -= 1;
            unused.extend(pool.idle.pop_front());
        }
        drop(pool);
        drop(unused);
        self.returned.notify_one();
    }

    /// The bytes that a slot holds, in the file that came with the answer.
    pub fn lent(
        &self,
        slot: Slot,
        (segment, file_bytes): (u32, u64),
        file: &File,
        (offset, bytes): (u64, u64),
    ) -> io::Result<Arc<Lent>> {
        let map = self.map(segment, file_bytes, file)?;
        let (held, remembered) = (slots::held(segment, offset), slots::remembered(segment, offset));
        let place = usize::try_from(offset).ok().zip(usize::try_from(bytes).ok());
        let (offset, bytes) = place.ok_or_else(|| io::Error::other("an object is longer than memory"))?;
        if offset.checked_add(bytes).is_none_or(|end| end > map.map.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an object goes past its file's end"));
        }
        Ok(Arc::new(Lent { map, offset, bytes, held, remembered, users: Mutex::new(0), slot }))
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
        if self.session.count != fork::count() {
            return;
        }
        if let Some(word) = self.session.slots.get(self.number) {
            // Whatever the keeper has made of it: held, or not yet.
            word.store(FREE, Ordering::Release);
            self.session.free.lock().push(self.number);
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
            let cell = self.slot.session.slots.get(self.slot.number)?;
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
        if lent.slot.session.count != fork::count() {
            return;
        }
        let mut users = lent.users.lock();
        *users -= 1;
        if *users == 0
            && let Some(cell) = lent.slot.session.slots.get(lent.slot.number)
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

impl Unanswered {
    pub fn into_io(self) -> io::Error {
        match self {
            Unanswered::NotSent(error) | Unanswered::Lost(error) => error,
        }
    }
}

/// With reads and writes that return after a slice of time, so that whoever waits can look up.
fn timed(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_read_timeout(Some(SLICE))?;
    stream.set_write_timeout(Some(SLICE))?;
    Ok(stream)
}

/// Sends the frame that is encoded, and receives one.
fn exchange(connection: &mut Connection, data: &[u8], limit: Instant) -> Result<Frame, Unanswered> {
    let look_up = move || match limit.checked_duration_since(Instant::now()) {
        Some(left) if left > Duration::ZERO => interrupt::look(),
        _ => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time")),
    };
    // What is not wholly sent is not carried out.
    connection.send(data, &[], look_up).map_err(Unanswered::NotSent)?;
    let received = connection.receive(Head::check_reply, look_up).map_err(Unanswered::Lost)?;
    received.ok_or_else(|| Unanswered::Lost(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended")))
}
