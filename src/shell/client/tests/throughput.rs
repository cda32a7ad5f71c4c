//! Cost of a call, measured: `PINION_BENCH_CALLS=2000000 cargo test --release throughput -- --nocapture`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::raw::{self, PREFACE};
use super::*;

/// Calls of the bounded run that is part of the tests.
const CALLS_DEFAULT: usize = 20_000;

/// One connection's client: sends batches of pre-encoded calls and counts the ends of streams.
///
/// The error says how far it got.
fn run_client(
    address: SocketAddr,
    calls: usize,
    in_flight: usize,
    path: &str,
    body: &[u8],
) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hello = PREFACE.to_vec();
    hello.extend(raw::frame(raw::SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0]));
    hello.extend(raw::frame(raw::WINDOW_UPDATE, 0, 0, &0x6fff_0000_u32.to_be_bytes()));
    stream.write_all(&hello).unwrap();
    // The first call puts its headers into the dynamic table, the others name them: 62 is the last.
    let fields: [(&str, &[u8]); 6] = [
        ("te", b"trailers"),
        ("user-agent", b"grpc-go/1.70.0"),
        ("content-type", b"application/grpc"),
        (":authority", b"127.0.0.1:2379"),
        (":path", path.as_bytes()),
        ("x", b"x"),
    ];
    let mut first = vec![0x83, 0x86];
    for (name, value) in fields.iter().rev().skip(1) {
        let mut literal = raw::header(name, value);
        literal[0] = 0x40;
        first.extend(literal);
    }
    // :method POST, :scheme http, then :path … te as entries 66 … 62.
    let next = [0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
    let (mut sent, mut done, mut id) = (0, 0, 1_u32);
    let mut walker = super::super::grpc::frame_meter::FrameWalker::default();
    let (mut out, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let mut settled = true;
    while done < calls {
        out.clear();
        if !settled {
            out.extend(raw::frame(raw::SETTINGS, raw::ACK, 0, &[]));
            settled = true;
        }
        while sent < calls && sent - done < in_flight {
            let block = if sent == 0 { &first[..] } else { &next[..] };
            out.extend(raw::frame(raw::HEADERS, raw::END_HEADERS, id, block));
            out.extend(raw::frame(raw::DATA, raw::END_STREAM, id, body));
            sent += 1;
            id += 2;
        }
        stream.write_all(&out).unwrap();
        let n = match stream.read(&mut buffer) {
            Ok(n @ 1..) => n,
            other => {
                let port = stream.local_addr().unwrap().port();
                return Err(format!("port {port}: {other:?} after {sent} calls and {done} answers"));
            }
        };
        walker.walk(&buffer[..n], |head| {
            if head.kind == raw::HEADERS && head.flags & raw::END_STREAM != 0 {
                done += 1;
            }
            if head.kind == raw::SETTINGS && head.flags == 0 {
                settled = false;
            }
            assert!(head.kind != raw::RST_STREAM && head.kind != raw::GO_AWAY, "{head:?}");
        });
    }
    Ok(())
}

#[expect(clippy::disallowed_types, reason = "a measurement")]
fn measure(name: &str, connections: usize, in_flight: usize, calls: usize, path: &str, body: &[u8]) {
    let server = Server::start(quick());
    let address = server.address;
    let (cpu, start) = (server.cpu_ns(), std::time::Instant::now());
    let stuck: Vec<String> = std::thread::scope(|scope| {
        let each = move || run_client(address, calls / connections, in_flight, path, body);
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(each)).collect();
        clients.into_iter().filter_map(|client| client.join().unwrap().err()).collect()
    });
    assert!(stuck.is_empty(), "{stuck:#?} {:?}", server.counters());
    let elapsed = start.elapsed();
    let cpu = server.cpu_ns() - cpu;
    let counters = server.counters();
    assert_eq!(counters.replies, (calls / connections * connections) as u64);
    println!(
        "{name}: {connections} connections x {in_flight} in flight: {:.0} calls/s, shard CPU {:.2} us/call",
        counters.replies as f64 / elapsed.as_secs_f64(),
        cpu as f64 / 1e3 / counters.replies as f64,
    );
}

#[test]
fn throughput_of_puts_and_gets_with_every_reply_counted() {
    let calls = std::env::var_os("PINION_BENCH_CALLS")
        .map_or(CALLS_DEFAULT, |calls| calls.to_str().unwrap().parse().unwrap());
    let put = put("key-of-32-bytes-00000000000000000", &[b'v'; 256]);
    measure("put", 16, 32, calls, PUT, &put);
    measure("put", 1, 1, calls / 20, PUT, &put);
    measure("get", 16, 32, calls, RANGE, &get("size:256"));
}
