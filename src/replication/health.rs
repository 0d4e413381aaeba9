//! Whether replication works, judged by what gets through and not by connections. The log says once when pushing or hearing stops, and once
//! when it works again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// A failure is logged when it has lasted for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether Redis answers, takes what is pushed, and delivers events.
#[derive(Default)]
pub(super) struct Health {
    is_away: AtomicBool,
    reaching: Mutex<Condition>,
    pushing: Mutex<Condition>,
    hearing: Mutex<Condition>,
    /// Whether Redis takes everything that it is sent.
    taking: Mutex<Condition>,
    damaged: AtomicU64,
}

/// Whether one of these works, and whether the log says so.
#[derive(Default)]
struct Condition {
    failing_since: Option<Instant>,
    /// What failed last.
    reason: String,
    is_said: bool,
}

impl Condition {
    /// Notes a failure. Returns whether it is time to log it.
    fn failed(&mut self, now: Instant, reason: &dyn std::fmt::Display) -> bool {
        self.reason = reason.to_string();
        let since = *self.failing_since.get_or_insert(now);
        now.saturating_duration_since(since) >= PATIENCE && !std::mem::replace(&mut self.is_said, true)
    }

    /// Notes a success. Returns whether the failure before was logged.
    fn works(&mut self) -> bool {
        self.failing_since = None;
        std::mem::take(&mut self.is_said)
    }
}

impl Health {
    pub fn count_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Notes whether a connection could be made.
    pub fn set_away(&self, error: Option<&Error>) {
        let was_away = self.is_away.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) => drop(self.reaching.lock().failed(Instant::now(), error)),
            None => drop(self.reaching.lock().works()),
        }
        match error {
            Some(error) if !was_away => tracing::warn!("{error}; local work goes on, the rest follows when it is back"),
            None if was_away => tracing::info!("Redis is back"),
            _ => {}
        }
    }

    /// Notes that nothing could be pushed. Logged only if Redis can be reached; otherwise `set_away` does that.
    pub fn cannot_push(&self, error: &Error) {
        if !self.is_away() && self.pushing.lock().failed(Instant::now(), error) {
            tracing::warn!(
                "nothing can be pushed to Redis: {error}; other nodes do not get what is written here, it is kept and pushed when that works again"
            );
        }
    }

    /// Notes that pushing works.
    pub fn pushes(&self) {
        if self.pushing.lock().works() {
            tracing::info!("objects are pushed to Redis again");
        }
    }

    /// Notes that no events can be read though Redis can be reached. Returns whether that has lasted for too long.
    pub fn cannot_hear(&self, error: &Error) -> bool {
        let mut hearing = self.hearing.lock();
        if hearing.failed(Instant::now(), error) {
            tracing::warn!(
                "what other nodes write and delete is not heard: {error}; until that works again, each read of an object that is held here asks \
                 Redis whether it is still the newest; permit XREAD, XRANGE, XREVRANGE and XADD on the keys of this prefix"
            );
        }
        hearing.is_said
    }

    /// Notes that Redis refused a write.
    pub fn refused(&self, reason: &str) {
        self.taking.lock().failed(Instant::now(), &reason);
    }

    /// Notes that there is no write that Redis refused.
    pub fn takes_all(&self) {
        self.taking.lock().works();
    }

    /// What has not worked for some time: its kind, a sentence with the last error, and since when.
    pub fn complaints(&self, now: Instant) -> Vec<(&'static str, String, Instant)> {
        let conditions: [(_, _, fn(&str) -> String); 4] = [
            ("redis_away", &self.reaching, |reason| {
                format!("{reason}; what is written here is kept, and pushed when Redis is back")
            }),
            ("not_pushed", &self.pushing, |reason| {
                format!(
                    "nothing can be pushed to Redis: {reason}; what is written here is kept, and pushed when that works again"
                )
            }),
            ("refused", &self.taking, |reason| {
                format!("Redis refuses some of what it is sent: {reason}; that stays here and is tried again")
            }),
            ("not_heard", &self.hearing, |reason| {
                format!(
                    "what other nodes write and delete is not heard: {reason}; each read asks Redis whether it is still the newest"
                )
            }),
        ];
        let told = conditions.into_iter().filter_map(|(kind, condition, text)| {
            let condition = condition.lock();
            let since = condition.failing_since.filter(|since| now.saturating_duration_since(*since) >= PATIENCE)?;
            Some((kind, text(&condition.reason), since))
        });
        told.collect()
    }

    /// Notes that hearing works.
    pub fn hears(&self) {
        if self.hearing.lock().works() {
            tracing::info!("other nodes are heard again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_for_a_while_is_said_once_and_so_is_its_end() {
        let (mut condition, start) = (Condition::default(), Instant::now());
        let failed = |condition: &mut Condition, times: u32| condition.failed(start + PATIENCE / 2 * times, &"away");
        assert!(!failed(&mut condition, 0) && !failed(&mut condition, 1));
        assert!(failed(&mut condition, 2));
        assert!(!failed(&mut condition, 18));
        assert!(condition.works() && !condition.works());
        assert!(!failed(&mut condition, 20), "it has worked meanwhile");
    }

    #[test]
    fn what_has_not_worked_for_a_while_is_complained_of_with_its_last_error() {
        let (health, start) = (Health::default(), Instant::now());
        let error = |reason: &str| Error::Unreachable { address: "redis:6379".into(), reason: reason.into() };
        health.set_away(Some(&error("no route")));
        health.set_away(Some(&error("refused")));
        assert_eq!(health.complaints(start), [], "not yet");
        let complaints = health.complaints(Instant::now() + PATIENCE);
        let [(kind, text, since)] = &complaints[..] else { panic!("{complaints:?}") };
        assert_eq!(*kind, "redis_away");
        assert!(text.contains("redis:6379") && text.contains("refused") && *since >= start, "{text}");
        health.set_away(None);
        health.refused("OOM command not allowed");
        let complaints = health.complaints(Instant::now() + PATIENCE);
        assert!(matches!(&complaints[..], [("refused", text, _)] if text.contains("OOM command")), "{complaints:?}");
        health.takes_all();
        assert_eq!(health.complaints(Instant::now() + PATIENCE), []);
    }
}
