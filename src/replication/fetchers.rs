//! Read from Redis what this node lacks, and keep it.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::RwLock;

use super::TieredBackend;
use super::backoff::Backoff;
use super::flights::{Fetched, Landed, OnFetched, Unanswered};
use super::watcher::Question;
use crate::error::Error;
use crate::local::{Fill, Known};
use crate::object::{Object, ObjectId};
use crate::redis::{self, Found, Link, Standing, fetch, heads};
use crate::store::{answer_early, waking};

/// Fetches that wait for a fetcher at a time. Who waits for an object is looked after again; a get is refused.
const JOBS_MAX: usize = 65_536;

/// Ids that a fetcher asks for at a time, of up to a MiB each.
const BATCH_MAX: usize = 16;

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

pub(super) fn run(backend: &TieredBackend, jobs: &Receiver<Job>) {
    let mut fetcher = Fetcher { backend, link: None, backoff: Backoff::default(), reason: String::new() };
    while let Ok(first) = jobs.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
        fetcher.serve(batch);
    }
}

impl TieredBackend {
    /// Fetches an id, or joins whoever does so already.
    pub(super) fn fetch(&self, id: &[u8], asked: Option<OnFetched>) {
        if self.flights.join(id, asked) && !self.fetchers.try_send(Job::Fetch(id.into())) {
            let unanswered = self.unanswered("too many objects are asked for at the same time");
            self.land(id, &Err(unanswered));
        }
    }

    /// For those who wait: they have looked before.
    pub(super) fn seek_again(&self, id: &[u8]) {
        self.fetch(id, None);
    }

    pub(super) fn unanswered(&self, reason: impl Into<String>) -> Unanswered {
        Unanswered { address: self.target.address().to_owned(), reason: reason.into() }
    }

    /// Ends a fetch, and tells whoever asked.
    fn land(&self, id: &[u8], fetched: &Fetched) {
        for (_, asked) in self.flights.land(id).asked {
            asked(fetched.clone());
        }
    }

    /// What Redis has of an id has been read.
    fn fetched(&self, id: &[u8], found: redis::Fetched) -> Result<(), Error> {
        match found {
            redis::Fetched::Object(found) => self.install(id, &found),
            redis::Fetched::Python(object) => {
                // Its writers send no events, so a copy would never be dropped.
                let object = match self.tier()?.known(id) {
                    Known::Nothing => Some(object),
                    Known::Held { .. } => self.tier()?.get(id)?,
                    Known::Deleted(_) => None,
                };
                self.hand_out(id, object)
            }
            redis::Fetched::Tombstone(version) => {
                self.tier()?.hear(id, version, true)?;
                self.hand_out(id, None)
            }
            redis::Fetched::Missing => {
                let here = self.tier()?.get(id)?;
                self.hand_out(id, here)
            }
            redis::Fetched::Damaged { reason, .. } => {
                self.health.damaged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tracing::error!(
                    "object {} in Redis at {} is damaged: {reason}; it is treated as missing, other nodes are asked for it",
                    ObjectId::new(id),
                    self.target.address()
                );
                self.land(id, &Ok(None));
                Ok(())
            }
        }
    }

    /// Keeps what was fetched, if nothing newer is known, and wakes whoever waits for it.
    fn install(&self, id: &[u8], found: &Found) -> Result<(), Error> {
        let Found { version, deadline_ms, body_hash, object } = found;
        let is_current = || self.flights.is_current(id, *version);
        let fill = Fill { version: *version, deadline_ms: *deadline_ms, is_current: &is_current };
        let tier = self.tier()?;
        let filled = waking(&self.waiters, self, id, |stored| tier.fill(id, object, *body_hash, &fill, stored));
        if matches!(filled, Ok(true)) {
            self.land(id, &Ok(Some(object.clone())));
            return Ok(());
        }
        match tier.known(id) {
            Known::Held { .. } => self.hand_out(id, tier.get(id)?),
            Known::Deleted(tombstone) if tombstone.version >= *version => {
                let Landed { deleted_at, asked } = self.flights.land(id);
                if let Some(deleted_at) = deleted_at {
                    answer_early(&self.waiters, self, id, object, deleted_at);
                }
                for (since, asked) in asked {
                    let was_early = deleted_at.is_some_and(|deleted_at| since < deleted_at);
                    asked(Ok(was_early.then(|| object.clone())));
                }
                Ok(())
            }
            _ if !is_current() => {
                self.flights.refresh(id);
                if !self.fetchers.try_send(Job::Fetch(id.into())) {
                    self.land(id, &Err(self.unanswered("too many objects are asked for at the same time")));
                }
                Ok(())
            }
            // There is no room for it here.
            _ => self.hand_out(id, Some(object.clone())),
        }
    }

    /// Answers whoever waits and whoever asked with what is not kept.
    fn hand_out(&self, id: &[u8], object: Option<Object>) -> Result<(), Error> {
        if let Some(object) = &object {
            waking(&self.waiters, self, id, |stored| {
                stored(&|| Some(object.clone()));
                Ok(())
            })?;
        }
        self.land(id, &Ok(object));
        Ok(())
    }
}

struct Fetcher<'a> {
    backend: &'a TieredBackend,
    link: Option<Link>,
    backoff: Backoff,
    /// Why the last connection failed.
    reason: String,
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
            && let Err(error) = self.try_fetch(&ids)
        {
            self.failed(&error);
            ids.iter().for_each(|id| self.give_up(id));
        }
    }

    fn connected(&mut self) -> Result<&mut Link, Error> {
        if self.link.is_none() {
            if !self.backoff.remaining().is_zero() {
                return Err(self.backend.unanswered(self.reason.clone()).into());
            }
            self.link = Some(self.backend.connect(Duration::ZERO)?);
            self.backoff.succeeded();
        }
        self.link.as_mut().ok_or(Error::Closed)
    }

    fn failed(&mut self, error: &Error) {
        self.link = None;
        if let Error::Unreachable { reason, .. } = error
            && self.backoff.remaining().is_zero()
        {
            self.reason.clone_from(reason);
            self.backoff.failed();
        }
    }

    fn try_fetch(&mut self, ids: &[Box<[u8]>]) -> Result<(), Error> {
        let backend = self.backend;
        let tier = backend.tier()?;
        let suspects: Vec<_> = ids.iter().filter(|id| tier.suspect(id).is_some()).collect();
        if !suspects.is_empty() {
            let standings = heads(self.connected()?, &backend.keys, &suspects)?;
            for (id, standing) in suspects.iter().zip(standings) {
                backend.resolve(id, standing.unwrap_or(None).as_ref())?;
            }
        }
        // One that is trusted again, or was put meanwhile, needs no fetching.
        let mut missing = Vec::with_capacity(ids.len());
        for id in ids {
            match crate::store::Backend::get_here(backend, id)? {
                Some(object) => backend.hand_out(id, Some(object))?,
                None => missing.push(id),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let found = fetch(self.connected()?, &backend.keys, &missing, backend.options.object_bytes_max())?;
        for (id, found) in missing.into_iter().zip(found) {
            let done = match found {
                Ok(found) => backend.fetched(id, found),
                Err(reason) => {
                    backend.land(id, &Err(backend.unanswered(reason)));
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::warn!("object {}: {error}", ObjectId::new(id));
                backend.land(id, &Err(backend.unanswered(error.to_string())));
            }
        }
        Ok(())
    }

    /// Redis does not answer: what is here is served as it is.
    fn give_up(&self, id: &[u8]) {
        let here = self.backend.tier().and_then(|tier| tier.get(id));
        let given_up = match here {
            Ok(Some(object)) => self.backend.hand_out(id, Some(object)),
            _ => Err(Error::Closed),
        };
        if given_up.is_err() {
            self.backend.land(id, &Err(self.backend.unanswered(self.reason.clone())));
        }
    }

    fn answer(&mut self, questions: &[Question]) {
        let ids: Vec<_> = questions.iter().map(|question| &question.id).collect();
        let backend = self.backend;
        let standings = self.connected().and_then(|link| heads(link, &backend.keys, &ids));
        match standings {
            Ok(standings) => {
                for (question, standing) in questions.iter().zip(standings) {
                    question.answer(standing.ok().map(|standing| standing.is_some_and(|it| it.is_object())));
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
    /// Redis has said what it has of a suspect.
    fn resolve(&self, id: &[u8], standing: Option<&Standing>) -> Result<(), Error> {
        let tier = self.tier()?;
        let (Some((place, version)), Some(outbox)) = (tier.suspect(id), &tier.outbox) else { return Ok(()) };
        match standing {
            Some(Standing::Ours(head)) if head.version == version && standing.is_some_and(Standing::is_object) => {
                tier.trust(place);
            }
            Some(Standing::Ours(head)) if head.version > version => {
                tier.hear(id, head.version, !standing.is_some_and(Standing::is_object))?;
            }
            Some(_) => tier.drop_at(id, place, version)?,
            None => {
                let step_ms = crate::clock::now_ms().saturating_sub(outbox.heard().1);
                if step_ms < outbox.options.tombstone_ttl_ms {
                    // Redis has lost it: it is dirty until it is pushed again.
                    outbox.hold(place);
                    if self.wanted.try_send(id.to_vec()).is_ok() {
                        tier.trust(place);
                    }
                    outbox.wake();
                } else {
                    tier.drop_at(id, place, version)?;
                }
            }
        }
        Ok(())
    }
}
