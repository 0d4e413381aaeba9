//! Pushes what is dirty to Redis.
//!
//! A round is one batch: what the ledger says is next, with those that stand apart and are due. What has become of each record goes back into the
//! ledger. This thread waits for Redis on its own connection, and for nothing else.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, select};

use super::TieredBackend;
use super::caution::{Bounds, Caution};
use super::wants::Why;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::local::ledger::{Due, Epoch};
use crate::local::{Again, Budget, Dirty, Found, Held, Lane, Next, Outbox, Place, Wanted};
use crate::object::ObjectId;
use crate::redis::{
    EntryId, Link, Masters, Notice, Outgoing, Pushed, Pusher, Standing, What, claim, heads, last, masters, publish,
    refused_commands, server,
};
use crate::version::Version;

/// What is pushed in one go.
const BUDGET: Budget = Budget { records: 1024, bytes: 4 << 20 };

/// A batch of so many records is followed by the next one at once.
const PACKED_MIN: usize = 128;

/// Records apart that go with a batch.
const EXTRA_MAX: usize = 256;

/// Wanted ids that are looked at between two batches, and ids that others are asked for.
const WANTS_MAX: usize = 128;

/// How often the clock of Redis is looked at.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// How long a delete waits for a fetch that is under way.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(2);

/// How long `WAIT` waits for replicas.
const REPLICAS_WAIT: Duration = Duration::from_secs(1);

/// What is settled less often than that is settled together: each time, the masters are asked.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether the others were heard, before anything is pushed again.
const CATCH_UP_EVERY: Duration = Duration::from_millis(5);

/// How long that is waited for where versions decide: then it saves work and is no condition.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// What Redis says when it is full.
const OUT_OF_MEMORY: &str = "OOM";

/// How often a record apart that is sent alone may break the connection.
const ALONE_TRIES_MAX: u32 = 3;

/// How often the same complaint is repeated in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Runs until it is told to drain and has done so, or cannot; whether Redis has everything.
pub(super) fn run(backend: &TieredBackend, woken: &Receiver<()>, drain: &Receiver<Instant>) -> bool {
    let Some(mut replicator) = Replicator::new(backend) else { return false };
    let mut backoff = Backoff::default();
    let mut drain_until = None;
    loop {
        match drain.try_recv() {
            Ok(until) => drain_until = Some(until),
            Err(TryRecvError::Disconnected) if drain_until.is_none() => return false,
            Err(_) => {}
        }
        let round = replicator.round();
        replicator.outbox.set_emptied(round.is_ok() && replicator.outbox.ledger.held_count() == 0);
        if round.is_ok() && replicator.catching_up.is_none() {
            backend.health.pushes();
        }
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
                replicator.failed(&error);
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
    pusher: Pusher,
    link: Option<Link>,
    /// To which everything belongs that is said to the ledger.
    epoch: Epoch,
    /// Who has taken what was pushed in this epoch.
    masters: Masters,
    /// Before that event of others was heard, nothing is pushed again.
    catching_up: Option<(EntryId, Instant)>,
    /// While too much stands apart: how far ahead of the tail deletes were pushed.
    scout: Option<Place>,
    /// What follows, read while Redis was at work.
    ahead: Option<ReadAhead>,
    /// What is being sent, for when the connection breaks.
    sending: Option<Sending>,
    caution: Caution,
    extra_max: usize,
    alone: (Place, u32),
    /// Whether enough replicas have what was pushed.
    is_confirmed: bool,
    /// When the next batch begins: the more nodes there are, the more events are packed.
    next_batch: Instant,
    /// While Redis is full: it is asked with one object now and then, and gets the deletes that may make room.
    full: Backoff,
    clock_read: Option<Instant>,
    settled: Option<Instant>,
    complained: Option<Instant>,
    has_warned: bool,
    /// Commands that this user may not give, as said in the log.
    refused: Vec<String>,
}

/// Dirty records that follow a place in a lane.
struct ReadAhead {
    next: Next,
    found: Found,
}

/// Which way a batch leads on.
#[derive(Clone, Copy)]
enum Step {
    Walk {
        lane: Lane,
        from: Place,
        to: Place,
    },
    Scout(Place),
    /// Only records apart.
    Nowhere,
}

struct Batch {
    writes: Vec<(Place, Outgoing)>,
    step: Step,
}

/// A batch on its way.
struct Sending {
    step: Step,
    /// Its records that stand apart, and their number among all.
    apart: Vec<(Place, Vec<u8>)>,
    records: usize,
    bytes: usize,
}

impl<'a> Replicator<'a> {
    fn new(backend: &'a TieredBackend) -> Option<Self> {
        let tier = backend.tier().ok()?; // a forked child pushes nothing
        let outbox = tier.outbox.as_ref()?;
        Some(Replicator {
            backend,
            outbox,
            pusher: Pusher::new(&backend.options, tier.journal.node()),
            link: None,
            epoch: outbox.ledger.epoch(),
            masters: Masters::default(),
            catching_up: None,
            scout: None,
            ahead: None,
            sending: None,
            caution: Caution::default(),
            extra_max: EXTRA_MAX,
            alone: (Place::default(), 0),
            is_confirmed: true,
            next_batch: Instant::now(),
            full: Backoff::default(),
            clock_read: None,
            settled: None,
            complained: None,
            has_warned: false,
            refused: Vec::new(),
        })
    }

    /// Pushes one batch; whether there may be more to do at once.
    fn round(&mut self) -> Result<bool, Error> {
        self.connect()?;
        self.settle()?;
        if self.is_catching_up() {
            return Ok(false);
        }
        self.ask_for_wanted()?;
        let has_satisfied = self.satisfy_wants()?;
        let batch = self.gather()?;
        let is_idle = batch.writes.is_empty() && matches!(batch.step, Step::Nowhere) && !has_satisfied;
        self.push(batch)?;
        self.is_confirmed &= is_idle;
        self.confirm()?;
        Ok(!is_idle)
    }

    fn connect(&mut self) -> Result<(), Error> {
        let is_redirected = self.link.as_mut().is_some_and(Link::take_redirected);
        if self.link.is_none() || is_redirected {
            let mut link = match self.link.take() {
                Some(link) => link,
                None => self.open_link()?,
            };
            // What was acknowledged on another connection may have been forgotten with it.
            self.begin_epoch(&mut link)?;
            self.link = Some(link);
        }
        if self.outbox.ledger.epoch() != self.epoch {
            // Somebody else has found that Redis has lost everything.
            self.restart();
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
        let mut link = self.backend.connect(Duration::ZERO)?;
        // First: the writes of a store that has just been opened wait for it.
        if let Some(last) = last(&mut link, &self.backend.keys)? {
            self.backend.tier()?.journal.time().set_floor(last.ms);
        }
        read_clock(self.backend, &mut link)?;
        self.clock_read = Some(Instant::now());
        self.backend.check_epoch(&mut link)?;
        if !std::mem::replace(&mut self.has_warned, true) {
            server::warnings(&mut link)?.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        Ok(link)
    }

    /// Everything that is not settled goes again, behind what is heard of the others.
    fn begin_epoch(&mut self, link: &mut Link) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.masters, masters(link, &self.backend.keys)?);
        let refused = refused_commands(link, &self.backend.keys)?;
        if !refused.is_empty() && self.refused != refused {
            tracing::warn!("{}", refused.join("; "));
        }
        self.refused = refused;
        let last = last(link, &self.backend.keys)?;
        // Where versions decide, it is harmless to push again; otherwise it could undo what others have done since.
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
        self.ahead = None;
    }

    /// With values that have no version, what is pushed again would undo what others have written since: that is heard first.
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

    /// When what was acknowledged long enough ago is settled next.
    fn next_settled(&self) -> Option<Instant> {
        let next = self.outbox.ledger.next_settled(self.settle_time())?;
        let pause = SETTLE_EVERY.min(self.settle_time());
        Some(self.settled.map_or(next, |settled| next.max(settled + pause)))
    }

    /// What was acknowledged long enough ago is clean, if those who did are the masters still: one that was demoted goes on to answer, and
    /// forgets.
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

    /// Tells other nodes what is waited for here.
    fn ask_for_wanted(&mut self) -> Result<(), Error> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let ids: Vec<_> = self.backend.to_ask.try_iter().take(WANTS_MAX).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let notices: Vec<_> = ids.iter().map(|id| Notice::want(id)).collect();
        publish(link, &self.backend.keys, self.backend.tier()?.journal.node(), &notices).map(drop)
    }

    /// Pushes what other nodes want and this one has, where Redis really lacks it; whether something was looked at.
    fn satisfy_wants(&mut self) -> Result<bool, Error> {
        let Some(link) = &mut self.link else { return Ok(false) };
        let wants = self.backend.wants.take(WANTS_MAX);
        if wants.is_empty() {
            return Ok(false);
        }
        let ids: Vec<_> = wants.iter().map(|(id, _)| id).collect();
        let standings = heads(link, &self.backend.keys, &ids)?;
        let mut lacking = Vec::new();
        for ((id, why), standing) in wants.iter().zip(standings) {
            let tier = self.backend.tier()?;
            // It may have been deleted unheard: that is found out first, and what Redis has lost is pushed by that.
            if let (Ok(Some(_)), Ok(standing)) = (tier.suspect(id), &standing) {
                if let Err(error) = self.backend.resolve(id, standing.as_ref()) {
                    tracing::debug!("object {}: {error}", ObjectId::new(id));
                }
                continue;
            }
            match tier.dirty_now(id) {
                Ok(Some(dirty)) if !self.is_needless(&dirty, *why, standing.ok().flatten()) => {
                    lacking.push((*why, dirty))
                }
                Ok(_) => {}
                // Who wants it asks again.
                Err(error) => tracing::debug!("object {}: {error}", ObjectId::new(id)),
            }
        }
        self.leave_to_others(&mut lacking)?;
        for (why, dirty) in lacking {
            let (place, write) = (dirty.place, outgoing(dirty, false));
            let Some(link) = &mut self.link else { return Ok(true) };
            let pushed = match why {
                Why::Damaged => self.pusher.repair(link, &write)?,
                Why::Wanted | Why::Lacking => self.pusher.push_one(link, &write)?,
            };
            match pushed {
                // The delete of another node: that one pushes it.
                Err(reason) if place == Place::default() => {
                    tracing::debug!("Redis refuses the delete of {}: {reason}", ObjectId::new(&write.id));
                }
                pushed => self.pushed(place, &write, pushed),
            }
        }
        Ok(true)
    }

    /// Whether it stands in Redis already, or comes there by the journal: a delete that was never pushed comes behind whoever asks Redis about
    /// its id.
    fn is_needless(&self, dirty: &Dirty, why: Why, standing: Option<Standing>) -> bool {
        let stands = match standing {
            Some(Standing::Ours(head)) => head.version >= dirty.version,
            Some(Standing::Python { .. }) => self.backend.is_unversioned(),
            Some(Standing::Damaged { .. }) | None => false,
        };
        let is_on_its_way = || dirty.place != Place::default() && self.outbox.is_dirty(dirty.place, false);
        (stands && why != Why::Damaged) || (dirty.put.is_none() && (is_on_its_way() || self.backend.is_unversioned()))
    }

    /// Of all nodes that are asked for an id, the first to claim it pushes it.
    fn leave_to_others(&mut self, lacking: &mut Vec<(Why, Dirty)>) -> Result<(), Error> {
        let asked: Vec<_> =
            lacking.iter().filter(|(why, _)| *why != Why::Lacking).map(|(_, dirty)| &dirty.id).collect();
        let Some(link) = self.link.as_mut().filter(|_| !asked.is_empty()) else { return Ok(()) };
        let mut is_ours = claim(link, &self.backend.keys, &asked)?.into_iter();
        lacking.retain(|(why, _)| *why == Why::Lacking || is_ours.next().unwrap_or(true));
        Ok(())
    }

    /// What is dirty, new before old, with what stands apart and is due.
    fn gather(&mut self) -> Result<Batch, Error> {
        let apart = self.due_apart();
        let mut batch = Batch { writes: apart.writes, step: Step::Nowhere };
        if apart.is_set_aside || (!batch.writes.is_empty() && self.extra_max < EXTRA_MAX) {
            return Ok(batch); // to be sent alone
        }
        let end = self.backend.tier()?.journal.end();
        if self.outbox.ledger.is_full() || self.full.is_failing() {
            let from = self.scout.or_else(|| self.outbox.ledger.next(self.epoch, end).map(|next| next.from));
            let Some(from) = from.filter(|from| *from < end) else { return Ok(batch) };
            let found = self.backend.tier()?.dirty_records(from, end, Wanted::Deletes, BUDGET)?;
            batch.step = Step::Scout(found.next);
            self.add(&mut batch, found, end);
            return Ok(batch);
        }
        let Some(next) = self.outbox.ledger.next(self.epoch, end) else { return Ok(batch) };
        let now = Instant::now();
        if now < self.next_batch {
            return Ok(batch);
        }
        let found = match self.ahead.take().filter(|it| it.next.lane == next.lane && it.next.from == next.from) {
            Some(ahead) => ahead.found,
            None => read(self.backend, &self.caution, next)?,
        };
        batch.step = Step::Walk { lane: next.lane, from: next.from, to: found.next };
        if found.dirty.len() < PACKED_MIN {
            self.next_batch = now + self.backend.peers.pause();
        }
        self.add(&mut batch, found, next.sent_below);
        Ok(batch)
    }

    /// Adds what was found, but for what stands apart; what cannot be read now comes to stand there.
    fn add(&self, batch: &mut Batch, found: Found, sent_below: Place) {
        let ledger = &self.outbox.ledger;
        let is_wanted = |dirty: &Dirty| !ledger.is_apart(dirty.place) && !self.would_undo(dirty);
        for dirty in found.dirty.into_iter().filter(is_wanted) {
            let place = dirty.place;
            batch.writes.push((place, outgoing(dirty, place < sent_below)));
        }
        for (place, id, error) in found.unreadable {
            self.unreadable(place, &id, &error);
        }
    }

    /// Without versions, a delete takes away whatever stands there, also what was written since.
    fn would_undo(&self, dirty: &Dirty) -> bool {
        dirty.is_overtaken && self.backend.is_unversioned()
    }

    fn unreadable(&self, place: Place, id: &[u8], error: &Error) {
        tracing::warn!("{error}; object {} stays here until it can be read, and is pushed then", ObjectId::new(id));
        self.outbox.ledger.hold(self.epoch, place, id, Held::Unreadable);
    }

    /// Records apart whose time has come.
    fn due_apart(&mut self) -> Apart {
        let ledger = &self.outbox.ledger;
        let due = match (self.full.is_failing(), self.full.remaining().is_zero()) {
            (false, _) => ledger.due(self.epoch, Instant::now(), self.extra_max),
            (true, true) => ledger.oldest_refused(self.epoch),
            (true, false) => Due::default(),
        };
        let mut writes = Vec::with_capacity(due.records.len());
        for (place, id) in due.records {
            match self.backend.tier().and_then(|tier| tier.dirty_at(&id, place)) {
                Ok(Some(dirty)) if !self.would_undo(&dirty) => writes.push((place, outgoing(dirty, true))),
                // Overtaken, or moved: then the tail comes to it.
                Ok(_) => ledger.overtaken(self.epoch, place),
                Err(error) => self.unreadable(place, &id, &error),
            }
        }
        if ledger.held_count() == 0 {
            self.full.succeeded(); // nothing is left to ask with
            if self.complained.take().is_some() {
                tracing::info!("Redis takes again what it has refused");
            }
        }
        Apart { writes, is_set_aside: due.is_set_aside }
    }

    fn push(&mut self, Batch { writes: gathered, step }: Batch) -> Result<(), Error> {
        let (mut places, mut writes) = (Vec::with_capacity(gathered.len()), Vec::with_capacity(gathered.len()));
        let mut sending = Sending { step, apart: Vec::new(), records: 0, bytes: 0 };
        for (place, write) in gathered {
            // Who asked for the object before it was deleted is to get it.
            if matches!(write.what, What::Delete) && self.backend.flights.is_in_flight(&write.id) {
                self.outbox.ledger.postpone(self.epoch, place, &write.id, IN_FLIGHT_WAIT);
                continue;
            }
            if self.outbox.ledger.is_apart(place) {
                sending.apart.push((place, write.id.clone()));
            }
            sending.records += 1;
            sending.bytes += write.bytes();
            places.push(place);
            writes.push(write);
        }
        if !writes.is_empty() {
            self.sending = Some(sending);
            let pushed = self.send(&writes, step)?;
            self.sending = None;
            self.extra_max = EXTRA_MAX;
            for ((place, write), pushed) in places.into_iter().zip(&writes).zip(pushed) {
                self.pushed(place, write, pushed);
            }
        }
        match step {
            Step::Walk { lane, to, .. } => {
                self.outbox.ledger.advance(self.epoch, lane, to);
                self.caution.passed(lane, to);
                self.scout = None;
            }
            Step::Scout(to) => self.scout = Some(to),
            Step::Nowhere => {}
        }
        Ok(())
    }

    /// Sends a batch, and reads the next one while Redis is at work.
    fn send(&mut self, writes: &[Outgoing], step: Step) -> Result<Vec<Result<Pushed, String>>, Error> {
        let Self { backend, pusher, caution, link, ahead, .. } = self;
        let Some(link) = link else { return Err(Error::Closed) };
        let until = backend.tier()?.journal.end();
        pusher.push_while(link, writes, || {
            if let Step::Walk { lane: Lane::Tail, to, .. } = step
                && to < until
            {
                let next = Next { lane: Lane::Tail, from: to, until, sent_below: to };
                // What cannot be read is met again when its turn comes.
                *ahead = read(backend, caution, next).ok().map(|found| ReadAhead { next, found });
            }
        })
    }

    /// What has become of one record.
    fn pushed(&mut self, place: Place, write: &Outgoing, pushed: Result<Pushed, String>) {
        let ledger = &self.outbox.ledger;
        match pushed {
            Ok(Pushed::Applied { .. } | Pushed::Same) => {
                if matches!(write.what, What::Put { .. }) {
                    self.full.succeeded();
                }
                if place != Place::default() {
                    ledger.pushed(self.epoch, place, &write.id, Instant::now());
                }
            }
            Ok(Pushed::Older(standing)) => {
                let learnt =
                    standing.version().map_or(Ok(()), |version| self.refused_for(place, write, version, &standing));
                match learnt {
                    Ok(()) => ledger.overtaken(self.epoch, place),
                    // It is tried again, and refused again, until the copy that is here can be dropped.
                    Err(error) => self.unreadable(place, &write.id, &error),
                }
                if self.backend.waiters.has_any(&write.id) {
                    self.backend.fetch(&write.id, None);
                }
            }
            Err(reason) => {
                ledger.hold(self.epoch, place, &write.id, Held::Refused);
                if reason.starts_with(OUT_OF_MEMORY) && self.full.remaining().is_zero() {
                    self.full.failed();
                }
                if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                    self.complained = Some(Instant::now());
                    tracing::warn!(
                        "Redis refuses object {}: {reason}; it stays here and is tried again, as {} others are",
                        ObjectId::new(&write.id),
                        ledger.held_count().saturating_sub(1)
                    );
                }
            }
        }
    }

    /// A write was refused for what stands there: that is learnt. But a version that no clock which is set like Redis's can have given yet
    /// says nothing about which write was later: then this one is made again, above that.
    fn refused_for(&self, place: Place, write: &Outgoing, by: Version, standing: &Standing) -> Result<(), Error> {
        let tier = self.backend.tier()?;
        if !tier.journal.is_too_far_ahead(by) {
            return self.backend.learn(&write.id, by, !standing.is_object());
        }
        match &write.what {
            What::Delete => tier.delete_above(&write.id, by),
            What::Put { object, body_hash, deadline_ms } => {
                let again = Again { place, above: by, deadline_ms: *deadline_ms };
                tier.put_above(&write.id, object, *body_hash, &again)
            }
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
                if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                    self.complained = Some(Instant::now());
                    tracing::warn!("{acknowledged} of {replicas} replicas have what was pushed: it stays dirty");
                }
                return Ok(());
            }
        }
        self.is_confirmed = true;
        self.outbox.ledger.acknowledge(self.epoch, Instant::now());
        Ok(())
    }

    /// A round did not come to its end.
    fn failed(&mut self, error: &Error) {
        tracing::debug!("replication: {error}");
        self.backend.health.cannot_push(error);
        if !matches!(error, Error::Unreachable { .. }) {
            return; // nothing is wrong with the connection
        }
        self.link = None;
        let Some(Sending { step, apart, records, bytes }) = self.sending.take() else { return };
        match (step, apart.as_slice()) {
            (_, [(place, id)]) if records == 1 => self.broke_alone(*place, &id.clone(), bytes, error),
            (Step::Walk { lane, from, to }, _) if apart.len() < records => {
                if self.caution.failed(lane, from, to, records)
                    && let Ok(tier) = self.backend.tier()
                    && let Ok(found) = tier.dirty_records(from, to, Wanted::All, Budget { records: 1, ..BUDGET })
                    && let Some(dirty) = found.dirty.into_iter().next()
                {
                    self.caution.forget();
                    self.set_aside(dirty.place, &dirty.id, bytes, error);
                }
            }
            _ => self.extra_max = (records / 8).max(1),
        }
    }

    /// The connection broke while this one, which stands apart, was sent alone.
    fn broke_alone(&mut self, place: Place, id: &[u8], bytes: usize, error: &Error) {
        let tries = if self.alone.0 == place { self.alone.1 + 1 } else { 1 };
        self.alone = (place, tries);
        if tries >= ALONE_TRIES_MAX {
            self.set_aside(place, id, bytes, error);
        }
    }

    fn set_aside(&mut self, place: Place, id: &[u8], bytes: usize, error: &Error) {
        tracing::warn!(
            "object {} with {bytes} bytes breaks the connection each time that it is sent: {error}; it stays here, is left out and tried again \
             later; look whether something on the way drops large packets, or proto-max-bulk-len is below its size",
            ObjectId::new(id)
        );
        self.alone = (Place::default(), 0);
        self.extra_max = EXTRA_MAX;
        self.outbox.ledger.hold(self.outbox.ledger.epoch(), place, id, Held::SetAside);
    }

    /// How long there is nothing to do, if nobody calls.
    fn idle_time(&self) -> Duration {
        if self.catching_up.is_some() {
            return CATCH_UP_EVERY;
        }
        let ledger = &self.outbox.ledger;
        let retry =
            if self.full.is_failing() { Some(Instant::now() + self.full.remaining()) } else { ledger.next_due() };
        let end = self.backend.tier().map_or(Place::default(), |tier| tier.journal.end());
        let more = ledger.next(self.epoch, end).map(|_| self.next_batch);
        let more = more.filter(|_| !self.full.is_failing() && !ledger.is_full());
        let next = [self.next_settled(), retry, more].into_iter().flatten().min();
        let limit = if self.is_confirmed { CLOCK_EVERY } else { REPLICAS_WAIT };
        next.map_or(limit, |next| next.saturating_duration_since(Instant::now()).min(limit))
    }

    /// Whether Redis has everything, settled or not.
    fn is_drained(&self) -> bool {
        let is_pushed = self.backend.tier().is_ok_and(|tier| self.outbox.ledger.is_pushed(tier.journal.end()));
        is_pushed && self.is_confirmed && self.catching_up.is_none()
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

/// What follows in a lane, as much as caution allows to be sent in one go.
fn read(backend: &TieredBackend, caution: &Caution, next: Next) -> Result<Found, Error> {
    let wanted = if next.lane == Lane::Tail { Wanted::Dirty } else { Wanted::All };
    let bounds = Bounds { records_max: BUDGET.records, until: next.until };
    let Bounds { records_max, until } = caution.bound(next.lane, next.from, bounds);
    backend.tier()?.dirty_records(next.from, until, wanted, Budget { records: records_max, ..BUDGET })
}

/// Records apart, to be pushed.
struct Apart {
    writes: Vec<(Place, Outgoing)>,
    is_set_aside: bool,
}

fn read_clock(backend: &TieredBackend, link: &mut Link) -> Result<(), Error> {
    let reading = server::time(link, &backend.keys)?;
    backend.tier()?.journal.set_time(reading);
    Ok(())
}

fn outgoing(dirty: Dirty, is_repeat: bool) -> Outgoing {
    let Dirty { id, version, put, .. } = dirty;
    let what = match put {
        Some(put) => What::Put { object: put.object, body_hash: put.body_hash, deadline_ms: put.deadline_ms },
        None => What::Delete,
    };
    Outgoing { id, version, what, is_repeat }
}
