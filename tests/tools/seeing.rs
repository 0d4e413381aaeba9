//! `list`, `show`, `completions`, `bench`, and how they are called.

use std::io::Write;
use std::process::{Command, Stdio};

use scaler_object_storage::ObjectStore;

use crate::program::{FILLED, command, filled, put_old, run};

#[test]
fn list_limits_and_picks_by_age() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let path = directory.to_str().unwrap();
    let count = |more: &[&str]| run(&[&["list", path, "--json"], more].concat()).ok().json().len();
    assert_eq!(count(&[]), FILLED);
    assert_eq!(count(&["--limit", "3"]), 3);
    assert_eq!(count(&["--older-than", "1h"]), 0);
    let store = ObjectStore::builder().local(&directory).max_size_mb(64).open().unwrap();
    put_old(&store, b"old");
    store.close().unwrap();
    let old = run(&["list", path, "--json", "--older-than", "1h"]).ok().json();
    assert_eq!((old.len(), old[0]["id"].as_str()), (1, Some("6f6c64")));
    assert!((7200.0..1e6).contains(&old[0]["age_seconds"].as_f64().unwrap()), "{old:?}");
    assert_eq!(count(&["--older-than", "3h"]), 0);

    let table = run(&["list", path]).ok().out;
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), FILLED + 2, "{table}");
    assert!(lines[0].starts_with("ID ") && lines.iter().any(|line| line.starts_with("6c61726765 ")), "{table}");
    let wrong = run(&["list", path, "--older-than", "soon"]);
    assert!(wrong.status == 2 && wrong.err.contains("90s, 15m, 2h, 7d"), "{wrong:?}");
}

#[test]
fn show_tells_one_object() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    filled(&directory);
    let path = directory.to_str().unwrap();
    let shown = run(&["show", "6c61726765", "-s", path]).ok().out;
    for expected in
        ["id        6c61726765", "as text   large", "(300000 bytes)", "kept, checksum right", ".body", "16 bytes"]
    {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let missing = run(&["show", "--text", "nothing", "-s", path]);
    assert!(missing.status == 1 && missing.err.contains("there is no object"), "{missing:?}");
    let wrong = run(&["show", "large", "-s", path]);
    assert!(wrong.status == 1 && wrong.err.contains("--text"), "{wrong:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    let store = ObjectStore::builder().local(&directory).max_size_mb(64).open().unwrap();
    for number in 0..5000_u32 {
        store.put(&number.to_le_bytes(), b"", b"").unwrap();
    }
    store.close().unwrap();
    let mut list = command(&["list", directory.to_str().unwrap()]);
    let mut child = list.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn completions_are_scripts_that_the_shell_can_read() {
    let script = run(&["completions", "bash"]).ok().out;
    for name in ["verify", "--older-than", "--local-path", "serve"] {
        assert!(script.contains(name), "{name}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let checked = bash.wait_with_output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    // What is completed: the commands that begin so.
    let ask = format!(
        "{script}\nCOMP_WORDS=(scaler_object_storage ver); COMP_CWORD=1; _scaler_object_storage scaler_object_storage ver scaler_object_storage; echo \"${{COMPREPLY[@]}}\""
    );
    let completed = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "verify", "{completed:?}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(!run(&["completions", shell]).ok().out.is_empty());
    }
}

#[test]
fn bench_measures_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().to_str().unwrap();
    let redis = crate::common::redis::RedisServer::start();
    let measured =
        run(&["bench", "--seconds", "1", "--json", "--directory", directory, "--redis-url", &redis.url()]).ok();
    let all = measured.json();
    for what in ["put", "hit", "Redis put", "Redis get"] {
        let found = all.iter().find(|line| line["what"] == what).unwrap_or_else(|| panic!("{what}: {measured:?}"));
        assert!(found["calls"].as_u64().unwrap() > 0 && found["median_seconds"].as_f64().unwrap() > 0.0, "{found}");
    }
    assert_eq!(place.path().read_dir().unwrap().count(), 0);
    let left = run(&["list", &redis.url(), "--json", "--redis-key-prefix", "scaler:obj:bench:"]).ok();
    assert!(left.out.is_empty(), "{left:?}");
}

#[test]
fn help_is_there_for_every_command_and_mistakes_are_told() {
    let help = run(&["--help"]).ok().out;
    for name in [
        "serve",
        "status",
        "top",
        "list",
        "show",
        "verify",
        "delete",
        "clear",
        "export",
        "import",
        "repair",
        "bench",
        "completions",
    ] {
        assert!(help.contains(name), "{name}");
        let own = run(&[name, "--help"]).ok().out;
        assert!(own.contains("Usage: scaler_object_storage") && own.contains(name), "{own}");
        assert!(run(&[name, "-h"]).ok().out.len() <= own.len());
    }
    assert!(run(&["lst"]).err.contains("list"), "the nearest is named");
    assert_eq!(run(&["list", "--no-such-option"]).status, 2);
    let secret = run(&["list", "redis://user:secret@127.0.0.1:1", "more"]);
    assert!(secret.status == 2 && !secret.err.contains("secret"), "{secret:?}");
    let secret = run(&["list", "redis://user:secret@127.0.0.1:1"]);
    assert!(secret.status == 1 && !secret.err.contains("secret"), "{secret:?}");
    assert_eq!(run(&["--version"]).ok().out.trim(), concat!("scaler_object_storage ", env!("CARGO_PKG_VERSION")));
}
