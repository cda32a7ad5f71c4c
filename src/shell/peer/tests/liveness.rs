//! What a member hears of another's coming and going.

use super::*;

#[test]
fn a_process_that_dies_is_news_and_one_that_stops_is_none() {
    // The other member lives on a thread of its own, whose sockets the kernel closes with it.
    let (address_out, address) = mpsc::channel();
    let (die, dead) = mpsc::channel::<()>();
    let (gone_out, gone) = mpsc::channel();
    let other = move || {
        run(async move || {
            let b = Node::start(config(2, 200));
            address_out.send(b.address).unwrap();
            while dead.try_recv().is_err() {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            // No goodbye: as a process that is killed.
            for (_, connection) in b.transport.open.borrow().values() {
                connection.close(connection::End::Lost("killed".to_owned()));
            }
            // What ends with a process and does not end with an executor: the listener.
            b.transport.stop.set(true);
            b.transport.at_stop.ring();
            glommio::timer::sleep(Duration::from_millis(20)).await;
        });
        gone_out.send(()).unwrap();
    };
    let thread = std::thread::Builder::new().spawn(other).unwrap();
    let address = address.recv_timeout(PATIENCE).unwrap();
    run(async move || {
        let a = Node::start(config(1, 100));
        a.transport.set_peers([(MemberId(2), vec![url(address)])]);
        a.up(2).await;
        die.send(()).unwrap();
        let killed = Instant::now();
        assert!(a.down(2).await, "a connection that is cut without a word is a reset");
        println!("death noticed after at most {:?}", killed.elapsed());
        assert_eq!(a.transport.connected_since(MemberId(2)), None);
        while gone.try_recv().is_err() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        a.transport.send(&heartbeat(1, 2));
        a.until(|event| matches!(event, PeerEvent::Unreachable(MemberId(2))).then_some(())).await;

        // It starts again at its address, dials, and is dialed back at once.
        let b = Node::start_at(config(2, 201), address);
        b.peers(&[&a]);
        let started = Instant::now();
        a.up(2).await;
        println!("up again after {:?}", started.elapsed());
        a.transport.send(&append(1, 2, 5, 10));
        assert_eq!(b.message().await, append(1, 2, 5, 10));
        b.transport.stop().await;
        assert!(!a.down(2).await, "it said goodbye");
    });
    thread.join().unwrap();
}

#[test]
fn a_new_connection_for_appends_is_told_since_the_last_one_may_have_lost_some() {
    run(async || {
        let (a, _b) = pair().await;
        while a.transport.take_event().is_some() {}
        let ours = a.transport.peer(MemberId(2)).unwrap().link(Lane::Append).connection().unwrap();
        ours.close(connection::End::Local(Refusal::new(RefusalCode::Unknown, "torn")));
        assert!(matches!(a.event().await, PeerEvent::Reconnected(MemberId(2))));
    });
}

#[test]
fn a_control_connection_that_breaks_in_either_direction_is_told_and_comes_back() {
    run(async || {
        let (a, b) = pair().await;
        let ours = a.transport.peer(MemberId(2)).unwrap().link(Lane::Control).connection().unwrap();
        ours.close(connection::End::Local(Refusal::new(RefusalCode::Unknown, "torn")));
        assert!(b.down(1).await, "it was theirs to us, and ended without a word");
        b.up(1).await;
        let same = a.until(|event| match event {
            PeerEvent::Up(member) => Some(Ok(member)),
            PeerEvent::Down { member, .. } => Some(Err(member)),
            _ => None,
        });
        assert_eq!(same.await, Ok(MemberId(2)), "who tore it has no news to tell");
        a.transport.send(&heartbeat(1, 2));
        assert_eq!(b.message().await, heartbeat(1, 2));
        b.transport.send(&heartbeat(2, 1));
        assert_eq!(a.message().await, heartbeat(2, 1));
    });
}

#[test]
fn a_member_that_only_dials_us_is_missed_when_its_process_ends() {
    run(async || {
        let b = Node::start(config(2, 200));
        b.transport.set_peers([(MemberId(1), vec![Url::parse("http://127.0.0.1:1").unwrap()])]);
        let mut puppet = Puppet::member(b.address, 1, 2, Lane::Control).await;
        puppet.send(&heartbeat(1, 2)).await;
        assert_eq!(b.message().await, heartbeat(1, 2));
        puppet.stream.shutdown(std::net::Shutdown::Both).await.unwrap();
        assert!(b.down(1).await);
        // One that leaves for a new connection is not.
        let mut puppet = Puppet::member(b.address, 1, 2, Lane::Control).await;
        let mut bytes = BytesMut::new();
        let replaced = Refusal::new(RefusalCode::Replaced, "a new one comes");
        put_message(&mut bytes, FrameKind::Goodbye, &replaced.to_wire());
        puppet.write(&bytes).await;
        assert_eq!(puppet.frame().await, None);
        while let Some(event) = b.transport.take_event() {
            assert!(!matches!(event, PeerEvent::Down { .. }), "{event:?}");
        }
    });
}

#[test]
fn a_member_that_the_list_does_not_know_yet_is_dialed_back() {
    run(async || {
        let b = Node::start(config(2, 200));
        let listener = std::net::TcpListener::bind(local()).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut new = config(3, 300);
        new.peer_urls = vec![Url::parse(&format!("http://localhost:{}", address.port())).unwrap()];
        let new = Node::start_at(new, address);
        new.peers(&[&b]);
        new.up(2).await;
        b.up(3).await;
        b.transport.send(&heartbeat(2, 3));
        assert_eq!(new.message().await, heartbeat(2, 3));
        // A list without it leaves it alone; when it goes, it is forgotten.
        b.transport.set_peers([]);
        b.transport.send(&heartbeat(2, 3));
        assert_eq!(new.message().await, heartbeat(2, 3));
        new.transport.stop().await;
        b.down(3).await;
        while b.transport.peer(MemberId(3)).is_some() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_member_that_nobody_can_dial_is_reached_over_the_connections_that_it_opens() {
    run(async || {
        let b = Node::start(config(2, 200));
        let dead = Url::parse("http://127.0.0.1:1").unwrap();
        b.transport.set_peers([(MemberId(3), vec![dead.clone()])]);
        b.until(|event| matches!(event, PeerEvent::Unreachable(MemberId(3))).then_some(())).await;
        let mut hidden = config(3, 300);
        hidden.peer_urls = vec![dead];
        let hidden = Node::start(hidden);
        hidden.peers(&[&b]);
        hidden.up(2).await;
        b.until(|event| matches!(event, PeerEvent::Up(MemberId(3))).then_some(())).await;
        assert!(b.transport.connected_since(MemberId(3)).is_some());
        let peer = b.transport.peer(MemberId(3)).unwrap();
        while b.transport.way_to(&peer, Lane::Call).is_none() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        for _round in 0..3 {
            assert!(b.transport.send(&heartbeat(2, 3)));
            assert_eq!(hidden.message().await, heartbeat(2, 3));
            assert!(hidden.transport.send(&heartbeat(3, 2)));
            assert_eq!(b.message().await, heartbeat(3, 2));
        }
        // Questions in both directions.
        for (from, to) in [(&b, &hidden), (&hidden, &b)] {
            let (transport, member) = (Rc::clone(&from.transport), to.id());
            let answer = glommio::spawn_local(async move {
                transport.call(member, 7, Bytes::from_static(b"who?"), PATIENCE).await
            });
            to.until(|event| match event {
                PeerEvent::Call(call) => {
                    assert_eq!((call.kind, &call.body[..]), (7, &b"who?"[..]));
                    call.reply.succeed(Bytes::from_static(b"me"));
                    Some(())
                }
                _ => None,
            })
            .await;
            assert_eq!(answer.await, Ok(Bytes::from_static(b"me")));
        }
        // Not unreachable: its silence would hold up replication.
        glommio::timer::sleep(Duration::from_millis(50)).await;
        while let Some(event) = b.transport.take_event() {
            assert!(!matches!(event, PeerEvent::Unreachable(_)), "{event:?}");
        }
        hidden.transport.stop().await;
        b.down(3).await;
        assert!(b.transport.connected_since(MemberId(3)).is_none());
    });
}

#[test]
fn a_member_that_has_moved_is_dialed_where_it_says_that_it_is() {
    run(async || {
        let b = Node::start(config(2, 200));
        let dead = Url::parse("http://127.0.0.1:1").unwrap();
        b.transport.set_peers([(MemberId(3), vec![dead.clone()])]);
        b.until(|event| matches!(event, PeerEvent::Unreachable(MemberId(3))).then_some(())).await;
        let free = std::net::TcpListener::bind(local()).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut moved = config(3, 300);
        moved.peer_urls = vec![dead, url(address)];
        let moved = Node::start_at(moved, address);
        moved.peers(&[&b]);
        moved.up(2).await;
        b.up(3).await;
        b.transport.send(&heartbeat(2, 3));
        assert_eq!(moved.message().await, heartbeat(2, 3));
    });
}

/// The two know of each other where nobody is any more; the third has heard from both.
#[test]
fn two_members_that_have_moved_hear_of_each_other_from_the_one_that_stayed() {
    run(async || {
        let dead = Url::parse("http://127.0.0.1:1").unwrap();
        let stayed = Node::start(config(1, 100));
        stayed.transport.set_peers([2, 3].map(|member| (MemberId(member), vec![dead.clone()])));
        let moved = async |member: u64, other: u64| {
            let free = std::net::TcpListener::bind(local()).unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut config = config(member, member * 100);
            config.peer_urls = vec![url(address)];
            let moved = Node::start_at(config, address);
            let peers = [(stayed.id(), vec![url(stayed.address)]), (MemberId(other), vec![dead.clone()])];
            moved.transport.set_peers(peers);
            moved.up(1).await;
            stayed.up(member).await;
            moved
        };
        let first = moved(2, 3).await;
        let second = moved(3, 2).await;
        second.up(2).await;
        first.up(3).await;
        first.transport.send(&heartbeat(2, 3));
        assert_eq!(second.message().await, heartbeat(2, 3));
        // The word of the member itself takes the place of what others say.
        let known = first.transport.peer(MemberId(3)).unwrap().candidates();
        assert_eq!(known, [dead.clone(), url(second.address)]);
        // Nobody passes on what is listed, or what was only heard.
        first.transport.set_peers([(MemberId(1), vec![url(stayed.address)]), (MemberId(3), known)]);
        for (node, member) in [(&first, 3), (&second, 1)] {
            assert_eq!(node.transport.peer(MemberId(member)).unwrap().moved(), None);
        }
    });
}

#[test]
fn a_peer_that_leaves_the_list_is_left_and_its_address_may_change() {
    run(async || {
        let (a, b) = pair().await;
        a.transport.set_peers([]);
        assert_eq!(a.transport.connected_since(MemberId(2)), None);
        a.peers(&[&b]);
        a.up(2).await;
        let dead = Url::parse("http://127.0.0.1:1").unwrap();
        a.transport.set_peers([(MemberId(2), vec![dead.clone()])]);
        assert!(a.transport.connected_since(MemberId(2)).is_some(), "what works is kept");
        let c = Node::start(config(3, 300));
        c.transport.set_peers([(MemberId(2), vec![dead])]);
        c.until(|event| matches!(event, PeerEvent::Unreachable(MemberId(2))).then_some(())).await;
        c.peers(&[&b]);
        c.up(2).await;
    });
}

#[test]
fn connections_that_cross_are_all_kept_and_no_message_comes_twice_or_out_of_order() {
    run(async || {
        for round in 0..10 {
            let (a, b) = (Node::start(config(1, 100 + round)), Node::start(config(2, 200 + round)));
            // Both dial before either has heard of the other.
            a.peers(&[&b]);
            b.peers(&[&a]);
            let both = future::zip(a.up(2), b.up(1));
            both.await;
            for index in 1..=100 {
                assert!(a.transport.send(&append(1, 2, index, 10)));
                assert!(b.transport.send(&append(2, 1, index, 10)));
            }
            for index in 1..=100 {
                assert_eq!(b.message().await, append(1, 2, index, 10));
                assert_eq!(a.message().await, append(2, 1, index, 10));
            }
            for (node, other) in [(&a, 2), (&b, 1)] {
                let peer = node.transport.peer(MemberId(other)).unwrap();
                for lane in [Lane::Control, Lane::Append, Lane::Call] {
                    assert!(peer.link(lane).connection().is_some_and(|connection| connection.is_open()));
                }
                let visitors = node.transport.visitors.borrow();
                assert!(visitors[&MemberId(other)].way_back(Lane::Append).is_some(), "the other's own");
            }
            future::zip(a.transport.stop(), b.transport.stop()).await;
        }
    });
}
