//! Read-only maps of segment files: the one place where the local tier needs `unsafe`.

use std::fs::File;
use std::io;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::space::Lease;

/// A segment file's bytes, as the page cache has them. Unmapped, and its space given back if the file is gone, when dropped.
pub(crate) struct Mapping {
    map: MmapRaw,
    /// Space counts as taken for as long as someone can read it.
    _lease: Arc<Lease>,
}

impl Mapping {
    /// Maps the first `bytes` of the file.
    pub fn new(file: &File, bytes: u64, lease: Arc<Lease>) -> io::Result<Mapping> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(length).map_raw_read_only(file)?;
        Ok(Mapping { map, _lease: lease })
    }

    /// Bytes that are written and stay as they are: of a record below the segment's published end, or of a body that a live record
    /// refers to. None where they go past the map.
    #[inline]
    pub fn slice(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let end = offset.checked_add(length)?;
        if end > self.map.len() as u64 {
            return None;
        }
        // Sound: the range lies within the map, which lives as long as `self`. Nothing writes to it meanwhile: records are never
        // written twice, and a stretch of a body segment is written only when no record refers to it and nobody, in this process or
        // in a forked one, holds bytes of it (`readers`). The files are this store's alone (directory lock) and are never shortened
        // below a published byte.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(offset as usize), length as usize) })
    }
}
