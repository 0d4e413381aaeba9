//! What ends a wait for the keeper, or for Redis, early: a signal that the caller's language has to handle, say.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

/// A signal is acted upon within this time.
const SLICE: Duration = Duration::from_millis(50);

thread_local! {
    static LOOK: Cell<Option<fn() -> bool>> = const { Cell::new(None) };
}

/// Has waits of this thread ask `look`, every now and then, whether to give up. It is asked with nothing locked that it might need.
#[cfg_attr(not(any(feature = "python", test)), expect(dead_code, reason = "who waits for signals is another language"))]
pub(crate) fn set(look: fn() -> bool) {
    LOOK.set(Some(look));
}

/// An error where the wait is to end.
pub(crate) fn look() -> io::Result<()> {
    match LOOK.get() {
        Some(look) if look() => Err(io::Error::new(io::ErrorKind::Interrupted, "a signal has ended the wait")),
        _ => Ok(()),
    }
}

/// How often a wait in this thread has to be left in order to `look`; None where nobody wants that.
pub(crate) fn slice() -> Option<Duration> {
    LOOK.get().map(|_| SLICE)
}

/// Receives within the time limit; looks meanwhile.
pub(crate) fn recv_timeout<T>(receiver: &Receiver<T>, limit: Duration) -> Result<T, RecvTimeoutError> {
    // None: a time that is never reached.
    let until = Instant::now().checked_add(limit);
    loop {
        let left = until.map_or(limit, |until| until.saturating_duration_since(Instant::now()));
        match receiver.recv_timeout(slice().map_or(left, |slice| slice.min(left))) {
            Err(RecvTimeoutError::Timeout) if until.is_none_or(|until| Instant::now() < until) && look().is_ok() => {}
            received => return received,
        }
    }
}

/// Sleeps for a moment, between two attempts.
pub(crate) fn rest(moment: Duration) -> io::Result<()> {
    look()?;
    std::thread::sleep(moment);
    Ok(())
}
