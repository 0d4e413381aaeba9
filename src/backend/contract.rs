use std::task::Poll;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::object::Object;

/// Called by a backend inside the critical section in which an object came to exist. Whoever waits for the id takes the object there,
/// so that a delete that follows at once cannot leave them waiting for ever.
pub(crate) type OnStored<'a> = &'a mut dyn FnMut(Stored<'_>);

/// An object that has come to exist.
pub(crate) struct Stored<'a> {
    /// Reads it; None where that cannot be done.
    pub object: &'a dyn Fn() -> Option<Object>,
    /// Only who has waited since before then may have it: whoever began later may have begun after it was deleted again. None: everybody.
    pub since_before: Option<Instant>,
}

impl<'a> Stored<'a> {
    /// For everybody who waits.
    pub fn now(object: &'a dyn Fn() -> Option<Object>) -> Self {
        Stored { object, since_before: None }
    }
}

/// Told whether a deleted object had existed.
pub(crate) type OnDeleted = Box<dyn FnOnce(bool) + Send>;

/// What a backend holds, for [`Info`](crate::Info).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub objects: u64,
    pub payloads: u64,
    pub payload_bytes: u64,
    pub capacity_bytes: u64,
    pub physical_bytes: u64,
    pub damaged_objects: u64,
}

/// One place to keep objects. Ids are valid (checked at the front door); every method may be called from any thread.
///
/// Operations on one id are linearizable. Bytes handed out never change, whatever happens to the id afterwards.
pub(crate) trait Backend: Send + Sync {
    /// Stores or overwrites. Acknowledged as durably as the backend promises.
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error>;

    /// Refuses an object of so many bytes, data and metadata together, which the backend could not hold however empty it is.
    fn check_size(&self, _id: &[u8], _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    /// Begins an object whose data arrives in pieces; nothing exists until it is committed.
    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error>;

    /// The object, from wherever it is: this may wait for Redis.
    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error>;

    /// The object, as far as that can be said without waiting for another tier.
    #[inline]
    fn get_here(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.get(id)
    }

    /// What `get` says, where no other process has to be asked for it.
    #[cfg_attr(not(feature = "async"), expect(dead_code, reason = "futures ask for it"))]
    fn get_at_once(&self, id: &[u8]) -> Result<Poll<Option<Object>>, Error> {
        self.get(id).map(Poll::Ready)
    }

    /// Somebody has begun to wait for an object that is not here: looks for it elsewhere, and wakes whoever waits when it is found.
    fn seek(&self, _id: &[u8]) {}

    /// Whether the object exists anywhere: this may wait for Redis.
    fn contains(&self, id: &[u8]) -> Result<bool, Error>;

    /// Whether the object existed: this may wait for Redis.
    fn delete(&self, id: &[u8]) -> Result<bool, Error>;

    /// Deletes, and says whether the object existed, at once where that is known, otherwise through `answer`.
    fn delete_later(&self, id: &[u8], _answer: OnDeleted) -> Result<Option<bool>, Error> {
        self.delete(id).map(Some)
    }

    /// Makes `new` share the content of `original`, overwriting; false, and nothing changed, where `original` is not here.
    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error>;

    fn usage(&self) -> Usage;

    /// Objects, and bytes of their data and metadata, exactly: this may look at each of them.
    fn count(&self) -> Result<(u64, u64), Error> {
        let usage = self.usage();
        Ok((usage.objects, usage.payload_bytes))
    }

    /// Waits until Redis has everything that is dirty now; false where it has not within this time.
    fn drain(&self, _limit: Duration) -> Result<bool, Error> {
        Ok(true)
    }

    /// Makes everything acknowledged so far durable.
    fn flush(&self) -> Result<(), Error>;

    /// Deletes every object.
    fn clear(&self) -> Result<(), Error>;

    /// Releases files and locks, after which no other method is called. Idempotent.
    fn close(&self) -> Result<(), Error>;

    /// Where the objects are, for people: a directory, an address, or `memory`.
    fn place(&self) -> String;

    /// The backend's name in the config.
    fn name(&self) -> &'static str;
}

/// An object on its way in. Dropped without `commit`, it never existed.
pub(crate) trait Writer: Send {
    /// Never called with more bytes, in total, than were announced.
    fn write(&mut self, piece: &[u8]) -> Result<(), Error>;

    /// Called when all announced bytes are written.
    fn commit(self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error>;
}
