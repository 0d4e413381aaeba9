//! Which servers are the masters, so that it can be proven later that those that acknowledged something still are.

use redis::Value;

use super::keys::Keys;
use super::link::Link;
use super::pipeline::{Reply, code};
use super::refusals::unusable;
use crate::error::Error;

/// The masters, each by its replication id (`master_replid`), which a promotion changes, and its process id (`run_id`), which a restart
/// changes; empty if a server does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masters(Vec<(usize, String)>);

impl Masters {
    /// Whether these are certainly the same servers, without a restart or a promotion in between: then nothing that they took is lost.
    pub fn are_still(&self, before: &Masters) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(_, name)| !name.is_empty()) && self == before
    }
}

/// Has each master that holds any slots carry out a write that changes nothing, to prove that it takes writes: a demoted server answers PING,
/// but refuses this with READONLY. An error means that what was acknowledged on this link may be lost.
pub(crate) fn masters(link: &mut Link, keys: &Keys) -> Result<Masters, Error> {
    let guards = link.key_on_each_master(|number| keys.guard(number));
    let mut masters = Vec::with_capacity(guards.len());
    for (number, key) in guards {
        // DEL is accepted even when Redis is out of memory.
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

/// The proof for a user without the permission to delete: asks for the server's role.
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

/// A field of INFO's answer; None if the user may not ask.
fn field(reply: &Reply, name: &str) -> Option<String> {
    let Ok(Value::BulkString(text)) = reply else { return None };
    let text = String::from_utf8_lossy(text);
    let found = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(found.trim().to_owned())
}

fn no_master(link: &Link, reason: &str) -> Error {
    unusable(link.address(), &format!("it takes no writes: {reason}"))
}
