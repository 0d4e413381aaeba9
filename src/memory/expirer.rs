//! The background thread that frees what has expired. It runs once something can expire.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::objects::Objects;
use crate::clock::expiry_delay;
use crate::error::Error;

/// Ends its thread when it is dropped.
#[derive(Default)]
pub(super) struct Expirer(Mutex<Option<Sender<()>>>);

impl Expirer {
    /// Starts the thread if it does not run. `lifetime`: of what is stored.
    pub fn start(&self, objects: &Arc<Objects>, lifetime: Duration) -> Result<(), Error> {
        let mut running = self.0.lock();
        if running.is_some() {
            return Ok(());
        }
        let (stop, stopped) = bounded(0);
        let (objects, delay) = (Arc::clone(objects), expiry_delay(lifetime));
        let run = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(delay) {
                objects.expire();
            }
        };
        let spawned = std::thread::Builder::new().name("expirer".to_owned()).spawn(run);
        spawned.map_err(Error::io("start the thread that deletes what has expired in", "memory"))?;
        *running = Some(stop);
        Ok(())
    }
}
