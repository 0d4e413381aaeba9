//! The reserve: preallocated files for deletes, copies and marks, which work when no put finds room any more.

use super::segments::{NoFile, Segments, Spare};
use crate::error::Error;
use crate::local::files::space::RESERVE_SEGMENTS;

/// Files of the reserve that only copies may take, so that an evacuation, which gives room back, can always be finished.
const COPIES_SEGMENTS: usize = 2;

/// A preallocated file of the reserve. Only the reserve makes one, and it can only become a reserved segment, so that no put can ever
/// stand in it.
pub(super) struct ReservedSpare(Spare);

impl ReservedSpare {
    pub fn into_spare(self) -> Spare {
        self.0
    }
}

/// Preallocated files for deletes, copies and marks. A full disk that cannot append a delete stays full, and a store that cannot copy
/// what is live out of a segment cannot free what is dead in it.
#[derive(Default)]
pub(super) struct Reserve {
    spares: Vec<ReservedSpare>,
    /// Bytes that deletes may still append to reserved segments before the reserve is made whole again. This bounds what deletes can add
    /// between the copies of one evacuation.
    delete_bytes: u64,
}

impl Reserve {
    /// A file for deletes.
    pub fn take_for_delete(&mut self, segments: &Segments) -> Option<ReservedSpare> {
        if self.spares.len() <= COPIES_SEGMENTS {
            return None;
        }
        self.pop(segments)
    }

    /// A file for copies, made beyond the reserve if that is used up, since a copy gives back more room than it takes.
    pub fn take_for_copy(&mut self, segments: &Segments, bytes: u64) -> Result<ReservedSpare, NoFile> {
        match self.pop(segments) {
            Some(spare) => Ok(spare),
            None => segments.create_reserved_spare(bytes).map(ReservedSpare),
        }
    }

    fn pop(&mut self, segments: &Segments) -> Option<ReservedSpare> {
        let spare = self.spares.pop();
        self.account(segments);
        spare
    }

    /// Whether a delete of this length may be appended to a reserved segment; if so, it is counted.
    pub fn admit_delete(&mut self, bytes: u64) -> bool {
        match self.delete_bytes.checked_sub(bytes) {
            Some(left) => {
                self.delete_bytes = left;
                true
            }
            None => false,
        }
    }

    /// Files of an earlier open, to be used instead of new ones.
    pub fn adopt(&mut self, segments: &Segments, spares: Vec<Spare>) {
        self.spares.extend(spares.into_iter().map(ReservedSpare));
        self.delete_bytes =
            if self.is_whole() { self.spares.iter().map(|it| it.0.bytes()).min().unwrap_or(0) } else { 0 };
        self.account(segments);
    }

    /// Whether it has all its files.
    pub fn is_whole(&self) -> bool {
        self.spares.len() >= RESERVE_SEGMENTS
    }

    /// Makes the reserve whole, with files of this length.
    pub fn refill(&mut self, segments: &Segments, bytes: u64) -> Result<(), Error> {
        while !self.is_whole() {
            match segments.create_reserved_spare(bytes) {
                Ok(spare) => self.spares.push(ReservedSpare(spare)),
                Err(NoFile::NoRoom) => break,
                Err(NoFile::Failed(error)) => return Err(error),
            }
            self.account(segments);
        }
        if self.is_whole() {
            self.delete_bytes = bytes;
        }
        Ok(())
    }

    fn account(&self, segments: &Segments) {
        segments.set_reserved_bytes(self.spares.iter().map(|spare| spare.0.bytes()).sum());
    }

    /// At close: keeps files of this length for the next open, which may find the disk full.
    pub fn close(&mut self, segments: &Segments, bytes_kept: u64) {
        for (number, ReservedSpare(spare)) in std::mem::take(&mut self.spares).into_iter().enumerate() {
            let result = match number < RESERVE_SEGMENTS {
                true => spare.shorten(bytes_kept).map_err(Error::io("shorten", spare.path())),
                false => segments.remove_spare(&spare),
            };
            if let Err(error) = result {
                tracing::warn!("{error}; the next open uses or removes it");
            }
        }
        self.account(segments);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::local::files::disk::SystemDisk;
    use crate::local::files::numbers::Numbers;
    use crate::local::files::open_files::OpenFiles;
    use crate::local::files::space::Space;
    use crate::local::journal::segments::SegmentMap;

    const LIMIT: u64 = 64 << 20;

    fn segments(directory: &Path) -> (Segments, Arc<Space>) {
        let (space, numbers) = (Space::new(LIMIT), Numbers::open(directory).unwrap());
        let (disk, open_files) = (Arc::new(SystemDisk), Arc::<OpenFiles>::default());
        let found = SegmentMap::default();
        let segments = Segments::new(directory.to_owned(), disk, Arc::clone(&space), open_files, found, numbers, 1);
        (segments, space)
    }

    fn file_lengths(directory: &Path) -> Vec<u64> {
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let spares = files.filter(|file| file.path().extension().is_some_and(|it| it == "spare"));
        spares.map(|file| file.metadata().unwrap().len()).collect()
    }

    /// The longest file that could be made for puts.
    fn ordinary_room(space: &Space) -> u64 {
        (0..LIMIT).step_by(1 << 16).take_while(|bytes| space.has_ordinary_room(*bytes)).last().unwrap()
    }

    // Invariant 14.
    #[test]
    fn deletes_leave_what_copies_need_and_copies_find_more() {
        let place = tempfile::tempdir().unwrap();
        let (segments, space) = segments(place.path());
        let bytes = space.segment_bytes_max();
        let mut reserve = Reserve::default();
        assert!(reserve.take_for_delete(&segments).is_none());
        reserve.refill(&segments, bytes).unwrap();
        assert_eq!(file_lengths(place.path()), [bytes; RESERVE_SEGMENTS]);

        let mut taken = Vec::new();
        while let Some(spare) = reserve.take_for_delete(&segments) {
            taken.push(spare);
        }
        assert_eq!(taken.len(), RESERVE_SEGMENTS - COPIES_SEGMENTS);
        for _ in 0..COPIES_SEGMENTS {
            taken.push(reserve.take_for_copy(&segments, bytes).unwrap());
        }
        assert_eq!(file_lengths(place.path()).len(), RESERVE_SEGMENTS);
        taken.push(reserve.take_for_copy(&segments, bytes).unwrap());
        assert_eq!(file_lengths(place.path()).len(), RESERVE_SEGMENTS + 1);
        reserve.refill(&segments, bytes).unwrap();
        assert_eq!(file_lengths(place.path()).len(), 2 * RESERVE_SEGMENTS + 1);
        reserve.refill(&segments, bytes).unwrap();
        assert_eq!(file_lengths(place.path()).len(), 2 * RESERVE_SEGMENTS + 1, "it is whole");
    }

    // Invariant 14.
    #[test]
    fn deletes_append_a_files_worth_to_reserved_segments_before_the_reserve_is_whole_again() {
        let place = tempfile::tempdir().unwrap();
        let (segments, space) = segments(place.path());
        let bytes = space.segment_bytes_max();
        let mut reserve = Reserve::default();
        assert!(!reserve.admit_delete(1));
        reserve.refill(&segments, bytes).unwrap();
        assert!(!reserve.admit_delete(bytes + 1));
        assert!(reserve.admit_delete(bytes - 1) && reserve.admit_delete(1) && !reserve.admit_delete(1));
        reserve.refill(&segments, bytes).unwrap();
        assert!(reserve.admit_delete(bytes) && !reserve.admit_delete(1));

        // A whole reserve that an open finds admits as many bytes of deletes as its shortest file holds.
        let mut found = Reserve::default();
        let spare = |bytes| segments.create_reserved_spare(bytes).unwrap();
        found.adopt(&segments, vec![spare(bytes), spare(bytes / 2)]);
        assert!(!found.admit_delete(1));
        found.adopt(&segments, vec![spare(bytes)]);
        assert!(!found.admit_delete(bytes / 2 + 1) && found.admit_delete(bytes / 2) && !found.admit_delete(1));
    }

    #[test]
    fn what_the_reserve_holds_is_not_kept_free_a_second_time() {
        let place = tempfile::tempdir().unwrap();
        let (segments, space) = segments(place.path());
        let bytes = space.segment_bytes_max();
        let mut reserve = Reserve::default();
        let room = ordinary_room(&space);
        reserve.refill(&segments, bytes).unwrap();
        assert_eq!(ordinary_room(&space), room);
        // A file that was taken is to be replaced.
        let taken = reserve.take_for_delete(&segments).unwrap();
        assert_eq!(ordinary_room(&space), room - bytes);
        drop(taken);
        reserve.refill(&segments, bytes).unwrap();
        assert_eq!(ordinary_room(&space), room);
        let mut found = Reserve::default();
        let spares = (0..RESERVE_SEGMENTS).map(|_| segments.create_reserved_spare(bytes).unwrap()).collect();
        drop(reserve);
        found.adopt(&segments, spares);
        assert_eq!(ordinary_room(&space), room);
    }

    #[test]
    fn at_close_the_reserve_is_kept_short_and_what_is_beyond_it_goes() {
        let place = tempfile::tempdir().unwrap();
        let (segments, space) = segments(place.path());
        let bytes = space.segment_bytes_max();
        let mut reserve = Reserve::default();
        reserve.refill(&segments, bytes).unwrap();
        let room = ordinary_room(&space);
        reserve.adopt(&segments, vec![segments.create_reserved_spare(bytes).unwrap()]);
        reserve.close(&segments, bytes / 4);
        assert_eq!(file_lengths(place.path()), [bytes / 4; RESERVE_SEGMENTS]);
        assert_eq!(ordinary_room(&space), room);
        assert!(reserve.take_for_delete(&segments).is_none());
    }
}
