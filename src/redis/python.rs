//! A value as the Python Redis backend writes it: `u32le metadata length, metadata, data`.

use bytes::Bytes;

use super::body::Raw;
use super::envelope::MAGIC;
use crate::object::{METADATA_BYTES_MAX, Object};

const HEAD_BYTES: usize = 4;

/// The longest value that Redis takes (`proto-max-bulk-len`, 512 MiB by default).
pub(crate) const VALUE_BYTES_MAX: u64 = 512 << 20;

/// The length of this object's value.
pub(crate) fn value_bytes<'a>(body: impl Into<Raw<'a>>) -> u64 {
    HEAD_BYTES as u64 + body.into().len() as u64
}

pub(crate) fn encode<'a>(body: impl Into<Raw<'a>>, mut write: impl FnMut(&[u8])) {
    let Raw { metadata, data } = body.into();
    write(&(metadata.len() as u32).to_le_bytes());
    write(metadata);
    write(data);
}

/// Reads a value that is not one of ours.
pub(crate) fn decode(value: Vec<u8>) -> Result<Object, String> {
    let Some(head) = value.first_chunk::<HEAD_BYTES>() else {
        return Err(format!("a value of {} bytes is too short to be an object", value.len()));
    };
    if *head == MAGIC {
        return Err("a value with the magic number is none of the Python backend's".into());
    }
    let metadata_bytes = u32::from_le_bytes(*head) as usize;
    let body_bytes = value.len() - HEAD_BYTES;
    if metadata_bytes > METADATA_BYTES_MAX || metadata_bytes > body_bytes {
        return Err(format!("{metadata_bytes} bytes of metadata are claimed in a value of {} bytes", value.len()));
    }
    let mut metadata = Bytes::from(value).split_off(HEAD_BYTES);
    let data = metadata.split_off(metadata_bytes);
    Ok(Object { data, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_python_backends() {
        let object = Object { data: "data".into(), metadata: "md".into() };
        let mut value = Vec::new();
        encode(&object, |bytes| value.extend_from_slice(bytes));
        assert_eq!(value, b"\x02\0\0\0mddata");
        assert_eq!(value.len() as u64, value_bytes(&object));
        assert_eq!(decode(value), Ok(object));
        assert_eq!(decode(vec![0; 4]), Ok(Object::default()));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        for value in [&b""[..], b"\0\0\0", b"\x02\0\0\0m", b"\xff\xff\xff\xffabc", &MAGIC, b"\x01\0\x10\0"] {
            assert!(decode(value.to_vec()).is_err(), "{value:?}");
        }
        // Longer than any metadata, though the value has as many bytes.
        let mut long = vec![0; METADATA_BYTES_MAX + 5];
        long[..4].copy_from_slice(&(METADATA_BYTES_MAX as u32 + 1).to_le_bytes());
        assert!(decode(long).is_err());
    }
}
