//! Servers that lie, babble, cut, stall or are not there.

use std::cell::Cell;
use std::net::TcpListener;

use super::*;

const NAME: &str = "_etcd-server._tcp.x";
const OK: u16 = 0x8180;

/// An answer with these flags, and a record of `m1.x` if there is no error in them.
fn answer(query: &[u8], flags: u16) -> Vec<u8> {
    let has_edns = query[11] == 1;
    let mut message = query[..query.len() - if has_edns { 11 } else { 0 }].to_vec();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    message[11] = 0;
    if flags & 0x020f == 0 {
        message[7] = 1;
        message.extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 12]);
        message.extend_from_slice(&[0, 0, 0, 0, 9, 76, 2, b'm', b'1', 1, b'x', 0]);
    }
    message
}

/// A server by UDP that sends what `reply` makes of each query.
fn udp(reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            for message in reply(&bytes[..length]) {
                socket.send_to(&message, from).unwrap();
            }
        }
    });
    address
}

fn ask(servers: Vec<SocketAddr>, tcp: bool, limit: Duration) -> Result<Vec<SrvRecord>, DnsError> {
    let timeout = Duration::from_millis(200);
    let conf = ResolvConf { servers, timeout, attempts: 1, tcp, ..ResolvConf::default() };
    DnsClient { conf, deadline: Instant::now() + limit, is_interrupted: &|| false }.srv(NAME)
}

const LONG: Duration = Duration::from_secs(10);

fn is_found(result: &Result<Vec<SrvRecord>, DnsError>) -> bool {
    matches!(result, Ok(records) if records.len() == 1 && records[0].target == "m1.x" && records[0].port == 2380)
}

#[test]
fn answers_to_other_questions_are_passed_over_until_the_right_one_comes() {
    let server = udp(|query| {
        let mut forged = answer(query, OK);
        forged[0] ^= 1;
        let mut other = answer(query, OK);
        other[14] ^= 1;
        vec![b"babble".to_vec(), forged, other, query.to_vec(), answer(query, OK)]
    });
    assert!(is_found(&ask(vec![server], false, LONG)));
}

#[test]
fn next_server_is_asked_when_one_is_silent_dead_or_fails() {
    let silent = udp(|_| Vec::new());
    let failing = udp(|query| vec![answer(query, 0x8182)]);
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = udp(|query| vec![answer(query, OK)]);
    assert!(is_found(&ask(vec![silent, failing, dead, good], false, LONG)));
    match ask(vec![silent, failing, dead], false, LONG) {
        Err(DnsError::Unanswered(reason)) => {
            for word in ["no answer in time", "SERVFAIL", "refused", &dead.to_string()] {
                assert!(reason.contains(word), "{reason}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn server_without_edns_is_asked_again_without_and_absence_is_no_failure() {
    let old = udp(|query| vec![answer(query, if query[11] == 1 { 0x8181 } else { OK })]);
    assert!(is_found(&ask(vec![old], false, LONG)));
    let absent = udp(|query| vec![answer(query, 0x8183)]);
    assert_eq!(ask(vec![absent], false, LONG), Ok(Vec::new()));
}

#[test]
fn cut_answer_is_asked_for_by_tcp_and_a_stalling_one_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        let (length, from) = socket.recv_from(&mut bytes).unwrap();
        socket.send_to(&answer(&bytes[..length], 0x8380), from).unwrap();
        for is_whole in [true, false] {
            let mut stream = listener.accept().unwrap().0;
            let length = stream.read(&mut bytes).unwrap();
            let message = answer(&bytes[2..length], OK);
            let prefix = u16::try_from(message.len()).unwrap().to_be_bytes();
            // In two pieces, or the second never.
            stream.write_all(&[&prefix[..], &message[..20]].concat()).unwrap();
            if is_whole {
                stream.write_all(&message[20..]).unwrap();
            }
            // Until the other side has closed.
            drop(stream.read(&mut bytes));
        }
    });
    assert!(is_found(&ask(vec![address], false, LONG)));
    let stalled = ask(vec![address], true, LONG);
    assert!(matches!(stalled, Err(DnsError::Unanswered(reason)) if reason.contains("no answer in time")));
}

#[test]
fn deadline_and_a_signal_end_the_asking() {
    let silent = udp(|_| Vec::new());
    let begun = Instant::now();
    assert!(matches!(ask(vec![silent; 3], false, Duration::from_millis(50)), Err(DnsError::Unanswered(_))));
    let told = Cell::new(0);
    // Sticky, as the one that boot hands in.
    let is_interrupted = || told.replace(told.get() + 1) >= 1;
    let conf = ResolvConf { servers: vec![silent], ..ResolvConf::default() };
    let client = DnsClient { conf, deadline: begun + LONG, is_interrupted: &is_interrupted };
    assert_eq!(client.srv(NAME), Err(DnsError::Interrupted));
    assert!(begun.elapsed() < Duration::from_secs(4), "less than one wait of resolv.conf");
}
