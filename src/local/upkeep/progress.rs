use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::local::tier::Gate;

/// How often those who wait look whether the store is being closed, and call again.
const LOOK: Duration = Duration::from_millis(100);

/// How long after a wait for room none of it is taken for files that are only prepared.
const QUIET: Duration = Duration::from_secs(1);

/// Lets those who need room wait for the upkeep's work.
#[derive(Default)]
pub(crate) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    passes_begun: u64,
    /// The last pass to find that there is nothing more to free.
    barren_pass: u64,
    /// Passes that could not look, for some failure.
    failed_passes: u64,
    /// How often room was made.
    freed: u64,
    /// Who waits, and for what.
    waiting: usize,
    waited: Option<Instant>,
    wanted: Wanted,
}

/// What those who wait need.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// The most bytes that one of them needs.
    pub bytes: u64,
    /// The disk has refused one of them, whatever the limit says.
    pub is_disk_full: bool,
    /// One of them needs fewer live bytes in the store, not files.
    pub is_live: bool,
}

/// What a look for room has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    Made,
    /// There is nothing more to free.
    Barren,
    /// There may be: something could not be done now.
    Failed,
    NotAsked,
}

/// After so many passes that failed, who waits is told so: nothing says that the next one would not.
const FAILED_PASSES_MAX: u64 = 3;

/// What was made so far, before somebody looked for room.
#[derive(Clone, Copy)]
pub(crate) struct Seen(u64);

/// How a wait for room ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Some was made since.
    Room,
    /// A pass that began later found nothing to free, or several failed to look.
    Nothing,
    TimeOut,
}

impl Progress {
    /// Called by the sealer when it begins to look for room.
    pub fn begin(&self) {
        self.state.lock().passes_begun += 1;
    }

    /// Called by the sealer when it has looked.
    pub fn done(&self, looked: Looked) {
        let mut state = self.state.lock();
        match looked {
            Looked::Barren => state.barren_pass = state.passes_begun,
            Looked::Failed => state.failed_passes += 1,
            Looked::Made => state.freed += 1,
            Looked::NotAsked => {}
        }
        self.changed.notify_all();
    }

    /// Room was made.
    pub fn freed(&self) {
        self.state.lock().freed += 1;
        self.changed.notify_all();
    }

    /// What somebody waits for; None where nobody does.
    pub fn wanted(&self) -> Option<Wanted> {
        let state = self.state.lock();
        (state.waiting > 0).then_some(state.wanted)
    }

    /// Whether nobody waits or has waited a moment ago, who would rather have the room than see files prepared.
    pub fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        state.waiting == 0 && state.waited.is_none_or(|waited| waited.elapsed() > QUIET)
    }

    pub fn seen(&self) -> Seen {
        Seen(self.state.lock().freed)
    }

    /// Waits until room is made that was not seen, or a pass that begins after this call finds nothing.
    pub fn wait(&self, seen: Seen, wanted: Wanted, deadline: Instant, gate: &Gate, wake: impl Fn()) -> Found {
        let mut state = self.state.lock();
        let (before, failed_before) = (state.passes_begun, state.failed_passes);
        state.waiting += 1;
        state.wanted.bytes = state.wanted.bytes.max(wanted.bytes);
        state.wanted.is_disk_full |= wanted.is_disk_full;
        state.wanted.is_live |= wanted.is_live;
        let found = loop {
            if state.freed != seen.0 {
                break Found::Room;
            }
            if state.barren_pass > before || state.failed_passes >= failed_before + FAILED_PASSES_MAX {
                break Found::Nothing;
            }
            let now = Instant::now();
            if now >= deadline || gate.is_closing() {
                break Found::TimeOut;
            }
            wake();
            let _ = self.changed.wait_until(&mut state, deadline.min(now + LOOK));
        };
        state.waiting -= 1;
        state.waited = Some(Instant::now());
        if state.waiting == 0 {
            state.wanted = Wanted::default();
        }
        found
    }
}
