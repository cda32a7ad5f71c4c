//! Members in network namespaces of their own, on one bridge: real addresses that move, a firewall that is open
//! one way, and names whose servers are silent. Needs root and iproute2; a test says loudly when it is skipped.
//!
//! A member has two addresses: one for its clients, which stays, and one for its peers, which a test may
//! change. Clients of the kit dial loopback, so a thread forwards each client port into its namespace.
//! Between namespaces there is no proxy: dials, resets and silence are the kernel's own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pinion_kit::{Cluster, Launch, free_port, skip};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// The port for peers, in every namespace.
const PEER_PORT: u16 = 2380;

/// Where no host is, though the wire swallows what is sent there.
const NOWHERE: u8 = 250;

/// Where a name server is that never answers.
const SILENT_SERVER: u8 = 251;

/// How long a client waits that dials a member that is away.
const RETRY: Duration = Duration::from_millis(50);

/// The wire between members. Dropped, it is taken away.
pub struct Wire {
    /// Tells it from those of other tests.
    tag: u32,
    /// Forwarding ends when this is dropped.
    _stop: Option<oneshot::Sender<()>>,
    _name_server: std::net::UdpSocket,
}

/// How members name each other in `--initial-cluster`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Address,
    Name,
}

/// Whether this process may make namespaces; says loudly if it may not.
pub fn is_possible() -> bool {
    let name = format!("pinion-probe-{}", std::process::id());
    let can = Command::new("ip").args(["netns", "add", &name]).output();
    let can = can.is_ok_and(|output| output.status.success());
    if can {
        ip(&format!("netns del {name}"));
    } else {
        skip("no network namespace can be made (needs root and iproute2)");
    }
    can
}

fn try_ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("iproute2 was there");
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn ip(words: &str) {
    try_ip(words).unwrap();
}

impl Wire {
    /// A wire with so many namespaces on it.
    fn lay(count: usize) -> Self {
        static LAID: AtomicU32 = AtomicU32::new(0);
        let tag = (std::process::id().wrapping_mul(31) + LAID.fetch_add(1, Ordering::Relaxed)) % 65_000;
        ip(&format!("link add pb{tag} type bridge"));
        let gateway = Self::address_of(tag, 1);
        ip(&format!("addr add {gateway}/24 dev pb{tag}"));
        ip(&format!("addr add {}/24 dev pb{tag}", Self::address_of(tag, SILENT_SERVER)));
        ip(&format!("link set pb{tag} up"));
        // Nobody reads from it, and while it is bound no error says so.
        let name_server =
            std::net::UdpSocket::bind((Self::address_of(tag, SILENT_SERVER).as_str(), 53)).unwrap();
        let wire = Self { tag, _stop: None, _name_server: name_server };
        for member in 0..count {
            let name = wire.namespace(member);
            fs::create_dir_all(wire.etc(member)).unwrap();
            let resolv = format!(
                "nameserver {}\noptions timeout:30 attempts:5\n",
                Self::address_of(tag, SILENT_SERVER)
            );
            fs::write(wire.etc(member).join("resolv.conf"), resolv).unwrap();
            fs::write(wire.etc(member).join("hosts"), "").unwrap();
            ip(&format!("netns add {name}"));
            ip(&format!("link add pv{tag}-{member} type veth peer name eth0 netns {name}"));
            ip(&format!("link set pv{tag}-{member} master pb{tag} up"));
            wire.inside(member, "link set lo up");
            wire.inside(member, "link set eth0 up");
            wire.inside(member, &format!("addr add {}/24 dev eth0", wire.client_address(member)));
        }
        wire
    }

    /// A new cluster of three on a wire.
    pub async fn cluster(flags: &[&str], by: By) -> (Cluster, Self) {
        const COUNT: usize = 3;
        let mut wire = Self::lay(COUNT);
        let ports: Vec<u16> = (0..COUNT).map(|_| free_port()).collect();
        let to_member =
            |(member, port): (usize, &u16)| (*port, format!("{}:{port}", wire.client_address(member)));
        let forwarded = ports.iter().enumerate().map(to_member).collect();
        wire._stop = Some(forward(forwarded));
        for member in 0..COUNT {
            wire.settle_at(member, first_place(member));
        }
        wire.tell_names(&std::array::from_fn::<_, COUNT, _>(first_place));
        let url = |member: usize| match by {
            By::Address => wire.peer_url(first_place(member)),
            By::Name => format!("http://{}:{PEER_PORT}", name_of(member)),
        };
        let listed: Vec<String> = (0..COUNT).map(|member| format!("m{member}={}", url(member))).collect();
        let cluster = Cluster::start_with(COUNT, flags, |member, launch| {
            launch.client_port = ports[member];
            launch.wrapper = ["ip", "netns", "exec"].map(str::to_owned).to_vec();
            launch.wrapper.push(wire.namespace(member));
            let client = format!("http://{}:{}", wire.client_address(member), ports[member]);
            launch.flags.push(format!("--listen-client-urls={client}"));
            launch.flags.push(format!("--advertise-client-urls={client}"));
            launch.flags.push(format!("--initial-cluster={}", listed.join(",")));
            Self::set_peer_flags(launch, &wire.peer_url(first_place(member)), &url(member));
        });
        (cluster.await, wire)
    }

    fn set_peer_flags(launch: &mut Launch, listen: &str, advertised: &str) {
        let is_peers = |flag: &String| {
            flag.starts_with("--listen-peer-urls=") || flag.starts_with("--initial-advertise-peer-urls=")
        };
        launch.flags.retain(|flag| !is_peers(flag));
        launch.flags.push(format!("--listen-peer-urls={listen}"));
        launch.flags.push(format!("--initial-advertise-peer-urls={advertised}"));
    }

    fn address_of(tag: u32, host: u8) -> String {
        // What routers between networks use among themselves: nobody's own network is there.
        format!("100.{}.{}.{host}", 64 + tag / 1024 % 64, tag % 256)
    }

    fn namespace(&self, member: usize) -> String {
        format!("pinion-{}-{member}", self.tag)
    }

    fn etc(&self, member: usize) -> PathBuf {
        PathBuf::from("/etc/netns").join(self.namespace(member))
    }

    /// Runs `ip` in a member's namespace.
    fn inside(&self, member: usize, words: &str) {
        ip(&format!("-n {} {words}", self.namespace(member)));
    }

    fn client_address(&self, member: usize) -> String {
        Self::address_of(self.tag, 10 + u8::try_from(member).unwrap())
    }

    /// The URL of the peer at a place.
    pub fn peer_url(&self, place: u8) -> String {
        format!("http://{}:{PEER_PORT}", Self::address_of(self.tag, place))
    }

    fn settle_at(&self, member: usize, place: u8) {
        self.inside(member, &format!("addr add {}/24 dev eth0", Self::address_of(self.tag, place)));
    }

    /// A member that was stopped gets another address for peers, and is to say so from its next start on.
    pub fn move_to(&self, cluster: &mut Cluster, member: usize, from: u8, to: u8) {
        self.inside(member, &format!("addr del {}/24 dev eth0", Self::address_of(self.tag, from)));
        self.settle_at(member, to);
        let url = self.peer_url(to);
        Self::set_peer_flags(&mut cluster.members[member].launch, &url, &url);
    }

    /// From now on nothing that others send to the place of a member arrives there, and what is sent to it over
    /// connections that it dials does: those come from its first address, the one for clients.
    pub fn shut_in(&self, member: usize, count: usize) {
        let place = Self::address_of(self.tag, first_place(member));
        let nowhere = Self::address_of(self.tag, NOWHERE);
        for other in (0..count).filter(|other| *other != member) {
            self.inside(
                other,
                &format!("neigh replace {nowhere} lladdr 02:00:00:00:00:01 dev eth0 nud permanent"),
            );
            self.inside(other, &format!("route replace {place}/32 via {nowhere} dev eth0"));
        }
    }

    /// Where each name leads, in all namespaces.
    pub fn tell_names(&self, places: &[u8]) {
        let lines = places
            .iter()
            .enumerate()
            .map(|(member, place)| format!("{} {}\n", Self::address_of(self.tag, *place), name_of(member)));
        self.write_hosts(&(0..places.len()).collect::<Vec<_>>(), &lines.collect::<String>());
    }

    /// The whole table of names of some members. The file stays the same one, since it is mounted.
    pub fn write_hosts(&self, members: &[usize], lines: &str) {
        for member in members {
            fs::write(self.etc(*member).join("hosts"), lines).unwrap();
        }
    }

    /// An address on the wire.
    pub fn address(&self, place: u8) -> String {
        Self::address_of(self.tag, place)
    }

    /// All names are asked of a server that does not answer.
    pub fn forget_names(&self, count: usize) {
        self.write_hosts(&(0..count).collect::<Vec<_>>(), "");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for member in 0..8 {
            try_ip(&format!("netns del {}", self.namespace(member))).ok();
            fs::remove_dir_all(self.etc(member)).ok();
        }
        try_ip(&format!("link del pb{}", self.tag)).ok();
    }
}

/// Where a member is at first.
pub fn first_place(member: usize) -> u8 {
    100 + u8::try_from(member).unwrap()
}

/// The name that leads to a member.
pub fn name_of(member: usize) -> String {
    format!("m{member}.pinion.test")
}

/// Forwards connections to these ports of loopback to these addresses, on a thread of its own.
fn forward(ports: Vec<(u16, String)>) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (port, target) in ports {
                let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(async move {
                    while let Ok((mut near, _)) = listener.accept().await {
                        let target = target.clone();
                        tokio::spawn(async move {
                            let dial =
                                tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(&target));
                            // Nobody is there. A client that is told at once would ask in a tight loop.
                            let Ok(Ok(mut far)) = dial.await else {
                                return tokio::time::sleep(RETRY).await;
                            };
                            if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_ok() {
                                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                            }
                        });
                    }
                });
            }
            ready.send(()).unwrap();
            // An error says that the sender is gone: the end as well.
            drop(stopped.await);
        });
    };
    std::thread::Builder::new().name("forwarder".to_owned()).spawn(run).unwrap();
    is_ready.recv().unwrap();
    stop
}
