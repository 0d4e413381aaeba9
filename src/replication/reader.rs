//! The event reader, the thread that reads the event stream and acts upon what other nodes did: drops what is older here, notes deletes,
//! fetches what somebody waits for, and makes objects suspect when events may have been missed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::TieredBackend;
use super::jobs::Job;
use super::wants::Why;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::{Known, Outbox};
use crate::object::IdBytes;
use crate::redis::{Event, Link, Notice, Op, StoredValue, gathered, heads, is_whole, publish, read};
use crate::version::Version;

/// How long a read waits for the next event before the thread looks whether the store is being closed.
const BLOCK: Duration = Duration::from_millis(250);

/// How often gathered events are read while nobody waits for anything here: each read costs Redis as much as many events.
const GATHER: Duration = Duration::from_millis(25);

/// How often the masters of a cluster are asked for the epoch.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// Most ids that this thread fetches at a time; more are left to the fetchers.
const AWAITED_MAX: usize = 16;

/// Most entries of one read.
const ENTRIES_MAX: usize = 256;

/// Most reads of a new stream from its beginning: together as many entries as the stream keeps.
const GATHERED_READS_MAX: usize = 128;

/// Most events that wait to be acted upon. With so many, nothing is read until some can be acted upon.
const UNHEEDED_MAX: usize = 4096;

pub(super) fn run(backend: &TieredBackend) {
    let mut backoff = Backoff::default();
    while !backend.is_closing() {
        let ended = match backend.connect_anew(BLOCK) {
            Ok(link) => listen(backend, link, &mut backoff).map_err(|error| (error, true)),
            Err(error) => Err((error, false)),
        };
        if let Err((error, is_reachable)) = ended {
            tracing::debug!("hearing events: {error}");
            if is_reachable && matches!(error, Error::Unreachable { .. }) {
                backend.counters.disconnects.add(1);
            }
            // Deaf only if Redis can be reached: one that is away cannot be asked, so what is here is served unchecked.
            set_deaf(backend, is_reachable && backend.health.cannot_hear(&error));
        }
        let wait = backoff.failed();
        let slices = wait.as_millis() / BLOCK.as_millis();
        (0..=slices).take_while(|_| !backend.is_closing()).for_each(|_| std::thread::sleep(wait.min(BLOCK)));
    }
}

fn set_deaf(backend: &TieredBackend, deaf: bool) {
    if let Ok(tier) = backend.tier()
        && let Some(outbox) = tier.outbox()
    {
        outbox.set_deaf(deaf);
    }
}

/// Acts upon events, until the connection breaks or the store is closed.
fn listen(backend: &TieredBackend, mut link: Link, backoff: &mut Backoff) -> Result<(), Error> {
    let Some(outbox) = &backend.tier()?.outbox() else { return Ok(()) };
    backend.check_epoch(&mut link)?;
    let mut cursor = outbox.heard().0;
    // Events that could not be acted upon, because something here cannot be read or written now. They are tried again with each read. Until
    // then the cursor stays in front of them, so that a later open reads them again.
    let mut unheeded = Vec::new();
    let mut confirmed = Instant::now();
    while !backend.is_closing() {
        let read = read(&mut link, &backend.keys, &cursor, BLOCK, ENTRIES_MAX)?;
        if read.lost_past {
            cursor = begin_again(backend, &mut link, outbox, cursor)?;
            continue;
        }
        if !confirm(backend, &mut link, outbox, &mut confirmed)? {
            // Hearing has begun anew, so what was just read is read again.
            cursor = outbox.heard().0;
            continue;
        }
        if read.has_unknown {
            backend.tier()?.suspect_all();
            backend.flights.doubt_all();
        }
        let mut events = std::mem::take(&mut unheeded);
        events.extend(read.events);
        let mut awaited = Vec::new();
        match backend.apply_events(events, &mut link, &mut awaited) {
            Ok(left) => unheeded = left,
            Err(error) => {
                awaited.iter().for_each(|id| backend.give_up(id, &error));
                return Err(error);
            }
        }
        cursor = read.cursor;
        if unheeded.is_empty() {
            backend.tier()?.set_heard(cursor.clone());
        }
        backoff.succeeded();
        if read.entry_count < ENTRIES_MAX {
            // Only at the end of the stream is this node in step again.
            set_deaf(backend, false);
            backend.health.hears();
            if backend.wants.heard_to_the_end() {
                backend.wake_replicator();
            }
            if backend.waiters.is_empty() {
                backend.attention.rest(GATHER);
            }
        }
    }
    Ok(())
}

/// The entry of the cursor is gone, and with it perhaps later ones. Returns the cursor from which hearing goes on.
fn begin_again(backend: &TieredBackend, link: &mut Link, outbox: &Outbox, cursor: String) -> Result<String, Error> {
    tracing::warn!(
        "events of other nodes may have been missed in the stream {}: what is held here is checked before it is served",
        backend.keys.events()
    );
    check_epoch_or_suspect(backend, link)?;
    let begun = outbox.heard().0;
    if begun != cursor {
        return Ok(begun); // hearing has begun anew already
    }
    // Before `begin`, which moves the cursor, and again after it: what was filled until then may have been fetched before the entry from
    // which reading goes on.
    backend.tier()?.suspect_all();
    let cursor = begin(backend, link, Some(cursor))?;
    backend.tier()?.suspect_all();
    Ok(cursor)
}

/// After a read: notes that this is still the Redis that was asked for its epoch. False if it is not; then hearing has begun anew. `confirmed` is when
/// the masters of a cluster were asked.
fn confirm(backend: &TieredBackend, link: &mut Link, outbox: &Outbox, confirmed: &mut Instant) -> Result<bool, Error> {
    if !link.is_cluster() {
        // The entry of the cursor is still there.
        outbox.continuity.confirm_again();
        return Ok(true);
    }
    // There the entry tells of one master alone.
    if confirmed.elapsed() <= CONFIRM_EVERY {
        return Ok(true);
    }
    match backend.has_known_epoch(link)? {
        Some(true) => outbox.continuity.confirm_again(),
        Some(false) => {
            check_epoch_or_suspect(backend, link)?;
            return Ok(false);
        }
        None => {}
    }
    *confirmed = Instant::now();
    Ok(true)
}

/// There is reason to think that Redis has lost everything. If it does not say, everything that it has had is suspect meanwhile.
fn check_epoch_or_suspect(backend: &TieredBackend, link: &mut Link) -> Result<(), Error> {
    let checked = backend.check_epoch(link);
    if checked.is_err() {
        backend.tier()?.suspect_all();
    }
    checked
}

/// Begins to hear from now on, at an entry of its own. What happened before may have been missed, but for what the stream still has behind `heard`.
/// Returns the cursor.
fn begin(backend: &TieredBackend, link: &mut Link, heard: Option<String>) -> Result<String, Error> {
    let tier = backend.tier()?;
    let cursor = publish(link, &backend.keys, tier.node(), &[Notice::hello()])?;
    backend.flights.doubt_all();
    // Without versions only events tell what others have overruled. Before the cursor moves: what may have been pushed before is pushed again then.
    if backend.is_unversioned() && heard.is_some() {
        backend.hear_gathered(link, heard)?;
    }
    if let Some(outbox) = tier.outbox() {
        let in_step_ms = outbox.heard().1;
        outbox.set_heard(cursor.clone(), in_step_ms);
    }
    Ok(cursor)
}

/// Why an event of a put says nothing yet about the older object that is held here.
enum Backing {
    /// Redis has nothing newer.
    Missing,
    /// Redis refuses to say what it has, for this reason: the event waits.
    Unknown(String),
}

/// What Redis says of a key that holds no string, in front of its reason.
const WRONG_TYPE: &str = "WRONGTYPE";

impl TieredBackend {
    /// Begins to hear if this node never did. To be called before anything is pushed: what others do to that must be heard.
    pub(super) fn begin_hearing(&self, link: &mut Link) -> Result<(), Error> {
        let tier = self.tier()?;
        let Some(outbox) = tier.outbox() else { return Ok(()) };
        if outbox.heard().0.is_empty() {
            let cursor = begin(self, link, None)?;
            tier.set_heard(cursor);
            // Copies that were fetched before hearing began, and what earlier opens left.
            tier.suspect_earlier();
        }
        // Without versions: what an earlier open wrote may have reached Redis and been overruled there. That open may have heard of it already,
        // so the events in front of the cursor matter too.
        if self.is_unversioned() && outbox.needs_history() {
            outbox.begin_history_replay(is_whole(link, &self.keys)?);
            self.replay_history(outbox, link)?;
            outbox.finish_history_replay();
        }
        Ok(())
    }

    /// Acts upon all events in the stream, as far as they concern dirty records of earlier opens.
    fn replay_history(&self, outbox: &Outbox, link: &mut Link) -> Result<(), Error> {
        let mut behind = None::<String>;
        loop {
            let read = gathered(link, &self.keys, behind.as_deref(), ENTRIES_MAX)?;
            if read.has_unknown {
                outbox.miss_history();
            }
            for event in read.events.iter().filter(|event| matches!(event.op, Op::Put | Op::Delete)) {
                if IdBytes::ORDINARY.allow(&event.id) && self.tier()?.is_owed(&event.id)? {
                    self.tier()?.apply_others_event(&event.id, event.version)?;
                }
            }
            if read.entry_count < ENTRIES_MAX {
                return Ok(());
            }
            behind = Some(read.cursor);
        }
    }

    /// Acts upon all events in the stream behind an entry; None: all that there are, of a new stream, which hearing may have begun to read behind its
    /// beginning.
    pub(super) fn hear_gathered(&self, link: &mut Link, mut behind: Option<String>) -> Result<(), Error> {
        for _ in 0..GATHERED_READS_MAX {
            let read = gathered(link, &self.keys, behind.as_deref(), ENTRIES_MAX)?;
            let mut awaited = Vec::new();
            for event in &read.events {
                // A put that would drop the copy held here is left out: Redis may have lost it. Whoever pushes it again names it again.
                let is_sure = event.op != Op::Put || self.is_unversioned();
                if is_sure || !matches!(self.tier()?.known(&event.id)?, Known::Held { .. }) {
                    self.apply(event, false, &mut awaited)?;
                }
            }
            for id in awaited {
                // `apply` has begun the flight for this thread to fetch; here a fetcher does.
                if !self.fetchers.try_send(Job::Fetch(id.clone())) {
                    self.give_up(&id, &Error::Closed);
                }
            }
            if read.entry_count < ENTRIES_MAX {
                break;
            }
            behind = Some(read.cursor);
        }
        Ok(())
    }

    /// This version of an id is in Redis, or was: an older object here is dropped.
    pub(super) fn apply_version(&self, id: &[u8], version: Version, is_delete: bool) -> Result<(), Error> {
        // Flights first: then a fetch that read something older is either refused when it is filled in, or dropped below.
        self.flights.note_version(id, version);
        self.tier()?.apply_event(id, version, is_delete).map(drop)
    }

    /// The events of puts, by number, that are not to be acted upon like others, while an older object is held here, which may be the only copy
    /// left. Such a put was refused at first, and is named again when it gets through; or Redis has lost it.
    fn unbacked_puts(&self, link: &mut Link, events: &[Event]) -> Result<BTreeMap<usize, Backing>, Error> {
        let tier = self.tier()?;
        if self.is_unversioned() {
            return Ok(BTreeMap::new()); // the last event tells what Redis has
        }
        let puts = events.iter().enumerate().filter(|(_, event)| event.op == Op::Put && event.node != tier.node());
        let held = puts.filter_map(|(number, event)| match tier.known(&event.id) {
            Ok(Known::Held { version, .. }) if version < event.version => Some((number, version, &event.id)),
            // What cannot be read now fails again when the event is acted upon.
            _ => None,
        });
        let held: Vec<_> = held.collect();
        if held.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids: Vec<_> = held.iter().map(|(_, _, id)| id).collect();
        let standings = heads(link, &self.keys, &ids)?;
        let backings = held.iter().zip(standings).filter_map(|((number, version, _), standing)| match standing {
            Ok(Some(StoredValue::Ours(head))) if head.version > *version => None,
            Ok(_) => Some((*number, Backing::Missing)),
            // Somebody else's key: no put gets there.
            Err(refusal) if refusal.starts_with(WRONG_TYPE) => Some((*number, Backing::Missing)),
            Err(refusal) => Some((*number, Backing::Unknown(refusal))),
        });
        Ok(backings.collect())
    }

    fn refused(&self, id: &[u8], reason: &str) -> Error {
        let (address, id) = (self.target.address().to_owned(), ObjectId::new(id));
        Error::Refused { address, action: "look at", id, reason: reason.to_owned() }
    }

    /// Acts upon events, and returns those that cannot be acted upon now. What somebody waits for is fetched at once. After an error, the flights
    /// of the ids in `awaited` have not ended, and the caller has to give them up.
    fn apply_events(
        &self,
        events: Vec<Event>,
        link: &mut Link,
        awaited: &mut Vec<Box<[u8]>>,
    ) -> Result<Vec<Event>, Error> {
        if !events.is_empty() {
            self.counters.events.add(events.len() as u64);
            *self.counters.last_event.lock() = Some(Instant::now());
        }
        self.peers.heard(events.iter().map(|event| event.node), Instant::now());
        let unbacked_puts = self.unbacked_puts(link, &events)?;
        let mut left = Vec::new();
        for (number, event) in events.into_iter().enumerate() {
            let applied = match unbacked_puts.get(&number) {
                Some(Backing::Unknown(reason)) => Err(self.refused(&event.id, reason)),
                backing => self.apply(&event, backing.is_some(), awaited),
            };
            match applied {
                Ok(()) => {}
                Err(error) if left.len() >= UNHEEDED_MAX || matches!(error, Error::Closed | Error::Forked) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(
                        "an event about object {}: {error}; it is acted upon later",
                        ObjectId::new(&event.id)
                    );
                    left.push(event);
                }
            }
        }
        self.fetch_batch(link, awaited)?;
        Ok(left)
    }

    /// Acts upon one event. An id that somebody waits for is added to `awaited`, to be fetched over this thread's connection, which is quicker
    /// than waking a fetcher.
    fn apply(&self, event: &Event, is_unbacked: bool, awaited: &mut Vec<Box<[u8]>>) -> Result<(), Error> {
        let tier = self.tier()?;
        // Ids that only the `redis` backend takes cannot be held here.
        if !IdBytes::ORDINARY.allow(&event.id) {
            return Ok(());
        }
        let is_write = matches!(event.op, Op::Put | Op::Delete);
        if event.node == tier.node() {
            if is_write && self.is_unversioned() {
                // Before the delete ceases to count as on its way: until then, nothing that Redis had before it is handed out.
                self.flights.doubt(&event.id);
                tier.apply_own_event(&event.id, event.version)?;
            }
            return Ok(());
        }
        match event.op {
            Op::Put | Op::Delete => {
                if event.op == Op::Put {
                    self.wants.satisfied(&event.id);
                }
                if self.is_unversioned() {
                    self.flights.doubt(&event.id);
                    tier.apply_others_event(&event.id, event.version)?;
                } else if is_unbacked {
                    self.flights.note_version(&event.id, event.version);
                } else {
                    self.apply_version(&event.id, event.version, event.op == Op::Delete)?;
                }
                // Redis has taken a put though this node knows of a later delete: Redis has lost the tombstone.
                if event.op == Op::Put
                    && !self.is_unversioned()
                    && matches!(tier.known(&event.id)?, Known::Deleted(deleted) if deleted.version > event.version)
                {
                    self.push_again(&event.id);
                }
                if event.op == Op::Put && self.waiters.has_any(&event.id) {
                    if awaited.len() >= AWAITED_MAX {
                        self.fetch(&event.id, None);
                    } else if self.flights.join(&event.id, None) {
                        awaited.push(event.id.as_slice().into());
                    }
                }
            }
            Op::Want => self.is_asked_for(&event.id, Why::Wanted)?,
            Op::Repair => self.is_asked_for(&event.id, Why::Damaged)?,
            Op::Hello => {}
        }
        Ok(())
    }

    /// Another node asks all others to push an id again: notes that if something is known of it here.
    fn is_asked_for(&self, id: &[u8], why: Why) -> Result<(), Error> {
        if self.tier()?.known(id)? != Known::Nothing {
            self.wants.asked(id, why);
        }
        Ok(())
    }

    /// Has the replicator push what is known here of an id, because Redis lacks it.
    pub(super) fn push_again(&self, id: &[u8]) {
        self.wants.lacking(id);
        self.wake_replicator();
    }
}
