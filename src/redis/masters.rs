//! Whether the servers that have acknowledged something are the masters still.

use redis::Value;

use super::keys::Keys;
use super::link::Link;
use super::pipeline::{Reply, code};
use crate::error::Error;

/// Which masters there are, each by the name of its history (`master_replid`), which a promotion changes, and that of its process (`run_id`);
/// empty where a server does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masters(Vec<(usize, String)>);

impl Masters {
    /// Whether these are the same servers without a restart or a promotion in between, for sure: then nothing that they had is forgotten.
    pub fn are_still(&self, before: &Masters) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(_, name)| !name.is_empty()) && self == before
    }
}

/// Proves to each master that holds some keys that it takes writes, by one that changes nothing: a server that was demoted answers PING, and
/// says READONLY to that. An error means that what was acknowledged on this link may be forgotten.
pub(crate) fn masters(link: &mut Link, keys: &Keys) -> Result<Masters, Error> {
    let guards = link.key_on_each_master(|number| keys.guard(number));
    let mut masters = Vec::with_capacity(guards.len());
    for (number, key) in guards {
        // Let through when Redis is out of memory.
        let mut guard = redis::cmd("DEL");
        guard.arg(key);
        let info = |section: &str| {
            let mut info = redis::cmd("INFO");
            info.arg(section);
            info
        };
        let replies = link.run_on(number, &[guard, info("replication"), info("server")])?;
        let [guard, replication, server] = replies.as_slice() else { return Err(no_master(link, "no answer")) };
        match guard {
            Ok(_) => {}
            Err(refusal) if code(refusal) == "NOPERM" => ask_role(link, number)?,
            Err(refusal) => return Err(no_master(link, refusal)),
        }
        let name = field(replication, "master_replid:").zip(field(server, "run_id:"));
        masters.push((number, name.map_or(String::new(), |(history, process)| history + &process)));
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

/// None for who may not ask for it.
fn field(reply: &Reply, name: &str) -> Option<String> {
    let Ok(Value::BulkString(text)) = reply else { return None };
    let text = String::from_utf8_lossy(text);
    let found = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(found.trim().to_owned())
}

fn no_master(link: &Link, reason: &str) -> Error {
    Error::Unreachable { address: link.address().to_owned(), reason: format!("it takes no writes: {reason}") }
}
