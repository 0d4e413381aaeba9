use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How the event reader rests while nobody waits for anything: what gathers meanwhile costs Redis far less than one event after the other.
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
