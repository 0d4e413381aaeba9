//! The store's methods as futures, for asynchronous programs on any runtime (feature `async`).

use std::task::Poll;

use bytes::Bytes;

use super::{ObjectStore, Parked};
use crate::error::Error;
use crate::object::Object;

/// Methods that return futures. Each does what the method without `_async` does, and is `Send` and `'static`: it may outlive its handle.
///
/// Polling does not wait for other processes, Redis or writes. A get of an object that is in this process, or in the local tier that this
/// process has open (which may read it from the disk), is answered at the first poll. Everything else is done on threads of the
/// [`blocking`](https://docs.rs/blocking) crate, which bounds their number (500, or `BLOCKING_MAX_THREADS`) and ends them when they are idle.
///
/// A future does nothing before it is polled. Dropping it takes the request back: what has not begun on such a thread is not done, and what
/// has begun runs to its end, with its result discarded.
impl ObjectStore {
    /// As [`get`](Self::get).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// ```
    /// # use scaler_object_storage::ObjectStore;
    /// # let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let store = ObjectStore::builder().memory().open()?;
    /// store.put_async(b"id", "data", "").await?;
    /// assert_eq!(store.get_async(b"id").await?.expect("just stored").data, "data");
    /// # Ok::<(), scaler_object_storage::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn get_async(&self, id: &[u8]) -> impl Future<Output = Result<Option<Object>, Error>> + Send + use<> {
        let (store, id) = (self.clone(), Box::<[u8]>::from(id));
        async move {
            match store.get_at_once(&id)? {
                Poll::Ready(found) => Ok(found),
                Poll::Pending => blocking::unblock(move || store.get(&id)).await,
            }
        }
    }

    /// The object as soon as it exists: as [`wait`](Self::wait) without a deadline. To give up, drop the future.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// ```
    /// # use scaler_object_storage::ObjectStore;
    /// # let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let store = ObjectStore::builder().memory().open()?;
    /// let waiting = tokio::spawn(store.wait_async(b"later"));
    /// store.put_async(b"later", "data", "").await?;
    /// assert_eq!(waiting.await.expect("no panic")?.data, "data");
    /// # Ok::<(), scaler_object_storage::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn wait_async(&self, id: &[u8]) -> impl Future<Output = Result<Object, Error>> + Send + use<> {
        let (store, id) = (self.clone(), Box::<[u8]>::from(id));
        async move {
            if let Poll::Ready(Some(object)) = store.get_at_once(&id)? {
                return Ok(object);
            }
            let (sender, answer) = async_channel::bounded(1);
            // The channel has room for the one object that is sent.
            let answered = move |object| drop(sender.try_send(object));
            match blocking::unblock(move || store.get_or_park(&id, answered)).await? {
                Parked::Ready(object) => Ok(object),
                // The ticket takes the request back when this future is dropped.
                Parked::Waiting(_ticket) => answer.recv().await.map_err(|_| Error::Closed),
            }
        }
    }

    /// As [`put`](Self::put).
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn put_async<D: Into<Bytes>, M: Into<Bytes>>(
        &self,
        id: &[u8],
        data: D,
        metadata: M,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<D, M> {
        let (store, id, data, metadata) = (self.clone(), Box::<[u8]>::from(id), data.into(), metadata.into());
        async move { blocking::unblock(move || store.put(&id, &data, &metadata)).await }
    }

    /// As [`contains`](Self::contains).
    ///
    /// # Errors
    ///
    /// As [`contains`](Self::contains).
    pub fn contains_async(&self, id: &[u8]) -> impl Future<Output = Result<bool, Error>> + Send + use<> {
        let (store, id) = (self.clone(), Box::<[u8]>::from(id));
        async move { blocking::unblock(move || store.contains(&id)).await }
    }

    /// As [`delete`](Self::delete).
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete).
    pub fn delete_async(&self, id: &[u8]) -> impl Future<Output = Result<bool, Error>> + Send + use<> {
        let (store, id) = (self.clone(), Box::<[u8]>::from(id));
        async move { blocking::unblock(move || store.delete(&id)).await }
    }

    /// As [`duplicate`](Self::duplicate).
    ///
    /// # Errors
    ///
    /// As [`duplicate`](Self::duplicate).
    pub fn duplicate_async(
        &self,
        original: &[u8],
        new: &[u8],
    ) -> impl Future<Output = Result<bool, Error>> + Send + use<> {
        let (store, original, new) = (self.clone(), Box::<[u8]>::from(original), Box::<[u8]>::from(new));
        async move { blocking::unblock(move || store.duplicate(&original, &new)).await }
    }

    /// As `get`, but pending if another process or Redis would have to be asked.
    pub(crate) fn get_at_once(&self, id: &[u8]) -> Result<Poll<Option<Object>>, Error> {
        self.inner.id_bytes.check(id)?;
        match self.backend()?.get_at_once(id)? {
            Poll::Ready(found) => {
                match &found {
                    Some(object) => self.inner.operations.hit(object.data.len() as u64),
                    None => self.inner.operations.missed(),
                }
                self.unless_closed(found).map(Poll::Ready)
            }
            Poll::Pending => Ok(Poll::Pending),
        }
    }
}
