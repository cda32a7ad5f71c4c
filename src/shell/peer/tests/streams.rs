//! Bulk streams.

use super::*;

#[test]
fn a_stream_is_resumed_where_it_broke_and_refused_with_a_reason() {
    run(async || {
        let (a, b) = pair().await;
        let state: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 8).to_le_bytes()[0]).collect();
        let state = Bytes::from(state);
        let stream = async |from: &Node| {
            from.until(|event| if let PeerEvent::Bulk(reader) = event { Some(reader) } else { None }).await
        };
        // The sender gives up half way.
        let opening = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 7"));
        let receiving = async {
            let mut reader = stream(&b).await;
            reader.accept(0);
            reader
        };
        let (writer, mut reader) = futures_lite::future::zip(opening, receiving).await;
        let mut writer = writer.unwrap();
        writer.write(state.slice(..1_000_000)).await.unwrap();
        drop(writer);
        let mut held = Vec::new();
        let error = loop {
            match reader.next().await {
                Ok(Some((_, bytes))) => held.extend_from_slice(&bytes),
                Ok(None) => panic!("the stream was not complete"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("the sender gave up"), "{error}");
        assert_eq!(held, state[..held.len()]);
        assert_eq!(held.len(), 1_000_000, "what was written before arrived");
        drop(reader);
        // The receiver says from where on.
        let sending = async {
            let mut writer = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 7")).await.unwrap();
            assert_eq!(writer.offset(), 1_000_000);
            let rest = state.slice(usize::try_from(writer.offset()).unwrap()..);
            writer.write(rest).await.unwrap();
            writer.finish(PATIENCE).await.unwrap();
        };
        let receiving = async {
            let mut reader = stream(&b).await;
            reader.accept(held.len() as u64);
            while let Some((offset, bytes)) = reader.next().await.unwrap() {
                assert_eq!(offset, held.len() as u64);
                held.extend_from_slice(&bytes);
            }
            reader.finish();
            assert_eq!(held, state);
        };
        futures_lite::future::zip(sending, receiving).await;
        // A receiver that does not want it.
        let opening = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 8"));
        let refusing = async { stream(&b).await.refuse("no space left") };
        let (writer, ()) = futures_lite::future::zip(opening, refusing).await;
        assert!(matches!(writer.unwrap_err(), BulkError::Refused(why) if why.reason == "no space left"));
        // Or that loses interest while it is under way.
        let opening = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 9"));
        let receiving = async {
            let mut reader = stream(&b).await;
            reader.accept(0);
            reader.next().await.unwrap();
        };
        let sending = async {
            let mut writer = opening.await.unwrap();
            loop {
                if let Err(error) = writer.write(state.clone()).await {
                    break error;
                }
            }
        };
        let (error, ()) = futures_lite::future::zip(sending, receiving).await;
        assert!(matches!(&error, BulkError::Refused(why) if why.reason == "the receiver gave up"), "{error}");
    });
}

#[test]
fn a_stream_with_a_gap_or_a_wrong_length_is_never_complete() {
    run(async || {
        let b = Node::start(config(2, 200));
        let chunk = |bytes: &mut BytesMut, offset: u64, data: &[u8]| {
            put_frame(bytes, FrameKind::BulkChunk, |bytes| {
                bytes.extend_from_slice(&offset.to_le_bytes());
                bytes.extend_from_slice(data);
            });
        };
        let mut streams = Vec::new();
        for (second, length, reason) in [
            (Some(4), None, "a chunk at offset 4, not at 3"),
            (Some(2), None, "a chunk at offset 2, not at 3"),
            (Some(3), Some(7), "a stream of 7 bytes ends at 6"),
            (None, Some(0), "a stream of 0 bytes ends at 3"),
        ] {
            let mut bytes = BytesMut::new();
            put_message(&mut bytes, FrameKind::BulkBegin, &pb::BulkBegin::default());
            chunk(&mut bytes, 0, b"abc");
            if let Some(offset) = second {
                chunk(&mut bytes, offset, b"def");
            }
            if let Some(length) = length {
                put_message(&mut bytes, FrameKind::BulkEnd, &pb::BulkEnd { length });
            }
            streams.push((bytes, reason));
        }
        for (bytes, reason) in streams {
            let mut puppet = Puppet::member(b.address, 1, 2, Lane::Bulk).await;
            puppet.write(&bytes).await;
            let mut reader =
                b.until(|event| if let PeerEvent::Bulk(reader) = event { Some(reader) } else { None }).await;
            reader.accept(0);
            let error = loop {
                match reader.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("complete, but {reason}"),
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains(reason), "{error}");
            drop(reader);
            assert_eq!(puppet.frame().await.unwrap().kind, FrameKind::BulkAccept);
            assert_eq!(puppet.goodbye().await.reason, reason);
        }
    });
}

/// A member that nobody can dial, and one that it has dialed.
async fn hidden_and_met() -> (Node, Node) {
    let b = Node::start(config(2, 200));
    let dead = Url::parse("http://127.0.0.1:1").unwrap();
    b.transport.set_peers([(MemberId(3), vec![dead.clone()])]);
    let mut hidden = config(3, 300);
    hidden.peer_urls = vec![dead];
    let hidden = Node::start(hidden);
    hidden.peers(&[&b]);
    hidden.up(2).await;
    let peer = b.transport.peer(MemberId(3)).unwrap();
    while b.transport.way_to(&peer, Lane::Call).is_none() {
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    (hidden, b)
}

#[test]
fn a_stream_to_a_member_that_nobody_can_dial_goes_over_a_connection_that_it_opens() {
    run(async || {
        let (hidden, b) = hidden_and_met().await;
        let state = Bytes::from(vec![7; 3_000_000]);
        for header in ["at 7", "at 8"] {
            let sending = async {
                let mut writer =
                    b.transport.open_bulk(MemberId(3), Bytes::from_static(header.as_bytes())).await.unwrap();
                writer.write(state.clone()).await.unwrap();
                writer.finish(PATIENCE).await.unwrap();
            };
            let receiving = async {
                let mut reader = hidden
                    .until(|event| if let PeerEvent::Bulk(reader) = event { Some(reader) } else { None })
                    .await;
                assert_eq!((reader.from, &reader.header[..]), (MemberId(2), header.as_bytes()));
                reader.accept(0);
                let mut held = Vec::new();
                while let Some((_, bytes)) = reader.next().await.unwrap() {
                    held.extend_from_slice(&bytes);
                }
                reader.finish();
                assert!(held == state, "{} bytes", held.len());
            };
            futures_lite::future::zip(sending, receiving).await;
        }
        assert!(b.transport.wanted.borrow().is_empty(), "nothing is left of the names");
        let peer = hidden.transport.peer(MemberId(2)).unwrap();
        while peer.fetching.get() != 0 {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_connection_for_a_stream_that_nobody_sends_is_refused_and_a_member_opens_few_of_them() {
    run(async || {
        let (hidden, b) = hidden_and_met().await;
        let mut puppet = Puppet::dial(b.address).await;
        puppet.hello_with(3, 2, Lane::Bulk, |hello| (hello.stream, hello.incarnation) = (99, 300)).await;
        assert_eq!(puppet.goodbye().await.reason, "no stream waits for this connection");
        // Names that nobody waits under: each is dialed for, and refused there.
        let ask = async |stream: u64| {
            let body = pb::OpenStream { stream }.encode_to_vec().into();
            let asked = b.transport.call(MemberId(3), super::super::call::CALL_OPEN_STREAM, body, PATIENCE);
            asked.await.unwrap_err().to_string()
        };
        assert_eq!(ask(0).await, "a stream without a name");
        assert!(ask(5).await.contains("no stream waits for this connection"));
        let (one, (two, three)) =
            futures_lite::future::zip(ask(6), futures_lite::future::zip(ask(7), ask(8))).await;
        let refused = [one, two, three];
        let full = refused.iter().filter(|reason| reason.contains("too many streams"));
        assert_eq!(full.count(), 1, "{refused:?}");
        while let Some(event) = hidden.transport.take_event() {
            assert!(!matches!(event, PeerEvent::Bulk(_)), "{event:?}");
        }
    });
}

#[test]
fn a_member_that_cannot_open_the_connection_says_why() {
    run(async || {
        let (hidden, b) = hidden_and_met().await;
        // It does not find the way back any more, and what is open stays.
        hidden.transport.set_peers([(MemberId(2), vec![Url::parse("http://127.0.0.1:1").unwrap()])]);
        let error = b.transport.open_bulk(MemberId(3), Bytes::new()).await.unwrap_err().to_string();
        assert!(error.contains("asked to dial this member for it: 127.0.0.1:1"), "{error}");
    });
}
