//! What the fuzz targets check of what stands on a node's socket.

use super::messages::{HEAD_BYTES, Head, Manner, Reply, Request, VERSION};
use crate::error::Error;

/// Any bytes as a request and as a reply: nothing panics, and what is understood survives being written again.
pub fn message(bytes: &[u8]) {
    let Some((head, fields)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return };
    let head = Head::decode(*head);
    let mut buffer = Vec::new();
    if let Ok((request, manner)) = head.check_request().and_then(|head| Request::decode(head, fields)) {
        request.encode(manner, head.slot, head.data_bytes, &mut buffer);
        let (again, same) = split(&buffer);
        assert_eq!((again.kind, again.slot, again.data_bytes), (head.kind, head.slot, head.data_bytes));
        // Of one in another language nothing but the beginning is understood.
        let is_ours = !matches!(request, Request::Greet { version, .. } if version != VERSION);
        assert!(!is_ours || same == fields);
        assert_eq!(Request::decode(again, same), Ok((request, manner)));
    }
    if let Ok(reply) = head.check_reply().and_then(|head| Reply::decode(head, fields)) {
        reply.encode(head.data_bytes, &mut buffer);
        let (again, same) = split(&buffer);
        assert_eq!((again.kind, again.data_bytes), (head.kind, head.data_bytes));
        // The number of an error of the system has its own words, and an action is one of those that there are.
        let is_said_anew = matches!(reply, Reply::Failed(Error::Io { .. } | Error::Refused { .. }));
        assert!(is_said_anew || same == fields);
    }
}

/// The same of the requests that these parts make: noise finds its way deeper in.
pub fn request(kind: u8, id: &[u8], number: u64, text: &[u8]) {
    let request = match kind % 9 {
        0 => Request::Get { ticket: number, id },
        1 => Request::Put { id, metadata: text },
        2 => Request::Duplicate { original: id, new: text },
        3 => Request::Reserve { ticket: number, id, data_bytes: number, metadata_bytes: number as u32 },
        4 => Request::Claim { ticket: number, names: text.iter().map(|name| u64::from(*name)).take(1000).collect() },
        5 => Request::List { from: id, limit: number as u32 },
        6 => Request::Describe { verify: number & 1 == 1, id },
        7 => Request::Begin { id, data_bytes: number, metadata: text },
        _ => Request::Greet {
            version: VERSION,
            session: number,
            expected: vec![(String::from_utf8_lossy(id).into_owned(), String::from_utf8_lossy(text).into_owned())],
        },
    };
    let mut buffer = Vec::new();
    request.encode(Manner::default(), number as u16, 0, &mut buffer);
    let (head, fields) = split(&buffer);
    assert_eq!(Request::decode(head, fields), Ok((request, Manner::default())));
    message(&buffer);
    // Cut short.
    if let Some(cut) = buffer.get(..buffer.len().saturating_sub(1)) {
        message(cut);
    }
}

fn split(buffer: &[u8]) -> (Head, &[u8]) {
    let (head, fields) = buffer.split_at_checked(HEAD_BYTES).unwrap_or_default();
    let head = Head::decode(head.first_chunk().copied().unwrap_or_default());
    assert_eq!(head.fields_bytes as usize, fields.len());
    (head, fields)
}
