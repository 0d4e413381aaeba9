//! A progress bar on the standard error, where that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of so many steps.
    pub fn of(steps: u64, word: &'static str, is_quiet: bool) -> Progress {
        if is_quiet || !std::io::stderr().is_terminal() {
            return Progress { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new(steps).with_message(word);
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} {msg}, {elapsed}, {eta} to go");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar }
    }

    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// Prints a line without disturbing the bar.
    pub fn say_out(&self, text: &str) -> std::io::Result<()> {
        self.bar.suspend(|| crate::output::line(text))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
