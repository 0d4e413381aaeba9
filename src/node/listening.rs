//! Those in this process who wait for an object: the keeper tells when it exists, over a connection on which a thread listens.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::attached::{Attached, Call};
use super::messages::{Head, Reply, Request, SLICE};
use super::session::Session;
use crate::backend::{OnDeleted, answer_early};
use crate::error::Error;
use crate::object::Object;

/// How often it is looked for waits that nobody waits for any more, and for those that no keeper knows of.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the keeper is to tell.
#[derive(Default)]
pub(super) struct Waits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: HashMap<u64, Wait>,
    deletes: HashMap<u64, Delete>,
    is_listening: bool,
}

struct Wait {
    id: Box<[u8]>,
    /// Those who began to wait before then are answered.
    since_before: Instant,
    /// The session whose keeper knows of it.
    session: Option<u64>,
}

struct Delete {
    answer: OnDeleted,
    /// The session whose keeper will say whether the object existed.
    session: Option<u64>,
}

impl Waits {
    /// The keeper has told of these, of one object: since before when those have waited who may have it. They are waited for no more.
    pub fn told(&self, names: &[u64]) -> Option<Instant> {
        let mut state = self.state.lock();
        names.iter().filter_map(|name| state.objects.remove(name)).map(|wait| wait.since_before).max()
    }

    /// No keeper knows of these: the thread that listens registers them again.
    pub fn unregister(&self, names: &[u64]) {
        let mut state = self.state.lock();
        for name in names {
            if let Some(wait) = state.objects.get_mut(name) {
                wait.session = None;
            }
        }
    }

    pub fn take_delete(&self, name: u64) -> Option<OnDeleted> {
        self.state.lock().deletes.remove(&name).map(|delete| delete.answer)
    }

    /// The keeper of this session will say.
    pub fn delete_is_later(&self, name: u64, session: u64) {
        if let Some(delete) = self.state.lock().deletes.get_mut(&name) {
            delete.session = Some(session);
        }
    }

    /// Drops everything unanswered: the store is closed.
    pub fn close(&self) {
        let dropped = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.objects), std::mem::take(&mut state.deletes))
        };
        drop(dropped);
    }
}

impl Attached {
    /// Has the keeper tell when the object exists. Where it cannot be told so now, the thread that listens goes on trying.
    pub(super) fn wait_for(&self, id: &[u8]) {
        let name = self.name();
        let wait = Wait { id: id.into(), since_before: Instant::now(), session: None };
        self.waits.state.lock().objects.insert(name, wait);
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
        self.waits.state.lock().deletes.insert(name, Delete { answer, session: None });
        self.listen().inspect_err(|_| drop(self.waits.take_delete(name)))
    }

    /// Tells the keeper of a wait; where the object exists already, answers those who wait.
    fn register(&self, session: &Arc<Session>, name: u64, id: &[u8]) -> Result<(), Error> {
        // Before it is sent: the answer may come before this thread goes on.
        if let Some(wait) = self.waits.state.lock().objects.get_mut(&name) {
            wait.session = Some(session.id);
        }
        let asked = self.ask(session, &Call::new("wait"), &Request::Wait { name, id }, None);
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
        let ids: Vec<(Box<[u8]>, Instant)> = {
            let mut state = self.waits.state.lock();
            let waits = names.iter().filter_map(|name| state.objects.remove(name));
            waits.map(|wait| (wait.id, wait.since_before)).collect()
        };
        for (id, since_before) in ids {
            answer_early(&self.waiters, self, &id, &object, since_before);
        }
    }

    /// Starts the thread that listens, where there is none.
    fn listen(&self) -> Result<(), Error> {
        let mut state = self.waits.state.lock();
        if state.is_listening {
            return Ok(());
        }
        let attached = self.this()?;
        let run = move || run(&attached);
        let spawned = std::thread::Builder::new().name("keeper listener".to_owned()).spawn(run);
        spawned.map_err(Error::io("start a thread that listens to the keeper of", &self.directory))?;
        state.is_listening = true;
        Ok(())
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
    let mut connection =
        session.listener(&attached.directory, attached.keeper_limit()).map_err(|error| lost(&error))?;
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

/// Registers what this keeper does not know of, and takes back what nobody waits for any more.
fn look_after(attached: &Attached, session: &Arc<Session>) {
    let (mut unknown, mut idle) = (Vec::new(), Vec::new());
    let forgotten: Vec<Delete> = {
        let mut state = attached.waits.state.lock();
        state.objects.retain(|name, wait| {
            if !attached.waiters.has_any(&wait.id) {
                idle.extend(wait.session.filter(|number| *number == session.id).map(|_| *name));
                return false;
            }
            if wait.session != Some(session.id) {
                // All of them have waited since before this keeper is asked.
                wait.since_before = Instant::now();
                unknown.push((*name, wait.id.clone()));
            }
            true
        });
        let is_forgotten = |_: &u64, delete: &mut Delete| delete.session.is_some_and(|number| number != session.id);
        state.deletes.extract_if(is_forgotten).map(|(_, delete)| delete).collect()
    };
    // The keeper that knew is gone: as where Redis does not say.
    forgotten.into_iter().for_each(|delete| (delete.answer)(false));
    for (name, id) in unknown {
        if let Err(error) = attached.register(session, name, &id) {
            tracing::debug!("{}: {error}; trying again later", attached.directory.display());
        }
    }
    for name in idle {
        // A keeper that is gone knows of none.
        if let Err(error) = attached.ask(session, &Call::new("wait"), &Request::Forget { name }, None) {
            tracing::debug!("{}: {error}", attached.directory.display());
        }
    }
}
