//! What is asked of the threads.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Mutex, RwLock};

use crate::backoff::Backoff;
use crate::error::Error;

/// Ids that other nodes are asked for: with more, the rest is asked for later.
pub(super) const ASKING_MAX: usize = 512;

/// Fetches that wait for a fetcher at a time. Who waits for an object is looked after again; a get is refused.
const JOBS_MAX: usize = 65_536;

/// Questions that wait for Redis at a time, and as many on their way here; one more is answered with "not known".
pub(super) const QUESTIONS_MAX: usize = 16_384;

/// What a fetcher can be asked for.
pub(super) enum Job {
    Fetch(Box<[u8]>),
    Exists(Question),
}

/// The way to the threads that fetch.
pub(super) struct Fetchers(RwLock<Option<Sender<Job>>>);

impl Fetchers {
    pub fn new() -> (Self, Receiver<Job>) {
        let (jobs, to_do) = bounded(JOBS_MAX);
        (Fetchers(RwLock::new(Some(jobs))), to_do)
    }

    /// Whether there was room for it.
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

/// Whether an id exists in Redis: asked by whoever deletes it, answered once.
#[derive(Clone)]
pub(super) struct Question {
    pub id: Arc<[u8]>,
    /// Asked by a delete, which is to delete what the answer says exists.
    pub deletes: bool,
    pub deadline: Instant,
    answer: Arc<Mutex<Option<OnAnswer>>>,
}

pub(super) type OnAnswer = Box<dyn FnOnce(Option<bool>) + Send>;

impl Question {
    pub fn new(id: &[u8], deletes: bool, deadline: Instant, answer: OnAnswer) -> Self {
        Question { id: id.into(), deletes, deadline, answer: Arc::new(Mutex::new(Some(answer))) }
    }

    /// The first answer counts.
    pub fn answer(&self, exists: Option<bool>) {
        if let Some(answer) = self.claim() {
            answer(exists);
        }
    }

    /// Takes it upon the caller to answer; None where it is answered.
    pub fn claim(&self) -> Option<OnAnswer> {
        self.answer.lock().take()
    }

    pub fn is_answered(&self) -> bool {
        self.answer.lock().is_none()
    }
}

/// Where the threads take their work from.
pub(super) struct Channels {
    pub jobs: Receiver<Job>,
    pub asked: Receiver<Question>,
}

/// Whether fetchers try to reach Redis: while it is away, one of them does so now and then, and what is asked meanwhile fails at once.
#[derive(Default)]
pub(super) struct Gate(Mutex<Shut>);

#[derive(Default)]
struct Shut {
    backoff: Backoff,
    reason: String,
}

impl Gate {
    /// Why Redis was away a moment ago; None where it is time to try.
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

/// What an error says, without the address of Redis: whoever is told adds it.
pub(super) fn reason_of(error: &Error) -> String {
    match error {
        Error::Unreachable { reason, .. } => reason.clone(),
        error => error.to_string(),
    }
}
