//! Every log line that docs/troubleshooting.md names is one that the program writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::path::Path;

/// What stands in the sources for what is named in the line at run time.
const NAMED: char = '…';

/// Shorter pieces between two names could stand anywhere.
const LETTERS_MIN: usize = 6;

/// The texts in the sources, with lines that a backslash continues put together.
fn sources(folder: &Path, endings: &[&str], text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, endings, text);
        } else if path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)) {
            let source = std::fs::read_to_string(&path).unwrap();
            let mut lines = source.lines();
            while let Some(line) = lines.next() {
                let mut line = line.to_owned();
                while let Some(begun) = line.strip_suffix('\\') {
                    line = begun.to_owned() + lines.next().unwrap_or_default().trim_start();
                }
                text.push_str(&line);
                text.push('\n');
            }
        }
    }
}

/// The lines in the second column of the tables.
fn lines(document: &str) -> Vec<String> {
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---"));
    let seconds = rows.filter_map(|row| row.split(" | ").nth(1));
    let quoted = seconds.filter_map(|cell| Some(cell.trim().strip_prefix('`')?.split('`').next()?.to_owned()));
    quoted.collect()
}

#[test]
fn every_log_line_of_the_table_is_one_that_is_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    sources(&root.join("src"), &["rs"], &mut text);
    sources(&root.join("python"), &["py"], &mut text);
    let document = std::fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let lines = lines(&document);
    assert!(lines.len() > 30, "{lines:?}");
    for line in lines {
        let pieces: Vec<_> = line.split(NAMED).map(str::trim).filter(|piece| piece.len() >= LETTERS_MIN).collect();
        assert!(!pieces.is_empty(), "{line}");
        for piece in pieces {
            assert!(text.contains(piece), "nothing writes {piece:?} of {line:?}");
        }
    }
}
