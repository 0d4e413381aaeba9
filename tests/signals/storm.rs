use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// How often each thread is sent a signal, and the process another.
const INTERVAL: Duration = Duration::from_millis(1);

static SIGNALS: AtomicU64 = AtomicU64::new(0);

static ONE: Mutex<()> = Mutex::new(());

/// For as long as this is held no other test of this process runs: the signals of one would reach what another does before and after.
pub fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Signals to every thread of this process, until it ends.
pub struct Storm {
    stopped: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    before: u64,
}

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Without SA_RESTART, so that every call that may be interrupted is.
fn handle() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGUSR1, libc::SIGALRM] {
            // Sound: the handler has the required signature and makes no call.
            let installed = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(signal, &action, null_mut())
            };
            assert_eq!(installed, 0);
        }
    });
}

fn set_alarm(interval: Duration) {
    let every = libc::timeval { tv_sec: 0, tv_usec: interval.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // Sound: the pointers are good.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, null_mut()) }, 0);
}

/// To every thread but this one.
fn send() {
    // Sound: neither call touches memory. A thread that has ended meanwhile is not found, which does no harm.
    let (process, own) = unsafe { (libc::getpid(), libc::gettid()) };
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse::<libc::pid_t>().ok()) {
        if thread != own {
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
        }
    }
}

impl Storm {
    pub fn begin() -> Storm {
        handle();
        set_alarm(INTERVAL);
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        let sender = spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                send();
                sleep(INTERVAL);
            }
        });
        Storm { stopped, sender: Some(sender), before: SIGNALS.load(Ordering::Relaxed) }
    }

    /// There were signals.
    #[track_caller]
    pub fn end(self) {
        let arrived = SIGNALS.load(Ordering::Relaxed) - self.before;
        assert!(arrived > 100, "{arrived} signals");
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        set_alarm(Duration::ZERO);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}
