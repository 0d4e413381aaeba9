//! Whether the servers that have acknowledged something are the masters still.

use redis::Value;

use super::keys::Keys;
use super::link::Link;
use super::pipeline::{Reply, code};
use crate::error::Error;

/// Which masters there are, each by the name of its history (`master_replid`), which a promotion changes; empty where a server does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masters(Vec<(usize, String)>);

/// Proves to each master that holds some keys that it takes writes, by one that changes nothing: a server that was demoted answers PING, and
/// says READONLY to that. An error means that what was acknowledged on this link may be forgotten.
pub(crate) fn masters(link: &mut Link, keys: &Keys) -> Result<Masters, Error> {
    let guards = link.key_on_each_master(|number| keys.guard(number));
    let mut masters = Vec::with_capacity(guards.len());
    for (number, key) in guards {
        // Let through when Redis is out of memory.
        let mut guard = redis::cmd("DEL");
        guard.arg(key);
        let mut history = redis::cmd("INFO");
        history.arg("replication");
        let replies = link.run_on(number, &[guard, history])?;
        let [guard, history] = replies.as_slice() else { return Err(no_master(link, "no answer")) };
        match guard {
            Ok(_) => {}
            Err(refusal) if code(refusal) == "NOPERM" => ask_role(link, number)?,
            Err(refusal) => return Err(no_master(link, refusal)),
        }
        masters.push((number, history_of(history)));
    }
    Ok(Masters(masters))
}

/// For a user who may not delete.
fn ask_role(link: &mut Link, number: usize) -> Result<(), Error> {
    let replies = link.run_on(number, &[redis::cmd("ROLE")])?;
    match replies.first() {
        Some(Ok(role)) if matches!(role.as_sequence(), Some([Value::BulkString(role), ..]) if role == b"master") => {
            Ok(())
        }
        Some(Err(refusal)) => {
            let reason =
                format!("it lets nobody see whether it is a master: neither DEL nor ROLE is permitted ({refusal})");
            Err(no_master(link, &reason))
        }
        _ => Err(no_master(link, "it is no master (any more)")),
    }
}

/// Who may not ask for it compares nothing.
fn history_of(reply: &Reply) -> String {
    let Ok(Value::BulkString(text)) = reply else { return String::new() };
    let text = String::from_utf8_lossy(text);
    let found = text.lines().find_map(|line| line.strip_prefix("master_replid:"));
    found.unwrap_or_default().trim().to_owned()
}

fn no_master(link: &Link, reason: &str) -> Error {
    Error::Unreachable { address: link.address().to_owned(), reason: format!("it takes no writes: {reason}") }
}
