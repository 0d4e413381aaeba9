//! Tests that every setting reaches a keeper, or is compared with the keeper's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use super::*;
use crate::config::{CommandLine, ServerConfig};
use crate::local::{Durability, LocalOptions};
use crate::redis::{Compression, RedisOptions, ValueFormat};

/// A config without any setting at its default, except those that do not concern a keeper.
fn config(backend: BackendKind) -> StoreConfig {
    let local = LocalOptions {
        path: "/a/directory".into(),
        max_size_mb: 77,
        durability: Durability::Disk,
        object_ttl_seconds: 76,
        lock_wait_ms: 78,
        keeper_command: "/a/program".into(),
        keeper_response_timeout_ms: 79,
        keeper_idle_seconds: 80,
    };
    let redis = RedisOptions {
        url: "rediss://user:pass%20word@host:6380/3".to_owned(),
        max_object_size_mb: 81,
        key_prefix: "a prefix: ".to_owned(),
        connection_pool_size: 82,
        compression: Compression::None,
        value_format: ValueFormat::Python,
        connect_timeout_ms: 83,
        response_timeout_ms: 84,
        object_ttl_seconds: 85,
        tombstone_ttl_seconds: 86,
        wait_replicas: 87,
        drain_timeout_ms: 88,
        settle_ms: 89,
        tls_ca: Some("/a/ca.pem".into()),
        tls_cert: Some("/a/cert.pem".into()),
        tls_key: Some("/a/key.pem".into()),
    };
    StoreConfig { backend, local, redis, ..StoreConfig::default() }
}

fn read(config: &StoreConfig) -> StoreConfig {
    ServerConfig::load(&CommandLine::default(), environment(config, &config.local.path)).unwrap().store
}

#[test]
fn a_keeper_has_the_settings_of_the_process_that_starts_it() {
    let tiered = config(BackendKind::Tiered);
    assert_eq!(read(&tiered), tiered);
    let local = config(BackendKind::Local);
    assert_eq!(read(&local), StoreConfig { redis: RedisOptions::default(), ..local });
}

#[test]
fn settings_at_their_defaults_stay_there() {
    for backend in [BackendKind::Tiered, BackendKind::Local] {
        let local = LocalOptions { path: "/a/directory".into(), ..LocalOptions::default() };
        let config = StoreConfig { backend, local, ..StoreConfig::default() };
        assert_eq!(read(&config), config);
    }
}

/// The tests above would not see a setting that is at its default in `config`; those of Redis are all named there.
#[test]
fn no_setting_is_left_out_of_these_tests() {
    let fields = |config: &StoreConfig| -> BTreeMap<String, String> {
        let text = format!("{:#?}", config.local);
        let lines = text.lines().filter(|line| line.starts_with("    ") && line.contains(": "));
        lines
            .filter_map(|line| line.trim().split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    let (ours, defaults) = (fields(&config(BackendKind::Tiered)), fields(&StoreConfig::default()));
    let same: Vec<_> =
        defaults.iter().filter(|(name, value)| ours.get(*name) == Some(value)).map(|(name, _)| name).collect();
    assert!(same.iter().all(|name| *name == "slots"), "{same:?}");
    assert!(ours.len() > 6, "{ours:?}");
}

#[test]
fn relative_paths_mean_the_same_to_a_keeper() {
    let here = std::env::current_dir().unwrap();
    let mut config = config(BackendKind::Tiered);
    config.local.path = "directory".into();
    config.local.keeper_command = "bin/program".into();
    config.redis.tls_ca = Some("ca.pem".into());
    let read = read(&config);
    assert_eq!(read.local.path, here.join("directory"));
    assert_eq!(read.local.keeper_command, here.join("bin/program"));
    assert_eq!(read.redis.tls_ca, Some(here.join("ca.pem")));

    config.local.keeper_command = "program".into();
    let expected = ("SCALER_OBJECT_STORAGE_LOCAL_KEEPER_COMMAND".to_owned(), "program".to_owned());
    assert!(environment(&config, &config.local.path).contains(&expected), "looked for in the path");
}

/// Invariant 12: what processes tell each other, and what errors quote, holds no password. Two ways to write the url of one Redis are equal.
#[test]
fn a_password_is_not_told_to_other_processes() {
    let url = |url: &str| {
        let config = config(BackendKind::Tiered);
        let redis = RedisOptions { url: url.to_owned(), ..config.redis };
        expectations(&StoreConfig { redis, ..config })
    };
    let expected = url("redis://host:6379/0").unwrap();
    for same in [
        "redis://host",
        "redis://:hunter2@host",
        "redis://u:hunter2@host/",
        "redis://host?password=hunter2",
        "redis://host/0?user=u&pass=hunter2",
    ] {
        assert_eq!(url(same).unwrap(), expected, "{same}");
    }
    assert_ne!(url("redis://host/1").unwrap(), expected);
    let error = url("redis://u:hunt/er2@host").unwrap_err().to_string();
    assert!(!error.contains("er2"), "{error}");
}
