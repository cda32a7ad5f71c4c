//! A child without io_uring: what a container's default seccomp profile makes of it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The number of `io_uring_setup`, the same on every architecture.
const IO_URING_SETUP: u32 = 425;

/// Makes `io_uring_setup` fail with EPERM in the child; everything else is allowed.
pub(crate) fn forbid_io_uring(command: &mut Command) {
    // Load the system call's number; if it is io_uring_setup go on, else skip one; EPERM; allow.
    let errno = u32::try_from(libc::EPERM).unwrap();
    let mut program = [
        libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: IO_URING_SETUP },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | errno },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let install = move || {
        let filter =
            libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
        // The call is variadic and takes longs: an int would leave its upper half to chance.
        let (one, zero): (libc::c_ulong, libc::c_ulong) = (1, 0);
        let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
        // SAFETY: prctl is async-signal-safe and reads `filter` and `program`, which outlive the call.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) == 0
        };
        if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure allocates nothing and takes no lock; it only makes two system calls.
    unsafe { command.pre_exec(install) };
}
