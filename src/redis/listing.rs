//! Listing what stands in Redis: SCAN, page by page, then the heads of the values.

use super::envelope::Kind;
use super::fetch::{Fetched, VersionedObject, fetch, heads};
use super::keys::Keys;
use super::link::Link;
use super::server::scan_page;
use super::stored_value::StoredValue;
use crate::backend::{LISTED_MAX, ListPosition, Listed, ObjectState, Page};
use crate::clock::MS_MAX;
use crate::error::Error;
use crate::id::ObjectId;

/// Where a listing is: the number of the master, and its SCAN cursor.
struct Position {
    master: u32,
    cursor: u64,
}

impl Position {
    fn decode(position: &ListPosition) -> Result<Position, Error> {
        match (position.0.as_slice().split_first_chunk(), position.0.is_empty()) {
            (_, true) => Ok(Position { master: 0, cursor: 0 }),
            (Some((master, cursor)), _) if cursor.len() == 8 => {
                let cursor = cursor.first_chunk().copied().unwrap_or_default();
                Ok(Position { master: u32::from_le_bytes(*master), cursor: u64::from_le_bytes(cursor) })
            }
            _ => Err(Error::Config("this is no position in a listing of this store".to_owned())),
        }
    }

    fn encode(&self) -> ListPosition {
        let mut bytes = self.master.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.cursor.to_le_bytes());
        ListPosition(bytes)
    }
}

/// One SCAN, and what stands under the ids that it has found: about `limit`, as Redis sees fit.
pub(crate) fn list(link: &mut Link, keys: &Keys, from: &ListPosition, limit: usize) -> Result<Page, Error> {
    let Position { master, cursor } = Position::decode(from)?;
    if master as usize >= link.masters() {
        return Ok(Page::default());
    }
    let (ids, next) = scan_page(link, keys, master as usize, cursor, limit.min(LISTED_MAX))?;
    let mut objects = Vec::new();
    for ids in ids.chunks(LISTED_MAX) {
        for (id, standing) in ids.iter().zip(heads(link, keys, ids)?) {
            objects.extend(listed(link, id, standing)?);
        }
    }
    let next = match next {
        0 if master as usize + 1 >= link.masters() => None,
        0 => Some(Position { master: master + 1, cursor: 0 }),
        cursor => Some(Position { master, cursor }),
    };
    Ok(Page { objects, next: next.map(|position| position.encode()) })
}

/// What is known of one object; with `verify`, from all of its bytes.
pub(crate) fn describe(
    link: &mut Link,
    keys: &Keys,
    id: &[u8],
    verify: bool,
    object_bytes_max: u64,
) -> Result<Option<Listed>, Error> {
    let standing = heads(link, keys, &[id])?.pop().unwrap_or(Ok(None));
    let Some(found) = listed(link, id, standing)? else { return Ok(None) };
    if !verify || matches!(found.state, ObjectState::Damaged { .. }) {
        return Ok(Some(found));
    }
    let fetched = fetch(link, keys, &[id], object_bytes_max)?.pop().unwrap_or_else(|| Err("no answer".to_owned()));
    Ok(match fetched {
        Ok(Fetched::Missing | Fetched::Tombstone(_)) => None,
        Ok(Fetched::Object(VersionedObject { version, .. })) => Some(Listed { version: Some(version), ..found }),
        Ok(Fetched::Python(_)) => Some(found),
        Ok(Fetched::Damaged { reason, .. }) => Some(Listed { state: ObjectState::Damaged { reason }, ..found }),
        Err(reason) => return Err(refused(link, id, reason)),
    })
}

fn refused(link: &Link, id: &[u8], reason: String) -> Error {
    Error::Refused { address: link.address().to_owned(), action: "read", id: ObjectId::new(id), reason }
}

fn listed(link: &Link, id: &[u8], standing: Result<Option<StoredValue>, String>) -> Result<Option<Listed>, Error> {
    let standing = standing.map_err(|reason| refused(link, id, reason))?;
    let bare = |data_bytes, state| Listed {
        id: ObjectId::new(id),
        data_bytes,
        metadata_bytes: 0,
        version: None,
        expires_ms: None,
        state,
        place: "Redis".to_owned(),
    };
    Ok(match standing {
        None => None,
        Some(StoredValue::Ours(head)) if head.kind == Kind::Tombstone => None,
        Some(StoredValue::Ours(head)) => Some(Listed {
            metadata_bytes: u64::from(head.metadata_bytes),
            version: Some(head.version),
            expires_ms: (1..=MS_MAX).contains(&head.deadline_ms).then_some(head.deadline_ms),
            ..bare(head.data_bytes, ObjectState::Remote)
        }),
        Some(StoredValue::Python { bytes }) => Some(bare(bytes.saturating_sub(4), ObjectState::Remote)),
        Some(StoredValue::Damaged { bytes }) => {
            Some(bare(bytes, ObjectState::Damaged { reason: "its head is not valid".to_owned() }))
        }
    })
}
