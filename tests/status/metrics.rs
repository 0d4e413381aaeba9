//! `/metrics` is what Prometheus reads, and docs/metrics.md has a row for each metric.

use std::collections::{BTreeMap, BTreeSet};

use scaler_object_storage::{Keeper, KeeperOptions, ObjectStore};

use crate::client::{DELETE, DUPLICATE, GET, INFO, SET, delete, duplicate, get, header, id, message, set};
use crate::common::redis::RedisServer;
use crate::common::until;
use crate::rig::Rig;

const PREFIX: &str = "scaler_object_storage_";

#[derive(Clone, Debug, Default, PartialEq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    /// Name with labels, value.
    samples: BTreeMap<String, f64>,
}

/// Reads an exposition as strictly as OpenMetrics has it. Counters are under their names with `_total`.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut current, mut is_ended) = (String::new(), false);
    for line in text.lines() {
        assert!(!is_ended, "something follows the end: {line}");
        if line == "# EOF" {
            is_ended = true;
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && !help.contains('\\'), "{line}");
            let family = Family { help: help.to_owned(), ..Family::default() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} is there twice");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current);
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let family = families.get_mut(&current).unwrap();
            let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{name} is under {current}"));
            let allowed: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{name} is a {other}"),
            };
            assert!(allowed.contains(&suffix), "{line}");
            let names = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            family
                .labels
                .extend(names.map(|label| label.split_once('=').unwrap().0.to_owned()).filter(|name| name != "le"));
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(family.samples.insert(sample.to_owned(), value).is_none(), "{line} is there twice");
        }
    }
    assert!(is_ended, "it is cut short");
    for (name, family) in &families {
        let rest = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{name}"));
        assert!(rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        // Base units, last.
        for unit in ["ms", "millis", "milliseconds", "us", "kib", "mib", "kb", "mb"] {
            assert!(!rest.split('_').any(|word| word == unit), "{name} is in {unit}");
        }
        assert!(!rest.ends_with("_total"), "{name}: the encoder adds it");
        assert!(!family.kind.is_empty(), "{name} has no type");
    }
    families
}

/// The rows of docs/metrics.md: metric -> type, labels, meaning.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with(&format!("| `{PREFIX}")));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("{row}") };
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels, meaning.to_owned()))
    });
    rows.collect()
}

#[test]
fn what_is_exposed_parses_and_is_what_is_documented() {
    let (redis, place) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let builder = ObjectStore::builder().tiered(place.path(), redis.url()).max_size_mb(64);
    let tiered = builder.clone().open().unwrap();
    let keeper = Keeper::listen(&tiered, builder.config(), KeeperOptions::default()).unwrap();
    let tiered = Rig::start(tiered);
    tiered.store.put(b"id", b"data", b"").unwrap();
    let own = || ObjectStore::builder().redis(redis.url()).open().unwrap();
    // So that there is an event, and a complaint.
    until("an event was heard", || {
        own().put(b"other", b"data", b"").unwrap();
        tiered.get("/metrics").body.contains("replication_last_event_seconds ")
    });
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    tiered.store.put(b"refused", &[7; 1000], b"").unwrap();
    until("it is degraded", || tiered.get("/metrics").body.contains("complaint_seconds{"));
    let answer = tiered.get("/metrics");
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    let mut exposed = parse(&answer.body);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let redis = Rig::start(own());
    for (name, family) in parse(&redis.get("/metrics").body) {
        exposed.entry(name).or_insert(family);
    }
    let exposed: BTreeMap<_, _> = exposed
        .into_iter()
        .map(|(name, Family { kind, help, labels, .. })| {
            let name = if kind == "counter" { name + "_total" } else { name };
            (name, (kind, labels, help))
        })
        .collect();
    let documented = documented();
    for (name, row) in &exposed {
        assert_eq!(documented.get(name), Some(row), "the row of {name} in docs/metrics.md");
    }
    let undone: Vec<_> = documented.keys().filter(|name| !exposed.contains_key(*name)).collect();
    assert!(undone.is_empty(), "documented, but not exposed: {undone:?}");
    drop(tiered);
    keeper.close();
}

#[test]
fn requests_of_clients_are_counted_and_timed() {
    let rig = Rig::start(ObjectStore::builder().memory().max_size_mb(64).open().unwrap());
    let mut client = rig.client("client");
    let info = message(&header(INFO, [0; 32], 0, 9));
    assert_eq!(client.ask(&set(id(1), b"12345", 1)).kind, SET);
    assert_eq!(client.ask(&set(id(2), &[7; 300_000], 2)).request, 2);
    assert_eq!(client.ask(&get(id(1), 3)).payload, b"12345");
    assert_eq!(client.ask(&duplicate(id(1), id(3), 4)).request, 4);
    assert_eq!(client.ask(&delete(id(1), 5)).request, 5);
    assert_eq!(client.ask(&info).request, 9);
    client.send(&get(id(4), 6));
    client.send(&duplicate(id(5), id(6), 7));
    until("they wait", || rig.store.info().waiting_requests == 2);
    rig.store.put(&id(4), b"late", b"").unwrap();
    rig.store.put(&id(5), b"later", b"").unwrap();
    assert_eq!((client.receive().request, client.receive().request), (6, 7));
    let counted = |families: &BTreeMap<String, Family>, operation: &str| {
        families[&format!("{PREFIX}request_seconds")].samples
            [&format!("{PREFIX}request_seconds_count{{operation=\"{operation}\"}}")]
    };
    let read = || parse(&rig.get("/metrics").body);
    until("the numbers have come", || counted(&read(), "wait") == 2.0);
    let families = read();
    for (operation, count) in [("set", 2.0), ("get", 1.0), ("duplicate", 1.0), ("delete", 1.0), ("info", 1.0)] {
        assert_eq!(counted(&families, operation), count, "{operation}");
        let samples = &families[&format!("{PREFIX}request_seconds")].samples;
        let all = samples[&format!("{PREFIX}request_seconds_bucket{{le=\"+Inf\",operation=\"{operation}\"}}")];
        assert_eq!(all, count, "{operation}");
        assert!(samples[&format!("{PREFIX}request_seconds_sum{{operation=\"{operation}\"}}")] > 0.0);
    }
    let number = |name: &str| *families[&format!("{PREFIX}{name}")].samples.values().next().unwrap();
    assert_eq!((number("server_received_bytes"), number("server_sent_bytes")), (300_005.0, 9.0));
    assert_eq!((number("server_connections_open"), number("server_connections")), (1.0, 1.0));
    let _kinds = [GET, DELETE, DUPLICATE];
}
