//! A damaged record whose id has the fingerprint of another id.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;

use scaler_object_storage::{ObjectStore, Parked, Underlying};

/// Every id has the same fingerprint.
fn open(directory: &Path) -> ObjectStore {
    let under = Underlying { fingerprint_mask: 0, ..Underlying::default() };
    ObjectStore::builder().local(directory).max_size_mb(16).under(under).open().unwrap()
}

/// Flips a bit of `text` where it stands in a segment of the journal.
fn damage(directory: &Path, text: &[u8]) {
    for entry in std::fs::read_dir(directory.join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(place) = bytes.windows(text.len()).position(|window| window == text) {
            bytes[place] ^= 1;
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            return file.write_all_at(&bytes[place..=place], place as u64).unwrap();
        }
    }
    panic!("not in the journal");
}

/// Invariants 7 and 9: the waiter is answered although reading back what was put comes across the damage.
#[test]
fn a_waiter_is_answered_though_an_id_with_its_fingerprint_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.put(b"the rival's id", b"rival", b"").unwrap();
    store.close().unwrap();

    let store = open(directory.path());
    let (sender, receiver) = mpsc::channel();
    let parked = store.get_or_park(b"id", move |object| sender.send(object).unwrap()).unwrap();
    assert!(matches!(parked, Parked::Waiting(_)));
    damage(directory.path(), b"the rival's id");
    store.put(b"id", b"data", b"").unwrap();

    assert_eq!(receiver.recv().unwrap().data, b"data"[..]);
    assert_eq!(store.get(b"id").unwrap().unwrap().data, b"data"[..]);
    assert_eq!(store.get(b"the rival's id").unwrap(), None, "damaged");
}
