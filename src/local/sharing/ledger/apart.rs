//! The records that stand apart from the ledger's walks, and what has become of each.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// The longest pause between tries of a record that Redis refuses, ...
const REFUSED_RETRY_MAX: Duration = Duration::from_secs(60);

/// ... and between tries of any of those that break the connection each time, for which all others must wait for a new connection.
const SET_ASIDE_RETRY_MAX: Duration = Duration::from_secs(600);
pub(super) const SET_ASIDE_RETRY_FIRST: Duration = Duration::from_secs(1);

/// After so many such pauses one of them is tried though there are others to be pushed.
pub(super) const SET_ASIDE_OVERDUE: u32 = 10;

/// When the next of the records that are set aside is tried: one for all, as nothing settles while connections break.
#[derive(Debug)]
pub(super) struct AsideRetry {
    backoff: Backoff,
    pub due: Instant,
    /// When others do not stop it any more.
    pub overdue: Instant,
}

impl AsideRetry {
    pub fn new() -> Self {
        let now = Instant::now();
        AsideRetry { backoff: Backoff::between(SET_ASIDE_RETRY_FIRST, SET_ASIDE_RETRY_MAX), due: now, overdue: now }
    }

    /// One was set aside; `again`: after it was tried once more.
    pub fn failed(&mut self, again: bool) {
        let pause = if again { self.backoff.failed() } else { SET_ASIDE_RETRY_FIRST };
        let now = Instant::now();
        self.due = self.due.max(now + pause);
        self.overdue = self.overdue.max(now + pause * SET_ASIDE_OVERDUE);
    }

    /// Something else has to happen first.
    pub fn postponed(&mut self, wait: Duration) {
        let due = Instant::now() + wait;
        (self.due, self.overdue) = (self.due.max(due), self.overdue.max(due));
    }

    /// One got through: so may the others.
    pub fn succeeded(&mut self) {
        *self = AsideRetry::new();
    }
}

/// Why a record stands apart that was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Redis refuses it, though it takes others.
    Refused,
    /// Redis has no room for it.
    Full,
    /// The journal cannot be read there now.
    Unreadable,
    /// The connection breaks each time it is sent.
    SetAside,
}

/// A record that stands apart.
pub(super) struct Apart {
    pub id: Vec<u8>,
    pub fate: Fate,
    /// It stands apart until it has settled, since the walks may pass over it: Redis has lost it, though it may say of itself that it is clean. The
    /// copy of a dirty suspect is treated alike.
    pub was_lost: bool,
    /// It was sent, and Redis did not refuse it.
    pub may_have_stood: bool,
    /// It was due, and what became of it was not reported yet.
    pub is_under_way: bool,
}

/// What has become of a record that stands apart.
pub(super) enum Fate {
    Held {
        why: Obstacle,
        due: Instant,
        backoff: Backoff,
    },
    /// It breaks the connection each time, and was tried so often since that was found.
    SetAside {
        tries: u32,
    },
    /// Something else has to happen first. Not a failure.
    Postponed {
        due: Instant,
    },
    /// Redis has lost this one record: it is pushed again.
    Lost,
    /// Pushed at this time, after the walk had settled what is around it: settled on its own.
    Pushed {
        at: Instant,
    },
}

impl Fate {
    /// Held, for longer than the time before if it stood apart for the same reason.
    pub fn held(why: Obstacle, before: Option<&Apart>) -> Self {
        if why == Obstacle::SetAside {
            return Fate::SetAside { tries: before.and_then(Apart::tries).map_or(0, |tries| tries + 1) };
        }
        let mut backoff = match before {
            Some(Apart { fate: Fate::Held { why: earlier, backoff, .. }, .. }) if *earlier == why => backoff.clone(),
            _ => Backoff::up_to(REFUSED_RETRY_MAX),
        };
        let wait = backoff.failed();
        Fate::Held { why, due: Instant::now() + wait, backoff }
    }

    /// Whether it says that the record was sent and not refused. One that is set aside was sent, and nobody has answered.
    pub fn was_sent(&self) -> bool {
        matches!(self, Fate::SetAside { .. } | Fate::Pushed { .. })
    }
}

impl Apart {
    pub fn due(&self) -> Option<Instant> {
        match self.fate {
            Fate::Held { due, .. } | Fate::Postponed { due } => Some(due),
            Fate::SetAside { .. } | Fate::Lost | Fate::Pushed { .. } => None,
        }
    }

    /// How often it was tried since it was set aside; None if it is not.
    pub fn tries(&self) -> Option<u32> {
        match self.fate {
            Fate::SetAside { tries } => Some(tries),
            _ => None,
        }
    }

    /// Notes that it is about to be sent. Returns its id.
    pub fn begin(&mut self) -> Vec<u8> {
        self.is_under_way = true;
        self.id.clone()
    }

    /// Has it tried again at once, but one that is set aside.
    pub fn try_now(&mut self) {
        if let Fate::Held { due, backoff, .. } = &mut self.fate {
            *due = Instant::now();
            backoff.succeeded();
        }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self.fate, Fate::Lost) || self.due().is_some_and(|due| due <= now)
    }

    pub fn is_held(&self) -> bool {
        matches!(self.fate, Fate::Held { .. } | Fate::SetAside { .. })
    }

    pub fn is_pushed(&self) -> bool {
        matches!(self.fate, Fate::Pushed { .. })
    }

    pub fn is_refused(&self) -> bool {
        self.is_for_room() || matches!(self.fate, Fate::Held { why: Obstacle::Refused, .. })
    }

    /// Whether it waits until Redis has room.
    pub fn is_for_room(&self) -> bool {
        matches!(self.fate, Fate::Held { why: Obstacle::Full, .. })
    }

    pub fn is_set_aside(&self) -> bool {
        self.tries().is_some()
    }
}
