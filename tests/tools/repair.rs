//! `repair`: what a killed process left is said, and done only when it is confirmed.

use std::fs;
use std::path::Path;

use scaler_object_storage::ObjectStore;

use crate::program::{FILLED, Server, fill, listed, run};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = {
            let path = entry.unwrap().path();
            (path.clone(), to.join(path.file_name().unwrap()))
        };
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn what_would_be_repaired_is_said_first() {
    let place = tempfile::tempdir().unwrap();
    let [open, left] = ["open", "left"].map(|name| place.path().join(name));
    let store = ObjectStore::builder().local(&open).max_size_mb(64).open().unwrap();
    fill(&store);
    // As a process leaves it that is killed now.
    copy(&open, &left);
    fs::remove_dir_all(left.join("catalog")).unwrap();
    let path = left.to_str().unwrap();
    let said = run(&["repair", "--dry-run", path]).ok();
    assert!(said.out.contains("to do: ") && said.out.contains("was left open: it is sealed"), "{said:?}");
    let asked = run(&["repair", path]);
    assert!(asked.status == 1 && asked.err.contains("--yes"), "{asked:?}");
    let before = listed(path);
    assert_eq!(before.len(), FILLED);
    let json = run(&["repair", "--dry-run", "--json", path]).ok().json();
    assert!(!json[0]["repairs"].as_array().unwrap().is_empty() && json[0]["damage"].as_array().unwrap().is_empty());

    let done = run(&["repair", "--yes", path]).ok();
    assert!(done.err.contains("done: 22 objects"), "{done:?}");
    let nothing = run(&["repair", path]).ok();
    assert!(nothing.out.contains("nothing to repair"), "{nothing:?}");
    assert_eq!(listed(path), before);

    let server = Server::start(&left);
    let refused = run(&["repair", path]);
    assert!(refused.status == 1 && refused.err.contains("a process keeps it"), "{refused:?}");
    server.stop();
    let refused = run(&["repair", "redis://127.0.0.1:1"]);
    assert!(refused.status == 1 && refused.err.contains("only a directory"), "{refused:?}");
}
