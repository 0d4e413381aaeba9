use super::{ObjectStore, Writer};
use crate::error::Error;
use crate::object::ObjectId;

/// An object whose data arrives in pieces. Nothing exists until [`commit`](Self::commit); dropping it earlier leaves no trace.
pub struct ObjectWriter {
    store: ObjectStore,
    id: Box<[u8]>,
    announced: u64,
    written: u64,
    /// None once it is committed.
    writer: Option<Box<dyn Writer>>,
}

impl ObjectWriter {
    pub(super) fn new(store: ObjectStore, id: &[u8], announced: u64, writer: Box<dyn Writer>) -> Self {
        ObjectWriter { store, id: id.into(), announced, written: 0, writer: Some(writer) }
    }

    /// Appends a piece of the data.
    ///
    /// # Errors
    ///
    /// [`Error::LengthMismatch`] where it exceeds the announced length, [`Error::Full`], [`Error::Io`], [`Error::Closed`].
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.store.backend()?;
        self.written = self.written.saturating_add(piece.len() as u64);
        if self.written > self.announced {
            return Err(self.mismatch());
        }
        self.writer.as_mut().map_or(Ok(()), |writer| writer.write(piece))
    }

    /// Makes the object exist, and wakes whoever waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::LengthMismatch`] where fewer bytes were written than announced; otherwise as [`ObjectStore::put`].
    pub fn commit(mut self) -> Result<(), Error> {
        if self.written != self.announced {
            return Err(self.mismatch());
        }
        self.store.backend()?;
        let Some(writer) = self.writer.take() else { return Ok(()) };
        self.store.waking(&self.id, |stored| writer.commit(stored))
    }

    fn mismatch(&self) -> Error {
        Error::LengthMismatch { id: ObjectId::new(&self.id), written: self.written, announced: self.announced }
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        if self.store.is_forked() {
            // What it has written so far is the parent's, which may still commit it.
            std::mem::forget(self.writer.take());
        }
    }
}
