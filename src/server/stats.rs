//! What a server shows of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::ServerState;
use super::latency::Latency;

/// A snapshot of a server, beside the [`Stats`](crate::Stats) of its store. Numbers whose description says "so far" only grow.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerStats {
    /// The address on which it listens for clients.
    pub address: String,
    /// Connections that are open.
    pub connections_open: u64,
    /// Connections accepted so far.
    pub connections: u64,
    /// Connections closed so far because there were too many.
    pub connections_refused: u64,
    /// Connections so far whose TLS or WebSocket handshake or greeting failed, or took too long.
    pub greetings_failed: u64,
    /// Connections closed so far for something malformed.
    pub malformed: u64,
    /// Requests so far that the store refused (full, too large, disk failure), each of which closed its connection.
    pub refused: u64,
    /// Connections closed so far because their waits were too many.
    pub waits_refused: u64,
    /// Connections so far whose identity was taken over by another.
    pub replaced: u64,
    /// Connections lost so far by reset or time-out.
    pub lost: u64,
    /// Waiting requests and undelivered replies dropped so far because their identity did not return.
    pub waits_dropped: u64,
    /// Requests that wait for an object, and replies that wait for their client.
    pub waiting: u64,
    /// Identities that are not connected, and whose waits are kept.
    pub absent_identities: u64,
    /// Bytes of objects received so far.
    pub received_bytes: u64,
    /// Bytes of objects sent so far.
    pub sent_bytes: u64,
    /// How long requests took: `get`, `set`, `delete`, `duplicate` and `info` from the arrival of a request until its reply is queued (of a set, but
    /// for the time in which its bytes arrive); `wait` from the arrival of a request whose object does not exist until that exists.
    pub operations: BTreeMap<String, Latency>,
}

/// Where the numbers of a running server come from. It keeps the server's store, but for that nothing of the server.
#[derive(Clone)]
pub struct ServerWatch(pub(super) Arc<ServerState>);

impl ServerWatch {
    /// The numbers now.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let ServerState { counters, latencies, sessions, open, address, .. } = &*self.0;
        let (operations, received_bytes, sent_bytes) = latencies.read();
        ServerStats {
            address: address.to_string(),
            connections_open: open.len() as u64,
            connections: counters.connections.get(),
            connections_refused: counters.connections_refused.get(),
            greetings_failed: counters.greetings_failed.get(),
            malformed: counters.malformed.get(),
            refused: counters.refused.get(),
            waits_refused: counters.waits_refused.get(),
            replaced: counters.replaced.get(),
            lost: counters.lost.get(),
            waits_dropped: counters.waits_dropped.get(),
            waiting: sessions.waiting.load(Ordering::Relaxed) as u64,
            absent_identities: sessions.absent() as u64,
            received_bytes,
            sent_bytes,
            operations: operations.into_iter().map(|(name, latency)| (name.to_owned(), latency)).collect(),
        }
    }
}
