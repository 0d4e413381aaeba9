//! What becomes of open stores in a forked child: they stay the parent's.

use std::os::fd::RawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Descriptors that a forked child must close: stores open in this process at one time, at most. Further ones work, but a child
/// keeps their lock until it ends.
const DESCRIPTORS_MAX: usize = 256;

static FORKS: AtomicU64 = AtomicU64::new(0);
static DESCRIPTORS: [AtomicI32; DESCRIPTORS_MAX] = [const { AtomicI32::new(-1) }; DESCRIPTORS_MAX];

/// How many forks lie between the first process that asked and this one. A store of another generation belongs to a parent.
#[inline]
pub(crate) fn generation() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Counts forks from now on.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Sound: the handler has the required signature and makes only async-signal-safe calls.
        unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
    });
}

/// Runs in a forked child, where only async-signal-safe calls are allowed: atomics and close are.
extern "C" fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    for slot in &DESCRIPTORS {
        let descriptor = slot.swap(-1, Ordering::Relaxed);
        if descriptor >= 0 {
            // Sound: the descriptor is the lock file's, which nothing in the child uses: every call on the store fails there.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// Has forked children close this descriptor.
pub(crate) fn close_in_child(descriptor: RawFd) {
    for slot in &DESCRIPTORS {
        if slot.compare_exchange(-1, descriptor, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}

/// Has forked children keep it: it is about to be closed here.
pub(crate) fn keep_in_child(descriptor: RawFd) {
    for slot in &DESCRIPTORS {
        if slot.compare_exchange(descriptor, -1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}
