use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Error;
use crate::local::{Counters, Fingerprints, Placed, Reserved};
use crate::object::{Object, ObjectId};

/// Called by a backend inside the critical section in which an object came to exist. Whoever waits for the id takes the object there,
/// so that a delete that follows at once cannot leave them waiting for ever.
pub(crate) type OnStored<'a> = &'a mut dyn FnMut(Stored<'_>);

/// Drops what other processes have given back, and what they only remember of bodies that are dead: asked by segment and offset.
pub(crate) type Release = Box<dyn Fn(&dyn Fn(u32, u64) -> bool) + Send + Sync>;

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

/// What a backend holds, for [`Info`](super::Info).
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

    /// Begins an object whose data arrives in pieces; nothing exists until it is committed.
    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error>;

    /// The object, from wherever it is: this may wait for Redis.
    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error>;

    /// The object, as far as that can be said without waiting for another tier.
    #[inline]
    fn get_here(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.get(id)
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

    /// Where these bytes, which the backend has handed out, stand in a file that other processes can map; None where they are a copy.
    fn placed(&self, _data: &Bytes) -> Result<Option<Placed>, Error> {
        Ok(None)
    }

    /// Has `release` called before room is looked for.
    fn before_reaping(&self, _release: Release) {}

    /// Has every change of an object raise its counter from now on; how fingerprints are made of ids, by which counters go.
    fn share_changes(&self, _counters: Counters) -> Option<Fingerprints> {
        None
    }

    /// The epoch and the counter of an id: what is looked up after this may be remembered with them, where that `may_remember`, asked
    /// afterwards, allows it.
    fn changes_now(&self, _id: &[u8]) -> Option<(u64, u64)> {
        None
    }

    /// Whether attached processes may remember what they are told now.
    fn may_remember(&self) -> bool {
        false
    }

    /// Shows attached processes that this one is alive.
    fn beat(&self) {}

    /// Room in such a file for an object that another process writes there.
    fn reserve(&self, id: &[u8], _data_bytes: u64, _metadata_bytes: u32) -> Result<Reserved, Error> {
        let reason = format!("the {} backend has no files to write it to", self.name());
        Err(Error::WriteFailed { id: ObjectId::new(id), reason })
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
