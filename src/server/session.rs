//! Sessions: what belongs to a client's identity and survives its connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::control::{Control, Signal};
use super::reply_buffer::{Reply, ReplyBuffer, ReplyBufferParts};
use crate::Ticket;
use crate::wire::{RequestHeader, WireId};

/// The waits of an identity, and the replies that came due for them, whichever connection it has.
#[derive(Debug)]
pub(super) struct Session {
    identity: Box<[u8]>,
    waiting: Arc<AtomicUsize>,
    state: Mutex<State>,
}

/// The state under a session's lock.
#[derive(Default)]
struct State {
    /// The connection that has the identity now.
    attached: Option<Attached>,
    /// Replies that an earlier connection did not get to write.
    unsent: ReplyBuffer,
    due: VecDeque<Due>,
    waits: HashMap<u64, Waiting>,
    wait_last: u64,
    /// How often the identity has become absent; numbers its absences.
    absences: u64,
    /// When its waits are dropped, while it is absent.
    absent_until: Option<Instant>,
    /// The session was removed from `Sessions`: nothing may wait in it any more.
    ended: bool,
}

/// A request that waits for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Wait {
    /// A get.
    Get(RequestHeader),
    /// A duplicate, which waits for its original.
    Duplicate(RequestHeader, WireId),
}

/// A waiting request, as long as it waits.
struct Waiting {
    wait: Wait,
    /// Missing for the moment in which it is being made.
    ticket: Option<Ticket>,
}

/// The connection that has the identity.
struct Attached {
    number: u64,
    control: Arc<Control>,
}

/// The end of a wait.
#[derive(Debug)]
pub(super) enum Due {
    Reply(Reply),
    /// The wait failed, and the connection has to be closed.
    Failed {
        wait: Wait,
        error: crate::Error,
    },
}

/// Which of an identity's absences.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence(u64);

/// One of the bounds on waits is reached.
#[derive(Debug)]
pub(super) struct TooManyWaits;

impl Session {
    pub fn identity(&self) -> &[u8] {
        &self.identity
    }

    /// Registers a wait before the request is parked, since it may come due before its ticket is known. Returns its number.
    pub fn begin_wait(&self, wait: Wait, waits_max: usize, waits_total_max: usize) -> Result<u64, TooManyWaits> {
        let mut state = self.state.lock();
        if state.ended || state.waits.len() >= waits_max || self.waiting.load(Ordering::Relaxed) >= waits_total_max {
            return Err(TooManyWaits);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        state.wait_last += 1;
        let number = state.wait_last;
        state.waits.insert(number, Waiting { wait, ticket: None });
        Ok(number)
    }

    /// Adds the ticket of the parked request. If the wait has come due by now, or the session has ended, the ticket is dropped.
    pub fn parked(&self, wait: u64, ticket: Ticket) {
        let mut state = self.state.lock();
        match state.waits.get_mut(&wait) {
            Some(waiting) => waiting.ticket = Some(ticket),
            None => {
                drop(state);
                drop(ticket);
            }
        }
    }

    /// Removes a wait whose request was answered at once.
    pub fn end_wait(&self, wait: u64) {
        if self.state.lock().waits.remove(&wait).is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Ends a wait, with this result. Called on the thread that stored the object.
    pub fn come_due(&self, wait: u64, due: Due) {
        let mut state = self.state.lock();
        let Some(waiting) = state.waits.remove(&wait) else { return };
        state.due.push_back(due);
        state.signal_due();
        drop(state);
        drop(waiting);
    }

    /// Queues something behind what is due.
    pub fn push(&self, due: Due) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        state.due.push_back(due);
        state.signal_due();
    }

    /// Moves what is due into the replies until that holds `bytes_max`.
    pub fn collect(&self, control: &Control, replies: &mut ReplyBuffer, bytes_max: usize) -> Result<(), crate::Error> {
        let mut state = self.state.lock();
        if !state.unsent.is_empty() {
            replies.append(std::mem::take(&mut state.unsent));
        }
        while replies.len() < bytes_max {
            let Some(due) = state.due.pop_front() else {
                control.lower(Signal::Due);
                break;
            };
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match due {
                Due::Reply(reply) => replies.push(reply),
                Due::Failed { error, .. } => return Err(error),
            }
        }
        Ok(())
    }
}

impl State {
    fn signal_due(&self) {
        if let Some(attached) = &self.attached {
            attached.control.raise(Signal::Due);
        }
    }

    fn end(&mut self) -> Dropped {
        let ended = State { ended: true, ..State::default() };
        let State { waits, due, .. } = std::mem::replace(self, ended);
        Dropped { waits, due }
    }

    fn is_empty(&self) -> bool {
        self.waits.is_empty() && self.due.is_empty() && self.unsent.is_empty()
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waits", &self.waits.len()).field("due", &self.due.len()).finish_non_exhaustive()
    }
}

/// The sessions of all identities that are connected, or have waits that may yet be answered.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Lock order: before any session's state.
    by_identity: Mutex<HashMap<Box<[u8]>, Arc<Session>>>,
    /// Identities that are not connected.
    absent: AtomicUsize,
    /// Waits and undelivered replies of all sessions.
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Sessions {
    /// Attaches this connection to the identity's session, unless a later connection has it. An earlier one that has it is told to close.
    /// Returns also whether there was such an earlier one.
    pub fn attach(&self, identity: &[u8], number: u64, control: &Arc<Control>) -> (Arc<Session>, bool) {
        let mut by_identity = self.by_identity.lock();
        let known = by_identity.get(identity).map(Arc::clone);
        let returned = known.is_some();
        let session = known.unwrap_or_else(|| {
            let identity: Box<[u8]> = identity.into();
            let waiting = Arc::clone(&self.waiting);
            let session = Arc::new(Session { identity: identity.clone(), waiting, state: Mutex::default() });
            by_identity.insert(identity, Arc::clone(&session));
            session
        });
        let mut state = session.state.lock();
        if state.attached.as_ref().is_some_and(|attached| attached.number > number) {
            // The client has connected again while this connection was still greeting.
            control.raise(Signal::Replaced);
            drop(state);
            return (session, false);
        }
        state.absent_until = None;
        let replaced = state.attached.replace(Attached { number, control: Arc::clone(control) });
        if let Some(replaced) = &replaced {
            replaced.control.raise(Signal::Replaced);
        } else if returned {
            self.absent.fetch_sub(1, Ordering::Relaxed);
        }
        if !state.due.is_empty() || !state.unsent.is_empty() {
            control.raise(Signal::Due);
        }
        drop(state);
        (session, replaced.is_some())
    }

    /// Detaches a connection that has ended; its unsent replies stay with the session. If the identity is absent now and has something
    /// to keep, returns the number of this absence, for [`end_if_absent`](Self::end_if_absent) after a while.
    pub fn detach(&self, session: &Session, number: u64, unsent: ReplyBuffer) -> Option<Absence> {
        let mut by_identity = self.by_identity.lock();
        let mut state = session.state.lock();
        state.unsent.append(unsent);
        if state.attached.as_ref().is_some_and(|attached| attached.number != number) {
            if !state.unsent.is_empty() {
                state.signal_due();
            }
            return None;
        }
        state.attached.take()?;
        if state.is_empty() {
            state.ended = true;
            by_identity.remove(&session.identity);
            return None;
        }
        state.absences += 1;
        self.absent.fetch_add(1, Ordering::Relaxed);
        Some(Absence(state.absences))
    }

    /// Says until when an absent identity's waits are kept.
    pub fn hold_until(&self, session: &Session, absence: Absence, limit: Instant) {
        let mut state = session.state.lock();
        if state.absences == absence.0 && state.attached.is_none() {
            state.absent_until = Some(limit);
        }
    }

    /// How many identities are kept though they are not connected.
    pub fn absent(&self) -> usize {
        self.absent.load(Ordering::Relaxed)
    }

    /// Drops the waits of a session whose identity has not returned since this absence began. Returns how many there were.
    pub fn end_if_absent(&self, session: &Session, absence: Absence) -> usize {
        let mut by_identity = self.by_identity.lock();
        let mut state = session.state.lock();
        if state.attached.is_some() || state.ended || state.absences != absence.0 {
            return 0;
        }
        by_identity.remove(&session.identity);
        self.absent.fetch_sub(1, Ordering::Relaxed);
        let dropped = state.end();
        drop((state, by_identity));
        self.waiting.fetch_sub(dropped.count(), Ordering::Relaxed);
        dropped.count()
    }

    /// Drops the waits of every session when the server has stopped.
    pub fn end_all(&self) {
        let by_identity = std::mem::take(&mut *self.by_identity.lock());
        for session in by_identity.values() {
            let dropped = session.state.lock().end();
            self.waiting.fetch_sub(dropped.count(), Ordering::Relaxed);
        }
    }
}

impl Sessions {
    /// Ends all sessions, and returns what another process needs to go on with them, each with the number of its connection.
    pub fn take_apart(&self) -> Vec<(SessionParts, Option<u64>)> {
        let by_identity = std::mem::take(&mut *self.by_identity.lock());
        let taken = by_identity.into_values().map(|session| {
            let mut state = session.state.lock();
            let (mut unsent, attached) = (std::mem::take(&mut state.unsent), state.attached.take());
            let absent_until = state.absent_until;
            let Dropped { waits, due } = state.end();
            drop(state);
            self.waiting.fetch_sub(waits.len() + due.len(), Ordering::Relaxed);
            // Those that failed are asked again, before the others.
            let mut numbered: Vec<_> = waits.iter().map(|(number, waiting)| (*number, waiting.wait)).collect();
            for due in due {
                match due {
                    Due::Reply(reply) => unsent.push(reply),
                    Due::Failed { wait, .. } => numbered.push((0, wait)),
                }
            }
            numbered.sort_by_key(|(number, _)| *number);
            // Takes the requests back, which takes a lock of the store.
            drop(waits);
            let parts = SessionParts {
                identity: session.identity.to_vec(),
                unsent: unsent.into_parts(),
                waits: numbered.into_iter().map(|(_, wait)| wait).collect(),
                absent_for: absent_until.map(|limit| limit.saturating_duration_since(Instant::now())),
            };
            (parts, attached.map(|attached| attached.number))
        });
        taken.collect()
    }

    /// Begins the session of an identity that is not connected yet.
    pub fn restore(&self, identity: Vec<u8>, unsent: ReplyBuffer) -> (Arc<Session>, Absence) {
        let identity = identity.into_boxed_slice();
        let state = State { unsent, absences: 1, ..State::default() };
        let waiting = Arc::clone(&self.waiting);
        let session = Arc::new(Session { identity: identity.clone(), waiting, state: Mutex::new(state) });
        self.by_identity.lock().insert(identity, Arc::clone(&session));
        self.absent.fetch_add(1, Ordering::Relaxed);
        (session, Absence(1))
    }
}

/// A session as one process leaves it to another.
#[derive(Debug)]
pub(super) struct SessionParts {
    pub identity: Vec<u8>,
    pub unsent: ReplyBufferParts,
    /// In the order in which they were asked.
    pub waits: Vec<Wait>,
    /// How much longer its waits are kept, where it is absent.
    pub absent_for: Option<Duration>,
}

/// What an ended session leaves. To be dropped after its lock is released, since dropping a ticket takes a lock of the store.
struct Dropped {
    waits: HashMap<u64, Waiting>,
    due: VecDeque<Due>,
}

impl Dropped {
    fn count(&self) -> usize {
        self.waits.len() + self.due.len()
    }
}
