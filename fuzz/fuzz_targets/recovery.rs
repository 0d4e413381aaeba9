//! A directory whose files were changed, cut short or removed: the store opens or says why not, and never returns wrong bytes.
#![no_main]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use scaler_object_storage::{Error, Object, ObjectStore};
use tempfile::TempDir;

const SIZE_MB: u64 = 32;

#[derive(Arbitrary, Debug)]
struct Input {
    damage: Vec<Damage>,
}

#[derive(Arbitrary, Debug)]
enum Damage {
    /// Flips bits of bytes in the part of the file that is in use, where most is decided.
    Change {
        file: u8,
        place: u32,
        flip: u8,
        near_start: bool,
    },
    Overwrite {
        file: u8,
        place: u32,
        bytes: Vec<u8>,
    },
    Truncate {
        file: u8,
        length: u32,
    },
    Extend {
        file: u8,
        by: u16,
    },
    Remove {
        file: u8,
    },
    /// One file's content under another's name.
    Copy {
        from: u8,
        to: u8,
    },
    /// A store is opened in between, and closed or not.
    Open {
        close: bool,
    },
}

/// What a store left behind: made once, copied for each input.
struct Origin {
    directory: TempDir,
    /// Every content that an id ever had; None stands for being deleted.
    history: BTreeMap<Vec<u8>, Vec<Option<Object>>>,
    /// Never closed: nothing is sealed and the catalog is old, as after `kill -9`.
    _store: ObjectStore,
    _directory: TempDir,
}

fn origin() -> &'static Origin {
    static ORIGIN: OnceLock<Origin> = OnceLock::new();
    ORIGIN.get_or_init(|| {
        let directory = scratch();
        let mut history = BTreeMap::<_, Vec<_>>::new();
        let mut store = open(directory.path()).unwrap();
        for session in 0..3_u8 {
            if session > 0 {
                store.close().unwrap();
                drop(store);
                store = open(directory.path()).unwrap();
            }
            for number in 0..40_u8 {
                let id = vec![b'i', number % 15];
                if number % 7 == 6 {
                    store.delete(&id).unwrap();
                    history.entry(id).or_default().push(None);
                    continue;
                }
                let size = [0, 10, 700, 2000, 17_000, 70_000][usize::from(number) % 6];
                let object = Object { data: vec![number ^ session << 6; size].into(), metadata: vec![session].into() };
                store.put(&id, &object.data, &object.metadata).unwrap();
                history.entry(id.clone()).or_default().push(Some(object.clone()));
                let new = vec![b'd', number % 4];
                store.duplicate(&id, &new).unwrap();
                history.entry(new).or_default().push(Some(object));
            }
        }
        Origin { directory: settled(directory.path()), history, _store: store, _directory: directory }
    })
}

fn open(path: &Path) -> Result<ObjectStore, Error> {
    ObjectStore::builder().local(path).max_size_mb(SIZE_MB).open()
}

/// The store catches what sled panics with over a corrupt catalog; the fuzzer's hook would end the process before that.
fn let_sled_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().contains("/sled-")) {
            hook(panic);
        }
    }));
}

fuzz_target!(init: let_sled_panic(), |input: Input| {
    let origin = origin();
    let scratch = scratch();
    let path = scratch.path().join("store");
    copy(origin.directory.path(), &path).unwrap();
    for damage in input.damage.iter().take(12) {
        apply(damage, &path, origin);
    }
    check(&path, origin, true);
    // What the first opening mended stays mended.
    check(&path, origin, false);
});

fn check(path: &Path, origin: &Origin, write: bool) {
    // Refusing is an answer; what it says is checked elsewhere.
    let Ok(store) = open(path) else { return };
    for (id, contents) in &origin.history {
        match store.get(id) {
            Ok(Some(object)) => {
                assert!(contents.iter().flatten().any(|content| *content == object), "bytes that were never put")
            }
            Ok(None) | Err(Error::Io { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    if write && store.put(b"new", b"data", b"").is_ok() {
        assert_eq!(store.get(b"new").unwrap().expect("just put").data, b"data"[..]);
    }
    let _ = store.close();
}

fn apply(damage: &Damage, path: &Path, origin: &Origin) {
    match damage {
        Damage::Change { file, place, flip, near_start } => {
            change(path, *file, |file, length| {
                let used = if *near_start { length.min(4096) } else { length };
                let place = u64::from(*place) % used.max(1);
                let mut byte = [0];
                if file.read_at(&mut byte, place).is_ok() {
                    let _ = file.write_at(&[byte[0] ^ flip], place);
                }
            });
        }
        Damage::Overwrite { file, place, bytes } => {
            change(path, *file, |file, length| drop(file.write_at(bytes, u64::from(*place) % length.max(1))));
        }
        Damage::Truncate { file, length } => {
            change(path, *file, |file, old| drop(file.set_len(u64::from(*length) % (old + 1))));
        }
        Damage::Extend { file, by } => change(path, *file, |file, old| drop(file.set_len(old + u64::from(*by)))),
        Damage::Remove { file } => {
            if let Some(file) = choose(path, *file) {
                let _ = fs::remove_file(file);
            }
        }
        Damage::Copy { from, to } => {
            if let (Some(from), Some(to)) = (choose(path, *from), choose(path, *to)) {
                if from != to {
                    let _ = fs::copy(from, to);
                }
            }
        }
        Damage::Open { close } => {
            if let Ok(store) = open(path) {
                for id in origin.history.keys() {
                    let _ = store.get(id);
                }
                if *close {
                    let _ = store.close();
                }
            }
        }
    }
}

fn change(path: &Path, number: u8, change: impl FnOnce(&fs::File, u64)) {
    let Some(path) = choose(path, number) else { return };
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    change(&file, length);
}

fn choose(path: &Path, number: u8) -> Option<PathBuf> {
    let mut files = Vec::new();
    list(path, &mut files);
    files.sort();
    let place = usize::from(number) % files.len().max(1);
    files.into_iter().nth(place)
}

fn list(path: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

/// A copy of what an open store has on disk, made while its threads left that alone.
fn settled(path: &Path) -> TempDir {
    loop {
        let directory = scratch();
        match copy(path, directory.path()) {
            Ok(()) => return directory,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// In memory where that is possible: what is tested is not the disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
