//! Whether replication works, judged by what gets through and not by connections. The log says once when something stops working, with the last
//! error, and once when it works again; [`Health::complaints`] says the same to whoever asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::lateness::Lateness;
use crate::error::Error;
use crate::local::Lsn;
use crate::redis::explained;

/// A failure is logged when it has lasted for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// What Redis has refused is logged when the oldest record that it lacks has waited for so long.
const LATE: Duration = Duration::from_secs(5);

/// The same where Redis refuses nothing, and only takes less than is written here.
const SLOW: Duration = Duration::from_secs(60);

/// Why Redis is late where it has refused nothing.
const NO_REFUSAL: &str = "it refuses nothing, but takes less than is written here";

/// Whether Redis answers, takes what is pushed, and delivers events.
#[derive(Default)]
pub(super) struct Health {
    is_away: AtomicBool,
    /// Redis answers, and lets this store make no connection.
    is_denied: AtomicBool,
    reaching: Mutex<Condition>,
    pushing: Mutex<Condition>,
    taking: Mutex<Condition>,
    confirming: Mutex<Condition>,
    hearing: Mutex<Condition>,
    lateness: Mutex<Lateness>,
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

/// A condition, with its kind, and the sentence that is made of its reason.
type Told<'a> = (&'static str, &'a Mutex<Condition>, fn(&str) -> String);

impl Condition {
    /// Notes a failure.
    fn note(&mut self, now: Instant, reason: &dyn std::fmt::Display) {
        self.reason = reason.to_string();
        self.failing_since.get_or_insert(now);
    }

    /// Notes a failure. Returns whether it is time to log it.
    fn failed(&mut self, now: Instant, reason: &dyn std::fmt::Display) -> bool {
        self.note(now, reason);
        let lasts = self.failing_since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        lasts && self.is_new()
    }

    /// Notes that the log says it. Returns whether it did not before.
    fn is_new(&mut self) -> bool {
        !std::mem::replace(&mut self.is_said, true)
    }

    /// Notes a success. Returns whether the failure before was logged.
    fn works(&mut self) -> bool {
        self.failing_since = None;
        std::mem::take(&mut self.is_said)
    }
}

fn away(reason: &str) -> String {
    format!("{reason}; local work goes on, the rest follows when it is back")
}

fn denied(reason: &str) -> String {
    format!("{reason}; local work goes on, the rest follows when it does")
}

fn not_pushed(reason: &str) -> String {
    format!(
        "nothing can be pushed to Redis: {reason}; other nodes do not get what is written here, it is kept and pushed when that works again"
    )
}

fn late(reason: &str) -> String {
    format!(
        "Redis lacks some of what was written here: {reason}; other nodes do not get that, it is kept and pushed when that works again"
    )
}

fn unconfirmed(reason: &str) -> String {
    format!("{reason}; what was pushed counts as not replicated, and is not evicted here")
}

fn not_heard(reason: &str) -> String {
    format!(
        "what other nodes write and delete is not heard: {reason}; until that works again, each read of an object that is held here asks Redis \
         whether it is still the newest, and is served as it is if Redis does not say"
    )
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

    /// What does not work: its kind, the sentence that the log has, and since when; first what explains the rest. While Redis is away,
    /// nothing is said of what follows from that.
    pub fn complaints(&self, now: Instant) -> Vec<(&'static str, String, Instant)> {
        let is_denied = self.is_denied.load(Ordering::Relaxed);
        let connecting: Told<'_> =
            if is_denied { ("denied", &self.reaching, denied) } else { ("redis_away", &self.reaching, away) };
        let conditions: [Told<'_>; 5] = [
            connecting,
            ("not_pushed", &self.pushing, not_pushed),
            ("refused", &self.taking, late),
            ("not_confirmed", &self.confirming, unconfirmed),
            ("not_heard", &self.hearing, not_heard),
        ];
        let told = if self.is_away() { 1 } else { conditions.len() };
        let told = conditions.into_iter().take(told).filter_map(|(kind, condition, text)| {
            let condition = condition.lock();
            let since = condition.failing_since?;
            let is_told = condition.is_said || now.saturating_duration_since(since) >= PATIENCE;
            is_told.then(|| (kind, text(&condition.reason), since))
        });
        told.collect()
    }

    /// Notes whether a connection could be made.
    pub fn set_away(&self, error: Option<&Error>) {
        let mut reaching = self.reaching.lock();
        self.is_away.store(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) => {
                reaching.note(Instant::now(), error);
                let is_denied = matches!(error, Error::Denied { .. });
                let was_denied = self.is_denied.swap(is_denied, Ordering::Relaxed);
                // What was away may come back with a password that has changed.
                if reaching.is_new() || is_denied != was_denied {
                    tracing::warn!("{}", if is_denied { denied(&reaching.reason) } else { away(&reaching.reason) });
                }
            }
            None if reaching.works() => tracing::info!("Redis is back"),
            None => {}
        }
        if error.is_none() {
            self.is_denied.store(false, Ordering::Relaxed);
        }
    }

    /// Notes that nothing could be pushed. Logged only if Redis can be reached; otherwise `set_away` does that.
    pub fn cannot_push(&self, error: &Error) {
        if self.is_away() {
            return;
        }
        let mut pushing = self.pushing.lock();
        if pushing.failed(Instant::now(), error) {
            tracing::warn!("{}", not_pushed(&pushing.reason));
        }
    }

    /// Notes that pushing works.
    pub fn pushes(&self) {
        if self.pushing.lock().works() {
            tracing::info!("objects are pushed to Redis again");
        }
    }

    /// Notes that Redis refused a write.
    pub fn refused(&self, reason: &str) {
        self.taking.lock().note(Instant::now(), &explained(reason));
    }

    /// Notes that there is no write that Redis refused.
    pub fn takes_all(&self) {
        let mut taking = self.taking.lock();
        if taking.reason != NO_REFUSAL && taking.works() {
            tracing::info!("Redis has what it lacked");
        }
    }

    /// Notes what is the first record that was not pushed, and where the journal ends. To be called several times a second.
    pub fn look(&self, first: Option<Lsn>, end: Lsn, now: Instant) {
        let since = self.lateness.lock().look(first, end, now);
        let age = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if self.is_away() || self.pushing.lock().failing_since.is_some() {
            return; // that explains it
        }
        let mut taking = self.taking.lock();
        if taking.failing_since.is_none() && age >= SLOW {
            taking.note(since.unwrap_or(now), &NO_REFUSAL);
        }
        let is_slow = taking.reason == NO_REFUSAL && taking.failing_since.is_some();
        if is_slow && age < SLOW {
            if taking.works() {
                tracing::info!("Redis has what it lacked");
            }
        } else if taking.failing_since.is_some() && age >= LATE && taking.is_new() {
            tracing::warn!("{}", late(&taking.reason));
        }
    }

    /// Notes whether as many replicas have what was pushed as are asked for, and if not, how many have.
    pub fn confirmed(&self, missing: Option<&str>) {
        let mut confirming = self.confirming.lock();
        match missing {
            Some(reason) if confirming.failed(Instant::now(), &reason) => {
                tracing::warn!("{}", unconfirmed(&confirming.reason));
            }
            None if confirming.works() => tracing::info!("the replicas have what was pushed"),
            _ => {}
        }
    }

    /// Notes that no events can be read though Redis can be reached. Returns whether that has lasted for too long.
    pub fn cannot_hear(&self, error: &Error) -> bool {
        let mut hearing = self.hearing.lock();
        if hearing.failed(Instant::now(), error) {
            tracing::warn!("{}", not_heard(&hearing.reason));
        }
        hearing.is_said
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
        health.cannot_hear(&error("no route"));
        health.refused("OOM");
        let complaints = health.complaints(Instant::now() + PATIENCE);
        let [(kind, text, since)] = &complaints[..] else { panic!("{complaints:?}") };
        assert_eq!(*kind, "redis_away");
        assert!(text.contains("redis:6379") && text.contains("refused") && *since >= start, "{text}");
        let error = Error::Denied { address: "redis:6379".into(), reason: "WRONGPASS".into() };
        health.set_away(Some(&error));
        let complaints = health.complaints(Instant::now());
        assert!(matches!(&complaints[..], [("denied", text, _)] if text.contains("WRONGPASS")), "{complaints:?}");
        health.set_away(None);
        health.hears();
        health.takes_all();
        health.refused("OOM command not allowed");
        assert_eq!(health.complaints(start), [], "not yet");
        let complaints = health.complaints(Instant::now() + PATIENCE);
        assert!(
            matches!(&complaints[..], [("refused", text, _)] if text.contains("raise maxmemory")),
            "{complaints:?}"
        );
        health.takes_all();
        assert_eq!(health.complaints(Instant::now() + PATIENCE), []);
    }

    #[test]
    fn a_redis_that_takes_less_than_is_written_is_late_until_it_is_not() {
        let (health, start) = (Health::default(), Instant::now());
        let lsn = |offset| Lsn::new(1, offset);
        health.look(Some(lsn(0)), lsn(10), start);
        health.look(Some(lsn(0)), lsn(20), start + SLOW / 2);
        assert_eq!(health.complaints(start + SLOW / 2), []);
        health.look(Some(lsn(5)), lsn(30), start + SLOW);
        let complaints = health.complaints(start + SLOW);
        assert!(matches!(&complaints[..], [("refused", text, _)] if text.contains(NO_REFUSAL)), "{complaints:?}");
        health.takes_all();
        assert_eq!(health.complaints(start + SLOW).len(), 1, "nothing was refused before either");
        health.look(Some(lsn(15)), lsn(30), start + SLOW);
        assert_eq!(health.complaints(start + SLOW), [], "what is left is younger");
    }
}
