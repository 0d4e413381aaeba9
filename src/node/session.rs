//! One attachment of this process to one keeper: its connections, what it holds, and what it remembers.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::holding::{Holding, Slot};
use super::messages::{Head, Malformed, Manner, NO_SLOT, Reply, Request, SLICE, VERSION};
use super::remembered::Remembered;
use super::socket::{self, Connection, Frame};
use crate::error::Error;
use crate::fork;
use crate::interrupt;
use crate::local::{Counters, Fingerprints};

/// Calls of one process at a time; further ones wait for a connection.
const CONNECTIONS_MAX: usize = 16;

/// A connection that was not used for longer is closed at the end of a later call, so that the keeper has its thread back.
const UNUSED_MAX: Duration = Duration::from_secs(10);

/// How often a keeper that had no room for slots is asked whether it has.
const SLOTS_ASK_EVERY: Duration = Duration::from_secs(1);

/// What this process has of one keeper.
pub(super) struct Session {
    pub id: u64,
    /// Where the keeper's objects are.
    pub place: String,
    /// Of the process that made it.
    generation: u64,
    pub holding: Arc<Holding>,
    pool: Mutex<Pool>,
    returned: Condvar,
    /// Goes with the session's keeper.
    remembered: OnceLock<Remembered>,
    /// When the keeper was last asked for slots, where it had no room for them.
    slots_asked: Mutex<Instant>,
    lost: AtomicBool,
}

#[derive(Default)]
struct Pool {
    /// With the moment of its last use, the longest unused first.
    idle: VecDeque<(Instant, Connection)>,
    open: usize,
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

/// A request, the slot that it is asked in, and its data.
pub(super) type Question<'a> = (&'a Request<'a>, Manner, Option<&'a Slot>, &'a [u8]);

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
                let holding = Holding::new(file)?;
                let remembered = OnceLock::new();
                if let Some(counters) = files.pop_front() {
                    remember_with(&remembered, &counters, Fingerprints { seed, mask });
                }
                let pool = Pool { idle: VecDeque::from([(Instant::now(), connection)]), open: 1 };
                Ok(Ok(Greeted::Session(Arc::new(Session {
                    id: session,
                    place,
                    generation: fork::generation(),
                    holding,
                    pool: Mutex::new(pool),
                    returned: Condvar::new(),
                    remembered,
                    slots_asked: Mutex::new(Instant::now()),
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
        !self.lost.load(Ordering::Acquire) && self.holding.is_current()
    }

    /// What is answered without asking, where the keeper has told how to see whether it has changed.
    pub fn remembered(&self) -> Option<&Remembered> {
        self.remembered.get()
    }

    /// Whether it has no slots, and the keeper is to be asked for some now, by the caller alone.
    pub fn is_to_ask_for_slots(&self) -> bool {
        if self.holding.has_slots() {
            return false;
        }
        let Some(mut asked) = self.slots_asked.try_lock() else { return false };
        let is_due = asked.elapsed() >= SLOTS_ASK_EVERY;
        if is_due {
            *asked = Instant::now();
        }
        is_due
    }

    /// Takes the slots that the keeper has room for by now.
    pub fn take_slots(&self, answered: Answered) -> io::Result<()> {
        let Reply::Welcome { fingerprints: [seed, mask], .. } = answered.reply()? else { return Ok(()) };
        let mut files = answered.frame.files;
        // Without a descriptor left for it, it is asked for again.
        if let Some(file) = files.pop_front() {
            self.holding.take_slots(file)?;
        }
        if let Some(counters) = files.pop_front() {
            remember_with(&self.remembered, &counters, Fingerprints { seed, mask });
        }
        Ok(())
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
        if let Some(remembered) = self.remembered.get().filter(|_| self.generation == fork::generation()) {
            remembered.clear();
        }
    }

    /// Sends a question and waits for its answer.
    pub fn ask(&self, directory: &Path, question: Question<'_>, limit: Instant) -> Result<Answered, Unanswered> {
        let mut connection = self.connection(directory, limit).map_err(Unanswered::NotSent)?;
        let answered = ask_over(&mut connection, question, limit);
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

    /// A connection of its own that belongs to this session.
    pub fn greet(&self, directory: &Path, limit: Instant) -> io::Result<Connection> {
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
}

impl Unanswered {
    pub fn into_io(self) -> io::Error {
        match self {
            Unanswered::NotSent(error) | Unanswered::Lost(error) => error,
        }
    }
}

/// Has what is remembered be kept by these counters. Without a map left for them, the keeper is asked each time.
fn remember_with(remembered: &OnceLock<Remembered>, counters: &File, fingerprints: Fingerprints) {
    if let Ok(counters) = Counters::map(counters) {
        remembered.get_or_init(|| Remembered::new(counters, fingerprints));
    }
}

/// Sends a question over this connection and waits for its answer.
pub(super) fn ask_over(
    connection: &mut Connection,
    (request, manner, slot, data): Question<'_>,
    limit: Instant,
) -> Result<Answered, Unanswered> {
    let number = slot.map_or(NO_SLOT, |slot| slot.number);
    request.encode(manner, number, data.len() as u64, &mut connection.output);
    let frame = exchange(connection, data, limit)?;
    Ok(Answered { fields: connection.fields().to_vec(), frame })
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
