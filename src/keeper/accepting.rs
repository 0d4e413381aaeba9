//! Lets processes in: each connection gets a thread.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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

/// Threads that serve connections do not call deep.
const STACK_BYTES: usize = 512 << 10;

pub(super) fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    let mut number = 0;
    while !shared.is_closing() {
        if let Some(local) = shared.store.get().and_then(ObjectStore::local) {
            local.beat();
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

/// Gives the connection a thread; where there is none to be had, the process is told to come again.
fn serve(shared: &Arc<Shared>, stream: UnixStream, number: u64) {
    let stream = Arc::new(stream);
    if let Err(error) = socket::check_peer(&stream).and_then(|()| stream.set_nonblocking(false)) {
        tracing::warn!("a process that connected in {} is refused: {error}", shared.directory.display());
        return;
    }
    shared.streams.lock().insert(number, Arc::clone(&stream));
    shared.threads.fetch_add(1, Ordering::SeqCst);
    let (serving, served) = (Arc::clone(shared), Arc::clone(&stream));
    let run = move || {
        let _ended = Ended { shared: &serving, number };
        if let Err(error) = serving::run(&serving, served)
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
        self.shared.streams.lock().remove(&self.number);
        self.shared.threads.fetch_sub(1, Ordering::SeqCst);
    }
}
