//! A file system that remembers what a power loss would leave.
//!
//! Everything goes to real files at once, so that maps show it. Beside them a mirror has what is durable: a sync copies a file's
//! unsynced bytes there, a sync of the directory its names. As a kernel would, it also writes back some of it unasked, in any
//! order for bytes, in order for names.
//!
//! ```text
//! <mirror>/inodes/<inode>.<n>  content that is durable; the highest n is the file that has the inode now
//!         /names/              its names that are durable, as hard links
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use scaler_object_storage::disk::{Disk, DiskFile, SystemDisk};

use crate::common::splitmix;

const PAGE_BYTES: u64 = 4096;

/// One write in this many has each of its pages written back unasked, with even odds.
const WRITE_BACK_ONE_IN: u64 = 4;

/// One change of a name in this many makes the changes before it durable.
const NAMES_ONE_IN: u64 = 8;

pub fn nanoseconds() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64
}

/// Makes a mirror of a directory all of which is durable.
pub fn begin(directory: &Path, mirror: &Path) {
    fs::remove_dir_all(mirror).unwrap_or_default();
    fs::create_dir_all(mirror.join("names")).unwrap();
    fs::create_dir_all(mirror.join("inodes")).unwrap();
    for name in names(&directory.join("journal")) {
        let path = directory.join("journal").join(&name);
        let hidden = mirror.join("inodes").join(format!("{}.0", fs::metadata(&path).unwrap().ino()));
        fs::copy(&path, &hidden).unwrap();
        fs::hard_link(&hidden, mirror.join("names").join(&name)).unwrap();
    }
}

/// Leaves of a directory's journal what the mirror has.
pub fn lose_power(directory: &Path, mirror: &Path) {
    fs::remove_dir_all(directory.join("journal")).unwrap();
    fs::rename(mirror.join("names"), directory.join("journal")).unwrap();
    begin(directory, mirror);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_name() != "probe");
    let mut names: Vec<_> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub struct MirrorDisk {
    mirror: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    random: u64,
    /// Changes of names that are not durable, in order.
    changes: VecDeque<Change>,
    files: HashMap<PathBuf, Arc<Inode>>,
}

enum Change {
    Create { name: PathBuf, hidden: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { name: PathBuf },
}

/// A file, whatever its name.
struct Inode {
    durable: File,
    /// Stretches that are not durable: from where to where.
    dirty: Mutex<BTreeMap<u64, u64>>,
}

impl MirrorDisk {
    /// Goes on where another process was killed: what it wrote and did not sync is still on its way to the disk.
    pub fn resume(directory: &Path, mirror: &Path, seed: u64) -> Self {
        let journal = directory.join("journal");
        let mut state = State { random: seed, changes: VecDeque::new(), files: HashMap::new() };
        let (present, durable) = (names(&journal), names(&mirror.join("names")));
        let hidden = |name: &str| newest(mirror, fs::metadata(journal.join(name)).unwrap().ino()).unwrap();
        let inode_of = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let mut gone = Vec::new();
        for name in &durable {
            let now = present.contains(name).then(|| inode_of(hidden(name)));
            if now == Some(inode_of(mirror.join("names").join(name))) {
                continue;
            }
            let change = Change::Remove { name: name.into() };
            if now.is_some() { state.changes.push_back(change) } else { gone.push(change) }
        }
        for name in &present {
            let hidden = hidden(name);
            let inode = Inode {
                durable: OpenOptions::new().read(true).write(true).open(&hidden).unwrap(),
                dirty: Mutex::new(BTreeMap::from([(0, u64::MAX)])),
            };
            let removed = |change: &Change| matches!(change, Change::Remove { name: removed } if removed.as_os_str() == name.as_str());
            if !durable.contains(name) || state.changes.iter().any(removed) {
                state.changes.push_back(Change::Create { name: name.into(), hidden });
            }
            state.files.insert(journal.join(name), Arc::new(inode));
        }
        state.changes.extend(gone);
        MirrorDisk { mirror: mirror.to_path_buf(), state: Arc::new(Mutex::new(state)) }
    }

    fn open_file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let inode = Arc::clone(&self.state.lock().files[path]);
        Arc::new(MirrorFile { file, inode, state: Arc::clone(&self.state) })
    }

    /// Makes changes of names durable, the oldest first: all, or as many as the kernel would unasked.
    fn settle(&self, state: &mut State, all: bool) -> io::Result<()> {
        let count = state.changes.len() as u64;
        let settled = if all {
            count
        } else if splitmix(&mut state.random).is_multiple_of(NAMES_ONE_IN) {
            splitmix(&mut state.random) % (count + 1)
        } else {
            0
        };
        let names = self.mirror.join("names");
        for change in state.changes.drain(..settled as usize) {
            match change {
                Change::Create { name, hidden } => fs::hard_link(hidden, names.join(name))?,
                Change::Rename { from, to } => fs::rename(names.join(from), names.join(to))?,
                Change::Remove { name } => fs::remove_file(names.join(name))?,
            }
        }
        Ok(())
    }
}

/// The durable content of the file that has this inode now.
fn newest(mirror: &Path, inode: u64) -> Option<PathBuf> {
    let number = |name: &str| name.strip_prefix(&format!("{inode}."))?.parse::<u64>().ok();
    let numbers = names(&mirror.join("inodes")).into_iter().filter_map(|name| number(&name));
    numbers.max().map(|number| mirror.join("inodes").join(format!("{inode}.{number}")))
}

fn name(path: &Path) -> PathBuf {
    path.file_name().unwrap().into()
}

impl Disk for MirrorDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = {
            // No file may exist without its hidden one, wherever the process is killed: it is made under another name first.
            let mut state = self.state.lock();
            let unfinished = self.mirror.join("unfinished");
            fs::remove_file(&unfinished).unwrap_or_default();
            let file = SystemDisk.create(&unfinished, bytes)?;
            let number = fs::metadata(&unfinished)?.ino();
            let before = newest(&self.mirror, number)
                .map_or(0, |path| path.extension().unwrap().to_str().unwrap().parse::<u64>().unwrap() + 1);
            let hidden = self.mirror.join("inodes").join(format!("{number}.{before}"));
            let durable = OpenOptions::new().read(true).write(true).create_new(true).open(&hidden)?;
            fs::rename(&unfinished, path)?;
            let dirty = Mutex::new(BTreeMap::from([(0, bytes)]));
            let inode = Inode { durable, dirty };
            state.files.insert(path.to_path_buf(), Arc::new(inode));
            state.changes.push_back(Change::Create { name: name(path), hidden });
            file
        };
        Ok(self.open_file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.open_file(path, SystemDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        SystemDisk.rename(from, to)?;
        let inode = state.files.remove(from).unwrap();
        state.files.insert(to.to_path_buf(), inode);
        state.changes.push_back(Change::Rename { from: name(from), to: name(to) });
        self.settle(&mut state, false)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        SystemDisk.remove(path)?;
        let inode = state.files.remove(path).unwrap();
        state.changes.push_back(Change::Remove { name: name(path) });
        drop(inode);
        self.settle(&mut state, false)
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.settle(&mut self.state.lock(), true)
    }
}

struct MirrorFile {
    file: Arc<dyn DiskFile>,
    inode: Arc<Inode>,
    state: Arc<Mutex<State>>,
}

impl MirrorFile {
    /// Copies a stretch to where it is durable.
    fn copy(&self, from: u64, to: u64) -> io::Result<()> {
        let length = self.file.file().metadata()?.len();
        let to = to.min(length);
        if from < to {
            let mut bytes = vec![0; (to - from) as usize];
            self.file.read_exact_at(&mut bytes, from)?;
            self.inode.durable.write_all_at(&bytes, from)?;
        }
        Ok(())
    }

    fn write_back_some(&self, from: u64, to: u64) -> io::Result<()> {
        let mut random = {
            let mut state = self.state.lock();
            splitmix(&mut state.random)
        };
        if !random.is_multiple_of(WRITE_BACK_ONE_IN) {
            return Ok(());
        }
        for page in from / PAGE_BYTES..to.div_ceil(PAGE_BYTES) {
            if splitmix(&mut random).is_multiple_of(2) {
                self.copy(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)?;
            }
        }
        Ok(())
    }
}

impl DiskFile for MirrorFile {
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let end = offset + slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        self.file.write_all_at(slices, offset)?;
        // Dirty only now: a sync that came in between may have copied it, but the next one will again.
        self.inode.dirty.lock().entry(offset).and_modify(|to| *to = end.max(*to)).or_insert(end);
        self.write_back_some(offset, end)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let mut dirty = self.inode.dirty.lock();
        for (from, to) in std::mem::take(&mut *dirty) {
            self.copy(from, to)?;
        }
        self.inode.durable.set_len(self.file.file().metadata()?.len())
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        self.file.grow(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn file(&self) -> &File {
        self.file.file()
    }
}
