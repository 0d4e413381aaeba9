//! What other nodes ask this one to push again, and what Redis is found to lack.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Ids that wait to be pushed again: more are asked for again later.
const WANTS_MAX: usize = 4096;

/// Why an id is to be pushed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Another node waits for it, and has asked all nodes.
    Wanted,
    /// The same; what Redis has is damaged, so that its version says nothing.
    Damaged,
    /// This node itself has found that Redis lacks what it knows.
    Lacking,
}

/// The ids to push again.
#[derive(Default)]
pub(super) struct Wants(Mutex<HashMap<Box<[u8]>, Why>>);

impl Wants {
    /// Where too much is wanted, it is asked for again.
    pub fn add(&self, id: &[u8], why: Why) {
        let mut wants = self.0.lock();
        if let Some(before) = wants.get_mut(id) {
            *before = why.max(*before);
        } else if wants.len() < WANTS_MAX {
            wants.insert(id.into(), why);
        }
    }

    /// Another node has pushed the id.
    pub fn satisfied(&self, id: &[u8]) {
        self.0.lock().remove(id);
    }

    /// Takes some of them.
    pub fn take(&self, ids_max: usize) -> Vec<(Box<[u8]>, Why)> {
        let mut wants = self.0.lock();
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
        wants.add(b"a", Why::Wanted);
        wants.add(b"a", Why::Damaged);
        wants.add(b"a", Why::Wanted);
        wants.add(b"b", Why::Wanted);
        wants.satisfied(b"b");
        assert_eq!(wants.take(9), [(b"a"[..].into(), Why::Damaged)]);
        assert!(wants.take(9).is_empty());
    }

    #[test]
    fn what_is_wanted_is_bounded() {
        let wants = Wants::default();
        (0..=WANTS_MAX).for_each(|number| wants.add(&number.to_be_bytes(), Why::Wanted));
        assert_eq!(wants.0.lock().len(), WANTS_MAX);
    }
}
