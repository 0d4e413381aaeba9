//! The open connections, so that stopping can reach and await them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::control::{Control, Signal};

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    by_number: Mutex<HashMap<u64, Arc<Control>>>,
    number_last: AtomicU64,
    stopped: AtomicBool,
    /// Raised in connections that are opened later, too.
    paused: AtomicBool,
    /// Those that are still served; the others only linger.
    served: AtomicUsize,
    emptied: Notify,
    unserved: Notify,
}

/// An open connection; dropping this takes it off the list.
pub(super) struct Open {
    all: Arc<OpenConnections>,
    pub number: u64,
    pub control: Arc<Control>,
    is_served: AtomicBool,
}

impl OpenConnections {
    /// Adds a connection, with a number above all others unless it has one; None if there are `connections_max` already.
    pub fn open(self: &Arc<Self>, number: Option<u64>, connections_max: usize) -> Option<Open> {
        let number = match number {
            None => self.number_last.fetch_add(1, Ordering::Relaxed) + 1,
            Some(number) => {
                self.number_last.fetch_max(number, Ordering::Relaxed);
                number
            }
        };
        let control = Arc::new(Control::default());
        let mut by_number = self.by_number.lock();
        if by_number.len() >= connections_max {
            return None;
        }
        by_number.insert(number, Arc::clone(&control));
        drop(by_number);
        self.served.fetch_add(1, Ordering::SeqCst);
        if self.stopped.load(Ordering::SeqCst) {
            control.raise(Signal::Stop);
        }
        if self.paused.load(Ordering::SeqCst) {
            control.raise(Signal::Pause);
        }
        Some(Open { all: Arc::clone(self), number, control, is_served: AtomicBool::new(true) })
    }

    /// Tells all connections to stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for control in self.by_number.lock().values() {
            control.raise(Signal::Stop);
        }
    }

    /// Tells all connections that another process goes on with them.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        for control in self.by_number.lock().values() {
            control.raise(Signal::Pause);
        }
    }

    /// Completes when none is served any more.
    pub async fn until_unserved(&self) {
        while self.served.load(Ordering::SeqCst) > 0 {
            self.unserved.notified().await;
        }
    }

    /// How many are served.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
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

impl Open {
    /// From here on it only lingers: no request of it is carried out any more.
    pub fn leave_served(&self) {
        if self.is_served.swap(false, Ordering::SeqCst) && self.all.served.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.all.unserved.notify_one();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.leave_served();
        let mut by_number = self.all.by_number.lock();
        by_number.remove(&self.number);
        if by_number.is_empty() {
            self.all.emptied.notify_one();
        }
    }
}
