//! The names of keys in Redis. Nothing else makes one.

use crate::id::REDIS_ID_BYTES_MAX;
use crate::version::Version;

/// The names of everything that stands in Redis under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: impl Into<String>) -> Keys {
        Keys { prefix: prefix.into() }
    }

    /// The key of an object's value: the object itself, the manifest of its chunks, or its tombstone.
    pub fn object(&self, id: &[u8]) -> String {
        self.hex(id, 0)
    }

    /// The key of one chunk of an object.
    pub fn chunk(&self, id: &[u8], version: Version, chunk: u32) -> String {
        let mut key = self.hex(id, 1 + 32 + 1 + 10);
        key.push_str(&format!(":{:016x}{:016x}:{chunk}", version.clock, version.node));
        key
    }

    /// The stream of what changed.
    pub fn events(&self) -> String {
        format!("{}_events", self.prefix)
    }

    /// An epoch key. Its value is random and written once: another value means another Redis, or an emptied one. Those of number 1 and above are for
    /// the masters of a cluster.
    pub fn epoch(&self, number: u32) -> String {
        match number {
            0 => format!("{}_epoch", self.prefix),
            _ => format!("{}_epoch:{number}", self.prefix),
        }
    }

    /// A key that never exists, so that deleting it is a write that changes nothing. In a cluster, different numbers may be on different
    /// masters.
    pub fn guard(&self, number: u32) -> String {
        format!("{}_guard:{number}", self.prefix)
    }

    /// Set for a moment by the one of many nodes asked for an id that pushes it.
    pub fn claim(&self, id: &[u8]) -> String {
        format!("{}_claim:{}", self.prefix, Keys::new("").object(id))
    }

    pub fn object_count(&self) -> String {
        format!("{}_meta:object_count", self.prefix)
    }

    /// The Python backend's own counter.
    pub fn total_size(&self) -> String {
        format!("{}_meta:total_size", self.prefix)
    }

    /// The SCAN pattern for all keys with this prefix.
    pub fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 1);
        for character in self.prefix.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '^' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push('*');
        pattern
    }

    /// The id of an object's key; None for any other key.
    pub fn id_of(&self, key: &[u8]) -> Option<Vec<u8>> {
        let hex = key.strip_prefix(self.prefix.as_bytes())?;
        if hex.len() > 2 * REDIS_ID_BYTES_MAX {
            return None;
        }
        let (pairs, []) = hex.as_chunks::<2>() else { return None };
        pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
    }

    fn hex(&self, id: &[u8], more: usize) -> String {
        let mut key = String::with_capacity(self.prefix.len() + 2 * id.len() + more);
        key.push_str(&self.prefix);
        for byte in id {
            for nibble in [byte >> 4, byte & 15] {
                key.push(char::from(if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble }));
            }
        }
        key
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_documented_names() {
        let keys = Keys::new("scaler:obj:");
        let version = Version { clock: 0x0102, node: 0xff };
        assert_eq!(keys.object(b"\x00\xabz"), "scaler:obj:00ab7a");
        assert_eq!(keys.chunk(b"\x01", version, 12), "scaler:obj:01:000000000000010200000000000000ff:12");
        assert_eq!(keys.events(), "scaler:obj:_events");
        assert_eq!([0, 7].map(|number| keys.epoch(number)), ["scaler:obj:_epoch", "scaler:obj:_epoch:7"]);
        assert_eq!(keys.object_count(), "scaler:obj:_meta:object_count");
        assert_eq!(keys.total_size(), "scaler:obj:_meta:total_size");
        assert_eq!(Keys::new("a*[b]").pattern(), r"a\*\[b\]*");
    }

    #[test]
    fn only_the_keys_of_objects_have_an_id() {
        let keys = Keys::new("p:");
        let id: Vec<u8> = (0..=255).collect();
        assert_eq!(keys.id_of(keys.object(&id).as_bytes()), Some(id));
        let version = Version::default();
        let others = [
            keys.chunk(b"x", version, 0),
            keys.chunk(b"", version, 0),
            keys.events(),
            keys.epoch(0),
            keys.epoch(12),
            keys.object_count(),
            keys.total_size(),
        ];
        for other in others {
            assert_eq!(keys.id_of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keys.id_of(b"p:"), Some(Vec::new()));
        for other in ["p", "p:0", "p:AB", "q:ab", "p:zz", "ab"] {
            assert_eq!(keys.id_of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keys.id_of(keys.object(&[0; REDIS_ID_BYTES_MAX + 1]).as_bytes()), None);
    }
}
