//! The body of a put, kept or lent.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::object::Object;

/// Metadata, then data: what is hashed, compressed and sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub metadata: &'a [u8],
    pub data: &'a [u8],
}

/// A body that is an object's, or one lent by a caller who waits until it is stored: copying a large one would take as long as sending it.
#[derive(Clone, Debug)]
pub(crate) enum Body<'a> {
    Kept(Object),
    Lent(Raw<'a>),
}

impl Raw<'_> {
    pub fn len(self) -> usize {
        self.metadata.len() + self.data.len()
    }

    /// The part of metadata and data, one behind the other, from `start` up to `end`.
    pub fn part(self, start: usize, end: usize) -> Self {
        let split = self.metadata.len();
        let metadata = self.metadata.get(start..end.min(split)).unwrap_or_default();
        let data = self.data.get(start.saturating_sub(split)..end.saturating_sub(split).min(self.data.len()));
        Raw { metadata, data: data.unwrap_or_default() }
    }

    pub fn hash(self) -> u128 {
        let mut hasher = Xxh3::new();
        self.add_to(&mut hasher);
        hasher.digest128()
    }

    /// Adds metadata, then data, to a hash.
    pub fn add_to(self, hasher: &mut Xxh3) {
        hasher.update(self.metadata);
        hasher.update(self.data);
    }
}

impl Body<'_> {
    pub fn raw(&self) -> Raw<'_> {
        match self {
            Body::Kept(object) => object.into(),
            Body::Lent(raw) => *raw,
        }
    }

    pub fn to_object(&self) -> Object {
        match self {
            Body::Kept(object) => object.clone(),
            Body::Lent(Raw { metadata, data }) => {
                Object { data: Bytes::copy_from_slice(data), metadata: Bytes::copy_from_slice(metadata) }
            }
        }
    }
}

impl<'a> From<&'a Object> for Raw<'a> {
    fn from(object: &'a Object) -> Self {
        Raw { metadata: &object.metadata, data: &object.data }
    }
}

impl<'a> From<&'a Body<'_>> for Raw<'a> {
    fn from(body: &'a Body<'_>) -> Self {
        body.raw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_across_the_end_of_the_metadata() {
        let raw = Raw { metadata: b"abc", data: b"defg" };
        let part = |start, end| {
            let Raw { metadata, data } = raw.part(start, end);
            [metadata, b"|", data].concat()
        };
        assert_eq!(part(0, 2), b"ab|");
        assert_eq!(part(2, 5), b"c|de");
        assert_eq!(part(3, 100), b"|defg");
        assert_eq!(part(7, 8), b"|");
        assert_eq!(raw.hash(), Raw { metadata: b"", data: b"abcdefg" }.hash());
    }
}
