//! Disks that can be filled up, and get room again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use crate::common::mounted::Mounted;
use crate::disk::{Call as DiskCall, Fault};
use crate::system::Call;
use crate::world::{World, place};

/// Where a store's directory is, and who takes the room beside it.
pub struct Disk {
    _place: TempDir,
    path: PathBuf,
    room: Room,
}

enum Room {
    /// A file system of its own. It goes with the process.
    Mounted(Mounted),
    /// The directory may take so many bytes.
    Counted(Arc<AtomicU64>),
}

impl Disk {
    /// A file system of this size; None where this process may not mount one.
    pub fn mounted(megabytes: u64) -> Option<Disk> {
        let (place, path) = place();
        let mounted = Mounted::at(&path, megabytes)?;
        Some(Disk { _place: place, path, room: Room::Mounted(mounted) })
    }

    /// A disk that counts what the store takes, and refuses what is too much.
    pub fn counted(megabytes: u64) -> Disk {
        let (place, path) = place();
        Disk { _place: place, path, room: Room::Counted(Arc::new(AtomicU64::new(megabytes << 20))) }
    }

    pub fn directory(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Makes the store in `world` one that is on this disk.
    pub fn limit(&self, world: &World) {
        let Room::Counted(bytes_max) = &self.room else { return };
        let (bytes_max, directory) = (Arc::clone(bytes_max), self.directory());
        let has_room = move |more: u64| used(&directory) + more <= bytes_max.load(Ordering::Relaxed);
        let has_room_too = has_room.clone();
        world.disk.set(move |attempt| {
            let more = match attempt.call {
                DiskCall::Create => attempt.amount,
                DiskCall::Grow => attempt.amount.saturating_sub(fs::metadata(attempt.path).map_or(0, |it| it.len())),
                _ => return None,
            };
            (!has_room(more)).then_some(Fault::Refused(libc::ENOSPC))
        });
        // Segments get their room when they are made or grown.
        let journal = self.directory().join("journal");
        world.system.set(move |attempt| {
            let more = match attempt.call {
                Call::Write if attempt.path.starts_with(&journal) => 0,
                Call::Write => {
                    pages(attempt.end).saturating_sub(fs::metadata(attempt.path).map_or(0, |it| pages(it.len())))
                }
                Call::Open if attempt.creates && !attempt.path.exists() => PAGE_BYTES,
                Call::MakeDirectory if !attempt.path.exists() => PAGE_BYTES,
                _ => 0,
            };
            (more > 0 && !has_room_too(more)).then_some(libc::ENOSPC)
        });
    }

    /// Others take all the room that is left.
    pub fn fill(&self) {
        match &self.room {
            Room::Mounted(mounted) => mounted.fill(),
            Room::Counted(bytes_max) => bytes_max.store(used(&self.directory()), Ordering::Relaxed),
        }
    }

    /// What others took is there again.
    pub fn free(&self) {
        match &self.room {
            Room::Mounted(mounted) => mounted.free(),
            Room::Counted(bytes_max) => bytes_max.store(u64::MAX, Ordering::Relaxed),
        }
    }
}

/// Files take room by the page.
const PAGE_BYTES: u64 = 4096;

fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// Bytes that all files below a directory take.
fn used(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let bytes = |path: PathBuf| match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => used(&path),
        metadata => metadata.map_or(0, |it| pages(it.len())),
    };
    entries.flatten().map(|entry| bytes(entry.path())).sum()
}
