//! What a store shows of itself: one snapshot of numbers, for people, for metrics, and for other programs.

use serde::{Deserialize, Serialize};

/// What a backend holds, for [`Info`](crate::Info).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub objects: u64,
    pub payloads: u64,
    pub payload_bytes: u64,
    pub capacity_bytes: u64,
    pub physical_bytes: u64,
    pub damaged_objects: u64,
}

/// A snapshot of a store, made by [`ObjectStore::stats`](crate::ObjectStore::stats).
///
/// Numbers whose description says "so far" only grow, from 0 when the store was opened. Ages and times are in seconds. As JSON, every field
/// stands under its name; a field that the other program does not have is left at its default, 0 or none.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// The version of the program that has the store open.
    pub version: String,
    /// `memory`, `local`, `redis` or `tiered`.
    pub backend: String,
    /// Where the objects are: `memory`, the directory, the address of Redis without its password, or (`tiered`) both of these.
    pub place: String,
    /// How long the store has been open, in seconds.
    pub open_seconds: f64,
    /// Whether all is well, and what is not.
    pub health: Health,
    /// Objects: with `tiered` those held on this node, with `redis` about as many as Redis holds.
    pub objects: u64,
    /// Payloads of these objects; one that several objects share counts once. In Redis each object has its own.
    pub payloads: u64,
    /// Bytes of those payloads, metadata included.
    pub payload_bytes: u64,
    /// The most bytes that the store may take, on disk or in memory; with `redis`, that Redis may take for everything in it (0: no limit).
    pub capacity_bytes: u64,
    /// Bytes that it takes now, with what is dead but not yet reclaimed; with `redis`, that Redis takes for everything in it.
    pub physical_bytes: u64,
    /// Objects found damaged so far; each is a miss and a line in the log.
    pub damaged_objects: u64,
    /// What was asked of the store so far.
    pub operations: OperationStats,
    /// Who waits for objects that do not exist yet.
    pub waits: WaitStats,
    /// The journal on this node's disk; none with `memory` and `redis`.
    pub local: Option<LocalStats>,
    /// What goes to Redis and comes from other nodes; none but with `tiered`.
    pub replication: Option<ReplicationStats>,
    /// The connections to Redis; none but with `redis`.
    pub redis: Option<RedisStats>,
    /// The processes that are attached; none where the process that has the store open keeps it for nobody else.
    pub keeper: Option<KeeperStats>,
    /// The process that has the store open.
    pub process: ProcessStats,
}

/// Whether a store works.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// All is well, as far as is known.
    #[default]
    Ok,
    /// It serves, and something does not work that should: see [`Health::reasons`].
    Degraded,
}

/// Whether all is well, and what is not.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `ok`, or `degraded` where there is a reason.
    pub state: HealthState,
    /// What does not work, the longest standing first. Empty where all is well.
    pub reasons: Vec<HealthReason>,
}

/// One thing that does not work.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthReason {
    /// What it is, in one word: `redis_away` (no connection), `not_pushed` (Redis can be reached, and nothing can be pushed), `refused` (Redis
    /// refuses some of what it is sent, or takes less than is written), `not_confirmed` (too few replicas have it), `not_heard` (what other nodes
    /// do is not heard), `writes_refused` (the disk has failed).
    pub kind: String,
    /// The same in a sentence, with the last error.
    pub text: String,
    /// For how long, in seconds.
    pub since_seconds: f64,
}

impl Health {
    /// Adds a reason.
    pub(crate) fn add(&mut self, kind: &str, text: String, since_seconds: f64) {
        self.state = HealthState::Degraded;
        self.reasons.push(HealthReason { kind: kind.to_owned(), text, since_seconds });
        self.reasons.sort_by(|one, other| other.since_seconds.total_cmp(&one.since_seconds));
    }
}

/// What was asked of a store so far, by this process, by clients of its server and by attached processes. What an attached process answers
/// from what it remembers is not among it.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationStats {
    /// Gets so far that found their object here; with `redis`, in Redis.
    pub hits: u64,
    /// Gets so far that did not. With `tiered` Redis may have had it: see [`ReplicationStats::fetches`].
    pub misses: u64,
    /// Bytes of data that gets have handed out so far.
    pub read_bytes: u64,
    /// Objects put so far, streamed ones included.
    pub puts: u64,
    /// Bytes of data of these.
    pub put_bytes: u64,
    /// Deletes so far, of objects that existed or not.
    pub deletes: u64,
    /// Duplicates made so far.
    pub duplicates: u64,
}

/// Who waits for objects that do not exist yet.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitStats {
    /// Requests that wait now.
    pub requests: u64,
    /// Different ids that these wait for.
    pub ids: u64,
    /// How long the oldest of these has waited, in seconds; 0 where nobody waits.
    pub oldest_seconds: f64,
    /// Requests that had to wait so far.
    pub begun: u64,
}

/// The journal on this node's disk.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalStats {
    /// Bytes of files that live objects take; puts wait or fail near four fifths of the capacity.
    pub live_bytes: u64,
    /// Dead bytes that cannot be freed yet, as somebody reads them.
    pub pinned_bytes: u64,
    /// Bytes of the catalog.
    pub catalog_bytes: u64,
    /// Segment files of records.
    pub record_segments: u64,
    /// Segment files of large bodies.
    pub body_segments: u64,
    /// Segments that are mapped into memory.
    pub mapped_segments: u64,
    /// Segments of records reclaimed so far.
    pub reclaimed_segments: u64,
    /// Bytes of dead large bodies freed so far.
    pub freed_bytes: u64,
    /// Objects evicted so far to make room, which Redis has.
    pub evictions: u64,
    /// Bytes of these.
    pub evicted_bytes: u64,
    /// Objects dropped so far whose lifetime was over.
    pub expired: u64,
    /// Puts held back so far, because room is used up faster than it is made.
    pub stalls: u64,
    /// How long they were held back, in seconds, together.
    pub stalled_seconds: f64,
    /// Times so far that a write had to wait for room.
    pub room_waits: u64,
    /// How long these waits took, in seconds, together.
    pub room_waited_seconds: f64,
}

/// What goes to Redis and comes from other nodes.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicationStats {
    /// Whether Redis could be reached at the last try.
    pub is_reachable: bool,
    /// Writes that Redis does not have yet. One that a later write to its id has overtaken counts until its turn comes.
    pub dirty_records: u64,
    /// Bytes of these.
    pub dirty_bytes: u64,
    /// How long ago the oldest of these was written, in seconds, by Redis's clock; 0 where there is none.
    pub oldest_dirty_seconds: f64,
    /// Whether `dirty_records` and `dirty_bytes` are an estimate: more than 65 536 records were to be looked at.
    pub is_estimate: bool,
    /// Bytes of the journal that Redis may still lose, in a failover: not pushed, or acknowledged a moment ago.
    pub unsettled_bytes: u64,
    /// Writes that Redis refuses now, that cannot be read now, or that break the connection; each is tried again.
    pub held_records: u64,
    /// Writes that Redis has taken so far, each time that it was sent.
    pub pushes: u64,
    /// Bytes of these, before compression.
    pub pushed_bytes: u64,
    /// Writes so far that came too late: Redis had a newer one.
    pub overtaken: u64,
    /// Times so far that Redis refused a write (no memory, no permission).
    pub refusals: u64,
    /// Connections to Redis made so far.
    pub connects: u64,
    /// Tries so far to connect that failed.
    pub connect_failures: u64,
    /// Connections so far that broke while something was pushed or heard.
    pub disconnects: u64,
    /// Events of this and other nodes heard so far.
    pub events: u64,
    /// How long ago the last event was heard, in seconds; none where none was heard in this open.
    pub last_event_seconds: Option<f64>,
    /// Times so far that events may have been missed.
    pub event_gaps: u64,
    /// Whether objects are held here that have to be checked with Redis before they are served, as events may have been missed.
    pub has_suspects: bool,
    /// Other nodes from which something was heard within the last minute.
    pub peers: u64,
    /// Objects that Redis was asked for so far, as they were not here or had to be checked.
    pub fetches: u64,
    /// Objects of these that are kept here since.
    pub fills: u64,
    /// Objects that are being fetched now.
    pub fetching: u64,
}

/// The connections to Redis.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedisStats {
    /// Connections in use now.
    pub busy_connections: u64,
    /// Connections that wait for something to do.
    pub idle_connections: u64,
    /// Connections made so far.
    pub connects: u64,
    /// Tries so far to connect that failed.
    pub connect_failures: u64,
}

/// The processes that are attached to a store.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeeperStats {
    /// Processes that are attached now.
    pub attached: u64,
    /// Connections of these.
    pub connections: u64,
    /// Large objects, and places for them, that these processes hold or remember.
    pub leases: u64,
    /// Requests of theirs that wait.
    pub waits: u64,
}

/// The process that has a store open.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStats {
    /// Its id.
    pub id: u64,
    /// Memory that it takes, in bytes, mapped segments in memory included. `None` where the system does not say, as without `/proc`, or while
    /// the process has no descriptor left to ask with.
    pub resident_bytes: Option<u64>,
    /// Its threads; `None` as for memory.
    pub threads: Option<u64>,
    /// Descriptors that it has open; as many as it may have if none is left to count them with. `None` where the system does not say, as without
    /// `/proc`.
    pub descriptors: Option<u64>,
    /// The most that it may have open.
    pub descriptors_max: u64,
}

impl Stats {
    /// Notes what the backend holds.
    pub(crate) fn set_usage(&mut self, usage: Usage) {
        let Usage { objects, payloads, payload_bytes, capacity_bytes, physical_bytes, damaged_objects } = usage;
        (self.objects, self.payloads, self.payload_bytes) = (objects, payloads, payload_bytes);
        (self.capacity_bytes, self.physical_bytes) = (capacity_bytes, physical_bytes);
        self.damaged_objects = damaged_objects;
    }
}

impl ProcessStats {
    /// Of this process.
    pub(crate) fn now() -> Self {
        use rustix::io::Errno;
        use rustix::process::{Resource, getrlimit};
        let descriptors_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // What cannot be read is not told: a container may hide /proc.
        let status = std::fs::read_to_string("/proc/self/status").ok();
        let number = |name: &str| {
            let line = status.as_ref()?.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let descriptors = match std::fs::read_dir("/proc/self/fd") {
            // Less the one with which they are counted.
            Ok(files) => Some((files.count() as u64).saturating_sub(1)),
            // That none is left to count them with says how many there are.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::MFILE) => Some(descriptors_max),
            Err(_) => None,
        };
        ProcessStats {
            id: u64::from(std::process::id()),
            resident_bytes: number("VmRSS:").map(|kibibytes| kibibytes.saturating_mul(1024)),
            threads: number("Threads:"),
            descriptors,
            descriptors_max,
        }
    }
}
