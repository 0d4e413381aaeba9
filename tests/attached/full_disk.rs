//! A disk that others fill up, and that gets room again, under processes that share a store on it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::common::mounted::Mounted;
use crate::common::until;
use crate::place::Place;
use crate::worker::{Setup, Worker};

/// Less than the disk has.
pub const SMALL: Setup = Setup { size_mb: 24, response_ms: 30_000 };

const DISK_MB: u64 = 40;

/// In the message, in a record, and written by the process itself: into a segment with others, and into one of its own.
const LENGTHS: [usize; 5] = [100, 3000, 50_000, 100_000, 600_000];

/// The seeds and lengths of what is stored.
type Stored = BTreeMap<String, String>;

/// A full disk refuses a write with the words that it has for who has opened the store for itself, and no others.
#[track_caller]
fn assert_refused(id: &str, refused: &str) {
    let names_it = refused.contains(&format!("object {id}"));
    let is_refused = names_it && (refused.starts_with("error Full") || refused.starts_with("error WriteFailed"));
    assert!(is_refused || refused.starts_with("error Io") && refused.contains("No space left"), "{id}: {refused}");
}

/// Puts in one message or in pieces; whether it was stored.
#[track_caller]
fn put(writer: &mut Worker, stored: &mut Stored, id: &str, seed: u64) -> bool {
    let length = LENGTHS[seed as usize % LENGTHS.len()];
    let orders = match seed % 3 {
        0 => vec![format!("begin {id} {seed} {length}"), format!("piece {length}"), "commit".to_owned()],
        _ => vec![format!("put {id} {seed} {length}")],
    };
    for order in orders {
        let reply = writer.order(&order);
        if reply != "ok" {
            assert_refused(id, &reply);
            return false;
        }
    }
    stored.insert(id.to_owned(), format!("{seed} {length}"));
    true
}

fn check(reader: &mut Worker, stored: &Stored) {
    for (id, content) in stored {
        assert_eq!(reader.order(&format!("get {id}")), *content, "{id}");
    }
    assert_eq!(reader.order("check"), "unchanged");
}

fn endure(place: &Place, disk: &Mounted) {
    let (mut writer, mut reader) = (Worker::with(place, SMALL), Worker::with(place, SMALL));
    let keeper = place.keeper();
    let mut stored = Stored::new();
    for round in 0..3 {
        let seed = |number: u64| round * 10_000 + number;
        for number in 0..40 {
            let id = format!("{round}-{number}");
            assert!(put(&mut writer, &mut stored, &id, seed(number)));
        }
        for id in stored.keys().step_by(3) {
            reader.does(&format!("hold {id}"));
        }
        disk.fill();

        // Segments that have their room already fill up; then there is none.
        let mut refused = 0;
        for number in 0..300 {
            let id = format!("{round}-{}", number % 60);
            refused += u64::from(!put(&mut writer, &mut stored, &id, seed(100 + number)));
        }
        assert!(refused > 20, "{refused}");
        check(&mut reader, &stored);
        check(&mut writer, &stored);
        // Who comes now finds no room for what a session takes. What the store has given back is taken again.
        disk.fill();
        let mut late = Worker::with(place, SMALL);
        check(&mut late, &stored);
        let deleted: Vec<String> = stored.keys().step_by(2).cloned().collect();
        for id in deleted {
            assert_eq!(writer.order(&format!("delete {id}")), "yes");
            assert_eq!(reader.order(&format!("get {id}")), "absent");
            stored.remove(&id);
        }
        check(&mut reader, &stored);

        disk.free();
        let shared = RefCell::new((&mut writer, &mut stored));
        until("a put works again", || {
            let (writer, stored) = &mut *shared.borrow_mut();
            put(writer, stored, "after", seed(1003))
        });
        assert_eq!(late.order("get after"), stored["after"]);
        check(&mut late, &stored);
        // More than there is room for, unless that of what is deleted comes back.
        for number in 0..200 {
            assert!(put(&mut writer, &mut stored, &format!("churn-{}", number % 7), seed(2000 + number)));
        }
        check(&mut reader, &stored);
        reader.does("drop");
        for id in std::mem::take(&mut stored).into_keys() {
            assert_eq!(writer.order(&format!("delete {id}")), "yes");
        }
    }
    assert_eq!(place.keeper(), keeper, "it has served all the time");
}

// Invariants 1, 2, 13 and 14.
#[test]
fn processes_endure_a_full_file_system() {
    // In a thread of its own, as others would see the mount as well.
    let endured = std::thread::spawn(|| {
        let place = Place::new();
        if let Some(disk) = Mounted::at(place.path().parent().unwrap(), DISK_MB) {
            endure(&place, &disk);
        }
    });
    endured.join().unwrap();
}
