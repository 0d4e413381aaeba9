//! The file system as the journal uses it, behind traits so that tests can inject faults and losses.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::retry_on_intr;

/// The file system under a journal.
pub trait Disk: Send + Sync {
    /// A new file of `bytes` preallocated zeros, readable and writable.
    ///
    /// # Errors
    ///
    /// The operating system's; nothing is left behind then.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// An existing file, readable and writable.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name in its directory.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// Whether descriptors or memory have run out: the file system itself was not asked.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// An open file of the journal.
pub trait DiskFile: Send + Sync {
    /// Writes all slices, one behind the other, in as few calls as the system allows.
    ///
    /// # Errors
    ///
    /// The operating system's; part of the bytes may be written then.
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Fills `buffer`.
    ///
    /// # Errors
    ///
    /// The operating system's, or an unexpected end of the file.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Makes the bytes written so far durable.
    ///
    /// # Errors
    ///
    /// The operating system's; the state of the bytes is unknown then, and trying again proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Grows the file to `bytes` of preallocated zeros.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn grow(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// The file itself, to map it.
    fn file(&self) -> &File;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        if let Err(error) = allocate(&file, 0, bytes) {
            drop(file);
            std::fs::remove_file(path)?;
            return Err(error);
        }
        Ok(Arc::new(SystemFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SystemFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// The operating system's file system, of which nothing is changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadOnlyDisk;

impl Disk for ReadOnlyDisk {
    fn create(&self, _path: &Path, _bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SystemFile(File::open(path)?)))
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Frees the blocks of a removed file from `from` on, even while it is open or mapped somewhere. Where the file system cannot punch holes,
/// they are freed when the last descriptor and map are gone.
pub(crate) fn punch(file: &File, from: u64) {
    let punched = file.metadata().and_then(|metadata| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match metadata.len().saturating_sub(from) {
            0 => Ok(()),
            bytes => Ok(retry_on_intr(|| rustix::fs::fallocate(file, flags, from, bytes))?),
        }
    });
    if let Err(error) = punched {
        tracing::debug!("the room of a removed file comes back later: {error}");
    }
}

struct SystemFile(File);

/// Small enough to be allocated between two signals: it takes microseconds.
const PIECE_BYTES_MIN: u64 = 64 << 10;

/// Grows a file from `present` to `bytes`, or leaves it as it is. Where the file system cannot preallocate, zeros are written: the file
/// will be mapped, and a hole in a map ends the process when the disk has no room for it.
fn allocate(file: &File, present: u64, bytes: u64) -> io::Result<()> {
    let (mut done, mut piece) = (present, bytes.saturating_sub(present));
    while done < bytes {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), done, piece.min(bytes - done)) {
            Ok(()) => done = done.saturating_add(piece).min(bytes),
            // Some file systems (tmpfs) undo the whole call when a signal arrives. If signals come faster than a large piece is allocated,
            // only smaller pieces make progress.
            Err(rustix::io::Errno::INTR) => piece = (piece / 2).max(PIECE_BYTES_MIN),
            Err(rustix::io::Errno::OPNOTSUPP) => return write_zeros(file, done, bytes),
            Err(error) => {
                if done > present {
                    file.set_len(present)?;
                }
                return Err(error.into());
            }
        }
    }
    Ok(())
}

fn write_zeros(file: &File, mut present: u64, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while present < bytes {
        let more = (bytes - present).min(ZEROS.len() as u64);
        file.write_all_at(ZEROS.get(..more as usize).unwrap_or(&ZEROS), present)?;
        present += more;
    }
    Ok(())
}

impl DiskFile for SystemFile {
    fn write_all_at(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0); // drops empty ones
        while !slices.is_empty() {
            match rustix::io::pwritev(&self.0, slices, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut slices, written);
                    offset += written as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        let present = self.0.metadata()?.len();
        allocate(&self.0, present, bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn file(&self) -> &File {
        &self.0
    }
}
