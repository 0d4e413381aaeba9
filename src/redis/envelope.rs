//! The layout of a value in Redis. Nothing else knows an offset in it, except the scripts, which take theirs from here.
//!
//! ```text
//!  0  magic           4    ff 'S' 'O' 'S': as a little-endian u32 beyond 512 MiB, so never a value of the Python backend
//!  4  format version  u8   1
//!  5  kind            u8   1 object, 2 manifest, 3 tombstone
//!  6  codec           u8   0 none, 1 lz4 block
//!  7  zero            u8
//!  8  version clock   u64  big-endian, so that versions are ordered as their bytes are
//! 16  version node    u64  big-endian
//! 24  deadline        u64  milliseconds since 1970, 0 = never
//! 32  metadata length u32
//! 36  checksum        u32  lower half of xxh3-64 of the 64 bytes of the head, with zeros here
//! 40  data length     u64
//! 48  body hash       u128 xxh3-128 of the raw body: metadata, then data
//! 64  object: the body, as the codec has it; manifest, tombstone: nothing
//! ```
//!
//! A body of more than [`CHUNK_BYTES`] stands in chunks of that many raw bytes (the last may be shorter), each under a key of its own,
//! and the manifest under the object's key:
//!
//! ```text
//!  0  codec           u8
//!  1  zero            3
//!  4  raw length      u32
//!  8  the chunk, as the codec has it
//! ```
//!
//! All numbers are little-endian but for the version.

use bytes::Bytes;
use lz4_flex::block::CompressTable;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::body::Raw;
use crate::object::{METADATA_BYTES_MAX, Object};
use crate::version::Version;

pub(crate) const MAGIC: [u8; 4] = [0xff, b'S', b'O', b'S'];
pub(crate) const HEAD_BYTES: usize = 64;
pub(crate) const CHUNK_HEAD_BYTES: usize = 8;

/// Larger bodies stand in chunks of as many bytes, so that Redis is never blocked for long.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Chunks of 1 TiB in all: a manifest that claims more is damaged.
pub(crate) const CHUNK_COUNT_MAX: u32 = 1 << 20;

/// Where the version and the kind stand in a head.
pub(crate) const VERSION_OFFSET: usize = 8;
pub(crate) const VERSION_BYTES: usize = 16;
pub(crate) const KIND_OFFSET: usize = 5;

const FORMAT_VERSION: u8 = 1;
const CHECKSUM_OFFSET: usize = 36;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Object = 1,
    Manifest = 2,
    Tombstone = 3,
}

/// How a body or chunk is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    None = 0,
    Lz4 = 1,
}

/// The head of a value; see the layout above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: Kind,
    pub codec: Codec,
    pub version: Version,
    pub deadline_ms: u64,
    pub metadata_bytes: u32,
    /// Derived from the lengths; 0 unless this is a manifest.
    pub chunk_count: u32,
    pub data_bytes: u64,
    pub body_hash: u128,
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

/// Whether a value begins with our magic number, be it damaged or not.
pub(crate) fn is_ours(value: &[u8]) -> bool {
    value.starts_with(&MAGIC)
}

/// The version that a head states, even if the rest of it is damaged.
pub(crate) fn stated_version(head: &[u8]) -> Option<Version> {
    is_ours(head).then_some(())?;
    Some(Version {
        clock: u64::from_be_bytes(field(head, VERSION_OFFSET)?),
        node: u64::from_be_bytes(field(head, VERSION_OFFSET + 8)?),
    })
}

pub(crate) fn version_bytes(version: Version) -> [u8; VERSION_BYTES] {
    ((u128::from(version.clock) << 64) | u128::from(version.node)).to_be_bytes()
}

impl Codec {
    fn from_u8(value: u8) -> Option<Codec> {
        [Codec::None, Codec::Lz4].into_iter().find(|codec| *codec as u8 == value)
    }
}

impl Kind {
    fn from_u8(value: u8) -> Option<Kind> {
        [Kind::Object, Kind::Manifest, Kind::Tombstone].into_iter().find(|kind| *kind as u8 == value)
    }
}

/// The part of a body that is in chunk number `chunk`.
pub(crate) fn chunk_of(body: Raw<'_>, chunk: u32) -> Raw<'_> {
    let start = (u64::from(chunk) * CHUNK_BYTES as u64) as usize;
    body.part(start, start.saturating_add(CHUNK_BYTES))
}

/// How many chunks a body of this length has; None if it stands in the value itself.
pub(crate) fn chunk_count(body_bytes: u64) -> Option<u64> {
    (body_bytes > CHUNK_BYTES as u64).then(|| body_bytes.div_ceil(CHUNK_BYTES as u64))
}

impl Head {
    /// The head of an object to be stored. The codec is set when its body is encoded.
    pub fn put<'a>(version: Version, body: impl Into<Raw<'a>>, body_hash: u128, deadline_ms: u64) -> Head {
        let body = body.into();
        let chunks = chunk_count(body.len() as u64);
        Head {
            kind: if chunks.is_some() { Kind::Manifest } else { Kind::Object },
            codec: Codec::None,
            version,
            deadline_ms,
            metadata_bytes: body.metadata.len() as u32,
            chunk_count: chunks.unwrap_or(0) as u32,
            data_bytes: body.data.len() as u64,
            body_hash,
        }
    }

    pub fn tombstone(version: Version) -> Head {
        let body_hash = xxh3_128(&[]);
        Head { kind: Kind::Tombstone, ..Head::put(version, &Object::default(), body_hash, 0) }
    }

    /// Bytes of metadata and data together.
    pub fn body_bytes(&self) -> u64 {
        self.data_bytes.saturating_add(u64::from(self.metadata_bytes))
    }

    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let fields: [(usize, &[u8]); 7] = [
            (0, &MAGIC),
            (4, &[FORMAT_VERSION, self.kind as u8, self.codec as u8]),
            (VERSION_OFFSET, &version_bytes(self.version)),
            (24, &self.deadline_ms.to_le_bytes()),
            (32, &self.metadata_bytes.to_le_bytes()),
            (40, &self.data_bytes.to_le_bytes()),
            (48, &self.body_hash.to_le_bytes()),
        ];
        for (offset, bytes) in fields {
            if let Some(place) = head.get_mut(offset..offset + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        let checksum = checksum(&head);
        if let Some(place) = head.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        head
    }

    /// Reads the head at the front of a value; an error says how it is damaged. Its lengths can be trusted to be within the limits, but not
    /// that so many bytes exist.
    pub fn decode(value: &[u8]) -> Result<Head, String> {
        let Some(head) = value.first_chunk::<HEAD_BYTES>() else {
            return Err(format!("it is cut off after {} bytes", value.len()));
        };
        Self::read(head).unwrap_or_else(|| Err("its head is damaged".into()))
    }

    fn read(head: &[u8; HEAD_BYTES]) -> Option<Result<Head, String>> {
        if !is_ours(head) {
            return Some(Err("it does not have the magic number".into()));
        }
        if u32::from_le_bytes(field(head, CHECKSUM_OFFSET)?) != checksum(head) {
            return Some(Err("its head's checksum is wrong".into()));
        }
        let [format, kind, codec, zero] = field::<4>(head, 4)?;
        if format != FORMAT_VERSION {
            return Some(Err(format!("it has format version {format}, this program knows {FORMAT_VERSION}")));
        }
        let mut decoded = Head {
            kind: Kind::from_u8(kind)?,
            codec: Codec::from_u8(codec)?,
            version: stated_version(head)?,
            deadline_ms: u64::from_le_bytes(field(head, 24)?),
            metadata_bytes: u32::from_le_bytes(field(head, 32)?),
            chunk_count: 0,
            data_bytes: u64::from_le_bytes(field(head, 40)?),
            body_hash: u128::from_le_bytes(field(head, 48)?),
        };
        let chunks = chunk_count(decoded.body_bytes());
        let plausible = zero == 0
            && decoded.metadata_bytes as usize <= METADATA_BYTES_MAX
            && match decoded.kind {
                Kind::Object => chunks.is_none(),
                Kind::Manifest => chunks.is_some_and(|chunks| chunks <= u64::from(CHUNK_COUNT_MAX)),
                Kind::Tombstone => decoded.body_bytes() == 0,
            };
        if decoded.kind == Kind::Manifest {
            decoded.chunk_count = u32::try_from(chunks?).ok()?;
        }
        Some(if plausible { Ok(decoded) } else { Err("its lengths contradict each other".into()) })
    }

    /// How many raw bytes chunk `chunk` has.
    pub fn chunk_bytes(&self, chunk: u32) -> usize {
        let start = u64::from(chunk) * CHUNK_BYTES as u64;
        self.body_bytes().saturating_sub(start).min(CHUNK_BYTES as u64) as usize
    }

    /// Makes the object of its raw body, if length and checksum are those of the head.
    pub fn object(&self, body: Bytes) -> Result<Object, String> {
        if body.len() as u64 != self.body_bytes() {
            return Err(format!("its body has {} bytes instead of {}", body.len(), self.body_bytes()));
        }
        if xxh3_128(&body) != self.body_hash {
            return Err("its checksum is wrong".into());
        }
        let mut metadata = body;
        let data = metadata.split_off(self.metadata_bytes as usize);
        Ok(Object { data, metadata })
    }
}

fn checksum(head: &[u8; HEAD_BYTES]) -> u32 {
    let mut head = *head;
    if let Some(place) = head.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4) {
        place.fill(0);
    }
    xxh3_64(&head) as u32
}

/// Reads an object that stands in one value, whose head is `head`.
pub(crate) fn decode_object(head: &Head, value: Vec<u8>) -> Result<Object, String> {
    let body_bytes = usize::try_from(head.body_bytes()).map_err(|_| "its length is implausible")?;
    if head.kind != Kind::Object || body_bytes > CHUNK_BYTES {
        return Err("it is no object that stands in one value".into());
    }
    head.object(decode_body(head.codec, Bytes::from(value).slice_ref_from(HEAD_BYTES), body_bytes)?)
}

/// Reads a chunk that must have `raw_bytes`, which follow from the manifest.
pub(crate) fn decode_chunk(value: Vec<u8>, raw_bytes: usize) -> Result<Bytes, String> {
    let head: [u8; CHUNK_HEAD_BYTES] = field(&value, 0).ok_or("a chunk is cut off")?;
    let [codec, 0, 0, 0, length @ ..] = head else { return Err("a chunk's head is damaged".into()) };
    let codec = Codec::from_u8(codec).ok_or("a chunk's codec is not known")?;
    if u32::from_le_bytes(length) as usize != raw_bytes || raw_bytes > CHUNK_BYTES {
        return Err("a chunk has another length than its manifest says".into());
    }
    decode_body(codec, Bytes::from(value).slice_ref_from(CHUNK_HEAD_BYTES), raw_bytes)
}

/// Decompresses a body. The caller has checked `raw_bytes`, which is what is allocated.
fn decode_body(codec: Codec, payload: Bytes, raw_bytes: usize) -> Result<Bytes, String> {
    match codec {
        Codec::None if payload.len() == raw_bytes => Ok(payload),
        Codec::None => Err(format!("{} bytes stand where {raw_bytes} should", payload.len())),
        Codec::Lz4 => {
            let mut raw = vec![0; raw_bytes];
            match lz4_flex::block::decompress_into(&payload, &mut raw) {
                Ok(bytes) if bytes == raw_bytes => Ok(raw.into()),
                Ok(bytes) => Err(format!("it decompresses to {bytes} bytes instead of {raw_bytes}")),
                Err(error) => Err(format!("it does not decompress: {error}")),
            }
        }
    }
}

trait SliceFrom {
    fn slice_ref_from(self, offset: usize) -> Bytes;
}

impl SliceFrom for Bytes {
    fn slice_ref_from(mut self, offset: usize) -> Bytes {
        if self.len() < offset { Bytes::new() } else { self.split_off(offset) }
    }
}

/// Encodes values and chunks: compresses what becomes smaller by that, and keeps its buffers.
pub(crate) struct Encoder {
    compress: bool,
    joined: Vec<u8>,
    compressed: Vec<u8>,
    /// Of the chunk that was prepared: how many bytes of `compressed` it has shrunk to.
    shrunk_bytes: Option<usize>,
    tables: Tables,
}

/// lz4's hash tables, which are made once: one for short bodies and one for long ones.
struct Tables {
    small: CompressTable,
    large: CompressTable,
}

/// The longest body for lz4's small table.
const SMALL_TABLE_BYTES_MAX: usize = 65_535;

/// The size of the samples (beginning, middle and end) with which it is first tried whether a long body shrinks at all.
const SAMPLE_BYTES: usize = 4096;

/// Shorter bodies are not compressed: lz4 finds nothing in them.
const COMPRESSED_BYTES_MIN: usize = 64;

impl Encoder {
    pub fn new(compress: bool) -> Encoder {
        let tables = Tables { small: CompressTable::small(), large: CompressTable::large() };
        Encoder { compress, joined: Vec::new(), compressed: Vec::new(), shrunk_bytes: None, tables }
    }

    /// Hands the pieces of a value with its body to `write`.
    pub fn object<'a>(&mut self, mut head: Head, body: impl Into<Raw<'a>>, mut write: impl FnMut(&[u8])) {
        let raw = body.into();
        match self.compress(raw) {
            Some(compressed) => {
                head.codec = Codec::Lz4;
                write(&head.encode());
                write(compressed);
            }
            None => {
                write(&head.encode());
                write(raw.metadata);
                write(raw.data);
            }
        }
    }

    /// What the body shrinks to; None if it does not.
    fn compress(&mut self, Raw { metadata, data }: Raw<'_>) -> Option<&[u8]> {
        if !self.compress {
            return None;
        }
        if metadata.is_empty() {
            return compress(data, &mut self.tables, &mut self.compressed);
        }
        self.joined.clear();
        self.joined.extend_from_slice(metadata);
        self.joined.extend_from_slice(data);
        compress(&self.joined, &mut self.tables, &mut self.compressed)
    }

    /// Whether compressing the body may be worth its time, as far as samples of its data tell.
    pub fn seems_to_shrink(&mut self, raw: Raw<'_>) -> bool {
        make_room(&mut self.compressed, SAMPLE_BYTES);
        self.compress && seems_to_shrink(raw.data, &mut self.tables.large, &mut self.compressed)
    }

    /// A chunk's value; it is compressed only if `tries`.
    pub fn chunk<'a>(&'a mut self, raw: Raw<'a>, tries: bool) -> Chunk<'a> {
        self.prepare(raw, tries);
        self.prepared(raw)
    }

    /// The first half of `chunk`, which is what takes time.
    pub fn prepare(&mut self, raw: Raw<'_>, tries: bool) {
        self.shrunk_bytes = if tries { self.compress(raw).map(<[u8]>::len) } else { None };
    }

    /// The value of the chunk that was prepared last, which is this one.
    pub fn prepared<'a>(&'a self, raw: Raw<'a>) -> Chunk<'a> {
        let compressed = self.shrunk_bytes.and_then(|bytes| self.compressed.get(..bytes));
        let codec = if compressed.is_some() { Codec::Lz4 } else { Codec::None };
        let [a, b, c, d] = (raw.len() as u32).to_le_bytes();
        Chunk {
            head: [codec as u8, 0, 0, 0, a, b, c, d],
            has_shrunk: compressed.is_some(),
            body: compressed.map_or([raw.metadata, raw.data], |compressed| [compressed, &[]]),
        }
    }
}

/// The value of a chunk, in pieces.
pub(crate) struct Chunk<'a> {
    head: [u8; CHUNK_HEAD_BYTES],
    body: [&'a [u8]; 2],
    pub has_shrunk: bool,
}

impl Chunk<'_> {
    /// The value in the pieces in which it is sent.
    pub fn pieces(&self) -> [&[u8]; 3] {
        let [first, second] = self.body;
        [&self.head, first, second]
    }
}

fn compress<'a>(raw: &[u8], tables: &mut Tables, out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    if raw.len() < COMPRESSED_BYTES_MIN {
        return None;
    }
    make_room(out, raw.len());
    let table = if raw.len() < SMALL_TABLE_BYTES_MAX { &mut tables.small } else { &mut tables.large };
    if !seems_to_shrink(raw, table, out) {
        return None;
    }
    let bytes = lz4_flex::block::compress_into_with_table(raw, out, table).ok()?;
    out.get(..bytes).filter(|compressed| compressed.len() < raw.len())
}

/// Makes `out` large enough for what so many bytes are compressed to.
fn make_room(out: &mut Vec<u8>, raw_bytes: usize) {
    let bytes_max = lz4_flex::block::get_maximum_output_size(raw_bytes);
    if out.len() < bytes_max {
        *out = vec![0; bytes_max]; // not `resize`: zeros from the system take no time before they are overwritten
    }
}

/// Whether one of a long body's samples shrinks; a short body is not worth the samples.
fn seems_to_shrink(raw: &[u8], table: &mut CompressTable, out: &mut [u8]) -> bool {
    raw.len() < 4 * SAMPLE_BYTES || samples(raw).any(|sample| shrinks(sample, table, out))
}

fn samples(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts = [0, (raw.len() - SAMPLE_BYTES) / 2, raw.len() - SAMPLE_BYTES];
    starts.into_iter().filter_map(|start| raw.get(start..start + SAMPLE_BYTES))
}

fn shrinks(sample: &[u8], table: &mut CompressTable, out: &mut [u8]) -> bool {
    lz4_flex::block::compress_into_with_table(sample, out, table).is_ok_and(|bytes| bytes < sample.len())
}

#[cfg(test)]
mod tests;
