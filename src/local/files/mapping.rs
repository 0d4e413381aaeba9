//! Read-only maps of segment files, and their bytes as slices (`unsafe`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::RwLock;

use super::space::Lease;

/// Maps of body segments, by the address at which they begin: length, and the segment's number.
#[derive(Default)]
pub(crate) struct BodyMaps(RwLock<BTreeMap<usize, (usize, u32)>>);

impl BodyMaps {
    /// The body segment in whose map these bytes are, and their offset there. The caller holds the bytes, so the map cannot go meanwhile.
    pub fn find(&self, bytes: &[u8]) -> Option<(u32, u64)> {
        let address = bytes.as_ptr() as usize;
        let maps = self.0.read();
        let (begin, (length, number)) = maps.range(..=address).next_back()?;
        let offset = address - begin;
        (offset.checked_add(bytes.len())? <= *length).then_some((*number, offset as u64))
    }
}

/// A read-only map of a segment file. Dropping it unmaps the file, and gives its space back if the file is removed.
pub(crate) struct Mapping {
    map: MmapRaw,
    /// The list of body maps that this one is in, if any.
    listed: Option<Arc<BodyMaps>>,
    /// The file's space counts as taken for as long as it is mapped.
    _lease: Arc<Lease>,
}

impl Mapping {
    /// Maps the first `bytes` of the file.
    pub fn new(file: &File, bytes: u64, lease: Arc<Lease>) -> io::Result<Mapping> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(length).map_raw_read_only(file)?;
        Ok(Mapping { map, listed: None, _lease: lease })
    }

    /// Lists it as the map of this body segment.
    pub fn listed(mut self, number: u32, maps: &Arc<BodyMaps>) -> Self {
        maps.0.write().insert(self.map.as_ptr() as usize, (self.map.len(), number));
        self.listed = Some(Arc::clone(maps));
        self
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

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(maps) = &self.listed {
            // Before unmapping: afterwards another map may have the address.
            maps.0.write().remove(&(self.map.as_ptr() as usize));
        }
    }
}
