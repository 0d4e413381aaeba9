//! The greeting with which each side of a connection introduces itself.

use super::{IDENTITY_BYTES_MAX, LENGTH_BYTES, Malformed, split_length};

const MAGIC: [u8; 3] = *b"YMQ";
const MAGIC_BYTES: usize = 4;

/// 1 up to opengris-scaler 2.6, 2 from 2.7 on; nothing but the number differs.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=2;

/// How much of the other side's greeting has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting<'a> {
    /// Not even the version.
    NoVersion,
    /// The version, but not the identity.
    NoIdentity {
        /// Protocol version.
        version: u8,
    },
    /// All of it.
    Complete {
        /// Protocol version.
        version: u8,
        /// What it calls itself.
        identity: &'a [u8],
        /// Bytes of `input` that the greeting took.
        consumed: usize,
    },
}

impl<'a> Greeting<'a> {
    /// Decodes what has arrived so far. Wrong bytes are found as soon as they arrive.
    pub fn decode(input: &'a [u8]) -> Result<Self, Malformed> {
        let known = input.len().min(MAGIC.len());
        if input.get(..known) != MAGIC.get(..known) {
            return Err(Malformed::Magic);
        }
        let Some((&[.., version], rest)) = input.split_first_chunk::<MAGIC_BYTES>() else {
            return Ok(Greeting::NoVersion);
        };
        if !VERSIONS.contains(&version) {
            return Err(Malformed::Version(version));
        }
        let Some((length, rest)) = split_length(rest) else {
            return Ok(Greeting::NoIdentity { version });
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= IDENTITY_BYTES_MAX);
        let length = length.ok_or(Malformed::IdentityLength)?;
        match rest.get(..length) {
            None => Ok(Greeting::NoIdentity { version }),
            Some(identity) => {
                Ok(Greeting::Complete { version, identity, consumed: MAGIC_BYTES + LENGTH_BYTES + length })
            }
        }
    }
}

/// Our own greeting, in the client's version.
#[cfg(feature = "server")]
pub fn encode_greeting(version: u8, identity: &[u8]) -> Vec<u8> {
    let mut greeting = Vec::with_capacity(MAGIC_BYTES + LENGTH_BYTES + identity.len());
    greeting.extend_from_slice(&MAGIC);
    greeting.push(version);
    greeting.extend_from_slice(&(identity.len() as u64).to_le_bytes());
    greeting.extend_from_slice(identity);
    greeting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_magic_version_length_and_identity() {
        let bytes = encode_greeting(2, b"me");
        assert_eq!(bytes, b"YMQ\x02\x02\0\0\0\0\0\0\0me");
        let greeting = Greeting::decode(&bytes).unwrap();
        assert_eq!(greeting, Greeting::Complete { version: 2, identity: b"me", consumed: 14 });
    }

    #[test]
    fn a_greeting_may_arrive_byte_by_byte_and_with_more_behind_it() {
        let mut bytes = encode_greeting(1, b"worker");
        for cut in 0..bytes.len() {
            let expected = if cut < 4 { Greeting::NoVersion } else { Greeting::NoIdentity { version: 1 } };
            assert_eq!(Greeting::decode(&bytes[..cut]).unwrap(), expected, "{cut}");
        }
        bytes.extend_from_slice(b"more");
        let greeting = Greeting::decode(&bytes).unwrap();
        assert_eq!(greeting, Greeting::Complete { version: 1, identity: b"worker", consumed: 18 });
    }

    #[test]
    fn wrong_magic_is_found_at_its_first_byte() {
        assert_eq!(Greeting::decode(b"G"), Err(Malformed::Magic));
        assert_eq!(Greeting::decode(b"YMX"), Err(Malformed::Magic));
        assert_eq!(Greeting::decode(b"YMQ\x03"), Err(Malformed::Version(3)));
        assert_eq!(Greeting::decode(b"YMQ\x00"), Err(Malformed::Version(0)));
    }

    #[test]
    fn an_identity_beyond_its_limit_is_refused_by_its_length_alone() {
        let mut bytes = b"YMQ\x02".to_vec();
        bytes.extend_from_slice(&(IDENTITY_BYTES_MAX as u64 + 1).to_le_bytes());
        assert_eq!(Greeting::decode(&bytes), Err(Malformed::IdentityLength));
        bytes[4..].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Greeting::decode(&bytes), Err(Malformed::IdentityLength));
    }
}
