//! The fetcher threads: they read from Redis what this node lacks, fill it into the local tier, and answer whoever asked.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::TieredBackend;
use super::flights::{Deleted, FetchResult, Landed, OnFetched, Unanswered};
use super::jobs::{Job, Question, reason_of};
use crate::backend::{Backend, Patience, answer_early, waking};
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::{DeleteRetry, Fill, Known, Suspect};
use crate::object::Object;
use crate::redis::{self, Link, Looked, Notice, StoredValue, VersionedObject, fetch, heads, publish};
use crate::version::Version;

/// Most ids that a fetcher reads in one go, each of up to a MiB.
const BATCH_MAX: usize = 16;

/// A request on a connection that Redis has closed fails within this time. One that takes longer means that Redis does not answer.
const CLOSED_MAX: Duration = Duration::from_millis(100);

const TOO_MANY: &str = "too many objects are asked for at the same time";

pub(super) fn run(backend: &TieredBackend, jobs: &Receiver<Job>) {
    let mut fetcher = Fetcher { backend, link: None };
    while let Ok(first) = jobs.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
        fetcher.serve(batch);
    }
}

impl TieredBackend {
    /// Fetches an id, or joins the flight that does so already.
    pub(super) fn fetch(&self, id: &[u8], asked: Option<OnFetched>) {
        if self.flights.join(id, asked) && !self.fetchers.try_send(Job::Fetch(id.into())) {
            self.finish_flight(id, &Err(self.unanswered(TOO_MANY)));
        }
    }

    pub(super) fn unanswered(&self, reason: impl Into<String>) -> Unanswered {
        Unanswered { address: self.target.address().to_owned(), reason: reason.into() }
    }

    /// Ends a flight with this result for everybody who asked.
    fn finish_flight(&self, id: &[u8], fetched: &FetchResult) {
        self.finish_flight_each(id, |_, _| fetched.clone());
    }

    /// Ends a flight. `fetched` makes the result for each who asked, from when the id was deleted meanwhile, if it was, and when that one asked.
    fn finish_flight_each(&self, id: &[u8], fetched: impl Fn(Option<Deleted>, Instant) -> FetchResult) {
        let Landed { deleted, asked, again } = self.flights.land(id);
        for (since, asked) in asked {
            asked(fetched(deleted, since));
        }
        if again && !self.fetchers.try_send(Job::Fetch(id.into())) {
            self.finish_flight(id, &Err(self.unanswered(TOO_MANY)));
        }
    }

    /// Acts upon what was read of an id in Redis.
    fn handle_fetched(&self, id: &[u8], found: redis::Fetched) -> Result<(), Error> {
        let version = match &found {
            redis::Fetched::Object(found) => found.version,
            redis::Fetched::Tombstone(version) => *version,
            _ => Version::default(),
        };
        // Something newer was announced while it was read.
        if !self.flights.is_current(id, version) && self.fetch_again(id) {
            return Ok(());
        }
        match found {
            redis::Fetched::Object(found) => self.install(id, &found),
            redis::Fetched::Python(object) => {
                // Its writers send no events, so a copy would never be dropped.
                let moment = Instant::now();
                let object = match self.tier()?.known(id)? {
                    Known::Nothing => Some(object),
                    Known::Held { .. } => return self.finish_with_local(id),
                    // The delete has yet to reach Redis, so what was read is older.
                    Known::Deleted(tombstone) if self.tier()?.is_delete_on_its_way(&tombstone) => None,
                    // The value does not tell whether it was written before the delete or after. If values have versions, an event does.
                    Known::Deleted(tombstone) => (tombstone.is_overtaken || self.is_unversioned()).then_some(object),
                };
                self.finish_with(id, object, moment)
            }
            redis::Fetched::Tombstone(version) => {
                self.tier()?.apply_event(id, version, true)?;
                self.finish_with_local(id)
            }
            redis::Fetched::Missing => self.finish_with_local(id),
            redis::Fetched::Damaged { reason, .. } => {
                self.health.count_damaged();
                tracing::error!(
                    "object {} in Redis at {} is damaged: {reason}; it is treated as missing, other nodes are asked for it",
                    ObjectId::new(id),
                    self.target.address()
                );
                self.finish_with_local(id)
            }
        }
    }

    /// Queues another fetch of an id, because something newer was announced while it was read. False if it was repeated too often.
    fn fetch_again(&self, id: &[u8]) -> bool {
        let is_tried = self.flights.retry(id);
        if is_tried && !self.fetchers.try_send(Job::Fetch(id.into())) {
            self.finish_flight(id, &Err(self.unanswered(TOO_MANY)));
        }
        is_tried
    }

    /// Fills what was fetched into the local tier if nothing newer is known, and answers whoever asked or waits.
    fn install(&self, id: &[u8], found: &VersionedObject) -> Result<(), Error> {
        let VersionedObject { version, deadline_ms, body_hash, object } = found;
        let is_current = || self.flights.is_current(id, *version);
        let fill = Fill { version: *version, deadline_ms: *deadline_ms, is_current: &is_current };
        let tier = self.tier()?;
        let filled = waking(&self.waiters, self, Patience::Background, id, |stored| {
            tier.fill(id, object, *body_hash, &fill, stored)
        });
        match filled {
            Ok(true) => {
                self.counters.fills.add(1);
                self.finish_flight(id, &Ok(Some(object.clone())));
                return Ok(());
            }
            Ok(false) | Err(Error::Full { .. }) => {}
            Err(error) => tracing::warn!("object {} is not kept here: {error}", ObjectId::new(id)),
        }
        match tier.known(id)? {
            Known::Held { .. } => self.finish_with_local(id),
            Known::Deleted(tombstone) if tombstone.version >= *version => {
                let moment = |deleted: Option<Deleted>| deleted.and_then(|deleted| deleted.moment(*version));
                if let Some(moment) = moment(self.flights.deleted(id)) {
                    answer_early(&self.waiters, self, id, object, moment);
                }
                self.finish_flight_each(id, |deleted, since| {
                    let was_early = moment(deleted).is_some_and(|moment| since < moment);
                    Ok(was_early.then(|| object.clone()))
                });
                // Redis does not have the delete (any more). Pushed only after the landing, as a delete must not overtake a fetch.
                if tombstone.version > *version {
                    self.push_again(id);
                }
                Ok(())
            }
            // Something newer was announced.
            _ if !is_current() && self.fetch_again(id) => Ok(()),
            // There is no room here; or what was announced never came, so that this is what Redis has.
            _ => {
                let begun = self.flights.begun(id);
                self.finish_with(id, Some(object.clone()), begun)
            }
        }
    }

    /// Ends a flight with what is held here by now.
    fn finish_with_local(&self, id: &[u8]) -> Result<(), Error> {
        let object = self.answer_waiters_with_local(id)?;
        self.finish_flight(id, &Ok(object));
        Ok(())
    }

    /// Returns what is held here by now, and answers those who wait for it.
    fn answer_waiters_with_local(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        let tier = self.tier()?;
        waking(&self.waiters, self, Patience::Background, id, |stored| Ok(tier.tell(id, stored)))
    }

    /// Ends a flight with this object, and answers those who have waited since before `moment`; later ones may have come after a delete.
    fn finish_with(&self, id: &[u8], object: Option<Object>, moment: Instant) -> Result<(), Error> {
        if let Some(object) = &object {
            answer_early(&self.waiters, self, id, object, moment);
        }
        self.finish_flight(id, &Ok(object));
        Ok(())
    }
}

/// One fetcher thread with its connection.
struct Fetcher<'a> {
    backend: &'a TieredBackend,
    link: Option<Link>,
}

impl Fetcher<'_> {
    fn serve(&mut self, batch: Vec<Job>) {
        let (mut ids, mut questions) = (Vec::new(), Vec::new());
        for job in batch {
            match job {
                Job::Fetch(id) => ids.push(id),
                Job::Exists(question) => questions.push(question),
            }
        }
        if !questions.is_empty() {
            self.answer(&questions);
        }
        if !ids.is_empty()
            && let Err(error) = self.fetch(&ids)
        {
            self.failed(&error);
            ids.iter().for_each(|id| self.backend.give_up(id, &error));
        }
    }

    fn connected(&mut self) -> Result<&mut Link, Error> {
        if self.link.is_none() {
            if let Some(reason) = self.backend.gate.shut() {
                return Err(self.backend.unanswered(reason).into());
            }
            self.link = Some(self.backend.connect(Duration::ZERO)?);
            self.backend.gate.succeeded();
        }
        self.link.as_mut().ok_or(Error::Closed)
    }

    fn fetch(&mut self, ids: &[Box<[u8]>]) -> Result<(), Error> {
        let backend = self.backend;
        self.ask(|link| backend.fetch_batch(link, ids))
    }

    /// Calls `ask`, and once more on a new connection if an old one turns out to be closed: Redis was restarted, or closes idle connections,
    /// which does not mean that it cannot be reached.
    fn ask<T>(&mut self, ask: impl Fn(&mut Link) -> Result<T, Error>) -> Result<T, Error> {
        let (was_open, begun) = (self.link.is_some(), Instant::now());
        let answer = ask(self.connected()?);
        match answer {
            Err(error) if was_open && error.is_cut_off() && begun.elapsed() < CLOSED_MAX => {
                self.link = None;
                ask(self.connected()?)
            }
            answer => answer,
        }
    }

    fn failed(&mut self, error: &Error) {
        self.link = None;
        self.backend.gate.failed(error);
    }

    fn answer(&mut self, questions: &[Question]) {
        let ids: Vec<_> = questions.iter().map(|question| &question.id).collect();
        let backend = self.backend;
        let standings = self.ask(|link| heads(link, &backend.keys, &ids));
        match standings {
            Ok(standings) => {
                for (question, standing) in questions.iter().zip(standings) {
                    match standing {
                        Ok(standing) => backend.answer(question, standing.as_ref()),
                        Err(_) => question.answer(None),
                    }
                }
            }
            Err(error) => {
                self.failed(&error);
                questions.iter().for_each(|question| question.answer(None));
            }
        }
        questions.iter().for_each(|question| backend.flights.answered(&question.id));
    }
}

impl TieredBackend {
    /// Fetches ids that no other thread is fetching, and ends their flights. After an error, the caller has to `give_up` them.
    pub(super) fn fetch_batch(&self, link: &mut Link, ids: &[Box<[u8]>]) -> Result<(), Error> {
        let tier = self.tier()?;
        ids.iter().for_each(|id| self.flights.begin(id));
        self.counters.fetches.add(ids.len() as u64);
        let mut suspects = Vec::new();
        for id in ids {
            match tier.suspect(id) {
                Ok(None) => {}
                Ok(Some(_)) => suspects.push(id),
                // If it is a suspect, it stays one; it is read again below.
                Err(error) => tracing::debug!("object {}: {error}", ObjectId::new(id)),
            }
        }
        let (mut is_newest, mut is_unknown) = (Vec::new(), Vec::new());
        if !suspects.is_empty() {
            let losses = tier.outbox().as_ref().map_or(0, |outbox| outbox.losses());
            let standings = heads(link, &self.keys, &suspects)?;
            let absence = self.absence(link, &standings)?;
            for (id, standing) in suspects.iter().zip(standings) {
                match standing.map(|standing| self.resolve(id, standing.as_ref(), absence, losses)) {
                    Ok(Ok(Resolved::Newest)) => is_newest.push(*id),
                    Ok(Ok(Resolved::Other)) => {}
                    Ok(Ok(Resolved::Unknown)) => is_unknown.push(*id),
                    Ok(Err(error)) => tracing::warn!("object {}: {error}; it stays to be checked", ObjectId::new(id)),
                    Err(refusal) => tracing::debug!("object {}: {refusal}; it stays to be checked", ObjectId::new(id)),
                }
            }
        }
        // An object that is trusted again, or was put meanwhile, needs no fetch.
        let mut missing = Vec::with_capacity(ids.len());
        for id in ids {
            if is_unknown.contains(&id) {
                self.serve_unchecked(id, "it is not the Redis that it was".to_owned());
                continue;
            }
            let handed_out = match self.get_here(id) {
                Ok(Some(_)) => self.finish_with_local(id),
                Ok(None) if is_newest.contains(&id) => self.finish_with_local(id),
                Ok(None) => {
                    missing.push(id);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = handed_out {
                tracing::warn!("object {}: {error}", ObjectId::new(id));
                self.finish_flight(id, &Err(self.unanswered(error.to_string())));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let found = fetch(link, &self.keys, &missing, self.options.object_bytes_max())?;
        let is_damaged = |found: &Result<redis::Fetched, String>| matches!(found, Ok(redis::Fetched::Damaged { .. }));
        let damaged = missing.iter().zip(&found).filter(|(_, found)| is_damaged(found));
        let wanted: Vec<_> = damaged.map(|(id, _)| Notice::repair(id)).collect();
        for (id, found) in missing.into_iter().zip(found) {
            let done = match found {
                Ok(found) => self.handle_fetched(id, found),
                Err(reason) => {
                    self.serve_unchecked(id, reason);
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::warn!("object {}: {error}", ObjectId::new(id));
                self.finish_flight(id, &Err(self.unanswered(error.to_string())));
            }
        }
        // Published last: nobody who asked has to wait for it.
        if !wanted.is_empty() {
            publish(link, &self.keys, tier.node(), &wanted)?;
        }
        Ok(())
    }

    /// Redis does not answer: ends the flight with what is held here, unchecked.
    pub(super) fn give_up(&self, id: &[u8], error: &Error) {
        self.serve_unchecked(id, reason_of(error));
    }

    /// As `give_up`; `reason` is why Redis did not say what it has.
    fn serve_unchecked(&self, id: &[u8], reason: String) {
        let here = self.answer_waiters_with_local(id).and_then(|object| Ok((object, self.tier()?.known(id)?)));
        let answer = match here {
            Ok((None, Known::Deleted(tombstone))) if !tombstone.is_overtaken => Ok(None),
            Ok((Some(object), _)) => Ok(Some(object)),
            Ok((None, _)) | Err(_) => Err(self.unanswered(reason)),
        };
        self.finish_flight(id, &answer);
    }

    /// Answers a question with whether an object stands in Redis. If a delete asked, and the object's version is above the delete's (two nodes'
    /// clocks differ a little), the delete is repeated above that version: it has not returned yet, whatever was heard of meanwhile. If that
    /// fails, the object may exist on, and the answer is "not known".
    fn answer(&self, question: &Question, standing: Option<&StoredValue>) {
        let standing = standing.filter(|standing| standing.is_object());
        let Some(answer) = question.claim() else { return };
        if question.deletes
            && let Some(version) = standing.and_then(StoredValue::version)
            && let Err(error) =
                self.tier().and_then(|tier| tier.delete_above(&question.id, version, DeleteRetry::Asked))
        {
            tracing::warn!("object {} is not deleted: {error}; delete it again", ObjectId::new(&question.id));
            return answer(None);
        }
        answer(Some(standing.is_some()));
    }

    /// What it says of a suspect that Redis has nothing of it. To be called behind the question, with the answers.
    pub(super) fn absence(&self, link: &mut Link, standings: &[Looked]) -> Result<Absence, Error> {
        let is_any_absent = standings.iter().any(|standing| matches!(standing, Ok(None)));
        Ok(if !is_any_absent || self.has_known_epoch(link)? == Some(true) {
            Absence::Deleted
        } else {
            Absence::Unknown
        })
    }

    /// Acts upon what Redis has of a suspect: it is trusted, dropped, or dirty because Redis has lost it. `losses`: as they were before Redis was
    /// asked (`Outbox::losses`).
    pub(super) fn resolve(
        &self,
        id: &[u8],
        standing: Option<&StoredValue>,
        absence: Absence,
        losses: u64,
    ) -> Result<Resolved, Error> {
        let tier = self.tier()?;
        let (Some(Suspect { lsn, version, is_dirty }), Some(outbox)) = (tier.suspect(id)?, tier.outbox()) else {
            return Ok(Resolved::Other);
        };
        let is_current = || outbox.losses() == losses && self.flights.is_current(id, version);
        match standing {
            Some(StoredValue::Ours(head)) if head.version == version => {
                // Otherwise Redis is asked again: who asks now may have come after what was missed.
                return Ok(if tier.trust(lsn, is_current) { Resolved::Newest } else { Resolved::Other });
            }
            Some(StoredValue::Ours(head)) if head.version > version => {
                self.apply_version(id, head.version, !standing.is_some_and(StoredValue::is_object))?;
            }
            // It cannot be told whether Redis has this one.
            Some(StoredValue::Python { .. }) if self.is_unversioned() => tier.drop_at(id, lsn, version)?,
            None if absence == Absence::Unknown => return Ok(Resolved::Unknown),
            // Without versions a delete leaves no tombstone: that it was deleted is likelier than that Redis has lost this one value.
            None if self.is_unversioned() => tier.drop_at(id, lsn, version)?,
            None if !is_dirty && !tier.would_have_tombstone(outbox, version) => tier.drop_at(id, lsn, version)?,
            None | Some(_) => tier.lose_at(id, lsn, is_current)?,
        }
        Ok(Resolved::Other)
    }
}

/// What it says that Redis has nothing of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It was deleted, or Redis has lost this one.
    Deleted,
    /// Nothing: Redis has lost everything, or is another one, which is about to be noticed.
    Unknown,
}

/// What has become of a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// It is what Redis has.
    Newest,
    /// It was dropped, or is not suspect any more, or could not be resolved.
    Other,
    /// Nobody can say: what is held here stays as it is.
    Unknown,
}

#[cfg(test)]
mod tests;
