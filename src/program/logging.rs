//! Log lines as the stock server writes them: `2026-11-23 01:20:37+0000 INFO object_storage_server[1234]: text`.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::config::LoggingLevel;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that wait for a slow log file; the ones beyond are dropped, so that a reader that stands still cannot stop the server.
const LINES_WAITING_MAX: usize = 4096;

/// Events of this target are logged as CRITICAL, a level that `tracing` does not have.
pub const CRITICAL: &str = "critical";

/// Our crates: what they say is logged from the configured level on, other crates only from WARNING on.
const OURS: &str = "scaler_object_storage";

/// Sends every event of the process to these files, until the guard is dropped, which writes what is still waiting.
///
/// # Errors
///
/// Where a file cannot be opened for appending.
pub fn start(paths: &[PathBuf], level: LoggingLevel) -> Result<WorkerGuard, String> {
    let sinks = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES_WAITING_MAX).lossy(true).finish(Sinks(sinks));
    subscriber(writer, level).init();
    std::panic::set_hook(Box::new(report_panic));
    Ok(guard)
}

fn subscriber<W>(writer: W, level: LoggingLevel) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).log_internal_errors(false).event_format(StockFormat);
    tracing_subscriber::registry().with(layer.with_writer(writer)).with(targets(level))
}

fn targets(level: LoggingLevel) -> Targets {
    let (ours, others) = match level {
        LoggingLevel::Critical => (LevelFilter::OFF, LevelFilter::OFF),
        LoggingLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LoggingLevel::Warning => (LevelFilter::WARN, LevelFilter::WARN),
        LoggingLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LoggingLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
    };
    Targets::new().with_default(others).with_target(OURS, ours).with_target(CRITICAL, LevelFilter::ERROR)
}

fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    tracing::error!(target: CRITICAL, "thread {} {panic}", thread.name().unwrap_or("without a name"));
}

/// The standard streams are not opened by their names: that fails where they are sockets, and truncates redirected files.
fn open(path: &Path) -> Result<Box<dyn Write + Send>, String> {
    match path.to_str() {
        Some("-" | "/dev/stdout") => return Ok(Box::new(io::stdout())),
        Some("/dev/stderr") => return Ok(Box::new(io::stderr())),
        _ => {}
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map(|file| Box::new(file) as _).map_err(|error| format!("cannot log to {}: {error}", path.display()))
}

/// Every log file. One that fails does not keep lines from the others, nor the server from its work.
struct Sinks(Vec<Box<dyn Write + Send>>);

impl Write for Sinks {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for sink in &mut self.0 {
            let _ = sink.write_all(line).and_then(|()| sink.flush());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct StockFormat;

impl<S, N> FormatEvent<S, N> for StockFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let time = jiff::Zoned::now();
        let time = time.strftime("%Y-%m-%d %H:%M:%S%z");
        let level = level_name(event);
        write!(writer, "{time} {level} object_storage_server[{}]: ", std::process::id())?;
        for character in text.chars() {
            // One event is one line, whatever bytes of a peer are in it.
            match character.is_control() {
                true => write!(writer, "{}", character.escape_default())?,
                false => writer.write_char(character)?,
            }
        }
        writeln!(writer)
    }
}

fn level_name(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        _ if event.metadata().target() == CRITICAL => "CRITICAL",
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged at a level, without the time.
    fn logged(level: LoggingLevel) -> Vec<String> {
        let lines = Lines::default();
        let sink = lines.clone();
        tracing::subscriber::with_default(subscriber(move || sink.clone(), level), || {
            tracing::error!(target: CRITICAL, "one");
            tracing::error!("two");
            tracing::warn!("three\nlines\u{1b}[0m");
            tracing::info!(bytes = 4, "four");
            tracing::debug!("five");
            tracing::info!(target: "a_dependency", "six");
            tracing::warn!(target: "a_dependency", "seven");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let process = format!("object_storage_server[{}]: ", std::process::id());
        text.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap().replace(&process, "")).collect()
    }

    #[test]
    fn each_level_logs_what_is_as_severe_or_more() {
        assert_eq!(logged(LoggingLevel::Critical), ["CRITICAL one"]);
        assert_eq!(logged(LoggingLevel::Error), ["CRITICAL one", "ERROR two"]);
        assert_eq!(logged(LoggingLevel::Warning).len(), 4);
        assert_eq!(logged(LoggingLevel::Info).len(), 5);
        assert_eq!(logged(LoggingLevel::Debug).len(), 6);
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let expected =
            ["ERROR two", "WARNING three\\nlines\\x1b[0m", "INFO four bytes=4", "DEBUG five", "WARNING seven"];
        assert_eq!(logged(LoggingLevel::Debug)[1..], expected);
    }
}
