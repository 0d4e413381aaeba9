//! The queues and messages by which the backend asks its threads for work.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Mutex, RwLock};

use crate::backoff::Backoff;
use crate::error::Error;

/// Most ids queued that other nodes are to be asked for. The rest is asked for later.
pub(super) const ASKING_MAX: usize = 512;

/// Most fetches that wait for a fetcher. Beyond that a get fails; parked waits are looked after again by the watcher.
const JOBS_MAX: usize = 65_536;

/// Most questions under way, and as many queued for the watcher. One more is answered with "not known".
pub(super) const QUESTIONS_MAX: usize = 16_384;

/// A job for a fetcher.
pub(super) enum Job {
    Fetch(Box<[u8]>),
    Exists(Question),
}

/// The queue to the fetcher threads.
pub(super) struct Fetchers(RwLock<Option<Sender<Job>>>);

impl Fetchers {
    pub fn new() -> (Self, Receiver<Job>) {
        let (jobs, to_do) = bounded(JOBS_MAX);
        (Fetchers(RwLock::new(Some(jobs))), to_do)
    }

    /// Queues a job. False if there is no room, or the store is being closed.
    pub fn try_send(&self, job: Job) -> bool {
        match &*self.0.read() {
            Some(jobs) => !matches!(jobs.try_send(job), Err(TrySendError::Full(_) | TrySendError::Disconnected(_))),
            None => false,
        }
    }

    /// Lets the fetchers end when they have done what is queued.
    pub fn close(&self) {
        self.0.write().take();
    }
}

/// The question whether an id exists in Redis. Answered exactly once.
#[derive(Clone)]
pub(super) struct Question {
    pub id: Arc<[u8]>,
    /// A delete asks, and has to cover the object that is found.
    pub deletes: bool,
    pub deadline: Instant,
    answer: Arc<Mutex<Option<OnAnswer>>>,
}

/// Called with the answer to a question; None: not known.
pub(super) type OnAnswer = Box<dyn FnOnce(Option<bool>) + Send>;

impl Question {
    pub fn new(id: &[u8], deletes: bool, deadline: Instant, answer: OnAnswer) -> Self {
        Question { id: id.into(), deletes, deadline, answer: Arc::new(Mutex::new(Some(answer))) }
    }

    /// Answers the question, unless it was answered already.
    pub fn answer(&self, exists: Option<bool>) {
        if let Some(answer) = self.claim() {
            answer(exists);
        }
    }

    /// Takes the right and duty to answer; None if somebody has it already.
    pub fn claim(&self) -> Option<OnAnswer> {
        self.answer.lock().take()
    }

    pub fn is_answered(&self) -> bool {
        self.answer.lock().is_none()
    }
}

/// The receiving ends of the threads' queues.
pub(super) struct Channels {
    pub jobs: Receiver<Job>,
    pub asked: Receiver<Question>,
}

/// A circuit breaker for the fetchers: while Redis is away, one of them tries to reach it now and then, and other requests fail at once.
#[derive(Default)]
pub(super) struct Gate(Mutex<Shut>);

#[derive(Default)]
struct Shut {
    backoff: Backoff,
    reason: String,
}

impl Gate {
    /// Why Redis was away a moment ago; None if it is time to try.
    pub fn shut(&self) -> Option<String> {
        let shut = self.0.lock();
        (!shut.backoff.remaining().is_zero()).then(|| shut.reason.clone())
    }

    pub fn failed(&self, error: &Error) {
        let mut shut = self.0.lock();
        if shut.backoff.remaining().is_zero() {
            shut.backoff.failed();
            shut.reason = reason_of(error);
        }
    }

    pub fn succeeded(&self) {
        self.0.lock().backoff.succeeded();
    }
}

/// An error's text without the address of Redis, which is added where it is reported.
pub(super) fn reason_of(error: &Error) -> String {
    match error {
        Error::Unreachable { reason, .. } | Error::Denied { reason, .. } => reason.clone(),
        error => error.to_string(),
    }
}
