//! `export` and `import`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgMatches;
use scaler_object_storage::{Error, Listed, ObjectState, ObjectStore};

use crate::Failure;
use crate::archive::{Exported, Exporter, read};
use crate::arguments::has;
use crate::output::{bytes, now_ms, say, time};
use crate::progress::Progress;
use crate::source::{Source, Way, to_hex};

const BUFFER_BYTES: usize = 1 << 20;

/// How often an object is read again that is overwritten meanwhile.
const TRIES: u32 = 10;

pub fn export(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let is_quiet = has(matches, "quiet");
    let output = matches.remove_one::<PathBuf>("output").filter(|path| path.as_os_str() != "-");
    if output.is_none() && io::stdout().is_terminal() {
        return Err("a tar file is nothing for a terminal: name a file with --output".into());
    }
    let opened = Source::of(matches)?.open_to_read()?;
    // Under another name until it is whole.
    let partial = output.as_deref().map(partial);
    let to: Box<dyn Write> = match &partial {
        Some(path) => {
            Box::new(File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?)
        }
        None => Box::new(io::stdout()),
    };
    let mut exporter = Exporter::new(BufWriter::with_capacity(BUFFER_BYTES, to), &opened.place, &time(now_ms()))?;
    let progress = Progress::of(opened.store.info().objects, "objects", is_quiet);
    let mut unread = 0;
    if let Way::Read(report) = &opened.way {
        for lost in report.damage() {
            say(&format!("lost: {lost}"));
            unread += 1;
        }
    }
    for listed in opened.store.objects() {
        match whole(&opened.store, &listed?)? {
            Ok(Some(exported)) => exporter.add(&exported)?,
            Ok(None) => {}
            Err(reason) => {
                say(&format!("not exported: {reason}"));
                unread += 1;
            }
        }
        progress.step();
    }
    drop(progress);
    let (objects, size) = (exporter.objects, exporter.bytes);
    drop(exporter.end()?);
    if let (Some(partial), Some(output)) = (&partial, &output) {
        File::open(partial)?.sync_all()?;
        std::fs::rename(partial, output)?;
    }
    let place = opened.place.clone();
    opened.close()?;
    say(&format!("exported {objects} objects of {} from {place}; {unread} could not be read", bytes(size)));
    Ok(if unread == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn partial(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// The object with the version that these bytes have; None where it is gone by now. The inner error: it cannot be read.
fn whole(store: &ObjectStore, listed: &Listed) -> Result<Result<Option<Exported>, String>, Failure> {
    let id = listed.id.as_bytes();
    if let ObjectState::Damaged { reason } = &listed.state {
        return Ok(Err(format!("{} at {}: {reason}", to_hex(id), listed.place)));
    }
    for _ in 0..TRIES {
        let Some(before) = store.describe(id, false)? else { return Ok(Ok(None)) };
        let found = match store.get(id) {
            Ok(found) => found,
            Err(error @ (Error::Io { .. } | Error::Refused { .. })) => {
                return Ok(Err(format!("{}: {error}", to_hex(id))));
            }
            Err(error) => return Err(error.into()),
        };
        let after = store.describe(id, false)?;
        match (found, after) {
            (Some(object), Some(after)) if after.version == before.version => {
                let (version, expires_ms) = (after.version, after.expires_ms.unwrap_or(0));
                return Ok(Ok(Some(Exported { id: id.to_vec(), version, expires_ms, object })));
            }
            (None, None) => return Ok(Ok(None)),
            // Damaged where nothing may be let go: it stands, and is not served.
            (None, Some(after)) if after.version == before.version => {
                return Ok(Err(format!("{} at {}: its bytes are damaged", to_hex(id), after.place)));
            }
            _ => {}
        }
    }
    Ok(Err(format!("{}: it is written again and again", to_hex(id))))
}

pub fn import(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let (is_new, is_quiet) = (has(matches, "as-new"), has(matches, "quiet"));
    let input = matches.remove_one::<PathBuf>("input").filter(|path| path.as_os_str() != "-");
    let from: Box<dyn Read> = match &input {
        Some(path) => Box::new(File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?),
        None => Box::new(io::stdin().lock()),
    };
    let source = Source::of(matches)?;
    let opened = source.open_to_write()?;
    if matches!(opened.way, Way::Beside) && !is_new {
        let place = &opened.place;
        return Err(format!(
            "{place}: a process keeps this directory, and gives the versions in it: stop it first, or store the objects as written now with \
             --as-new; nothing was stored"
        )
        .into());
    }
    let progress = Progress::of(0, "objects", is_quiet);
    let (mut stored, mut size, mut kept) = (0_u64, 0_u64, 0_u64);
    let ended = read(BufReader::with_capacity(BUFFER_BYTES, from), |exported| {
        let Exported { id, version, expires_ms, object } = exported;
        let is_stored = match version.filter(|_| !is_new) {
            Some(version) => opened.store.restore(&id, &object, version, expires_ms)?,
            // Older than every version: it replaces nothing.
            None if !is_new && opened.store.contains(&id)? => false,
            None => opened.store.put(&id, &object.data, &object.metadata).map(|()| true)?,
        };
        if is_stored {
            stored += 1;
            size += object.len() as u64;
        } else {
            kept += 1;
        }
        progress.step();
        Ok(())
    });
    drop(progress);
    let place = opened.place.clone();
    opened.store.flush()?;
    opened.close()?;
    say(&format!(
        "imported {stored} objects of {} to {place}; {kept} stayed as they were, in the same version or a later one",
        bytes(size)
    ));
    ended.map(|()| ExitCode::SUCCESS)
}
