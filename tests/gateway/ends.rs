//! How connections end: by halves, in the middle, by nobody who reads.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use pinion_kit::{WorkDir, free_port, until};

use crate::process::{Echo, Gateway, PATIENCE, flags, hears, is_closed, listen, spawn};

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on_both_ways() {
    let work = WorkDir::new();
    let port = free_port();
    let listener = listen(port);
    let gateway = Gateway::start(&work, &flags(&[format!("127.0.0.1:{port}")]));
    // The client ends first, and is answered then.
    let mut client = gateway.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut asked = String::new();
    server.read_to_string(&mut asked).unwrap();
    assert_eq!(asked, "question");
    server.write_all(b"answer").unwrap();
    drop(server);
    hears(&mut client, "answer");
    assert!(is_closed(&mut client));
    // The server ends first, and goes on listening.
    let mut client = gateway.connect();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.write_all(b"last words").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut told = String::new();
    client.read_to_string(&mut told).unwrap();
    assert_eq!(told, "last words");
    client.write_all(b"still here").unwrap();
    hears(&mut server, "still here");
    drop(client);
    assert!(is_closed(&mut server));
}

#[test]
fn an_endpoint_that_closes_in_the_middle_ends_its_connection_and_no_other() {
    let work = WorkDir::new();
    let port = free_port();
    let listener = listen(port);
    let echo = Echo::start("e");
    let gateway = Gateway::start(&work, &flags(&[format!("127.0.0.1:{port}"), echo.endpoint()]));
    let mut first = gateway.connect();
    let (mut server, _) = listener.accept().unwrap();
    let mut second = gateway.connect();
    hears(&mut second, "e");
    server.write_all(b"half an ans").unwrap();
    hears(&mut first, "half an ans");
    // With bytes unread, a close is a reset.
    first.write_all(b"never read").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.peek(&mut [0; 1]).unwrap();
    drop(server);
    assert!(is_closed(&mut first));
    second.write_all(b"still here").unwrap();
    hears(&mut second, "still here");
    // One that leaves takes its connection to the endpoint along.
    let mut third = gateway.connect();
    let (mut server, _) = listener.accept().unwrap();
    third.write_all(b"bye").unwrap();
    drop(third);
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    hears(&mut server, "bye");
    assert!(is_closed(&mut server));
}

/// Numbers that differ everywhere, so that nothing can be lost, doubled or out of order.
fn bytes_at(start: usize, length: usize) -> Vec<u8> {
    (start..start + length)
        .map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 13 & 0xff).unwrap())
        .collect()
}

#[test]
fn bytes_arrive_as_they_were_sent_in_both_directions_at_once() {
    const PIECE: usize = 100_000;
    const PIECES: usize = 300;
    let work = WorkDir::new();
    let echo = Echo::start("");
    let gateway = Gateway::start(&work, &flags(&[echo.endpoint()]));
    let connections: Vec<_> = (0..4)
        .map(|_| {
            let mut client = gateway.connect();
            let mut sending = client.try_clone().unwrap();
            spawn(move || {
                let sender = spawn(move || {
                    for piece in 0..PIECES {
                        sending.write_all(&bytes_at(piece * PIECE, PIECE)).unwrap();
                    }
                    sending.shutdown(Shutdown::Write).unwrap();
                });
                let mut told = vec![0; PIECE];
                for piece in 0..PIECES {
                    client.read_exact(&mut told).unwrap();
                    assert!(told == bytes_at(piece * PIECE, PIECE), "piece {piece}");
                }
                assert!(is_closed(&mut client));
                sender.join().unwrap();
            })
        })
        .collect();
    for connection in connections {
        connection.join().unwrap();
    }
}

/// Clients that read nothing of what an endpoint sends without end.
#[test]
fn whoever_does_not_read_costs_bounded_memory_and_harms_nobody() {
    pinion_kit::block_on(pinion_kit::TEST_DEADLINE, async {
        const CLIENTS: usize = 100;
        let work = WorkDir::new();
        let port = free_port();
        let listener = listen(port);
        let gateway = Gateway::start(&work, &flags(&[format!("127.0.0.1:{port}")]));
        let before = gateway.memory();
        let mut held = Vec::new();
        for _ in 0..CLIENTS {
            let client = gateway.connect();
            let (server, _) = listener.accept().unwrap();
            server.set_nonblocking(true).unwrap();
            held.push((client, server));
        }
        let piece = vec![7; 1 << 20];
        // Each is sent to until nothing is taken any more.
        let mut sent = 0;
        let mut idle = 0;
        until(PATIENCE, async || {
            let mut now = 0;
            for (_, server) in &mut held {
                while let Ok(written) = server.write(&piece) {
                    now += written;
                }
            }
            sent += now;
            idle = if now == 0 { idle + 1 } else { 0 };
            5 < idle
        })
        .await;
        let grown = gateway.memory().saturating_sub(before);
        println!("{sent} bytes sent to {CLIENTS} clients; the gateway holds {grown} more");
        assert!(grown < (CLIENTS as u64 + 50) * (64 << 10) * 2, "{grown} bytes");
        // Another one is served meanwhile.
        let mut client = gateway.connect();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"hello").unwrap();
        hears(&mut client, "hello");
        // Whoever begins to read gets all of it.
        let (mut client, server) = held.remove(0);
        drop(server);
        let mut told = vec![0; 1 << 20];
        let mut read = 0;
        loop {
            match client.read(&mut told) {
                Ok(0) => break,
                Ok(n) => {
                    assert!(told[..n].iter().all(|byte| *byte == 7));
                    read += n;
                }
                Err(error) => panic!("{error} after {read} bytes"),
            }
        }
        assert!(0 < read);
    });
}
