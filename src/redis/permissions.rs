//! Checks whether the user of a connection is permitted the commands that the store needs.

use redis::Cmd;

use super::keys::Keys;
use super::link::Link;
use super::pipeline::{Reply, code};
use crate::error::Error;

/// How long the key stands with which commands are tried.
const TRIED_MS: u64 = 1000;

/// What does not work without each command.
const USES: [(&str, &str); 8] = [
    ("SET", "no object reaches Redis"),
    ("EVAL", "overwrites and deletes do not reach Redis"),
    ("GETRANGE", "no object is read from Redis"),
    ("STRLEN", "overwrites and deletes do not reach Redis"),
    ("PEXPIREAT", "large objects with a lifetime do not reach Redis"),
    ("EXPIRE", "large objects are not replaced in Redis"),
    ("PERSIST", "large objects do not reach Redis"),
    ("INCRBY", "the counters of objects and bytes are wrong"),
];

/// Tries the commands on keys of this prefix, and returns a sentence about each that is not permitted. They are tried because asking for
/// permissions needs a permission of its own. Refusals for other reasons, such as a full Redis, do not count.
pub(crate) fn refused_commands(link: &mut Link, keys: &Keys) -> Result<Vec<String>, Error> {
    let key = keys.guard(0);
    let of = |name: &str| {
        let mut command = redis::cmd(name);
        match name {
            "EVAL" => command.arg("return redis.call('STRLEN', KEYS[1])").arg(1).arg(&key),
            "INCRBY" => command.arg(keys.object_count()).arg(0),
            name => command.arg(&key).arg(arguments(name)),
        };
        command
    };
    let commands: Vec<Cmd> = USES.iter().map(|(name, _)| of(name)).collect();
    let replies = link.run(&commands)?;
    let refused = USES.iter().zip(&replies).filter_map(|((name, effect), reply)| {
        let refusal = refusal_of(reply)?;
        Some(format!("Redis at {} does not permit {name} on {key} and its like: {refusal}: {effect}", link.address()))
    });
    Ok(refused.collect())
}

fn arguments(name: &str) -> Vec<String> {
    let arguments: &[&str] = match name {
        "SET" => &["", "NX", "PX"],
        "GETRANGE" => &["0", "0"],
        "PEXPIREAT" | "EXPIRE" => &["1"],
        _ => &[],
    };
    let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    if name == "SET" {
        arguments.push(TRIED_MS.to_string());
    }
    arguments
}

/// The refusal of a command that is not permitted, or not known.
fn refusal_of(reply: &Reply) -> Option<&str> {
    let refusal = reply.as_ref().err()?;
    let is_unknown = refusal.starts_with("ERR unknown command");
    (code(refusal) == "NOPERM" || is_unknown).then_some(refusal)
}
