//! A handover over a restart by systemd: it keeps the descriptors of a service that has stopped for the one that it starts next.
//!
//! The service's unit has to allow it (`FileDescriptorStoreMax=`), and `NotifyAccess=main`. See `sd_notify(3)` and `systemd.service(5)`.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;

use super::{Handover, form};

/// What the names of the descriptors begin with; behind it stand their places and how many there are.
const NAME: &str = "handover";

/// How long systemd may take to read what it was sent.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// How many descriptors systemd keeps for this process; zero without systemd, or where the unit does not allow it.
fn kept_max() -> usize {
    // systemd says so since version 254; what it does not say, it does not keep.
    std::env::var("FDSTORE").ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Whether systemd keeps descriptors for this service.
#[must_use]
pub fn is_kept_by_systemd() -> bool {
    kept_max() > 0
}

/// Tells systemd, where this is a service of it, that it serves.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd, where this is a service of it, that it ends.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}

/// Waits until systemd has read everything that it was sent, descriptors included: what comes of a process that has ended is dropped.
///
/// # Errors
///
/// The operating system's; or systemd does not read for five seconds.
pub fn wait_until_read() -> io::Result<()> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    // systemd closes it when it has come to it, which ends the pipe.
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let deadline = Instant::now() + READ_TIME_MAX;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut waited = [PollFd::new(&ours, PollFlags::empty())];
        match poll(&mut waited, Some(&left.try_into().map_err(io::Error::other)?)) {
            Ok(0) => return Err(io::Error::other("systemd does not read what it is sent")),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Handover {
    /// Leaves it with systemd, for the process that is started next. Returns how many connections there are.
    ///
    /// # Errors
    ///
    /// The operating system's; or the unit's `FileDescriptorStoreMax` is too small.
    pub fn leave_with_systemd(&self) -> io::Result<usize> {
        let descriptors = form::encode(self)?;
        let (count, kept_max) = (descriptors.len(), kept_max());
        if count > kept_max {
            let reason =
                format!("systemd keeps {kept_max} descriptors and {count} are needed: raise FileDescriptorStoreMax");
            return Err(io::Error::other(reason));
        }
        for (place, descriptor) in descriptors.iter().enumerate() {
            let name = format!("{NAME}-{place}-{count}");
            // Not to be looked at by systemd: a connection that its client closes is this service's to end.
            let state = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
            if let Err(error) = sd_notify::notify_with_fds(&state, &[descriptor.as_fd()]) {
                // What it has already would keep its connections open for nobody.
                for taken in 0..place {
                    notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&format!("{NAME}-{taken}-{count}"))]);
                }
                return Err(error);
            }
        }
        Ok(self.connections.len())
    }

    /// What the process that ran before has left with systemd, if it has. To be called once, before other descriptors are opened.
    ///
    /// # Errors
    ///
    /// What was left cannot be understood.
    pub fn take_from_systemd() -> io::Result<Option<Handover>> {
        let mut descriptors: Vec<Option<OwnedFd>> = Vec::new();
        for (descriptor, name) in sd_notify::listen_fds_with_names()? {
            let Some((place, count)) = place_and_count(&name) else { continue };
            // Sound: systemd has given it to this process, and nobody else takes it.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            descriptors.resize_with(descriptors.len().max(count), || None);
            if let Some(slot) = descriptors.get_mut(place) {
                *slot = Some(descriptor);
            }
            // Otherwise it would keep the connection open for ever.
            notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        }
        if descriptors.is_empty() { Ok(None) } else { form::decode(descriptors).map(Some) }
    }
}

fn place_and_count(name: &str) -> Option<(usize, usize)> {
    let (place, count) = name.strip_prefix(NAME)?.strip_prefix('-')?.split_once('-')?;
    let (place, count) = (place.parse().ok()?, count.parse().ok()?);
    (place < count && count <= DESCRIPTORS_MAX).then_some((place, count))
}

/// More than any process may have open.
const DESCRIPTORS_MAX: usize = 1 << 20;
