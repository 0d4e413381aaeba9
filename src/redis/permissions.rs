//! Whether the user of this connection may give the commands that the store needs.

use redis::Cmd;

use super::keys::Keys;
use super::link::Link;
use super::pipeline::{Reply, code};
use crate::error::Error;

/// For how long the key stands that is tried with.
const TRIED_MS: u64 = 1000;

/// What each command is for, and so what does not work without it.
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

/// Sentences about the commands that are refused, on the keys of this prefix. Tried, as asking for permissions needs a permission of its own. What
/// is refused for another reason, as when Redis is full, is none of this.
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

/// Why the command may not be given.
fn refusal_of(reply: &Reply) -> Option<&str> {
    let refusal = reply.as_ref().err()?;
    let is_unknown = refusal.starts_with("ERR unknown command");
    (code(refusal) == "NOPERM" || is_unknown).then_some(refusal)
}
