//! An attached process: its session with today's keeper, and how that one, or the next, is asked.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::{Mutex, ReentrantMutex};

use super::holding::{Holding, Slot};
use super::messages::{Known, Manner, NAMES_MAX, Reply, Request, SLICE};
use super::remembered::Data;
use super::session::{Answered, Greeted, Session, Unanswered};
use super::socket::{self, is_without_descriptor};
use super::starting::Starter;
use super::waits::Waits;
use crate::backend::{OnStored, Stored, Usage, Waiters};
use crate::error::Error;
use crate::fork;
use crate::interrupt;
use crate::local::{UNSHARED_BYTES_MAX, make_directory};
use crate::object::Object;

/// How long a put may wait for room, and what is written for the disk.
pub(super) const ROOM_WAIT_MAX: Duration = Duration::from_secs(90);

/// Longer copies are not remembered: what is so long stands in a segment, but where that could not be.
const COPIES_REMEMBERED_BYTES_MAX: usize = UNSHARED_BYTES_MAX as usize;

/// Why there is no session where no keeper may be started.
const NOBODY: &str = "no process keeps it";

pub(crate) struct Attached {
    this: Weak<Attached>,
    pub(super) directory: PathBuf,
    pub(super) options: AttachOptions,
    /// None: only a keeper that is there is attached to.
    starter: Option<Starter>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) current: ArcSwapOption<Session>,
    /// Held while a session is made: by one thread at a time, which may come back to it in a signal handler.
    beginning: ReentrantMutex<()>,
    pub(super) waits: Waits,
    pub(super) closed: AtomicBool,
    next_name: AtomicU64,
    /// What the keeper said last, for `usage`, which cannot fail.
    pub(super) usage: Mutex<Usage>,
    pub(super) place: Mutex<String>,
    pub(super) backend: &'static str,
}

/// How a process attaches.
pub(crate) struct AttachOptions {
    /// What the keeper must be like, by name.
    pub expected: Vec<(String, String)>,
    /// Whether each write is to survive a power loss before it is acknowledged.
    pub is_durable: bool,
    /// How long a process looks for a keeper, or for one to take the place of another.
    pub keeper_wait: Duration,
    /// How long the keeper may take to answer, besides what it has to wait for itself.
    pub response_timeout: Duration,
    /// How long it may wait for Redis.
    pub redis_wait: Duration,
    /// How long closing waits for what Redis does not have yet.
    pub drain_limit: Duration,
}

/// A call: what is asked, and how often that may be done.
pub(super) struct Call<'a> {
    pub(super) action: &'static str,
    /// Whether it may be repeated where the keeper is lost in the middle of it.
    pub(super) is_repeatable: bool,
    pub(super) data: &'a [u8],
    /// How long the keeper itself may have to wait for something.
    pub(super) wait: Duration,
    pub(super) manner: Manner,
}

impl Call<'_> {
    pub(super) fn new(action: &'static str) -> Self {
        Call { action, is_repeatable: true, data: &[], wait: Duration::ZERO, manner: Manner::default() }
    }
}

impl Attached {
    /// Attaches to the keeper of the directory, or starts one.
    pub fn attach(
        directory: PathBuf,
        options: AttachOptions,
        starter: Option<Starter>,
        waiters: Arc<Waiters>,
        backend: &'static str,
    ) -> Result<Arc<Attached>, Error> {
        let place = directory.display().to_string();
        let attached = Arc::new_cyclic(|this| Attached {
            this: Weak::clone(this),
            directory,
            options,
            starter,
            waiters,
            current: ArcSwapOption::empty(),
            beginning: ReentrantMutex::new(()),
            waits: Waits::default(),
            closed: AtomicBool::new(false),
            next_name: AtomicU64::new(1),
            usage: Mutex::default(),
            place: Mutex::new(place),
            backend,
        });
        attached.session(Instant::now() + attached.options.keeper_wait)?;
        Ok(attached)
    }

    pub(super) fn this(&self) -> Result<Arc<Attached>, Error> {
        self.this.upgrade().ok_or(Error::Closed)
    }

    pub(super) fn name(&self) -> u64 {
        self.next_name.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn keeper_limit(&self) -> Instant {
        Instant::now() + self.options.keeper_wait
    }

    /// The session with today's keeper, made where there is none: at the latest by `limit`.
    pub(super) fn session(&self, limit: Instant) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.found() {
            return Ok(session);
        }
        let _beginning = loop {
            if let Some(beginning) = self.beginning.try_lock_for(SLICE) {
                break beginning;
            }
            self.look()?;
        };
        if let Some(session) = self.found() {
            return Ok(session);
        }
        let session = self.begin(limit)?;
        self.place.lock().clone_from(&session.place);
        if let Some(former) = self.current.swap(Some(Arc::clone(&session))) {
            // Bytes that are held keep it; its connections are of no use to anybody.
            former.set_lost();
        }
        if self.closed.load(Ordering::Acquire) {
            if let Some(session) = self.current.swap(None) {
                session.set_lost();
            }
            return Err(Error::Closed);
        }
        Ok(session)
    }

    /// The session with today's keeper, if there is one.
    fn found(&self) -> Option<Arc<Session>> {
        self.current.load_full().filter(|session| session.is_current())
    }

    fn look(&self) -> Result<(), Error> {
        interrupt::look().map_err(|interrupted| self.detached(&interrupted.to_string()))
    }

    pub(super) fn rest(&self, moment: Duration) -> Result<(), Error> {
        interrupt::rest(moment).map_err(|interrupted| self.detached(&interrupted.to_string()))
    }

    fn begin(&self, mut limit: Instant) -> Result<Arc<Session>, Error> {
        let (mut reason, mut opened) = (String::new(), 0);
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            let greeting_limit = limit.max(Instant::now() + SLICE);
            // A session that begins while a fork is under way would belong to both processes.
            let begun = match fork::is_under_way(fork::count()) {
                true => Ok(Ok(Greeted::NotYet("a fork is under way".to_owned()))),
                false => Session::begin(&self.directory, &self.options.expected, greeting_limit),
            };
            match begun {
                Ok(Ok(Greeted::Session(session))) => return Ok(session),
                Ok(Ok(Greeted::NotYet(why))) => reason = why,
                Ok(Ok(Greeted::Opening { done })) => {
                    reason = format!("its keeper is opening it, {} % are done", done / 10);
                    // A keeper that gets on is waited for.
                    if done > opened {
                        (opened, limit) = (done, self.keeper_limit());
                    }
                }
                Ok(Err(Error::Closed)) => "the keeper is closing".clone_into(&mut reason),
                Ok(Err(error)) => return Err(error),
                Err(error) if socket::is_nobody(&error) => match &self.starter {
                    None => return Err(self.detached(NOBODY)),
                    Some(starter) if starter.start(limit)? => continue,
                    Some(_) => "nobody keeps it, and another process is about to".clone_into(&mut reason),
                },
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    // It says whose the directory is.
                    if self.starter.is_some() {
                        make_directory(&self.directory)?;
                    }
                    return Err(self.detached(&error.to_string()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Err(self.detached(&error.to_string()));
                }
                Err(error) => reason = error.to_string(),
            }
            if Instant::now() >= limit {
                return Err(self.detached(&reason));
            }
            self.rest(SLICE / 5)?;
        }
    }

    pub(super) fn detached(&self, reason: &str) -> Error {
        Error::Detached { path: self.directory.clone(), reason: reason.to_owned() }
    }

    /// Asks the keeper, and the next one where that one is lost. `build` makes the request, in a slot where it wants one.
    pub(super) fn call<'q>(
        &self,
        call: &Call<'_>,
        take_slot: fn(&Arc<Holding>) -> Option<Slot>,
        build: impl Fn(u64) -> Request<'q>,
    ) -> Result<Called, Error> {
        let keeper_limit = self.keeper_limit();
        loop {
            let session = self.session(keeper_limit)?;
            self.ask_for_slots(&session)?;
            let slot = take_slot(&session.holding);
            let request = build(slot.as_ref().map_or(0, |slot| slot.ticket));
            match self.ask_once(&session, call, &request, slot.as_ref())? {
                Some(answered) => return Ok(Called { session, slot, answered }),
                None if Instant::now() >= keeper_limit => return Err(self.detached("its keeper cannot take the call")),
                None => self.rest(SLICE / 10)?,
            }
        }
    }

    /// Asks for slots, every now and then, where there was no room for them. Where there is none still, this process goes on without.
    pub(super) fn ask_for_slots(&self, session: &Arc<Session>) -> Result<(), Error> {
        if session.is_to_ask_for_slots()
            && let Some(answered) = self.ask_once(session, &Call::new("attach"), &Request::Slots, None)?
            && let Err(error) = session.take_slots(answered)
        {
            tracing::debug!("{}: {error}; slots are asked for again", self.directory.display());
        }
        Ok(())
    }

    /// One question to one keeper; None where it is to be asked again, or the next one.
    pub(super) fn ask_once(
        &self,
        session: &Arc<Session>,
        call: &Call<'_>,
        request: &Request<'_>,
        slot: Option<&Slot>,
    ) -> Result<Option<Answered>, Error> {
        let (manner, limit) = self.manner_and_limit(call);
        let asked = session.ask(&self.directory, (request, manner, slot, call.data), limit);
        self.judge(session, call, asked)
    }

    /// How a call is made now, and until when it is waited for.
    pub(super) fn manner_and_limit(&self, call: &Call<'_>) -> (Manner, Instant) {
        let manner = Manner { is_durable: self.options.is_durable, ..call.manner };
        (manner, Instant::now() + self.options.response_timeout + self.options.redis_wait + call.wait)
    }

    /// What has become of a question; None where it is to be asked again, or the next keeper.
    pub(super) fn judge(
        &self,
        session: &Arc<Session>,
        call: &Call<'_>,
        asked: Result<Answered, Unanswered>,
    ) -> Result<Option<Answered>, Error> {
        match asked {
            Ok(answered) => {
                match answered.reply().map_err(|malformed| self.unanswered(call.action, &malformed.into()))? {
                    Reply::Busy => Ok(None),
                    // Nothing is done once a store is closed; another keeper may have it soon.
                    Reply::Failed(Error::Closed) => {
                        session.set_lost();
                        Ok(None)
                    }
                    Reply::Failed(error) => Err(error),
                    _ => Ok(Some(answered)),
                }
            }
            Err(Unanswered::NotSent(error)) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::TimedOut => Err(self.detached(&error.to_string())),
                io::ErrorKind::WouldBlock => Ok(None),
                // This process has no descriptor for one more connection: the keeper is there.
                _ if is_without_descriptor(&error) => Ok(None),
                _ => {
                    session.set_lost();
                    Ok(None)
                }
            },
            Err(Unanswered::Lost(error)) => {
                let is_there = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted);
                if !is_there {
                    session.set_lost();
                }
                match call.is_repeatable {
                    false => Err(self.unanswered(call.action, &error)),
                    true if is_there => Err(self.detached(&error.to_string())),
                    true => Ok(None),
                }
            }
        }
    }

    /// One question to this keeper and no other, again while it cannot take it; None where it is gone.
    pub(super) fn ask_while_current(
        &self,
        session: &Arc<Session>,
        call: &Call<'_>,
        request: &Request<'_>,
        slot: Option<&Slot>,
    ) -> Result<Option<Answered>, Error> {
        let limit = self.keeper_limit();
        loop {
            match self.ask_once(session, call, request, slot)? {
                Some(answered) => return Ok(Some(answered)),
                None if !session.is_current() => return Ok(None),
                None if Instant::now() >= limit => return Err(self.detached("its keeper cannot take the call")),
                None => self.rest(SLICE / 10)?,
            }
        }
    }

    pub(super) fn unanswered(&self, action: &'static str, error: &io::Error) -> Error {
        Error::Unanswered { path: self.directory.clone(), action, reason: error.to_string() }
    }

    pub(super) fn nonsense<T>(&self, action: &'static str) -> Result<T, Error> {
        Err(self.unanswered(action, &io::Error::new(io::ErrorKind::InvalidData, "its answer makes no sense")))
    }

    /// The object that was asked for; `id`: under which it may be remembered.
    fn object(&self, action: &'static str, called: Called, id: Option<&[u8]>) -> Result<Taken, Error> {
        let Called { session, slot, answered } = called;
        let reply = answered.reply().map_err(|malformed| self.unanswered(action, &malformed.into()))?;
        match reply {
            Reply::Absent => Ok(Taken::Absent),
            Reply::Inline { metadata, known } => {
                let (metadata, data) = (Bytes::copy_from_slice(metadata), Bytes::from(answered.frame.data));
                if data.len() <= COPIES_REMEMBERED_BYTES_MAX {
                    remember(&session, id, known, &metadata, || Data::Copy(data.clone()));
                }
                Ok(Taken::Object(Object { data, metadata }))
            }
            Reply::Placed { metadata, known, segment, offset, data_bytes, file_bytes } => {
                // Without a descriptor or a map left, a copy does as well.
                let Some(slot) = slot else { return Ok(Taken::AsCopy(None)) };
                let Some(file) = answered.frame.files.front() else { return Ok(Taken::AsCopy(Some(slot))) };
                match session.holding.lent(slot, (segment, file_bytes), file, (offset, data_bytes)) {
                    Ok(lent) => {
                        let (data, metadata) = (lent.first(), Bytes::copy_from_slice(metadata));
                        remember(&session, id, known, &metadata, || Data::Lent(lent));
                        Ok(Taken::Object(Object { data, metadata }))
                    }
                    Err((_, error)) if error.kind() == io::ErrorKind::InvalidData => {
                        Err(self.unanswered(action, &error))
                    }
                    Err((slot, _)) => Ok(Taken::AsCopy(Some(slot))),
                }
            }
            _ => self.nonsense(action),
        }
    }

    pub(super) fn get_object(&self, id: &[u8], is_here: bool) -> Result<Option<Object>, Error> {
        // Without asking, where nothing has changed since it was told.
        if let Some(object) = self.recalled(id) {
            return Ok(Some(object));
        }
        let call = Call { manner: Manner { is_here, ..Manner::default() }, ..Call::new("get") };
        let build = |ticket| Request::Get { ticket, id };
        match self.object("get", self.call(&call, Holding::slot, build)?, Some(id))? {
            Taken::Absent => Ok(None),
            Taken::Object(object) => Ok(Some(object)),
            Taken::AsCopy(_) => match self.object("get", self.call(&call, no_slot, build)?, Some(id))? {
                Taken::Absent => Ok(None),
                Taken::Object(object) => Ok(Some(object)),
                Taken::AsCopy(_) => self.nonsense("get"),
            },
        }
    }

    /// The object, where it is remembered.
    pub(super) fn recalled(&self, id: &[u8]) -> Option<Object> {
        let session = self.current.load();
        let session = session.as_ref().filter(|session| session.is_current())?;
        session.remembered()?.get(id)
    }

    /// The object that woke those who waited under these names, in this session; None where the keeper has it no more.
    pub(super) fn claim(&self, session: &Arc<Session>, names: &[u64]) -> Result<Option<Object>, Error> {
        let names = names.get(..NAMES_MAX).unwrap_or(names);
        match self.claim_in(session, names, session.holding.slot())? {
            Taken::Object(object) => Ok(Some(object)),
            Taken::Absent => Ok(None),
            // It may be deleted by now: the slot, which the keeper has it in, is given back after the copy has come.
            Taken::AsCopy(_slot) => match self.claim_in(session, names, None)? {
                Taken::Object(object) => Ok(Some(object)),
                Taken::Absent => Ok(None),
                Taken::AsCopy(_) => self.nonsense("claim"),
            },
        }
    }

    fn claim_in(&self, session: &Arc<Session>, names: &[u64], slot: Option<Slot>) -> Result<Taken, Error> {
        let request = Request::Claim { ticket: slot.as_ref().map_or(0, |slot| slot.ticket), names: names.to_vec() };
        let asked = self.ask_while_current(session, &Call::new("claim"), &request, slot.as_ref())?;
        // Another one knows nothing of it.
        let answered = asked.ok_or_else(|| self.detached("the keeper that had it is gone"))?;
        self.object("claim", Called { session: Arc::clone(session), slot, answered }, None)
    }

    /// A write's answer, and those in this process whom it has woken.
    pub(super) fn done(&self, action: &'static str, called: Called, stored: OnStored<'_>) -> Result<bool, Error> {
        let reply = called.answered.reply().map_err(|malformed| self.unanswered(action, &malformed.into()))?;
        let Reply::Done { is_so, woken } = reply else { return self.nonsense(action) };
        if !woken.is_empty() {
            self.wake(&called.session, &woken, stored);
        }
        Ok(is_so)
    }

    /// Answers those who waited under these names. What cannot be had is waited for anew.
    fn wake(&self, session: &Arc<Session>, names: &[u64], stored: OnStored<'_>) {
        match self.claim(session, names) {
            Ok(Some(object)) => {
                if let Some(since_before) = self.waits.told(names) {
                    stored(Stored { object: &|| Some(object.clone()), since_before: Some(since_before) });
                }
            }
            Ok(None) => self.waits.unregister(names),
            Err(error) => {
                tracing::debug!("{}: {error}; waiting anew", self.directory.display());
                self.waits.unregister(names);
            }
        }
    }
}

/// An answered call.
pub(super) struct Called {
    pub session: Arc<Session>,
    pub(super) slot: Option<Slot>,
    pub answered: Answered,
}

/// What a keeper has answered to a question about an object.
enum Taken {
    Absent,
    Object(Object),
    /// It could not be taken where it stands: to be asked for as a copy. The slot in which the keeper has it, if any.
    AsCopy(Option<Slot>),
}

/// Remembers an object that was asked for, where the keeper allows it.
fn remember(session: &Session, id: Option<&[u8]>, known: Known, metadata: &Bytes, data: impl FnOnce() -> Data) {
    if let (Some(remembered), Some(id), Some(known)) = (session.remembered(), id, known) {
        remembered.insert(id, known, metadata.clone(), data());
    }
}

pub(super) fn no_slot(_: &Arc<Holding>) -> Option<Slot> {
    None
}
