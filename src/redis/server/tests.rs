//! Tests of the questions to a server, above all of the warnings.

use super::*;
use crate::redis::testing::*;

#[test]
fn the_epoch_lasts_until_redis_is_emptied() {
    let server = Server::start();
    let (mut one, mut other) = (server.link(), server.link());
    assert_eq!(epoch(&mut one, &keys()).unwrap(), None);
    let first = begin_epoch(&mut one, &keys()).unwrap();
    assert_eq!(begin_epoch(&mut other, &keys()).unwrap(), first);
    assert_eq!(epoch(&mut other, &keys()).unwrap().as_ref(), Some(&first));
    assert_eq!(first.len(), 32);
    assert_ne!(begin_epoch(&mut other, &Keys::new("other:")).unwrap(), first);
    call(&mut one, &["FLUSHALL"]).unwrap();
    // Who may not draw one can tell all the same that it is gone.
    call(&mut one, &["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    assert_eq!(epoch(&mut one, &keys()).unwrap(), None);
    assert!(begin_epoch(&mut one, &keys()).is_err());
    call(&mut one, &["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    assert_ne!(begin_epoch(&mut one, &keys()).unwrap(), first);
}

#[test]
fn redis_tells_the_time() {
    let server = Server::start();
    let mut link = server.link();
    let (before, first) = (Instant::now(), time(&mut link, &keys()).unwrap());
    let second = time(&mut link, &keys()).unwrap();
    assert!(before <= first.at && first.at <= second.at && second.at <= Instant::now());
    assert!(first.redis_ms > 1_500_000_000_000 && first.redis_ms <= second.redis_ms, "{first:?} {second:?}");
    let reply = |seconds: &str, micros: &str| {
        Ok(Value::Array(vec![Value::BulkString(seconds.into()), Value::BulkString(micros.into())]))
    };
    assert_eq!(milliseconds(&reply("12", "345678")), Some(12_345));
    for (seconds, micros) in [("x", "1"), ("", ""), ("18446744073709551615", "1"), ("-5", "1")] {
        assert_eq!(milliseconds(&reply(seconds, micros)), None);
    }
}

#[test]
fn a_redis_that_loses_objects_is_warned_of() {
    let server = Server::start();
    let mut link = server.link();
    let mut warned = |policy: &str, save: &str, appendonly: &str| {
        for (name, value) in [("maxmemory-policy", policy), ("save", save), ("appendonly", appendonly)] {
            call(&mut link, &["CONFIG", "SET", name, value]).unwrap();
        }
        warnings(&mut link).unwrap()
    };
    assert_eq!(warned("noeviction", "3600 1", "no"), [""; 0]);
    assert_eq!(warned("noeviction", "", "yes"), [""; 0]);
    assert!(matches!(warned("noeviction", "", "no").as_slice(), [one] if one.contains("no persistence")));
    assert!(matches!(warned("allkeys-lru", "3600 1", "no").as_slice(), [one] if one.contains("allkeys-lru")));
    assert!(
        matches!(warned("volatile-ttl", "3600 1", "no").as_slice(), [one] if one.contains("deleted objects may come back"))
    );
    // If it is not permitted to ask, there are no warnings.
    call(&mut link, &["ACL", "SETUSER", "default", "-config", "-info"]).unwrap();
    assert_eq!(warnings(&mut link).unwrap(), [""; 0]);
    assert_eq!(memory(&mut link).unwrap(), None);
}

/// Redis loads its append-only file as the user `default`, and skips the commands that this user is not permitted.
#[test]
fn a_redis_whose_default_user_may_not_do_everything_is_warned_of_where_it_has_an_append_only_file() {
    let server = Server::start();
    let mut link = server.link();
    call(&mut link, &["ACL", "SETUSER", "node", "on", ">secret", "~*", "&*", "+@all"]).unwrap();
    call(&mut link, &["AUTH", "node", "secret"]).unwrap();
    call(&mut link, &["CONFIG", "SET", "save", "3600 1"]).unwrap();
    let mut warned = |appendonly: &str, rights: &[&str]| {
        call(&mut link, &["CONFIG", "SET", "appendonly", appendonly]).unwrap();
        call(&mut link, &[&["ACL", "SETUSER", "default", "reset"], rights].concat()).unwrap();
        warnings(&mut link).unwrap()
    };
    for rights in [&["~*", "+@all"][..], &["on", ">secret", "~*", "+@all"]] {
        assert_eq!(warned("yes", rights), [""; 0]);
    }
    for rights in [&[][..], &["on", "~*"], &["on", "+@all", "~other:*"], &["on", "~*", "+@all", "-@all", "+get"]] {
        assert!(matches!(warned("yes", rights).as_slice(), [one] if one.contains("user default")), "{rights:?}");
        assert_eq!(warned("no", rights), [""; 0]);
    }
}

#[test]
fn memory_and_absent_replicas_are_told() {
    let server = Server::start();
    let mut link = server.link();
    let Memory { used_bytes, max_bytes } = memory(&mut link).unwrap().unwrap();
    assert!(used_bytes > 100_000 && max_bytes > used_bytes, "{used_bytes} of {max_bytes}");
    call(&mut link, &["CONFIG", "SET", "maxmemory", "64mb"]).unwrap();
    assert_eq!(memory(&mut link).unwrap().unwrap().max_bytes, 64 << 20);
    assert_eq!(wait(&mut link, 1, Duration::from_millis(1)).unwrap(), 0);
}

#[test]
fn a_scan_finds_every_object_and_nothing_else() {
    let server = Server::start();
    let mut link = server.link();
    let ids: Vec<String> = (0..2500).map(|n| format!("id{n:04}")).collect();
    let mut writes: Vec<_> = ids.iter().map(|id| put(id, 1, &object("x"))).collect();
    writes.push(put("large", 1, &object(vec![1; 2 << 20])));
    server.pusher().push(&mut link, &writes).unwrap();
    epoch(&mut link, &keys()).unwrap();
    set_raw(&mut link, "t2:6964", b"another prefix's");
    let (mut found, mut batches) = (Vec::new(), 0);
    scan_ids(&mut link, &keys(), |_, ids| {
        found.extend(ids);
        batches += 1;
        Ok(())
    })
    .unwrap();
    found.sort();
    found.dedup();
    let mut expected: Vec<Vec<u8>> = ids.into_iter().map(String::into_bytes).collect();
    expected.push(b"large".to_vec());
    assert_eq!(found, expected);
    assert!(batches > 1, "batch by batch");
}
