use super::*;

fn renew(id: i64) -> Query {
    Query::LeaseKeepAlive(LeaseId(id))
}

fn look_up(id: i64, keys: bool) -> Query {
    Query::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys })
}

fn id_of(query: &Query) -> i64 {
    match query {
        Query::LeaseKeepAlive(id) => id.0,
        Query::LeaseTimeToLive(request) => request.id,
        _ => unreachable!(),
    }
}

fn asking(questions: impl IntoIterator<Item = (u64, Query)>) -> Asking {
    let mut asking = Asking::default();
    for (ticket, query) in questions {
        asking.ask(Ticket(ticket), query, 10).unwrap();
    }
    asking
}

/// A leader that answers each question with its id in the body.
fn serve(serving: &mut Serving<&'static str>, body: Bytes) -> Bytes {
    let questions: Vec<_> = serving.begin(body, "caller").unwrap().collect();
    let mut sent = None;
    // Not in the order in which they were asked.
    for (number, query) in questions.iter().rev() {
        assert!(sent.is_none(), "answered before the last question was");
        let body = id_of(query).to_string().into_bytes();
        sent = serving.on_answer(*number, Ok(Response { revision: 9, body, resume: None }));
    }
    let (caller, body) = sent.expect("the last answer ends the call");
    assert_eq!(caller, "caller");
    body.expect("this member leads")
}

fn told(answered: Answered) -> Vec<(u64, String)> {
    assert!(answered.refused.is_empty() && answered.rejected.is_empty(), "{answered:?}");
    answered.bodies.into_iter().map(|(ticket, body)| (ticket.0, String::from_utf8(body).unwrap())).collect()
}

#[test]
fn what_arrives_while_the_calls_are_under_way_shares_the_next_one_and_gets_its_own_answer() {
    let mut serving = Serving::new();
    let mut asking = Asking::default();
    let mut calls = Vec::new();
    for ticket in 0..CALLS_MAX as u64 {
        asking.ask(Ticket(ticket), renew(-7), 0).unwrap();
        calls.push(asking.next_call(0).unwrap());
    }
    for ticket in 100..200 {
        asking
            .ask(
                Ticket(ticket),
                if ticket % 2 == 0 { renew(ticket as i64) } else { look_up(ticket as i64, false) },
                0,
            )
            .unwrap();
    }
    assert_eq!(asking.next_call(0), None, "enough are under way");
    let (first, body) = calls.swap_remove(1);
    assert_eq!(told(asking.on_reply(first, Some(serve(&mut serving, body)), 0)), [(1, "-7".to_owned())]);
    let (shared, body) = asking.next_call(0).unwrap();
    assert_eq!(asking.next_call(0), None, "all that waited is in it");
    let expected: Vec<_> = (100..200).map(|ticket: u64| (ticket, ticket.to_string())).collect();
    assert_eq!(told(asking.on_reply(shared, Some(serve(&mut serving, body)), 0)), expected);
    assert!(serving.calls.is_empty());
    assert_eq!(told(asking.on_reply(shared, None, 0)), [], "a call ends once");
}

#[test]
fn a_call_holds_so_many_questions_and_one_for_keys_at_most() {
    let mut asking = asking((0..CALL_QUESTIONS_MAX as u64 + 5).map(|ticket| (ticket, renew(1))));
    asking.ask(Ticket(9_000), look_up(1, true), 10).unwrap();
    asking.ask(Ticket(9_001), look_up(2, true), 10).unwrap();
    let mut sizes = Vec::new();
    while let Some((_, body)) = asking.next_call(10) {
        sizes.push(peer::LeaseQuestions::decode(body).unwrap().questions.len());
    }
    assert_eq!(sizes, [CALL_QUESTIONS_MAX, 6, 1]);
}

#[test]
fn a_failed_call_is_made_again_in_the_next_tick_and_nonsense_is_a_failure() {
    let short = peer::LeaseAnswers { answers: vec![] }.encode_to_vec();
    for reply in [None, Some(Bytes::from_static(&[0xff])), Some(short.into())] {
        let mut asking = asking([(1, renew(5)), (2, renew(6))]);
        let (call, first) = asking.next_call(10).unwrap();
        assert_eq!(told(asking.on_reply(call, reply, 10)), []);
        assert_eq!(asking.next_call(10), None, "not at once");
        let (again, second) = asking.next_call(11).unwrap();
        assert_ne!(call, again);
        assert_eq!(first, second);
    }
}

#[test]
fn a_new_leader_is_asked_everything_the_old_one_did_not_answer_in_the_old_order() {
    let mut serving = Serving::new();
    let mut asking = asking([(1, renew(1)), (2, renew(2))]);
    let (old, body) = asking.next_call(10).unwrap();
    asking.ask(Ticket(3), renew(3), 10).unwrap();
    let (lost, _) = asking.next_call(10).unwrap();
    asking.ask(Ticket(4), renew(4), 10).unwrap();
    asking.on_leadership();
    // The old leader's answer comes after all. It may be one that it had no right to.
    assert_eq!(told(asking.on_reply(old, Some(serve(&mut serving, body)), 10)), []);
    let (call, body) = asking.next_call(10).unwrap();
    assert_eq!(told(asking.on_reply(lost, None, 10)), []);
    let expected: Vec<_> = (1..=4).map(|n: u64| (n, n.to_string())).collect();
    assert_eq!(told(asking.on_reply(call, Some(serve(&mut serving, body)), 10)), expected);
    asking.ask(Ticket(5), renew(5), 10).unwrap();
    let own: Vec<_> = asking.take_waiting().map(|(ticket, query)| (ticket.0, id_of(&query))).collect();
    assert_eq!(own, [(5, 5)]);
}

#[test]
fn what_waits_too_long_is_given_up_and_what_is_too_much_is_refused() {
    let mut asking = asking([(1, renew(1))]);
    let (_under_way, _) = asking.next_call(10).unwrap();
    asking.ask(Ticket(2), renew(2), 10).unwrap();
    asking.ask(Ticket(3), renew(3), 11).unwrap();
    assert_eq!(asking.expire(10), []);
    assert_eq!(asking.expire(11), [Ticket(2)]);
    for ticket in 4..=WAITING_MAX as u64 + 1 {
        asking.ask(Ticket(ticket), renew(1), 11).unwrap();
    }
    assert_eq!(asking.ask(Ticket(0), renew(1), 11), Err(Refusal::TooManyRequests));
}

#[test]
fn a_call_ends_at_once_when_this_member_does_not_lead_and_late_answers_are_nobodys() {
    let mut serving = Serving::new();
    let body = asking((0..3).map(|n| (n, renew(n as i64)))).next_call(10).unwrap().1;
    let first: Vec<u64> = serving.begin(body.clone(), 1).unwrap().map(|(number, _)| number).collect();
    let second: Vec<u64> = serving.begin(body.clone(), 2).unwrap().map(|(number, _)| number).collect();
    let answer = || Ok(Response { revision: 0, body: vec![1], resume: None });
    assert_eq!(serving.on_answer(first[0], answer()), None);
    assert_eq!(serving.on_answer(first[2], Err(Refusal::NotLeader)), Some((1, None)));
    assert_eq!(serving.on_answer(first[1], answer()), None);
    assert_eq!(serving.on_answer(second[0], answer()), None);
    assert_eq!(serving.on_leadership().collect::<Vec<_>>(), [2]);
    assert_eq!(serving.on_answer(second[1], answer()), None);
    let third: Vec<u64> = serving.begin(body, 3).unwrap().map(|(number, _)| number).collect();
    assert!(second[2] < third[0], "numbers are not used twice");
    assert_eq!(serving.on_answer(second[2], answer()), None, "not taken for one of the third call");
}

#[test]
fn too_many_and_too_large_are_told_per_question() {
    let mut serving = Serving::new();
    let mut asking = asking([(1, renew(1)), (2, renew(2)), (3, look_up(3, true))]);
    let (call, body) = asking.next_call(10).unwrap();
    let numbers: Vec<u64> = serving.begin(body, ()).unwrap().map(|(number, _)| number).collect();
    let response = |bytes| Ok(Response { revision: 0, body: vec![7; bytes], resume: None });
    assert_eq!(serving.on_answer(numbers[0], response(1)), None);
    assert_eq!(serving.on_answer(numbers[1], Err(Refusal::TooManyRequests)), None);
    let ((), body) = serving.on_answer(numbers[2], response(BODY_BYTES_MAX + 1)).unwrap();
    let answered = asking.on_reply(call, body, 10);
    assert_eq!(answered.bodies, [(Ticket(1), vec![7])]);
    assert_eq!(answered.refused, [(Ticket(2), Refusal::TooManyRequests)]);
    let (bytes, bytes_max) = (BODY_BYTES_MAX as u64 + 1, BODY_BYTES_MAX as u64);
    assert_eq!(answered.rejected, [(Ticket(3), Rejection::AnswerTooLarge { bytes, bytes_max })]);
}

#[test]
fn calls_that_no_member_would_make_are_refused_and_their_replies_come_back() {
    let question = |kind| peer::LeaseQuestion { id: 1, kind };
    let bodies = [
        vec![0xff],
        vec![],
        peer::LeaseQuestions { questions: vec![question(1), question(4)] }.encode_to_vec(),
        peer::LeaseQuestions { questions: vec![question(1); CALL_QUESTIONS_MAX + 1] }.encode_to_vec(),
    ];
    let mut serving = Serving::new();
    for body in bodies {
        let refused = serving.begin(body.into(), "caller").map(Iterator::count);
        assert_eq!(refused.unwrap_err().0, "caller");
    }
    assert!(serving.calls.is_empty());
}
