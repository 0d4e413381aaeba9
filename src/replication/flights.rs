use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::object::Object;
use crate::version::Version;

const SHARD_COUNT: usize = 16;

/// What a fetch came to: the object, or that there is none, or that Redis did not say.
pub(super) type Fetched = Result<Option<Object>, Unanswered>;

/// Redis did not say, and why.
#[derive(Clone, Debug)]
pub(super) struct Unanswered {
    pub address: String,
    pub reason: String,
}

/// Told what a fetch came to.
pub(super) type OnFetched = Box<dyn FnOnce(Fetched) + Send>;

/// Fetches on their way, at most one for an id however many ask.
#[derive(Default)]
pub(super) struct Flights {
    shards: [Mutex<HashMap<Box<[u8]>, Flight>>; SHARD_COUNT],
}

#[derive(Default)]
struct Flight {
    /// The highest version that an event named since the fetch began: an older copy is of no use.
    heard: Option<Version>,
    /// Events may have been missed since it began.
    is_stale: bool,
    /// When the id was deleted here meanwhile: who asked before may still have what is fetched.
    deleted_at: Option<Instant>,
    asked: Vec<(Instant, OnFetched)>,
    /// Questions whether the id exists in Redis, which a delete must not overtake.
    questions: usize,
    is_fetching: bool,
}

/// A flight that has ended: who asked, and when the id was deleted meanwhile.
pub(super) struct Landed {
    pub deleted_at: Option<Instant>,
    pub asked: Vec<(Instant, OnFetched)>,
}

impl Flights {
    fn with<T>(&self, id: &[u8], act: impl FnOnce(&mut HashMap<Box<[u8]>, Flight>) -> T) -> T {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        let shard = &self.shards[xxh3_64(id) as usize % SHARD_COUNT];
        act(&mut shard.lock())
    }

    /// Joins the fetch of an id; whether there was none, so that one has to be begun.
    pub fn join(&self, id: &[u8], asked: Option<OnFetched>) -> bool {
        self.with(id, |flights| {
            let flight = flights.entry(id.into()).or_default();
            flight.asked.extend(asked.map(|asked| (Instant::now(), asked)));
            !std::mem::replace(&mut flight.is_fetching, true)
        })
    }

    /// Until `answered`, the id counts as in flight.
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

    /// Whether Redis is being asked about the id: a delete that reached it now could change the answer.
    pub fn is_in_flight(&self, id: &[u8]) -> bool {
        self.with(id, |flights| flights.contains_key(id))
    }

    /// An event named this version of the id.
    pub fn hear(&self, id: &[u8], version: Version) {
        self.with(id, |flights| {
            if let Some(flight) = flights.get_mut(id) {
                flight.heard = flight.heard.max(Some(version));
            }
        });
    }

    /// Events may have been missed: whatever is on its way is fetched once more.
    pub fn doubt_all(&self) {
        for shard in &self.shards {
            shard.lock().values_mut().for_each(|flight| flight.is_stale = true);
        }
    }

    /// The id is being deleted here.
    pub fn deleting(&self, id: &[u8]) {
        self.with(id, |flights| {
            if let Some(flight) = flights.get_mut(id) {
                flight.deleted_at.get_or_insert_with(Instant::now);
            }
        });
    }

    /// Whether a copy with this version is the newest that was heard of.
    pub fn is_current(&self, id: &[u8], version: Version) -> bool {
        self.with(id, |flights| flights.get(id).is_none_or(|flight| !flight.is_stale && flight.heard <= Some(version)))
    }

    /// Before a copy is fetched anew.
    pub fn refresh(&self, id: &[u8]) {
        self.with(id, |flights| {
            if let Some(flight) = flights.get_mut(id) {
                flight.is_stale = false;
            }
        });
    }

    /// Ends the fetch of an id.
    pub fn land(&self, id: &[u8]) -> Landed {
        self.with(id, |flights| {
            let Some(flight) = flights.get_mut(id) else { return Landed { deleted_at: None, asked: Vec::new() } };
            let landed = Landed { deleted_at: flight.deleted_at.take(), asked: std::mem::take(&mut flight.asked) };
            if flight.questions == 0 {
                flights.remove(id);
            } else {
                (flight.is_fetching, flight.heard, flight.is_stale) = (false, None, false);
            }
            landed
        })
    }
}

impl From<Unanswered> for Error {
    fn from(Unanswered { address, reason }: Unanswered) -> Self {
        Error::Unreachable { address, reason }
    }
}
