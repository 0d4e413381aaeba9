//! Hands the store's log records over to Python's `logging`, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;
use pyo3_log::{Caching, Logger};

use crate::fork;

/// Most records that wait for the interpreter. Further ones are lost and counted, as no thread of the store waits for the interpreter.
const RECORDS_MAX: usize = 1024;

static LOST: AtomicU64 = AtomicU64::new(0);

/// How long the exit waits for the last records.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);

enum Entry {
    Record { level: Level, target: String, text: String },
    Flush(Sender<()>),
}

/// The queue to the thread that hands records over. A forked child makes a new one.
struct Channel {
    sender: Sender<Entry>,
    generation: u64,
}

struct Logs {
    python: Arc<Logger>,
    channel: ArcSwapOption<Channel>,
}

/// Installs the logger. Imports `logging`, which registers its shutdown with `atexit`.
pub(super) fn install(py: Python<'_>) -> PyResult<()> {
    fork::watch();
    // Less severe records are not handed over: Python would drop most of them.
    let python = Arc::new(Logger::new(py, Caching::Loggers)?.filter(LevelFilter::Info));
    // Fails if the module is initialized a second time, which is harmless.
    if log::set_boxed_logger(Box::new(Logs { python, channel: ArcSwapOption::empty() })).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    Ok(())
}

impl Logs {
    fn channel(&self) -> Option<Arc<Channel>> {
        let (current, generation) = (self.channel.load_full(), fork::generation());
        if let Some(channel) = current.as_ref().filter(|channel| channel.generation == generation) {
            return Some(Arc::clone(channel));
        }
        let (sender, entries) = bounded(RECORDS_MAX);
        let python = Arc::clone(&self.python);
        thread::Builder::new().name("logs".into()).spawn(move || run(&entries, &python)).ok()?;
        self.channel.compare_and_swap(&current, Some(Arc::new(Channel { sender, generation })));
        // Not dropped: the parent's threads may have left it locked. If another thread was faster, the new thread ends.
        std::mem::forget(current);
        self.channel.load_full()
    }
}

impl Log for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.python.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (target, text) = (record.target().into(), record.args().to_string());
        if let Some(channel) = self.channel()
            && channel.sender.try_send(Entry::Record { level: record.level(), target, text }).is_err()
        {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (sender, flushed) = bounded(1);
        if let Some(channel) = self.channel()
            && channel.sender.send_timeout(Entry::Flush(sender), FLUSH_WAIT_MAX).is_ok()
        {
            let _ = flushed.recv_timeout(FLUSH_WAIT_MAX);
        }
    }
}

fn run(entries: &Receiver<Entry>, python: &Logger) {
    let tell = |level, target: &str, text: &str| {
        python.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    };
    for entry in entries {
        let told = Python::try_attach(|_| {
            match entry {
                Entry::Record { level, target, text } => tell(level, &target, &text),
                Entry::Flush(flushed) => drop(flushed.send(())),
            }
            match LOST.swap(0, Ordering::Relaxed) {
                0 => {}
                lost => tell(Level::Warn, "scaler_object_storage", &format!("{lost} lines of the log are lost")),
            }
        });
        if told.is_none() {
            break; // the interpreter is ending
        }
    }
}
