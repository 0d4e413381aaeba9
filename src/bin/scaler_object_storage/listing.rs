//! `list` and `show`.

use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use scaler_object_storage::{Listed, ObjectState};

use crate::arguments::has;
use crate::output::{age_ms, bytes, line, now_ms, object, seconds, time};
use crate::source::{Source, id, to_hex};
use crate::{Failure, output};

pub fn list(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let limit = matches.remove_one::<u64>("limit").unwrap_or(u64::MAX);
    let older_than = matches.remove_one::<Duration>("older-than");
    let is_json = has(matches, "json");
    let opened = Source::of(matches)?.open_to_read()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (mut shown, now) = (0, now_ms());
    for listed in opened.store.objects() {
        if shown >= limit {
            break;
        }
        let listed = listed?;
        if !is_older(&listed, older_than, now) {
            continue;
        }
        if shown == 0 && !is_json {
            writeln!(out, "{:<32}  {:>10}  {:>8}  {:<8}  PLACE", "ID", "SIZE", "AGE", "STATE")?;
        }
        match is_json {
            true => writeln!(out, "{}", object(&listed, now))?,
            false => writeln!(out, "{}", row(&listed, now))?,
        }
        shown += 1;
    }
    out.flush()?;
    drop(out);
    opened.close()?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the object was stored longer ago. One whose age is not known was not.
pub fn is_older(listed: &Listed, than: Option<Duration>, now_ms: u64) -> bool {
    than.is_none_or(|than| age_ms(listed, now_ms).is_some_and(|age| u128::from(age) > than.as_millis()))
}

fn row(listed: &Listed, now_ms: u64) -> String {
    let id = match listed.id.as_bytes() {
        [] if matches!(listed.state, ObjectState::Damaged { .. }) => "(its id cannot be read)".to_owned(),
        [] => "(empty)".to_owned(),
        id => to_hex(id),
    };
    let size = bytes(listed.data_bytes.saturating_add(listed.metadata_bytes));
    let age = age_ms(listed, now_ms).map_or_else(|| "-".to_owned(), |age| seconds(age / 1000));
    format!("{id:<32}  {size:>10}  {age:>8}  {:<8}  {}", listed.state.name(), listed.place)
}

pub fn show(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let word = matches.remove_one::<String>("id").unwrap_or_default();
    let id = id(&word, has(matches, "text"))?;
    let is_json = has(matches, "json");
    let opened = Source::of(matches)?.open_to_read()?;
    let found = opened.store.describe(&id, true)?;
    let place = opened.place.clone();
    opened.close()?;
    let Some(found) = found else {
        output::say(&format!("there is no object {} in {place}", to_hex(&id)));
        return Ok(ExitCode::FAILURE);
    };
    let now = now_ms();
    if is_json {
        line(&object(&found, now).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![("id", to_hex(found.id.as_bytes()))];
    if let Some(text) = std::str::from_utf8(found.id.as_bytes()).ok().filter(|text| !text.contains(char::is_control)) {
        lines.push(("as text", text.to_owned()));
    }
    lines.push(("data", format!("{} ({} bytes)", bytes(found.data_bytes), found.data_bytes)));
    lines.push(("metadata", format!("{} bytes", found.metadata_bytes)));
    if let Some(version) = found.version {
        let age = seconds(now.saturating_sub(version.ms()) / 1000);
        lines.push(("stored", format!("{}, {age} ago", time(version.ms()))));
        lines.push(("version", version.to_string()));
    }
    if let Some(expires_ms) = found.expires_ms {
        lines.push(("expires", time(expires_ms)));
    }
    let state = match &found.state {
        ObjectState::Damaged { reason } => format!("damaged: {reason}"),
        state => format!("{}, checksum right", state.name()),
    };
    lines.extend([("state", state), ("place", found.place.clone()), ("store", place)]);
    for (name, value) in lines {
        line(&format!("{name:<9} {value}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
