//! The directory as a place: that it is this user's, for this user alone, and holds nothing that is not a store's.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::error::Error;
use crate::local::files::disk::{Disk, SystemDisk};

/// What the names of the files and directories of a store begin with, and that of a file system's own directory.
const OWN: [&str; 12] = [
    "FORMAT",
    "LOCK",
    "NUMBERS",
    "starting",
    "journal",
    "readers",
    "counters",
    "sessions",
    "catalog",
    "socket",
    "keeper.log",
    "lost+found",
];

/// Makes the directory and its missing parents, for its owner alone, and makes their names durable. One that exists has to be this user's, and
/// to be a store's or empty; nothing is changed in one that is refused.
pub(crate) fn make_directory(directory: &Path) -> Result<(), Error> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<_> = directory.ancestors().take_while(is_missing).collect();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(Error::io("make", directory))?;
    for above in missing.iter().filter_map(|made| made.parent()) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        SystemDisk.sync_directory(above).map_err(Error::io("sync", above))?;
    }
    let found = std::fs::metadata(directory).map_err(Error::io("look at", directory))?;
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user {
        return Err(Error::Config(format!(
            "{}: it belongs to user {}, and this is user {user}: a store is for the processes of one user; use another directory",
            directory.display(),
            found.uid()
        )));
    }
    refuse_foreign(directory)?;
    if found.permissions().mode() & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(directory, private).map_err(Error::io("make private", directory))?;
    }
    Ok(())
}

/// Refuses a directory in which something stands that is not a store's, unless a store stands there as well.
fn refuse_foreign(directory: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(directory.join("FORMAT")) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("look at", directory.join("FORMAT"))(error)),
    }
    for entry in std::fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let name = entry.map_err(Error::io("list", directory))?.file_name();
        let name = name.to_string_lossy();
        if !OWN.iter().any(|own| name.starts_with(own)) {
            return Err(Error::Config(format!(
                "{} holds {name}, which is not a store's: give the store (local.path) a directory of its own, an empty one or one that does \
                 not exist yet",
                directory.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_for_its_owner_alone_and_so_are_those_above_it_that_are_made() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("above/store");
        make_directory(&directory).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&place.path().join("above"))), (0o700, 0o700));
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        make_directory(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
    }

    #[test]
    fn a_directory_with_foreign_files_is_refused_and_stays_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(place.path().join("thesis.tex"), "").unwrap();
        let error = make_directory(place.path()).unwrap_err().to_string();
        assert!(error.contains("thesis.tex") && error.contains("local.path"), "{error}");
        assert_eq!(std::fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
        // What an open that was cut short leaves, and what stands in a store that is one already.
        std::fs::remove_file(place.path().join("thesis.tex")).unwrap();
        std::fs::create_dir(place.path().join("journal")).unwrap();
        std::fs::write(place.path().join("LOCK"), "").unwrap();
        make_directory(place.path()).unwrap();
        std::fs::write(place.path().join("FORMAT"), "").unwrap();
        std::fs::write(place.path().join("note"), "").unwrap();
        make_directory(place.path()).unwrap();
    }
}
