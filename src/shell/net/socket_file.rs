//! The file of a unix socket: who may take its place, and when it goes.
//!
//! A socket that nobody listens on any more leaves its file behind when its process is killed. Such a file is removed
//! and made anew. One that somebody listens on is kept, and so is everything that is no socket. (etcd removes
//! whatever has the name, and takes the address away from a process that serves there.)
//!
//! A bound socket that does not listen yet looks like one that was left behind. So members claim a path in the
//! kernel's abstract names, too, which vanish with their process.

#![expect(unsafe_code, reason = "the runtime takes a connected socket only as a descriptor")]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::{FromRawFd as _, IntoRawFd as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use glommio::net::TcpStream;
use socket2::{Domain, SockAddr, Socket, Type};

/// A socket's file, which goes with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file: another one of this name is somebody else's.
    identity: (u64, u64),
    _claim: Option<UnixListener>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a socket's file stays behind");
        }
    }
}

/// Binds a socket to a path, whose file it makes. Its mode is what the process's umask leaves.
///
/// # Errors
/// `AddrInUse` when somebody serves there; `AlreadyExists` when the file is no socket; what else the kernel answered.
pub(super) fn bind(path: &str) -> io::Result<(Socket, SocketFile)> {
    let path = Path::new(path);
    let claim = claim(path)?;
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok((socket, SocketFile { path: path.to_owned(), identity: identity(path)?, _claim: claim }))
}

/// Connects to whoever serves at a path. Nothing is waited for: the kernel tells at once.
///
/// # Errors
/// What the kernel answered: `WouldBlock` when more connect than are accepted.
pub(super) fn connect(path: &str) -> io::Result<TcpStream> {
    let socket = connect_socket(Path::new(path))?;
    // The runtime waits for sockets in the kernel.
    socket.set_nonblocking(false)?;
    // SAFETY: the descriptor is an open stream's and has no other owner.
    Ok(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
}

fn connect_socket(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Removes what a socket has left behind at `path`.
fn make_room(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        let what = "a file of that name is there that is no socket, and it is not removed";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    match connect_socket(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its queue is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Claims a path against other members, by its directory and name. None: this host has no such names.
fn claim(path: &Path) -> io::Result<Option<UnixListener>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (device, number) = std::fs::metadata(directory).map(|found| (found.dev(), found.ino()))?;
    let mut hasher = DefaultHasher::new();
    path.file_name().map(|name| name.as_bytes().to_owned()).hash(&mut hasher);
    let name = format!("pinion-socket-{device:x}-{number:x}-{:x}", hasher.finish());
    match SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name)) {
        Ok(claim) => Ok(Some(claim)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "the path of a socket could not be claimed");
            Ok(None)
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test's own.
    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("pinion-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn failure(path: &Path) -> io::ErrorKind {
        bind(path.to_str().unwrap()).map(|_| ()).unwrap_err().kind()
    }

    #[test]
    fn a_file_that_a_dead_process_left_is_replaced_and_a_live_one_and_any_other_file_stay() {
        let directory = directory("socket-file");
        let path = directory.join("s");
        let text = path.to_str().unwrap();
        // Closed without a word, as by a kill.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (socket, file) = bind(text).unwrap();
        assert_eq!(failure(&path), io::ErrorKind::AddrInUse, "bound, and not listened on yet");
        socket.listen(1).unwrap();
        assert_eq!(failure(&path), io::ErrorKind::AddrInUse, "served");
        drop((socket, file));
        assert!(!path.exists(), "it goes with its owner");

        let foreign = UnixListener::bind(&path).unwrap();
        assert_eq!(failure(&path), io::ErrorKind::AddrInUse, "served by another program");
        assert!(path.exists());
        drop(foreign);
        std::fs::remove_file(&path).unwrap();

        std::fs::write(&path, b"precious").unwrap();
        assert_eq!(failure(&path), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(directory.join("elsewhere"), &path).unwrap();
        assert_eq!(failure(&path), io::ErrorKind::AlreadyExists, "a link is no socket");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_that_somebody_else_has_put_there_meanwhile_is_not_removed() {
        let directory = directory("socket-replaced");
        let path = directory.join("s");
        let (_socket, file) = bind(path.to_str().unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"precious").unwrap();
        drop(file);
        assert!(path.exists());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn nobody_who_listens_is_said_at_once() {
        let directory = directory("socket-refused");
        let path = directory.join("s");
        let kind = |path: &Path| connect_socket(path).unwrap_err().kind();
        assert_eq!(kind(&path), io::ErrorKind::NotFound);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(kind(&path), io::ErrorKind::ConnectionRefused);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
