use super::{ObjectStore, Writer};
use crate::error::Error;
use crate::object::ObjectId;

/// An object whose data arrives in pieces. Nothing exists until [`commit`](Self::commit); dropping it earlier leaves no trace.
pub struct ObjectWriter {
    store: ObjectStore,
    id: Box<[u8]>,
    announced: u64,
    written: u64,
    writer: Box<dyn Writer>,
}

impl ObjectWriter {
    pub(super) fn new(store: ObjectStore, id: &[u8], announced: u64, writer: Box<dyn Writer>) -> Self {
        ObjectWriter { store, id: id.into(), announced, written: 0, writer }
    }

    /// Appends a piece of the data.
    ///
    /// # Errors
    ///
    /// [`Error::LengthMismatch`] where it exceeds the announced length, [`Error::Full`], [`Error::Io`].
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.written = self.written.saturating_add(piece.len() as u64);
        if self.written > self.announced {
            return Err(self.mismatch());
        }
        self.writer.write(piece)
    }

    /// Makes the object exist, and wakes whoever waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::LengthMismatch`] where fewer bytes were written than announced; otherwise as [`ObjectStore::put`].
    pub fn commit(self) -> Result<(), Error> {
        if self.written != self.announced {
            return Err(self.mismatch());
        }
        self.store.backend()?;
        self.store.waking(&self.id, |stored| self.writer.commit(stored))
    }

    fn mismatch(&self) -> Error {
        Error::LengthMismatch { id: ObjectId::new(&self.id), written: self.written, announced: self.announced }
    }
}
