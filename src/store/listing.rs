//! Listing what is stored, and describing one object.

use std::collections::VecDeque;

use super::{ObjectStore, check_metadata};
use crate::backend::{LISTED_MAX, ListPosition, Listed, Page};
use crate::error::Error;
use crate::object::Object;
use crate::version::Version;

impl ObjectStore {
    /// A page of all objects, in an order of the store's own: `limit` of them at most (1000 where that is less), from the position that the
    /// page before gave, or from the default one, the beginning. With `tiered`, what is on this node.
    ///
    /// An object that exists throughout a listing is on one of its pages; with `redis`, whose SCAN this is, perhaps on more than one, and a page
    /// may then also be somewhat longer. What is stored or deleted meanwhile may or may not be listed. Nothing counts as read, and
    /// nothing is changed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Unreachable`], [`Error::Closed`]; [`Error::Config`] where the position is not one of this store.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ListPosition, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"one", b"1", b"")?;
    /// store.put(b"two", b"22", b"")?;
    /// let page = store.list(&ListPosition::default(), 1)?;
    /// assert_eq!(page.objects.len(), 1);
    /// let rest = store.list(&page.next.expect("there is more"), 1000)?;
    /// assert_eq!((rest.objects.len(), rest.next), (1, None));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        self.backend()?.list(from, limit.clamp(1, LISTED_MAX))
    }

    /// All objects, one after the other, as [`list`](Self::list) finds them. After an error it ends.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"one", b"1", b"")?;
    /// let mut bytes = 0;
    /// for object in store.objects() {
    ///     bytes += object?.data_bytes;
    /// }
    /// assert_eq!(bytes, 1);
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn objects(&self) -> Objects {
        Objects { store: self.clone(), next: Some(ListPosition::default()), found: VecDeque::new() }
    }

    /// What is known of one object, None if it does not exist: this may wait for Redis. `verify`: all of its bytes are read and compared with
    /// their checksums; where they are wrong, its state is [`Damaged`](crate::ObjectState::Damaged), and nothing is changed.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectState, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"text/plain")?;
    /// let found = store.describe(b"greeting", true)?.expect("just stored");
    /// assert_eq!((found.data_bytes, found.metadata_bytes, found.state), (13, 10, ObjectState::Kept));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn describe(&self, id: &[u8], verify: bool) -> Result<Option<Listed>, Error> {
        self.inner.id_bytes.check(id)?;
        let found = self.backend()?.describe(id, verify)?;
        self.unless_closed(found)
    }

    /// As [`put`](Self::put), with the version that the object had in another store, and when it ends (milliseconds since 1970 on Redis's clock, on
    /// this machine's where no Redis is; 0 never): for copies. False, with nothing changed, where this version or a later one of the object stands, or its
    /// time is over.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put); [`Error::Config`] in an attached process, as versions are the keeper's to give.
    pub fn restore(&self, id: &[u8], object: &Object, version: Version, expires_ms: u64) -> Result<bool, Error> {
        self.inner.id_bytes.check(id)?;
        check_metadata(id, &object.metadata)?;
        let backend = self.backend()?;
        self.waking(id, |stored| backend.restore(id, object, version, expires_ms, stored))
    }
}

/// All objects of a store: see [`ObjectStore::objects`].
#[derive(Debug)]
pub struct Objects {
    store: ObjectStore,
    /// None: there are no more pages.
    next: Option<ListPosition>,
    found: VecDeque<Listed>,
}

impl Iterator for Objects {
    type Item = Result<Listed, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(object) = self.found.pop_front() {
                return Some(Ok(object));
            }
            match self.store.list(&self.next.take()?, LISTED_MAX) {
                Ok(Page { objects, next }) => {
                    self.found = objects.into();
                    self.next = next;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
