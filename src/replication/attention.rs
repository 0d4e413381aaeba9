//! How often the event reader reads: at once while somebody waits for something, and otherwise after rests.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Lets the event reader rest while nobody waits for anything: events that gather meanwhile cost Redis far less than one read for each.
#[derive(Default)]
pub(super) struct Attention {
    is_called: Mutex<bool>,
    called: Condvar,
}

impl Attention {
    /// Somebody has begun to wait.
    pub fn call(&self) {
        *self.is_called.lock() = true;
        self.called.notify_all();
    }

    /// Rests for so long, or until somebody begins to wait.
    pub fn rest(&self, time: Duration) {
        let mut is_called = self.is_called.lock();
        let until = Instant::now() + time;
        while !*is_called && !self.called.wait_until(&mut is_called, until).timed_out() {}
        *is_called = false;
    }
}
