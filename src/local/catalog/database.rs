//! Opening and closing sled: tells damage from failures that pass, guards against its panics, and sees to its lock in forked children.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;

use super::{CLOSING, CURSORS_KEY, key};
use crate::fork;

/// sled's page cache. It is small because hints are read once, at open.
const CACHE_BYTES: u64 = 4 << 20;

/// How long to wait for sled's lock, which a database that is being closed holds a little longer. As this process has the directory lock,
/// whoever holds sled's lock for longer is a forked child with a copy of the descriptor.
const LOCK_WAIT: Duration = Duration::from_secs(1);

const LOCK_RETRY: Duration = Duration::from_millis(20);

/// sled's file grows by 512 KiB at a time, and sled has one other file open.
const PROBED_BYTES: usize = 1 << 20;

const PROBED_DESCRIPTORS: usize = 4;

const SEED_KEY: &[u8] = b"fingerprint_seed";

/// How the file of a snapshot begins and ends until sled has written all of it.
const SNAPSHOT: (&str, &str) = ("snap.", ".generating");

/// An open sled database with its trees.
pub(super) struct Database {
    pub database: sled::Db,
    pub hints: sled::Tree,
    pub cursors: sled::Tree,
    /// For the fdatasync that sled's flush leaves out.
    pub file: File,
    /// sled's own descriptor of the file, which holds the lock. It is closed in forked children.
    pub locking: Option<RawFd>,
}

/// Why the catalog could not be opened.
pub(super) enum Unopened {
    /// What is there is not a catalog, or is damaged.
    Damaged(String),
    /// Says nothing about the content: no descriptor, no room, a lock. To be tried again.
    Failed(String),
}

/// Sets a damaged catalog aside, and begins an empty one.
pub(super) fn replace(path: &Path, reason: &str) -> Option<(Database, Option<u64>)> {
    let aside = aside(path);
    tracing::warn!(
        "the catalog in {} is damaged: {reason}; set aside as {}, rebuilding it from the journal",
        path.display(),
        aside.display()
    );
    if let Err(error) = std::fs::rename(path, &aside) {
        tracing::warn!("cannot set the catalog aside: {error}; the store goes on without one, and tries again");
        return None;
    }
    match open_database(path) {
        Ok(opened) => Some(opened),
        Err(Unopened::Failed(reason) | Unopened::Damaged(reason)) => {
            tracing::warn!("a new catalog cannot be made: {reason}; the store goes on without one, and tries again");
            None
        }
    }
}

/// Opens sled. Returns also the seed of the fingerprints in its hints, if it has one.
pub(super) fn open_database(path: &Path) -> Result<(Database, Option<u64>), Unopened> {
    open_by(path, || try_open(path))
}

fn open_by(
    path: &Path,
    open: impl Fn() -> Result<(Database, Option<u64>), sled::Error>,
) -> Result<(Database, Option<u64>), Unopened> {
    let deadline = Instant::now() + LOCK_WAIT;
    let mut panics = 0;
    loop {
        let opened = catch_unwind(AssertUnwindSafe(&open));
        let error = match opened {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => error,
            // sled also panics when a read or write fails, perhaps only for a moment. Damage is what makes it panic every time, with room and
            // descriptors there.
            Err(_) => match probe(path) {
                Err(error) => return Err(Unopened::Failed(format!("sled panicked: {error}"))),
                Ok(()) => {
                    panics += 1;
                    if panics >= PANICS_MIN {
                        return Err(Unopened::Damaged("sled panicked".to_owned()));
                    }
                    std::thread::sleep(LOCK_RETRY);
                    continue;
                }
            },
        };
        if !is_lock_error(&error) {
            return Err(match is_damage(&error) {
                true => Unopened::Damaged(error.to_string()),
                false => Unopened::Failed(error.to_string()),
            });
        }
        if Instant::now() >= deadline {
            return open_copy(path)
                .map_err(|reason| Unopened::Failed(format!("{error}, and it cannot be copied: {reason}")));
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

/// Removes a snapshot that sled could not finish, because it was killed or had no room. sled 0.34 would take it for its newest one, and for damage.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        // Sled makes the directory, or says what is wrong with what is there.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(SNAPSHOT.0) && name.ends_with(SNAPSHOT.1) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn try_open(path: &Path) -> Result<(Database, Option<u64>), sled::Error> {
    remove_unfinished_snapshots(path).map_err(sled::Error::Io)?;
    let before = descriptors_of(&path.join("db"));
    let database = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
    let hints = database.open_tree("hints")?;
    let settings = database.open_tree("settings")?;
    let cursors = database.open_tree("cursors")?;
    let seed = settings.get(SEED_KEY)?;
    let seed = seed.as_deref().and_then(|value| value.first_chunk()).map(|seed| u64::from_le_bytes(*seed));
    let locking = descriptors_of(&path.join("db")).into_iter().find(|descriptor| !before.contains(descriptor));
    let file = File::open(path.join("db")).map_err(sled::Error::Io)?;
    locking.into_iter().for_each(fork::close_in_child);
    let database = Database { database, hints, cursors, file, locking };
    // sled finds some damage only where it is read: an open relies on these, and cannot do without them once it has begun.
    for segment in database.segments()? {
        database.hints.get(key(segment, CLOSING))?;
    }
    database.cursors.get(CURSORS_KEY)?;
    Ok((database, seed))
}

/// For a lock that a forked child of a dead process keeps: copies the file, since the lock belongs to the old file and not to the copy.
fn open_copy(path: &Path) -> Result<(Database, Option<u64>), String> {
    let (said, io) = (|error: sled::Error| error.to_string(), |error: io::Error| error.to_string());
    let (file, copy) = (path.join("db"), path.join("db.copy"));
    std::fs::copy(&file, &copy).map_err(io)?;
    File::open(&copy).and_then(|copy| copy.sync_all()).map_err(io)?;
    std::fs::rename(&copy, &file).map_err(io)?;
    catch_unwind(AssertUnwindSafe(|| try_open(path))).map_err(|_| "sled panicked".to_owned())?.map_err(said)
}

impl Database {
    /// The segments that have hints, complete or not.
    pub fn segments(&self) -> Result<Vec<u32>, sled::Error> {
        let mut segments = Vec::new();
        let mut next = Some(0u32);
        while let Some(from) = next {
            let Some((key, _)) = self.hints.range(from.to_be_bytes()..).next().transpose()? else { break };
            let Some(segment) = key.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else { break };
            segments.push(segment);
            next = segment.checked_add(1);
        }
        Ok(segments)
    }

    pub fn flush(&self) -> Result<(), sled::Error> {
        self.database.flush()?;
        // sled's own flush starts the write-back of the page cache, and does not wait for it.
        retry_on_intr(|| rustix::fs::fdatasync(&self.file)).map_err(|error| sled::Error::Io(error.into()))
    }

    /// Stores the seed of the fingerprints. Hints that were made with another seed are removed.
    pub fn set_seed(&self, seed: u64) -> Result<(), sled::Error> {
        let settings = self.database.open_tree("settings")?;
        let seed = seed.to_le_bytes();
        if settings.get(SEED_KEY)?.as_deref() != Some(&seed) {
            self.hints.clear()?;
            settings.insert(SEED_KEY, &seed)?;
        }
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(descriptor) = self.locking else { return };
        fork::keep_in_child(descriptor);
        // Sound: unlocking has no other effect. The descriptor is sled's, open until its database is dropped, just behind this. A child
        // that has a copy of it would keep the lock otherwise.
        unsafe { libc::flock(descriptor, libc::LOCK_UN) };
    }
}

/// How often sled has to panic, with room and descriptors there, before that proves damage: others may give room back and take it meanwhile.
const PANICS_MIN: u32 = 4;

/// Whether there are room and descriptors for what sled does when it opens its file.
fn probe(path: &Path) -> io::Result<()> {
    let probe = path.join("probe");
    let descriptors: io::Result<Vec<File>> = (0..PROBED_DESCRIPTORS).map(|_| File::open("/dev/null")).collect();
    let written = std::fs::write(&probe, vec![1; PROBED_BYTES]).and_then(|()| File::open(&probe)?.sync_all());
    let removed = std::fs::remove_file(&probe);
    descriptors.and(written).and(removed)
}

/// sled panics on some kinds of damage, and on some errors: these are errors like any other here.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked".to_owned()),
    }
}

/// Whether the error says that what is there is not what sled wrote.
fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
        ),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => true,
    }
}

fn is_lock_error(error: &sled::Error) -> bool {
    let sled::Error::Io(error) = error else { return false };
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// This process's descriptors of a file. If that cannot be determined, none are returned: then a forked child keeps the lock, and the next
/// open makes a copy of the file.
fn descriptors_of(path: &Path) -> Vec<RawFd> {
    let Ok(path) = path.canonicalize() else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let is_it = |entry: &std::fs::DirEntry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path);
    let numbers = entries.flatten().filter(is_it).map(|entry| entry.file_name().to_string_lossy().parse());
    numbers.filter_map(Result::ok).collect()
}

/// A name for a catalog that will not open, not taken yet.
fn aside(path: &Path) -> PathBuf {
    let name = |number: u32| path.with_extension(format!("damaged-{number}"));
    (1..).map(name).find(|candidate| !candidate.exists()).unwrap_or_else(|| name(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Invariants 13 and 14.
    #[test]
    fn that_sled_panics_is_damage_only_where_nothing_else_explains_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        drop(try_open(&path).unwrap());
        let attempts = std::cell::Cell::new(0);
        let open = |panics: u32| {
            attempts.set(0);
            let opened = open_by(&path, || {
                attempts.set(attempts.get() + 1);
                assert!(attempts.get() > panics, "as sled does");
                try_open(&path)
            });
            opened.map(|(database, _)| drop(database))
        };
        assert!(open(PANICS_MIN - 1).is_ok(), "at the last attempt");
        assert!(matches!(open(PANICS_MIN), Err(Unopened::Damaged(_))));
        // sled lacks what it needs: the probe fails.
        std::fs::create_dir(path.join("probe")).unwrap();
        assert!(matches!(open(2), Err(Unopened::Failed(_))) && attempts.get() == 1);
        std::fs::remove_dir(path.join("probe")).unwrap();
        std::os::unix::fs::symlink("/dev/full", path.join("probe")).unwrap();
        assert_eq!(probe(&path).unwrap_err().kind(), io::ErrorKind::StorageFull);
        probe(&path).unwrap(); // it is gone
    }

    // Invariant 13.
    #[test]
    fn a_snapshot_that_sled_could_not_finish_is_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        for written in [&b""[..], b"the beginning of a snapshot, and no more"] {
            let (database, _) = try_open(directory.path()).unwrap_or_else(|error| panic!("{error}"));
            database.hints.insert(key(5, 0), written).unwrap();
            database.flush().unwrap();
            drop(database);
            std::fs::write(directory.path().join("snap.0000000000FFFFFF.generating"), written).unwrap();
            let Ok((database, _)) = open_database(directory.path()) else { panic!("it does not open") };
            assert_eq!(database.hints.get(key(5, 0)).unwrap().as_deref(), Some(written));
        }
    }

    fn inode(path: &Path) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
    }

    #[test]
    fn a_lock_that_is_given_back_in_time_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        drop(try_open(directory.path()).unwrap());
        let before = inode(&directory.path().join("db"));
        let is_free = std::cell::Cell::new(false);
        let opened = open_by(directory.path(), || match is_free.replace(true) {
            true => try_open(directory.path()),
            false => Err(sled::Error::Io(io::ErrorKind::WouldBlock.into())),
        });
        assert!(opened.is_ok());
        assert_eq!(inode(&directory.path().join("db")), before, "it is no copy");
    }

    // Invariant 13.
    #[test]
    fn an_error_is_damage_only_where_it_says_that_the_content_is_wrong() {
        use io::ErrorKind::{InvalidData, InvalidInput, PermissionDenied, StorageFull, UnexpectedEof};
        let of_the_system = |kind: io::ErrorKind| sled::Error::Io(kind.into());
        for (error, is_damaged) in [
            (of_the_system(UnexpectedEof), true),
            (of_the_system(InvalidData), true),
            (of_the_system(InvalidInput), true),
            (of_the_system(StorageFull), false),
            (of_the_system(PermissionDenied), false),
            (sled::Error::Corruption { at: None, bt: () }, true),
            (sled::Error::Unsupported("a later version's".to_owned()), true),
        ] {
            let attempts = std::cell::Cell::new(0);
            let opened = open_by(Path::new("not there"), || {
                attempts.set(attempts.get() + 1);
                Err(error.clone())
            });
            let as_expected = match opened {
                Err(Unopened::Damaged(_)) => is_damaged,
                Err(Unopened::Failed(_)) => !is_damaged,
                Ok(_) => false,
            };
            assert!(as_expected && attempts.get() == 1, "{error}, {} attempts", attempts.get());
        }
    }

    #[test]
    fn hints_of_another_seed_go_and_the_seed_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let (database, seed) = try_open(directory.path()).unwrap();
        assert_eq!(seed, None);
        for (seed, is_other) in [(7, true), (7, false), (8, true)] {
            database.hints.insert(key(5, 0), b"hints").unwrap();
            database.set_seed(seed).unwrap();
            assert_eq!(database.segments().unwrap().is_empty(), is_other, "{seed}");
        }
        database.flush().unwrap();
        drop(database);
        assert_eq!(try_open(directory.path()).unwrap().1, Some(8));
    }

    #[test]
    fn damaged_catalogs_are_set_aside_beside_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        for number in [0, 1] {
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("what"), [number]).unwrap();
            let (database, seed) = replace(&path, "a test").unwrap();
            assert!(database.segments().unwrap().is_empty() && seed.is_none());
            drop(database);
            std::fs::remove_dir_all(&path).unwrap();
        }
        let kept = |number: u8| std::fs::read(directory.path().join(format!("catalog.damaged-{number}/what"))).unwrap();
        assert_eq!([kept(1), kept(2)], [[0], [1]]);
    }
}
