//! The open connections, so that stopping can reach and await them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::control::{Control, Signal};

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    by_number: Mutex<HashMap<u64, Arc<Control>>>,
    number_last: AtomicU64,
    stopped: AtomicBool,
    emptied: Notify,
}

/// An open connection; dropping this takes it off the list.
pub(super) struct Open {
    all: Arc<OpenConnections>,
    pub number: u64,
    pub control: Arc<Control>,
}

impl OpenConnections {
    /// Adds a connection; None if there are `connections_max` already.
    pub fn open(self: &Arc<Self>, connections_max: usize) -> Option<Open> {
        let number = self.number_last.fetch_add(1, Ordering::Relaxed);
        let control = Arc::new(Control::default());
        let mut by_number = self.by_number.lock();
        if by_number.len() >= connections_max {
            return None;
        }
        by_number.insert(number, Arc::clone(&control));
        drop(by_number);
        if self.stopped.load(Ordering::SeqCst) {
            control.raise(Signal::Stop);
        }
        Some(Open { all: Arc::clone(self), number, control })
    }

    /// Tells all connections to stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for control in self.by_number.lock().values() {
            control.raise(Signal::Stop);
        }
    }

    /// Completes when none is left.
    pub async fn until_empty(&self) {
        while !self.by_number.lock().is_empty() {
            self.emptied.notified().await;
        }
    }

    pub fn len(&self) -> usize {
        self.by_number.lock().len()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut by_number = self.all.by_number.lock();
        by_number.remove(&self.number);
        if by_number.is_empty() {
            self.all.emptied.notify_one();
        }
    }
}
