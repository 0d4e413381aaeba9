//! What ends a wait for the keeper early: a signal that the caller's language has to handle, say.

use std::cell::Cell;
use std::io;
use std::time::Duration;

thread_local! {
    static LOOK: Cell<Option<fn() -> bool>> = const { Cell::new(None) };
}

/// Has waits of this thread ask `look`, every now and then, whether to give up. It is asked with nothing locked that it might need.
#[cfg_attr(not(feature = "python"), expect(dead_code, reason = "who waits for signals is another language"))]
pub(crate) fn set(look: fn() -> bool) {
    LOOK.set(Some(look));
}

/// An error where the wait is to end.
pub(super) fn look() -> io::Result<()> {
    match LOOK.get() {
        Some(look) if look() => Err(io::Error::new(io::ErrorKind::Interrupted, "a signal has ended the wait")),
        _ => Ok(()),
    }
}

/// Sleeps for a moment, between two attempts.
pub(super) fn rest(moment: Duration) -> io::Result<()> {
    look()?;
    std::thread::sleep(moment);
    Ok(())
}
