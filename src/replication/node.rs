//! The state that the `tiered` backend and its threads share, and the steps that several of them use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::attention::Attention;
use super::counters::Counters;
use super::flights::Flights;
use super::health::Health;
use super::jobs::{Fetchers, Gate, Job, Question};
use super::peers::Peers;
use super::wants::Wants;
use crate::backend::{Backend, Patience, Waiters};
use crate::error::Error;
use crate::interrupt;
use crate::local::{Known, LocalBackend, Tier};
use crate::redis::{Keys, Link, RedisOptions, Target, ValueFormat, server};

/// How much later than its time limit a question is answered at most, on a machine that is very busy.
const ANSWER_GRACE: Duration = Duration::from_secs(60);

/// The `tiered` backend.
pub(crate) struct TieredBackend {
    pub(super) local: Arc<LocalBackend>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) target: Target,
    pub(super) keys: Keys,
    pub(super) options: RedisOptions,
    pub(super) flights: Flights,
    pub(super) fetchers: Fetchers,
    pub(super) questions: Sender<Question>,
    /// Ids to push again, because other nodes want them or Redis has lost them.
    pub(super) wants: Wants,
    /// Ids to ask other nodes for, queued for the replicator.
    pub(super) asking: Sender<Box<[u8]>>,
    pub(super) to_ask: Receiver<Box<[u8]>>,
    /// Held while Redis is asked for its epoch and until that is acted upon. If two threads find that it changed, the second must not push before
    /// the first has begun to hear anew.
    pub(super) epoch: Mutex<()>,
    pub(super) health: Health,
    pub(super) counters: Counters,
    pub(super) attention: Attention,
    pub(super) peers: Peers,
    pub(super) gate: Gate,
    pub(super) closing: AtomicBool,
    pub(super) running: Mutex<Option<Running>>,
}

/// The ends of the channels by which closing stops the threads.
pub(super) struct Running {
    pub drain: Drain,
    pub drained: Receiver<()>,
    /// Disconnected when the last of the other threads has ended.
    pub ended: Receiver<()>,
}

/// Tells the replicator to stop, at once if this is dropped. The replicator rests on what wakes it, so each of both wakes it too.
pub(super) struct Drain {
    until: Option<Sender<Instant>>,
    wake: Sender<()>,
}

impl Drain {
    pub fn new(until: Sender<Instant>, wake: Sender<()>) -> Drain {
        Drain { until: Some(until), wake }
    }

    /// Has the replicator push what Redis lacks, until this moment at most, and then stop.
    pub fn begin(&self, until: Instant) {
        if let Some(sender) = &self.until {
            let _ = sender.send(until); // it may have stopped by itself
        }
        self.wake();
    }

    fn wake(&self) {
        let _ = self.wake.try_send(()); // full: it is woken already
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.until = None;
        self.wake();
    }
}

impl TieredBackend {
    /// Lets all threads end except the replicator, which `drain` stops.
    pub(super) fn stop_threads(&self) {
        self.closing.store(true, Ordering::Release);
        self.fetchers.close();
    }

    /// The local tier; `Forked` in a child of the process that opened it.
    pub(super) fn tier(&self) -> Result<&Arc<Tier>, Error> {
        self.local.tier()
    }

    pub(super) fn local_place(&self) -> String {
        self.local.place()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// A new connection, with a time limit for answers of `response_timeout_ms` plus `longer`.
    pub(super) fn connect(&self, longer: Duration) -> Result<Link, Error> {
        let link = self.target.connect(Duration::from_millis(self.options.response_timeout_ms) + longer);
        match &link {
            Ok(_) => {
                self.counters.connects.add(1);
                self.health.set_away(None);
            }
            Err(error) => {
                self.counters.connect_failures.add(1);
                self.health.set_away(Some(error));
            }
        }
        link
    }

    /// As `connect`, for a thread that then checks the epoch: until it has, nothing is evicted.
    pub(super) fn connect_anew(&self, longer: Duration) -> Result<Link, Error> {
        let link = self.connect(longer);
        if let Some(outbox) = &self.tier()?.outbox() {
            match &link {
                // It may have been emptied while it was away, and one that does not let this node in says nothing of that.
                Ok(_) | Err(Error::Denied { .. }) => outbox.continuity.ask(),
                Err(_) => outbox.continuity.away(),
            }
        }
        link
    }

    /// Checks that this is the Redis for which the cursors hold. If not, it has lost everything, and every object held here is dirty again.
    pub(super) fn check_epoch(&self, link: &mut Link) -> Result<(), Error> {
        let Some(_checking) = self.epoch.try_lock() else {
            // Not waited for: the other thread may be waiting for its connection.
            return Err(Error::Unreachable {
                address: self.target.address().to_owned(),
                reason: "another thread is asking whether this is the Redis that it was".to_owned(),
            });
        };
        let Some(outbox) = &self.tier()?.outbox() else { return Ok(()) };
        outbox.continuity.ask();
        let (known, found) = (outbox.epoch(), server::epoch(link, &self.keys)?);
        if known.is_empty() {
            let epoch = self.drawn(link, found)?;
            self.begin_hearing(link)?;
            outbox.set_epoch(epoch);
        } else if found.as_ref() == Some(&known) {
            self.begin_hearing(link)?;
            outbox.continuity.confirm();
            return Ok(());
        } else {
            // From now on, whatever fails below: nothing that is clean may be evicted, and the next open takes everything for dirty.
            if outbox.continuity.lose() {
                tracing::warn!(
                    "Redis at {} has lost everything, or is another one: every object held here is pushed again",
                    self.target.address()
                );
            }
            let epoch = self.drawn(link, found)?;
            // The stream is gone with the rest: hearing begins anew, before anything is pushed.
            outbox.set_heard(String::new(), outbox.heard().1);
            self.begin_hearing(link)?;
            // Other nodes may have noticed earlier and pushed, also deletes: their events are heard before anything is pushed here.
            self.hear_gathered(link, None)?;
            let tier = self.tier()?;
            outbox.ledger.lose_everything(|| tier.end());
            outbox.set_epoch(epoch);
        }
        outbox.wake();
        Ok(())
    }

    /// Whether Redis's epoch is the known one; None if it does not say. If it is, what Redis has just lacked was deleted, or lost by itself: one that was
    /// emptied, or another one, lacks everything.
    pub(super) fn has_known_epoch(&self, link: &mut Link) -> Result<Option<bool>, Error> {
        let Some(outbox) = &self.tier()?.outbox() else { return Ok(None) }; // nothing is shared, so there is none
        let known = outbox.epoch();
        match server::epoch(link, &self.keys) {
            Ok(found) => Ok(Some(!known.is_empty() && found == Some(known))),
            // If the connection is broken, that is found out by whatever comes next.
            Err(error) => {
                tracing::debug!("whether Redis has lost everything: {error}");
                Ok(None)
            }
        }
    }

    /// The epoch that was found; a new one if there was none.
    fn drawn(&self, link: &mut Link, found: Option<String>) -> Result<String, Error> {
        found.map_or_else(|| server::begin_epoch(link, &self.keys), Ok)
    }

    /// Whether values in Redis have no version (`value_format = "python"`): the last to reach it wins, in the order of the event stream.
    pub(super) fn is_unversioned(&self) -> bool {
        self.options.value_format == ValueFormat::Python
    }

    /// Wakes the replicator.
    pub(super) fn wake_replicator(&self) {
        if let Ok(tier) = self.tier()
            && let Some(outbox) = tier.outbox()
        {
            outbox.wake();
        }
    }

    /// How long a caller waits for Redis at most.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.options.response_timeout_ms.saturating_add(self.options.connect_timeout_ms))
    }

    /// Asks Redis whether an id exists that is not held here, and waits for the answer. None: not known. `deletes`: see `Question`.
    pub(super) fn exists_elsewhere(&self, id: &[u8], deletes: bool, limit: Duration) -> Option<bool> {
        let (sender, receiver) = bounded(1);
        self.ask(
            id,
            deletes,
            limit,
            Box::new(move |exists| {
                let _ = sender.send(exists);
            }),
        );
        // Answered in time by the watcher; a caller that gives up early does not need the answer.
        interrupt::recv_timeout(&receiver, limit.saturating_add(ANSWER_GRACE)).ok().flatten()
    }

    /// As `exists_elsewhere`, without waiting: `answer` is called with None if Redis does not answer in time.
    pub(super) fn ask(&self, id: &[u8], deletes: bool, limit: Duration, answer: Box<dyn FnOnce(Option<bool>) + Send>) {
        let question = Question::new(id, deletes, Instant::now() + limit, answer);
        self.flights.ask(id);
        if !self.fetchers.try_send(Job::Exists(question.clone())) {
            question.answer(None);
            self.flights.answered(id);
            return;
        }
        if self.questions.try_send(question.clone()).is_err() {
            question.answer(None);
        }
    }

    /// Deletes here. Returns whether the object existed, if that is known without asking Redis. Otherwise the id counts as in flight, so
    /// that the delete does not overtake the question that the caller asks next.
    pub(super) fn delete_here(&self, id: &[u8]) -> Result<Option<bool>, Error> {
        let tier = self.tier()?;
        let _inside = tier.enter()?;
        let known = tier.known(id)?;
        if known == Known::Nothing {
            self.flights.ask(id);
        }
        let existed =
            tier.delete_telling(id, Patience::Caller, &|known| self.flights.deleting(id, known)).inspect_err(|_| {
                if known == Known::Nothing {
                    self.flights.answered(id);
                }
            })?;
        if existed || known != Known::Nothing {
            if known == Known::Nothing {
                self.flights.answered(id);
            }
            return Ok(Some(existed));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::TryRecvError;

    use super::*;

    #[test]
    fn to_drain_and_to_stop_wakes_the_replicator() {
        let ((until, to_drain), (wake, woken)) = (bounded(1), bounded(1));
        let drain = Drain::new(until, wake);
        let limit = Instant::now();
        drain.begin(limit);
        assert_eq!((woken.try_recv(), to_drain.try_recv()), (Ok(()), Ok(limit)));
        drop(drain);
        assert_eq!(woken.try_recv(), Ok(()));
        assert_eq!(to_drain.try_recv(), Err(TryRecvError::Disconnected));
    }
}
