//! The slots of an attached process: a file shared with the keeper that says which stretches of body segments the process holds.
//!
//! ```text
//! <directory>/sessions/<random>   4096 slots of 8 bytes, each a u64 in the machine's byte order:
//!
//!   bits  0..3    state     0 free, 1 asked, 2 held, 3 writing, 4 remembered
//!   bits  3..32   place     held, writing, remembered: the byte at which it begins in its segment, divided by 8
//!   bits 32..64   segment   the same: the number of the body segment
//!   bits  3..64   ticket    asked: a number that the process has made up for this one question
//! ```
//!
//! The process asks (free to asked), the keeper answers (asked to held or writing), and the process gives back (to free). A process may
//! also keep a slot that it does not use (held to remembered): that one the keeper may take back (to free), unless the process makes it held
//! again first. There are no other transitions. So a late answer finds another ticket, and a process that gives up can tell whether it was
//! answered. A slot only withholds room: nothing else is believed of it. Segment numbers are never reused, so no slot names a wrong segment.
//!
//! The file is locked (`flock`) through a descriptor that the keeper makes, sends to the process, and keeps no copy of. The lock ends with
//! the last descriptor and map that came from it, which is when nobody can read or write through a slot any more. It is never unlocked
//! explicitly: a forked child that did so would take its parent's lock away.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use crate::random::random_u64;

/// Slots of one session: how many objects a process can hold at a time without a copy. Further ones are handed out as copies.
pub(crate) const SLOTS: u16 = 4096;

pub(crate) const FILE_BYTES: usize = SLOTS as usize * size_of::<u64>();

/// The directory of these files, within the store's.
pub(crate) const DIRECTORY: &str = "sessions";

const STATE_BITS: u32 = 3;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const ASKED: u64 = 1;
const HELD: u64 = 2;
const WRITING: u64 = 3;
const REMEMBERED: u64 = 4;

pub(crate) const FREE: u64 = 0;

/// The word of a slot whose question has not been answered.
pub(crate) fn asked(ticket: u64) -> u64 {
    ticket << STATE_BITS | ASKED
}

/// The word of a slot that holds the bytes beginning here, so that they are not overwritten.
pub(crate) fn held(segment: u32, offset: u64) -> u64 {
    place(segment, offset) | HELD
}

/// The word of a slot whose bytes the process does not use now and may use again.
pub(crate) fn remembered(segment: u32, offset: u64) -> u64 {
    place(segment, offset) | REMEMBERED
}

/// The word of a slot that reserves a place to which the process is writing.
pub(crate) fn writing(segment: u32, offset: u64) -> u64 {
    place(segment, offset) | WRITING
}

/// Segment and offset as bits of a word. Offsets in a segment are below 2 to the power of 32.
fn place(segment: u32, offset: u64) -> u64 {
    let offset = (offset / 8) & ((1 << (32 - STATE_BITS)) - 1);
    u64::from(segment) << 32 | offset << STATE_BITS
}

/// The segment that a slot withholds room of, if any.
fn segment(word: u64) -> Option<u32> {
    matches!(word & STATE_MASK, HELD | WRITING | REMEMBERED).then_some((word >> 32) as u32)
}

/// A file of slots, mapped.
pub(crate) struct Slots {
    map: MmapRaw,
}

impl Slots {
    /// Makes a session's file in this directory, and locks it. The file goes to the attached process; the keeper keeps the slots.
    pub fn create(directory: &Path) -> io::Result<(PathBuf, File, Slots)> {
        let path = directory.join(format!("{:016x}", random_u64()));
        let made = Self::create_at(&path);
        match made {
            Ok((file, slots)) => Ok((path, file, slots)),
            Err(error) => {
                if error.kind() != io::ErrorKind::AlreadyExists {
                    let removed = std::fs::remove_file(&path);
                    removed
                        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
                }
                Err(error)
            }
        }
    }

    fn create_at(path: &Path) -> io::Result<(File, Slots)> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        // Written, and not only made so long: a full disk may refuse to fill a hole when it is written to through a map.
        file.write_all_at(&[0; FILE_BYTES], 0)?;
        retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive))?;
        // Mapped through another descriptor: a map made from the locked one would keep the lock.
        let own = OpenOptions::new().read(true).write(true).open(path)?;
        let slots = Slots::map(&own)?;
        Ok((file, slots))
    }

    /// Maps the slots of a file that has the right length.
    pub fn map(file: &File) -> io::Result<Slots> {
        if file.metadata()?.len() != FILE_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not as long as a file of slots"));
        }
        Ok(Slots { map: MmapOptions::new().len(FILE_BYTES).map_raw(file)? })
    }

    pub fn get(&self, slot: u16) -> Option<&AtomicU64> {
        if slot >= SLOTS {
            return None;
        }
        // Sound: within the map, which lives as long as `self`, and aligned, as the map begins at a page. Every process uses the words
        // as atomics only. The file is never cut while it is mapped.
        Some(unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(usize::from(slot)) })
    }

    /// Whether a slot withholds room of this segment.
    pub fn has(&self, number: u32) -> bool {
        let take_back = |cell: &AtomicU64| {
            // Remembered from a keeper that is gone, which an idle process would not notice. If the process uses it at this moment, it is held.
            let word = cell.load(Ordering::Acquire);
            if word & STATE_MASK != REMEMBERED {
                return word;
            }
            cell.compare_exchange(word, FREE, Ordering::AcqRel, Ordering::Acquire).map_or_else(|held| held, |_| FREE)
        };
        (0..SLOTS).filter_map(|slot| self.get(slot)).map(take_back).any(|word| segment(word) == Some(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_a_slot() {
        assert_eq!(asked(5), 0x29);
        assert_eq!(held(7, 4096), 0x0000_0007_0000_1002);
        assert_eq!(writing(u32::MAX, 0xffff_f000), 0xffff_ffff_ffff_f003);
        assert_eq!(segment(held(7, 4100)), Some(7));
        assert_eq!((segment(asked(u64::MAX >> 3)), segment(FREE)), (None, None));
    }

    #[test]
    fn slots_are_seen_through_every_map_and_the_lock_ends_with_the_file_handed_out() {
        let place = tempfile::tempdir().unwrap();
        let (path, file, slots) = Slots::create(place.path()).unwrap();
        let other = Slots::map(&file).unwrap();
        other.get(SLOTS - 1).unwrap().store(held(9, 4096), Ordering::Release);
        assert!(slots.has(9) && !slots.has(8) && other.get(SLOTS).is_none());
        assert!(super::super::readers::is_locked(&path).unwrap());
        drop(file);
        assert!(super::super::readers::is_locked(&path).unwrap(), "its map keeps the lock");
        drop(other);
        assert!(!super::super::readers::is_locked(&path).unwrap(), "the keeper's own map does not");
    }

    #[test]
    fn a_file_of_another_length_is_no_file_of_slots() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("short");
        std::fs::write(&path, [0; FILE_BYTES - 1]).unwrap();
        assert!(Slots::map(&File::open(&path).unwrap()).is_err());
    }
}
