use crate::redis::standing::Standing;

/// How a write ended that Redis did not refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Applied {
        replaced: Option<Standing>,
    },
    /// It stood there already.
    Same,
    /// A newer one stands there: nothing was changed.
    Older(Standing),
    /// Values without versions: nothing was changed, as others write there all the time, or were not heard yet. It is pushed a little later.
    Later,
    /// The same, as something else has taken its place.
    Overtaken,
}

/// What has become of each write of a batch.
pub(super) struct Outcomes {
    pushed: Vec<Option<Result<Pushed, String>>>,
    /// Whether an event that names it was acknowledged after it was carried out.
    named: Vec<bool>,
}

impl Outcomes {
    pub fn new(count: usize) -> Outcomes {
        Outcomes { pushed: vec![None; count], named: vec![false; count] }
    }

    pub fn settle(&mut self, index: usize, outcome: Result<Pushed, String>) {
        if let Some(place) = self.pushed.get_mut(index) {
            *place = Some(outcome);
        }
    }

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

    /// Whether it was carried out where nothing stood.
    pub fn is_new(&self, index: usize) -> bool {
        matches!(self.get(index), Some(Ok(Pushed::Applied { replaced: None })))
    }

    /// A write that was refused as older needs no event: who wrote the newer one sent it.
    pub fn is_unnamed(&self, index: usize) -> bool {
        let succeeded = matches!(self.get(index), Some(Ok(Pushed::Applied { .. } | Pushed::Same)));
        succeeded && !self.named.get(index).copied().unwrap_or(false)
    }

    pub fn into_results(self) -> Vec<Result<Pushed, String>> {
        self.pushed.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err("no answer".into()))).collect()
    }
}
