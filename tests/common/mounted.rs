//! A file system of a test's own, which can be filled up, and gets room again.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Seen by the thread that has mounted it, and by the threads and processes that this one starts.
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// One of this size in the directory; None where this process may not mount one.
    pub fn at(path: &Path, megabytes: u64) -> Option<Mounted> {
        let text = |text: &[u8]| CString::new(text).unwrap();
        let (none, root, target) = (text(b"none"), text(b"/"), text(path.as_os_str().as_bytes()));
        let (kind, size) = (text(b"tmpfs"), text(format!("size={megabytes}m").as_bytes()));
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // Sound: all strings end, and outlive the calls. The mounts are seen by this thread and those that it starts, and nobody else.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none.as_ptr(), root.as_ptr(), std::ptr::null(), private, std::ptr::null()) == 0
                && libc::mount(none.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, size.as_ptr().cast()) == 0
        };
        if !mounted {
            eprintln!("no file system of its own: {}", std::io::Error::last_os_error());
        }
        mounted.then(|| Mounted { path: path.to_owned() })
    }

    /// Others take all the room that is left.
    pub fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).unwrap();
        for piece in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
    }

    /// What others took is there again.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}
