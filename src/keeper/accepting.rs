//! Lets processes in: each connection gets a thread.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::serving;
use super::shared::Shared;
use crate::node::messages::Reply;
use crate::node::socket::{self, Connection};
use crate::store::ObjectStore;

/// How long accepting waits before it looks whether it is to end.
const ACCEPT_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How long accepting rests where no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may be open before it has greeted: its thread, and a keeper that nobody is attached to, do not wait longer.
const GREETING_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often it is looked for those that have not.
const SILENT_LOOK: Duration = Duration::from_millis(100);

/// Threads that serve connections do not call deep.
const STACK_BYTES: usize = 512 << 10;

pub(super) fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    let mut number = 0;
    let mut looked = Instant::now();
    while !shared.is_closing() {
        if let Some(local) = shared.store.get().and_then(ObjectStore::local) {
            local.beat();
        }
        if looked.elapsed() >= SILENT_LOOK {
            looked = Instant::now();
            cut_off_silent(shared, looked);
        }
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&ACCEPT_WAIT)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("waiting for processes in {}: {error}", shared.directory.display());
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        }
        match listener.accept() {
            Ok((stream, _)) => {
                number += 1;
                serve(shared, stream, number);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!("accepting a process in {}: {error}", shared.directory.display());
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Ends the connections that have not greeted in time, whatever part of a greeting has come.
fn cut_off_silent(shared: &Shared, now: Instant) {
    let silent: Vec<u64> = {
        let mut silent = shared.silent.lock();
        silent.extract_if(|_, limit| *limit <= now).map(|(number, _)| number).collect()
    };
    for number in silent {
        let Some(stream) = shared.streams.lock().get(&number).cloned() else { continue };
        tracing::info!("a connection in {} that does not greet is cut off", shared.directory.display());
        // One that has ended already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Gives the connection a thread; where there is none to be had, the process is told to come again.
fn serve(shared: &Arc<Shared>, stream: UnixStream, number: u64) {
    let stream = Arc::new(stream);
    if let Err(error) = socket::check_peer(&stream).and_then(|()| stream.set_nonblocking(false)) {
        tracing::warn!("a process that connected in {} is refused: {error}", shared.directory.display());
        return;
    }
    shared.streams.lock().insert(number, Arc::clone(&stream));
    shared.silent.lock().insert(number, Instant::now() + GREETING_WAIT_MAX);
    shared.threads.fetch_add(1, Ordering::SeqCst);
    let (serving, served) = (Arc::clone(shared), Arc::clone(&stream));
    let run = move || {
        let _ended = Ended { shared: &serving, number };
        let heard = || {
            serving.silent.lock().remove(&number);
        };
        if let Err(error) = serving::run(&serving, served, heard)
            && !serving.is_closing()
        {
            tracing::info!("an attached process of {} is cut off: {error}", serving.directory.display());
        }
    };
    let spawned = std::thread::Builder::new().name("keeper call".to_owned()).stack_size(STACK_BYTES).spawn(run);
    if let Err(error) = spawned {
        tracing::warn!("no thread for one more call in {}: {error}", shared.directory.display());
        drop(Ended { shared, number });
        let mut connection = Connection::new(stream);
        Reply::Busy.encode(0, &mut connection.output);
        // It sees the end of the connection as well.
        let _ = connection.send(&[], &[], || Err(io::ErrorKind::WouldBlock.into()));
    }
}

struct Ended<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.shared.silent.lock().remove(&self.number);
        self.shared.streams.lock().remove(&self.number);
        self.shared.threads.fetch_sub(1, Ordering::SeqCst);
    }
}
