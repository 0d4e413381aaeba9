//! The layout of an exported store: a tar file.
//!
//! ```text
//! scaler-object-storage.json   {"format": 1, "source": ..., "exported_at": ...}
//! objects/<id in hex>          the data of an object. Its extended header has
//!                                SCALER.id        in hexadecimal digits
//!                                SCALER.version   MILLISECONDS.COUNTER@NODE; left out where there is none
//!                                SCALER.expires   milliseconds since 1970; left out where it never ends
//!                                SCALER.metadata  in hexadecimal digits
//! end.json                     {"objects": ..., "bytes": ...}, without which the file is cut short
//! ```
//!
//! Ids too long for a file name have the first of their digits and a hash in it; the extended header counts.

use std::io::{self, Read, Write};

use bytes::Bytes;
use scaler_object_storage::{METADATA_BYTES_MAX, Object, Version};
use serde_json::{Value, json};
use tar::{Archive, Builder, Entry, EntryType, Header};
use xxhash_rust::xxh3::xxh3_64;

use crate::Failure;
use crate::source::{hex, to_hex};

const HEAD: &str = "scaler-object-storage.json";
const END: &str = "end.json";
const FORMAT: u64 = 1;

const ID: &str = "SCALER.id";
const VERSION: &str = "SCALER.version";
const EXPIRES: &str = "SCALER.expires";
const METADATA: &str = "SCALER.metadata";

/// Longer ids are shortened in the names of files.
const NAME_ID_BYTES_MAX: usize = 40;

/// The texts at both ends are shorter.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// An object with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub id: Vec<u8>,
    pub version: Option<Version>,
    /// Milliseconds since 1970; 0 never.
    pub expires_ms: u64,
    pub object: Object,
}

pub struct Exporter<W: Write> {
    builder: Builder<W>,
    pub objects: u64,
    pub bytes: u64,
}

impl<W: Write> Exporter<W> {
    pub fn new(to: W, source: &str, exported_at: &str) -> io::Result<Self> {
        let mut exporter = Exporter { builder: Builder::new(to), objects: 0, bytes: 0 };
        exporter.text(HEAD, &json!({ "format": FORMAT, "source": source, "exported_at": exported_at }))?;
        Ok(exporter)
    }

    fn text(&mut self, name: &str, value: &Value) -> io::Result<()> {
        let text = format!("{value}\n");
        self.builder.append_data(&mut header(text.len() as u64, 0), name, text.as_bytes())
    }

    pub fn add(&mut self, exported: &Exported) -> io::Result<()> {
        let Exported { id, version, expires_ms, object } = exported;
        let mut fields = vec![(ID, to_hex(id)), (METADATA, to_hex(&object.metadata))];
        fields.extend(version.map(|version| (VERSION, version.to_string())));
        fields.extend((*expires_ms > 0).then(|| (EXPIRES, expires_ms.to_string())));
        self.builder.append_pax_extensions(fields.iter().map(|(name, value)| (*name, value.as_bytes())))?;
        let name = match id.get(..NAME_ID_BYTES_MAX) {
            Some(first) if id.len() > NAME_ID_BYTES_MAX => format!("{}-{:016x}", to_hex(first), xxh3_64(id)),
            _ if id.is_empty() => "-".to_owned(),
            _ => to_hex(id),
        };
        let written = version.map_or(0, |version| version.ms() / 1000);
        let mut header = header(object.data.len() as u64, written);
        self.builder.append_data(&mut header, format!("objects/{name}"), &object.data[..])?;
        self.objects += 1;
        self.bytes += object.len() as u64;
        Ok(())
    }

    /// Everything is in it.
    pub fn end(mut self) -> io::Result<W> {
        let end = json!({ "objects": self.objects, "bytes": self.bytes });
        self.text(END, &end)?;
        let mut to = self.builder.into_inner()?;
        to.flush()?;
        Ok(to)
    }
}

fn header(bytes: u64, written_seconds: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(written_seconds);
    header
}

/// Calls `each` with every object of an exported store, one after the other.
///
/// An error where the file is not one, or is cut short, after what is whole in it.
pub fn read(from: impl Read, mut each: impl FnMut(Exported) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut archive = Archive::new(from);
    let (mut has_head, mut objects) = (false, 0_u64);
    for entry in archive.entries()? {
        let mut entry = entry.map_err(|error| format!("the file is cut short or damaged: {error}"))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match name.as_str() {
            HEAD => {
                let format = text(&mut entry)?.get("format").and_then(Value::as_u64);
                if format != Some(FORMAT) {
                    let found = format.map_or_else(|| "none".to_owned(), |format| format.to_string());
                    return Err(format!("the file has format {found}, this program reads {FORMAT}").into());
                }
                has_head = true;
            }
            _ if !has_head => return Err(no_export()),
            END => {
                let said = text(&mut entry)?.get("objects").and_then(Value::as_u64);
                if said != Some(objects) {
                    return Err(format!("the file has {objects} objects, and says that they were {said:?}").into());
                }
                return Ok(());
            }
            name if name.starts_with("objects/") => {
                each(exported(&mut entry, name)?)?;
                objects += 1;
            }
            // Of somebody else, who has added to it.
            _ => {}
        }
    }
    if !has_head {
        return Err(no_export());
    }
    Err(format!("the file is cut short: it ends behind {objects} objects without saying that these are all").into())
}

fn no_export() -> Failure {
    format!("this is no exported store: {HEAD} does not come first in it").into()
}

fn text(entry: &mut Entry<'_, impl Read>) -> Result<Value, Failure> {
    let mut text = String::new();
    entry.take(TEXT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn exported(entry: &mut Entry<'_, impl Read>, name: &str) -> Result<Exported, Failure> {
    let (mut id, mut version, mut expires_ms, mut metadata) = (None, None, 0, Vec::new());
    let wrong = |field: &str| -> Failure { format!("{name}: its {field} cannot be read; the file is damaged").into() };
    if let Some(fields) = entry.pax_extensions()? {
        for field in fields {
            let field = field?;
            let value = || field.value().map_err(|_| wrong("extended header"));
            match field.key().unwrap_or_default() {
                ID => id = Some(hex(value()?).ok_or_else(|| wrong(ID))?),
                VERSION => version = Some(value()?.parse().map_err(|_| wrong(VERSION))?),
                EXPIRES => expires_ms = value()?.parse().map_err(|_| wrong(EXPIRES))?,
                METADATA => {
                    metadata =
                        hex(value()?).filter(|it| it.len() <= METADATA_BYTES_MAX).ok_or_else(|| wrong(METADATA))?
                }
                _ => {}
            }
        }
    }
    let id = id.ok_or_else(|| wrong(ID))?;
    let announced = entry.size();
    let mut data = Vec::new();
    entry.read_to_end(&mut data).map_err(|error| format!("{name}: {error}; the file is cut short or damaged"))?;
    if data.len() as u64 != announced {
        return Err(format!("{name}: {} of {announced} bytes are there; the file is cut short", data.len()).into());
    }
    Ok(Exported { id, version, expires_ms, object: Object { data: Bytes::from(data), metadata: metadata.into() } })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn objects() -> Vec<Exported> {
        let exported = |id: &[u8], data: Vec<u8>, metadata: &[u8], number: u64| Exported {
            id: id.to_vec(),
            version: (number > 0).then_some(Version { clock: number << 20, node: number }),
            expires_ms: number / 2,
            object: Object { data: data.into(), metadata: Bytes::copy_from_slice(metadata) },
        };
        vec![
            exported(b"a", b"data".to_vec(), b"", 0),
            exported(&[0, 255, 10, 47], Vec::new(), &[10, 0, 61, 255], 1),
            exported(&[7; 512], vec![3; 100_000], &vec![9; 70_000], 1 << 41),
            exported(b"", vec![1], b"of the redis backend", 5),
        ]
    }

    fn file(objects: &[Exported]) -> Vec<u8> {
        let mut exporter = Exporter::new(Vec::new(), "a place", "today").unwrap();
        objects.iter().for_each(|object| exporter.add(object).unwrap());
        exporter.end().unwrap()
    }

    fn read_all(file: &[u8]) -> (Vec<Exported>, Result<(), String>) {
        let mut all = Vec::new();
        let ended = read(file, |object| {
            all.push(object);
            Ok(())
        });
        (all, ended.map_err(|error| error.to_string()))
    }

    #[test]
    fn what_is_exported_reads_back() {
        for objects in [objects(), Vec::new()] {
            assert_eq!(read_all(&file(&objects)), (objects, Ok(())));
        }
    }

    #[test]
    fn a_file_that_is_cut_short_anywhere_is_an_error() {
        let whole = file(&objects());
        // Behind the last entry there are zeros only.
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for length in (0..end).step_by(509) {
            let (found, ended) = read_all(&whole[..length]);
            assert!(ended.is_err(), "{length} of {end} bytes");
            assert!(objects().starts_with(&found));
        }
    }

    #[test]
    fn what_is_no_exported_store_is_refused() {
        for other in [b"".to_vec(), b"not a tar file".to_vec(), vec![0; 1024], vec![b'x'; 2048]] {
            assert!(read_all(&other).1.is_err());
        }
        let mut builder = Builder::new(Vec::new());
        builder.append_data(&mut header(2, 0), "objects/61", &b"it"[..]).unwrap();
        let refused = read_all(&builder.into_inner().unwrap()).1.unwrap_err();
        assert!(refused.contains("no exported store"), "{refused}");
    }

    #[test]
    fn another_format_is_refused() {
        let mut exporter = Exporter { builder: Builder::new(Vec::new()), objects: 0, bytes: 0 };
        exporter.text(HEAD, &json!({ "format": 2 })).unwrap();
        let refused = read_all(&exporter.end().unwrap()).1.unwrap_err();
        assert!(refused.contains("format 2"), "{refused}");
    }
}
