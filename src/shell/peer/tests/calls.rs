//! Questions and answers.

use super::*;

#[test]
fn a_call_comes_back_with_its_answer_or_with_what_went_wrong() {
    run(async || {
        let mut caller = config(1, 100);
        caller.call_bytes_max = 2 << 20;
        let mut answerer = config(2, 200);
        answerer.call_bytes_max = 1 << 20;
        let (a, b) = pair_of(caller, answerer).await;
        let b = Rc::new(b);
        let served = Rc::clone(&b);
        glommio::spawn_local(async move {
            let mut kept = Vec::new();
            loop {
                let event = served.event().await;
                let PeerEvent::Call(call) = event else { continue };
                match call.kind {
                    1 => {
                        let mut answer = call.body.to_vec();
                        answer.extend_from_slice(&call.from.0.to_le_bytes());
                        call.reply.succeed(answer.into());
                    }
                    2 => call.reply.fail("not today"),
                    3 => drop(call),
                    4 => kept.push(call),
                    5 => call.reply.succeed(Bytes::from(vec![0; (1 << 20) + 1])),
                    _ => served.transport.stop().await,
                }
            }
        })
        .detach();
        let call = async |kind, body: &'static [u8], timeout| {
            a.transport.call(MemberId(2), kind, Bytes::from_static(body), timeout).await
        };
        assert_eq!(call(1, b"ping", PATIENCE).await.unwrap(), &b"ping\x01\0\0\0\0\0\0\0"[..]);
        assert_eq!(call(2, b"", PATIENCE).await, Err(CallError::Failed("not today".to_owned())));
        assert_eq!(call(3, b"", PATIENCE).await, Err(CallError::Failed("the call was dropped".to_owned())));
        assert_eq!(call(4, b"", Duration::from_millis(30)).await, Err(CallError::TimedOut));
        assert!(matches!(call(5, b"", PATIENCE).await, Err(CallError::Failed(why)) if why.contains("large")));
        let large = Bytes::from(vec![0; (2 << 20) + 1]);
        let answer = a.transport.call(MemberId(2), 1, large, PATIENCE).await;
        assert_eq!(answer, Err(CallError::TooLarge((2 << 20) + 1)));
        let unknown = a.transport.call(MemberId(9), 1, Bytes::new(), PATIENCE).await;
        assert!(matches!(unknown, Err(CallError::Unreachable(_))));
        // A large answer, and many at once, each to its caller.
        let a = Rc::new(a);
        let calls: Vec<_> = (0..100_u32)
            .map(|n| {
                let a = Rc::clone(&a);
                let body = Bytes::from(n.to_le_bytes().repeat(1000));
                glommio::spawn_local(async move {
                    let answer = a.transport.call(MemberId(2), 1, body.clone(), PATIENCE).await.unwrap();
                    assert_eq!(answer[..body.len()], body);
                })
            })
            .collect();
        for call in calls {
            call.await;
        }
        // The other side stops while a call is under way; the next one finds nobody, and at once.
        let ended = a.transport.call(MemberId(2), 6, Bytes::new(), PATIENCE).await;
        assert!(matches!(ended, Err(CallError::Interrupted(_))), "{ended:?}");
        let start = Instant::now();
        let refused = a.transport.call(MemberId(2), 1, Bytes::new(), PATIENCE).await;
        assert!(matches!(refused, Err(CallError::Unreachable(_) | CallError::Refused(_))), "{refused:?}");
        assert!(start.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn more_calls_than_the_bound_are_refused_and_not_queued() {
    run(async || {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let calls: Vec<_> = (0..call::CALLS_MAX + 10)
            .map(|_| {
                let a = Rc::clone(&a);
                glommio::spawn_local(async move {
                    a.transport.call(MemberId(2), 1, Bytes::new(), Duration::from_millis(200)).await
                })
            })
            .collect();
        let mut refused = 0;
        for call in calls {
            refused += usize::from(call.await == Err(CallError::Overloaded));
        }
        assert_eq!(refused, 10);
        // The receiver's own bound does not trust the sender's: it still holds the first calls.
        let late = a.transport.call(MemberId(2), 1, Bytes::new(), PATIENCE).await;
        assert_eq!(late, Err(CallError::Overloaded));
        let mut held = 0;
        while let Some(event) = b.transport.take_event() {
            held += usize::from(matches!(event, PeerEvent::Call(_)));
        }
        assert_eq!(held, call::CALLS_MAX);
    });
}
