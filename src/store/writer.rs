//! Streamed writes.

use super::{ObjectStore, Writer};
use crate::error::Error;
use crate::id::ObjectId;

/// An object whose data arrives in pieces. Nothing exists until [`commit`](Self::commit); dropping it earlier leaves no trace.
pub struct ObjectWriter {
    store: ObjectStore,
    id: Box<[u8]>,
    announced: u64,
    written: u64,
    /// None after `commit`, or after a piece could not be written.
    writer: Option<Box<dyn Writer>>,
    /// Why a piece could not be written; then `commit` fails.
    failed: Option<String>,
}

impl ObjectWriter {
    pub(super) fn new(store: ObjectStore, id: &[u8], announced: u64, writer: Box<dyn Writer>) -> Self {
        ObjectWriter { store, id: id.into(), announced, written: 0, writer: Some(writer), failed: None }
    }

    /// Appends a piece of the data.
    ///
    /// # Errors
    ///
    /// [`Error::LengthMismatch`] where it exceeds the announced length, [`Error::Full`], [`Error::Io`], [`Error::Closed`]. After an error the
    /// object cannot be committed any more: later calls fail with [`Error::WriteFailed`].
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.store.backend()?;
        let written = self.written.saturating_add(piece.len() as u64);
        let result = match &mut self.writer {
            _ if written > self.announced => {
                self.written = written;
                Err(self.mismatch())
            }
            Some(writer) => writer.write(piece),
            None => return Err(self.write_failed()),
        };
        match &result {
            Ok(()) => self.written = written,
            Err(error) => {
                self.failed = Some(error.to_string());
                self.writer = None;
            }
        }
        result
    }

    /// Copies what has been written so far into `to`; false where the backend cannot.
    #[cfg(feature = "server")]
    pub(crate) fn read_back(&self, to: &mut dyn std::io::Write) -> Result<bool, Error> {
        self.store.backend()?;
        self.writer.as_ref().map_or(Ok(false), |writer| writer.read_back(to))
    }

    /// Makes the object exist, and wakes whoever waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::LengthMismatch`] where fewer bytes were written than announced, [`Error::WriteFailed`] where a piece could not be written;
    /// otherwise as [`ObjectStore::put`].
    pub fn commit(mut self) -> Result<(), Error> {
        self.store.backend()?;
        if self.failed.is_some() && self.written <= self.announced {
            return Err(self.write_failed());
        }
        if self.written != self.announced {
            return Err(self.mismatch());
        }
        let Some(writer) = self.writer.take() else { return Ok(()) };
        self.store.waking(&self.id, |stored| writer.commit(stored))?;
        self.store.inner.operations.put(self.announced);
        Ok(())
    }

    fn write_failed(&self) -> Error {
        Error::WriteFailed { id: ObjectId::new(&self.id), reason: self.failed.clone().unwrap_or_default() }
    }

    fn mismatch(&self) -> Error {
        Error::LengthMismatch { id: ObjectId::new(&self.id), written: self.written, announced: self.announced }
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        if self.store.is_forked() {
            // What was written so far belongs to the parent, which may still commit it.
            std::mem::forget(self.writer.take());
        }
    }
}
