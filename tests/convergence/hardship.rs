//! What happens to a process: signals, and no descriptors left.

use std::fs;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Whether threads get signals all the time.
static SIGNALS: AtomicBool = AtomicBool::new(false);

const SIGNAL_EVERY: Duration = Duration::from_millis(1);

/// Threads that get a signal at a time.
const SIGNALS_AT_A_TIME: usize = 4;

/// This process may open so many descriptors more, or as many as ever.
pub fn limit_descriptors(more: Option<u64>) {
    // Without the one that counting takes.
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1)) as u64;
    // Sound: both calls get a structure of their own to read and write.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = more.map_or(limit.rlim_max, |more| (open + more).min(limit.rlim_max));
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

/// All threads get signals that a system call is not begun again after, or no more of them.
pub fn send_signals(are_sent: bool) {
    extern "C" fn ignore(_: libc::c_int) {}
    if SIGNALS.swap(are_sent, Ordering::SeqCst) || !are_sent {
        return;
    }
    // Sound: the handler does nothing, and the structure is one of its own.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
    }
    spawn(|| {
        while SIGNALS.load(Ordering::SeqCst) {
            let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
            let threads: Vec<i64> = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
            for some in threads.chunks(SIGNALS_AT_A_TIME) {
                for thread in some {
                    // To a thread, as the kernel gives the main one all signals that are sent to a process. Sound: one that has ended
                    // meanwhile is an error.
                    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), *thread, libc::SIGALRM) };
                }
                sleep(SIGNAL_EVERY);
            }
        }
    });
}
