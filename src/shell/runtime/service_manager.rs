//! What systemd is told of a service with `Type=notify`, by the protocol of sd_notify(3).
//!
//! etcd says READY=1 when it has published itself through the log, and so do we; beyond that, what a start waits
//! for (STATUS=), that it goes on (EXTEND_TIMEOUT_USEC=) and that a stop has begun (STOPPING=1).
//!
//! Not the crate sd-notify: it sends without a bound on the time, and the service manager's queue may be full.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use std::{env, io};

/// The variable that names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// How long a message may wait for room in the service manager's queue.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever started this process and wants to hear of it; perhaps nobody.
#[derive(Debug, Default)]
pub(in crate::shell) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub(in crate::shell) fn of_environment() -> Self {
        let Some(name) = env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match Self::at(name.as_bytes()) {
            Ok(manager) => manager,
            Err(error) => {
                tracing::warn!(socket = ?name, %error, "the service manager cannot be told that this member is ready");
                Self::default()
            }
        }
    }

    /// A path, or behind an `@` the name of an abstract socket.
    fn at(name: &[u8]) -> io::Result<Self> {
        let address = match name {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
            _ => return Err(io::Error::other("neither a path nor the name of an abstract socket")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket: Some((socket, address)) })
    }

    /// Sends these assignments in one message.
    pub(in crate::shell) fn tell(&self, assignments: &[(&str, &str)]) {
        let Some((socket, address)) = &self.socket else { return };
        let mut message = String::new();
        for (name, value) in assignments {
            // A line end would begin another assignment.
            let value = value.replace('\n', " ");
            message.push_str(&format!("{name}={value}\n"));
        }
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::warn!(%error, message, "the service manager was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_socket_hear_whole_messages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("pinion-test-{}", std::process::id());
        let abstract_ = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let manager = ServiceManager::at(path.as_os_str().as_bytes()).unwrap();
        manager.tell(&[("READY", "1"), ("STATUS", "two\nlines")]);
        assert_eq!(heard(&by_path), "READY=1\nSTATUS=two lines\n");
        ServiceManager::at(format!("@{name}").as_bytes()).unwrap().tell(&[("STOPPING", "1")]);
        assert_eq!(heard(&abstract_), "STOPPING=1\n");
    }

    #[test]
    fn service_manager_that_does_not_listen_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str().as_bytes()).unwrap();
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"x", &path).is_ok() {}
        manager.tell(&[("STATUS", "x")]);
        drop(socket);
        manager.tell(&[("READY", "1")]);
        assert!(ServiceManager::at(b"vsock:2:1234").is_err());
    }
}
