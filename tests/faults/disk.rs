//! The file system, with failures that a test asks for.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use scaler_object_storage::disk::{Disk, DiskFile, SystemDisk};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    Open,
    Rename,
    Remove,
    SyncDirectory,
    Write,
    Read,
    Sync,
    Grow,
    Truncate,
}

pub const CALLS: [Call; 10] = [
    Call::Create,
    Call::Open,
    Call::Rename,
    Call::Remove,
    Call::SyncDirectory,
    Call::Write,
    Call::Read,
    Call::Sync,
    Call::Grow,
    Call::Truncate,
];

/// How a call fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing is done.
    Refused(i32),
    /// A write that gets through in part.
    Short { bytes: usize, error: i32 },
    /// Everything is done, and then an error reported.
    AfterAll(i32),
}

/// A call as a rule sees it. `amount`: bytes of a file to be made or grown, offset of a write.
pub struct Attempt<'a> {
    pub call: Call,
    pub path: &'a Path,
    pub amount: u64,
}

type Rule = Box<dyn FnMut(&Attempt<'_>) -> Option<Fault> + Send>;

/// Decides which calls fail. None do at first.
#[derive(Clone, Default)]
pub struct FaultyDisk {
    rule: Arc<Mutex<Option<Rule>>>,
}

impl FaultyDisk {
    pub fn set(&self, rule: impl FnMut(&Attempt<'_>) -> Option<Fault> + Send + 'static) {
        *self.rule.lock() = Some(Box::new(rule));
    }

    pub fn heal(&self) {
        *self.rule.lock() = None;
    }

    fn fault(&self, call: Call, path: &Path, amount: u64) -> Option<Fault> {
        self.rule.lock().as_mut()?(&Attempt { call, path, amount })
    }

    fn run<T>(&self, call: Call, path: &Path, amount: u64, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.fault(call, path, amount) {
            None => run(),
            Some(Fault::Refused(error) | Fault::Short { error, .. }) => Err(io::Error::from_raw_os_error(error)),
            Some(Fault::AfterAll(error)) => run().and(Err(io::Error::from_raw_os_error(error))),
        }
    }

    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { disk: self.clone(), path: path.into(), file })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = match self.fault(Call::Create, path, bytes) {
            None => SystemDisk.create(path, bytes)?,
            Some(Fault::Refused(error) | Fault::Short { error, .. } | Fault::AfterAll(error)) => {
                return Err(io::Error::from_raw_os_error(error));
            }
        };
        Ok(self.file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.run(Call::Open, path, 0, || SystemDisk.open(path)).map(|file| self.file(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Call::Rename, to, 0, || SystemDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(Call::Remove, path, 0, || SystemDisk.remove(path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.run(Call::SyncDirectory, path, 0, || SystemDisk.sync_directory(path))
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    /// The name under which it was made or opened.
    path: Box<Path>,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        if let Some(fault) = self.disk.fault(Call::Write, &self.path, offset) {
            let (bytes, error) = match fault {
                Fault::Refused(error) => (0, error),
                Fault::Short { bytes, error } => (bytes, error),
                Fault::AfterAll(error) => (usize::MAX, error),
            };
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.file.write_all_at(&mut [IoSlice::new(&all[..bytes.min(all.len())])], offset)?;
            return Err(io::Error::from_raw_os_error(error));
        }
        self.file.write_all_at(slices, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.run(Call::Read, &self.path, offset, || self.file.read_exact_at(buffer, offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.run(Call::Sync, &self.path, 0, || self.file.sync())
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        self.disk.run(Call::Grow, &self.path, bytes, || self.file.grow(bytes))
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.run(Call::Truncate, &self.path, bytes, || self.file.truncate(bytes))
    }

    fn file(&self) -> &File {
        self.file.file()
    }
}
