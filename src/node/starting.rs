//! How a directory gets a keeper where it has none.
//!
//! ```text
//! <directory>/keeper.log   what a keeper that was started for attached processes has to say
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::socket;
use crate::error::{Error, is_disk_full};
use crate::interrupt;
use crate::local::{Turn, make_directory};

/// Names the descriptor that a keeper inherits.
pub(crate) const KEEPER_FLAG: &str = "--keeper";

/// The program that a keeper is, where nothing else is said.
pub(crate) const PROGRAM: &str = "scaler_object_storage_server";

/// What the names of the program's environment variables begin with.
pub(crate) const VARIABLE_PREFIX: &str = "SCALER_OBJECT_STORAGE_";

const RETRY: Duration = Duration::from_millis(5);

/// How much of the log an error quotes.
const QUOTED_BYTES_MAX: u64 = 2000;

/// How far descriptors are looked for one by one: some systems allow a milliard of them.
const OLD_KERNEL_DESCRIPTORS_MAX: RawFd = 1 << 20;

/// How a keeper is started.
pub(crate) struct Starter {
    pub directory: PathBuf,
    /// The program; empty: `PROGRAM`, beside this one or in the path.
    pub command: PathBuf,
    /// The settings, as environment variables.
    pub environment: Vec<(String, String)>,
}

impl Starter {
    /// Has the directory get a keeper, or finds that it has one by now; false where another process is about to, or the time is over.
    pub fn start(&self, limit: Instant) -> Result<bool, Error> {
        make_directory(&self.directory)?;
        let Some(turn) = Turn::try_take(&self.directory)? else { return Ok(false) };
        if socket::connect(&self.directory).is_ok() {
            return Ok(true);
        }
        // None where there was no socket, or none that could be seen: then whichever is there later is another one.
        let before = socket::identity(&self.directory).ok();
        let log = self.spawn(turn)?;
        // The keeper holds the turn until it listens.
        loop {
            match socket::connect(&self.directory) {
                Ok(_) => return Ok(true),
                Err(error) if socket::is_nobody(&error) => {}
                Err(error) => return Err(Error::io("connect to the keeper of", &self.directory)(error)),
            }
            if let Some(_turn) = Turn::try_take(&self.directory)?
                && socket::connect(&self.directory).is_err()
            {
                // One that has listened, and is gone by now, was killed: the next one need not be.
                let has_listened = socket::identity(&self.directory).is_ok_and(|now| Some(now) != before);
                return if has_listened { Ok(false) } else { Err(self.failed(&log.said())) };
            }
            if Instant::now() >= limit {
                return Ok(false);
            }
            interrupt::rest(RETRY).map_err(|interrupted| Error::Detached {
                path: self.directory.clone(),
                reason: interrupted.to_string(),
            })?;
        }
    }

    fn failed(&self, reason: &str) -> Error {
        let reason = format!("the keeper that was started for it has ended: {reason}");
        Error::Detached { path: self.directory.clone(), reason }
    }

    /// Starts the program so that it outlives this process and has nothing of it but the turn.
    fn spawn(&self, turn: Turn) -> Result<Log, Error> {
        let log = Log::open(&self.directory)?;
        let program = self.program();
        let output = |file: &File| file.try_clone().map(Stdio::from).map_err(Error::io("open", &log.path));
        // A copy, as a forked child closes the turn itself.
        let copy = turn.copy().map_err(Error::io("open", &self.directory))?;
        let inherited = copy.as_raw_fd();
        let mut command = Command::new(&program);
        command.arg(KEEPER_FLAG).arg(inherited.to_string()).current_dir("/");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(VARIABLE_PREFIX) {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output(&log.file)?).stderr(output(&log.file)?);
        // Sound: between fork and exec only async-signal-safe calls are made.
        unsafe {
            command.pre_exec(move || detach(inherited));
        }
        let mut started = command.spawn().map_err(|error| {
            let reason = format!(
                "there is no keeper, and none can be started: {}: {error}; set local.keeper_command to the path of {PROGRAM}",
                program.display()
            );
            Error::Detached { path: self.directory.clone(), reason }
        })?;
        // From here on it is the keeper's, whatever becomes known of it: given up here, it would be taken from the keeper.
        turn.hand_on();
        match started.wait() {
            Ok(status) if !status.success() => Err(self.failed(&log.said())),
            // A program that waits for all its children, or ignores their ends, has taken this one's away: then the socket tells.
            Ok(_) | Err(_) => Ok(log),
        }
    }

    fn program(&self) -> PathBuf {
        if !self.command.as_os_str().is_empty() {
            return program(&self.command);
        }
        // Without it, the path is searched.
        let here = std::env::current_exe().ok();
        let beside = here.as_deref().and_then(Path::parent).map(|directory| directory.join(PROGRAM));
        beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
    }
}

pub(crate) fn absolute(path: &Path) -> PathBuf {
    // It fails for the empty path alone, and where there is no current directory.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A mere name is looked for in the path.
pub(crate) fn program(command: &Path) -> PathBuf {
    if command.components().count() > 1 { absolute(command) } else { command.to_owned() }
}

/// What a keeper says before it can be asked.
struct Log {
    path: PathBuf,
    file: File,
    begin: u64,
}

impl Log {
    fn open(directory: &Path) -> Result<Log, Error> {
        let path = directory.join("keeper.log");
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(Error::io("open", &path))?;
        let begin = file.metadata().map_err(Error::io("look at", &path))?.len();
        Ok(Log { path, file, begin })
    }

    /// Its last words, for an error.
    fn said(&self) -> String {
        let text = std::fs::read(&self.path).map(|bytes| {
            let new = bytes.get(self.begin as usize..).unwrap_or_default();
            let last = new.len().saturating_sub(QUOTED_BYTES_MAX as usize);
            String::from_utf8_lossy(new.get(last..).unwrap_or_default()).trim().replace('\n', "; ")
        });
        match text {
            Ok(text) if !text.is_empty() => text,
            Ok(_) => match (&self.file).write_all(b"\n") {
                Err(error) if is_disk_full(&error) => {
                    format!("it could not say why: {}", Error::io("write", &self.path)(error))
                }
                Ok(()) | Err(_) => format!("it has said nothing; see {}", self.path.display()),
            },
            Err(error) => format!("its log {} cannot be read: {error}", self.path.display()),
        }
    }
}

/// Runs in the child that becomes the keeper: it leaves the session of its parent, and keeps no descriptor but this one.
fn detach(inherited: RawFd) -> io::Result<()> {
    // Sound: calls that are async-signal-safe, on values of this function.
    unsafe {
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        // Whatever this process has open that would stay open, pipes among it. Closed on exec, as the one through which the result of
        // exec is told must stay until then.
        let (first, cloexec) = (3, 1 << 2);
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, cloexec) != 0 {
            close_on_exec(first);
        }
        if libc::fcntl(inherited, libc::F_SETFD, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What `close_range` does, on a kernel that does not know it (before Linux 5.11). Async-signal-safe.
fn close_on_exec(first: RawFd) {
    // Sound: calls that are async-signal-safe, on values of this function. A number that is no descriptor is passed over.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        let most = if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 { limit.rlim_cur } else { 1024 };
        for descriptor in first..RawFd::try_from(most).unwrap_or(RawFd::MAX).min(OLD_KERNEL_DESCRIPTORS_MAX) {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_are_closed_for_a_keeper_also_on_an_old_kernel() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let is_closed = || rustix::io::fcntl_getfd(reader.as_fd()).unwrap().contains(rustix::io::FdFlags::CLOEXEC);
        assert!(!is_closed());
        close_on_exec(3);
        assert!(is_closed());
    }
}
