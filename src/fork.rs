//! What becomes of open stores in a forked child: they stay the parent's.

use std::os::fd::RawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Descriptors that a forked child must close: two for each store open in this process at one time. Further ones work, but a child
/// keeps their locks until it ends.
const DESCRIPTORS_MAX: usize = 512;

static GENERATION: AtomicU64 = AtomicU64::new(0);
static FORKS: AtomicU64 = AtomicU64::new(0);
static DESCRIPTORS: [AtomicI32; DESCRIPTORS_MAX] = [const { AtomicI32::new(-1) }; DESCRIPTORS_MAX];

/// How many forks lie between the first process that asked and this one. A store of another generation belongs to a parent.
#[inline]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Twice the forks that this process has made, and one more while a fork is under way. Bytes that were handed out at another count may
/// be read by a child.
#[inline]
pub(crate) fn count() -> u64 {
    FORKS.load(Ordering::SeqCst)
}

/// Whether, at this count, a fork is under way.
#[inline]
pub(crate) fn is_under_way(count: u64) -> bool {
    !count.is_multiple_of(2)
}

/// Counts forks from now on.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Sound: the handlers have the required signature and make only async-signal-safe calls.
        unsafe { libc::pthread_atfork(Some(count_one), Some(count_one), Some(after_fork_in_child)) };
    });
}

/// Runs in the parent before a fork and after it.
extern "C" fn count_one() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

/// Runs in a forked child, where only async-signal-safe calls are allowed: atomics and close are.
extern "C" fn after_fork_in_child() {
    count_one();
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for slot in &DESCRIPTORS {
        let descriptor = slot.swap(-1, Ordering::Relaxed);
        if descriptor >= 0 {
            // Sound: the descriptor is a lock file's, which nothing in the child uses: every call on the store fails there.
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
