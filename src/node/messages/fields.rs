//! What the fields of a message are made of: numbers, texts, bytes.

use super::{Known, Malformed, NAMES_MAX};

/// A frame's fields on their way out, in a buffer that is used again.
pub(crate) struct Fields<'b>(pub &'b mut Vec<u8>);

impl Fields<'_> {
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u128(&mut self, value: u128) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// At most 4 GiB.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let bytes = bytes.get(..u32::MAX as usize).unwrap_or(bytes);
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub fn known(&mut self, known: Known) -> &mut Self {
        match known {
            Some((epoch, counter)) => self.u8(1).u64(epoch).u64(counter),
            None => self.u8(0),
        }
    }

    pub fn names(&mut self, names: &[u64]) -> &mut Self {
        let names = names.get(..NAMES_MAX).unwrap_or(names);
        self.u32(names.len() as u32);
        names.iter().for_each(|name| {
            self.u64(*name);
        });
        self
    }
}

/// The fields of a frame that has come in.
pub(crate) struct Reader<'a>(pub &'a [u8]);

const CUT_SHORT: Malformed = Malformed("a message is cut short");

impl<'a> Reader<'a> {
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(*array)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[value]| value)
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        self.str().map(str::to_owned)
    }

    pub fn known(&mut self) -> Result<Known, Malformed> {
        Ok(if self.bool()? { Some((self.u64()?, self.u64()?)) } else { None })
    }

    pub fn names(&mut self) -> Result<Vec<u64>, Malformed> {
        let count = self.u32()? as usize;
        if count > NAMES_MAX {
            return Err(Malformed("more names than there may be"));
        }
        (0..count).map(|_| self.u64()).collect()
    }

    pub fn end<T>(self, message: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(message) } else { Err(Malformed("a message is longer than it should be")) }
    }
}
