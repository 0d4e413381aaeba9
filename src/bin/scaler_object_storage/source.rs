//! Which store a tool works on, and by which way: through the process that keeps its directory, or by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use scaler_object_storage::config::ServerConfig;
use scaler_object_storage::program::{cli, environment};
use scaler_object_storage::{BackendKind, ObjectStore, Report, StoreConfig};

use crate::Failure;

/// The store that the command line names.
pub struct Source {
    pub config: StoreConfig,
}

/// An open store, and how it was opened.
pub struct Opened {
    pub store: ObjectStore,
    pub place: String,
    pub way: Way,
}

pub enum Way {
    /// Another process keeps the directory.
    Beside,
    /// Nobody does: it is read, and what an open would repair in it is known.
    Read(Arc<Report>),
    /// This process has it open.
    Own,
}

impl Source {
    /// The store of the first argument or the option `--store`, or else of the settings.
    pub fn of(matches: &mut ArgMatches) -> Result<Source, Failure> {
        let named = matches.remove_one::<String>("store");
        Source::new(named, matches)
    }

    /// The store of the settings alone.
    pub fn of_settings(matches: &mut ArgMatches) -> Result<Source, Failure> {
        Source::new(None, matches)
    }

    fn new(named: Option<String>, matches: &mut ArgMatches) -> Result<Source, Failure> {
        let command_line = cli::command_line(matches);
        let mut config = ServerConfig::load(&command_line, environment())?.store;
        match named {
            None => {}
            Some(url) if url.contains("://") => {
                let scheme = url.split("://").next().unwrap_or_default();
                if ["tcp", "tls", "ws", "wss", "ipc"].contains(&scheme) {
                    return Err("a server cannot be asked for its objects over the network: name its directory, or the url of its Redis".into());
                }
                config.backend = BackendKind::Redis;
                config.redis.url = url;
            }
            Some(directory) => {
                if config.backend != BackendKind::Tiered {
                    config.backend = BackendKind::Local;
                }
                config.local.path = std::path::absolute(directory)?;
            }
        }
        Ok(Source { config })
    }

    /// The directory; None for a store without one.
    pub fn directory(&self) -> Result<Option<PathBuf>, Failure> {
        let has_one = matches!(self.config.backend, BackendKind::Local | BackendKind::Tiered);
        Ok(has_one.then(|| self.config.local.directory()).transpose()?)
    }

    fn existing_directory(&self) -> Result<Option<PathBuf>, Failure> {
        match self.directory()? {
            Some(directory) if !directory.is_dir() => {
                Err(format!("{}: there is no such directory", directory.display()).into())
            }
            directory => Ok(directory),
        }
    }

    /// For tools that change nothing.
    pub fn open_to_read(&self) -> Result<Opened, Failure> {
        let Some(directory) = self.existing_directory()? else { return self.open_without_directory() };
        if let Some(opened) = beside(&directory)? {
            return Ok(opened);
        }
        let (store, report) = ObjectStore::read_directory(&directory)?;
        Ok(Opened { store, place: directory.display().to_string(), way: Way::Read(report) })
    }

    /// For tools that delete and store.
    pub fn open_to_write(&self) -> Result<Opened, Failure> {
        let Some(directory) = self.directory()? else { return self.open_without_directory() };
        if let Some(opened) = if directory.is_dir() { beside(&directory)? } else { None } {
            return Ok(opened);
        }
        let store = ObjectStore::open(&self.config)?;
        let place = store.info().place;
        Ok(Opened { store, place, way: Way::Own })
    }

    /// As `open_to_write`, for a directory that has to be there.
    pub fn open_to_delete(&self) -> Result<Opened, Failure> {
        self.existing_directory()?;
        self.open_to_write()
    }

    fn open_without_directory(&self) -> Result<Opened, Failure> {
        if self.config.backend == BackendKind::Memory {
            return Err(
                "the memory backend's objects are in its server's memory, where no other program sees them".into()
            );
        }
        let store = ObjectStore::open(&self.config)?;
        let place = store.info().place;
        Ok(Opened { store, place, way: Way::Own })
    }
}

fn beside(directory: &Path) -> Result<Option<Opened>, Failure> {
    let attached = ObjectStore::attach_kept(directory)?;
    Ok(attached.map(|store| Opened { store, place: directory.display().to_string(), way: Way::Beside }))
}

impl Opened {
    /// What is done is done when this returns.
    pub fn close(self) -> Result<(), Failure> {
        Ok(self.store.close()?)
    }
}

/// An id as it is given: hexadecimal digits, or with `--text` any text.
pub fn id(word: &str, is_text: bool) -> Result<Vec<u8>, Failure> {
    if is_text {
        return Ok(word.as_bytes().to_vec());
    }
    hex(word).ok_or_else(|| {
        format!("{word:?} is no id in hexadecimal digits, as list shows it; with --text it is taken as it stands")
            .into()
    })
}

pub fn hex(word: &str) -> Option<Vec<u8>> {
    let (pairs, []) = word.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| text + &format!("{byte:02x}"))
}
