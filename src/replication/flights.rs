//! Fetches under way, one flight for each id: who asked for it, and what was heard of the id meanwhile.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::object::Object;
use crate::redis::unusable;
use crate::version::Version;

const SHARD_COUNT: usize = 16;

/// How often a fetch is repeated because of what was announced meanwhile. A Redis that still does not have that has lost it.
const RETRIES_MAX: u32 = 4;

/// The result of a fetch: the object, or that there is none, or that Redis did not say.
pub(super) type FetchResult = Result<Option<Object>, Unanswered>;

/// Why Redis did not say what it has.
#[derive(Clone, Debug)]
pub(super) struct Unanswered {
    pub address: String,
    pub reason: String,
}

/// Called with the result of a fetch.
pub(super) type OnFetched = Box<dyn FnOnce(FetchResult) + Send>;

/// The flights, by id: at most one for an id however many ask.
#[derive(Default)]
pub(super) struct Flights {
    shards: [Mutex<HashMap<Box<[u8]>, Flight>>; SHARD_COUNT],
}

/// A delete of the id during a flight. Who asked before it may still get what the flight brings, if that is newer than what was known then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deleted {
    at: Instant,
    known: Version,
}

impl Deleted {
    /// The moment before which one must have asked in order to get a copy with this version; None if nobody may get it.
    pub fn moment(&self, version: Version) -> Option<Instant> {
        (version > self.known).then_some(self.at)
    }
}

/// A fetch, or questions, about one id.
#[derive(Default)]
struct Flight {
    /// The highest version that an event named since the fetch began: an older copy is of no use.
    heard: Option<Version>,
    /// Events may have been missed since the flight began, or one was heard that says nothing of the version.
    is_stale: bool,
    /// The id was deleted here during the flight.
    deleted: Option<Deleted>,
    asked: Vec<(Instant, OnFetched)>,
    /// Questions whether the id exists in Redis, which a delete must not overtake.
    questions: usize,
    is_fetching: bool,
    /// When Redis was asked: its answer is not good for whoever came later.
    begun: Option<Instant>,
    /// Somebody came later than that.
    again: bool,
    retries: u32,
}

/// The end of a flight: who asked in time, and whether the id was deleted meanwhile.
#[derive(Default)]
pub(super) struct Landed {
    pub deleted: Option<Deleted>,
    pub asked: Vec<(Instant, OnFetched)>,
    /// Somebody asked too late for this flight: the id has to be fetched once more.
    pub again: bool,
}

impl Flights {
    /// How many ids are being fetched or asked about.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn with<T>(&self, id: &[u8], act: impl FnOnce(&mut HashMap<Box<[u8]>, Flight>) -> T) -> T {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        let shard = &self.shards[xxh3_64(id) as usize % SHARD_COUNT];
        act(&mut shard.lock())
    }

    /// Joins the flight of an id. Returns true if there was no fetch, so that the caller has to queue one.
    pub fn join(&self, id: &[u8], asked: Option<OnFetched>) -> bool {
        self.with(id, |flights| {
            let flight = flights.entry(id.into()).or_default();
            flight.asked.extend(asked.map(|asked| (Instant::now(), asked)));
            flight.again = flight.begun.is_some();
            !std::mem::replace(&mut flight.is_fetching, true)
        })
    }

    /// Notes that Redis is about to be asked.
    pub fn begin(&self, id: &[u8]) {
        self.with(id, |flights| {
            if let Some(flight) = flights.get_mut(id) {
                (flight.begun, flight.again) = (Some(Instant::now()), false);
            }
        });
    }

    /// Notes a question about the id, which counts as in flight until `answered`.
    pub fn ask(&self, id: &[u8]) {
        self.with(id, |flights| flights.entry(id.into()).or_default().questions += 1);
    }

    pub fn answered(&self, id: &[u8]) {
        self.with(id, |flights| {
            let Some(flight) = flights.get_mut(id) else { return };
            flight.questions = flight.questions.saturating_sub(1);
            if flight.questions == 0 && !flight.is_fetching {
                flights.remove(id);
            }
        });
    }

    /// Whether Redis is being asked about the id, so that a delete that reached it now could change the answer.
    pub fn is_in_flight(&self, id: &[u8]) -> bool {
        self.with(id, |flights| flights.contains_key(id))
    }

    /// An event named this version of the id.
    pub fn note_version(&self, id: &[u8], version: Version) {
        self.with(id, |flights| {
            if let Some(flight) = flights.get_mut(id) {
                flight.heard = flight.heard.max(Some(version));
            }
        });
    }

    /// The id was written in Redis, so that what was read of it before is of no use. For values without versions.
    pub fn doubt(&self, id: &[u8]) {
        self.with(id, |flights| {
            if let Some(flight) = flights.get_mut(id) {
                flight.is_stale = true;
            }
        });
    }

    /// Events may have been missed: every flight under way fetches once more.
    pub fn doubt_all(&self) {
        for shard in &self.shards {
            shard.lock().values_mut().for_each(|flight| flight.is_stale = true);
        }
    }

    /// Notes that the id is being deleted here; `known` is the version that was known of it until now.
    pub fn deleting(&self, id: &[u8], known: Version) {
        self.with(id, |flights| {
            if let Some(flight) = flights.get_mut(id) {
                flight.deleted.get_or_insert_with(|| Deleted { at: Instant::now(), known });
            }
        });
    }

    /// The delete of the id here since its flight began, if there was one.
    pub fn deleted(&self, id: &[u8]) -> Option<Deleted> {
        self.with(id, |flights| flights.get(id)?.deleted)
    }

    /// When Redis was asked about the id.
    pub fn begun(&self, id: &[u8]) -> Instant {
        self.with(id, |flights| flights.get(id)?.begun).unwrap_or_else(Instant::now)
    }

    /// Whether no event during the flight named a version above this one, or made the flight stale.
    pub fn is_current(&self, id: &[u8], version: Version) -> bool {
        self.with(id, |flights| flights.get(id).is_none_or(|flight| !flight.is_stale && flight.heard <= Some(version)))
    }

    /// Whether to fetch an id once more because what was read is not current: not more than `RETRIES_MAX` times.
    pub fn retry(&self, id: &[u8]) -> bool {
        self.with(id, |flights| {
            let Some(flight) = flights.get_mut(id) else { return false };
            flight.retries += 1;
            let is_tried = flight.retries <= RETRIES_MAX;
            // A copy that is not read again stays stale, so that it is not kept.
            flight.is_stale &= !is_tried;
            is_tried
        })
    }

    /// Ends the fetch of an id, for those who had asked before Redis was.
    pub fn land(&self, id: &[u8]) -> Landed {
        self.with(id, |flights| {
            let Some(flight) = flights.get_mut(id) else { return Landed::default() };
            let begun = flight.begun.take();
            let (asked, late) = std::mem::take(&mut flight.asked)
                .into_iter()
                .partition(|(since, _)| begun.is_none_or(|begun| *since < begun));
            let again = std::mem::take(&mut flight.again);
            let landed = Landed { deleted: flight.deleted.take(), asked, again };
            (flight.heard, flight.is_stale, flight.retries) = (None, false, 0);
            (flight.asked, flight.is_fetching) = (late, again);
            if flight.questions == 0 && !again {
                flights.remove(id);
            }
            landed
        })
    }
}

impl From<Unanswered> for Error {
    fn from(Unanswered { address, reason }: Unanswered) -> Self {
        unusable(&address, &reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Invariant 5, where values have no version.
    #[test]
    fn what_was_read_before_a_write_was_heard_of_is_read_once_more() {
        let flights = Flights::default();
        assert!(flights.join(b"id", None));
        flights.begin(b"id");
        flights.doubt(b"other");
        assert!(flights.is_current(b"id", Version::default()));
        flights.doubt(b"id");
        assert!(!flights.is_current(b"id", Version::default()));
        assert!(flights.retry(b"id"));
        assert!(flights.is_current(b"id", Version::default()));
        for _ in 1..RETRIES_MAX {
            flights.doubt(b"id");
            assert!(flights.retry(b"id"));
        }
        flights.doubt(b"id");
        assert!(!flights.retry(b"id"), "it is written all the time");
        assert!(!flights.is_current(b"id", Version::default()), "what was read last is not kept");
    }
}
