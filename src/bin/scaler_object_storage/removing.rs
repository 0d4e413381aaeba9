//! `delete` and `clear`.

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;

use crate::Failure;
use crate::arguments::has;
use crate::ask::confirmed;
use crate::listing::is_older;
use crate::output::{line, now_ms, say};
use crate::progress::Progress;
use crate::source::{Opened, Source, id, to_hex};

/// So many ids of old objects are gathered before they are deleted.
const BATCH: usize = 1000;

pub fn delete(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let (is_yes, is_text, is_quiet) = (has(matches, "yes"), has(matches, "text"), has(matches, "quiet"));
    if let Some(age) = matches.remove_one::<Duration>("older-than") {
        return delete_older(&Source::of(matches)?, age, is_yes, is_quiet);
    }
    let words = matches.remove_many::<String>("id").into_iter().flatten();
    let ids = words.map(|word| id(&word, is_text)).collect::<Result<Vec<_>, _>>()?;
    let source = Source::of(matches)?;
    let opened = source.open_to_delete()?;
    let objects = if ids.len() == 1 { "1 object".to_owned() } else { format!("{} objects", ids.len()) };
    if !confirmed(&format!("Delete {objects} from {}?", opened.place), is_yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let mut missing = 0;
    for id in &ids {
        if opened.store.delete(id)? {
            line(&format!("deleted {}", to_hex(id)))?;
        } else {
            say(&format!("there is no object {}", to_hex(id)));
            missing += 1;
        }
    }
    opened.close()?;
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn delete_older(source: &Source, age: Duration, is_yes: bool, is_quiet: bool) -> Result<ExitCode, Failure> {
    let opened = source.open_to_delete()?;
    let now = now_ms();
    let (mut count, mut bytes) = (0_u64, 0_u64);
    for listed in opened.store.objects() {
        let listed = listed?;
        if is_older(&listed, Some(age), now) {
            count += 1;
            bytes = bytes.saturating_add(listed.data_bytes);
        }
    }
    let size = crate::output::bytes(bytes);
    if count > 0 && !confirmed(&format!("Delete {count} objects of {size} from {}?", opened.place), is_yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let deleted = delete_all_older(&opened, age, now, &Progress::of(count, "objects", is_quiet))?;
    line(&format!("deleted {deleted} objects"))?;
    opened.close()?;
    Ok(ExitCode::SUCCESS)
}

/// What is old enough now as well: one that was overwritten meanwhile stays.
fn delete_all_older(opened: &Opened, age: Duration, now_ms: u64, progress: &Progress) -> Result<u64, Failure> {
    let (mut deleted, mut batch) = (0, Vec::new());
    let mut objects = opened.store.objects();
    loop {
        let next = objects.next().transpose()?;
        let is_last = next.is_none();
        batch.extend(next.filter(|listed| is_older(listed, Some(age), now_ms) && !listed.id.as_bytes().is_empty()));
        if is_last || batch.len() >= BATCH {
            for listed in batch.drain(..) {
                let id = listed.id.as_bytes();
                let is_still = opened.store.describe(id, false)?.is_some_and(|it| is_older(&it, Some(age), now_ms));
                if is_still && opened.store.delete(id)? {
                    deleted += 1;
                }
                progress.step();
            }
        }
        if is_last {
            return Ok(deleted);
        }
    }
}

pub fn clear(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let is_yes = has(matches, "yes");
    let opened = Source::of(matches)?.open_to_delete()?;
    let (count, bytes) = opened.store.count()?;
    let size = crate::output::bytes(bytes);
    if !confirmed(&format!("Delete all {count} objects of {size} in {}?", opened.place), is_yes)? {
        return Ok(ExitCode::FAILURE);
    }
    opened.store.clear()?;
    line(&format!("deleted {count} objects of {size}"))?;
    opened.close()?;
    Ok(ExitCode::SUCCESS)
}
