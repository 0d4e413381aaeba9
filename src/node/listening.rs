//! Those in this process who wait for an object: the keeper tells when it exists, over a connection on which a thread listens.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::attached::{Attached, Call};
use super::messages::{Head, Reply, Request, SLICE};
use super::session::Session;
use super::socket::is_without_descriptor;
use super::waits::Found;
use crate::backend::{OnDeleted, answer_early};
use crate::error::Error;
use crate::object::Object;

/// How often it is looked for waits that nobody waits for any more, and for those that no keeper knows of.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Attached {
    /// Has the keeper tell when the object exists. Where it cannot be told so now, the thread that listens goes on trying.
    pub(super) fn wait_for(&self, id: &[u8]) {
        let name = self.name();
        self.waits.add(name, id);
        let registered = self.listen().and_then(|()| {
            let session = self.session(self.keeper_limit())?;
            self.register(&session, name, id)
        });
        if let Err(error) = registered {
            tracing::debug!("{}: {error}; trying again later", self.directory.display());
        }
    }

    /// Before this process writes to the id: those in it who wait already are answered by that write, whether or not the keeper knows of them
    /// yet.
    pub(super) fn announce(&self, id: &[u8]) {
        if self.waiters.has_any(id) {
            self.wait_for(id);
        }
    }

    pub(super) fn expect_delete(&self, name: u64, answer: OnDeleted) -> Result<(), Error> {
        self.waits.add_delete(name, answer);
        self.listen().inspect_err(|_| drop(self.waits.take_delete(name)))
    }

    /// Tells the keeper of a wait; where the object exists already, answers those who wait.
    fn register(&self, session: &Arc<Session>, name: u64, id: &[u8]) -> Result<(), Error> {
        // Before it is sent: the answer may come before this thread goes on.
        self.waits.register(name, session.id);
        let asked = self.ask_once(session, &Call::new("wait"), &Request::Wait { name, id }, None);
        let answered = match asked {
            Ok(Some(answered)) => answered,
            Ok(None) => {
                self.waits.unregister(&[name]);
                return Ok(());
            }
            Err(error) => {
                self.waits.unregister(&[name]);
                return Err(error);
            }
        };
        if let Ok(Reply::Done { woken, .. }) = answered.reply() {
            self.hand_out(session, &woken, None);
        }
        Ok(())
    }

    /// Answers those who waited under these names, with the object, or what the keeper holds for them.
    fn hand_out(&self, session: &Arc<Session>, names: &[u64], object: Option<Object>) {
        let object = match object.map_or_else(|| self.claim(session, names), |object| Ok(Some(object))) {
            Ok(Some(object)) => object,
            Ok(None) => return self.waits.unregister(names),
            Err(error) => {
                tracing::debug!("{}: {error}; waiting anew", self.directory.display());
                return self.waits.unregister(names);
            }
        };
        for (id, since_before) in self.waits.take(names) {
            answer_early(&self.waiters, self, &id, &object, since_before);
        }
    }

    /// Starts the thread that listens, where there is none.
    fn listen(&self) -> Result<(), Error> {
        self.waits.listen_once(|| {
            let attached = self.this()?;
            let run = move || run(&attached);
            let spawned = std::thread::Builder::new().name("keeper listener".to_owned()).spawn(run);
            spawned.map_err(Error::io("start a thread that listens to the keeper of", &self.directory)).map(drop)
        })
    }

    fn is_over(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Listens until the store is closed.
fn run(attached: &Attached) {
    while !attached.is_over() {
        if let Err(error) = listen(attached)
            && !attached.is_over()
        {
            tracing::debug!("{}: {error}; trying again", attached.directory.display());
            std::thread::sleep(SLICE);
        }
    }
}

/// Listens to one keeper until it is gone.
fn listen(attached: &Attached) -> Result<(), Error> {
    let session = attached.session(attached.keeper_limit())?;
    let lost = |error: &io::Error| {
        session.set_lost();
        attached.detached(&error.to_string())
    };
    let mut connection = match session.listener(&attached.directory, attached.keeper_limit()) {
        Ok(connection) => connection,
        // The keeper is there, or may be, and so is the session: what it has to tell waits until it can be listened to.
        Err(error) if may_be_there(&error) => return Err(attached.detached(&error.to_string())),
        Err(error) => return Err(lost(&error)),
    };
    look_after(attached, &session);
    let mut looked = Instant::now();
    loop {
        let received = connection.receive(Head::check_reply, || {
            if attached.is_over() || !session.is_current() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if looked.elapsed() > LOOK_EVERY {
                looked = Instant::now();
                look_after(attached, &session);
            }
            Ok(())
        });
        let frame = match received {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(lost(&io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(lost(&error)),
        };
        match Reply::decode(frame.head, connection.fields()).map_err(|malformed| lost(&malformed.into()))? {
            Reply::Exists { name, is_held: true, .. } => attached.hand_out(&session, &[name], None),
            Reply::Exists { name, is_held: false, metadata } => {
                let object = Object { data: frame.data.into(), metadata: Bytes::copy_from_slice(metadata) };
                attached.hand_out(&session, &[name], Some(object));
            }
            Reply::Deleted { name, existed } => {
                if let Some(answer) = attached.waits.take_delete(name) {
                    answer(existed);
                }
            }
            // Nothing else is for those who listen.
            _ => return Err(lost(&io::ErrorKind::InvalidData.into())),
        }
    }
}

/// Whether an error of a connection that was to be made says nothing of the keeper's end.
fn may_be_there(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    is_without_descriptor(error) || matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Registers what this keeper does not know of, and takes back what nobody waits for any more.
fn look_after(attached: &Attached, session: &Arc<Session>) {
    let Found { unknown, idle, forgotten } = attached.waits.look_after(session.id, |id| attached.waiters.has_any(id));
    // The keeper that knew is gone: as where Redis does not say.
    forgotten.into_iter().for_each(|answer| answer(false));
    for (name, id) in unknown {
        if let Err(error) = attached.register(session, name, &id) {
            tracing::debug!("{}: {error}; trying again later", attached.directory.display());
        }
    }
    for name in idle {
        // A keeper that is gone knows of none.
        if let Err(error) = attached.ask_once(session, &Call::new("wait"), &Request::Forget { name }, None) {
            tracing::debug!("{}: {error}", attached.directory.display());
        }
    }
}
