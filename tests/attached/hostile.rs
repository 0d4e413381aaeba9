//! Bytes that no attached process sends: the keeper goes on serving the others, and does not grow.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::common::{bytes, splitmix, until};
use crate::place::{Place, is_alive};
use crate::worker::Worker;

const GREET: u8 = 1;
const GET: u8 = 2;
const PUT: u8 = 4;
const COMMIT: u8 = 8;
const BEGIN: u8 = 25;
const PIECE: u8 = 26;
const FINISH: u8 = 27;
const KINDS: u8 = 28;
const DONE: u8 = 2;
const FAILED: u8 = 10;

fn frame(kind: u8, slot: u16, data_bytes: u64, fields: &[u8]) -> Vec<u8> {
    let mut frame = (fields.len() as u32).to_le_bytes().to_vec();
    frame.extend([kind, 0]);
    frame.extend(slot.to_le_bytes());
    frame.extend(data_bytes.to_le_bytes());
    frame.extend(fields);
    frame
}

fn greeting(session: u64) -> Vec<u8> {
    let mut fields = 1_u32.to_le_bytes().to_vec();
    fields.extend(session.to_le_bytes());
    fields.extend(0_u32.to_le_bytes());
    frame(GREET, u16::MAX, 0, &fields)
}

fn get(ticket: u64, id: &[u8]) -> Vec<u8> {
    let mut fields = ticket.to_le_bytes().to_vec();
    fields.extend((id.len() as u32).to_le_bytes());
    fields.extend(id);
    frame(GET, 0, 0, &fields)
}

fn connect(place: &Place) -> UnixStream {
    let stream = UnixStream::connect(place.path().join("socket")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    stream
}

/// The kind of the next reply; None where the connection has ended.
fn reply(stream: &mut UnixStream) -> Option<u8> {
    stream.set_read_timeout(None).unwrap();
    let mut head = [0; 16];
    stream.read_exact(&mut head).ok()?;
    let fields = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let data = u64::from_le_bytes(head[8..].try_into().unwrap()) as usize;
    stream.read_exact(&mut vec![0; fields + data]).ok()?;
    Some(head[4])
}

/// Sends what it takes, and reads what comes, until nothing does any more or the other side has had enough.
fn exchange(stream: &mut UnixStream, sent: &[u8]) {
    // It may end the connection at any byte.
    let _ = stream.write_all(sent);
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
}

fn memory_kb(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// A process that has something to lose.
fn victim(place: &Place) -> Worker {
    let mut worker = Worker::new(place);
    for number in 0..8 {
        worker.does(&format!("put {number} {number} 100000"));
        worker.does(&format!("hold {number}"));
    }
    worker
}

fn is_served(worker: &mut Worker) {
    for number in 0..8 {
        assert_eq!(worker.order(&format!("get {number}")), format!("{number} 100000"));
    }
    worker.does("put 0 0 100000");
    assert_eq!(worker.order("check"), "unchanged");
}

#[test]
fn a_keeper_that_hears_nonsense_goes_on_serving_others() {
    let place = Place::new();
    let mut worker = victim(&place);
    let keeper = place.keeper().unwrap();
    let mut random = 7;
    let before = (memory_kb(keeper), descriptors(keeper));
    for _ in 0..300 {
        let mut stream = connect(&place);
        let chosen = splitmix(&mut random);
        let noise = bytes(chosen, (chosen % 300) as usize);
        let sent = match chosen % 8 {
            0 => noise,
            1 => [greeting(0), noise].concat(),
            // Every kind of request, with fields that are noise, in slots that there are and are not.
            2 | 3 => {
                let kind = (chosen >> 8) as u8 % KINDS + 1;
                [greeting(0), frame(kind, (chosen >> 16) as u16, 0, &noise)].concat()
            }
            4 => [greeting(0), frame(COMMIT, (chosen >> 16) as u16 % 4096, 0, &[7; 16])].concat(),
            5 => greeting(0)[..(chosen >> 8) as usize % 32].to_vec(),
            // More than there may be, announced.
            6 => [greeting(0), frame(PUT, 0, chosen, &noise)].concat(),
            _ => [greeting(0), get(chosen, b"0"), get(chosen, b"0"), get(1, &noise)].concat(),
        };
        if chosen.is_multiple_of(3) {
            exchange(&mut stream, &sent);
        } else {
            let _ = stream.write_all(&sent);
        }
    }
    is_served(&mut worker);
    assert_eq!(place.keeper(), Some(keeper));
    until("all those sessions are over", || place.sessions() == 1);
    until("all those connections have ended", || descriptors(keeper) <= before.1 + 8);
    assert!(memory_kb(keeper) < before.0 + (64 << 10), "from {} KiB to {}", before.0, memory_kb(keeper));
}

#[test]
fn pieces_of_nothing_end_their_connection() {
    let place = Place::new();
    let mut worker = victim(&place);
    let begin = |data_bytes: u64| {
        let fields = [&5_u32.to_le_bytes(), &b"piece"[..], &data_bytes.to_le_bytes(), &0_u32.to_le_bytes()].concat();
        frame(BEGIN, u16::MAX, 0, &fields)
    };
    let piece = [frame(PIECE, u16::MAX, 60_000, &[]), vec![7; 60_000]].concat();
    let finish = frame(FINISH, u16::MAX, 0, &[]);
    // What is sent, and the answers to it; where there are fewer, the connection has ended.
    let cases: [(Vec<Vec<u8>>, &[u8]); 6] = [
        (vec![piece.clone()], &[]),
        (vec![finish.clone()], &[]),
        (vec![begin(60_000), finish.clone(), piece.clone()], &[DONE, FAILED]),
        (
            vec![begin(100_000), piece.clone(), piece.clone(), finish.clone(), finish.clone()],
            &[DONE, DONE, FAILED, FAILED],
        ),
        (vec![begin(u64::MAX)], &[FAILED]),
        (
            vec![begin(120_000), piece.clone(), begin(60_000), piece, finish.clone(), finish],
            &[DONE, DONE, DONE, DONE, DONE],
        ),
    ];
    for (number, (sent, answers)) in cases.into_iter().enumerate() {
        let mut stream = connect(&place);
        stream.write_all(&greeting(0)).unwrap();
        reply(&mut stream).unwrap();
        for (at, frame) in sent.iter().enumerate() {
            stream.write_all(frame).unwrap();
            assert_eq!(reply(&mut stream), answers.get(at).copied(), "case {number}, frame {at}");
        }
    }
    assert_eq!(worker.order("contains piece"), "yes");
    is_served(&mut worker);
}

#[test]
fn what_a_session_holds_is_out_of_reach_of_others() {
    let place = Place::new();
    let mut worker = victim(&place);
    for session in (1..200).chain([u64::MAX]) {
        let mut stream = connect(&place);
        stream.write_all(&greeting(session)).unwrap();
        if session == u64::MAX {
            // It may ask the keeper to leave, and nothing else.
            reply(&mut stream).unwrap();
            stream.write_all(&get(1, b"0")).unwrap();
            assert_eq!(reply(&mut stream), None);
        } else {
            assert_eq!(reply(&mut stream), Some(FAILED));
            assert_eq!(reply(&mut stream), None);
        }
    }
    is_served(&mut worker);
}

#[test]
fn a_keeper_keeps_no_descriptors_that_it_is_sent() {
    let place = Place::new();
    let mut worker = victim(&place);
    let keeper = place.keeper().unwrap();
    let mut stream = connect(&place);
    stream.write_all(&greeting(0)).unwrap();
    reply(&mut stream).unwrap();
    let before = descriptors(keeper);
    let null = std::fs::File::open("/dev/null").unwrap();
    // A put whose data does not end, each byte of it with a descriptor.
    stream.write_all(&frame(PUT, u16::MAX, 60_000, &[2, 0, 0, 0, b'i', b'd', 0, 0, 0, 0])).unwrap();
    for _ in 0..300 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [null.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert_eq!(sendmsg(&stream, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap(), 1);
    }
    is_served(&mut worker);
    assert!(descriptors(keeper) < before + 30, "from {before} descriptors to {}", descriptors(keeper));
}

fn threads(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/task")).unwrap().count()
}

/// Whether the other side has ended the connection. What it has said before is read.
fn is_ended(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn who_connects_and_does_not_greet_is_cut_off() {
    let place = Place::new();
    let mut worker = victim(&place);
    let keeper = place.keeper().unwrap();
    let mut greeted = connect(&place);
    greeted.write_all(&greeting(0)).unwrap();
    reply(&mut greeted).unwrap();
    let before = threads(keeper);
    let mut silent: Vec<UnixStream> = (0..30).map(|_| connect(&place)).collect();
    for (number, stream) in silent.iter_mut().enumerate() {
        match number % 3 {
            0 => {}
            // A part of a greeting; the fields of it that are announced do not come.
            1 => stream.write_all(&greeting(0)[..number]).unwrap(),
            // One who could ask the keeper to leave, and does not.
            _ => stream.write_all(&greeting(u64::MAX)).unwrap(),
        }
    }
    // It says a little all the time, of a greeting that is as long as it may be.
    let mut slow = connect(&place);
    slow.write_all(&frame(GREET, u16::MAX, 0, &[0; 1 << 20])[..16]).unwrap();
    silent.push(slow);

    until("all of them are cut off", || {
        let _ = (&silent[30]).write(&[0]);
        silent.iter().all(is_ended)
    });
    until("their threads have ended", || threads(keeper) <= before);

    // Who has greeted may be idle.
    greeted.write_all(&get(1, b"0")).unwrap();
    assert!(reply(&mut greeted).is_some());
    is_served(&mut worker);
}

#[test]
fn who_does_not_greet_keeps_no_keeper_running() {
    let place = Place::new();
    let store = place.attach();
    let keeper = place.keeper().unwrap();
    let _silent = connect(&place);
    store.close().unwrap();
    drop(store);
    until("the keeper has ended", || !is_alive(keeper));
}

#[test]
fn one_that_takes_no_answers_keeps_only_its_own_thread() {
    let place = Place::new();
    let mut worker = victim(&place);
    let keeper = place.keeper().unwrap();
    let mut stream = connect(&place);
    stream.write_all(&greeting(0)).unwrap();
    let before = memory_kb(keeper);
    // Asked for without end, and none of it read.
    let asked = get(1, b"0").repeat(1000);
    let mut taken = 0_u64;
    while let Ok(bytes) = stream.write(&asked) {
        taken += bytes as u64;
        assert!(taken < 1 << 30, "the keeper takes questions without end");
    }
    is_served(&mut worker);
    assert!(memory_kb(keeper) < before + (32 << 10), "from {before} KiB to {}", memory_kb(keeper));
    drop(stream);
    until("its session is over", || place.sessions() == 1);
}
