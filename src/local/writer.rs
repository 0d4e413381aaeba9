//! Streamed writes: an object whose bytes come in pieces.

use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::bodies::Reservation;
use super::journal::record::INLINE_BODY_BYTES_MAX;
use super::tier::{Kinds, LocalTier};
use crate::backend::{OnStored, Patience, Writer};
use crate::error::Error;

/// An object whose data arrives in pieces: gathered in memory while it may still fit into its record, and from then on written to a stretch.
pub(super) struct LocalWriter {
    tier: Arc<LocalTier>,
    id: Box<[u8]>,
    data_bytes: u64,
    metadata: Box<[u8]>,
    gathered: Vec<u8>,
    reservation: Option<Reservation>,
    hasher: Xxh3,
}

impl LocalWriter {
    pub fn new(tier: Arc<LocalTier>, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Self, Error> {
        tier.admit(id, data_bytes.saturating_add(metadata.len() as u64), Patience::Caller)?;
        let mut hasher = Xxh3::new();
        hasher.update(metadata);
        let (gathered, reservation) = (Vec::new(), None);
        Ok(LocalWriter { tier, id: id.into(), data_bytes, metadata: metadata.into(), gathered, reservation, hasher })
    }

    fn write_piece(&mut self, piece: &[u8]) -> Result<(), Error> {
        let bytes = self.data_bytes + self.metadata.len() as u64;
        let reservation = self.reservation.as_mut().ok_or(Error::Closed)?;
        self.tier.hold_back(piece.len() as u64, false);
        let written = || Ok(reservation.write(piece)?);
        self.tier.with_room_of(Kinds::Body, &self.id, bytes, Patience::Caller, written)?;
        self.hasher.update(piece);
        Ok(())
    }
}

impl Writer for LocalWriter {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let tier = Arc::clone(&self.tier);
        let _inside = tier.gate.enter()?;
        if self.reservation.is_none() {
            if self.metadata.len() + self.gathered.len() + piece.len() <= INLINE_BODY_BYTES_MAX {
                self.gathered.extend_from_slice(piece);
                return Ok(());
            }
            let bytes = self.data_bytes + self.metadata.len() as u64;
            let reserve = || Ok(tier.bodies.reserve(bytes)?);
            self.reservation = Some(tier.with_room(&self.id, bytes, Patience::Caller, reserve)?);
            self.hasher = Xxh3::new();
            let (metadata, gathered) = (std::mem::take(&mut self.metadata), std::mem::take(&mut self.gathered));
            let written = self.write_piece(&metadata).and_then(|()| self.write_piece(&gathered));
            self.metadata = metadata;
            written?;
        }
        self.write_piece(piece)
    }

    fn read_back(&self, to: &mut dyn io::Write) -> Result<bool, Error> {
        let _inside = self.tier.gate.enter()?;
        match &self.reservation {
            Some(reservation) => reservation.read_back(self.metadata.len() as u64, to)?,
            None => {
                to.write_all(&self.gathered).map_err(Error::io("copy a body of", self.tier.segments.directory()))?
            }
        }
        Ok(true)
    }

    fn commit(mut self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error> {
        let tier = Arc::clone(&self.tier);
        let _inside = tier.gate.enter()?;
        let Some(reservation) = self.reservation.take() else {
            return tier.put(&self.id, &self.gathered, &self.metadata, stored);
        };
        let lengths = (self.data_bytes, self.metadata.len() as u32);
        tier.store_written(&self.id, reservation, lengths, self.hasher.digest128(), stored)
    }
}
