//! Redis's words in answers, readable whatever they quote: a refusal may quote what was sent, which is arbitrary bytes, and the parser takes
//! nothing but UTF-8.

use std::io::{self, Read};

/// What the first byte of TLS's alerts and handshakes is; no answer of Redis begins so.
const TLS: [u8; 2] = [0x15, 0x16];

/// Answers, in which refusals are made readable. Follows the answers' framing as far as it has to: which bytes belong to a line, and how many
/// to a body.
pub(super) struct Words<R> {
    answers: R,
    place: Place,
}

/// Where in an answer the next byte stands.
#[derive(Clone, Copy)]
enum Place {
    /// At the byte that says what follows.
    Kind,
    /// In the line of a refusal.
    Refusal,
    /// In another line. `length`: of the body behind it, as far as it was read, where there is one.
    Line { length: Option<u64> },
    /// In a body, with so many bytes left, the end of its line included.
    Body { left: u64 },
}

impl<R> Words<R> {
    pub fn new(answers: R) -> Words<R> {
        Words { answers, place: Place::Kind }
    }

    pub fn get_ref(&self) -> &R {
        &self.answers
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.answers
    }

    fn follow(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        loop {
            if let Place::Body { left } = self.place {
                let within = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                bytes = bytes.get_mut(within..).unwrap_or_default();
                self.place = match left - within as u64 {
                    0 => Place::Kind,
                    left => Place::Body { left },
                };
            }
            let Some((byte, behind)) = bytes.split_first_mut() else { return Ok(()) };
            self.place = match (self.place, *byte) {
                (Place::Kind, first) if TLS.contains(&first) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it speaks TLS: write rediss:// in the url",
                    ));
                }
                (Place::Kind, b'-') => Place::Refusal,
                (Place::Kind, b'$' | b'!' | b'=') => Place::Line { length: Some(0) },
                (Place::Kind, _) => Place::Line { length: None },
                (Place::Refusal | Place::Line { length: None }, b'\n') => Place::Kind,
                (Place::Refusal, b'\r') => Place::Refusal,
                (Place::Refusal, other) => {
                    if !(b' '..=b'~').contains(&other) {
                        *byte = b'?';
                    }
                    Place::Refusal
                }
                // The body and the end of its line.
                (Place::Line { length: Some(length) }, b'\n') => Place::Body { left: length.saturating_add(2) },
                // Nothing stands behind a length below zero.
                (Place::Line { length: Some(_) }, b'-') => Place::Line { length: None },
                (Place::Line { length: Some(length) }, digit @ b'0'..=b'9') => {
                    let length = length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
                    Place::Line { length: Some(length) }
                }
                (place, _) => place,
            };
            bytes = behind;
        }
    }
}

impl<R: Read> Read for Words<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.answers.read(buffer)?;
        self.follow(buffer.get_mut(..count).unwrap_or_default())?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes at a time.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1.min(buffer.len());
            self.0.read(&mut buffer[..size])
        }
    }

    #[test]
    fn only_what_a_refusal_quotes_is_made_readable_however_the_bytes_arrive() {
        let sent = b"-ERR unknown '\xff\xfeX\x00ADD'\r\n$4\r\n-\xff\r\n\r\n*2\r\n-NOPERM \x80\r\n$-1\r\n+OK\r\n=3\r\n-\xfe\xff\r\n:1\r\n-\xff\r\n";
        let read = b"-ERR unknown '??X?ADD'\r\n$4\r\n-\xff\r\n\r\n*2\r\n-NOPERM ?\r\n$-1\r\n+OK\r\n=3\r\n-\xfe\xff\r\n:1\r\n-?\r\n";
        for size in 1..=sent.len() {
            let mut all = Vec::new();
            Words::new(Drops(sent, size)).read_to_end(&mut all).unwrap();
            assert_eq!(all, read, "{size} bytes at a time");
        }
    }

    #[test]
    fn a_port_that_speaks_tls_is_named() {
        let error = Words::new(&b"\x15\x03\x03\x00\x02\x02\x46"[..]).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("rediss://"), "{error}");
    }
}
