//! Which records were sent out of their turn.

use std::collections::{BTreeMap, BTreeSet};

use super::pass::Pass;
use crate::local::journal::Lsn;

/// Most records whose places are kept that were sent ahead of the tail: about 12 MB.
pub(super) const SENT_AHEAD_MAX: usize = 1 << 20;

/// Records that were sent before the tail came to them: since another node wants them, or as deletes that make room in a full Redis, or as what they
/// are copies of.
#[derive(Debug, Default)]
pub(super) struct SentAhead {
    places: BTreeSet<Lsn>,
    /// Copies of records that are under way for the first time, by the places of these: sent as well, unless those are refused. Each of these
    /// is answered, or the round fails.
    copies: BTreeMap<Lsn, Lsn>,
}

impl SentAhead {
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.places.contains(&lsn)
    }

    /// Whether the record is the copy of one that is under way.
    pub fn is_copy(&self, lsn: Lsn) -> bool {
        self.copies.values().any(|copy| *copy == lsn)
    }

    /// If they become too many, the tail takes everything up to the last of them for sent.
    pub fn insert(&mut self, lsn: Lsn, tail: &mut Pass) {
        self.places.insert(lsn);
        if self.places.len() > SENT_AHEAD_MAX
            && let Some(last) = std::mem::take(&mut self.places).pop_last()
        {
            tail.sent_below = tail.sent_below.max(last.just_above());
        }
    }

    pub fn remove(&mut self, lsn: Lsn) {
        self.places.remove(&lsn);
    }

    /// A record that is under way for the first time was copied.
    pub fn copied(&mut self, from: Lsn, to: Lsn) {
        self.copies.insert(from, to);
    }

    /// What became of this record is known. Returns the place of its copy, or of the last copy of that, if it was copied while it was under way.
    pub fn answered(&mut self, lsn: Lsn) -> Option<Lsn> {
        let mut copy = self.copies.remove(&lsn)?;
        while let Some(next) = self.copies.remove(&copy) {
            copy = next;
        }
        Some(copy)
    }

    /// What became of those that were under way is not known. Returns the places of their copies.
    pub fn unanswered(&mut self) -> impl Iterator<Item = Lsn> + use<> {
        std::mem::take(&mut self.copies).into_values()
    }

    /// The tail has passed everything below `position`.
    pub fn passed(&mut self, position: Lsn) {
        while self.places.first().is_some_and(|first| *first < position) {
            self.places.pop_first();
        }
    }
}
