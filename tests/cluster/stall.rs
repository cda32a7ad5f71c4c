//! Holds one thread of another process: the log's, and the member is one whose disk answers no more
//! while everything else goes on.

use std::fs;
use std::io;

/// Runs on when dropped. Attached and let go by one thread of the test, as ptrace wants it.
pub struct StalledThread {
    thread: libc::pid_t,
}

impl StalledThread {
    /// Stalls the thread whose name ends in `name`, if the process has one.
    pub fn of(process: u32, name: &str) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
        let thread = tasks.flatten().find_map(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_str()?.parse::<libc::pid_t>().ok()?;
            comm.trim().ends_with(name).then_some(id)
        })?;
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: both requests touch no memory of this process.
        let is_held = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) == 0
        };
        assert!(is_held, "cannot hold thread {thread}: {}", io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert_eq!(waited, thread, "{}", io::Error::last_os_error());
        Some(Self { thread })
    }
}

impl Drop for StalledThread {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: touches no memory of this process. The thread may have been killed meanwhile.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, none, none) };
    }
}
