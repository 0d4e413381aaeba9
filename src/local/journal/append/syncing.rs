//! Group commit: what has been appended is made durable by one sync for all who wait.

use std::time::{Duration, Instant};

use super::{Journal, Unsynced};
use crate::error::Error;
use crate::local::files::disk::is_exhausted;
use crate::local::journal::Lsn;
use crate::local::journal::segment::SyncError;

impl Journal {
    /// Makes the record at `lsn`, and every one before it, durable. Callers that come while a sync runs share the next one.
    pub fn sync_to(&self, lsn: Lsn) -> Result<(), Error> {
        self.sync_unless(|synced| synced > lsn)
    }

    /// Makes everything durable that was appended so far, unless `is_enough` says that what is durable already (all records below its
    /// argument) will do.
    fn sync_unless(&self, is_enough: impl FnOnce(Lsn) -> bool) -> Result<(), Error> {
        let mut synced = self.synced.lock();
        if is_enough(*synced) {
            return Ok(());
        }
        self.check_writable()?;
        let (segments, end) = {
            let mut append = self.append.lock();
            (std::mem::take(&mut append.unsynced), append.end)
        };
        self.sync_segments(segments)?;
        // With `syncs_each`, a segment's name is durable before the first record is appended to it: see `roll`.
        if !self.options.syncs_each {
            self.sync_names()?;
        }
        *synced = end;
        Ok(())
    }

    fn sync_segments(&self, mut segments: Vec<Unsynced>) -> Result<(), Error> {
        while let Some(Unsynced { segment, file }) = segments.first() {
            match segment.sync_through(file.as_deref()) {
                Ok(()) => drop(segments.remove(0)),
                Err(SyncError::Failed(error)) => return Err(self.fail(error)),
                Err(SyncError::NotTried(error)) => {
                    // Put back, to be synced the next time.
                    self.append.lock().unsynced.splice(0..0, segments);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes the names of new segments durable.
    pub fn sync_names(&self) -> Result<(), Error> {
        let directory = self.segments.directory();
        self.segments.sync_names().map_err(|error| match is_exhausted(&error) {
            true => Error::io("open", directory)(error),
            false => self.fail(Error::io("sync", directory)(error)),
        })
    }

    /// An lsn at or above every record appended so far, and below all later ones: once it is durable, so are they all.
    pub fn latest(&self) -> Lsn {
        self.end().just_below()
    }

    /// Makes every record appended so far durable, which are those below the returned lsn.
    pub fn sync(&self) -> Result<Lsn, Error> {
        let end = self.end();
        self.sync_unless(|synced| synced >= end)?;
        Ok(end)
    }

    /// A failed sync is never tried again: the kernel has dropped the pages, and the next try would succeed without them.
    pub fn fail(&self, error: Error) -> Error {
        tracing::error!("{error}; the store takes no more writes until it is opened anew");
        self.failure.write().get_or_insert_with(|| (error.to_string(), Instant::now()));
        error
    }

    /// Why nothing is written any more, and for how long.
    pub fn failure(&self) -> Option<(String, Duration)> {
        self.failure.read().as_ref().map(|(cause, since)| (cause.clone(), since.elapsed()))
    }

    /// Takes no writes from here on, for this reason.
    pub fn refuse_writes(&self, reason: &str) {
        self.failure.write().get_or_insert_with(|| (reason.to_owned(), Instant::now()));
    }

    /// Refuses once a sync has failed.
    pub fn check_writable(&self) -> Result<(), Error> {
        match &*self.failure.read() {
            None => Ok(()),
            Some((cause, _)) => {
                Err(Error::WritesRefused { path: self.segments.directory().to_path_buf(), cause: cause.clone() })
            }
        }
    }
}
