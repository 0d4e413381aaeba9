//! What the store logs, for all tests of this program.

use std::sync::{Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Every line so far, with its level.
static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

/// From here on what is logged is kept.
pub fn keep() {
    static KEPT: OnceLock<()> = OnceLock::new();
    KEPT.get_or_init(|| tracing::subscriber::set_global_default(Log).unwrap());
}

/// How many lines of this level have all of these words.
pub fn count(level: Level, words: &[&str]) -> usize {
    let lines = LINES.lock().unwrap();
    lines.iter().filter(|(of, line)| *of == level && words.iter().all(|word| line.contains(word))).count()
}

pub fn has(level: Level, words: &[&str]) -> bool {
    count(level, words) > 0
}

struct Log;

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("scaler_object_storage") && *metadata.level() <= Level::DEBUG
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = *event.metadata().level();
        println!("{level} {}", message.0);
        LINES.lock().unwrap().push((level, message.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
