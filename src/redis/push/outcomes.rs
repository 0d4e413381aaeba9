//! What became of each write of a batch.

use crate::redis::stored_value::StoredValue;

/// The outcome of a write that Redis did not refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Applied {
        replaced: Option<StoredValue>,
    },
    /// The same version stood there already.
    Same,
    /// It stands there, but something that belongs to it is refused, with these words: its event, that its chunks stay, or its tombstone.
    Incomplete(String),
    /// A newer version stands there: nothing was changed.
    Older(StoredValue),
    /// Without versions: nothing was changed, since others keep writing there, or their events were not heard yet. To be pushed a little later.
    Later,
    /// Without versions: nothing was changed, since the write does not count any more.
    Overtaken,
}

impl Pushed {
    /// For those who do not push again: such a write counts as refused.
    pub fn complete(self) -> Result<Pushed, String> {
        match self {
            Pushed::Incomplete(reason) => Err(reason),
            pushed => Ok(pushed),
        }
    }
}

/// The outcome of each write of a batch, as far as it is settled.
pub(super) struct Outcomes {
    pushed: Vec<Option<Result<Pushed, String>>>,
    /// Whether the write's event was acknowledged after the write was carried out.
    named: Vec<bool>,
}

impl Outcomes {
    pub fn new(count: usize) -> Outcomes {
        Outcomes { pushed: vec![None; count], named: vec![false; count] }
    }

    /// Sets the outcome of a write.
    pub fn settle(&mut self, index: usize, outcome: Result<Pushed, String>) {
        if let Some(place) = self.pushed.get_mut(index) {
            *place = Some(outcome);
        }
    }

    /// Notes that the write's event was acknowledged.
    pub fn named_now(&mut self, index: usize) {
        if let Some(place) = self.named.get_mut(index) {
            *place = true;
        }
    }

    pub fn get(&self, index: usize) -> Option<&Result<Pushed, String>> {
        self.pushed.get(index).and_then(Option::as_ref)
    }

    pub fn is_settled(&self, index: usize) -> bool {
        self.get(index).is_some()
    }

    pub fn is_applied(&self, index: usize) -> bool {
        matches!(self.get(index), Some(Ok(Pushed::Applied { .. })))
    }

    /// Whether the write was carried out where nothing stood before.
    pub fn is_new(&self, index: usize) -> bool {
        matches!(self.get(index), Some(Ok(Pushed::Applied { replaced: None })))
    }

    /// Whether the write still needs its event. One that was refused as older needs none: whoever wrote the newer one sent that.
    pub fn is_unnamed(&self, index: usize) -> bool {
        let succeeded = matches!(self.get(index), Some(Ok(Pushed::Applied { .. } | Pushed::Same)));
        succeeded && !self.named.get(index).copied().unwrap_or(false)
    }

    /// Whether nothing is left to be done for any of the writes.
    pub fn is_complete(&self) -> bool {
        (0..self.pushed.len()).all(|index| self.is_settled(index) && !self.is_unnamed(index))
    }

    pub fn into_results(self) -> Vec<Result<Pushed, String>> {
        self.pushed.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err("no answer".into()))).collect()
    }
}
