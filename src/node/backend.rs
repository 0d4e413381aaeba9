//! The operations of the store, as an attached process asks the keeper for them.

use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::attached::{Attached, Call, Called, ROOM_WAIT_MAX, no_slot};
use super::messages::{Reply, Request};
use crate::backend::{Backend, ListPosition, Listed, OnDeleted, OnStored, Page, Stats, Usage, Writer};
use crate::error::Error;
use crate::local::UNSHARED_BYTES_MAX;
use crate::object::Object;
use crate::version::Version;

/// How long a look at everything that is stored may take.
const ALL_WAIT_MAX: Duration = Duration::from_secs(600);

impl Backend for Attached {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        if (data.len() + metadata.len()) as u64 > UNSHARED_BYTES_MAX {
            return self.put_large(id, data, metadata, stored);
        }
        self.announce(id);
        let call = Call { is_repeatable: false, data, wait: ROOM_WAIT_MAX, ..Call::new("put") };
        let called = self.call(&call, no_slot, |_| Request::Put { id, metadata })?;
        self.done("put", called, stored).map(drop)
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        self.begin_writing(id, data_bytes, metadata)
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.get_object(id, false)
    }

    fn get_here(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.get_object(id, true)
    }

    fn get_at_once(&self, id: &[u8]) -> Result<Poll<Option<Object>>, Error> {
        Ok(self.recalled(id).map_or(Poll::Pending, |object| Poll::Ready(Some(object))))
    }

    fn seek(&self, id: &[u8]) {
        self.wait_for(id);
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        let called = self.call(&Call::new("contains"), no_slot, |_| Request::Contains { id })?;
        self.done("contains", called, &mut |_| {})
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        let call = Call { is_repeatable: false, wait: ROOM_WAIT_MAX, ..Call::new("delete") };
        let called = self.call(&call, no_slot, |_| Request::Delete { name: 0, id })?;
        self.done("delete", called, &mut |_| {})
    }

    fn delete_later(&self, id: &[u8], answer: OnDeleted) -> Result<Option<bool>, Error> {
        let name = self.name();
        self.expect_delete(name, answer)?;
        let call = Call { is_repeatable: false, wait: ROOM_WAIT_MAX, ..Call::new("delete") };
        let called = self.call(&call, no_slot, |_| Request::Delete { name, id });
        let called = called.inspect_err(|_| drop(self.waits.take_delete(name)))?;
        if matches!(called.answered.reply(), Ok(Reply::Later)) {
            self.waits.delete_is_later(name, called.session.id);
            return Ok(None);
        }
        self.waits.take_delete(name);
        self.done("delete", called, &mut |_| {}).map(Some)
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        self.announce(new);
        let call = Call { is_repeatable: false, wait: ROOM_WAIT_MAX, ..Call::new("duplicate") };
        let called = self.call(&call, no_slot, |_| Request::Duplicate { original, new })?;
        self.done("duplicate", called, stored)
    }

    fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let called = self.call(&Call::new("list"), no_slot, |_| Request::List { from: &from.0, limit })?;
        self.page("list", &called)
    }

    fn describe(&self, id: &[u8], verify: bool) -> Result<Option<Listed>, Error> {
        // All bytes of a large object may have to come from the disk.
        let wait = if verify { ALL_WAIT_MAX } else { Duration::ZERO };
        let call = Call { wait, ..Call::new("describe") };
        let called = self.call(&call, no_slot, |_| Request::Describe { verify, id })?;
        Ok(self.page("describe", &called)?.objects.pop())
    }

    fn restore(&self, _: &[u8], _: &Object, _: Version, _: u64, _: OnStored<'_>) -> Result<bool, Error> {
        Err(Error::Config(format!(
            "{}: a process keeps this directory, and versions are given by it alone: stop it first, or store the objects as new ones",
            self.directory.display()
        )))
    }

    fn usage(&self) -> Usage {
        let asked = self.call(&Call::new("info"), no_slot, |_| Request::Usage);
        let mut usage = self.usage.lock();
        match asked.as_ref().map(|called| called.answered.reply()) {
            Ok(Ok(Reply::Usage(now))) => *usage = now,
            Ok(_) => tracing::warn!("the keeper of {} has not said what it holds", self.directory.display()),
            Err(error) => tracing::warn!("{error}; what the store holds is not known, info tells what it was"),
        }
        *usage
    }

    /// The snapshot is the keeper's, which has the store open.
    fn add_stats(&self, stats: &mut Stats) -> Result<(), Error> {
        // It may have to ask Redis.
        let call = Call { wait: self.options.redis_wait, ..Call::new("stats") };
        let called = self.call(&call, no_slot, |_| Request::Stats)?;
        match called.answered.reply() {
            Ok(Reply::Stats { json }) => {
                *stats = serde_json::from_str(json).map_err(|error| self.unanswered("stats", &error.into()))?;
                Ok(())
            }
            _ => self.nonsense("stats"),
        }
    }

    fn count(&self) -> Result<(u64, u64), Error> {
        let call = Call { wait: ALL_WAIT_MAX, ..Call::new("count") };
        let called = self.call(&call, no_slot, |_| Request::Count)?;
        match called.answered.reply() {
            Ok(Reply::Count { objects, bytes }) => Ok((objects, bytes)),
            _ => self.nonsense("count"),
        }
    }

    fn flush(&self) -> Result<(), Error> {
        let call = Call { wait: ROOM_WAIT_MAX, ..Call::new("flush") };
        let called = self.call(&call, no_slot, |_| Request::Flush)?;
        self.done("flush", called, &mut |_| {}).map(drop)
    }

    fn clear(&self) -> Result<(), Error> {
        let call = Call { is_repeatable: false, wait: ALL_WAIT_MAX, ..Call::new("clear") };
        let called = self.call(&call, no_slot, |_| Request::Clear)?;
        self.done("clear", called, &mut |_| {}).map(drop)
    }

    fn close(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let drained = self.drain();
        self.closed.store(true, Ordering::Release);
        self.waits.close();
        // Slots that are held keep the session.
        if let Some(session) = self.current.swap(None) {
            session.set_lost();
        }
        drained
    }

    fn place(&self) -> String {
        self.place.lock().clone()
    }

    fn name(&self) -> &'static str {
        self.backend
    }
}

impl Attached {
    fn page(&self, action: &'static str, called: &Called) -> Result<Page, Error> {
        match called.answered.reply() {
            Ok(Reply::Listed(page)) => Ok(page),
            _ => self.nonsense(action),
        }
    }

    /// Waits until Redis has what is dirty now, within the limit; the rest is the keeper's to push. A keeper that is gone has left it in the
    /// journal, for the next one.
    fn drain(&self) -> Result<(), Error> {
        let limit_ms = u64::try_from(self.options.drain_limit.as_millis()).unwrap_or(u64::MAX);
        let current = self.current.load_full();
        let Some(session) = current.filter(|session| session.is_current()) else { return Ok(()) };
        let call = Call { wait: self.options.drain_limit, ..Call::new("close") };
        self.ask_once(&session, &call, &Request::Drain { limit_ms }, None).map(drop)
    }
}
