//! The ids that are to be pushed again: because other nodes ask for them, or because Redis was found to lack them.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Most ids that wait to be pushed again. More are asked for again later.
const WANTS_MAX: usize = 4096;

/// Why an id is to be pushed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Another node waits for it, and has asked all nodes.
    Wanted,
    /// As `Wanted`, but what Redis has is damaged, so that its version does not make a push needless.
    Damaged,
    /// This node has found that Redis lacks what is known here.
    Lacking,
}

/// The ids to push again.
#[derive(Default)]
pub(super) struct Wants {
    ready: Mutex<Ids>,
    /// Asked for by others, while the rest of the stream is still to be heard, which may delete the id.
    asked: Mutex<Ids>,
}

type Ids = HashMap<Box<[u8]>, Why>;

/// Adds an id, unless there are too many: then it is asked for again.
fn add(ids: &mut Ids, id: &[u8], why: Why) {
    if let Some(before) = ids.get_mut(id) {
        *before = why.max(*before);
    } else if ids.len() < WANTS_MAX {
        ids.insert(id.into(), why);
    }
}

impl Wants {
    /// Notes that others ask for this id.
    pub fn asked(&self, id: &[u8], why: Why) {
        add(&mut self.asked.lock(), id, why);
    }

    /// Notes that this node has found that Redis lacks this id.
    pub fn lacking(&self, id: &[u8]) {
        add(&mut self.ready.lock(), id, Why::Lacking);
    }

    /// Another node has pushed the id.
    pub fn satisfied(&self, id: &[u8]) {
        self.asked.lock().remove(id);
        self.ready.lock().remove(id);
    }

    /// The stream was heard to its end: what was asked for may be pushed. Returns whether there is any.
    pub fn heard_to_the_end(&self) -> bool {
        let asked = std::mem::take(&mut *self.asked.lock());
        let mut ready = self.ready.lock();
        asked.iter().for_each(|(id, why)| add(&mut ready, id, *why));
        !asked.is_empty()
    }

    /// Whether `take` would return any.
    pub fn are_there(&self) -> bool {
        !self.ready.lock().is_empty()
    }

    /// Takes up to so many ids.
    pub fn take(&self, ids_max: usize) -> Vec<(Box<[u8]>, Why)> {
        let mut wants = self.ready.lock();
        let taken: Vec<_> = wants.iter().take(ids_max).map(|(id, why)| (id.clone(), *why)).collect();
        for (id, _) in &taken {
            wants.remove(id);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_twice_is_pushed_once_and_what_another_has_pushed_not_at_all() {
        let wants = Wants::default();
        wants.asked(b"a", Why::Wanted);
        wants.asked(b"a", Why::Damaged);
        wants.asked(b"a", Why::Wanted);
        wants.asked(b"b", Why::Wanted);
        assert!(wants.take(9).is_empty(), "more is to be heard");
        wants.satisfied(b"b");
        assert!(wants.heard_to_the_end() && !wants.heard_to_the_end());
        assert_eq!(wants.take(9), [(b"a"[..].into(), Why::Damaged)]);
        wants.lacking(b"c");
        assert_eq!(wants.take(9), [(b"c"[..].into(), Why::Lacking)]);
        assert!(wants.take(9).is_empty());
    }

    #[test]
    fn what_is_wanted_is_bounded() {
        let wants = Wants::default();
        (0..=WANTS_MAX).for_each(|number| wants.asked(&number.to_be_bytes(), Why::Wanted));
        wants.heard_to_the_end();
        (0..=WANTS_MAX).for_each(|number| wants.asked(&(number + WANTS_MAX).to_be_bytes(), Why::Wanted));
        wants.heard_to_the_end();
        assert_eq!(wants.take(usize::MAX).len(), WANTS_MAX);
    }
}
