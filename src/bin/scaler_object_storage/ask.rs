//! Asking before something is done that cannot be undone.

use std::io::{self, IsTerminal, Write};

use crate::Failure;

/// Whether the answer is yes; without a terminal nobody can be asked, and the error says so.
pub fn confirmed(question: &str, is_yes: bool) -> Result<bool, Failure> {
    if is_yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(format!("{question} There is nobody to ask: say so with --yes; nothing was done").into());
    }
    let mut out = io::stderr().lock();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
