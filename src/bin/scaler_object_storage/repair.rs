//! `repair`: what opening a directory would do, said before it is done.

use std::process::ExitCode;

use clap::ArgMatches;
use scaler_object_storage::ObjectStore;
use serde_json::json;

use crate::Failure;
use crate::arguments::has;
use crate::ask::confirmed;
use crate::output::{line, say};
use crate::source::{Source, Way};

pub fn repair(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let (is_yes, is_json, is_dry) = (has(matches, "yes"), has(matches, "json"), has(matches, "dry-run"));
    let source = Source::of(matches)?;
    let Some(directory) = source.directory()? else {
        return Err("only a directory is repaired: a store in Redis has nothing of its own to repair".into());
    };
    let opened = source.open_to_read()?;
    let Way::Read(report) = &opened.way else {
        return Err(
            format!("{}: a process keeps it, and has repaired it when it opened it", directory.display()).into()
        );
    };
    let (repairs, damage) = (report.repairs(), report.damage());
    opened.close()?;
    if is_json {
        line(&json!({ "store": directory.display().to_string(), "repairs": repairs, "damage": damage }).to_string())?;
    } else {
        for lost in &damage {
            line(&format!("lost: {lost}"))?;
        }
        for repair in &repairs {
            line(&format!("to do: {repair}"))?;
        }
        if repairs.is_empty() {
            line(&format!("{}: nothing to repair", directory.display()))?;
        }
    }
    if is_dry || repairs.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if !confirmed(&format!("Do this in {}?", directory.display()), is_yes)? {
        return Ok(ExitCode::FAILURE);
    }
    // As the local backend, which goes on with whatever was to be pushed to Redis as little as reading does.
    let mut config = source.config;
    config.backend = scaler_object_storage::BackendKind::Local;
    let store = ObjectStore::open(&config)?;
    let objects = store.info().objects;
    store.close()?;
    say(&format!("done: {objects} objects are in {}", directory.display()));
    Ok(ExitCode::SUCCESS)
}
