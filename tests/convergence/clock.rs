//! This process's time of day, which a test can put wrong.
//!
//! The function at the end stands in the place of libc's: the linker prefers the program's own, so std calls it.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};
use std::time::SystemTime;
use std::{ffi, mem, ptr};

/// By how much it is ahead, in seconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

pub fn set_ahead(seconds: i64) {
    let before = SystemTime::now();
    let step = seconds - AHEAD.swap(seconds, Ordering::SeqCst);
    let stepped = match SystemTime::now().duration_since(before) {
        Ok(forward) => forward.as_secs() as i64,
        Err(back) => -(back.duration().as_secs() as i64),
    };
    // Otherwise std asks another clock than the one below.
    assert!((stepped - step).abs() < 60, "the clock went {stepped} seconds on, not {step}");
}

/// Nanoseconds on the clock that all processes of this machine share and nobody sets.
pub fn nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Sound: it writes to a structure of its own.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

type Function = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    static REAL: AtomicPtr<ffi::c_void> = AtomicPtr::new(ptr::null_mut());
    let mut real = REAL.load(Ordering::Relaxed);
    if real.is_null() {
        // Sound: the name ends with a zero.
        real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
        REAL.store(real, Ordering::Relaxed);
    }
    // Sound: the arguments are passed on as they came, to the function whose declaration this repeats, and what it has written to is
    // read where it has succeeded.
    unsafe {
        let result = mem::transmute::<*mut ffi::c_void, Function>(real)(clock, time);
        if result == 0 && clock == libc::CLOCK_REALTIME {
            (*time).tv_sec += AHEAD.load(Ordering::SeqCst);
        }
        result
    }
}
