//! `export` and `import`: from a directory to Redis and back, with metadata and versions.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use scaler_object_storage::{Object, ObjectStore, Version};

use crate::program::{FILLED, Server, command, filled, run, said};

type Contents = BTreeMap<Vec<u8>, (Object, Option<Version>)>;

fn contents(store: &ObjectStore) -> Contents {
    let of = |id: &[u8]| (store.get(id).unwrap().unwrap(), store.describe(id, false).unwrap().unwrap().version);
    store.objects().map(|listed| listed.unwrap().id.as_bytes().to_vec()).map(|id| (id.clone(), of(&id))).collect()
}

fn contents_of(directory: &std::path::Path) -> Contents {
    let store = ObjectStore::builder().local(directory).max_size_mb(64).open().unwrap();
    let all = contents(&store);
    store.close().unwrap();
    all
}

#[test]
fn a_store_goes_to_redis_and_back_with_its_versions() {
    let place = tempfile::tempdir().unwrap();
    let [directory, back] = ["store", "back"].map(|name| place.path().join(name));
    let [first, second] = ["first.tar", "second.tar"].map(|name| place.path().join(name));
    let redis = crate::common::redis::RedisServer::start();
    filled(&directory);
    let expected = contents_of(&directory);
    assert_eq!(expected.len(), FILLED);

    let exported = run(&["export", directory.to_str().unwrap(), "--output", first.to_str().unwrap()]).ok();
    assert!(exported.err.contains("exported 22 objects"), "{exported:?}");
    run(&["clear", "--yes", directory.to_str().unwrap()]).ok();
    let imported = run(&["import", &redis.url(), "--input", first.to_str().unwrap()]).ok();
    assert!(imported.err.contains("imported 22 objects"), "{imported:?}");
    let shared = ObjectStore::builder().redis(redis.url()).open().unwrap();
    assert_eq!(contents(&shared), expected);
    // A second time nothing is newer.
    let again = run(&["import", &redis.url(), "--input", first.to_str().unwrap()]).ok();
    assert!(again.err.contains("imported 0 objects") && again.err.contains("22 stayed"), "{again:?}");

    run(&["export", &redis.url(), "-o", second.to_str().unwrap()]).ok();
    run(&["import", back.to_str().unwrap(), "-i", second.to_str().unwrap()]).ok();
    assert_eq!(contents_of(&back), expected);
    // What was deleted by `clear` comes back by an import: a restored version is only compared with what stands.
    run(&["import", directory.to_str().unwrap(), "-i", second.to_str().unwrap()]).ok();
    assert_eq!(contents_of(&directory), expected);
}

#[test]
fn a_running_server_is_exported_and_takes_objects_as_new() {
    let place = tempfile::tempdir().unwrap();
    let [directory, other] = ["store", "other"].map(|name| place.path().join(name));
    filled(&directory);
    let expected = contents_of(&directory);
    let server = Server::start(&directory);
    // Through a pipe.
    let mut export = command(&["export", directory.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let import = command(&["import", other.to_str().unwrap()]).stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success());
    said(import).ok();
    assert_eq!(contents_of(&other), expected);

    let file = place.path().join("export.tar");
    run(&["export", other.to_str().unwrap(), "-o", file.to_str().unwrap()]).ok();
    run(&["clear", "-y", directory.to_str().unwrap()]).ok();
    let refused = run(&["import", directory.to_str().unwrap(), "-i", file.to_str().unwrap()]);
    assert!(refused.status == 1 && refused.err.contains("--as-new"), "{refused:?}");
    run(&["import", "--as-new", directory.to_str().unwrap(), "-i", file.to_str().unwrap()]).ok();
    server.stop();
    let objects =
        |contents: &Contents| contents.iter().map(|(id, (object, _))| (id.clone(), object.clone())).collect::<Vec<_>>();
    assert_eq!(objects(&contents_of(&directory)), objects(&expected));
}

#[test]
fn a_file_that_is_cut_short_is_an_error_and_what_was_whole_is_stored() {
    let place = tempfile::tempdir().unwrap();
    let [directory, other] = ["store", "other"].map(|name| place.path().join(name));
    filled(&directory);
    let file = place.path().join("export.tar");
    run(&["export", directory.to_str().unwrap(), "-o", file.to_str().unwrap()]).ok();
    assert!(!place.path().join("export.tar.partial").exists());
    let content = fs::read(&file).unwrap();
    fs::write(&file, &content[..content.len() / 2]).unwrap();
    let cut = run(&["import", other.to_str().unwrap(), "-i", file.to_str().unwrap()]);
    assert!(cut.status == 1 && cut.err.contains("cut short"), "{cut:?}");
    let (some, all) = (contents_of(&other), contents_of(&directory));
    assert!(some.len() < all.len() && some.iter().all(|(id, object)| all[id] == *object));
    fs::write(&file, b"nothing of ours").unwrap();
    let refused = run(&["import", other.to_str().unwrap(), "-i", file.to_str().unwrap()]);
    assert!(refused.status == 1, "{refused:?}");
}
