//! This program's wall clock, which can be set.
//!
//! The function at the end stands in the place of libc's: the linker prefers the program's own, so std calls it. The kernel answers it
//! through a system call, and the monotonic clock is left as it is. Other programs, such as Redis, are not concerned.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Seconds that the wall clock is ahead.
static AHEAD: AtomicI64 = AtomicI64::new(0);

static TEST: Mutex<()> = Mutex::new(());

/// The wall clock, for one test at a time. It is right at first, and again in the end.
pub struct Wall(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Wall {
    pub fn take() -> Wall {
        let taken = TEST.lock().unwrap_or_else(PoisonError::into_inner);
        AHEAD.store(0, Ordering::SeqCst);
        Wall(taken)
    }

    pub fn set(&self, seconds_ahead: i64) {
        AHEAD.store(seconds_ahead, Ordering::SeqCst);
    }

    /// Done with a wall clock that is so far ahead, which is right again then: as by a node that has such a one.
    pub fn at<T>(&self, seconds_ahead: i64, done: impl FnOnce() -> T) -> T {
        self.set(seconds_ahead);
        let result = done();
        self.set(0);
        result
    }
}

impl Drop for Wall {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // Sound: the arguments are passed on as they came, and what the kernel has filled in is the caller's to write to.
    unsafe {
        let result = libc::syscall(libc::SYS_clock_gettime, clock as libc::c_long, time) as libc::c_int;
        if result == 0 && clock == libc::CLOCK_REALTIME {
            (*time).tv_sec += AHEAD.load(Ordering::SeqCst);
        }
        result
    }
}

#[test]
fn the_wall_clock_can_be_set() {
    let wall = Wall::take();
    let seconds = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let before = seconds();
    let ahead = wall.at(10 * crate::YEAR, seconds);
    assert!(ahead >= before + 10 * crate::YEAR);
    assert!(seconds() < ahead - crate::YEAR);
}
