//! `verify`: every object against its checksums.

use std::process::ExitCode;

use clap::ArgMatches;
use scaler_object_storage::{Error, Listed, ObjectState};
use serde_json::json;

use crate::Failure;
use crate::arguments::has;
use crate::output::{bytes, line, now_ms, object, say};
use crate::progress::Progress;
use crate::source::{Opened, Source, Way, to_hex};

/// The exit status where something could not be checked.
pub const UNKNOWN: u8 = 2;

/// How often a page is asked for again that could not be had.
const TRIES: u32 = 3;

#[derive(Default)]
struct Found {
    sound: u64,
    sound_bytes: u64,
    damaged: u64,
    unknown: u64,
}

pub fn verify(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let (is_json, is_quiet) = (has(matches, "json"), has(matches, "quiet"));
    let opened = Source::of(matches)?.open_to_read()?;
    let mut found = Found::default();
    if let Way::Read(report) = &opened.way {
        for damage in report.damage() {
            found.damaged += 1;
            line(&if is_json { json!({ "damage": damage }).to_string() } else { format!("damaged: {damage}") })?;
        }
    }
    let before = opened.store.info().damaged_objects;
    let progress = Progress::of(opened.store.info().objects, "objects", is_quiet || is_json);
    for listed in opened.store.objects() {
        check(&opened, &listed?, is_json, &mut found, &progress)?;
        progress.step();
    }
    drop(progress);
    if matches!(opened.way, Way::Beside) && before > 0 && !is_json {
        say(&format!(
            "since it was opened, the store has found {before} damaged objects, which are gone; its log names them"
        ));
    }
    let place = opened.place.clone();
    opened.close()?;
    let Found { sound, sound_bytes, damaged, unknown } = found;
    line(&match is_json {
        true => json!({ "store": place, "sound": sound, "sound_bytes": sound_bytes, "damaged": damaged, "unchecked": unknown }).to_string(),
        false => format!("{place}: {sound} objects of {} are sound, {damaged} damaged, {unknown} could not be checked", bytes(sound_bytes)),
    })?;
    Ok(match (damaged, unknown) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(UNKNOWN),
        _ => ExitCode::FAILURE,
    })
}

fn check(
    opened: &Opened,
    listed: &Listed,
    is_json: bool,
    found: &mut Found,
    progress: &Progress,
) -> Result<(), Failure> {
    // One whose id cannot be read is damaged by that.
    let checked = match listed.id.as_bytes() {
        [] if matches!(listed.state, ObjectState::Damaged { .. }) => Ok(Some(listed.clone())),
        id => (1..TRIES).fold(opened.store.describe(id, true), |checked, _| match checked {
            Err(Error::Io { .. }) => opened.store.describe(id, true),
            checked => checked,
        }),
    };
    match checked {
        // Deleted since it was listed.
        Ok(None) => {}
        Ok(Some(checked)) => match &checked.state {
            ObjectState::Damaged { reason } => {
                found.damaged += 1;
                match is_json {
                    true => line(&object(&checked, now_ms()).to_string())?,
                    false => progress.say_out(&format!("damaged: {} ({}): {reason}", name(&checked), checked.place))?,
                }
            }
            _ => {
                found.sound += 1;
                found.sound_bytes =
                    found.sound_bytes.saturating_add(checked.data_bytes).saturating_add(checked.metadata_bytes);
            }
        },
        Err(error @ (Error::Closed | Error::Detached { .. } | Error::Unreachable { .. })) => return Err(error.into()),
        Err(error) => {
            found.unknown += 1;
            match is_json {
                true => {
                    line(&json!({ "id": to_hex(listed.id.as_bytes()), "unchecked": error.to_string() }).to_string())?
                }
                false => progress.say_out(&format!("not checked: {}: {error}", name(listed)))?,
            }
        }
    }
    Ok(())
}

fn name(listed: &Listed) -> String {
    match listed.id.as_bytes() {
        [] => "an object whose id cannot be read".to_owned(),
        id => to_hex(id),
    }
}
