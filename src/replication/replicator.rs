//! Pushes what is dirty to Redis.
//!
//! It walks the journal in two lanes: the tail, with what is new, and the backlog, with everything, after Redis has lost its data.
//! What was pushed is settled only after a while; when a connection breaks before, both lanes go back to what is settled.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, select};

use super::TieredBackend;
use super::backoff::Backoff;
use super::held::Held;
use super::jobs::WantedId;
use super::lane::Lane;
use crate::error::Error;
use crate::local::{Budget, Dirty, Outbox, Place, Wanted};
use crate::object::ObjectId;
use crate::redis::{Link, Outgoing, Pushed, Pusher, What, server};

/// What is pushed in one go.
const BUDGET: Budget = Budget { records: 1024, bytes: 4 << 20 };

/// Held and wanted records that go with a batch.
const EXTRA_MAX: usize = 128;

/// How often the clock of Redis is looked at.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// How long a delete waits for a fetch that is under way.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(2);

/// How long `WAIT` waits for replicas.
const REPLICAS_WAIT: Duration = Duration::from_secs(1);

/// What Redis says when it is full.
const OUT_OF_MEMORY: &str = "OOM";

/// How often the same complaint is repeated in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Runs until it is told to drain and has done so, or cannot; whether Redis has everything.
pub(super) fn run(
    backend: &TieredBackend,
    woken: &Receiver<()>,
    wanted: &Receiver<WantedId>,
    drain: &Receiver<Instant>,
) -> bool {
    let Ok(tier) = backend.tier() else { return false };
    let Some(outbox) = &tier.outbox else { return false };
    let pusher = Pusher::new(&backend.options, tier.journal.node());
    let mut replicator = Replicator {
        backend,
        outbox,
        wanted,
        pusher,
        link: None,
        epoch: outbox.epoch(),
        tail: Lane::at(outbox.settled()),
        backlog: outbox.backlog().map(|range| Lane::at(range.start)),
        scout: None,
        ahead: None,
        held: Held::default(),
        is_confirmed: true,
        full: Backoff::default(),
        clock_read: None,
        complained: None,
        has_warned: false,
    };
    let mut backoff = Backoff::default();
    let mut drain_until = None;
    loop {
        match drain.try_recv() {
            Ok(until) => drain_until = Some(until),
            Err(TryRecvError::Disconnected) if drain_until.is_none() => return false,
            Err(_) => {}
        }
        let round = replicator.round();
        outbox.set_emptied(round.is_ok() && replicator.held.is_empty());
        if let Some(until) = drain_until
            && (round.is_err() || replicator.is_drained() || Instant::now() >= until)
        {
            return replicator.report_left();
        }
        let wait = match round {
            Ok(true) => continue,
            Ok(false) => {
                backoff.succeeded();
                replicator.idle_time().min(if drain_until.is_some() { IN_FLIGHT_WAIT } else { Duration::MAX })
            }
            Err(error) => {
                tracing::debug!("replication: {error}");
                replicator.link = None;
                let wait = backoff.failed();
                select! {
                    recv(drain) -> until => drain_until = until.ok(),
                    default(wait) => {}
                }
                continue;
            }
        };
        select! {
            recv(woken) -> _ => {}
            recv(drain) -> until => match until {
                Ok(until) => drain_until = Some(until),
                Err(_) => return false,
            },
            default(wait) => {}
        }
    }
}

struct Replicator<'a> {
    backend: &'a TieredBackend,
    outbox: &'a Outbox,
    wanted: &'a Receiver<WantedId>,
    pusher: Pusher,
    link: Option<Link>,
    /// The epoch that the lanes belong to.
    epoch: String,
    tail: Lane,
    backlog: Option<Lane>,
    /// While too much is held: how far ahead of the tail deletes were pushed.
    scout: Option<Place>,
    /// What follows in the tail, read while Redis was at work.
    ahead: Option<ReadAhead>,
    held: Held,
    /// Whether enough replicas have what was pushed.
    is_confirmed: bool,
    /// While Redis is full: it is asked with one object now and then, and gets the deletes that may make room.
    full: Backoff,
    clock_read: Option<Instant>,
    complained: Option<Instant>,
    has_warned: bool,
}

/// Dirty records between two places.
struct ReadAhead {
    from: Place,
    found: Vec<Dirty>,
    next: Place,
}

impl ReadAhead {
    fn read(backend: &TieredBackend, from: Place, until: Place, wanted: Wanted) -> Result<Self, Error> {
        let (found, next) = backend.tier()?.dirty_records(from, until, wanted, BUDGET)?;
        Ok(ReadAhead { from, found, next })
    }
}

/// Which walk a batch comes from, and where that goes on.
enum Source {
    Tail(Place),
    Backlog(Place),
    Scout(Place),
    /// Only what was held or wanted.
    Extra,
}

impl Replicator<'_> {
    /// Pushes one batch; whether there may be more to do at once.
    fn round(&mut self) -> Result<bool, Error> {
        self.connect()?;
        self.settle()?;
        let mut batch = self.extra();
        let wants = self.wants();
        let source = self.gather(&mut batch)?;
        let is_idle = batch.is_empty() && wants.is_empty() && matches!(source, Source::Extra);
        if !batch.is_empty() {
            self.push(batch, &source)?;
        }
        self.repair(wants)?;
        self.advance(&source);
        self.is_confirmed &= is_idle;
        self.confirm()?;
        Ok(!is_idle)
    }

    fn connect(&mut self) -> Result<(), Error> {
        let is_redirected = self.link.as_mut().is_some_and(Link::take_redirected);
        if self.link.is_none() || is_redirected {
            // What was acknowledged on another connection may have been forgotten with it.
            self.tail = Lane::at(self.outbox.settled());
            self.backlog = self.outbox.backlog().map(|range| Lane::at(range.start));
            self.scout = None;
            self.ahead = None;
        }
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                let mut link = self.backend.connect(Duration::ZERO)?;
                self.backend.check_epoch(&mut link)?;
                if !std::mem::replace(&mut self.has_warned, true) {
                    server::warnings(&mut link)?.iter().for_each(|warning| tracing::warn!("{warning}"));
                }
                self.clock_read = None;
                link
            }
        };
        if self.clock_read.is_none_or(|read| read.elapsed() > CLOCK_EVERY) {
            let offset_ms = server::time_offset_ms(&mut link, &self.backend.keys)?;
            self.backend.tier()?.journal.set_clock_offset_ms(offset_ms);
            self.clock_read = Some(Instant::now());
        }
        self.link = Some(link);
        let epoch = self.outbox.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.held.clear();
            self.ahead = None;
            self.tail = Lane::at(self.outbox.settled());
            self.backlog = self.outbox.backlog().map(|range| Lane::at(range.start));
        }
        Ok(())
    }

    fn settle_time(&self) -> Duration {
        Duration::from_millis(self.backend.options.settle_ms)
    }

    /// What was acknowledged long enough ago is clean, if Redis is still the one that acknowledged it: a connection on which nothing is
    /// said may have ended with a failover long ago.
    fn settle(&mut self) -> Result<(), Error> {
        let (now, settle) = (Instant::now(), self.settle_time());
        let is_due = |lane: &Lane| lane.next_settled(settle).is_some_and(|next| next <= now);
        let is_due = is_due(&self.tail) || self.backlog.as_ref().is_some_and(is_due);
        match &mut self.link {
            Some(link) if is_due => server::ping(link)?,
            _ => return Ok(()),
        }
        if let Some(settled) = self.tail.settled(now, settle) {
            self.outbox.settle(settled);
        }
        if let Some(settled) = self.backlog.as_mut().and_then(|lane| lane.settled(now, settle)) {
            self.outbox.settle_backlog(settled);
            self.backlog = self.backlog.take().filter(|_| self.outbox.has_backlog());
        }
        Ok(())
    }

    /// Held records whose time has come.
    fn extra(&mut self) -> Vec<Dirty> {
        let Ok(tier) = self.backend.tier() else { return Vec::new() };
        let mut extra = Vec::new();
        let due = match (self.full.is_failing(), self.full.remaining().is_zero()) {
            (false, _) => self.held.due(EXTRA_MAX),
            (true, true) => self.held.oldest(),
            (true, false) => Vec::new(),
        };
        for (place, id) in due {
            match tier.dirty_at(&id, place) {
                Ok(Some(dirty)) => extra.push(dirty),
                // Overtaken, or moved: then the tail comes to it.
                Ok(None) => self.release(place),
                // Held on: what cannot be read now is pushed when it can.
                Err(error) => {
                    tracing::debug!("object {}: {error}", ObjectId::new(&id));
                    self.held.refused(place, &id);
                }
            }
        }
        if self.held.is_empty() {
            self.full.succeeded(); // nothing is left to ask with
        }
        extra
    }

    /// What other nodes want and this one has, and what Redis has lost.
    fn wants(&mut self) -> Vec<Dirty> {
        let Ok(tier) = self.backend.tier() else { return Vec::new() };
        let mut wants = Vec::new();
        while wants.len() < EXTRA_MAX
            && !self.held.is_full()
            && let Ok(WantedId { id, held }) = self.wanted.try_recv()
        {
            // Whatever becomes of this try, it is released only when Redis has it or it is overtaken.
            if let Some(place) = held {
                self.held.postpone(place, &id, Duration::ZERO);
            }
            // A delete that was never pushed comes by the journal, after whoever asks Redis about its id.
            let was_pushed = |place: Place| place == Place::default() || !self.outbox.is_dirty(place, false);
            match tier.dirty_now(&id) {
                Ok(dirty) => wants.extend(dirty.filter(|dirty| dirty.put.is_some() || was_pushed(dirty.place))),
                // What is held is tried again; who wants it asks again.
                Err(error) => tracing::debug!("object {}: {error}", ObjectId::new(&id)),
            }
        }
        wants
    }

    /// Reads what is dirty, new before old.
    fn gather(&mut self, batch: &mut Vec<Dirty>) -> Result<Source, Error> {
        let end = self.backend.tier()?.journal.end();
        let ahead = self.ahead.take();
        let mut take = |read: ReadAhead| {
            batch.extend(read.found.into_iter().filter(|dirty| !self.held.contains(dirty.place)));
            read.next
        };
        if self.held.is_full() || self.full.is_failing() {
            let from = self.scout.unwrap_or(self.tail.position);
            if from >= end {
                return Ok(Source::Extra);
            }
            return Ok(Source::Scout(take(ReadAhead::read(self.backend, from, end, Wanted::Deletes)?)));
        }
        let from = self.tail.position;
        if from < end {
            let read = match ahead.filter(|ahead| ahead.from == from) {
                Some(ahead) => ahead,
                None => ReadAhead::read(self.backend, from, end, Wanted::Dirty)?,
            };
            return Ok(Source::Tail(take(read)));
        }
        match (&self.backlog, self.outbox.backlog()) {
            (Some(lane), Some(range)) if lane.position < range.end => {
                Ok(Source::Backlog(take(ReadAhead::read(self.backend, lane.position, range.end, Wanted::All)?)))
            }
            _ => Ok(Source::Extra),
        }
    }

    fn advance(&mut self, source: &Source) {
        match source {
            Source::Tail(next) => {
                self.tail.position = *next;
                self.scout = None;
            }
            Source::Backlog(next) => {
                if let Some(lane) = &mut self.backlog {
                    lane.position = *next;
                }
            }
            Source::Scout(next) => self.scout = Some(*next),
            Source::Extra => {}
        }
    }

    fn push(&mut self, batch: Vec<Dirty>, source: &Source) -> Result<(), Error> {
        let (mut places, mut writes) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for dirty in batch {
            // Who asked for the object before it was deleted is to get it.
            if dirty.put.is_none() && self.backend.flights.is_in_flight(&dirty.id) {
                self.outbox.hold(dirty.place);
                self.held.postpone(dirty.place, &dirty.id, IN_FLIGHT_WAIT);
                continue;
            }
            places.push(dirty.place);
            writes.push(outgoing(dirty));
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        let end = self.backend.tier()?.journal.end();
        let read_ahead = || {
            if let Source::Tail(next) = source
                && *next < end
            {
                // What cannot be read is met again when its turn comes.
                self.ahead = ReadAhead::read(self.backend, *next, end, Wanted::Dirty).ok();
            }
        };
        let pushed = self.pusher.push_while(link, &writes, read_ahead)?;
        for ((place, write), pushed) in places.into_iter().zip(&writes).zip(pushed) {
            self.pushed(place, write, pushed)?;
        }
        Ok(())
    }

    /// What has become of one record.
    fn pushed(&mut self, place: Place, write: &Outgoing, pushed: Result<Pushed, String>) -> Result<(), Error> {
        match pushed {
            Ok(Pushed::Applied { .. } | Pushed::Same) => {
                if matches!(write.what, What::Put { .. }) {
                    self.full.succeeded();
                }
                self.release(place);
            }
            Ok(Pushed::Older(standing)) => {
                if let Some(version) = standing.version() {
                    self.backend.learn(&write.id, version, !standing.is_object())?;
                }
                self.release(place);
                if self.backend.waiters.has_any(&write.id) {
                    self.backend.fetch(&write.id, None);
                }
            }
            Err(reason) => {
                self.outbox.hold(place);
                self.held.refused(place, &write.id);
                if reason.starts_with(OUT_OF_MEMORY) && self.full.remaining().is_zero() {
                    self.full.failed();
                }
                self.complain(|held| {
                    tracing::warn!(
                        "Redis refuses object {}: {reason}; it stays here and is tried again, as {held} others are",
                        ObjectId::new(&write.id)
                    );
                });
            }
        }
        Ok(())
    }

    /// Writes what other nodes want, also over a value of the same version: it may be damaged.
    fn repair(&mut self, wants: Vec<Dirty>) -> Result<(), Error> {
        for dirty in wants {
            let Some(link) = &mut self.link else { return Ok(()) };
            let place = dirty.place;
            let write = outgoing(dirty);
            match self.pusher.repair(link, &write)? {
                // The delete of another node: that one pushes it.
                Err(reason) if place == Place::default() => {
                    tracing::debug!("Redis refuses the delete of {}: {reason}", ObjectId::new(&write.id));
                }
                pushed => self.pushed(place, &write, pushed)?,
            }
        }
        Ok(())
    }

    fn release(&mut self, place: Place) {
        if self.held.release(place) {
            self.outbox.release(place);
        }
    }

    /// What was pushed counts as acknowledged when enough replicas have it, too.
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
                self.complain(|_| {
                    tracing::warn!("{acknowledged} of {replicas} replicas have what was pushed: it stays dirty");
                });
                return Ok(());
            }
        }
        self.is_confirmed = true;
        let now = Instant::now();
        self.tail.acknowledge(now);
        if let Some(lane) = &mut self.backlog {
            lane.acknowledge(now);
        }
        Ok(())
    }

    fn complain(&mut self, complain: impl FnOnce(usize)) {
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            complain(self.held.len());
        }
    }

    /// How long there is nothing to do, if nobody calls.
    fn idle_time(&self) -> Duration {
        let settle = self.settle_time();
        let settled = [Some(&self.tail), self.backlog.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|lane| lane.next_settled(settle));
        let retry =
            if self.full.is_failing() { Some(Instant::now() + self.full.remaining()) } else { self.held.next_due() };
        let next = settled.chain(retry).min();
        let limit = if self.is_confirmed { CLOCK_EVERY } else { REPLICAS_WAIT };
        next.map_or(limit, |next| next.saturating_duration_since(Instant::now()).min(limit))
    }

    /// Whether Redis has everything, settled or not.
    fn is_drained(&self) -> bool {
        let end = self.backend.tier().map(|tier| tier.journal.end()).unwrap_or_default();
        let has_backlog = self
            .backlog
            .as_ref()
            .is_some_and(|lane| self.outbox.backlog().is_some_and(|range| lane.position < range.end));
        self.tail.position >= end && self.held.is_empty() && !has_backlog && self.is_confirmed
    }

    /// At the end; whether Redis has everything.
    fn report_left(&mut self) -> bool {
        if let Some(link) = &mut self.link
            && let Err(error) = self.pusher.settle_counters(link)
        {
            tracing::debug!("counters: {error}");
        }
        let is_drained = self.is_drained();
        if !is_drained {
            tracing::warn!(
                "Redis does not have everything yet: the rest is pushed when {} is opened again",
                self.backend.local_place()
            );
        }
        is_drained
    }
}

fn outgoing(dirty: Dirty) -> Outgoing {
    let Dirty { id, version, put, .. } = dirty;
    let what = match put {
        Some(put) => What::Put { object: put.object, body_hash: put.body_hash, deadline_ms: put.deadline_ms },
        None => What::Delete,
    };
    Outgoing { id, version, what }
}
