//! A running node, as the test sees it.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::node::{self, ORDER, Order};
use crate::report::{Command, Event, Report};

/// A node that takes longer than this to do what it is told hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub type Log = Arc<Mutex<Vec<Report>>>;

pub struct Life {
    stream: UnixStream,
    log: Log,
    reader: JoinHandle<()>,
    runs: Runs,
}

enum Runs {
    Process(Process),
    Thread(JoinHandle<()>),
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Life {
    /// `test`: its name, by which the child is started.
    pub fn begin(test: &str, order: &Order, log: &Log) -> Result<Life, String> {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let is_process = order.settings.is_process(order.node);
        let runs = if is_process {
            let process = Program::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(ORDER, order.encode())
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                .spawn();
            Runs::Process(Process(process.unwrap()))
        } else {
            let order = order.clone();
            // By this name a panic tells whose it was.
            let name = format!("node {} of {}", order.node, order.world);
            Runs::Thread(Builder::new().name(name).spawn(move || node::serve(&order, theirs)).unwrap())
        };
        let (mut receiver, into) = (stream.try_clone().unwrap(), Arc::clone(log));
        let reader = spawn(move || {
            while let Some(report) = Report::receive(&mut receiver) {
                into.lock().push(report);
            }
        });
        let from = log.lock().len();
        let mut life = Life { stream, log: Arc::clone(log), reader, runs };
        life.wait_for(Event::Opened, from)?;
        Ok(life)
    }

    /// Tells it what to do; returns where in the log its answers begin.
    pub fn tell(&mut self, command: Command) -> usize {
        let from = self.log.lock().len();
        // One that is gone is found out by whoever waits for its answer.
        let _ = command.send(&mut self.stream);
        from
    }

    pub fn wait_for(&mut self, event: Event, from: usize) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let has_ended = self.has_ended();
            // Answered by this process only: the log is that of one node, one life at a time.
            if self.log.lock()[from..].iter().any(|report| report.event == event) {
                return Ok(());
            }
            if has_ended {
                return Err(format!("the node ended before it was {event:?}: {}", self.status()));
            }
            if begun.elapsed() > LIMIT {
                return Err(format!("the node hangs before it is {event:?}"));
            }
            sleep(Duration::from_micros(500));
        }
    }

    fn status(&mut self) -> String {
        match &mut self.runs {
            Runs::Process(process) => process.0.wait().unwrap().to_string(),
            Runs::Thread(_) => "it panicked".to_owned(),
        }
    }

    /// All that it had to say was heard.
    fn has_ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// `STOP` or `CONT`, where it is a process of its own.
    pub fn signal(&self, name: &str) {
        if let Runs::Process(process) = &self.runs {
            let status = Program::new("kill").args([&format!("-{name}"), &process.0.id().to_string()]).status();
            assert!(status.unwrap().success());
        }
    }

    /// With SIGKILL.
    pub fn kill(mut self) -> Result<(), String> {
        let Runs::Process(process) = &mut self.runs else { return self.close() };
        if let Some(status) = process.0.try_wait().unwrap() {
            return Err(format!("the node ended by itself: {status}"));
        }
        process.0.kill().unwrap();
        let status = process.0.wait().unwrap();
        self.reader.join().unwrap();
        match status.code() {
            None => Ok(()),
            Some(code) => Err(format!("the node ended with {code}")),
        }
    }

    pub fn close(mut self) -> Result<(), String> {
        let from = self.tell(Command::Close);
        self.wait_for(Event::Closed, from)?;
        let _ = self.stream.shutdown(Shutdown::Both);
        self.reader.join().unwrap();
        match self.runs {
            Runs::Process(mut process) => {
                let status = process.0.wait().unwrap();
                if status.success() { Ok(()) } else { Err(format!("the node ended with {status}")) }
            }
            Runs::Thread(thread) => thread.join().map_err(|_| "the node panicked".to_owned()),
        }
    }
}
