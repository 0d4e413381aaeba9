//! Tests in processes of their own.

use std::process::{Command, Stdio};

/// The environment variable that makes this program a child.
const CHILD: &str = "EXHAUSTION_CHILD";

/// Runs the test of this name in a process of its own: what it takes from its process, or how that ends, concerns no other test.
#[track_caller]
pub fn alone(test: &str, run: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        // Sound: it sets a flag of this process, which then does not outlive the test.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        return run();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(CHILD, "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "there is no such test: {test}");
    eprint!("{text}");
}
