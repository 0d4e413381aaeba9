//! The gate that every operation on an open store holds, and that closing waits for.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use crate::error::Error;

/// Lets operations end before the store is closed: nothing is written into the directory once another process may have it.
#[derive(Default)]
pub(crate) struct Gate {
    closing: AtomicBool,
    inside: RwLock<()>,
}

impl Gate {
    /// The returned guard is held during an operation. Refused once the store is being closed.
    pub fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let inside = self.inside.read_recursive();
        if self.is_closing() { Err(Error::Closed) } else { Ok(inside) }
    }

    #[inline]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Lets nobody in any more, and waits for those inside.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        drop(self.inside.write());
    }
}
