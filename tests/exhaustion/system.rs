//! The system's calls, with failures that a test asks for.
//!
//! The functions at the end stand in the place of libc's: the linker prefers the program's own, so std, memmap2 and sled call these. What
//! makes its system calls itself (rustix: preallocating, writing records, the directory's lock) does not come by here.

use std::cell::Cell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Map,
    Read,
    Write,
    Sync,
    Truncate,
    Rename,
    Remove,
    MakeDirectory,
    List,
    Lock,
}

/// A call as a rule sees it. Of a rename, the new name.
pub struct Attempt<'a> {
    pub call: Call,
    pub path: &'a Path,
    /// An open that makes the file where there is none.
    pub creates: bool,
    /// Where a write would end in its file.
    pub end: u64,
}

/// Runs while no other rule does; must not panic, for there is a foreign function around it.
type Rule = Box<dyn FnMut(&Attempt<'_>) -> Option<c_int> + Send>;

/// Of each directory, at most one rule. Every test has a directory of its own, so tests that run beside each other do not meet.
static RULES: Mutex<Vec<(PathBuf, Rule)>> = Mutex::new(Vec::new());

/// How many rules there are. Without any, a call passes without taking the lock.
static RULE_COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread decides about a call. What it calls for that passes: it holds the lock. Has no destructor, so it can be used for
    /// as long as the thread makes calls.
    static DECIDES: Cell<bool> = const { Cell::new(false) };
}

fn rules() -> MutexGuard<'static, Vec<(PathBuf, Rule)>> {
    RULES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which calls fail below one directory. None do at first, nor once it is dropped.
pub struct System {
    directory: PathBuf,
}

impl System {
    /// `directory`: absolute and without symbolic links, as the kernel names what is open.
    pub fn below(directory: &Path) -> Self {
        System { directory: directory.into() }
    }

    pub fn set(&self, rule: impl FnMut(&Attempt<'_>) -> Option<c_int> + Send + 'static) {
        self.heal();
        let entry: (PathBuf, Rule) = (self.directory.clone(), Box::new(rule));
        DECIDES.set(true);
        rules().push(entry);
        RULE_COUNT.fetch_add(1, Ordering::Release);
        DECIDES.set(false);
    }

    pub fn heal(&self) {
        DECIDES.set(true);
        let mut rules = rules();
        let position = rules.iter().position(|(directory, _)| *directory == self.directory);
        let removed = position.map(|position| rules.swap_remove(position));
        RULE_COUNT.store(rules.len(), Ordering::Release);
        drop(rules);
        DECIDES.set(false);
        drop(removed);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.heal();
    }
}

/// The error that a call is to fail with.
fn decide(call: Call, path: &[u8], creates: bool, end: u64) -> Option<c_int> {
    if DECIDES.replace(true) {
        return None;
    }
    let path = Path::new(OsStr::from_bytes(path));
    let attempt = Attempt { call, path, creates, end };
    let fault =
        rules().iter_mut().find(|(directory, _)| path.starts_with(directory)).and_then(|(_, rule)| rule(&attempt));
    DECIDES.set(false);
    fault
}

fn is_watched() -> bool {
    RULE_COUNT.load(Ordering::Acquire) > 0
}

/// Decides about a call that names its file.
unsafe fn by_name(call: Call, path: *const c_char, flags: c_int) -> Option<c_int> {
    if !is_watched() {
        return None;
    }
    // Sound: whoever makes the call passes a string that ends.
    let path = unsafe { CStr::from_ptr(path) };
    decide(call, path.to_bytes(), flags & libc::O_CREAT != 0, 0)
}

/// Decides about a call on an open file.
fn by_descriptor(call: Call, descriptor: c_int) -> Option<c_int> {
    by_descriptor_to(call, descriptor, 0)
}

/// Decides about a write of so many bytes at a file's own position.
fn by_position(descriptor: c_int, bytes: usize) -> Option<c_int> {
    if !is_watched() {
        return None;
    }
    // Sound: it changes nothing. What has no position (a pipe) gives an error, and is in no directory.
    let position = unsafe { libc::lseek(descriptor, 0, libc::SEEK_CUR) };
    by_descriptor_to(Call::Write, descriptor, position.saturating_add_unsigned(bytes as u64))
}

/// Needs no descriptor and no memory of its own, as there may be none left.
fn by_descriptor_to(call: Call, descriptor: c_int, end: i64) -> Option<c_int> {
    if !is_watched() || descriptor < 0 {
        return None;
    }
    // What is not written to ends the name.
    let mut link = [0u8; 32];
    write!(&mut link[..], "/proc/self/fd/{descriptor}").ok()?;
    let mut path = [0u8; libc::PATH_MAX as usize];
    // Sound: the name ends with a zero, and the buffer is as long as is said.
    let length = unsafe { libc::readlink(link.as_ptr().cast(), path.as_mut_ptr().cast(), path.len()) };
    decide(call, path.get(..usize::try_from(length).ok()?)?, false, u64::try_from(end).unwrap_or(0))
}

/// libc's own function of this name, looked up once.
fn real(name: &CStr, known: &AtomicPtr<c_void>) -> *mut c_void {
    let mut function = known.load(Ordering::Relaxed);
    if function.is_null() {
        // Sound: the name ends with a zero.
        function = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        assert!(!function.is_null(), "{name:?}");
        known.store(function, Ordering::Relaxed);
    }
    function
}

/// Functions that fail with `$failed` where `$fault` is an error, and otherwise do what libc's do.
macro_rules! interpose {
    ($($name:ident($($argument:ident: $kind:ty),+) -> $result:ty, $failed:expr, $fault:expr;)+) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),+) -> $result {
            static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            // Sound: the arguments are passed on as they came, to the function whose declaration this repeats. Where libc's is variadic
            // (open), an integer more is passed the same way on x86-64 and aarch64 Linux, and not looked at where it means nothing.
            unsafe {
                if let Some(error) = $fault {
                    *libc::__errno_location() = error;
                    return $failed;
                }
                let name = CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes());
                let real: unsafe extern "C" fn($($kind),+) -> $result = std::mem::transmute(real(name, &REAL));
                real($($argument),+)
            }
        }
    )+};
}

interpose! {
    open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int, -1, by_name(Call::Open, path, flags);
    open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int, -1, by_name(Call::Open, path, flags);
    openat(at: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int, -1, by_name(Call::Open, path, flags);
    openat64(at: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int, -1, by_name(Call::Open, path, flags);
    opendir(path: *const c_char) -> *mut libc::DIR, std::ptr::null_mut(), by_name(Call::List, path, 0);
    mkdir(path: *const c_char, mode: c_uint) -> c_int, -1, by_name(Call::MakeDirectory, path, 0);
    rename(from: *const c_char, to: *const c_char) -> c_int, -1, by_name(Call::Rename, to, 0);
    unlink(path: *const c_char) -> c_int, -1, by_name(Call::Remove, path, 0);
    mmap(at: *mut c_void, bytes: usize, access: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void,
        libc::MAP_FAILED, by_descriptor(Call::Map, file);
    mmap64(at: *mut c_void, bytes: usize, access: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void,
        libc::MAP_FAILED, by_descriptor(Call::Map, file);
    read(file: c_int, buffer: *mut c_void, bytes: usize) -> isize, -1, by_descriptor(Call::Read, file);
    pread(file: c_int, buffer: *mut c_void, bytes: usize, offset: i64) -> isize, -1, by_descriptor(Call::Read, file);
    pread64(file: c_int, buffer: *mut c_void, bytes: usize, offset: i64) -> isize, -1, by_descriptor(Call::Read, file);
    write(file: c_int, buffer: *const c_void, bytes: usize) -> isize, -1, by_position(file, bytes);
    pwrite(file: c_int, buffer: *const c_void, bytes: usize, offset: i64) -> isize, -1, by_descriptor_to(Call::Write, file, offset.saturating_add_unsigned(bytes as u64));
    pwrite64(file: c_int, buffer: *const c_void, bytes: usize, offset: i64) -> isize, -1, by_descriptor_to(Call::Write, file, offset.saturating_add_unsigned(bytes as u64));
    fsync(file: c_int) -> c_int, -1, by_descriptor(Call::Sync, file);
    fdatasync(file: c_int) -> c_int, -1, by_descriptor(Call::Sync, file);
    sync_file_range(file: c_int, offset: i64, bytes: i64, flags: c_uint) -> c_int, -1, by_descriptor(Call::Sync, file);
    ftruncate(file: c_int, bytes: i64) -> c_int, -1, by_descriptor(Call::Truncate, file);
    ftruncate64(file: c_int, bytes: i64) -> c_int, -1, by_descriptor(Call::Truncate, file);
    flock(file: c_int, operation: c_int) -> c_int, -1, by_descriptor(Call::Lock, file);
}
