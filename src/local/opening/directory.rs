//! The store's directory: its format version, its limit, and which segments are in it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::report::Report;
use crate::error::Error;
use crate::local::MAX_SIZE_MB_MIN;
use crate::local::catalog::Catalog;
use crate::local::files::disk::{Disk, SystemDisk};
use crate::local::files::open_files::OpenFiles;
use crate::local::files::space::Space;
use crate::local::journal::segment_header::{SegmentHeader, guess_header, parse_file_name, read_header};
use crate::local::journal::{Seal, Segment, SegmentKind, SegmentMap};

const FORMAT: u32 = 1;

const FORMAT_TEXT: &str = "scaler-object-storage format ";

/// No store ever gives this number: two billion segments are more than a disk lives for.
const FOREIGN_NUMBER_MIN: u32 = 1 << 31;

/// Part of the free disk that a store without a stated limit may take.
const FREE_PERCENT: u64 = 80;

/// Refuses a directory that a newer program wrote, before anything is changed in it.
pub(in crate::local) fn check_format(directory: &Path) -> Result<(), Error> {
    let path = directory.join("FORMAT");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    if text.is_empty() {
        return Ok(()); // an open was cut short by a power loss; it is written again
    }
    let found = text.trim().strip_prefix(FORMAT_TEXT).and_then(|version| version.parse().ok());
    match found {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(Error::UnknownFormat { path: directory.to_path_buf(), found, known: FORMAT }),
        None => Err(Error::Config(format!(
            "{} does not say which format the directory has; restore it (\"{FORMAT_TEXT}{FORMAT}\"), or use another directory",
            path.display()
        ))),
    }
}

/// Makes the directory of the journal within the store's, and makes its name durable.
pub(in crate::local) fn make_journal(directory: &Path, journal: &Path) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(0o700).create(journal) {
        Ok(()) => SystemDisk.sync_directory(directory).map_err(Error::io("sync", directory)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io("make", journal)(error)),
    }
}

/// Writes the format of a new directory, and makes the names in it durable.
pub(in crate::local) fn write_format(directory: &Path) -> Result<(), Error> {
    let path = directory.join("FORMAT");
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > 0 => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("look at", &path)(error)),
    }
    let new = directory.join("FORMAT.new");
    let create = || OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = create()
        .and_then(|mut file| {
            file.write_all(format!("{FORMAT_TEXT}{FORMAT}\n").as_bytes()).and_then(|()| file.sync_all())
        })
        .and_then(|()| std::fs::rename(&new, &path))
        .and_then(|()| SystemDisk.sync_directory(directory));
    written.map_err(Error::io("write", &path))
}

/// The store's limit in bytes.
pub(in crate::local) fn limit_bytes(max_size_mb: u64, directory: &Path, present_bytes: u64) -> Result<u64, Error> {
    if max_size_mb > 0 {
        return match max_size_mb.checked_mul(1 << 20) {
            Some(bytes) if max_size_mb >= MAX_SIZE_MB_MIN => Ok(bytes),
            _ => Err(Error::Config(format!(
                "max_size_mb = {max_size_mb}: at least {MAX_SIZE_MB_MIN}, or 0 for the default"
            ))),
        };
    }
    let status = rustix::fs::statvfs(directory)
        .map_err(|error| Error::io("ask for the free space of", directory)(error.into()))?;
    let free_bytes = status.f_bavail.saturating_mul(status.f_frsize);
    Ok((free_bytes / 100 * FREE_PERCENT).saturating_add(present_bytes).max(MAX_SIZE_MB_MIN << 20))
}

/// The segment files of a directory.
pub(in crate::local) struct Contents {
    segments: Vec<(PathBuf, SegmentHeader, u64)>,
    /// Files that an earlier open preallocated.
    spares: Vec<(PathBuf, u64)>,
    next_number: u32,
    pub bytes: u64,
    /// Files that were set aside as damaged: each counts as one damaged object, as it held at least one.
    pub damaged: u64,
}

/// Lists the journal's directory. Files whose header cannot be rebuilt are set aside. Segment numbers below `numbers_below` count as
/// given, whatever files there are.
pub(in crate::local) fn list(
    directory: &Path,
    catalog: &Catalog,
    numbers_below: u32,
    disk: &Arc<dyn Disk>,
    report: Option<&Report>,
) -> Result<Contents, Error> {
    let mut found = Contents { segments: Vec::new(), spares: Vec::new(), next_number: 1, bytes: 0, damaged: 0 };
    let hinted = if catalog.is_open() { catalog.segments()? } else { Vec::new() };
    let hinted_next = hinted.last().map_or(1, |last| last.saturating_add(1));
    found.next_number = numbers_below.max(hinted_next);
    for entry in std::fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let path = entry.map_err(Error::io("list", directory))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let bytes = || path.metadata().map(|metadata| metadata.len()).map_err(Error::io("look at", &path));
        if name.ends_with(".spare") {
            found.spares.push((path.clone(), bytes()?));
            continue;
        }
        let Some((number, kind)) = parse_file_name(name.trim_end_matches(".damaged")) else { continue };
        // A higher number cannot be this store's, unless the file's header says so.
        if number < FOREIGN_NUMBER_MIN {
            found.next_number = found.next_number.max(number.saturating_add(1));
        }
        if name.ends_with(".damaged") {
            continue;
        }
        let bytes = bytes()?;
        let header = read_header(&path).map_err(Error::io("read", &path))?;
        match header.filter(|header| header.number == number && header.kind == kind) {
            Some(header) => found.add(path, header, bytes),
            None => match stand_in(&path, number, kind, catalog)? {
                Some(header) => {
                    match report {
                        Some(report) => {
                            report.note_damage(format!("{name}: its header is damaged; it is read all the same"))
                        }
                        None => tracing::error!("{}: its header is damaged; it is read all the same", path.display()),
                    }
                    found.add(path, header, bytes);
                }
                None => {
                    match report {
                        Some(report) => {
                            report.note_damage(format!(
                                "{name}: it is no segment, or its header is damaged: what is in it is lost"
                            ));
                            report.note_repair(format!("{name} is set aside as {name}.damaged"));
                        }
                        None => set_aside(&path, disk)?,
                    }
                    found.damaged += 1;
                }
            },
        }
    }
    Ok(found)
}

/// Rebuilds a damaged header: of a record segment from the catalog or from its first record; a body segment's carries nothing needed.
fn stand_in(path: &Path, number: u32, kind: SegmentKind, catalog: &Catalog) -> Result<Option<SegmentHeader>, Error> {
    if kind != SegmentKind::Records && number < FOREIGN_NUMBER_MIN {
        return Ok(Some(SegmentHeader { number, kind, nonce: 0, seal: None }));
    }
    if number >= FOREIGN_NUMBER_MIN {
        return Ok(None);
    }
    if catalog.is_open()
        && let Some((closing, hints)) = catalog.load(number)?
    {
        let seal = Seal { end: closing.end, record_count: hints.len() as u64 };
        return Ok(Some(SegmentHeader { number, kind, nonce: closing.nonce, seal: Some(seal) }));
    }
    guess_header(path, number).map_err(Error::io("read", path))
}

fn set_aside(path: &Path, disk: &Arc<dyn Disk>) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    let aside = PathBuf::from(name);
    tracing::error!("{}: not a segment, or its header is damaged; set aside as {}", path.display(), aside.display());
    disk.rename(path, &aside).map_err(Error::io("rename", path))
}

impl Contents {
    fn add(&mut self, path: PathBuf, header: SegmentHeader, bytes: u64) {
        self.next_number = self.next_number.max(header.number.saturating_add(1));
        self.bytes += bytes;
        self.segments.push((path, header, bytes));
    }

    /// The segments by number, the spare files, and the first number that was never used.
    pub fn into_segments(
        self,
        space: &Arc<Space>,
        disk: &Arc<dyn Disk>,
        open_files: &Arc<OpenFiles>,
    ) -> (SegmentMap, Vec<(PathBuf, u64)>, u32) {
        let open = |(path, header, bytes): (PathBuf, SegmentHeader, u64)| {
            let segment = Segment::found(&header, path, Arc::clone(disk), space.lease_existing(bytes), open_files);
            (header.number, Arc::new(segment))
        };
        (self.segments.into_iter().map(open).collect(), self.spares, self.next_number)
    }
}
