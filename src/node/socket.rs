//! The socket of a node, and frames over it.
//!
//! ```text
//! <directory>/socket   a unix stream socket, for the owner alone (0600, in a directory of 0700)
//! ```

use std::collections::VecDeque;
use std::fs::{File, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::messages::{HEAD_BYTES, Head, Malformed};
use crate::random::random_u64;

const NAME: &str = "socket";

/// Processes that connect at the same moment.
const BACKLOG: i32 = 4096;

/// Longest name that a socket's address holds.
const ADDRESS_BYTES_MAX: usize = 107;

/// A frame that is no longer than this comes in with one call.
const INPUT_BYTES: usize = 68 << 10;

/// Data is read in pieces of at most this: an announced length is no reason to take memory.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// Descriptors that one message brings at most.
const DESCRIPTORS_MAX: usize = 2;

/// The user that the kernel shows for one which the other side's namespace does not know.
const OVERFLOW_USER: u32 = 65534;

/// The name of a socket in a directory: through the directory's descriptor where it would be too long.
struct Address {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl Address {
    fn new(directory: &Path, name: &str) -> io::Result<Address> {
        let path = directory.join(name);
        if path.as_os_str().as_bytes().len() <= ADDRESS_BYTES_MAX {
            return Ok(Address { path, _directory: None });
        }
        let opened = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(name);
        Ok(Address { path, _directory: Some(opened) })
    }

    fn unix(&self) -> io::Result<SocketAddrUnix> {
        Ok(SocketAddrUnix::new(&self.path)?)
    }
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Connects to the directory's keeper, if it has one that listens: otherwise the error is `NotFound` or `ConnectionRefused`.
pub(crate) fn connect(directory: &Path) -> io::Result<UnixStream> {
    let address = Address::new(directory, NAME)?;
    let socket = socket()?;
    loop {
        match rustix::net::connect(&socket, &address.unix()?) {
            Ok(()) | Err(Errno::ISCONN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let stream = UnixStream::from(socket);
    check_peer(&stream)?;
    Ok(stream)
}

/// Whether an error of `connect` says that nobody listens, and nobody can where the directory is none.
pub(crate) fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory)
}

/// Whether an error says that this process, or the machine, has no descriptor for one more connection.
pub(crate) fn is_without_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Listens in the directory, whose lock the caller holds: a socket that is there already is a dead keeper's.
pub(crate) fn listen(directory: &Path) -> io::Result<UnixListener> {
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    let temporary = format!("{NAME}.{:016x}", random_u64());
    let listening = listen_at(directory, &temporary);
    if listening.is_err() {
        // What the error says matters more than a name that stays; the next one is another.
        let _ = std::fs::remove_file(directory.join(&temporary));
    }
    listening
}

fn listen_at(directory: &Path, temporary: &str) -> io::Result<UnixListener> {
    let socket = socket()?;
    rustix::net::bind(&socket, &Address::new(directory, temporary)?.unix()?)?;
    let path = directory.join(temporary);
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    // Nobody finds it before it listens.
    std::fs::rename(&path, directory.join(NAME))?;
    Ok(UnixListener::from(socket))
}

/// Tells a socket from one that another keeper has put in its place.
pub(crate) fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(directory.join(NAME))?;
    Ok((found.dev(), found.ino()))
}

/// Takes the socket away, if it is this one still.
pub(crate) fn unlink(directory: &Path, own: (u64, u64)) -> io::Result<()> {
    if identity(directory)? == own { std::fs::remove_file(directory.join(NAME)) } else { Ok(()) }
}

/// Refuses another user's process. Its process number proves nothing, as containers have their own.
pub(crate) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = peer_user(stream)?;
    let own = rustix::process::geteuid().as_raw();
    if peer == own && peer != OVERFLOW_USER {
        return Ok(());
    }
    let reason = if peer == own {
        format!(
            "user {own} stands for every user of another namespace, who cannot be told apart: run as a user of your own"
        )
    } else {
        format!("it belongs to user {peer}, and this is user {own}: a store is for the processes of one user")
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

fn peer_user(stream: &UnixStream) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: OVERFLOW_USER, gid: OVERFLOW_USER };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // Sound: the kernel writes at most so many bytes there, and any bytes are a `ucred`.
    let asked = unsafe {
        let to = (&raw mut credentials).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut bytes)
    };
    if asked == 0 { Ok(credentials.uid) } else { Err(io::Error::last_os_error()) }
}

/// A frame that has come in. Its fields stand in the connection's buffer.
pub(crate) struct Frame {
    pub head: Head,
    pub data: Vec<u8>,
    /// The files that came along.
    pub files: VecDeque<File>,
}

/// One side of a connection.
pub(crate) struct Connection {
    stream: Arc<UnixStream>,
    input: Vec<u8>,
    /// The bytes of `input` that are not taken yet.
    begin: usize,
    end: usize,
    /// Of the frame that was received last.
    fields: std::ops::Range<usize>,
    /// The descriptors that have come since the last frame.
    files: VecDeque<OwnedFd>,
    /// Frames are encoded here.
    pub output: Vec<u8>,
}

impl Connection {
    pub fn new(stream: Arc<UnixStream>) -> Self {
        Connection {
            stream,
            input: vec![0; INPUT_BYTES],
            begin: 0,
            end: 0,
            fields: 0..0,
            files: VecDeque::new(),
            output: Vec::new(),
        }
    }

    /// The fields of the frame that was received last.
    pub fn fields(&self) -> &[u8] {
        self.input.get(self.fields.clone()).unwrap_or_default()
    }

    /// Whether the other side has ended it, as far as that is known already. Nothing is on its way while no answer is waited for.
    pub fn is_ended(&self) -> bool {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !matches!(rustix::net::recv(&*self.stream, &mut byte, flags), Err(Errno::AGAIN))
    }

    /// Sends what stands in `output`, then `data`; with the first byte, descriptors. `rest` is called when the other side does not take it
    /// for as long as the stream's timeout, and says whether to go on.
    pub fn send(
        &mut self,
        data: &[u8],
        mut descriptors: &[BorrowedFd<'_>],
        mut rest: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut sent = 0;
        let whole = self.output.len() + data.len();
        while sent < whole {
            let head = self.output.get(sent..).unwrap_or_default();
            let behind = data.get(sent.saturating_sub(self.output.len())..).unwrap_or_default();
            let slices = [IoSlice::new(head), IoSlice::new(behind)];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            match rustix::net::sendmsg(&*self.stream, &slices, &mut control, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    sent += bytes;
                    descriptors = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => rest()?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives a frame; None where the other side has ended the connection between two frames. `rest` is called when nothing comes for as
    /// long as the stream's timeout, and says whether to go on.
    pub fn receive(
        &mut self,
        check: fn(Head) -> Result<Head, Malformed>,
        mut rest: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Option<Frame>> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        }
        if !self.fill(HEAD_BYTES, &mut rest)? {
            return if self.begin == self.end { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let head = self.input.get(self.begin..).and_then(|bytes| bytes.first_chunk());
        let head = check(Head::decode(*head.ok_or(io::ErrorKind::UnexpectedEof)?))?;
        let whole = HEAD_BYTES + head.fields_bytes as usize;
        if !self.fill(whole, &mut rest)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.fields = self.begin + HEAD_BYTES..self.begin + whole;
        self.begin += whole;
        let data = self.receive_data(head.data_bytes, &mut rest)?;
        let files = self.files.drain(..).map(File::from).collect();
        Ok(Some(Frame { head, data, files }))
    }

    fn receive_data(&mut self, data_bytes: u64, rest: &mut impl FnMut() -> io::Result<()>) -> io::Result<Vec<u8>> {
        if data_bytes == 0 {
            return Ok(Vec::new());
        }
        let whole = usize::try_from(data_bytes).map_err(io::Error::other)?;
        let here = self.input.get(self.begin..self.end).unwrap_or_default();
        let here = here.get(..whole).unwrap_or(here);
        let mut data = Vec::with_capacity(whole.min(PIECE_BYTES_MAX));
        data.extend_from_slice(here);
        self.begin += here.len();
        while data.len() < whole {
            let filled = data.len();
            data.resize(whole.min(filled + PIECE_BYTES_MAX.max(filled)), 0);
            let piece = data.get_mut(filled..).unwrap_or_default();
            let bytes = receive(&self.stream, piece, &mut self.files, rest)?;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            data.truncate(filled + bytes);
        }
        Ok(data)
    }

    /// Has so many bytes in the buffer; false where the other side ends the connection before.
    fn fill(&mut self, bytes: usize, rest: &mut impl FnMut() -> io::Result<()>) -> io::Result<bool> {
        if self.begin + bytes > self.input.len() {
            self.input.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            if bytes > self.input.len() {
                self.input.resize(bytes, 0);
            }
        }
        while self.end - self.begin < bytes {
            let space = self.input.get_mut(self.end..).unwrap_or_default();
            match receive(&self.stream, space, &mut self.files, rest)? {
                0 => return Ok(false),
                more => self.end += more,
            }
        }
        Ok(true)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    files: &mut VecDeque<OwnedFd>,
    rest: &mut impl FnMut() -> io::Result<()>,
) -> io::Result<usize> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => {
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        // More to a frame are of nobody's asking: they are not kept until it is complete.
                        for descriptor in descriptors {
                            if files.len() < DESCRIPTORS_MAX {
                                files.push_back(descriptor);
                            }
                        }
                    }
                }
                return Ok(received.bytes);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => rest()?,
            Err(Errno::CONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}
