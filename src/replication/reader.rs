//! Hears what other nodes do.

use std::collections::BTreeSet;
use std::time::Duration;

use super::TieredBackend;
use super::backoff::Backoff;
use super::jobs::WantedId;
use crate::clock::now_ms;
use crate::error::Error;
use crate::local::Known;
use crate::object::IdBytes;
use crate::redis::{Event, Link, Notice, Op, Standing, heads, publish, read};
use crate::version::Version;

/// How long a read waits for the next event before it is looked whether the store is closed.
const BLOCK: Duration = Duration::from_millis(250);

/// Ids fetched by this thread at a time; more are left to the fetchers.
const AWAITED_MAX: usize = 16;

/// Entries taken at a time.
const ENTRIES_MAX: usize = 256;

pub(super) fn run(backend: &TieredBackend) {
    let mut backoff = Backoff::default();
    while !backend.is_closing() {
        let error = match backend.connect(BLOCK) {
            Ok(link) => listen(backend, link, &mut backoff).err(),
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            tracing::debug!("hearing events: {error}");
        }
        let wait = backoff.failed();
        let slices = wait.as_millis() / BLOCK.as_millis();
        (0..=slices).take_while(|_| !backend.is_closing()).for_each(|_| std::thread::sleep(wait.min(BLOCK)));
    }
}

/// Acts upon events, until the connection breaks or the store is closed.
fn listen(backend: &TieredBackend, mut link: Link, backoff: &mut Backoff) -> Result<(), Error> {
    let Some(outbox) = &backend.tier()?.outbox else { return Ok(()) };
    backend.check_epoch(&mut link)?;
    let mut cursor = outbox.heard().0;
    while !backend.is_closing() {
        let read = read(&mut link, &backend.keys, &cursor, BLOCK, ENTRIES_MAX)?;
        backoff.succeeded();
        if read.lost_past {
            tracing::warn!(
                "events of other nodes may have been missed in the stream {}: what is held here is checked before it is served",
                backend.keys.events()
            );
            backend.check_epoch(&mut link)?;
            let begun = outbox.heard().0;
            if begun != cursor {
                cursor = begun; // hearing has begun anew already
                continue;
            }
            // First: what is filled from here on was fetched after the entry that reading goes on from.
            backend.tier()?.suspect_all();
            cursor = begin(backend, &mut link)?;
            backend.tier()?.suspect_all();
            continue;
        }
        let mut awaited = Vec::new();
        if let Err(error) = backend.act_upon(&read.events, &mut link, &mut awaited) {
            awaited.iter().for_each(|id| backend.give_up(id, &error));
            return Err(error);
        }
        cursor = read.cursor;
        outbox.set_heard(cursor.clone(), now_ms());
    }
    Ok(())
}

/// Begins to hear from now on: what happened before may have been missed.
fn begin(backend: &TieredBackend, link: &mut Link) -> Result<String, Error> {
    let tier = backend.tier()?;
    let cursor = publish(link, &backend.keys, tier.journal.node(), &[Notice::hello()])?;
    backend.flights.doubt_all();
    if let Some(outbox) = &tier.outbox {
        let in_step_ms = outbox.heard().1;
        outbox.set_heard(cursor.clone(), in_step_ms);
    }
    Ok(cursor)
}

impl TieredBackend {
    /// Begins to hear, where that was never done: before anything is pushed, as what other nodes do to it would go unheard.
    pub(super) fn begin_hearing(&self, link: &mut Link) -> Result<(), Error> {
        let tier = self.tier()?;
        let Some(outbox) = &tier.outbox else { return Ok(()) };
        if outbox.heard().0.is_empty() {
            let cursor = begin(self, link)?;
            outbox.set_heard(cursor, now_ms());
            // Copies that were fetched before.
            tier.suspect_all();
        }
        Ok(())
    }

    /// This version of an id is in Redis, or was: what is older here goes.
    pub(super) fn learn(&self, id: &[u8], version: Version, is_delete: bool) -> Result<(), Error> {
        // Fetches first: one that has looked before now is refused or, once installed, dropped.
        self.flights.hear(id, version);
        self.tier()?.hear(id, version, is_delete).map(drop)
    }

    /// Which events of puts, by number, would cost this node what it holds though Redis has nothing newer: the put did not get through
    /// at the first try, and is named again when it does; or Redis has lost it. A get would find something older then.
    fn unfounded(&self, link: &mut Link, events: &[Event]) -> Result<BTreeSet<usize>, Error> {
        let tier = self.tier()?;
        let held_version = |event: &Event| -> Result<Option<Version>, Error> {
            Ok(match tier.known(&event.id)? {
                Known::Held { version, .. } if version < event.version => Some(version),
                _ => None,
            })
        };
        let puts =
            events.iter().enumerate().filter(|(_, event)| event.op == Op::Put && event.node != tier.journal.node());
        let held = puts.map(|(number, event)| Ok(held_version(event)?.map(|version| (number, version, &event.id))));
        let held: Vec<_> = held.filter_map(Result::transpose).collect::<Result<_, Error>>()?;
        if held.is_empty() {
            return Ok(BTreeSet::new());
        }
        let ids: Vec<_> = held.iter().map(|(_, _, id)| id).collect();
        let standings = heads(link, &self.keys, &ids)?;
        let unfounded = held.iter().zip(standings).filter(|((_, version, _), standing)| match standing {
            Ok(Some(Standing::Ours(head))) => head.version <= *version,
            Ok(None) => true,
            _ => false,
        });
        Ok(unfounded.map(|((number, ..), _)| *number).collect())
    }

    /// Acts upon events. What they bring for those who wait is fetched at once; after an error, the fetches of the ids in `awaited` are
    /// still under way and have to be given up.
    fn act_upon(&self, events: &[Event], link: &mut Link, awaited: &mut Vec<Box<[u8]>>) -> Result<(), Error> {
        let unfounded = self.unfounded(link, events)?;
        for (number, event) in events.iter().enumerate() {
            self.hear(event, unfounded.contains(&number), awaited)?;
        }
        self.fetch_over(link, awaited)
    }

    /// Acts upon an event. An id that somebody waits for is added to `awaited`: fetching it at once over the connection that is at hand is
    /// quicker than waking a fetcher.
    fn hear(&self, event: &Event, is_unfounded: bool, awaited: &mut Vec<Box<[u8]>>) -> Result<(), Error> {
        let tier = self.tier()?;
        // Ids that only the `redis` backend takes cannot be held here.
        if event.node == tier.journal.node() || !IdBytes::ORDINARY.allow(&event.id) {
            return Ok(());
        }
        match event.op {
            Op::Put | Op::Delete => {
                if is_unfounded {
                    self.flights.hear(&event.id, event.version);
                } else {
                    self.learn(&event.id, event.version, event.op == Op::Delete)?;
                }
                // Redis has taken a put though this node knows that it was deleted later: it has lost the tombstone.
                if event.op == Op::Put
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
            Op::Want => self.push_again(&event.id),
            Op::Hello => {}
        }
        Ok(())
    }

    /// Has what is known here of an id pushed again. Where too much of that is asked for, it is asked for again.
    pub(super) fn push_again(&self, id: &[u8]) {
        let _ = self.wanted.try_send(WantedId { id: id.to_vec(), held: None });
        if let Ok(tier) = self.tier()
            && let Some(outbox) = &tier.outbox
        {
            outbox.wake();
        }
    }
}
