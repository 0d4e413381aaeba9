//! What there is too little of, or too much: descriptors, room, users, letters in a name.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use scaler_object_storage::Error;

use crate::common::{bytes, get, until};
use crate::place::{PROGRAM, Place, is_alive, signal, stop};
use crate::worker::{Setup, Worker, attach, content, seed_and_len};

#[test]
fn processes_that_start_at_the_same_time_have_one_keeper() {
    for count in [2, 16] {
        let place = Place::new();
        let mut workers: Vec<Worker> = (0..count).map(|_| Worker::detached(&place)).collect();
        workers.iter_mut().for_each(|worker| worker.send(&attach(Setup::default())));
        for worker in &mut workers {
            assert_eq!(worker.reply(), "ok");
        }
        let keeper = place.keeper().unwrap();
        until("nobody else is about to keep it", || place.processes().len() == count + 1);
        workers[0].does("put id 3 100000");
        for worker in &mut workers {
            assert_eq!(worker.order("get id"), "3 100000");
        }
        assert_eq!(place.keeper(), Some(keeper));
    }
}

#[test]
fn waits_and_parked_duplicates_are_answered_by_the_next_keeper() {
    let place = Place::new();
    let store = place.attach();
    let mut worker = Worker::new(&place);
    assert_eq!(worker.order("wait small"), "parked");
    assert_eq!(worker.order("wait large"), "parked");
    assert_eq!(worker.order("duplicate-later large copy"), "parked");

    place.kill_keeper();
    let (data, metadata) = content(1, 10);
    store.put(b"small", &data, &metadata).unwrap();
    place.kill_keeper();
    let (data, metadata) = content(2, 300_000);
    store.put(b"large", &data, &metadata).unwrap();

    assert_eq!(worker.order("answered small"), "1 10");
    assert_eq!(worker.order("answered large"), "2 300000");
    assert_eq!(worker.order("answered copy"), "done");
    assert_eq!(seed_and_len(&get(&store, b"copy")), Some((2, 300_000)));
}

#[test]
fn a_directory_may_have_a_longer_name_than_a_socket() {
    let place = Place::with_name(&"long".repeat(40));
    let mut worker = Worker::new(&place);
    worker.does("put id 3 100000");
    assert_eq!(worker.order("get id"), "3 100000");
    place.kill_keeper();
    assert_eq!(seed_and_len(&get(&place.attach(), b"id")), Some((3, 100_000)));
}

#[test]
fn a_relative_directory_is_that_of_the_process() {
    let place = Place::new();
    let mut worker = Worker::relative(&place);
    assert_eq!(worker.order(&attach(Setup::default())), "ok");
    worker.does("put id 3 100000");
    assert_eq!(seed_and_len(&get(&place.attach(), b"id")), Some((3, 100_000)));
}

#[test]
fn another_users_directory_is_refused_with_words() {
    // Sound: asks who this process is.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("only root becomes somebody else");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::create_dir(place.path()).unwrap();
    for path in [place.path(), place.path().parent().unwrap().to_owned()] {
        std::fs::set_permissions(path, open.clone()).unwrap();
    }
    let refused = |keeper: &str| {
        let mut worker = Worker::detached(&place);
        worker.does("become 12345");
        let refused = worker.order(&attach(Setup::default()));
        assert!(refused.contains("belongs to user 0") && refused.contains("12345"), "{keeper}: {refused}");
    };
    refused("without a keeper");
    let _store = place.attach();
    refused("with a keeper");
    std::fs::set_permissions(place.path(), open.clone()).unwrap();
    std::fs::set_permissions(place.path().join("socket"), std::fs::Permissions::from_mode(0o777)).unwrap();
    refused("with a socket that anybody may connect to");
}

#[test]
fn few_descriptors_are_enough() {
    let place = Place::new();
    let mut worker = Worker::detached(&place);
    worker.does("descriptors 256");
    worker.does(&attach(Setup::default()));
    for number in 0..60 {
        // Each in a segment of its own.
        worker.does(&format!("put {number} {number} 1100000"));
        worker.does(&format!("hold {number}"));
    }
    for number in 0..60 {
        for _ in 0..8 {
            worker.does(&format!("hold {number}"));
        }
    }
    assert_eq!(worker.order("check"), "unchanged");
}

#[test]
fn a_process_without_a_descriptor_left_gets_copies_or_errors() {
    let place = Place::new();
    let mut worker = Worker::detached(&place);
    worker.does("descriptors 256");
    worker.does(&attach(Setup::default()));
    worker.does("put large 1 500000");
    worker.does("put small 2 100");
    for left in [0, 1, 2] {
        worker.does(&format!("exhaust {left}"));
        assert_eq!(worker.order("get large"), "1 500000");
        assert_eq!(worker.order("get small"), "2 100");
        let refused = worker.order("put more 3 500000");
        let is_refused = ["no descriptor is left", "Too many open files"].iter().any(|reason| refused.contains(reason));
        assert!(refused == "ok" || is_refused, "{refused}");
        place.kill_keeper();
        let answer = worker.order("get large");
        assert!(answer == "1 500000" || answer.contains("error"), "{answer}");
        worker.does("relax");
        // What is remembered needs no keeper; a write does.
        worker.does("put small 2 100");
        assert_eq!(worker.order("get large"), "1 500000");
    }
}

#[test]
fn a_process_without_a_descriptor_left_gets_what_it_waits_for_though_it_is_deleted_at_once() {
    let place = Place::new();
    let store = place.attach();
    let mut worker = Worker::detached(&place);
    worker.does("descriptors 256");
    worker.does(&attach(Setup::default()));
    worker.does("put original 5 500000");
    // With its first wait it begins to listen, which takes a descriptor.
    assert_eq!(worker.order("wait first"), "parked");
    store.put(b"first", b"", b"").unwrap();
    assert!(!worker.order("answered first").contains("error"));
    for round in 0..3 {
        assert_eq!(worker.order("wait large"), "parked");
        assert_eq!(worker.order("wait copy"), "parked");
        worker.does("exhaust 0");

        let (data, metadata) = content(round, 600_000);
        store.put(b"large", &data, &metadata).unwrap();
        assert!(store.delete(b"large").unwrap());
        // By its own doing, which tells it by another way.
        assert_eq!(worker.order("duplicate original copy"), "yes");
        assert_eq!(worker.order("delete copy"), "yes");

        assert_eq!(worker.order("answered large"), format!("{round} 600000"));
        assert_eq!(worker.order("answered copy"), "5 500000");
        worker.does("relax");
    }
}

#[test]
fn a_process_that_has_no_descriptor_to_listen_with_keeps_its_session() {
    let place = Place::new();
    let store = place.attach();
    let mut worker = Worker::detached(&place);
    worker.does("descriptors 256");
    worker.does(&attach(Setup::default()));
    worker.does("put original 5 500000");
    worker.does("exhaust 0");
    assert_eq!(worker.order("wait id"), "parked");
    for number in 0..20 {
        assert_eq!(worker.order(&format!("duplicate original copy{number}")), "yes");
        std::thread::sleep(Duration::from_millis(10));
    }
    worker.does("relax");
    let (data, metadata) = content(1, 1000);
    store.put(b"id", &data, &metadata).unwrap();
    assert_eq!(worker.order("answered id"), "1 1000");
}

#[test]
fn a_process_without_a_descriptor_for_one_more_connection_keeps_its_session() {
    let place = Place::new();
    let mut worker = Worker::detached(&place);
    worker.does("descriptors 256");
    worker.does(&attach(Setup::default()));
    worker.does("put id 1 100000");
    let keeper = place.keeper().unwrap();
    let sessions = || {
        let entries = std::fs::read_dir(place.path().join("sessions")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    let before = sessions();
    worker.does("exhaust 0");
    stop(keeper);
    worker.send("at-once 4 id");
    // One of them asks over the connection that there is, and has no answer yet.
    std::thread::sleep(Duration::from_millis(300));
    signal(keeper, libc::SIGCONT);
    assert_eq!(worker.reply(), "yes");
    worker.does("relax");
    worker.does("put id 2 100000");
    assert_eq!(sessions(), before);
}

#[test]
fn a_process_that_writes_more_objects_at_a_time_than_it_has_slots_sends_the_rest() {
    const SLOTS: u64 = 4096;
    let place = Place::new();
    let store = place.builder().max_size_mb(1024).attach().unwrap();
    let begin = |number: u64| {
        let mut writer = store.writer(&number.to_be_bytes(), 70_000, b"").unwrap();
        writer.write(&bytes(number, 70_000)[..66_000]).unwrap();
        writer
    };
    let writers: Vec<_> = (0..SLOTS + 20).map(begin).collect();
    assert_eq!(store.stats().unwrap().keeper.unwrap().leases, SLOTS);
    for (number, mut writer) in (0..).zip(writers).skip(SLOTS as usize - 20) {
        writer.write(&bytes(number, 70_000)[66_000..]).unwrap();
        writer.commit().unwrap();
        assert!(get(&store, &number.to_be_bytes()).data == bytes(number, 70_000));
    }
}

/// Length of all files in a directory of the store's.
fn length_of(place: &Place, directory: &str) -> u64 {
    let entries = std::fs::read_dir(place.path().join(directory)).unwrap();
    // Segments come and go.
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn files_of_attached_processes_count_for_the_limit() {
    let place = Place::new();
    let store = place.attach();
    let counters = std::fs::metadata(place.path().join("counters")).unwrap().len();
    // A store that holds next to nothing has no catalog to speak of.
    let are_counted = || {
        let besides = store.info().physical_bytes.saturating_sub(length_of(&place, "journal"));
        let wanted = counters + length_of(&place, "sessions");
        (wanted..wanted + (64 << 10)).contains(&besides)
    };
    store.put(b"id", &bytes(1, 100_000), b"").unwrap();
    until("its own session counts", are_counted);
    let others: Vec<_> = (0..30).map(|_| place.attach()).collect();
    assert!(place.sessions() > 30);
    until("those of others count", are_counted);

    place.kill_keeper();
    // Of the others the next keeper knows only by their files, which are locked.
    store.put(b"id", &bytes(2, 100_000), b"").unwrap();
    assert!(place.sessions() > 30);
    until("those that a keeper finds count", are_counted);
    drop(others);
    until("their sessions are over", || place.sessions() == 1);
    until("they count no more", are_counted);
}

#[test]
fn a_keeper_may_have_as_many_descriptors_as_the_system_lets_it() {
    let place = Place::new();
    let mut worker = Worker::detached(&place);
    worker.does("soft-descriptors 200 3000");
    worker.does(&attach(Setup::default()));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", place.keeper().unwrap())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["3000", "3000"]);
}

#[test]
fn a_full_store_says_how_full_it_is() {
    let place = Place::new();
    let store = place.builder().max_size_mb(32).attach().unwrap();
    for size in [100_000, 50_000] {
        let refused = (0..).find_map(|number: u64| {
            let id = format!("{size} {number}");
            store.put(id.as_bytes(), &bytes(number + size as u64, size), b"").err()
        });
        let Some(Error::Full { id, bytes, live_bytes, capacity_bytes, place: full }) = refused else {
            panic!("{refused:?}")
        };
        assert!(id.as_bytes().starts_with(format!("{size} ").as_bytes()) && bytes >= size as u64, "{id} {bytes}");
        assert!(live_bytes > 16 << 20 && live_bytes <= 32 << 20 && capacity_bytes == 32 << 20);
        assert_eq!(full, place.path().join("journal").display().to_string());
    }
    let mut writer = store.writer(b"streamed", 100_000, b"").err();
    writer = writer.or_else(|| store.writer(b"streamed", 100_000, b"").unwrap().write(&[1; 100_000]).err());
    assert!(matches!(writer, Some(Error::Full { .. })), "{writer:?}");
}

#[test]
fn a_deleted_objects_room_comes_back_from_a_process_that_has_read_it() {
    let place = Place::new();
    let store = place.attach();
    let mut worker = Worker::new(&place);
    worker.does("put large 1 20000000");
    worker.does("hold large");
    let file = std::fs::read_dir(place.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let file =
        file.filter(|path| path.extension().is_some_and(|it| it == "body")).map(|it| std::fs::File::open(it).unwrap());
    let file = file.into_iter().next().unwrap();
    let kept_bytes = || file.metadata().unwrap().blocks() * 512;
    assert!(kept_bytes() >= 20_000_000);

    store.delete(b"large").unwrap();
    for number in 0..30 {
        worker.does(&format!("put other 1{number} 200000"));
    }
    assert!(kept_bytes() >= 20_000_000);
    assert_eq!(worker.order("check"), "unchanged");
    worker.does("drop");

    // The process keeps a map of the file.
    until("the room is free", || kept_bytes() < 1 << 20);
}

#[test]
fn sessions_that_forks_have_ended_keep_no_connections() {
    let place = Place::new();
    let mut worker = Worker::new(&place);
    let keeper = place.keeper().unwrap();
    for number in 0..20 {
        worker.does(&format!("put {number} {number} 100000"));
        worker.does(&format!("hold {number}"));
        worker.does("fork 1");
        assert_eq!(worker.order("child"), "unchanged");
    }
    worker.does("put last 1 100");
    let sockets = || {
        let files = std::fs::read_dir(format!("/proc/{keeper}/fd")).unwrap();
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    };
    until("connections are closed", || sockets() < 8);
    assert_eq!(worker.order("check"), "unchanged");
}

#[test]
fn a_keeper_may_be_the_first_process_of_a_container() {
    let place = Place::new();
    let size = crate::place::SIZE_MB.to_string();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", PROGRAM, "tcp://127.0.0.1:0", "--backend", "local"]);
    command.args(["--local-max-size-mb", &size, "--local-path"]).arg(place.path());
    let started = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let Ok(mut server) = started else {
        eprintln!("there is no unshare here");
        return;
    };
    let number = server.id();
    until("it keeps the directory", || place.keeper().is_some() || !is_alive(number));
    if place.keeper().is_none() {
        eprintln!("there may be no containers here");
        return;
    }
    assert_eq!(place.keeper(), Some(1), "its number means nothing out here");
    let mut worker = Worker::new(&place);
    worker.does("put id 3 100000");
    worker.does("hold id");
    assert_eq!(worker.order("delete id"), "yes");
    server.kill().unwrap();
    server.wait().unwrap();
    until("it is gone", || place.keeper().is_none());
    worker.does("put id 4 100000");
    assert_eq!(worker.order("get id"), "4 100000");
    assert_eq!(worker.order("check"), "unchanged");
}
