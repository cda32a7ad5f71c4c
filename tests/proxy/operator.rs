//! What an operator has of a proxy: its end, what a service manager is told, what is refused.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use pinion_kit::client::refusal;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, server_binary};

use crate::process::{PATIENCE, Proxy, at};

#[test]
fn a_signal_lets_calls_finish_ends_streams_with_a_word_and_the_service_manager_hears_of_both_ends() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("m")).start().await;
        let name = format!("pinion-proxy-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let heard = || {
            let mut buffer = [0; 256];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let mut command = Command::new(server_binary());
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        let mut proxy = Proxy::spawn(command, &work, &[at(server.client_port())], &[]);
        let ready = heard();
        assert!(ready.starts_with("READY=1\n"), "{ready}");
        let client = proxy.client().await;
        pinion_kit::eventually(async || client.put_kv("k", "v").await).await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(pb::WatchCreateRequest { key: "k".into(), ..Default::default() }).unwrap();
        assert!(answers.next().await.unwrap().unwrap().created);
        proxy.signal("TERM");
        let stopping = heard();
        assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
        let (code, text) = refusal(answers.next().await);
        assert_eq!((code, &*text), (14, "etcdserver: server stopped"));
        assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.output());
        assert!(proxy.output().contains("\"stopped\""), "{}", proxy.output());
    });
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_and_help_teaches() {
    let told = |args: &[&str]| {
        let output = Command::new("timeout").arg("20").arg(server_binary()).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    for args in [&["grpc-proxy", "--help"][..], &["grpc-proxy", "start", "--help"]] {
        let (code, text) = told(args);
        assert_eq!(code, Some(0));
        assert!(
            text.contains("--max-send-bytes") && text.contains("Example: pinion grpc-proxy start"),
            "{text}"
        );
    }
    for (args, words) in [
        (&["grpc-proxy", "start", "--endpoints=nonsense"][..], "host:port"),
        (&["grpc-proxy", "start", "--experimental-leasing-prefix=p"], "--experimental-leasing-prefix=p: "),
        (&["grpc-proxy", "start", "--namespace=n"], "--namespace=n: it is not built yet"),
        (
            &[
                "grpc-proxy",
                "start",
                "--cacert=/nowhere",
                "--endpoints=https://127.0.0.1:1",
                "--listen-addr=127.0.0.1:2",
            ],
            "/nowhere",
        ),
        (&["grpc-proxy", "start", "--port=1"], "-port"),
        (&["grpc-proxy"], "there is `start`"),
    ] {
        let (code, text) = told(args);
        assert!(code.is_some_and(|code| code != 0) && text.contains(words), "{args:?}: {code:?} {text}");
    }
}
