//! Listing: what is known of each object without handing it out, page by page in the order of fingerprints, and checking one against its
//! checksums.

use super::index::{Index, Place};
use super::journal::{Flags, Header, Lsn, SegmentKind};
use super::read::{Located, RecordAt, Trouble, Unreadable, verify_body};
use super::tier::LocalTier;
use crate::backend::{ListPosition, Listed, ObjectState, Page};
use crate::clock::MS_MAX;
use crate::error::Error;
use crate::id::ObjectId;

impl LocalTier {
    /// Some objects, from `from` on. A position is that of the last object of the page before.
    pub fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        let _inside = self.gate.enter()?;
        let mut after = Place::decode(&from.0)?;
        let mut page = Page::default();
        let first = after.as_ref().map_or(0, |place| Index::shard_number(place.fingerprint));
        let fingerprints = self.index().fingerprints();
        for shard in self.index().shards().skip(first) {
            loop {
                let wanted = limit.saturating_sub(page.objects.len());
                let places = shard.table.read().places_behind(fingerprints, after.as_ref(), wanted);
                let is_last = places.len() < wanted;
                for place in places {
                    page.objects.extend(self.listed_at(&place)?);
                    after = Some(place);
                }
                if page.objects.len() >= limit {
                    page.next = after.map(|place| ListPosition(place.encode()));
                    return Ok(page);
                }
                if is_last {
                    break;
                }
            }
            // The next shard begins anew: its fingerprints are not above this one's.
            after = None;
        }
        Ok(page)
    }

    /// The object at this place of the index; None where it is gone by now, or counts as gone.
    fn listed_at(&self, place: &Place) -> Result<Option<Listed>, Error> {
        let table = self.index().shard(place.fingerprint).table.read();
        let Some(lsn) = table.find_place(place) else { return Ok(None) };
        // While the shard is locked, no segment that one of its places is in is removed.
        match self.record_at(lsn) {
            Ok(record) if self.journal.is_over(&record.header) || self.is_hidden(lsn) => Ok(None),
            Ok(record) => Ok(Some(self.listed(&record))),
            Err(Unreadable::Failed(error)) => Err(error),
            Err(Unreadable::Damaged(reason)) => {
                let id = place.collision.as_deref().unwrap_or_default();
                Ok(Some(self.listed_damaged(id, lsn, None, reason)))
            }
        }
    }

    /// What is known of one object; with `verify`, from its bytes. One that is damaged is not let go.
    pub fn describe(&self, id: &[u8], verify: bool) -> Result<Option<Listed>, Error> {
        let _inside = self.gate.enter()?;
        let trouble = match self.locate_unread(id) {
            Ok(None) => return Ok(None),
            Ok(Some(found)) => {
                let listed = self.listed_header(id, &found.header);
                if !verify {
                    return Ok(Some(listed));
                }
                let (lsn, header) = (found.header.lsn, Some(Box::new(found.header)));
                match self.check(&found) {
                    Ok(()) => return Ok(Some(listed)),
                    Err(unreadable) => Trouble { lsn, header, unreadable },
                }
            }
            Err(trouble) => trouble,
        };
        match trouble.unreadable {
            Unreadable::Failed(error) => Err(error),
            Unreadable::Damaged(reason) => {
                Ok(Some(self.listed_damaged(id, trouble.lsn, trouble.header.as_deref(), reason)))
            }
        }
    }

    /// Reads all bytes of what was located, whether they were checked before or not.
    fn check(&self, found: &Located) -> Result<(), Unreadable> {
        let segments = self.segments.load();
        let own = segments.get(&found.header.lsn.segment());
        if let Some(segment) = own
            && found.header.lsn != found.holder.lsn
        {
            let record = self.record_at(found.header.lsn)?;
            record.verify(segment)?;
        }
        match segments.get(&found.holder.lsn.segment()) {
            Some(segment) => found.holder.verify(segment)?,
            // It has moved since, by a copy that was checked.
            None => return self.verified(found),
        }
        match &found.stretch {
            Some(stretch) => verify_body(&stretch.segment, u64::from(stretch.place.offset), &found.holder.header),
            None => Ok(()),
        }
    }

    fn listed(&self, record: &RecordAt) -> Listed {
        self.listed_header(record.id(), &record.header)
    }

    fn listed_header(&self, id: &[u8], header: &Header) -> Listed {
        let is_clean = header.flags.has(Flags::CLEAN);
        let state = match &self.outbox {
            None => ObjectState::Kept,
            Some(outbox) if outbox.is_dirty(header.lsn, is_clean) => ObjectState::Dirty,
            Some(outbox) if self.is_suspect(outbox, header.lsn, is_clean) => ObjectState::Suspect,
            Some(_) => ObjectState::Clean,
        };
        let deadline_ms = header.deadline_ms;
        Listed {
            id: ObjectId::new(id),
            data_bytes: header.data_bytes,
            metadata_bytes: u64::from(header.metadata_bytes),
            version: Some(header.version),
            expires_ms: (1..=MS_MAX).contains(&deadline_ms).then_some(deadline_ms),
            state,
            place: self.place_of(header.lsn, Some(header)),
        }
    }

    fn listed_damaged(&self, id: &[u8], lsn: Lsn, header: Option<&Header>, reason: &str) -> Listed {
        let state = ObjectState::Damaged { reason: reason.to_owned() };
        match header {
            Some(header) => Listed { state, ..self.listed_header(id, header) },
            None => Listed {
                id: ObjectId::new(id),
                data_bytes: 0,
                metadata_bytes: 0,
                version: None,
                expires_ms: None,
                state,
                place: self.place_of(lsn, None),
            },
        }
    }

    /// Files and offsets: of the record, and of a body that stands elsewhere.
    fn place_of(&self, lsn: Lsn, header: Option<&Header>) -> String {
        let record = format!("{:010}.records at {}", lsn.segment(), lsn.offset());
        let Some(header) = header else { return record };
        if header.flags.has(Flags::SHARED) {
            return format!("{record}, bytes shared");
        }
        if !header.flags.has(Flags::EXTERNAL) {
            return record;
        }
        let body = header.body_place;
        let kind = self.segments.get(body.segment).map_or(SegmentKind::Bodies, |segment| segment.kind);
        let extension = if kind == SegmentKind::Body { "body" } else { "bodies" };
        format!("{record}, {:010}.{extension} at {}", body.segment, body.offset)
    }
}
