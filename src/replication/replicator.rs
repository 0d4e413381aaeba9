//! The replicator, the thread that pushes dirty records to Redis.
//!
//! A round is one batch: the records that the ledger says are next (`gathering`), and those apart that are due. What becomes of each is
//! reported to the ledger (`sending`). While batches are full, a round is several of them, of which two are under way at a time. This thread
//! waits for Redis on its own connection, and for nothing else.

mod gathering;
mod hearing;
mod sending;
mod wanted;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use gathering::{BUDGET, BatchKind, Sending};
use wanted::Wanted;

use super::TieredBackend;
use super::caution::{Alone, Caution, CautionApart};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::local::ledger::Epoch;
use crate::local::{Budget, Lsn, Outbox, RecordFilter};
use crate::redis::{EntryId, Link, Masters, Pusher, last, masters, refused_commands, server};
use crate::version::Version;

/// How often Redis's clock is read.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// After how long a delete that waits for a fetch under way is tried again.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(2);

/// How long `WAIT` waits for replicas.
const REPLICAS_WAIT: Duration = Duration::from_secs(1);

/// The pause between two settlings, since the masters are asked each time.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// How often the replicator looks, before it pushes anything again, whether the other nodes' events were heard.
const CATCH_UP_EVERY: Duration = Duration::from_millis(5);

/// How long it waits for that if values have versions: then hearing first only saves work.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// How often the same complaint is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Runs until it is told to drain and has done so, or cannot: see `Drain`.
pub(super) fn run(backend: &TieredBackend, woken: &Receiver<()>, drain: &Receiver<Instant>) {
    let Some(mut replicator) = Replicator::new(backend) else { return };
    let mut backoff = Backoff::default();
    loop {
        match drain.try_recv() {
            Ok(until) => replicator.drain_until = Some(until),
            Err(TryRecvError::Disconnected) if replicator.drain_until.is_none() => return,
            Err(_) => {}
        }
        let round = replicator.round();
        let is_refused = replicator.outbox.ledger.has_refused();
        replicator.outbox.set_draining(round.is_ok() && !is_refused);
        if !is_refused {
            backend.health.takes_all();
        }
        if round.is_ok() && replicator.catching_up.is_none() {
            backend.health.pushes();
        }
        if let Some(until) = replicator.drain_until
            && (replicator.is_drained() || Instant::now() >= until)
        {
            return replicator.report_left();
        }
        let is_idle = matches!(round, Ok(false)) && replicator.catching_up.is_none();
        if std::mem::take(&mut replicator.has_progressed) || is_idle {
            backoff.succeeded();
        }
        let wait = match round {
            Ok(true) => continue,
            Ok(false) if replicator.drain_until.is_some() => IN_FLIGHT_WAIT,
            Ok(false) => replicator.idle_time(),
            Err(error) => {
                let was_connected = replicator.link.is_some();
                replicator.failed(&error);
                if replicator.drain_until.is_some() {
                    let is_cut_off = was_connected && replicator.link.is_none();
                    if is_cut_off && !std::mem::replace(&mut replicator.has_reconnected, true) {
                        continue;
                    }
                    return replicator.report_left();
                }
                // Puts do not end this wait. Where nobody is there any more to tell, the next turn finds that out.
                replicator.drain_until = drain.recv_timeout(backoff.failed()).ok();
                continue;
            }
        };
        // Not a selection from both channels: its end takes a lock that the one who puts holds while it wakes this thread.
        if woken.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// The replicator thread's state.
struct Replicator<'a> {
    backend: &'a TieredBackend,
    outbox: &'a Outbox,
    pusher: Pusher,
    link: Option<Link>,
    /// The ledger's epoch to which this thread's reports belong.
    epoch: Epoch,
    /// The masters that took what was pushed in this epoch.
    masters: Masters,
    /// Nothing is pushed before this event was heard; and since when it is waited for.
    catching_up: Option<(EntryId, Instant)>,
    /// While too many records stand apart: how far deletes were pushed ahead of the tail.
    scout: Option<Lsn>,
    /// The node part of this open's versions.
    node: u64,
    /// The greatest version that was sent.
    sent: Version,
    /// The batches under way, at most two, in case the connection breaks.
    sending: VecDeque<Sending>,
    /// A record under way because another node wants it, alone.
    sending_wanted: Option<Wanted>,
    caution: Caution,
    caution_apart: CautionApart,
    caution_wanted: Alone,
    /// The last record that got through, whatever was pushed again since; and whether one further on did lately.
    reached: Lsn,
    has_progressed: bool,
    /// Whether enough replicas have what was pushed.
    is_confirmed: bool,
    /// When the next batch begins: the more nodes there are, the more events are packed.
    next_batch: Instant,
    /// Failing while Redis is full: then one object is pushed now and then as a probe, and the deletes that may make room.
    full: Backoff,
    /// Told to drain: until when.
    drain_until: Option<Instant>,
    /// A connection that broke while draining was made anew, once: it may have ended long before, which says nothing of Redis.
    has_reconnected: bool,
    clock_read: Option<Instant>,
    settled: Option<Instant>,
    complained: Option<Instant>,
    has_warned: bool,
    /// Commands that Redis does not permit this user, as logged.
    refused: Vec<String>,
}

impl<'a> Replicator<'a> {
    fn new(backend: &'a TieredBackend) -> Option<Self> {
        let tier = backend.tier().ok()?; // a forked child pushes nothing
        let outbox = tier.outbox()?;
        Some(Replicator {
            backend,
            outbox,
            pusher: Pusher::new(&backend.options, tier.node()),
            link: None,
            epoch: outbox.ledger.epoch(),
            masters: Masters::default(),
            catching_up: None,
            scout: None,
            node: tier.node(),
            sent: Version::default(),
            sending: VecDeque::new(),
            sending_wanted: None,
            caution: Caution::default(),
            caution_apart: CautionApart::default(),
            caution_wanted: Alone::default(),
            reached: Lsn::default(),
            has_progressed: false,
            is_confirmed: true,
            next_batch: Instant::now(),
            full: Backoff::default(),
            drain_until: None,
            has_reconnected: false,
            clock_read: None,
            settled: None,
            complained: None,
            has_warned: false,
            refused: Vec::new(),
        })
    }

    /// Pushes one batch, or a run of full ones. Returns whether there may be more to do at once.
    fn round(&mut self) -> Result<bool, Error> {
        self.connect()?;
        self.settle()?;
        if self.is_catching_up() {
            return Ok(false);
        }
        self.ask_for_wanted()?;
        let has_satisfied = self.satisfy_wants()?;
        let batch = self.gather()?;
        let is_idle = batch.writes.is_empty() && matches!(batch.step, BatchKind::Nowhere) && !has_satisfied;
        self.push(batch)?;
        self.is_confirmed &= is_idle;
        self.confirm()?;
        Ok(!is_idle)
    }

    fn connect(&mut self) -> Result<(), Error> {
        if let Some(link) = self.link.as_ref().filter(|link| link.has_ended()) {
            return Err(link.ended()); // or else what is sent next would count as sent
        }
        let is_redirected = self.link.as_mut().is_some_and(Link::take_redirected);
        if self.link.is_none() || is_redirected {
            let mut link = match self.link.take() {
                Some(link) => link,
                None => self.open_link()?,
            };
            // What was acknowledged on the old connection may be lost with it.
            self.begin_epoch(&mut link)?;
            self.link = Some(link);
        }
        if self.outbox.ledger.epoch() != self.epoch {
            // Another thread has found that Redis has lost everything.
            self.restart();
            self.caution.forget();
            self.full = Backoff::default();
        }
        if let Some(link) = &mut self.link
            && self.clock_read.is_none_or(|read| read.elapsed() > CLOCK_EVERY)
        {
            read_clock(self.backend, link)?;
            self.clock_read = Some(Instant::now());
        }
        Ok(())
    }

    fn open_link(&mut self) -> Result<Link, Error> {
        let mut link = self.backend.connect_anew(Duration::ZERO)?;
        // The clock first: the first writes of a store that was just opened wait for it.
        if let Some(last) = last(&mut link, &self.backend.keys)? {
            self.backend.tier()?.set_time_floor(last.ms);
        }
        read_clock(self.backend, &mut link)?;
        self.clock_read = Some(Instant::now());
        self.backend.check_epoch(&mut link)?;
        if !std::mem::replace(&mut self.has_warned, true) {
            server::warnings(&mut link)?.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        Ok(link)
    }

    /// Begins an epoch on a new connection: everything unsettled is pushed again, after the other nodes' events were heard.
    fn begin_epoch(&mut self, link: &mut Link) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.masters, masters(link, &self.backend.keys)?);
        let refused = refused_commands(link, &self.backend.keys)?;
        if !refused.is_empty() && self.refused != refused {
            tracing::warn!("{}", refused.join("; "));
        }
        self.refused = refused;
        let last = last(link, &self.backend.keys)?;
        // With versions it is harmless to push again. Without, that could undo what others have written since, so it is done only if needed.
        if self.backend.is_unversioned() && self.masters.are_still(&before) {
            self.outbox.ledger.resume();
        } else {
            self.outbox.ledger.push_again();
        }
        self.restart();
        self.catching_up = last.map(|last| (last, Instant::now()));
        Ok(())
    }

    fn restart(&mut self) {
        self.epoch = self.outbox.ledger.epoch();
        self.scout = None;
    }

    /// Whether pushing has to wait until the events before this epoch are heard: without versions, pushing again could undo what others wrote.
    fn is_catching_up(&mut self) -> bool {
        let Some((last, since)) = self.catching_up else { return false };
        let has_heard = EntryId::parse(&self.outbox.heard().0).is_some_and(|heard| heard >= last);
        if has_heard || (!self.backend.is_unversioned() && since.elapsed() > CATCH_UP_MAX) {
            self.catching_up = None;
        }
        self.catching_up.is_some()
    }

    fn settle_time(&self) -> Duration {
        Duration::from_millis(self.backend.options.settle_ms)
    }

    /// When something can be settled next.
    fn next_settled(&self) -> Option<Instant> {
        let next = self.outbox.ledger.next_settled(self.settle_time())?;
        let pause = SETTLE_EVERY.min(self.settle_time());
        Some(self.settled.map_or(next, |settled| next.max(settled + pause)))
    }

    /// Settles what was acknowledged long enough ago, if the servers that acknowledged it are still the masters: a demoted one goes on answering,
    /// and loses what it took.
    fn settle(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.next_settled().is_none_or(|next| next > now) {
            return Ok(());
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        let masters = masters(link, &self.backend.keys)?;
        if masters != self.masters {
            let reason = "another server has become master: what it may not have is pushed again".to_owned();
            return Err(Error::Unreachable { address: self.backend.target.address().to_owned(), reason });
        }
        self.outbox.ledger.settle(self.epoch, now, self.settle_time());
        self.settled = Some(now);
        Ok(())
    }

    /// Waits until enough replicas have what was pushed; only then does it count as acknowledged.
    fn confirm(&mut self) -> Result<(), Error> {
        if self.is_confirmed {
            return Ok(());
        }
        let replicas = self.backend.options.wait_replicas;
        if replicas > 0
            && !self.backend.target.is_cluster()
            && let Some(link) = &mut self.link
        {
            let acknowledged = server::wait(link, replicas, REPLICAS_WAIT)?;
            if acknowledged < replicas {
                let missing =
                    format!("{acknowledged} of {replicas} replicas have what was pushed (redis.wait_replicas)");
                self.backend.health.confirmed(Some(&missing));
                return Ok(());
            }
        }
        self.backend.health.confirmed(None);
        self.is_confirmed = true;
        self.outbox.ledger.acknowledge(self.epoch, Instant::now());
        Ok(())
    }

    /// How long there is nothing to do unless somebody wakes the replicator.
    fn idle_time(&self) -> Duration {
        if self.catching_up.is_some() {
            return CATCH_UP_EVERY;
        }
        let ledger = &self.outbox.ledger;
        let end = self.backend.tier().map_or(Lsn::default(), |tier| tier.end());
        let probe = self.full.is_failing().then(|| Instant::now() + self.full.remaining());
        let retry = ledger.next_due(end, self.full.is_failing());
        let more = ledger.next(self.epoch, end).map(|_| self.next_batch);
        let more = more.filter(|_| !self.full.is_failing() && !ledger.is_full());
        let next = [self.next_settled(), probe, retry, more].into_iter().flatten().min();
        let limit = if self.is_confirmed { CLOCK_EVERY } else { REPLICAS_WAIT };
        next.map_or(limit, |next| next.saturating_duration_since(Instant::now()).min(limit))
    }

    /// Whether everything is pushed and confirmed, settled or not, but what breaks the connection each time.
    fn is_drained(&self) -> bool {
        let is_pushed = self.backend.tier().is_ok_and(|tier| self.outbox.ledger.is_pushed_but_aside(tier.end()));
        is_pushed && self.is_confirmed && self.catching_up.is_none()
    }

    /// When the thread ends: settles the counters in Redis, and logs what was not pushed.
    fn report_left(&mut self) {
        self.forget_overtaken();
        if let Some(link) = &mut self.link
            && let Err(error) = self.pusher.settle_counters(link)
        {
            tracing::debug!("counters: {error}");
        }
        if self.may_be_lacking() {
            let complaints = self.backend.health.complaints(Instant::now());
            let why = complaints.first().map(|(_, reason, _)| format!(" ({reason})")).unwrap_or_default();
            tracing::warn!(
                "Redis does not have everything yet: the rest is pushed when {} is opened again{why}",
                self.backend.local_place()
            );
        }
    }

    /// Forgets the records apart that newer ones of their ids have overtaken, which otherwise is found out only when their turn comes.
    fn forget_overtaken(&self) {
        let Ok(tier) = self.backend.tier() else { return }; // a forked child pushes nothing
        let ledger = &self.outbox.ledger;
        for (lsn, id) in ledger.unpushed_apart() {
            if matches!(tier.dirty_at(&id, lsn), Ok(None)) {
                ledger.overtaken(ledger.epoch(), lsn);
            }
        }
    }

    /// Whether there is anything that Redis may not have. What was only read from it does not count.
    fn may_be_lacking(&self) -> bool {
        let ledger = &self.outbox.ledger;
        if !self.is_confirmed || ledger.has_unpushed_apart() {
            return true;
        }
        if self.is_drained() {
            return false;
        }
        let Ok(tier) = self.backend.tier() else { return true }; // it cannot be seen
        let filter = if ledger.has_backlog() { RecordFilter::All } else { RecordFilter::Dirty };
        let end = tier.end();
        let mut from = ledger.replicated();
        while from < end {
            match tier.dirty_records(from, end, filter, Budget { records: 1, ..BUDGET }) {
                Ok(found) if found.dirty.is_empty() && found.unreadable.is_empty() && found.next > from => {
                    from = found.next
                }
                Ok(found) => return !(found.dirty.is_empty() && found.unreadable.is_empty()),
                Err(_) => return true, // it cannot be seen
            }
        }
        false
    }
}

fn read_clock(backend: &TieredBackend, link: &mut Link) -> Result<(), Error> {
    let reading = server::time(link, &backend.keys)?;
    backend.tier()?.set_time(reading);
    Ok(())
}
