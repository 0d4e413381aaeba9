//! Where callers without room wait for upkeep, and what upkeep tells them of its passes.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::local::gate::Gate;

/// How often a waiting caller looks whether the store is being closed, and wakes the sealer again.
const LOOK: Duration = Duration::from_millis(100);

/// How long a caller waits for bodies that are being written, as they may free what they supersede. A put takes far less; a streamed
/// object may take long.
const UNDER_WAY_MAX: Duration = Duration::from_secs(3);

/// For how long after a wait for room no files are prepared ahead.
const QUIET: Duration = Duration::from_secs(1);

/// Lets callers that need room wait for upkeep.
#[derive(Default)]
pub(crate) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    passes_begun: u64,
    /// The last pass that found nothing more to free.
    barren_pass: u64,
    /// The last pass that found that only bodies being written may free something.
    under_way_pass: u64,
    /// How many passes failed.
    failed_passes: u64,
    /// How often room was made.
    freed: u64,
    /// How many wait now, when somebody last did, and for what.
    waiting: usize,
    waited: Option<Instant>,
    wanted: RoomDemand,
}

/// What is wanted by those who found no room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoomDemand {
    /// The most bytes that any of them needs.
    pub bytes: u64,
    /// The disk refused one of them, whatever the limit says.
    pub is_disk_full: bool,
    /// One of them needs fewer live bytes in the store, not files.
    pub is_live: bool,
}

impl RoomDemand {
    /// What two want at the same time. The larger one's room will do for either.
    pub fn and(self, other: RoomDemand) -> RoomDemand {
        RoomDemand {
            bytes: self.bytes.max(other.bytes),
            is_disk_full: self.is_disk_full || other.is_disk_full,
            is_live: self.is_live || other.is_live,
        }
    }
}

/// What a pass for room has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    Made,
    /// There is nothing more to free.
    Barren,
    /// As `Barren`, but bodies are being written, and what they supersede comes free soon.
    UnderWay,
    /// A step failed, so there may be something to free.
    Failed,
    NotAsked,
}

/// After so many failed passes a wait ends without room.
const FAILED_PASSES_MAX: u64 = 3;

/// How often room was made, as seen before looking for some: a wait ends when it was made again since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u64);

/// How a wait for room ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    /// Room was made since `Seen`.
    Room,
    /// A pass that began after the wait found nothing to free, or several passes failed.
    Nothing,
    TimeOut,
}

impl Progress {
    /// Called by the sealer at the beginning of a pass.
    pub fn begin(&self) {
        self.state.lock().passes_begun += 1;
    }

    /// Called by the sealer at the end of a pass.
    pub fn done(&self, looked: Looked) {
        let mut state = self.state.lock();
        match looked {
            Looked::Barren => state.barren_pass = state.passes_begun,
            Looked::UnderWay => state.under_way_pass = state.passes_begun,
            Looked::Failed => state.failed_passes += 1,
            Looked::Made => state.freed += 1,
            Looked::NotAsked => {}
        }
        self.changed.notify_all();
    }

    /// Called when room was made.
    pub fn freed(&self) {
        self.state.lock().freed += 1;
        self.changed.notify_all();
    }

    /// What somebody waits for; None where nobody does.
    pub fn wanted(&self) -> Option<RoomDemand> {
        let state = self.state.lock();
        (state.waiting > 0).then_some(state.wanted)
    }

    /// Whether nobody waits for room, or did within `QUIET`.
    pub fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        state.waiting == 0 && state.waited.is_none_or(|waited| waited.elapsed() > QUIET)
    }

    /// How often room was made until now: to be called before a try that may find none.
    pub fn seen(&self) -> Seen {
        Seen(self.state.lock().freed)
    }

    /// Waits until room is made after `seen`, or a pass that begins after this call finds nothing.
    pub fn wait(&self, seen: Seen, wanted: RoomDemand, deadline: Instant, gate: &Gate, wake: impl Fn()) -> WaitOutcome {
        let mut state = self.state.lock();
        let patience = Instant::now() + UNDER_WAY_MAX;
        let (before, failed_before) = (state.passes_begun, state.failed_passes);
        state.waiting += 1;
        state.wanted = state.wanted.and(wanted);
        let found = loop {
            if state.freed != seen.0 {
                break WaitOutcome::Room;
            }
            if state.barren_pass > before || state.failed_passes >= failed_before + FAILED_PASSES_MAX {
                break WaitOutcome::Nothing;
            }
            let now = Instant::now();
            if state.under_way_pass > before && now >= patience {
                break WaitOutcome::Nothing;
            }
            if now >= deadline || gate.is_closing() {
                break WaitOutcome::TimeOut;
            }
            wake();
            let _ = self.changed.wait_until(&mut state, deadline.min(now + LOOK));
        };
        state.waiting -= 1;
        state.waited = Some(Instant::now());
        if state.waiting == 0 {
            state.wanted = RoomDemand::default();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time limit that no wait in these tests reaches.
    const LONG: Duration = Duration::from_secs(30);

    const WANTED: RoomDemand = RoomDemand { bytes: 100, is_disk_full: false, is_live: false };

    /// Starts a wait, and calls `done` meanwhile.
    fn while_waiting(progress: &Progress, gate: &Gate, done: impl FnOnce()) -> WaitOutcome {
        let (call, called) = crossbeam_channel::bounded(1);
        std::thread::scope(|scope| {
            // Its end is noticed, too, if it does not wait at all.
            let wake = move || {
                let _ = call.try_send(()); // called again and again
            };
            let waiting =
                scope.spawn(move || progress.wait(progress.seen(), WANTED, Instant::now() + LONG, gate, wake));
            called.recv().unwrap();
            done();
            waiting.join().unwrap()
        })
    }

    #[test]
    fn a_wait_for_room_ends_with_room_that_was_not_seen() {
        let (progress, gate) = (Progress::default(), Gate::default());
        assert_eq!(while_waiting(&progress, &gate, || progress.freed()), WaitOutcome::Room);
        let made = || {
            progress.begin();
            progress.done(Looked::Made);
        };
        assert_eq!(while_waiting(&progress, &gate, made), WaitOutcome::Room);

        let seen = progress.seen();
        progress.freed();
        let found = progress.wait(seen, WANTED, Instant::now() + LONG, &gate, || panic!("there is room"));
        assert_eq!(found, WaitOutcome::Room, "made between the look and the wait");
        let found = progress.wait(progress.seen(), WANTED, Instant::now(), &gate, || {});
        assert_eq!(found, WaitOutcome::TimeOut, "it was seen");
    }

    #[test]
    fn only_a_pass_that_begins_later_says_that_there_is_no_room() {
        let (progress, gate) = (Progress::default(), Gate::default());
        progress.begin();
        let found = while_waiting(&progress, &gate, || {
            progress.done(Looked::Barren);
            progress.begin();
            progress.done(Looked::NotAsked);
            assert!(progress.wanted().is_some(), "it waits on");
            progress.begin();
            progress.done(Looked::Barren);
        });
        assert_eq!(found, WaitOutcome::Nothing);
        // Had the pass that was under way ended the wait, the later ones would have found nobody to ask.
        progress.begin();
        progress.done(Looked::Barren);
        let found = progress.wait(progress.seen(), WANTED, Instant::now(), &gate, || {});
        assert_eq!(found, WaitOutcome::TimeOut, "that pass was over");
    }

    #[test]
    fn several_passes_that_could_not_look_end_a_wait() {
        let (progress, gate) = (Progress::default(), Gate::default());
        for _ in 0..2 {
            let found = while_waiting(&progress, &gate, || {
                for _ in 1..FAILED_PASSES_MAX {
                    progress.begin();
                    progress.done(Looked::Failed);
                }
                assert!(progress.wanted().is_some());
                progress.begin();
                progress.done(Looked::Failed);
            });
            assert_eq!(found, WaitOutcome::Nothing);
            let found = progress.wait(progress.seen(), WANTED, Instant::now(), &gate, || {});
            assert_eq!(found, WaitOutcome::TimeOut, "what failed before it began is nothing to it");
        }
    }

    #[test]
    fn closing_the_store_ends_a_wait() {
        let (progress, gate) = (Progress::default(), Gate::default());
        assert_eq!(while_waiting(&progress, &gate, || gate.close()), WaitOutcome::TimeOut);
    }

    #[test]
    fn what_is_wanted_is_the_most_that_anybody_waits_for() {
        let (progress, gate) = (Progress::default(), Gate::default());
        assert!(progress.wanted().is_none() && progress.is_quiet());
        std::thread::scope(|scope| {
            let wants = [
                RoomDemand { bytes: 5, is_disk_full: true, is_live: false },
                RoomDemand { bytes: 700, is_disk_full: false, is_live: false },
                RoomDemand { bytes: 6, is_disk_full: false, is_live: true },
            ];
            for wanted in wants {
                let (call, called) = crossbeam_channel::bounded(1);
                let (progress, gate) = (&progress, &gate);
                let mut is_told = false;
                let wake = std::cell::RefCell::new(move || {
                    if !std::mem::replace(&mut is_told, true) {
                        call.send(()).unwrap();
                    }
                });
                scope.spawn(move || {
                    let wake = || (wake.borrow_mut())();
                    progress.wait(progress.seen(), wanted, Instant::now() + LONG, gate, wake)
                });
                called.recv().unwrap();
            }
            let all = progress.wanted().unwrap();
            assert_eq!((all.bytes, all.is_disk_full, all.is_live), (700, true, true));
            assert!(!progress.is_quiet());
            progress.freed();
        });
        assert!(progress.wanted().is_none());
        std::thread::sleep(QUIET + LOOK);
        assert!(progress.is_quiet());
        // What an earlier one wanted does not count for the next.
        let all = RoomDemand { bytes: 700, is_disk_full: true, is_live: true };
        progress.wait(progress.seen(), all, Instant::now(), &gate, || {});
        while_waiting(&progress, &gate, || {
            let next = progress.wanted().unwrap();
            assert_eq!((next.bytes, next.is_disk_full, next.is_live), (100, false, false));
            progress.freed();
        });
    }
}
