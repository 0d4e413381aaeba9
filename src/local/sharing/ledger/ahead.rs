//! Which records were sent out of their turn.

use std::collections::BTreeSet;

use super::pass::Pass;
use crate::local::journal::Lsn;

/// Most records whose places are kept that were sent ahead of the tail: about 12 MB.
pub(super) const SENT_AHEAD_MAX: usize = 1 << 20;

/// Records that were sent before the tail came to them: since another node wants them, or as deletes that make room in a full Redis, or as what they
/// are copies of.
#[derive(Debug, Default)]
pub(super) struct SentAhead(BTreeSet<Lsn>);

impl SentAhead {
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.0.contains(&lsn)
    }

    /// If they become too many, the tail takes everything up to the last of them for sent.
    pub fn insert(&mut self, lsn: Lsn, tail: &mut Pass) {
        self.0.insert(lsn);
        if self.0.len() > SENT_AHEAD_MAX
            && let Some(last) = std::mem::take(&mut self.0).pop_last()
        {
            tail.sent_below = tail.sent_below.max(last.just_above());
        }
    }

    pub fn remove(&mut self, lsn: Lsn) {
        self.0.remove(&lsn);
    }

    /// The tail has passed everything below `position`.
    pub fn passed(&mut self, position: Lsn) {
        while self.0.first().is_some_and(|first| *first < position) {
            self.0.pop_first();
        }
    }
}
