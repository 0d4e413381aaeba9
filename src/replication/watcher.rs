//! The watcher, the thread that looks after those who wait: it has Redis looked at again now and then, has other nodes asked to push again, and
//! ends questions that Redis does not answer in time. It waits for nothing itself, so that these end in time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::TieredBackend;
use super::jobs::{QUESTIONS_MAX, Question};
use crate::redis::Watch;

/// How often it looks after waits.
const TICK: Duration = Duration::from_millis(250);

/// Questions under way, by deadline.
#[derive(Default)]
struct Questions {
    asked: BTreeMap<(Instant, u64), Question>,
    number: u64,
}

impl Questions {
    fn add(&mut self, question: Question) {
        if self.asked.len() >= QUESTIONS_MAX {
            self.asked.retain(|_, asked| !asked.is_answered());
        }
        if self.asked.len() >= QUESTIONS_MAX {
            return question.answer(None);
        }
        self.number += 1;
        self.asked.insert((question.deadline, self.number), question);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.asked.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    fn end_overdue(&mut self, now: Instant) {
        while let Some(first) =
            self.asked.first_entry().filter(|first| first.key().0 <= now || first.get().is_answered())
        {
            first.remove().answer(None);
        }
    }
}

pub(super) fn run(backend: &TieredBackend, asked: &Receiver<Question>) {
    let mut watch = Watch::default();
    let mut questions = Questions::default();
    let mut next_tick = Instant::now() + TICK;
    while !backend.is_closing() {
        let next = questions.next_deadline().map_or(next_tick, |deadline| next_tick.min(deadline));
        match asked.recv_deadline(next) {
            Ok(question) => questions.add(question),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = Instant::now();
        questions.end_overdue(now);
        if now >= next_tick {
            next_tick = now + TICK;
            look(backend, &mut watch, now);
            look_at_progress(backend, now);
        }
    }
    questions.asked.into_values().chain(asked.try_iter()).for_each(|question| question.answer(None));
}

/// Has the health noted how far behind Redis is.
fn look_at_progress(backend: &TieredBackend, now: Instant) {
    // A store that is closed, or was opened by a parent process, pushes nothing.
    let Ok(tier) = backend.tier() else { return };
    if let Some(outbox) = tier.outbox() {
        let end = tier.end();
        backend.health.look(outbox.ledger.first_unpushed(end), end, now);
    }
}

/// Queues fetches for those who wait, and has other nodes asked for what is still missing. Nothing here waits for Redis.
fn look(backend: &TieredBackend, watch: &mut Watch, now: Instant) {
    let due = watch.tick(backend.waiters.ids(), now);
    due.looks.iter().for_each(|id| backend.fetch(id, None));
    if due.wants.is_empty() {
        return;
    }
    for id in due.wants {
        // If the queue is full, the id is asked for again later.
        let _ = backend.asking.try_send(id);
    }
    backend.wake_replicator();
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Sender, unbounded};

    use super::*;

    fn question(deadline: Instant, answers: &Sender<Option<bool>>) -> Question {
        let answers = answers.clone();
        Question::new(b"id", false, deadline, Box::new(move |answer| answers.send(answer).unwrap()))
    }

    /// Invariant 9: what is held for those who ask is bounded.
    #[test]
    fn one_question_too_many_is_answered_at_once() {
        let (answers, answered) = unbounded();
        let (now, mut questions) = (Instant::now(), Questions::default());
        let deadline = now + Duration::from_secs(60);
        let first = question(deadline, &answers);
        questions.add(first.clone());
        (1..QUESTIONS_MAX).for_each(|_| questions.add(question(deadline, &answers)));
        questions.end_overdue(now);
        assert!(answered.is_empty());
        questions.add(question(deadline, &answers));
        assert_eq!(answered.try_iter().collect::<Vec<_>>(), [None]);

        // Answered questions make room.
        first.answer(Some(true));
        questions.add(question(deadline, &answers));
        assert_eq!(answered.try_iter().collect::<Vec<_>>(), [Some(true)]);
        questions.end_overdue(deadline);
        assert_eq!(answered.try_iter().count(), QUESTIONS_MAX);
        assert_eq!(questions.next_deadline(), None);
    }
}
