//! The threads that serve connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// After how many turns of busy connections a thread polls its other connections for arrivals.
const TURNS_BETWEEN_ARRIVALS: u32 = 4;

/// The worker threads, each with a runtime of its own. A connection stays on one thread, so that from the arrival of a request to
/// the writing of its reply no other thread has to be woken.
pub(super) struct Workers {
    workers: Vec<Worker>,
}

struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropping this stops the thread.
    _stop: oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

/// Counts one connection on its worker, until dropped.
pub(super) struct WorkerSeat {
    connections: Arc<AtomicUsize>,
}

impl Workers {
    pub fn start(count: usize) -> io::Result<Self> {
        let workers = (0..count.max(1)).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Workers { workers })
    }

    /// A place on the worker with the fewest connections.
    pub fn place(&self) -> Option<(Handle, WorkerSeat)> {
        let worker = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Some((worker.handle.clone(), WorkerSeat { connections: Arc::clone(&worker.connections) }))
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime =
            Builder::new_current_thread().event_interval(TURNS_BETWEEN_ARRIVALS).enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("server-{number}")).spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Worker { handle, connections: Arc::default(), _stop: stop, _thread: thread })
    }
}

impl Drop for WorkerSeat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
