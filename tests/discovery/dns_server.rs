//! A DNS server with one zone, on port 53 of a loopback address of its own, and what it takes to make one
//! process ask it: a mount namespace in which `/etc/resolv.conf` names it. Both need root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pinion_kit::{WorkDir, skip};

const SRV: u16 = 33;
const A: u16 = 1;

/// A zone's records, by name in lower case.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    srv: BTreeMap<String, Vec<(u16, String)>>,
    a: BTreeMap<String, Ipv4Addr>,
    /// Every answer by UDP says that it was cut.
    pub is_long: bool,
}

impl Zone {
    /// Adds a record of `service`.
    #[must_use]
    pub fn srv(mut self, service: &str, target: &str, port: u16) -> Self {
        self.srv.entry(service.to_owned()).or_default().push((port, target.to_owned()));
        self
    }

    /// Adds a name of 127.0.0.1.
    #[must_use]
    pub fn a(mut self, name: &str) -> Self {
        self.a.insert(name.to_owned(), Ipv4Addr::LOCALHOST);
        self
    }

    /// The same zone where all names lead to another address.
    #[must_use]
    pub fn moved_to(mut self, address: Ipv4Addr) -> Self {
        self.a.values_mut().for_each(|found| *found = address);
        self
    }

    /// The answer to a query; none to what is no query.
    fn answer(&self, query: &[u8], is_udp: bool) -> Option<Vec<u8>> {
        let mut name = String::new();
        let mut at = 12;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            name.push_str(&String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
            name.push('.');
            at += length;
        }
        let name = name.trim_end_matches('.');
        let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().unwrap());
        let question = query.get(12..at + 4)?;
        let mut datas = Vec::new();
        match kind {
            SRV => {
                for (port, target) in self.srv.get(name).into_iter().flatten() {
                    let mut data = vec![0, 0, 0, 0];
                    data.extend_from_slice(&port.to_be_bytes());
                    for label in target.split('.') {
                        data.push(u8::try_from(label.len()).unwrap());
                        data.extend_from_slice(label.as_bytes());
                    }
                    data.push(0);
                    datas.push(data);
                }
            }
            A => datas.extend(self.a.get(name).map(|address| address.octets().to_vec())),
            _ => {}
        }
        let exists = self.srv.contains_key(name) || self.a.contains_key(name);
        let is_cut = is_udp && self.is_long && kind == SRV;
        if is_cut {
            datas.clear();
        }
        // Answer, authoritative, cut or not; recursion was desired and is available.
        let flags = 0x8580 | if is_cut { 0x0200 } else { 0 } | if exists { 0 } else { 3 };
        let mut answer = query[..2].to_vec();
        for field in [flags, 1, u16::try_from(datas.len()).unwrap(), 0, 0] {
            answer.extend_from_slice(&field.to_be_bytes());
        }
        answer.extend_from_slice(question);
        for data in datas {
            answer.extend_from_slice(&[0xc0, 12]);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 0, 0, 1]);
            answer.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend_from_slice(&data);
        }
        Some(answer)
    }
}

/// Runs until it is dropped.
pub struct DnsServer {
    address: Ipv4Addr,
    is_over: Arc<AtomicBool>,
}

impl DnsServer {
    /// Starts a server; none, with a line that says why, where that is not possible.
    pub fn start(zone: Zone) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let place = std::process::id().wrapping_mul(61).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let [_, _, c, d] = place.to_be_bytes();
        let address = Ipv4Addr::new(127, 53, c, d.clamp(1, 254));
        let bound =
            UdpSocket::bind((address, 53)).and_then(|udp| Ok((udp, TcpListener::bind((address, 53))?)));
        let (udp, tcp) = match bound {
            Ok(sockets) => sockets,
            Err(error) => {
                skip(&format!("no DNS server can be started on {address}:53 (needs root): {error}"));
                return None;
            }
        };
        let can_mount = Command::new("unshare").args(["-m", "true"]).output();
        if !can_mount.is_ok_and(|output| output.status.success()) {
            skip("no mount namespace can be made (needs root and util-linux)");
            return None;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, by_udp) = (Arc::clone(&is_over), zone.clone());
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        spawn(move || {
            let mut bytes = [0; 1500];
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut bytes) else { continue };
                if let Some(answer) = by_udp.answer(&bytes[..length], true) {
                    udp.send_to(&answer, from).ok();
                }
            }
        });
        let over = Arc::clone(&is_over);
        tcp.set_nonblocking(true).unwrap();
        spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => drop(serve(stream, &zone)),
                    Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
                }
            }
        });
        Some(Self { address, is_over })
    }

    /// A program that runs `binary` where this server is the only one.
    pub fn client(&self, work: &WorkDir, binary: &Path) -> PathBuf {
        client_of(self.address, work, binary)
    }
}

/// The same for any address, also where nobody answers.
pub fn client_of(address: Ipv4Addr, work: &WorkDir, binary: &Path) -> PathBuf {
    let name = binary.file_name().unwrap().to_str().unwrap();
    let resolv_conf = work.join(&format!("{address}.resolv.conf"));
    fs::write(&resolv_conf, format!("nameserver {address}\noptions timeout:2\n")).unwrap();
    let script = work.join(&format!("{name}-{address}.sh"));
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"' {} {} \"$@\"\n",
        resolv_conf.display(),
        binary.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn serve(mut stream: std::net::TcpStream, zone: &Zone) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query)?;
    if let Some(answer) = zone.answer(&query, false) {
        stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes())?;
        stream.write_all(&answer)?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the server beside the test is a thread")]
fn spawn(run: impl FnOnce() + Send + 'static) {
    std::thread::spawn(run);
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
