//! `status`: the numbers of a running store, from the process that keeps its directory, or over HTTP from its server.

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use scaler_object_storage::{HealthState, ObjectStore, Stats};
use serde_json::Value;

use crate::Failure;
use crate::arguments::has;
use crate::output::{bytes, known, line, seconds};
use crate::source::Source;

/// How long a server may take to answer over HTTP.
const HTTP_WAIT_MAX: Duration = Duration::from_secs(5);

/// Whom to ask.
pub enum Running {
    Kept(ObjectStore),
    Http { agent: ureq::Agent, url: String },
}

impl Running {
    /// The store that the command line names: a directory that is kept, or the address of a server's metrics.
    pub fn of(matches: &mut ArgMatches) -> Result<Running, Failure> {
        let named = matches.get_one::<String>("store").filter(|named| named.starts_with("http://")).cloned();
        if let Some(named) = named {
            let agent = ureq::Agent::config_builder().timeout_global(Some(HTTP_WAIT_MAX)).build().new_agent();
            let url = format!("{}/status.json", named.trim_end_matches('/').trim_end_matches("/status.json"));
            return Ok(Running::Http { agent, url });
        }
        let source = Source::of(matches)?;
        let Some(directory) = source.directory()? else {
            return Err(
                "a running store is asked in its directory, or at the metrics address of its server (http://HOST:PORT)"
                    .into(),
            );
        };
        match ObjectStore::attach_kept(&directory)? {
            Some(store) => Ok(Running::Kept(store)),
            None => Err(format!(
                "{}: no process keeps it now; list and verify read it where it stands",
                directory.display()
            )
            .into()),
        }
    }

    pub fn stats(&self) -> Result<Stats, Failure> {
        match self {
            Running::Kept(store) => Ok(store.stats()?),
            Running::Http { agent, url } => {
                let failed = |error: ureq::Error| format!("{url}: {error}; is metrics_address set on that server?");
                let text = agent.get(url).call().map_err(failed)?.body_mut().read_to_string().map_err(failed)?;
                stats_in(&text).map_err(|reason| format!("{url}: {reason}").into())
            }
        }
    }
}

/// The numbers in what a server shows at `/status.json`.
fn stats_in(text: &str) -> Result<Stats, Failure> {
    let mut status: Value = serde_json::from_str(text)?;
    match status.get_mut("stats").map(Value::take) {
        Some(Value::Null) | None => {
            let state = status.get("state").and_then(Value::as_str).unwrap_or("unknown");
            Err(format!("there are no numbers yet; its state is {state}").into())
        }
        Some(stats) => Ok(serde_json::from_value(stats)?),
    }
}

pub fn status(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let is_json = has(matches, "json");
    let stats = Running::of(matches)?.stats()?;
    if is_json {
        line(&serde_json::to_string(&stats)?)?;
    } else {
        for (name, value) in lines(&stats) {
            line(&format!("{name:<12} {value}"))?;
        }
    }
    Ok(if stats.health.state == HealthState::Ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Seconds in words; parts of one with a digit.
pub fn in_seconds(number: f64) -> String {
    if number < 10.0 { format!("{number:.1}s") } else { seconds(number as u64) }
}

/// What a store shows, in lines with names.
pub fn lines(stats: &Stats) -> Vec<(&'static str, String)> {
    let health = match stats.health.state {
        HealthState::Ok => "ok".to_owned(),
        _ => "degraded".to_owned(),
    };
    let mut lines = vec![("store", format!("{} in {}", stats.backend, stats.place)), ("health", health)];
    let reasons = stats.health.reasons.iter();
    lines.extend(reasons.map(|reason| ("", format!("{} (for {})", reason.text, in_seconds(reason.since_seconds)))));
    lines
        .push(("objects", format!("{}, {} in {} payloads", stats.objects, bytes(stats.payload_bytes), stats.payloads)));
    lines.push(("room", format!("{} of {} taken", bytes(stats.physical_bytes), bytes(stats.capacity_bytes))));
    let done = &stats.operations;
    lines.push((
        "so far",
        format!(
            "{} hits, {} misses, {} puts, {} deletes, {} duplicates",
            done.hits, done.misses, done.puts, done.deletes, done.duplicates
        ),
    ));
    lines.push(("waiting", waiting(stats)));
    if let Some(local) = &stats.local {
        lines.push((
            "journal",
            format!(
                "{} live, {} segments of records, {} of bodies, {} evicted, {} expired, {} stalls",
                bytes(local.live_bytes),
                local.record_segments,
                local.body_segments,
                local.evictions,
                local.expired,
                local.stalls
            ),
        ));
    }
    if let Some(replication) = &stats.replication {
        lines.push(("to Redis", to_redis(stats)));
        let last =
            replication.last_event_seconds.map_or_else(|| "none".to_owned(), |ago| format!("{} ago", in_seconds(ago)));
        lines.push((
            "from nodes",
            format!(
                "{} events, the last {last}; {} nodes, {} gaps",
                replication.events, replication.peers, replication.event_gaps
            ),
        ));
    }
    if let Some(keeper) = &stats.keeper {
        lines.push((
            "attached",
            format!("{} processes, {} connections, {} leases", keeper.attached, keeper.connections, keeper.leases),
        ));
    }
    if stats.damaged_objects > 0 {
        lines.push(("damaged", format!("{} objects so far; the log names them", stats.damaged_objects)));
    }
    let process = &stats.process;
    lines.push((
        "process",
        format!(
            "{}, version {}, open for {}, {} of memory, {} threads, {} of {} descriptors",
            process.id,
            stats.version,
            in_seconds(stats.open_seconds),
            known(process.resident_bytes.map(bytes)),
            known(process.threads),
            known(process.descriptors),
            process.descriptors_max
        ),
    ));
    lines
}

pub fn waiting(stats: &Stats) -> String {
    match stats.waits.requests {
        0 => "nobody".to_owned(),
        requests => format!(
            "{requests} requests for {} objects, the oldest for {}",
            stats.waits.ids,
            in_seconds(stats.waits.oldest_seconds)
        ),
    }
}

/// How far replication is behind.
pub fn to_redis(stats: &Stats) -> String {
    let Some(replication) = &stats.replication else { return "nothing goes there".to_owned() };
    let about = if replication.is_estimate { "about " } else { "" };
    let behind = match replication.dirty_records {
        0 => "everything is there".to_owned(),
        records => format!(
            "{about}{records} writes ({}) to go, the oldest from {} ago",
            bytes(replication.dirty_bytes),
            in_seconds(replication.oldest_dirty_seconds)
        ),
    };
    let reachable = if replication.is_reachable { "" } else { "; it cannot be reached" };
    format!("{behind}{reachable}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_a_server_shows_over_http_is_understood() {
        let stats =
            stats_in(r#"{"state":"ready","stats":{"backend":"tiered","objects":7,"health":{"state":"degraded"}}}"#)
                .unwrap();
        assert_eq!((stats.backend.as_str(), stats.objects, stats.health.state), ("tiered", 7, HealthState::Degraded));
        let starting = stats_in(r#"{"state":"starting","stats":null}"#).unwrap_err().to_string();
        assert!(starting.contains("its state is starting"), "{starting}");
        for other in ["", "{}", "[]", "<html>", r#"{"stats":7}"#] {
            assert!(stats_in(other).is_err(), "{other}");
        }
    }
}
