//! The metrics that are numbers of a snapshot, each with its row in docs/metrics.md.

use prometheus_client::metrics::MetricType;

use crate::server::status::sampling::Sample;

/// A number of a snapshot.
pub(super) struct Metric {
    /// Without the prefix of all metrics, and without the `_total` of counters.
    pub name: &'static str,
    pub kind: MetricType,
    pub help: &'static str,
    /// None where the store has no such part.
    pub value: fn(&Sample) -> Option<Value>,
}

/// Its value.
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Whole(value.into())
    }
}

const fn gauge(name: &'static str, value: fn(&Sample) -> Option<Value>, help: &'static str) -> Metric {
    Metric { name, kind: MetricType::Gauge, help, value }
}

const fn counter(name: &'static str, value: fn(&Sample) -> Option<Value>, help: &'static str) -> Metric {
    Metric { name, kind: MetricType::Counter, help, value }
}

/// All of them.
#[rustfmt::skip]
pub(super) const METRICS: [Metric; 80] = [
    // Store.
    gauge("open_seconds", |sample| Some(sample.stats.open_seconds.into()),
        "How long the store has been open."),
    gauge("objects", |sample| Some(sample.stats.objects.into()),
        "Objects in the store: with tiered those on this node, with redis about as many as Redis has."),
    gauge("payloads", |sample| Some(sample.stats.payloads.into()),
        "Payloads of these objects; one that several share counts once."),
    gauge("payload_bytes", |sample| Some(sample.stats.payload_bytes.into()),
        "Bytes of these payloads, metadata included."),
    gauge("capacity_bytes", |sample| Some(sample.stats.capacity_bytes.into()),
        "The most bytes that the store may take; with redis, that Redis may take for everything (0: no limit)."),
    gauge("physical_bytes", |sample| Some(sample.stats.physical_bytes.into()),
        "Bytes that the store takes, with what is dead and not reclaimed yet."),
    counter("damaged_objects", |sample| Some(sample.stats.damaged_objects.into()),
        "Objects found damaged; each is a miss and a line in the log."),
    counter("hits", |sample| Some(sample.stats.operations.hits.into()),
        "Gets that found their object here; with redis, in Redis."),
    counter("misses", |sample| Some(sample.stats.operations.misses.into()),
        "Gets that did not find their object here."),
    counter("read_bytes", |sample| Some(sample.stats.operations.read_bytes.into()),
        "Bytes of data that gets have handed out."),
    counter("puts", |sample| Some(sample.stats.operations.puts.into()),
        "Objects put."),
    counter("put_bytes", |sample| Some(sample.stats.operations.put_bytes.into()),
        "Bytes of data of the objects put."),
    counter("deletes", |sample| Some(sample.stats.operations.deletes.into()),
        "Deletes, of objects that existed or not."),
    counter("duplicates", |sample| Some(sample.stats.operations.duplicates.into()),
        "Duplicates made."),
    gauge("waiting_requests", |sample| Some(sample.stats.waits.requests.into()),
        "Requests that wait for an object that does not exist yet."),
    gauge("waiting_ids", |sample| Some(sample.stats.waits.ids.into()),
        "Different ids that are waited for."),
    gauge("oldest_wait_seconds", |sample| Some(sample.stats.waits.oldest_seconds.into()),
        "How long the oldest request has waited; 0 where nobody waits."),
    counter("waits", |sample| Some(sample.stats.waits.begun.into()),
        "Requests that had to wait."),
    // Journal on this node: backends local and tiered.
    gauge("live_bytes", |sample| Some(sample.stats.local.as_ref()?.live_bytes.into()),
        "Bytes of files that live objects take; puts wait or fail near four fifths of the capacity."),
    gauge("pinned_bytes", |sample| Some(sample.stats.local.as_ref()?.pinned_bytes.into()),
        "Dead bytes that cannot be freed yet, as somebody reads them."),
    gauge("catalog_bytes", |sample| Some(sample.stats.local.as_ref()?.catalog_bytes.into()),
        "Bytes of the catalog."),
    gauge("record_segments", |sample| Some(sample.stats.local.as_ref()?.record_segments.into()),
        "Segment files of records."),
    gauge("body_segments", |sample| Some(sample.stats.local.as_ref()?.body_segments.into()),
        "Segment files of large bodies."),
    gauge("mapped_segments", |sample| Some(sample.stats.local.as_ref()?.mapped_segments.into()),
        "Segments that are mapped into memory."),
    counter("reclaimed_segments", |sample| Some(sample.stats.local.as_ref()?.reclaimed_segments.into()),
        "Segments of records that were reclaimed."),
    counter("freed_bytes", |sample| Some(sample.stats.local.as_ref()?.freed_bytes.into()),
        "Bytes of dead large bodies that were freed."),
    counter("evictions", |sample| Some(sample.stats.local.as_ref()?.evictions.into()),
        "Objects evicted to make room, which Redis has."),
    counter("evicted_bytes", |sample| Some(sample.stats.local.as_ref()?.evicted_bytes.into()),
        "Bytes of the objects evicted."),
    counter("expired_objects", |sample| Some(sample.stats.local.as_ref()?.expired.into()),
        "Objects dropped whose lifetime was over."),
    counter("put_stalls", |sample| Some(sample.stats.local.as_ref()?.stalls.into()),
        "Puts held back, because room is used up faster than it is made."),
    counter("put_stalled_seconds", |sample| Some(sample.stats.local.as_ref()?.stalled_seconds.into()),
        "How long puts were held back, together."),
    counter("room_waits", |sample| Some(sample.stats.local.as_ref()?.room_waits.into()),
        "Times that a write had to wait for room."),
    counter("room_waited_seconds", |sample| Some(sample.stats.local.as_ref()?.room_waited_seconds.into()),
        "How long writes waited for room, together."),
    // Replication: backend tiered.
    gauge("replication_reachable", |sample| Some(sample.stats.replication.as_ref()?.is_reachable.into()),
        "1 where Redis could be reached at the last try, otherwise 0."),
    gauge("replication_dirty_records", |sample| Some(sample.stats.replication.as_ref()?.dirty_records.into()),
        "Writes that Redis does not have yet."),
    gauge("replication_dirty_bytes", |sample| Some(sample.stats.replication.as_ref()?.dirty_bytes.into()),
        "Bytes of the writes that Redis does not have yet."),
    gauge("replication_oldest_dirty_seconds", |sample| Some(sample.stats.replication.as_ref()?.oldest_dirty_seconds.into()),
        "How long ago the oldest write was made that Redis does not have yet; 0 where there is none."),
    gauge("replication_unsettled_bytes", |sample| Some(sample.stats.replication.as_ref()?.unsettled_bytes.into()),
        "Bytes of the journal that Redis may still lose in a failover."),
    gauge("replication_held_records", |sample| Some(sample.stats.replication.as_ref()?.held_records.into()),
        "Writes that Redis refuses, that cannot be read, or that break the connection; each is tried again."),
    counter("replication_pushes", |sample| Some(sample.stats.replication.as_ref()?.pushes.into()),
        "Writes that Redis has taken, each time that it was sent."),
    counter("replication_pushed_bytes", |sample| Some(sample.stats.replication.as_ref()?.pushed_bytes.into()),
        "Bytes of the writes that Redis has taken, before compression."),
    counter("replication_overtaken", |sample| Some(sample.stats.replication.as_ref()?.overtaken.into()),
        "Writes that came too late, as Redis had a newer one."),
    counter("replication_refusals", |sample| Some(sample.stats.replication.as_ref()?.refusals.into()),
        "Times that Redis refused a write."),
    counter("replication_connects", |sample| Some(sample.stats.replication.as_ref()?.connects.into()),
        "Connections to Redis that were made."),
    counter("replication_connect_failures", |sample| Some(sample.stats.replication.as_ref()?.connect_failures.into()),
        "Tries to connect to Redis that failed."),
    counter("replication_disconnects", |sample| Some(sample.stats.replication.as_ref()?.disconnects.into()),
        "Connections that broke while something was pushed or heard."),
    counter("replication_events", |sample| Some(sample.stats.replication.as_ref()?.events.into()),
        "Events of this and other nodes that were heard."),
    gauge("replication_last_event_seconds", |sample| sample.stats.replication.as_ref()?.last_event_seconds.map(Value::from),
        "How long ago the last event was heard; absent before the first."),
    counter("replication_event_gaps", |sample| Some(sample.stats.replication.as_ref()?.event_gaps.into()),
        "Times that events may have been missed."),
    gauge("replication_suspects", |sample| Some(sample.stats.replication.as_ref()?.has_suspects.into()),
        "1 while objects here are checked with Redis before they are served, as events may have been missed, otherwise 0."),
    gauge("replication_peers", |sample| Some(sample.stats.replication.as_ref()?.peers.into()),
        "Other nodes from which something was heard within the last minute."),
    counter("replication_fetches", |sample| Some(sample.stats.replication.as_ref()?.fetches.into()),
        "Objects that Redis was asked for, as they were not here or had to be checked."),
    counter("replication_fills", |sample| Some(sample.stats.replication.as_ref()?.fills.into()),
        "Objects that were fetched from Redis and are kept here since."),
    gauge("replication_fetching", |sample| Some(sample.stats.replication.as_ref()?.fetching.into()),
        "Objects that are being fetched from Redis."),
    // Backend redis.
    gauge("redis_busy_connections", |sample| Some(sample.stats.redis.as_ref()?.busy_connections.into()),
        "Connections to Redis that are in use."),
    gauge("redis_idle_connections", |sample| Some(sample.stats.redis.as_ref()?.idle_connections.into()),
        "Connections to Redis that wait for something to do."),
    counter("redis_connects", |sample| Some(sample.stats.redis.as_ref()?.connects.into()),
        "Connections to Redis that were made, by the backend redis."),
    counter("redis_connect_failures", |sample| Some(sample.stats.redis.as_ref()?.connect_failures.into()),
        "Tries to connect to Redis that failed, by the backend redis."),
    // Attached processes: backends local and tiered.
    gauge("attached_processes", |sample| Some(sample.stats.keeper.as_ref()?.attached.into()),
        "Processes that are attached to the store."),
    gauge("attached_connections", |sample| Some(sample.stats.keeper.as_ref()?.connections.into()),
        "Connections of attached processes."),
    gauge("attached_leases", |sample| Some(sample.stats.keeper.as_ref()?.leases.into()),
        "Large objects, and places for them, that attached processes hold or remember."),
    gauge("attached_waits", |sample| Some(sample.stats.keeper.as_ref()?.waits.into()),
        "Requests of attached processes that wait."),
    // Process.
    gauge("process_resident_bytes", |sample| Some(sample.stats.process.resident_bytes?.into()),
        "Memory that the process takes, mapped segments in memory included."),
    gauge("process_threads", |sample| Some(sample.stats.process.threads?.into()),
        "Threads of the process."),
    gauge("process_descriptors", |sample| Some(sample.stats.process.descriptors?.into()),
        "Descriptors that the process has open."),
    gauge("process_descriptors_max", |sample| Some(sample.stats.process.descriptors_max.into()),
        "The most descriptors that the process may have open."),
    // Server.
    gauge("server_connections_open", |sample| Some(sample.server.connections_open.into()),
        "Connections of clients that are open."),
    counter("server_connections", |sample| Some(sample.server.connections.into()),
        "Connections accepted."),
    counter("server_connections_refused", |sample| Some(sample.server.connections_refused.into()),
        "Connections closed because there were too many."),
    counter("server_greetings_failed", |sample| Some(sample.server.greetings_failed.into()),
        "Connections whose TLS or WebSocket handshake or greeting failed, or took too long."),
    counter("server_malformed", |sample| Some(sample.server.malformed.into()),
        "Connections closed for something malformed."),
    counter("server_requests_refused", |sample| Some(sample.server.refused.into()),
        "Requests that the store refused, each of which closed its connection."),
    counter("server_waits_refused", |sample| Some(sample.server.waits_refused.into()),
        "Connections closed because their waits were too many."),
    counter("server_connections_replaced", |sample| Some(sample.server.replaced.into()),
        "Connections whose identity was taken over by another."),
    counter("server_connections_lost", |sample| Some(sample.server.lost.into()),
        "Connections lost by reset or time-out."),
    counter("server_waits_dropped", |sample| Some(sample.server.waits_dropped.into()),
        "Waiting requests and undelivered replies dropped because their client did not return."),
    gauge("server_waiting", |sample| Some(sample.server.waiting.into()),
        "Requests of clients that wait for an object, and replies that wait for their client."),
    gauge("server_absent_identities", |sample| Some(sample.server.absent_identities.into()),
        "Clients that are not connected, and whose waits are kept."),
    counter("server_received_bytes", |sample| Some(sample.server.received_bytes.into()),
        "Bytes of objects received from clients."),
    counter("server_sent_bytes", |sample| Some(sample.server.sent_bytes.into()),
        "Bytes of objects sent to clients."),
];
