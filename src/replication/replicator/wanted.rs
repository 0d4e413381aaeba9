//! The replicator's part in wants: asks other nodes for what is awaited here, and pushes what they ask for.

use super::Replicator;
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::{Dirty, Lsn};
use crate::redis::{Notice, Pushed, StoredValue, claim, heads, publish};
use crate::replication::caution::Alone;
use crate::replication::wants::Why;

/// Most wanted ids that are handled between two batches, in each direction.
const WANTS_MAX: usize = 128;

/// A record under way because another node wants it.
pub(super) struct Wanted {
    pub lsn: Lsn,
    pub id: Vec<u8>,
    pub bytes: usize,
}

impl Replicator<'_> {
    /// Asks other nodes, by an event, for ids that are awaited here.
    pub(super) fn ask_for_wanted(&mut self) -> Result<(), Error> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let ids: Vec<_> = self.backend.to_ask.try_iter().take(WANTS_MAX).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let notices: Vec<_> = ids.iter().map(|id| Notice::want(id)).collect();
        publish(link, &self.backend.keys, self.backend.tier()?.node(), &notices).map(drop)
    }

    /// Pushes what other nodes want and is known here, if Redis really lacks it. Returns whether there were any wants.
    pub(super) fn satisfy_wants(&mut self) -> Result<bool, Error> {
        let Some(link) = &mut self.link else { return Ok(false) };
        let wants = self.backend.wants.take(WANTS_MAX);
        if wants.is_empty() {
            return Ok(false);
        }
        let ids: Vec<_> = wants.iter().map(|(id, _)| id).collect();
        let losses = self.outbox.losses();
        let standings = heads(link, &self.backend.keys, &ids)?;
        let absence = self.backend.absence(link, &standings)?;
        let mut lacking = Vec::new();
        for ((id, why), standing) in wants.iter().zip(standings) {
            let tier = self.backend.tier()?;
            // A suspect may have been deleted unheard, so it is resolved first. If Redis has lost it, that makes it dirty, and it is pushed.
            if let (Ok(Some(_)), Ok(standing)) = (tier.suspect(id), &standing) {
                if let Err(error) = self.backend.resolve(id, standing.as_ref(), absence, losses) {
                    tracing::debug!("object {}: {error}", ObjectId::new(id));
                }
                continue;
            }
            match tier.dirty_now(id) {
                // It would break the connection.
                Ok(Some(dirty)) if self.outbox.ledger.is_set_aside(dirty.lsn) => {}
                Ok(Some(dirty)) if !self.is_needless(&dirty, *why, standing.ok().flatten()) => {
                    lacking.push((*why, dirty))
                }
                Ok(_) => {}
                // Whoever wants it asks again.
                Err(error) => tracing::debug!("object {}: {error}", ObjectId::new(id)),
            }
        }
        self.leave_to_others(&mut lacking)?;
        for (why, dirty) in lacking {
            let (lsn, write) = (dirty.lsn, self.outgoing(dirty, self.backend.is_unversioned()));
            // Until its manifest stands and they are made to stay, its chunks expire: if that comes to nothing, it has to be pushed again.
            let needs_care = write.is_large() && !lsn.is_none() && !self.outbox.is_dirty(lsn, true);
            if needs_care && !self.outbox.ledger.lose(lsn, &write.id) {
                continue; // too many stand apart; whoever wants it asks again
            }
            let Some(link) = &mut self.link else { return Ok(true) };
            self.sending_wanted = (!lsn.is_none()).then(|| Wanted { lsn, id: write.id.clone(), bytes: write.bytes() });
            let pushed = match why {
                Why::Damaged => self.pusher.repair(link, &write, self.backend)?,
                Why::Wanted | Why::Lacking => self.pusher.push_one(link, &write, self.backend)?,
            };
            self.sending_wanted = None;
            self.caution_wanted = Alone::default();
            match pushed {
                // This is another node's delete, which that node pushes.
                Err(reason) | Ok(Pushed::Incomplete(reason)) if lsn.is_none() => {
                    tracing::debug!("Redis refuses the delete of {}: {reason}", ObjectId::new(&write.id));
                }
                pushed => self.pushed(lsn, &write, pushed),
            }
        }
        Ok(true)
    }

    /// Whether Redis has it already, or the journal brings it there: a delete that was never pushed must not overtake those who ask Redis about
    /// its id, which the ordinary way sees to.
    pub(super) fn is_needless(&self, dirty: &Dirty, why: Why, standing: Option<StoredValue>) -> bool {
        let stands = match standing {
            Some(StoredValue::Ours(head)) => head.version >= dirty.version,
            Some(StoredValue::Python { .. }) => self.backend.is_unversioned(),
            Some(StoredValue::Damaged { .. }) | None => false,
        };
        let is_on_its_way = || dirty.lsn != Lsn::default() && self.outbox.is_dirty(dirty.lsn, false);
        (stands && why != Why::Damaged) || (dirty.put.is_none() && (is_on_its_way() || self.backend.is_unversioned()))
    }

    /// Of all nodes that are asked for an id, the first to claim it pushes it.
    pub(super) fn leave_to_others(&mut self, lacking: &mut Vec<(Why, Dirty)>) -> Result<(), Error> {
        let asked: Vec<_> =
            lacking.iter().filter(|(why, _)| *why != Why::Lacking).map(|(_, dirty)| &dirty.id).collect();
        let Some(link) = self.link.as_mut().filter(|_| !asked.is_empty()) else { return Ok(()) };
        let mut is_ours = claim(link, &self.backend.keys, &asked)?.into_iter();
        lacking.retain(|(why, _)| *why == Why::Lacking || is_ours.next().unwrap_or(true));
        Ok(())
    }
}
