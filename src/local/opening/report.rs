//! What opening a directory would repair, and what it would find lost: noted while the directory is read without being changed.

use parking_lot::Mutex;

/// Lines beyond this are only counted.
const LINES_MAX: usize = 10_000;

/// Lines for people, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Report {
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    repairs: Lines,
    damage: Lines,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    more: u64,
}

impl Lines {
    fn push(&mut self, line: String) {
        if self.lines.len() < LINES_MAX { self.lines.push(line) } else { self.more += 1 }
    }

    fn all(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.lines.iter().cloned().chain(more).collect()
    }
}

impl Report {
    pub(in crate::local) fn note_repair(&self, line: String) {
        self.noted.lock().repairs.push(line);
    }

    pub(in crate::local) fn note_damage(&self, line: String) {
        self.noted.lock().damage.push(line);
    }

    /// What an open would change in the directory. What a killed process leaves is repaired by each open, and nothing is lost by it.
    #[must_use]
    pub fn repairs(&self) -> Vec<String> {
        self.noted.lock().repairs.all()
    }

    /// What is lost.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        self.noted.lock().damage.all()
    }
}
