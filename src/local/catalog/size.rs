//! Bounds the catalog's size. sled's file takes several times its content and never shrinks, and it counts against the store's limit: so
//! hints are stored only up to a share of that limit, and the file is written anew when it has become too large for its content.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The part of the store's limit that hints may take. Segments beyond that are walked by the next open.
const HINTS_PART: u64 = 32;

/// The file is written anew when it is larger than so many times its hints, ...
const SLACK_FACTOR: u64 = 3;

/// ... and than this, or in a small store than this part of its limit. Below that there is little to gain: sled's file takes some room
/// however little is in it.
const SLACK_BYTES_MAX: u64 = 3 << 20;
const SLACK_PART: u64 = 16;

/// The pause after a failed compaction.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Bytes of hints in the database, as far as they were read or written since it was opened.
#[derive(Debug, Default)]
pub(super) struct Size {
    /// Bytes of hints, by segment.
    segments: BTreeMap<u32, u64>,
    hint_bytes: u64,
    /// The file's length when it was last written anew.
    compacted_bytes: u64,
    /// When writing it anew failed.
    failed: Option<Instant>,
    /// The store's limit; unlimited until it is known.
    limit_bytes: Option<u64>,
}

impl Size {
    pub fn set_limit(&mut self, bytes: u64) {
        self.limit_bytes = Some(bytes);
    }

    /// A segment's hints were stored or read, and have this length.
    pub fn set(&mut self, segment: u32, bytes: u64) {
        let before = self.segments.insert(segment, bytes).unwrap_or(0);
        self.hint_bytes = self.hint_bytes.saturating_sub(before).saturating_add(bytes);
    }

    pub fn remove(&mut self, segment: u32) {
        self.hint_bytes = self.hint_bytes.saturating_sub(self.segments.remove(&segment).unwrap_or(0));
    }

    /// The database was reopened: nothing is known any more of its content.
    pub fn forget(&mut self) {
        self.segments.clear();
        self.hint_bytes = 0;
    }

    /// Whether so many more bytes of hints are within the share.
    pub fn admits(&self, bytes: u64) -> bool {
        self.limit_bytes.is_none_or(|limit| self.hint_bytes.saturating_add(bytes) <= limit / HINTS_PART)
    }

    /// Whether a file of this length should be written anew now.
    pub fn is_slack(&self, file_bytes: u64) -> bool {
        let most = self.hint_bytes.saturating_mul(SLACK_FACTOR).max(self.compacted_bytes.saturating_mul(2));
        let is_soon = self.failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER);
        file_bytes > most.max(self.slack_bytes()) && !is_soon
    }

    fn slack_bytes(&self) -> u64 {
        self.limit_bytes.map_or(SLACK_BYTES_MAX, |limit| (limit / SLACK_PART).min(SLACK_BYTES_MAX))
    }

    /// The file was written anew and now has this length.
    pub fn compacted(&mut self, file_bytes: u64) {
        (self.compacted_bytes, self.failed) = (file_bytes, None);
    }

    pub fn compaction_failed(&mut self) {
        self.failed = Some(Instant::now());
    }

    /// An estimate of the file's length after compaction.
    pub fn compact_bytes(&self) -> u64 {
        self.hint_bytes.saturating_mul(2).saturating_add(1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_admitted_up_to_their_share_of_the_limit() {
        let mut size = Size::default();
        size.set(1, 5000);
        assert!(size.admits(u64::MAX), "no limit is known yet");
        size.set_limit(HINTS_PART * 10_000);
        let left_bytes = |size: &Size| (0..=10_000).rev().find(|bytes| size.admits(*bytes));
        assert_eq!(left_bytes(&size), Some(5000));
        size.set(2, 3000);
        assert_eq!(left_bytes(&size), Some(2000));
        size.set(1, 1000);
        assert_eq!(left_bytes(&size), Some(6000), "in place of the former ones");
        size.remove(2);
        size.remove(2);
        assert_eq!(left_bytes(&size), Some(9000));
        size.set(3, 9001);
        assert_eq!(left_bytes(&size), None);
        size.forget();
        size.remove(1);
        assert_eq!(left_bytes(&size), Some(10_000));
    }

    #[test]
    fn a_file_is_written_anew_when_it_is_large_for_what_is_in_it_and_for_what_that_took() {
        let mut size = Size::default();
        let most = |size: &Size, bytes: u64| !size.is_slack(bytes) && size.is_slack(bytes + 1);
        assert!(most(&size, SLACK_BYTES_MAX));
        size.set(1, SLACK_BYTES_MAX);
        assert!(most(&size, SLACK_FACTOR * SLACK_BYTES_MAX));
        size.compacted(2 * SLACK_BYTES_MAX);
        assert!(most(&size, 4 * SLACK_BYTES_MAX));

        let mut small = Size::default();
        small.set_limit(SLACK_PART * 5000 + 3);
        assert!(most(&small, 5000), "by the store's limit");
        small.set_limit(SLACK_PART * SLACK_BYTES_MAX * 2);
        assert!(most(&small, SLACK_BYTES_MAX));
    }

    #[test]
    fn an_attempt_that_failed_is_followed_by_a_pause() {
        let mut size = Size::default();
        size.compaction_failed();
        assert!(!size.is_slack(u64::MAX));
        size.failed = Instant::now().checked_sub(RETRY_AFTER);
        assert!(size.is_slack(u64::MAX));
        size.compaction_failed();
        size.compacted(0);
        assert!(size.is_slack(u64::MAX));
    }
}
