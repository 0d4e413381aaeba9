//! The `redis` backend: every operation goes to Redis over a pool of connections, and nothing is kept on the node.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use parking_lot::{Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_64;

use super::body::{Body, Raw};
use super::envelope::Kind;
use super::events::{Notice, publish};
use super::fetch::{Fetched, VersionedObject, fetch, heads};
use super::keys::Keys;
use super::link::Link;
use super::listing;
use super::options::RedisOptions;
use super::pool::{Pool, PooledLink};
use super::push::{Outgoing, Pushed, What};
use super::server;
use super::stored_value::StoredValue;
use crate::backend::{Backend, ListPosition, Listed, OnStored, Page, Stats, Stored, Usage, Writer};
use crate::clock::events_ms;
use crate::error::Error;
use crate::id::ObjectId;
use crate::long_work::LongWork;
use crate::object::Object;
use crate::version::Version;

/// How often a write is repeated with a version above the one that it met in Redis: each time, another node was faster.
const VERSIONS_MAX: usize = 100;

/// The most that a streamed write allocates at its beginning: an announced length alone takes no memory.
const BUFFER_BYTES: u64 = 1 << 20;

/// Enough that threads on different ids rarely meet.
const WRITING_COUNT: usize = 1024;

/// How long closing waits for the listener; one that hangs on its connection ends by itself later.
const READER_WAIT_MAX: Duration = Duration::from_millis(500);

/// Most ids that `clear` deletes in one round.
const CLEARED_IDS_MAX: usize = 256;

/// The `redis` backend; a clone is another handle on it.
#[derive(Clone)]
pub(crate) struct RedisBackend {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    /// By hash of the id; held while an id is written and its waiters are answered: one that begins to wait after a later delete must not be
    /// answered with what was deleted.
    writing: Vec<Mutex<()>>,
    options: RedisOptions,
    damaged: AtomicU64,
    /// Since when Redis does not answer those who ask for its numbers.
    away_since: Mutex<Option<Instant>>,
    node: u64,
    closed: AtomicBool,
    /// Disconnected when the listener has ended.
    ended: Receiver<()>,
}

impl RedisBackend {
    /// The backend over these connections; `ended` disconnects when the listener has ended.
    pub(super) fn new(options: RedisOptions, pool: Pool, node: u64, ended: Receiver<()>) -> Self {
        let writing = std::iter::repeat_with(Mutex::default).take(WRITING_COUNT).collect();
        let (damaged, closed, away_since) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(None));
        RedisBackend { inner: Arc::new(Inner { pool, writing, options, damaged, away_since, node, closed, ended }) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire)
    }

    /// A connection outside of the pool, whose answers may take `longer` than `response_timeout_ms`.
    pub(super) fn connect(&self, longer: Duration) -> Result<Link, Error> {
        let timeout = Duration::from_millis(self.inner.options.response_timeout_ms);
        self.inner.pool.target().connect(timeout + longer)
    }

    pub(super) fn keys(&self) -> &Keys {
        self.inner.pool.keys()
    }

    pub(super) fn node(&self) -> u64 {
        self.inner.node
    }

    /// Notes an entry of the event stream, whose id is a lower bound on Redis's clock.
    pub(super) fn note_events(&self, cursor: &str) {
        self.inner.pool.clock().time().set_floor(events_ms(cursor));
    }

    pub(super) fn object_bytes_max(&self) -> u64 {
        self.inner.options.object_bytes_max()
    }

    /// Answers the waiters for an id if it exists. No delete of this node comes in between.
    pub(super) fn tell(&self, id: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        let _writing = self.inner.writing(id);
        if let Some(object) = self.inner.read(id)? {
            stored(Stored::now(&|| Some(object.clone())));
        }
        Ok(())
    }
}

impl Inner {
    fn writing(&self, id: &[u8]) -> MutexGuard<'_, ()> {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        self.writing[xxh3_64(id) as usize % WRITING_COUNT].lock()
    }

    fn refused(&self, action: &'static str, id: &[u8]) -> impl FnOnce(String) -> Error {
        let (address, id) = (self.pool.target().address().to_owned(), ObjectId::new(id));
        move |reason| Error::Refused { address, action, id, reason }
    }

    fn store(&self, id: &[u8], object: Body<'_>, stored: OnStored<'_>) -> Result<(), Error> {
        self.options.check_size(id, object.raw().len() as u64)?;
        let _writing = self.writing(id);
        let deadline_ms = self.pool.clock().time().deadline(self.options.object_ttl_seconds.saturating_mul(1000));
        self.write(id, What::Put { object: object.clone(), body_hash: OnceCell::new(), deadline_ms })?;
        stored(Stored::now(&|| Some(object.to_object())));
        Ok(())
    }

    /// Deletes the id. Returns what stood in Redis before.
    fn delete(&self, id: &[u8]) -> Result<Option<StoredValue>, Error> {
        let _writing = self.writing(id);
        self.write(id, What::Delete)
    }

    /// Carries out a write with a version above what stands in Redis, and returns what it replaced. The version is kept over a broken
    /// connection, so that the write is not carried out twice.
    fn write(&self, id: &[u8], what: What<'_>) -> Result<Option<StoredValue>, Error> {
        let action = if matches!(what, What::Delete) { "delete" } else { "store" };
        let mut write = Outgoing { id: id.to_vec(), version: self.pool.clock().next(), what, is_repeat: false };
        for _ in 0..VERSIONS_MAX {
            let mut attempts = 0;
            let pushed = self.pool.run(|lane| {
                attempts += 1;
                let pushed = lane.pusher.push(&mut lane.link, std::slice::from_ref(&write))?.pop();
                self.await_replicas(id, lane)?;
                let pushed = pushed.unwrap_or_else(|| Err("no answer".into()));
                pushed.and_then(Pushed::complete).map_err(self.refused(action, id))
            })?;
            match pushed {
                Pushed::Applied { replaced } => return Ok(replaced),
                Pushed::Same => return Ok(None),
                // `complete` has taken the first one out, and the others need a `Hearing`, which this backend does not have.
                Pushed::Incomplete(_) | Pushed::Later | Pushed::Overtaken => {}
                // The first attempt may have been carried out, and replaced by the newer write: repeated above that, it would come back.
                Pushed::Older(_) if attempts > 1 => {
                    let reason = "the connection broke during a write, which another one has replaced since";
                    return Err(self.pool.target().unreachable(reason));
                }
                Pushed::Older(StoredValue::Ours(head)) => {
                    write.version = self.pool.clock().next_above(head.version.clock)
                }
                Pushed::Older(_) => write.version = self.pool.clock().next(),
            }
        }
        Err(self.refused(action, id)("other nodes write it again and again".into()))
    }

    fn await_replicas(&self, id: &[u8], lane: &mut PooledLink) -> Result<(), Error> {
        let wanted = self.options.wait_replicas;
        if wanted == 0 || lane.link.is_cluster() {
            return Ok(());
        }
        // Shorter than the link's own timeout.
        let timeout = Duration::from_millis(self.options.response_timeout_ms / 2);
        let count = server::wait(&mut lane.link, wanted, timeout)?;
        if count < wanted {
            let reason = format!("only {count} of {wanted} replicas (wait_replicas) have it so far");
            return Err(self.refused("replicate", id)(reason));
        }
        Ok(())
    }

    fn read(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        let bytes_max = self.options.object_bytes_max();
        let fetched = self.pool.run(|lane| {
            let fetched = fetch(&mut lane.link, self.pool.keys(), &[id], bytes_max)?.pop();
            fetched.unwrap_or_else(|| Err("no answer".into())).map_err(self.refused("read", id))
        })?;
        Ok(match fetched {
            Fetched::Object(VersionedObject { object, .. }) | Fetched::Python(object) => Some(object),
            Fetched::Missing | Fetched::Tombstone(_) => None,
            Fetched::Damaged { reason, .. } => {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                tracing::error!("object {} is damaged in Redis and counts as missing: {reason}", ObjectId::new(id));
                None
            }
        })
    }

    /// What Redis says of itself.
    fn usage(&self) -> Result<Usage, Error> {
        let pool = &self.pool;
        pool.run(|lane| {
            pool.run_idle(|idle| idle.pusher.settle_counters(&mut idle.link));
            lane.pusher.settle_counters(&mut lane.link)?;
            let (objects, payload_bytes) = server::counters(&mut lane.link, pool.keys())?;
            let memory = server::memory(&mut lane.link)?.unwrap_or_default();
            Ok(Usage {
                objects,
                payloads: objects,
                payload_bytes,
                capacity_bytes: memory.max_bytes,
                physical_bytes: memory.used_bytes,
                damaged_objects: 0,
            })
        })
    }

    /// Deletes those of these ids under which an object stands.
    fn clear_ids(&self, link: &mut Link, ids: Vec<Vec<u8>>, work: &mut LongWork) -> Result<(), Error> {
        for ids in ids.chunks(CLEARED_IDS_MAX) {
            for (id, standing) in ids.iter().zip(heads(link, self.pool.keys(), ids)?) {
                let is_tombstone =
                    matches!(standing, Ok(Some(StoredValue::Ours(head))) if head.kind == Kind::Tombstone);
                if !is_tombstone {
                    self.delete(id)?;
                    work.step();
                }
            }
        }
        Ok(())
    }
}

impl Backend for RedisBackend {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        self.inner.store(id, Body::Lent(Raw { metadata, data }), stored)
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        self.inner.options.check_size(id, data_bytes.saturating_add(metadata.len() as u64))?;
        Ok(Box::new(RedisWriter {
            inner: Arc::clone(&self.inner),
            id: id.into(),
            metadata: Bytes::copy_from_slice(metadata),
            data: Vec::with_capacity(data_bytes.min(BUFFER_BYTES) as usize),
        }))
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.inner.read(id)
    }

    fn get_at_once(&self, _id: &[u8]) -> Result<Poll<Option<Object>>, Error> {
        Ok(Poll::Pending)
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        let inner = &self.inner;
        inner.pool.run(|lane| {
            let head = heads(&mut lane.link, inner.pool.keys(), &[id])?.pop();
            let standing = head.unwrap_or(Ok(None)).map_err(inner.refused("read", id))?;
            Ok(standing.as_ref().is_some_and(StoredValue::is_object))
        })
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        let replaced = self.inner.delete(id)?;
        Ok(replaced.as_ref().is_some_and(StoredValue::is_object))
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        match self.inner.read(original)? {
            Some(object) => self.inner.store(new, Body::Kept(object), stored).map(|()| true),
            None => Ok(false),
        }
    }

    fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        let pool = &self.inner.pool;
        pool.run(|lane| listing::list(&mut lane.link, pool.keys(), from, limit))
    }

    fn describe(&self, id: &[u8], verify: bool) -> Result<Option<Listed>, Error> {
        let (pool, bytes_max) = (&self.inner.pool, self.inner.options.object_bytes_max());
        pool.run(|lane| listing::describe(&mut lane.link, pool.keys(), id, verify, bytes_max))
    }

    fn restore(
        &self,
        id: &[u8],
        object: &Object,
        version: Version,
        deadline_ms: u64,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        let inner = &self.inner;
        inner.options.check_size(id, object.len() as u64)?;
        let _writing = inner.writing(id);
        inner.pool.clock().merge_clock(version);
        let body = Body::Kept(object.clone());
        let what = What::Put { object: body, body_hash: OnceCell::new(), deadline_ms };
        // Sent again over another connection it changes nothing: what stands has this version by then.
        let write = Outgoing { id: id.to_vec(), version, what, is_repeat: false };
        let pushed = inner.pool.run(|lane| {
            let pushed = lane.pusher.push(&mut lane.link, std::slice::from_ref(&write))?.pop();
            inner.await_replicas(id, lane)?;
            let pushed = pushed.unwrap_or_else(|| Err("no answer".into()));
            pushed.and_then(Pushed::complete).map_err(inner.refused("store", id))
        })?;
        match pushed {
            Pushed::Applied { .. } => {
                stored(Stored::now(&|| Some(object.clone())));
                Ok(true)
            }
            Pushed::Same | Pushed::Incomplete(_) | Pushed::Later | Pushed::Overtaken | Pushed::Older(_) => Ok(false),
        }
    }

    /// From the approximate counters in Redis; zeros if it cannot be reached.
    fn usage(&self) -> Usage {
        let asked = self.inner.usage();
        if let Err(error) = &asked {
            tracing::debug!("what is stored is not known: {error}");
        }
        // "Zeros": `info` cannot fail.
        Usage { damaged_objects: self.inner.damaged.load(Ordering::Relaxed), ..asked.unwrap_or_default() }
    }

    /// A Redis that does not answer is not an error: that is what it tells.
    fn add_stats(&self, stats: &mut Stats) -> Result<(), Error> {
        let asked = self.inner.usage();
        let mut away_since = self.inner.away_since.lock();
        match &asked {
            Ok(_) => *away_since = None,
            Err(Error::Closed) => return Err(Error::Closed),
            Err(error) => {
                let since = away_since.get_or_insert_with(Instant::now).elapsed();
                let kind = if matches!(error, Error::Unreachable { .. }) { "redis_away" } else { "refused" };
                stats.health.add(kind, error.to_string(), since.as_secs_f64());
            }
        }
        drop(away_since);
        let damaged_objects = self.inner.damaged.load(Ordering::Relaxed);
        stats.set_usage(Usage { damaged_objects, ..asked.unwrap_or_default() });
        stats.redis = Some(self.inner.pool.stats());
        Ok(())
    }

    fn count(&self) -> Result<(u64, u64), Error> {
        // Over a connection outside of the pool, as it may take a while.
        let mut link = self.connect(Duration::ZERO)?;
        server::count(&mut link, self.inner.pool.keys())
    }

    /// What Redis has acknowledged is as durable as Redis is set up.
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn clear(&self) -> Result<(), Error> {
        // Over a connection outside of the pool, which the deletes use.
        let mut link = self.connect(Duration::ZERO)?;
        let mut work = LongWork::begin("deleted", self.place());
        server::scan_ids(&mut link, self.inner.pool.keys(), |link, ids| self.inner.clear_ids(link, ids, &mut work))
    }

    fn close(&self) -> Result<(), Error> {
        let Inner { pool, node, closed, ended, .. } = &*self.inner;
        let mut is_reader_told = closed.swap(true, Ordering::AcqRel);
        pool.run_idle(|idle| {
            idle.pusher.settle_counters(&mut idle.link)?;
            if !std::mem::replace(&mut is_reader_told, true) {
                // Any event ends the read in which the listener waits.
                publish(&mut idle.link, pool.keys(), *node, &[Notice::hello()])?;
            }
            Ok(())
        });
        pool.close();
        let _ = ended.recv_timeout(READER_WAIT_MAX);
        Ok(())
    }

    fn place(&self) -> String {
        self.inner.pool.target().address().to_owned()
    }

    fn name(&self) -> &'static str {
        "redis"
    }
}

/// A streamed write: gathers the object in memory, since it is sent as a whole.
struct RedisWriter {
    inner: Arc<Inner>,
    id: Box<[u8]>,
    metadata: Bytes,
    data: Vec<u8>,
}

impl Writer for RedisWriter {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.data.extend_from_slice(piece);
        Ok(())
    }

    fn commit(self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error> {
        let RedisWriter { inner, id, metadata, data } = *self;
        inner.store(&id, Body::Kept(Object { data: data.into(), metadata }), stored)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crossbeam_channel::TryRecvError;

    use super::*;
    use crate::redis::testing;

    #[test]
    fn closing_waits_for_the_event_reader() {
        let server = testing::Server::start();
        let backend = RedisBackend::open(&server.options(), Arc::default()).unwrap();
        backend.put(b"id", b"data", b"", &mut |_| {}).unwrap();
        let begun = Instant::now();
        backend.close().unwrap();
        let has_ended = backend.inner.ended.try_recv() == Err(TryRecvError::Disconnected);
        assert!(has_ended || begun.elapsed() >= READER_WAIT_MAX);
        backend.close().unwrap();
    }
}
