//! Compaction of the catalog: its content is copied into a new sled database, which is exchanged for the old one in one step.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::database::{Database, Unopened, guarded, open_database};
use super::{BATCH_ENTRIES_MAX, Catalog};
use crate::error::Error;
use crate::local::files::space::Space;

/// A database of up to this size is written anew within some hundredths of a second.
const SMALL_BYTES: u64 = 8 << 20;

impl Catalog {
    /// Whether compaction takes so little time that nobody need wait for a quiet moment.
    pub fn is_small(&self) -> bool {
        self.state.lock().size.compact_bytes() <= SMALL_BYTES
    }

    /// Writes sled's file anew if it has become too large for its content. The old one stays until the new one is whole. If `is_pressed`
    /// says that somebody waits for the sealer, compaction is given up and tried again later.
    pub fn compact(&self, space: &Arc<Space>, is_pressed: impl Fn() -> bool) -> Result<(), Error> {
        let file_bytes = self.bytes();
        let mut state = self.state.lock();
        if state.database.is_none() || !state.size.is_slack(file_bytes) || is_pressed() {
            return Ok(()); // one that is not open is opened by whoever uses it next
        }
        let failed = |reason| Error::Catalog { path: self.path.clone(), reason };
        // Taken even beyond the limit: both files exist for a while, but more is given back than is taken.
        let lease = space.lease_existing(state.size.compact_bytes());
        let new = self.path.with_extension("new");
        // Counts as failed until it has succeeded.
        state.size.compaction_failed();
        let Some(database) = &state.database else { return Ok(()) };
        let copied = remove(&new).map_err(|error| error.to_string()).and_then(|()| copy(database, &new, is_pressed));
        if copied != Ok(true) {
            if let Err(error) = remove(&new) {
                tracing::debug!("{} cannot be removed: {error}; the next attempt or open does", new.display());
            }
            return match copied {
                Ok(_) => Ok(()),
                Err(reason) => Err(failed(format!("it cannot be written anew: {reason}"))),
            };
        }
        // If it cannot be opened again below, whoever uses it next opens it.
        state.close();
        let replaced = exchange(&new, &self.path).and_then(|()| remove(&new));
        drop(lease);
        replaced.map_err(Error::io("replace", &self.path))?;
        let opened = open_database(&self.path);
        let (database, _) = opened.map_err(|(Unopened::Failed(reason) | Unopened::Damaged(reason))| failed(reason))?;
        let compact_bytes = guarded(|| database.database.size_on_disk()).map_err(failed)?;
        state.database = Some(database);
        state.size.compacted(compact_bytes);
        tracing::debug!("the catalog was written anew: {file_bytes} bytes before, {compact_bytes} now");
        Ok(())
    }

    /// Removes what an interrupted compaction left. If that had already renamed the old catalog, the old one is put back.
    pub(super) fn clean_up(path: &Path) {
        let (new, old) = (path.with_extension("new"), path.with_extension("old"));
        let put_back = if path.exists() { remove(&old) } else { ignore_missing(std::fs::rename(&old, path)) };
        if let Err(error) = put_back.and_then(|()| remove(&new)) {
            tracing::warn!("what is left of the catalog beside {} cannot be removed: {error}", path.display());
        }
    }
}

/// Copies the database to `path`. Returns false if it was given up because of `is_pressed`.
fn copy(from: &Database, path: &Path, is_pressed: impl Fn() -> bool) -> Result<bool, String> {
    let opened = open_database(path);
    let (to, _) = opened.map_err(|(Unopened::Failed(reason) | Unopened::Damaged(reason))| reason)?;
    let is_whole = guarded(|| {
        for name in from.database.tree_names() {
            let (source, target) = (from.database.open_tree(&name)?, to.database.open_tree(&name)?);
            let mut entries = source.iter().peekable();
            while entries.peek().is_some() {
                let mut batch = sled::Batch::default();
                for entry in entries.by_ref().take(BATCH_ENTRIES_MAX) {
                    let (key, value) = entry?;
                    if is_pressed() {
                        return Ok(false);
                    }
                    batch.insert(key, value);
                }
                target.apply_batch(batch)?;
            }
        }
        to.flush()?;
        Ok(true)
    })?;
    // The new files' names must be durable before the old database goes.
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| error.to_string())?;
    guarded(|| {
        drop(to);
        Ok(is_whole)
    })
}

/// Exchanges the databases in `new` and `path`.
fn exchange(new: &Path, path: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // The file system cannot exchange names. After a crash between the two renames, `clean_up` puts the old one back.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let old = path.with_extension("old");
            std::fs::rename(path, &old)?;
            std::fs::rename(new, path)?;
            std::fs::rename(&old, new)?;
        }
        Err(error) => return Err(error.into()),
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all())
}

fn remove(path: &Path) -> std::io::Result<()> {
    ignore_missing(std::fs::remove_dir_all(path))
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::catalog::hints::Hint;
    use crate::local::catalog::tests::hints;

    const LIMIT: u64 = 16 << 20;

    /// Stores and removes hints, the oldest first, as segments come and go. Returns the largest size that the file had.
    fn churn(catalog: &Catalog, space: &Arc<Space>, rounds: u32, kept: u32, hints: &[Hint]) -> u64 {
        let mut most = 0;
        for number in 1..=rounds {
            catalog.store(number, 11, 5000, 99, hints).unwrap();
            if number > kept {
                catalog.remove(number - kept).unwrap();
            }
            if number % 8 == 0 {
                catalog.flush().unwrap();
            }
            catalog.compact(space, || false).unwrap();
            most = most.max(catalog.bytes());
        }
        most
    }

    // Invariant 14.
    #[test]
    fn a_catalog_takes_a_share_of_the_limit_however_much_goes_through_it() {
        let directory = tempfile::tempdir().unwrap();
        let space = Space::new(LIMIT);
        let catalog = Catalog::open(&directory.path().join("catalog"));
        catalog.set_limit(LIMIT);
        let (few, many) = (hints(20), hints(2500));
        let most = churn(&catalog, &space, 600, 40, &few);
        assert!(most < 5 << 20, "{most}");
        assert!((561..=600).all(|number| catalog.load(number).unwrap().unwrap().1 == few));
        // These hints exceed the share: some segments go without.
        let most = churn(&catalog, &space, 600, 40, &many);
        assert!(most < 5 << 20, "{most}");
        let has_hints = |number: &u32| catalog.load(*number).unwrap().is_some();
        assert!((561..=600).filter(has_hints).count() >= 8);
        assert_eq!(space.physical_bytes(), 0, "what was taken meanwhile is given back");
    }

    // Invariant 14.
    #[test]
    fn room_for_the_new_file_is_taken_while_the_old_one_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (space, catalog) = (Space::new(LIMIT), Catalog::open(&directory.path().join("catalog")));
        let kept = hints(20);
        catalog.store(0, 11, 5000, 99, &kept).unwrap();
        let many: Vec<_> = (1..100).collect();
        many.iter().for_each(|number| catalog.store(*number, 11, 5000, 99, &hints(2500)).unwrap());
        many.iter().for_each(|number| catalog.remove(*number).unwrap());
        catalog.flush().unwrap();
        let (before, taken) = (catalog.bytes(), std::cell::Cell::new(0));
        let note_taken = || {
            taken.set(space.physical_bytes());
            false
        };
        catalog.compact(&space, note_taken).unwrap();
        assert!(catalog.bytes() < before);
        assert!(taken.get() >= catalog.bytes(), "{} taken, {} needed", taken.get(), catalog.bytes());
        assert_eq!(space.physical_bytes(), 0, "it is given back");
        assert_eq!(catalog.load(0).unwrap().unwrap().1, kept);
    }

    #[test]
    fn what_a_compaction_leaves_that_was_cut_short_is_cleared_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        let catalog = Catalog::open(&path);
        catalog.store(7, 11, 5000, 99, &hints(50)).unwrap();
        drop(catalog);
        let (new, old) = (path.with_extension("new"), path.with_extension("old"));
        for has_moved in [false, true] {
            std::fs::create_dir(&new).unwrap();
            std::fs::write(new.join("db"), b"half").unwrap();
            if has_moved {
                std::fs::rename(&path, &old).unwrap();
            }
            let catalog = Catalog::open(&path);
            assert_eq!(catalog.segments().unwrap(), [7]);
            assert!(!new.exists() && !old.exists());
        }
        std::fs::create_dir(&old).unwrap();
        assert_eq!(Catalog::open(&path).segments().unwrap(), [7]);
        assert!(!old.exists());
    }

    #[test]
    fn a_catalog_that_cannot_be_written_anew_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        let (space, catalog) = (Space::new(LIMIT), Catalog::open(&path));
        let few = hints(50);
        catalog.store(0, 11, 5000, 99, &few).unwrap();
        let all: Vec<_> = (1..100).collect();
        for number in &all {
            catalog.store(*number, 11, 5000, 99, &hints(2500)).unwrap();
        }
        for number in &all {
            catalog.remove(*number).unwrap();
        }
        catalog.flush().unwrap();
        assert!(catalog.bytes() > 3 << 20);
        // Somebody waits, at once or in the middle.
        for calls in [0, 1] {
            let left = std::cell::Cell::<u32>::new(calls);
            let is_pressed = || left.replace(left.get().saturating_sub(1)) == 0;
            catalog.compact(&space, is_pressed).unwrap();
            assert!(catalog.bytes() > 3 << 20 && !path.with_extension("new").exists());
            catalog.state.lock().size.compacted(0);
        }
        // A file in the place of the new one's directory.
        std::fs::write(path.with_extension("new"), b"in the way").unwrap();
        assert!(catalog.compact(&space, || false).unwrap_err().to_string().contains("written anew"));
        assert_eq!(catalog.load(0).unwrap().unwrap().1, few);
        catalog.compact(&space, || false).unwrap(); // not tried again at once
        assert!(catalog.is_open() && space.physical_bytes() == 0);
    }

    #[test]
    fn a_small_catalog_is_left_as_it_is() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        let (space, catalog) = (Space::new(LIMIT), Catalog::open(&path));
        catalog.store(0, 11, 5000, 99, &hints(20)).unwrap();
        for number in 1..20 {
            catalog.store(number, 11, 5000, 99, &hints(1000)).unwrap();
            catalog.remove(number).unwrap();
            catalog.flush().unwrap();
        }
        // The file is many times as large as its content, and still too small to be worth a compaction.
        assert!((100 << 10..3 << 20).contains(&catalog.bytes()), "{}", catalog.bytes());
        let file = || std::fs::metadata(&path).unwrap().ino();
        let before = file();
        catalog.compact(&space, || false).unwrap();
        assert_eq!(file(), before);
    }

    #[test]
    fn a_catalog_is_small_by_what_its_new_file_is_expected_to_take() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&directory.path().join("catalog"));
        let is_small_with = |hint_bytes| {
            catalog.state.lock().size.set(1, hint_bytes);
            catalog.is_small()
        };
        assert!(is_small_with(0) && is_small_with(7 << 19), "twice that, and a MiB");
        assert!(!is_small_with((7 << 19) + 1));
    }

    #[test]
    fn what_is_not_there_is_removed_and_what_cannot_be_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog.new");
        remove(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, b"not a directory").unwrap();
        assert_eq!(remove(&path).unwrap_err().kind(), ErrorKind::NotADirectory);
    }
}
