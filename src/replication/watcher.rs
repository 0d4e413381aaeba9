//! Looks after those who wait: looks again in Redis now and then, asks other nodes to push again, and ends questions that Redis does
//! not answer in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;

use super::TieredBackend;
use crate::redis::{Link, Notice, Op, Watch, publish};
use crate::version::Version;

/// Questions that wait for Redis at a time; one more is answered with "not known".
pub(super) const QUESTIONS_MAX: usize = 16_384;

/// How often waits are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Whether an id exists in Redis: asked by whoever deletes it, answered once.
#[derive(Clone)]
pub(super) struct Question {
    pub id: Arc<[u8]>,
    /// Asked by a delete, which is to delete what the answer says exists.
    pub deletes: bool,
    deadline: Instant,
    answer: Arc<Mutex<Option<OnAnswer>>>,
}

type OnAnswer = Box<dyn FnOnce(Option<bool>) + Send>;

impl Question {
    pub fn new(id: &[u8], deletes: bool, deadline: Instant, answer: OnAnswer) -> Self {
        Question { id: id.into(), deletes, deadline, answer: Arc::new(Mutex::new(Some(answer))) }
    }

    /// The first answer counts.
    pub fn answer(&self, exists: Option<bool>) {
        let answer = self.answer.lock().take();
        if let Some(answer) = answer {
            answer(exists);
        }
    }

    pub fn is_answered(&self) -> bool {
        self.answer.lock().is_none()
    }
}

pub(super) fn run(backend: &TieredBackend, asked: &Receiver<Question>) {
    let mut watcher = Watcher { backend, link: None, watch: Watch::default() };
    let mut questions = BTreeMap::<(Instant, u64), Question>::new();
    let (mut next_tick, mut number) = (Instant::now() + TICK, 0);
    while !backend.is_closing() {
        let next = questions.first_key_value().map_or(next_tick, |((deadline, _), _)| next_tick.min(*deadline));
        match asked.recv_deadline(next) {
            Ok(question) => {
                number += 1;
                questions.insert((question.deadline, number), question);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = Instant::now();
        while let Some(first) =
            questions.first_entry().filter(|first| first.key().0 <= now || first.get().is_answered())
        {
            first.remove().answer(None);
        }
        if now >= next_tick {
            next_tick = now + TICK;
            watcher.tick(now);
        }
    }
    questions.into_values().chain(asked.try_iter()).for_each(|question| question.answer(None));
}

struct Watcher<'a> {
    backend: &'a TieredBackend,
    link: Option<Link>,
    watch: Watch,
}

impl Watcher<'_> {
    fn tick(&mut self, now: Instant) {
        let due = self.watch.tick(self.backend.waiters.ids(), now);
        due.looks.iter().for_each(|id| self.backend.seek_again(id));
        if !due.wants.is_empty() && self.want(&due.wants).is_none() {
            self.link = None;
        }
    }

    /// Asks whoever holds these ids to push them again.
    fn want(&mut self, ids: &[Box<[u8]>]) -> Option<()> {
        let node = self.backend.tier().ok()?.journal.node();
        let notices: Vec<_> = ids.iter().map(|id| Notice { op: Op::Want, id, version: Version::default() }).collect();
        if self.link.is_none() {
            self.link = self.backend.connect(Duration::ZERO).ok();
        }
        publish(self.link.as_mut()?, &self.backend.keys, node, &notices).ok().map(drop)
    }
}
