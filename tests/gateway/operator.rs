//! What an operator has of a gateway: its end, its bound, what a service manager is told, what is refused.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use pinion_kit::{WorkDir, server_binary};

use crate::process::{Echo, Gateway, PATIENCE, flags, hears, is_closed};

#[test]
fn a_signal_ends_it_with_its_connections_and_the_service_manager_hears_of_both_ends() {
    let work = WorkDir::new();
    for (number, signal) in ["TERM", "INT"].into_iter().enumerate() {
        let name = format!("pinion-gateway-{number}-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let heard = || {
            let mut buffer = [0; 256];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let echo = Echo::start("e");
        let mut command = Command::new(server_binary());
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        let mut gateway = Gateway::start_as(command, &work, &flags(&[echo.endpoint()]));
        assert_eq!(heard(), "READY=1\n");
        let mut client = gateway.connect();
        hears(&mut client, "e");
        gateway.signal(signal);
        assert_eq!(heard(), "STOPPING=1\n");
        assert!(is_closed(&mut client));
        assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.output());
        assert!(gateway.output().contains("stopped"), "{}", gateway.output());
        gateway.wait_for_its_port();
    }
}

/// 200 descriptors are 68 connections.
#[test]
fn connections_beyond_the_descriptors_are_closed_at_once_and_the_others_go_on() {
    let work = WorkDir::new();
    let echo = Echo::start("e");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""]).arg(server_binary());
    let mut gateway = Gateway::start_as(command, &work, &flags(&[echo.endpoint()]));
    gateway.wait_for("\"connections_max\":68");
    let mut held = Vec::new();
    for _ in 0..68 {
        let mut client = gateway.connect();
        hears(&mut client, "e");
        held.push(client);
    }
    for _ in 0..100 {
        assert!(is_closed(&mut gateway.connect()));
    }
    gateway.wait_for("as many as descriptors allow");
    for client in &mut held {
        client.write_all(b"still here").unwrap();
        hears(client, "still here");
    }
    // Whoever leaves makes room.
    let mut leaver = held.pop().unwrap();
    leaver.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(is_closed(&mut leaver));
    let again = (0..1_000).any(|_| !is_closed(&mut gateway.connect()));
    assert!(again, "there is room again");
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_and_help_teaches() {
    let told = |args: &[&str]| {
        let output = Command::new("timeout").arg("20").arg(server_binary()).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    for args in [&["gateway", "--help"][..], &["gateway", "start", "--help"]] {
        let (code, text) = told(args);
        assert_eq!(code, Some(0));
        assert!(text.contains("--retry-delay") && text.contains("Example: pinion gateway start"), "{text}");
    }
    for (args, words) in [
        (&["gateway", "start", "--endpoints=nonsense"][..], "host:port"),
        (&["gateway", "start", "--listen-addr=127.0.0.1"], "failed to validate listen address"),
        (&["gateway", "start", "--trusted-ca-file=/nowhere", "--discovery-srv=", "--port=1"], "-port"),
        (&["gateway", "start", "--listen-addr=127.0.0.1:1", "--endpoints=127.0.0.1:1"], "listen"),
        (&["gateway"], "there is `start`"),
    ] {
        let (code, text) = told(args);
        assert!(code.is_some_and(|code| code != 0) && text.contains(words), "{args:?}: {code:?} {text}");
    }
}
