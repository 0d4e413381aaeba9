//! Drops that are known in memory only, because the journal did not take their records.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::local::journal::Lsn;
use crate::version::Version;

/// Records that other nodes' events overruled while the journal had no room for a drop. They still count for their ids, so that the next
/// record supersedes them, but they are not served. A crash would bring them back, so the event cursor on disk stays as it is meanwhile.
/// There is at most one for each object that is held.
#[derive(Default)]
pub(crate) struct Hidden {
    /// Read by every get without a lock.
    count: AtomicUsize,
    lsns: Mutex<BTreeMap<Lsn, Version>>,
}

impl Hidden {
    /// Hides the record at `lsn`, which `version` overruled. The caller holds the id.
    pub fn insert(&self, lsn: Lsn, version: Version) {
        let mut lsns = self.lsns.lock();
        let known = lsns.entry(lsn).or_default();
        *known = version.max(*known);
        self.count.store(lsns.len(), Ordering::Release);
    }

    /// The record was copied forward: its copy is hidden too.
    pub fn moved(&self, from: Lsn, to: Lsn) {
        if !self.is_empty() {
            let version = self.lsns.lock().get(&from).copied();
            if let Some(version) = version {
                self.insert(to, version);
            }
        }
    }

    pub fn remove(&self, lsn: Lsn) {
        if !self.is_empty() {
            let mut lsns = self.lsns.lock();
            lsns.remove(&lsn);
            self.count.store(lsns.len(), Ordering::Release);
        }
    }

    /// This segment and all before it were removed.
    pub fn segment_gone(&self, number: u32) {
        if !self.is_empty() {
            let mut lsns = self.lsns.lock();
            lsns.retain(|lsn, _| lsn.segment() > number);
            self.count.store(lsns.len(), Ordering::Release);
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    #[inline]
    pub fn has(&self, lsn: Lsn) -> bool {
        !self.is_empty() && self.lsns.lock().contains_key(&lsn)
    }

    /// The hidden records, each with the version that overruled it.
    pub fn all(&self) -> Vec<(Lsn, Version)> {
        if self.is_empty() {
            return Vec::new();
        }
        self.lsns.lock().iter().map(|(lsn, version)| (*lsn, *version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_hidden_until_that_is_noted_or_it_is_gone_wherever_it_moves() {
        let (first, second, third) = (Lsn::new(1, 64), Lsn::new(2, 64), Lsn::new(3, 64));
        let version = |clock| Version { clock, ..Version::default() };
        let hidden = Hidden::default();
        assert!(hidden.is_empty() && !hidden.has(first) && hidden.all().is_empty());
        hidden.moved(first, second);
        assert!(hidden.is_empty(), "it was not hidden");
        hidden.insert(first, version(9));
        hidden.insert(first, version(7));
        hidden.moved(first, third);
        hidden.moved(second, Lsn::new(4, 64));
        assert_eq!(hidden.all(), [(first, version(9)), (third, version(9))]);
        assert!(hidden.has(first) && !hidden.has(second) && hidden.has(third));
        hidden.segment_gone(1);
        assert_eq!(hidden.all(), [(third, version(9))]);
        hidden.segment_gone(2);
        assert!(!hidden.is_empty());
        hidden.remove(second);
        hidden.remove(third);
        assert!(hidden.is_empty() && !hidden.has(third));
    }
}
