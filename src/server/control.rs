//! Signals to a connection's task from other threads.

use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

/// A signal to a connection's task.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Signal {
    /// Replies are due in its session.
    Due = 1,
    /// Another connection has taken its identity over.
    Replaced = 2,
    /// The server stops.
    Stop = 4,
    /// Another process is to go on with the connection.
    Pause = 8,
}

/// The signals of a connection's task. Each stays raised until the task lowers it.
#[derive(Debug, Default)]
pub(super) struct Control {
    raised: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Control {
    pub fn is_raised(&self, signal: Signal) -> bool {
        self.raised.load(Ordering::Acquire) & signal as u8 != 0
    }

    /// Raises a signal and wakes the task. If the signal was raised already, the task has been woken for it and has yet to look.
    pub fn raise(&self, signal: Signal) {
        if self.raised.fetch_or(signal as u8, Ordering::AcqRel) & signal as u8 == 0
            && let Some(waker) = &*self.waker.lock()
        {
            waker.wake_by_ref();
        }
    }

    pub fn lower(&self, signal: Signal) {
        self.raised.fetch_and(!(signal as u8), Ordering::AcqRel);
    }

    /// Registers this task as the one to wake. It must look at the signals afterwards, not before.
    pub fn listen(&self, context: &Context<'_>) {
        let mut waker = self.waker.lock();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }
}
