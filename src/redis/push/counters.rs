//! The approximate counters in Redis: how many objects there are, and how many bytes they have.

use redis::Cmd;

use super::Pusher;
use crate::redis::keys::Keys;
use crate::redis::pipeline::Reply;

/// Pending changes of the counters in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub objects: i64,
    pub bytes: i64,
}

impl Counters {
    /// An object of `came` bytes was stored, in the place of one of `went` bytes.
    pub fn add(&mut self, came: Option<u64>, went: Option<u64>) {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        if let Some(bytes) = came {
            self.objects = self.objects.saturating_add(1);
            self.bytes = self.bytes.saturating_add(signed(bytes));
        }
        if let Some(bytes) = went {
            self.objects = self.objects.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(signed(bytes));
        }
    }

    pub fn and(self, other: Counters) -> Counters {
        let (objects, bytes) = (self.objects.saturating_add(other.objects), self.bytes.saturating_add(other.bytes));
        Counters { objects, bytes }
    }

    pub fn without(self, other: Counters) -> Counters {
        let (objects, bytes) = (self.objects.saturating_sub(other.objects), self.bytes.saturating_sub(other.bytes));
        Counters { objects, bytes }
    }

    /// The commands that make these changes: none, or one for each counter.
    pub fn commands(self, keys: &Keys) -> Vec<Cmd> {
        if self == Counters::default() {
            return Vec::new();
        }
        let by = |key: String, amount: i64| {
            let mut add = redis::cmd("INCRBY");
            add.arg(key).arg(amount);
            add
        };
        vec![by(keys.object_count(), self.objects), by(keys.total_size(), self.bytes)]
    }
}

impl Pusher {
    /// Notes changes of the counters that Redis refused, to be made later.
    pub(super) fn counted(&mut self, by: Counters, replies: &[Reply]) {
        let refused = |place: usize| replies.get(place).is_some_and(Reply::is_err);
        if refused(0) {
            self.counters_off.objects += by.objects;
        }
        if refused(1) {
            self.counters_off.bytes += by.bytes;
        }
    }

    /// The connection broke: what was under way is most likely not counted. The new objects among it are counted when they are pushed again, but what
    /// was owed would be forgotten.
    pub(super) fn uncounted(&mut self) {
        let sent = std::mem::take(&mut self.counters_sent);
        self.counters_off = self.counters_off.and(sent);
    }
}
