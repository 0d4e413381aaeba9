//! The file `NUMBERS`: which segment numbers were given, and below which record segments were reclaimed. It is written in place.
//!
//! ```text
//! below <number>    all numbers below count as given: more than really are, so that the file is written rarely
//! from <number>     record segments below were reclaimed: hints that are left of them do not mean a loss
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::Error;

/// How many numbers are noted as given at a time.
const NUMBERS_AHEAD: u32 = 256;

/// The file's length.
const TEXT_BYTES: usize = 64;

/// The numbers of a directory's segments. None is given twice, whatever happens.
pub(crate) struct Numbers {
    path: PathBuf,
    file: File,
    noted: Mutex<Noted>,
}

/// The two numbers in the file; 0 where it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    pub below: u32,
    pub from: u32,
}

impl Noted {
    /// Whether the file is empty, and the numbers in it; None where it says nothing of those that are given.
    fn read(file: &File) -> io::Result<(bool, Option<Noted>)> {
        let mut bytes = Vec::new();
        file.take(TEXT_BYTES as u64).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        let from = number("from ").unwrap_or_default();
        Ok((text.is_empty(), number("below ").map(|below| Noted { below, from })))
    }
}

impl Numbers {
    /// Opens the file.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("NUMBERS");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(Error::io("open", &path))?;
        let (is_empty, found) = Noted::read(&file).map_err(Error::io("read", &path))?;
        let numbers = Numbers { path, file, noted: Mutex::new(found.unwrap_or_default()) };
        if is_empty {
            // Allocated now: later a full disk could refuse the bytes.
            numbers.write(&mut numbers.noted.lock(), |noted| noted)?;
        } else if found.is_none() {
            tracing::warn!("{} says nothing; numbers are taken from the files", numbers.path.display());
        }
        Ok(numbers)
    }

    /// As `open`, for a directory that is only read: no number is given, and nothing is written.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("NUMBERS");
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open("/dev/null"),
            opened => opened,
        };
        let file = file.map_err(Error::io("open", &path))?;
        let noted = Noted::read(&file).map_err(Error::io("read", &path))?.1.unwrap_or_default();
        Ok(Numbers { path, file, noted: Mutex::new(noted) })
    }

    pub fn noted(&self) -> Noted {
        *self.noted.lock()
    }

    /// Makes it durable that this number is given, and some more with it.
    pub fn give(&self, number: u32) -> Result<(), Error> {
        let mut noted = self.noted.lock();
        if number < noted.below {
            return Ok(());
        }
        let below = number.saturating_add(NUMBERS_AHEAD);
        self.write(&mut noted, |noted| Noted { below, ..noted })
    }

    /// Makes it durable that record segments below this number are reclaimed. To be called before their files are removed.
    pub fn reclaimed_below(&self, number: u32) -> Result<(), Error> {
        let mut noted = self.noted.lock();
        if number <= noted.from {
            return Ok(());
        }
        self.write(&mut noted, |noted| Noted { from: number, ..noted })
    }

    fn write(&self, noted: &mut Noted, change: impl FnOnce(Noted) -> Noted) -> Result<(), Error> {
        let changed = change(*noted);
        let mut text = format!("below {}\nfrom {}\n", changed.below, changed.from).into_bytes();
        text.resize(TEXT_BYTES, b'\n');
        self.file.write_all_at(&text, 0).map_err(Error::io("write", &self.path))?;
        loop {
            match self.file.sync_data() {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("sync", &self.path)(error)),
            }
        }
        *noted = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_there_after_a_reopen() {
        let place = tempfile::tempdir().unwrap();
        let numbers = Numbers::open(place.path()).unwrap();
        assert_eq!(numbers.noted(), Noted::default());
        numbers.give(7).unwrap();
        numbers.reclaimed_below(5).unwrap();
        numbers.reclaimed_below(3).unwrap();
        let noted = numbers.noted();
        assert!(noted.below > 7 && noted.from == 5);
        numbers.give(noted.below - 1).unwrap();
        assert_eq!(Numbers::open(place.path()).unwrap().noted(), noted);
        numbers.give(noted.below).unwrap();
        assert!(Numbers::open(place.path()).unwrap().noted().below > noted.below);
    }
}
