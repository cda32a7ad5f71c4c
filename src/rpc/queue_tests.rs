use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::model::Model;
use super::*;
use crate::pb::mvccpb::event::EventType;

const TERM: Term = Term(4);
const REQUEST_BYTES_MAX: u32 = 1 << 20;

fn model(leases: &[i64]) -> Model {
    Model { leases: leases.iter().map(|&id| (id, 60)).collect(), ..Model::default() }
}

fn contender(purpose: Purpose, lease: i64, value: &str) -> Contender {
    Contender::new(purpose, b"n", LeaseId(lease), Bytes::copy_from_slice(value.as_bytes()))
}

/// Carries a step's command out.
fn answer(model: &mut Model, contender: &mut Contender, step: &Step) -> Result<Step, Status> {
    let Step::Ask(command) = step else { panic!("nothing to ask: {step:?}") };
    match model.carry_out(command) {
        Ok(response) => contender.on_answer(TERM, &response),
        Err(rejection) => Err(Status::from(&rejection)),
    }
}

/// Goes on until there is nothing to ask.
fn run(model: &mut Model, contender: &mut Contender, mut step: Step) -> Result<Step, Status> {
    while matches!(step, Step::Ask(_)) {
        step = answer(model, contender, &step)?;
    }
    Ok(step)
}

fn enter(model: &mut Model, contender: &mut Contender) -> Result<Step, Status> {
    let step = contender.enter(REQUEST_BYTES_MAX)?;
    run(model, contender, step)
}

#[track_caller]
fn acquired(step: Result<Step, Status>) -> i64 {
    match step {
        Ok(Step::Acquired(standing)) => standing.revision,
        other => panic!("not acquired: {other:?}"),
    }
}

#[track_caller]
fn waits(step: Result<Step, Status>) -> (Bytes, i64) {
    match step {
        Ok(Step::AwaitDelete { key, from }) => (key, from),
        other => panic!("does not wait: {other:?}"),
    }
}

fn revoke(model: &mut Model, lease: i64) {
    let body = pb::LeaseRevokeRequest { id: lease }.encode_to_vec().into();
    model.carry_out(&Command::Propose { kind: RequestKind::LeaseRevoke, body, login: None }).unwrap();
}

#[test]
fn keys_are_the_name_and_the_lease_in_hex_as_go_prints_it() {
    let key = |name: &[u8], lease| Contender::new(Purpose::Lock, name, LeaseId(lease), Bytes::new()).key;
    assert_eq!(key(b"n", 0xbeef), "n/beef");
    assert_eq!(key(b"n", -31), "n/-1f", "as 3.4.23 names it");
    assert_eq!(key(b"", i64::MIN), "/-8000000000000000");
    assert_eq!(keys_of(b"\xff"), (Bytes::from_static(b"\xff/"), Bytes::from_static(b"\xff0")));
}

#[test]
fn free_name_is_acquired_by_the_transaction_that_enters() {
    let mut model = model(&[1]);
    let mut first = contender(Purpose::Lock, 1, "");
    assert_eq!(acquired(enter(&mut model, &mut first)), 2);
    assert_eq!(first.create_revision(), 2);
    assert_eq!(model.keys[&b"n/1"[..]].lease, 1);
}

#[test]
fn same_lease_twice_holds_at_once_and_keeps_its_key() {
    let mut model = model(&[1]);
    enter(&mut model, &mut contender(Purpose::Lock, 1, "")).unwrap();
    let mut again = contender(Purpose::Lock, 1, "");
    assert_eq!(acquired(enter(&mut model, &mut again)), 2);
    assert_eq!((again.create_revision(), model.revision), (2, 2));
}

#[test]
fn second_campaign_with_another_value_proclaims_it_under_the_first_header() {
    let mut model = model(&[1]);
    enter(&mut model, &mut contender(Purpose::Election, 1, "a")).unwrap();
    let mut again = contender(Purpose::Election, 1, "b");
    assert_eq!(acquired(enter(&mut model, &mut again)), 2, "of the first transaction");
    let kv = &model.keys[&b"n/1"[..]];
    assert_eq!((kv.value.as_ref(), kv.create_revision, kv.mod_revision), (&b"b"[..], 2, 3));
    let mut same = contender(Purpose::Election, 1, "b");
    assert_eq!(acquired(enter(&mut model, &mut same)), 3);
    assert_eq!(model.revision, 3, "nothing to proclaim");
}

#[test]
fn contender_waits_for_the_one_before_it_and_not_for_the_holder() {
    let mut model = model(&[1, 2, 3]);
    let [mut a, mut b, mut c] = [1, 2, 3].map(|lease| contender(Purpose::Lock, lease, ""));
    assert_eq!(acquired(enter(&mut model, &mut a)), 2);
    assert_eq!(waits(enter(&mut model, &mut b)), (Bytes::from_static(b"n/1"), 4));
    assert_eq!(waits(enter(&mut model, &mut c)), (Bytes::from_static(b"n/2"), 5));
    // The one in the middle gives up: the last one waits for the holder now.
    model.carry_out(&b.leave().unwrap()).unwrap();
    let step = c.on_deleted();
    assert_eq!(waits(run(&mut model, &mut c, step)), (Bytes::from_static(b"n/1"), 6));
    revoke(&mut model, 1);
    let step = c.on_deleted();
    assert_eq!(acquired(run(&mut model, &mut c, step)), 6, "of the read after the wait");
}

#[test]
fn campaign_that_waited_answers_with_the_header_of_its_first_transaction() {
    let mut model = model(&[1, 2]);
    enter(&mut model, &mut contender(Purpose::Election, 1, "a")).unwrap();
    let mut second = contender(Purpose::Election, 2, "b");
    waits(enter(&mut model, &mut second));
    revoke(&mut model, 1);
    let step = second.on_deleted();
    assert_eq!(acquired(run(&mut model, &mut second, step)), 3);
}

#[test]
fn key_that_went_away_or_was_made_anew_while_it_waited_never_acquires() {
    for purpose in [Purpose::Lock, Purpose::Election] {
        for is_made_anew in [false, true] {
            let mut model = model(&[1, 2]);
            enter(&mut model, &mut contender(purpose, 1, "")).unwrap();
            let mut lost = contender(purpose, 2, "");
            waits(enter(&mut model, &mut lost));
            revoke(&mut model, 2);
            if is_made_anew {
                model.leases.insert(2, 60);
                waits(enter(&mut model, &mut contender(purpose, 2, "")));
            }
            let step = lost.on_deleted();
            let status = run(&mut model, &mut lost, step).unwrap_err();
            let text = match purpose {
                Purpose::Lock => "mutex: session is expired",
                Purpose::Election => "election: not leader",
            };
            assert_eq!((status.code, &*status.message), (crate::rpc::Code::Unknown, text));
            // And it takes nobody else's key with it.
            let keys = model.keys.clone();
            model.carry_out(&lost.leave().unwrap()).unwrap();
            assert_eq!(model.keys, keys);
        }
    }
}

#[test]
fn unknown_lease_is_refused_and_leaves_nothing_to_take_out() {
    let mut model = model(&[]);
    let mut contender = contender(Purpose::Lock, 9, "");
    assert_eq!(enter(&mut model, &mut contender).unwrap_err(), status::LEASE_NOT_FOUND);
    assert!(contender.leave().is_none());
    assert_eq!(rethrown(status::LEASE_NOT_FOUND).code, crate::rpc::Code::Unknown);
}

#[test]
fn name_larger_than_a_request_is_refused_before_it_is_proposed() {
    let mut large = Contender::new(Purpose::Lock, &[b'n'; 1000], LeaseId(1), Bytes::new());
    assert_eq!(large.enter(2000).unwrap_err(), status::REQUEST_TOO_LARGE);
    assert_eq!(propose_txn(&resign(Bytes::new(), 1), 2000).unwrap_err(), status::KEY_EMPTY);
}

/// A caller of the random run.
struct Caller {
    contender: Contender,
    state: State,
}

enum State {
    /// The command is on its way.
    Asks(Step),
    Waits {
        key: Bytes,
        from: i64,
    },
    Holds,
    Over,
}

impl Caller {
    fn take(&mut self, step: Result<Step, Status>) {
        self.state = match step {
            Ok(step @ Step::Ask(_)) => State::Asks(step),
            Ok(Step::AwaitDelete { key, from }) => State::Waits { key, from },
            Ok(Step::Acquired(_)) => State::Holds,
            Err(_) => State::Over,
        };
    }

    /// Whether the deletion it waits for has happened.
    fn is_woken(&self, model: &Model) -> bool {
        let State::Waits { key, from } = &self.state else { return false };
        model.events.iter().any(|event| {
            let kv = event.kv.as_ref().unwrap();
            event.r#type() == EventType::Delete && kv.key == key && *from <= kv.mod_revision
        })
    }

    fn key_is_there(&self, model: &Model) -> bool {
        let created = self.contender.create_revision();
        created != 0 && model.keys.get(self.contender.key()).is_some_and(|kv| kv.create_revision == created)
    }
}

/// Whoever holds and has not lost its key is alone, and the oldest.
fn check_exclusion(model: &Model, callers: &[Caller], seed: u64) {
    let oldest = model.keys.values().map(|kv| kv.create_revision).min();
    for caller in callers {
        if matches!(caller.state, State::Holds) && caller.key_is_there(model) {
            assert_eq!(Some(caller.contender.create_revision()), oldest, "seed {seed}: two hold");
        }
    }
}

fn random_run(seed: u64) -> u64 {
    const LEASES: i64 = 5;
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = model(&(1..=LEASES).collect::<Vec<_>>());
    let purpose = if random.random_bool(0.5) { Purpose::Lock } else { Purpose::Election };
    let mut callers: Vec<Caller> = Vec::new();
    let mut acquired = 0;
    for turn in 0..400 {
        let is_ending = 300 <= turn;
        match random.random_range(0..10) {
            0 | 1 if !is_ending && callers.len() < 12 => {
                let lease = random.random_range(1..=LEASES);
                let value = if random.random_bool(0.5) { "a" } else { "b" };
                let mut contender = contender(purpose, lease, value);
                let step = contender.enter(REQUEST_BYTES_MAX).unwrap();
                callers.push(Caller { contender, state: State::Asks(step) });
            }
            // A lease ends, and is granted again.
            2 if random.random_bool(0.3) => {
                let lease = random.random_range(1..=LEASES);
                revoke(&mut model, lease);
                model.leases.insert(lease, 60);
            }
            _ if !callers.is_empty() => {
                let caller = random.random_range(0..callers.len());
                let caller = &mut callers[caller];
                match &caller.state {
                    State::Asks(step) => {
                        let step = answer(&mut model, &mut caller.contender, step);
                        acquired += u64::from(matches!(step, Ok(Step::Acquired(_))));
                        caller.take(step);
                    }
                    State::Waits { .. } if caller.is_woken(&model) => {
                        let step = caller.contender.on_deleted();
                        caller.take(Ok(step));
                    }
                    // It unlocks, or the caller gives up.
                    State::Holds => {
                        model.carry_out(&caller.contender.leave().unwrap()).unwrap();
                        caller.state = State::Over;
                    }
                    State::Waits { .. } if random.random_bool(0.1) => {
                        model.carry_out(&caller.contender.leave().unwrap()).unwrap();
                        caller.state = State::Over;
                    }
                    State::Waits { .. } | State::Over => {}
                }
            }
            _ => {}
        }
        callers.retain(|caller| !matches!(caller.state, State::Over));
        check_exclusion(&model, &callers, seed);
    }
    // Whoever is left gets its turn, in the order of the queue.
    let mut turns = 0;
    while !callers.is_empty() {
        turns += 1;
        assert!(turns < 1000, "seed {seed}: {} callers wait for nothing", callers.len());
        for caller in &mut callers {
            while let State::Asks(step) = &caller.state {
                let step = answer(&mut model, &mut caller.contender, step);
                caller.take(step);
            }
            if caller.is_woken(&model) {
                let step = caller.contender.on_deleted();
                caller.take(Ok(step));
            }
        }
        check_exclusion(&model, &callers, seed);
        for caller in &mut callers {
            if matches!(caller.state, State::Holds) {
                acquired += 1;
                model.carry_out(&caller.contender.leave().unwrap()).unwrap();
                caller.state = State::Over;
            }
        }
        callers.retain(|caller| !matches!(caller.state, State::Over));
    }
    acquired
}

#[test]
fn one_at_most_holds_and_nobody_waits_for_ever_in_random_interleavings() {
    let runs =
        std::env::var_os("PINION_MODEL_OPS").map_or(300, |runs| runs.to_str().unwrap().parse().unwrap());
    let acquired: u64 = (0..runs).map(random_run).sum();
    println!("{runs} runs, seeds 0.., {acquired} times acquired");
    assert!(runs * 5 < acquired, "the run tried little: {acquired}");
}
