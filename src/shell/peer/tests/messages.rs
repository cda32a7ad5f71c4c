//! Messages on their lanes: order, bounds, and who waits for whom.

use super::*;

#[test]
fn messages_arrive_once_and_in_order_within_their_lane() {
    run(async || {
        let (a, b) = pair().await;
        for index in 1..=500 {
            a.transport.send(&append(1, 2, index, 1000));
            a.transport.send(&heartbeat(1, 2));
        }
        let (mut next, mut heartbeats) = (1, 0);
        while next <= 500 || heartbeats < 500 {
            let message = b.message().await;
            match message.kind() {
                MessageKind::Append => {
                    assert_eq!(message, append(1, 2, next, 1000));
                    next += 1;
                }
                _ => heartbeats += 1,
            }
        }
        assert!(a.transport.connected_since(MemberId(2)).is_some());
        assert!(!b.transport.has_event(), "nothing came twice");
    });
}

#[test]
fn heartbeats_pass_a_stream_that_is_stuck_and_appends_that_are_not_taken() {
    run(async || {
        let mut small = config(2, 200);
        small.inbound_bytes_max = 1 << 20;
        let mut sender = config(1, 100);
        sender.queue_bytes_max = 8 << 20;
        let (a, b) = pair_of(sender, small).await;
        // A stream of 64 MiB that its receiver does not read yet.
        let transport = Rc::clone(&a.transport);
        let stream = glommio::spawn_local(async move {
            let mut stream = transport.open_bulk(MemberId(2), Bytes::from_static(b"state")).await.unwrap();
            for piece in 0..64_u8 {
                stream.write(Bytes::from(vec![piece; 1 << 20])).await.unwrap();
            }
            stream.finish(PATIENCE).await
        });
        let mut reader =
            b.until(|event| if let PeerEvent::Bulk(reader) = event { Some(reader) } else { None }).await;
        assert_eq!((reader.from, &reader.header[..]), (MemberId(1), &b"state"[..]));
        reader.accept(0);
        // Appends fill everything between the two until one is dropped, which is the next news.
        while a.transport.take_event().is_some() {}
        let mut sent = 0;
        let mut queued_max = 0;
        while !a.transport.has_event() {
            sent += 1;
            a.transport.send(&append(1, 2, sent, 1 << 20));
            glommio::timer::sleep(Duration::from_millis(1)).await;
            let peer = a.transport.peer(MemberId(2)).unwrap();
            queued_max = queued_max.max(peer.link(Lane::Append).connection().unwrap().queued_bytes());
        }
        assert!(matches!(a.event().await, PeerEvent::Unreachable(MemberId(2))));
        assert!(queued_max <= 8 << 20, "{queued_max} bytes wait on the sender");
        assert!(sent < 64, "{sent} MiB went nowhere");
        let waiting = b.transport.events.bulky_bytes();
        assert!(waiting <= 3 << 20, "{waiting} bytes wait on the receiver");
        // Heartbeats get through all the same, in no time.
        let start = Instant::now();
        for _beat in 0..100 {
            a.transport.send(&heartbeat(1, 2));
            loop {
                if b.message().await.kind() == MessageKind::Heartbeat {
                    break;
                }
            }
        }
        println!("heartbeat beside a stuck stream: {:?}", start.elapsed() / 100);
        let mut length = 0;
        while let Some((offset, bytes)) = reader.next().await.unwrap() {
            assert_eq!(offset, length);
            for (at, byte) in (offset..).zip(&bytes[..]) {
                assert_eq!(u64::from(*byte), at >> 20);
            }
            length += bytes.len() as u64;
        }
        reader.finish();
        assert_eq!(length, 64 << 20);
        assert_eq!(stream.await, Ok(()));
    });
}

#[test]
fn the_newest_connection_of_a_lane_wins_and_no_message_comes_twice() {
    run(async || {
        let b = Node::start(config(2, 200));
        let mut first = Puppet::member(b.address, 1, 2, Lane::Append).await;
        first.send(&append(1, 2, 1, 10)).await;
        assert_eq!(b.message().await, append(1, 2, 1, 10));
        let mut second = Puppet::member(b.address, 1, 2, Lane::Append).await;
        assert_eq!(first.goodbye().await.code, RefusalCode::Replaced);
        second.send(&append(1, 2, 2, 10)).await;
        assert_eq!(b.message().await, append(1, 2, 2, 10));
        drop(first);
        second.send(&append(1, 2, 3, 10)).await;
        assert_eq!(b.message().await, append(1, 2, 3, 10));
        assert!(!b.transport.has_event());
    });
}

#[test]
fn a_peer_that_reads_nothing_costs_a_bounded_queue_and_is_given_up() {
    run(async || {
        let listener = TcpListener::bind(local()).unwrap();
        let mut a = config(1, 100);
        a.patience = Duration::from_millis(300);
        a.queue_bytes_max = 2 << 20;
        let a = Node::start(a);
        a.transport.set_peers([(MemberId(2), vec![url(listener.local_addr().unwrap())])]);
        // Accepts every connection, reads the Hello, and then nothing: a process that is frozen.
        let frozen = Rc::new(RefCell::new(Vec::new()));
        let kept = Rc::clone(&frozen);
        let accepting = glommio::spawn_local(async move {
            loop {
                let mut puppet = Puppet::over(listener.accept().await.unwrap());
                assert_eq!(puppet.frame().await.unwrap().kind, FrameKind::Hello);
                let mut bytes = BytesMut::from(&PREFACE[..]);
                let welcome =
                    pb::Welcome { version: 1, cluster_id: CLUSTER.0, member: 2, ..Default::default() };
                put_message(&mut bytes, FrameKind::Welcome, &welcome);
                puppet.write(&bytes).await;
                kept.borrow_mut().push(puppet);
            }
        });
        a.up(2).await;
        let beat = message(MessageKind::Heartbeat, 1, 2, 0, b"");
        let link = Rc::clone(a.transport.peer(MemberId(2)).unwrap().link(Lane::Control));
        while let Some(connection) = link.connection() {
            for _beat in 0..10_000 {
                a.transport.send(&beat);
            }
            assert!(connection.queued_bytes() <= (2 << 20) + 1024);
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
        assert!(!a.down(2).await, "silence is no proof of an end");
        accepting.cancel().await;
    });
}

#[test]
fn a_goodbye_gets_through_while_messages_keep_coming() {
    run(async || {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let busy = Rc::clone(&a);
        let sending = glommio::spawn_local(async move {
            for index in 1.. {
                busy.transport.send(&heartbeat(1, 2));
                busy.transport.send(&append(1, 2, index, 100_000));
                glommio::timer::sleep(Duration::from_micros(100)).await;
            }
        });
        for _message in 0..20 {
            b.message().await;
        }
        b.transport.stop().await;
        assert!(!a.down(2).await, "a stop is no reset");
        sending.cancel().await;
    });
}

#[test]
fn speed_of_small_and_large_messages_is_printed() {
    run(async || {
        let (a, b) = pair().await;
        let b = Rc::new(b);
        let echo = Rc::clone(&b);
        let echoing = glommio::spawn_local(async move {
            loop {
                let message = echo.message().await;
                let index = message.encoded_bytes() as u64;
                echo.transport.send(&append(2, 1, index, 1024));
            }
        });
        const ROUNDS: u32 = 500;
        let start = Instant::now();
        for round in 0..ROUNDS {
            a.transport.send(&append(1, 2, u64::from(round) + 1, 1024));
            a.message().await;
        }
        println!("1 KiB append there and back, one executor: {:?}", start.elapsed() / ROUNDS);
        echoing.cancel().await;
        const APPENDS: u64 = 64;
        let large = append(1, 2, 1, 1 << 20);
        let start = Instant::now();
        let mut taken = 0;
        for _append in 0..APPENDS {
            let peer = a.transport.peer(MemberId(2)).unwrap();
            peer.link(Lane::Append).connection().unwrap().room(8 << 20).await;
            a.transport.send(&large);
            while let Some(PeerEvent::Message(_)) = b.transport.take_event() {
                taken += 1;
            }
        }
        while taken < APPENDS {
            b.message().await;
            taken += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("1 MiB appends, both ends on one executor: {:.0} MiB/s", APPENDS as f64 / seconds);
    });
}
