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
