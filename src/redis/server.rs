//! Questions to the server itself: its epoch, clock, settings, memory, replicas, counters, and a scan of all ids.

use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use xxhash_rust::xxh3::xxh3_128;

use super::fetch::heads;
use super::keys::Keys;
use super::link::Link;
use super::pipeline::Reply;
use super::refusals::unusable;
use crate::clock::Reading;
use crate::error::Error;
use crate::random::random_u128;

/// How often TIME is asked for one reading. The fastest answer counts, as its uncertainty is the smallest.
const TIME_SAMPLES: usize = 5;

/// How many keys one SCAN looks at: a millisecond of Redis's time at most.
const SCAN_KEYS: usize = 1000;

/// Most objects that `count` looks at in one round.
const COUNTED_IDS_MAX: usize = 512;

/// The epoch, by which this content of Redis is recognized: drawn by the first node, and lost when Redis, or a master of the cluster, is emptied. None
/// if there is none, or not all of it.
pub(crate) fn epoch(link: &mut Link, keys: &Keys) -> Result<Option<String>, Error> {
    let names = link.keys_all_over(|number| keys.epoch(number));
    let gets: Vec<Cmd> = names.iter().map(|name| get(name)).collect();
    let mut parts = Vec::with_capacity(names.len());
    for (name, reply) in names.iter().zip(link.run(&gets)?) {
        match reply {
            Ok(Value::BulkString(part)) => parts.push(part),
            Ok(Value::Nil) => return Ok(None),
            Ok(_) => return Err(unreachable(link, format!("{name} cannot be read"))),
            Err(refusal) => return Err(unreachable(link, format!("it refuses {name}: {refusal}"))),
        }
    }
    Ok(Some(match parts.as_slice() {
        [epoch] => String::from_utf8_lossy(epoch).into_owned(),
        parts => format!("{:032x}", xxh3_128(&parts.concat())),
    }))
}

/// Draws what is missing of the epoch. Returns the one that stands there then, which other nodes may have drawn.
pub(crate) fn begin_epoch(link: &mut Link, keys: &Keys) -> Result<String, Error> {
    let names = link.keys_all_over(|number| keys.epoch(number));
    let set = |name: &String| {
        let mut set = redis::cmd("SET");
        set.arg(name).arg(format!("{:032x}", random_u128())).arg("NX");
        set
    };
    let sets: Vec<Cmd> = names.iter().map(set).collect();
    let replies = link.run(&sets)?;
    if let Some(epoch) = epoch(link, keys)? {
        return Ok(epoch);
    }
    let refused = names.iter().zip(replies).find_map(|(name, reply)| Some((name, reply.err()?)));
    Err(unreachable(
        link,
        match refused {
            Some((name, refusal)) => format!("it refuses {name}: {refusal}"),
            None => format!("{} is gone again", keys.epoch(0)),
        },
    ))
}

fn get(key: &str) -> Cmd {
    let mut get = redis::cmd("GET");
    get.arg(key);
    get
}

/// Reads Redis's clock: that of the server that holds the event stream.
pub(crate) fn time(link: &mut Link, keys: &Keys) -> Result<Reading, Error> {
    let (mut fastest, mut refusal) = (None::<(Duration, Reading)>, None);
    for _ in 0..TIME_SAMPLES {
        let started = Instant::now();
        let replies = link.run_beside(keys.events().as_bytes(), &[redis::cmd("TIME")])?;
        let took = started.elapsed();
        let Some(redis_ms) = replies.first().and_then(milliseconds) else {
            refusal = replies.into_iter().next().and_then(Result::err);
            break;
        };
        if fastest.is_none_or(|(least, _)| took < least) {
            fastest = Some((took, Reading { redis_ms, at: started + took / 2, give_or_take: took / 2 }));
        }
    }
    match fastest {
        Some((_, reading)) => Ok(reading),
        None => {
            let refusal = refusal.unwrap_or_else(|| "its answer is not known".to_owned());
            Err(unreachable(link, format!("it does not tell the time (TIME): {refusal}")))
        }
    }
}

fn milliseconds(reply: &Reply) -> Option<u64> {
    let [Value::BulkString(seconds), Value::BulkString(micros)] = reply.as_ref().ok()?.as_sequence()? else {
        return None;
    };
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    number(seconds)?.checked_mul(1000)?.checked_add(number(micros)? / 1000)
}

/// Warnings about how this Redis is set up. Empty if there is nothing to warn of, or if Redis does not tell.
pub(crate) fn warnings(link: &mut Link) -> Result<Vec<String>, Error> {
    let setting = |name: &str| {
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg(name);
        get
    };
    let mut loader = redis::cmd("ACL");
    loader.arg("GETUSER").arg("default");
    let asked = [setting("maxmemory-policy"), setting("save"), setting("appendonly"), loader];
    let mut warnings = Vec::new();
    for mut replies in link.run_everywhere(&asked)? {
        let loader = replies.pop();
        let values: Vec<Option<String>> = replies.iter().map(value_of_setting).collect();
        let [policy, save, appendonly] = values.as_slice() else { continue };
        match policy.as_deref() {
            None | Some("noeviction") => {}
            Some(policy) if policy.starts_with("volatile-") => warnings.push(format!(
                "Redis may evict what has an expiry (maxmemory-policy {policy}): when it is full, deleted objects may come back, and \
                 objects with object_ttl_seconds vanish early; set maxmemory-policy to noeviction"
            )),
            Some(policy) => warnings.push(format!(
                "Redis evicts objects when it is full (maxmemory-policy {policy}): other nodes then lose them unless one still \
                 holds them; set maxmemory-policy to noeviction"
            )),
        }
        if appendonly.as_deref() == Some("yes") && loader.is_some_and(|rights| lacks_rights(&rights)) {
            warnings.push(
                "Redis may lose deletes, and with value_format = \"python\" objects, when it restarts: it loads its append-only file as the \
                 user default, which has not all rights; give it all of them and a password (user default on >... ~* &* +@all)"
                    .to_owned(),
            );
        }
        if save.as_deref() == Some("") && appendonly.as_deref() == Some("no") {
            warnings.push(
                "Redis has no persistence (neither save nor appendonly is set): when it restarts it is empty, and objects that no \
                 node holds are lost; set appendonly yes"
                    .to_owned(),
            );
        }
    }
    warnings.sort();
    warnings.dedup();
    Ok(warnings)
}

/// Whether the user in ACL GETUSER's answer, `[name, value, ...]`, lacks some command or key. False if that is not told.
fn lacks_rights(reply: &Reply) -> bool {
    let Some(fields) = reply.as_ref().ok().and_then(Value::as_sequence) else { return false };
    let value = |name: &[u8]| {
        let is_named = |pair: &&[Value; 2]| matches!(pair, [Value::BulkString(found), _] if found == name);
        fields.as_chunks::<2>().0.iter().find(is_named).map(|[_, value]| value)
    };
    // Redis 6.2 lists the keys.
    let is = |value: &Value, all: &[u8]| match value {
        Value::BulkString(text) => text.starts_with(all),
        Value::Array(listed) => listed.iter().any(|one| matches!(one, Value::BulkString(text) if text == b"*")),
        _ => true,
    };
    !value(b"commands").is_none_or(|it| is(it, b"+@all")) || !value(b"keys").is_none_or(|it| is(it, b"~*"))
}

/// CONFIG GET's answer: `[name, value]`.
fn value_of_setting(reply: &Reply) -> Option<String> {
    match reply.as_ref().ok()?.as_sequence()? {
        [_, Value::BulkString(value)] => Some(String::from_utf8_lossy(value).into_owned()),
        _ => None,
    }
}

/// Waits until `replicas` replicas have what this link has written, or for `timeout`. Returns how many have. Not on Cluster.
pub(crate) fn wait(link: &mut Link, replicas: u32, timeout: Duration) -> Result<u32, Error> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(replicas).arg(timeout.as_millis().max(1) as u64);
    match link.run_one(wait)? {
        Ok(Value::Int(count)) => Ok(u32::try_from(count).unwrap_or(0)),
        Ok(_) => Ok(0),
        Err(refusal) => {
            tracing::warn!("Redis does not say how many replicas have the objects: {refusal}");
            Ok(0)
        }
    }
}

/// Redis's memory, over all masters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub used_bytes: u64,
    /// `maxmemory`, or the machine's memory where that is not set.
    pub max_bytes: u64,
}

/// The memory used and allowed; None if Redis does not tell.
pub(crate) fn memory(link: &mut Link) -> Result<Option<Memory>, Error> {
    let mut info = redis::cmd("INFO");
    info.arg("memory");
    let mut sum = None::<Memory>;
    for replies in link.run_everywhere(&[info])? {
        let Some(Ok(Value::BulkString(text))) = replies.first() else { continue };
        let text = String::from_utf8_lossy(text);
        let field = |name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let max_bytes = match field("maxmemory") {
            0 => field("total_system_memory"),
            bytes => bytes,
        };
        let sum = sum.get_or_insert_default();
        sum.used_bytes = sum.used_bytes.saturating_add(field("used_memory"));
        sum.max_bytes = sum.max_bytes.saturating_add(max_bytes);
    }
    Ok(sum)
}

/// Calls `each` with the ids of all objects, tombstones among them, batch by batch. What is stored or deleted meanwhile may or may not
/// be among them.
pub(crate) fn scan_ids(
    link: &mut Link,
    keys: &Keys,
    mut each: impl FnMut(&mut Link, Vec<Vec<u8>>) -> Result<(), Error>,
) -> Result<(), Error> {
    for master in 0..link.masters() {
        let mut cursor = 0;
        loop {
            let (ids, next) = scan_page(link, keys, master, cursor, SCAN_KEYS)?;
            if !ids.is_empty() {
                each(link, ids)?;
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
    }
    Ok(())
}

/// One SCAN on a master, which looks at about `count` keys: the ids of objects, tombstones among them, and the cursor with which it goes on (0:
/// this was the last).
pub(super) fn scan_page(
    link: &mut Link,
    keys: &Keys,
    master: usize,
    cursor: u64,
    count: usize,
) -> Result<(Vec<Vec<u8>>, u64), Error> {
    let mut scan = redis::cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(keys.pattern()).arg("COUNT").arg(count);
    let reply = link.run_on(master, &[scan])?.into_iter().next();
    let Some(Ok(Value::Array(parts))) = reply else {
        let reason = format!("it refuses SCAN: {}", reply.and_then(Result::err).unwrap_or_default());
        return Err(unreachable(link, reason));
    };
    let [Value::BulkString(next), Value::Array(found)] = parts.as_slice() else {
        return Err(unreachable(link, "SCAN's answer is not known"));
    };
    let Some(next) = std::str::from_utf8(next).ok().and_then(|next| next.parse().ok()) else {
        return Err(unreachable(link, "SCAN's cursor is no number"));
    };
    let ids = found.iter().filter_map(|key| match key {
        Value::BulkString(key) => keys.id_of(key),
        _ => None,
    });
    Ok((ids.collect(), next))
}

/// Objects, and bytes of their metadata and data, by looking at each. What is stored or deleted meanwhile may or may not be among them.
pub(crate) fn count(link: &mut Link, keys: &Keys) -> Result<(u64, u64), Error> {
    let (mut objects, mut bytes) = (0_u64, 0_u64);
    scan_ids(link, keys, |link, ids| {
        for ids in ids.chunks(COUNTED_IDS_MAX) {
            let standing = heads(link, keys, ids)?;
            for counted in standing.into_iter().filter_map(|standing| standing.ok()??.counted_bytes()) {
                objects += 1;
                bytes = bytes.saturating_add(counted);
            }
        }
        Ok(())
    })?;
    Ok((objects, bytes))
}

/// The approximate counters: objects, and bytes of their metadata and data.
pub(crate) fn counters(link: &mut Link, keys: &Keys) -> Result<(u64, u64), Error> {
    let asked = [keys.object_count(), keys.total_size()].map(|key| {
        let mut get = redis::cmd("GET");
        get.arg(key);
        get
    });
    let replies = link.run(&asked)?;
    let mut counts = replies.iter().map(|reply| match reply {
        Ok(Value::BulkString(text)) => {
            String::from_utf8_lossy(text).parse::<i64>().map_or(0, |count| count.max(0) as u64)
        }
        _ => 0,
    });
    Ok((counts.next().unwrap_or(0), counts.next().unwrap_or(0)))
}

fn unreachable(link: &Link, reason: impl Into<String>) -> Error {
    unusable(link.address(), &reason.into())
}

#[cfg(test)]
mod tests;
