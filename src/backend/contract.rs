//! The trait that every place to keep objects implements, and what a backend tells its callers.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::listing::{ListPosition, Listed, Page};
use super::stats::{Stats, Usage};
use crate::error::Error;
use crate::object::Object;
use crate::version::Version;

/// Called by a backend inside the critical section in which an object came to exist. Waiters for the id are given the object there, so that a
/// delete that follows at once cannot leave them waiting for ever.
pub(crate) type OnStored<'a> = &'a mut dyn FnMut(Stored<'_>);

/// An object that has come to exist.
pub(crate) struct Stored<'a> {
    /// Reads the object; None if it cannot be read.
    pub object: &'a dyn Fn() -> Option<Object>,
    /// Only those who have waited since before this moment may have the object, as later ones may have come after a delete. None: everybody.
    pub since_before: Option<Instant>,
}

impl<'a> Stored<'a> {
    /// An object for everybody who waits.
    pub fn now(object: &'a dyn Fn() -> Option<Object>) -> Self {
        Stored { object, since_before: None }
    }
}

/// Called with whether a deleted object had existed.
pub(crate) type OnDeleted = Box<dyn FnOnce(bool) + Send>;

/// One place to keep objects. Ids are valid (checked at the front door); every method may be called from any thread.
///
/// Operations on one id are linearizable. Bytes handed out never change, whatever happens to the id afterwards.
pub(crate) trait Backend: Send + Sync {
    /// Stores or overwrites. Acknowledged as durably as the backend promises.
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error>;

    /// Refuses an object of so many bytes (data and metadata) if the backend could not hold it even when it is empty.
    fn check_size(&self, _id: &[u8], _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    /// Begins an object whose data arrives in pieces; nothing exists until it is committed.
    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error>;

    /// The object, from wherever it is: this may wait for Redis.
    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error>;

    /// As `get`, where `get_here` has found nothing.
    fn get_elsewhere(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.get(id)
    }

    /// The object, as far as it is known without waiting for Redis.
    #[inline]
    fn get_here(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.get(id)
    }

    /// As `get`, but pending if another process or Redis would have to be asked.
    #[cfg_attr(not(feature = "async"), expect(dead_code, reason = "futures ask for it"))]
    fn get_at_once(&self, id: &[u8]) -> Result<Poll<Option<Object>>, Error> {
        self.get(id).map(Poll::Ready)
    }

    /// Somebody has begun to wait for an object that is not held here: looks for it elsewhere, and wakes the waiters if it is found.
    fn seek(&self, _id: &[u8]) {}

    /// Whether the object exists anywhere: this may wait for Redis.
    fn contains(&self, id: &[u8]) -> Result<bool, Error>;

    /// Deletes. Returns whether the object existed: this may wait for Redis.
    fn delete(&self, id: &[u8]) -> Result<bool, Error>;

    /// Deletes. Whether the object existed is returned if that is known at once; otherwise `answer` is called with it.
    fn delete_later(&self, id: &[u8], _answer: OnDeleted) -> Result<Option<bool>, Error> {
        self.delete(id).map(Some)
    }

    /// Makes `new` share the content of `original`, overwriting. False, with nothing changed, if `original` is not held here.
    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error>;

    /// Some objects, from `from` on, `limit` of them at most. One that exists throughout a listing is on one of its pages, with `redis` on more
    /// than one perhaps; what is stored or deleted meanwhile may or may not be. Nothing counts as read by this.
    fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error>;

    /// What is known of one object: this may wait for Redis. `verify`: its bytes are read and compared with their checksum, and it is
    /// `Damaged` where they are wrong. Nothing is changed by this, and what is damaged stays as it is.
    fn describe(&self, id: &[u8], verify: bool) -> Result<Option<Listed>, Error>;

    /// As `put`, but with the version and the deadline (milliseconds since 1970 on Redis's clock, 0 never) that the object had elsewhere. False,
    /// with nothing changed, where this version or a later one stands.
    fn restore(
        &self,
        id: &[u8],
        object: &Object,
        version: Version,
        deadline_ms: u64,
        stored: OnStored<'_>,
    ) -> Result<bool, Error>;

    fn usage(&self) -> Usage;

    /// Adds to a snapshot what only the backend knows. An error means that nobody could be asked, not that something is amiss.
    fn add_stats(&self, stats: &mut Stats) -> Result<(), Error> {
        stats.set_usage(self.usage());
        Ok(())
    }

    /// The exact number of objects, and of the bytes of their data and metadata: this may look at each of them.
    fn count(&self) -> Result<(u64, u64), Error> {
        let usage = self.usage();
        Ok((usage.objects, usage.payload_bytes))
    }

    /// Waits until Redis has everything that is dirty now. False if it has not within this time.
    fn drain(&self, _limit: Duration) -> Result<bool, Error> {
        Ok(true)
    }

    /// Makes everything acknowledged so far durable.
    fn flush(&self) -> Result<(), Error>;

    /// Deletes every object.
    fn clear(&self) -> Result<(), Error>;

    /// Releases files and locks, after which no other method is called. Idempotent.
    fn close(&self) -> Result<(), Error>;

    /// As `close`, without waiting for Redis to have what it lacks: another process goes on at once.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "a server is replaced"))]
    fn close_undrained(&self) -> Result<(), Error> {
        self.close()
    }

    /// Where the objects are, for error messages and logs: a directory, an address, or `memory`.
    fn place(&self) -> String;

    /// The backend's name in the config.
    fn name(&self) -> &'static str;
}

/// A streamed write. If it is dropped without `commit`, the object never existed.
pub(crate) trait Writer: Send {
    /// Never called with more bytes, in total, than were announced.
    fn write(&mut self, piece: &[u8]) -> Result<(), Error>;

    /// Copies what has been written so far, from its beginning, into `to`; false, with nothing copied, where the backend cannot. For another
    /// process that is to go on with the object.
    #[cfg_attr(
        not(feature = "server"),
        expect(dead_code, reason = "a server hands over what has arrived of an object")
    )]
    fn read_back(&self, _to: &mut dyn std::io::Write) -> Result<bool, Error> {
        Ok(false)
    }

    /// Called when all announced bytes are written.
    fn commit(self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error>;
}
