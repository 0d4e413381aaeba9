//! The listener of the `redis` backend, the thread that hears what other nodes write and answers those who wait here. The backend holds no
//! copies, so nothing has to be dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::RedisBackend;
use super::events::{Notice, Op, publish, read};
use super::fetch::{Fetched, fetch};
use super::link::Link;
use super::watch::Watch;
use crate::backend::{Patience, Waiters, waking};
use crate::error::Error;
use crate::object::IdBytes;

/// How long a read waits for the next event.
const BLOCK: Duration = Duration::from_millis(250);

/// Most entries of one read.
const ENTRIES_MAX: usize = 256;

/// The pause before a broken connection is made anew.
const RECONNECT: Duration = Duration::from_millis(250);

/// The listener thread's state.
pub(super) struct Listener {
    pub backend: RedisBackend,
    pub waiters: Arc<Waiters>,
    pub watch: Watch,
}

impl Listener {
    pub fn run(mut self) {
        while !self.backend.is_closed() {
            if let Err(error) = self.listen() {
                tracing::debug!("hearing events: {error}");
                std::thread::sleep(RECONNECT);
            }
        }
    }

    fn listen(&mut self) -> Result<(), Error> {
        let mut link = self.backend.connect(BLOCK)?;
        let keys = self.backend.keys().clone();
        let mut cursor = publish(&mut link, &keys, self.backend.node(), &[Notice::hello()])?;
        self.backend.note_events(&cursor);
        while !self.backend.is_closed() {
            let read = read(&mut link, &keys, &cursor, BLOCK, ENTRIES_MAX)?;
            if read.lost_past {
                cursor = publish(&mut link, &keys, self.backend.node(), &[Notice::hello()])?;
            } else {
                cursor = read.cursor;
            }
            self.backend.note_events(&cursor);
            for event in read.events.iter().filter(|event| event.op == Op::Put) {
                if self.waiters.has_any(&event.id) {
                    self.answer(&event.id)?;
                }
            }
            self.look(&mut link)?;
        }
        Ok(())
    }

    /// Looks again for ids that somebody waits for, as an event may have been missed or the writer may send none.
    fn look(&mut self, link: &mut Link) -> Result<(), Error> {
        let due = self.watch.tick(self.waiters.ids(), Instant::now());
        let keys = self.backend.keys();
        for (id, fetched) in due.looks.iter().zip(fetch(link, keys, &due.looks, self.backend.object_bytes_max())?) {
            if let Ok(Fetched::Object(_) | Fetched::Python(_)) = fetched {
                self.answer(id)?;
            }
        }
        // Ids that only this backend takes are held by no other node.
        let wants: Vec<_> =
            due.wants.iter().filter(|id| IdBytes::ORDINARY.allow(id)).map(|id| Notice::want(id)).collect();
        if !wants.is_empty() {
            publish(link, keys, self.backend.node(), &wants)?;
        }
        Ok(())
    }

    /// Answers the waiters for an id if it exists.
    fn answer(&self, id: &[u8]) -> Result<(), Error> {
        waking(&self.waiters, &self.backend, Patience::Background, id, |stored| self.backend.tell(id, stored))
    }
}
