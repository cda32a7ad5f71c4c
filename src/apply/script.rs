//! Runs small stories against a machine: the tests of this directory are written in it.
//!
//! `check(expect![…])` takes the story from the expectation itself: of each line what stands before
//! ` => ` is run, the rest is the answer. `UPDATE_EXPECT=1` writes the answers.
//! ```text
//! # a comment
//! put KEY VALUE [lease=N] [prev] [ignore_value] [ignore_lease]
//! get KEY [END] [limit=N] [rev=N] [order=N] [target=N] [keys_only] [count_only] [min_mod=N] …
//! del KEY [END] [prev]
//! txn [if COMPARE …] [then OP , OP …] [else OP , OP …]    a nested one stands in ( )
//! compact N [physical]        work                         hash [N]
//! stream KEY [END] …                                       a RangeStream, slices apart by |
//! grant ID TTL      revoke ID      leases                  as the log has them, past the shard
//! alarm ACTION KIND MEMBER                                 get, on, off or a number; all, space, corrupt
//! as NAME[@REV] LINE                                       in its name, at the auth revision of now or REV
//! (about users and roles: see `auth_script`)
//! expire [term=N] [through=N] ID …      note [term=N] [through=N] ID=REMAINING …
//! ```
//! COMPARE is `TARGET KEY[..END] RESULT OPERAND`, with `value`, `version`, `create`, `mod`, `lease`
//! or a number as target and `=`, `!=`, `<`, `>` or a number as result; `none` is no operand, and
//! `N:OPERAND` one for another target than named. In keys and values `\0` is a zero byte, `""` nothing.
//! `!` before a line skips the client shard's checks: what a log from elsewhere could hold.
//! A key is shown as `key=value@create/mod/version`, with `~lease` if it has one.

use bytes::Bytes;
use expect_test::Expect;
use prost::Message;

use super::auth_script::{self, Asked};
use super::machine::{Applied, Machine, StatusFacts};
use crate::membership::Cluster;
use crate::mvcc::Store;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::compare::TargetUnion;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::etcdserverpb::response_op::Response as OpAnswer;
use crate::pb::{mvccpb, peer};
use crate::request::{Command, EntryId, Origin, Outcome, Query, Request, RequestKind, Response};
use crate::rpc::range_stream::RangeStream;
use crate::rpc::{Limits, Method, Status, convert};
use crate::types::{KeyRange, LeaseId, LogIndex, MemberId, Term, Ticket};

/// One voter, 7, which has not said its name yet; 3 is gone.
pub(super) fn cluster() -> Cluster {
    let voter = peer::MemberRecord { id: 7, ..Default::default() };
    let record = peer::Membership { cluster_id: 5, members: vec![voter], removed: vec![3] };
    Cluster::decode(record.encode_to_vec().into()).expect("a cluster with a voter")
}

pub(super) fn machine() -> Machine {
    Machine::new(Store::new(), cluster())
}

/// The entry that every request of a story stands in, unless the story is about entries.
pub(super) const AT: EntryId = EntryId { index: LogIndex(9), term: Term(3) };

pub(super) fn request(kind: RequestKind, body: impl Into<Bytes>) -> Request {
    Request {
        origin: Origin { member: MemberId(1), ticket: Ticket(1) },
        kind,
        body: body.into(),
        login: None,
    }
}

#[track_caller]
pub(super) fn check(story: Expect) {
    let mut machine = machine();
    let mut told = String::new();
    for line in story.data().lines() {
        let line = line.split(" => ").next().expect("split has a first part").trim();
        if line.is_empty() {
            continue;
        }
        told.push_str(line);
        if !line.starts_with('#') {
            told.push_str(" => ");
            told.push_str(&run(&mut machine, line));
        }
        told.push('\n');
    }
    story.assert_eq(&told);
}

/// Runs one line and shows the answer.
pub(super) fn run(machine: &mut Machine, line: &str) -> String {
    let (login, line) = auth_script::login(machine, line);
    if line == "work" {
        return format!("done={}", machine.work_slice(1_000_000));
    }
    if line == "leases" {
        return show_leases(machine);
    }
    let (line, trusted) = line.strip_prefix('!').map_or((line, false), |line| (line, true));
    let mut words = Words::new(line);
    let apply = |machine: &mut Machine, kind, body| {
        let request = Request { login: login.clone(), ..request(kind, body) };
        show_applied(kind, machine.apply(&request, AT))
    };
    if let Some((kind, body)) = parse_alarm(&mut words).or_else(|| parse_lease(&mut words)) {
        return apply(machine, kind, body);
    }
    match auth_script::parse(&mut words) {
        Some(Asked::Request(kind, body)) => return apply(machine, kind, body),
        Some(Asked::Query(query)) => return auth_script::answer(machine, login, query),
        None => {}
    }
    let (method, kind, body) = parse(&mut words);
    if trusted {
        return apply(machine, kind.expect("a write"), body);
    }
    match convert::command(method, body, &Limits::default(), || unreachable!("the story names its leases")) {
        Err(status) => show_status(&status),
        Ok(Command::Propose { kind, body, .. }) => apply(machine, kind, body),
        Ok(Command::Member(_) | Command::AppendStats) => unreachable!("not in the language"),
        Ok(Command::Read(read)) => match read.query {
            Query::RangeSlice(slice) => show_stream(machine, *slice),
            query => {
                let outcome = match machine.permit(login.as_ref(), &query) {
                    Ok(()) => machine.read(&query, &StatusFacts::default()),
                    Err(denied) => Err(denied.into()),
                };
                show(outcome, |response| match query {
                    Query::Range(_) => show_range(&decode(response)),
                    Query::Txn(_) => show_txn(&decode(response)),
                    Query::HashKv(_) => {
                        let answer: pb::HashKvResponse = decode(response);
                        format!("hash {} compacted {}", answer.hash_revision, answer.compact_revision)
                    }
                    _ => unreachable!("not in the language"),
                })
            }
        },
    }
}

fn show_stream(machine: &Machine, slice: crate::request::RangeSlice) -> String {
    let mut stream = RangeStream::new(&slice, 1_572_864);
    let mut slice = Some(slice);
    let mut slices = Vec::new();
    while let Some(query) = slice {
        match machine.read(&Query::RangeSlice(Box::new(query)), &StatusFacts::default()) {
            Err(rejection) => return show_status(&Status::from(&rejection)),
            Ok(response) => {
                slices.push(show_range(&decode(&response)));
                slice = stream.on_slice(&response);
            }
        }
    }
    format!("rev {} {}", stream.revision().expect("answered"), slices.join(" | "))
}

pub(super) fn decode<M: Message + Default>(response: &Response) -> M {
    let message = M::decode(&*response.body).expect("our own answer");
    // Also holds the hand-written encoder against the generated one.
    assert_eq!(message.encode_to_vec(), response.body, "encoded otherwise than prost does");
    message
}

fn show_applied(kind: RequestKind, applied: Applied) -> String {
    let (outcome, later) = match applied {
        Applied::Now(outcome) => (outcome, ""),
        Applied::AfterCompaction(response) => (Ok(response), " after compaction"),
    };
    let text = show(outcome, |response| match kind {
        RequestKind::Put => show_put(&decode(response)),
        RequestKind::DeleteRange => show_delete(&decode(response)),
        RequestKind::Txn => show_txn(&decode(response)),
        RequestKind::LeaseGrant => {
            let answer: pb::LeaseGrantResponse = decode(response);
            format!("lease {} for {} s", answer.id, answer.ttl)
        }
        RequestKind::Alarm => show_alarms(&decode(response)),
        RequestKind::NodeWrite => unreachable!("not in the language"),
        RequestKind::Authenticate => decode::<pb::AuthenticateResponse>(response).token,
        RequestKind::AuthEnable
        | RequestKind::AuthDisable
        | RequestKind::UserAdd
        | RequestKind::UserDelete
        | RequestKind::UserChangePassword
        | RequestKind::UserGrantRole
        | RequestKind::UserRevokeRole
        | RequestKind::RoleAdd
        | RequestKind::RoleDelete
        | RequestKind::RoleGrantPermission
        | RequestKind::RoleRevokePermission
        | RequestKind::Compact
        | RequestKind::PublishMember
        | RequestKind::LeaseRevoke
        | RequestKind::LeaseExpire
        | RequestKind::LeaseCheckpoint
        | RequestKind::NodeExpire
        | RequestKind::NodeCheckpoint
        | RequestKind::MemberUpdate
        | RequestKind::FormatLevel
        | RequestKind::Part => {
            assert!(response.body.is_empty(), "nothing to tell");
            String::new()
        }
    });
    text.trim_end().to_string() + later
}

fn show_alarms(answer: &pb::AlarmResponse) -> String {
    let alarms = answer.alarms.iter().map(|alarm| format!("{}:{}", alarm.alarm, alarm.member_id));
    format!("[{}]", alarms.collect::<Vec<_>>().join(" "))
}

/// Each lease with its TTL, what is left of it if that was noted, and its keys.
fn show_leases(machine: &Machine) -> String {
    let attached = machine.store().scan(KeyRange::From(b""), machine.store().current_revision());
    let attached = attached.filter(|kv| kv.lease != 0);
    machine.leases().check_invariants(attached.map(|kv| (kv.key, LeaseId(kv.lease))));
    let leases = machine.leases().iter().map(|(id, lease)| {
        let left = if lease.remaining_s() == 0 { String::new() } else { format!("{}/", lease.remaining_s()) };
        let keys: Vec<String> = lease.keys().map(show_bytes).collect();
        format!("{}:{left}{}[{}]", id.0, lease.ttl_s(), keys.join(" "))
    });
    leases.collect::<Vec<_>>().join(" ")
}

pub(super) fn show(outcome: Outcome, body: impl FnOnce(&Response) -> String) -> String {
    match outcome {
        Ok(response) => format!("rev {} {}", response.revision, body(&response)).trim_end().to_string(),
        Err(rejection) => show_status(&Status::from(&rejection)),
    }
}

fn show_status(status: &Status) -> String {
    format!("{:?} {}", status.code, status.message)
}

pub(super) fn show_bytes(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\\0")
}

fn show_kv(kv: &mvccpb::KeyValue) -> String {
    let (key, value) = (show_bytes(&kv.key), show_bytes(&kv.value));
    let lease = if kv.lease == 0 { String::new() } else { format!("~{}", kv.lease) };
    format!("{key}={value}@{}/{}/{}{lease}", kv.create_revision, kv.mod_revision, kv.version)
}

fn show_kvs(kvs: &[mvccpb::KeyValue]) -> String {
    format!("[{}]", kvs.iter().map(show_kv).collect::<Vec<_>>().join(" "))
}

fn show_header(header: Option<&pb::ResponseHeader>) -> String {
    header.map_or(String::new(), |header| {
        let only_revision = pb::ResponseHeader { revision: header.revision, ..Default::default() };
        assert_eq!(*header, only_revision, "inner headers tell the revision only");
        format!("rev {} ", header.revision)
    })
}

fn show_range(answer: &pb::RangeResponse) -> String {
    let more = if answer.more { "+" } else { "" };
    format!("{}{}{more} of {}", show_header(answer.header.as_ref()), show_kvs(&answer.kvs), answer.count)
}

fn show_put(answer: &pb::PutResponse) -> String {
    let previous = answer.prev_kv.as_ref().map_or(String::new(), |kv| format!("was {}", show_kv(kv)));
    format!("{}{previous}", show_header(answer.header.as_ref()))
}

fn show_delete(answer: &pb::DeleteRangeResponse) -> String {
    let previous = if answer.prev_kvs.is_empty() { String::new() } else { show_kvs(&answer.prev_kvs) };
    format!("{}deleted {} {previous}", show_header(answer.header.as_ref()), answer.deleted)
}

fn show_txn(answer: &pb::TxnResponse) -> String {
    let ops = answer.responses.iter().map(|op| {
        let text = match op.response.as_ref().expect("every operation is answered") {
            OpAnswer::ResponseRange(answer) => format!("get {}", show_range(answer)),
            OpAnswer::ResponsePut(answer) => format!("put {}", show_put(answer)),
            OpAnswer::ResponseDeleteRange(answer) => format!("del {}", show_delete(answer)),
            OpAnswer::ResponseTxn(answer) => {
                assert_eq!(answer.header, Some(pb::ResponseHeader::default()), "present and empty");
                format!("txn {}", show_txn(answer))
            }
        };
        text.trim_end().to_string()
    });
    let branch = if answer.succeeded { "then" } else { "else" };
    format!("{branch} {{{}}}", ops.collect::<Vec<_>>().join("; "))
}

pub(super) struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        Self(line.split_whitespace().peekable())
    }

    pub(super) fn next(&mut self) -> &'a str {
        self.0.next().expect("the line ends early")
    }

    /// The next argument of an operation, if there is one.
    pub(super) fn argument(&mut self) -> Option<&'a str> {
        self.0.next_if(|word| !matches!(*word, "," | "then" | "else" | ")"))
    }

    pub(super) fn eat(&mut self, word: &str) -> bool {
        self.0.next_if_eq(&word).is_some()
    }
}

pub(super) fn text(word: &str) -> Bytes {
    if word == "\"\"" { Bytes::new() } else { Bytes::from(word.replace("\\0", "\0")) }
}

fn parse(words: &mut Words<'_>) -> (Method, Option<RequestKind>, Bytes) {
    let body = |message: &dyn Fn() -> Vec<u8>| Bytes::from(message());
    match words.0.peek().copied().expect("a verb") {
        "stream" => {
            words.next();
            let range = parse_range(words);
            (Method::RangeStream, None, body(&|| range.encode_to_vec()))
        }
        "hash" => {
            words.next();
            let revision = words.argument().map_or(0, number);
            (Method::HashKv, None, body(&|| pb::HashKvRequest { revision }.encode_to_vec()))
        }
        "compact" => {
            words.next();
            let revision = number(words.next());
            let physical = words.argument() == Some("physical");
            let request = pb::CompactionRequest { revision, physical };
            (Method::Compact, Some(RequestKind::Compact), body(&|| request.encode_to_vec()))
        }
        _ => match parse_op(words) {
            Op::RequestRange(request) => (Method::Range, None, body(&|| request.encode_to_vec())),
            Op::RequestPut(request) => {
                (Method::Put, Some(RequestKind::Put), body(&|| request.encode_to_vec()))
            }
            Op::RequestDeleteRange(request) => {
                (Method::DeleteRange, Some(RequestKind::DeleteRange), body(&|| request.encode_to_vec()))
            }
            Op::RequestTxn(request) => {
                (Method::Txn, Some(RequestKind::Txn), body(&|| request.encode_to_vec()))
            }
        },
    }
}

fn parse_alarm(words: &mut Words<'_>) -> Option<(RequestKind, Bytes)> {
    words.0.next_if(|verb| *verb == "alarm")?;
    let named = |word, names: [&str; 3]| {
        let place = names.iter().position(|name| *name == word);
        place.map_or_else(|| number(word), |place| i32::try_from(place).expect("0 to 2"))
    };
    let message = pb::AlarmRequest {
        action: named(words.next(), ["get", "on", "off"]),
        alarm: named(words.next(), ["all", "space", "corrupt"]),
        member_id: words.argument().map_or(0, number),
    };
    Some((RequestKind::Alarm, message.encode_to_vec().into()))
}

fn parse_lease(words: &mut Words<'_>) -> Option<(RequestKind, Bytes)> {
    let verb = words.0.next_if(|verb| matches!(*verb, "grant" | "revoke" | "expire" | "note"))?;
    let (mut term, mut through) = (AT.term.0, AT.index.0);
    let mut rest = Vec::new();
    for word in words.0.by_ref() {
        match word.split_once('=') {
            Some(("term", value)) => term = number(value),
            Some(("through", value)) => through = number(value),
            Some((id, remaining)) => rest.push((number(id), number(remaining))),
            None => rest.push((number(word), 0)),
        }
    }
    let ids = || rest.iter().map(|&(id, _)| id);
    Some(match verb {
        "grant" => {
            let message = pb::LeaseGrantRequest { id: rest[0].0, ttl: rest[1].0 };
            (RequestKind::LeaseGrant, message.encode_to_vec().into())
        }
        "revoke" => {
            let message = pb::LeaseRevokeRequest { id: rest[0].0 };
            (RequestKind::LeaseRevoke, message.encode_to_vec().into())
        }
        "expire" => {
            let message = peer::LeaseExpire { term, through, ids: ids().collect() };
            (RequestKind::LeaseExpire, message.encode_to_vec().into())
        }
        _ => {
            let leases =
                rest.iter().map(|&(id, remaining_s)| peer::LeaseRemaining { id, remaining_s }).collect();
            let message = peer::LeaseCheckpoint { term, through, leases };
            (RequestKind::LeaseCheckpoint, message.encode_to_vec().into())
        }
    })
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn parse_op(words: &mut Words<'_>) -> Op {
    match words.next() {
        "get" => Op::RequestRange(parse_range(words)),
        "put" => {
            let (key, value) = (text(words.next()), text(words.next()));
            let mut request = pb::PutRequest { key, value, ..Default::default() };
            while let Some(word) = words.argument() {
                match word.split_once('=').unwrap_or((word, "")) {
                    ("lease", lease) => request.lease = number(lease),
                    ("prev", _) => request.prev_kv = true,
                    ("ignore_value", _) => request.ignore_value = true,
                    ("ignore_lease", _) => request.ignore_lease = true,
                    _ => panic!("put: {word}"),
                }
            }
            Op::RequestPut(request)
        }
        "del" => {
            let mut request = pb::DeleteRangeRequest { key: text(words.next()), ..Default::default() };
            while let Some(word) = words.argument() {
                if word == "prev" { request.prev_kv = true } else { request.range_end = text(word) }
            }
            Op::RequestDeleteRange(request)
        }
        "txn" => Op::RequestTxn(parse_txn(words)),
        "(" => {
            let op = parse_op(words);
            assert!(words.eat(")"), "unbalanced");
            op
        }
        verb => panic!("unknown verb {verb}"),
    }
}

fn parse_range(words: &mut Words<'_>) -> pb::RangeRequest {
    let mut request = pb::RangeRequest { key: text(words.next()), ..Default::default() };
    while let Some(word) = words.argument() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("limit", n) => request.limit = number(n),
            ("rev", n) => request.revision = number(n),
            ("order", n) => request.sort_order = number(n),
            ("target", n) => request.sort_target = number(n),
            ("min_mod", n) => request.min_mod_revision = number(n),
            ("max_mod", n) => request.max_mod_revision = number(n),
            ("min_create", n) => request.min_create_revision = number(n),
            ("max_create", n) => request.max_create_revision = number(n),
            ("keys_only", _) => request.keys_only = true,
            ("count_only", _) => request.count_only = true,
            ("serializable", _) => request.serializable = true,
            _ => request.range_end = text(word),
        }
    }
    request
}

fn parse_txn(words: &mut Words<'_>) -> pb::TxnRequest {
    let mut request = pb::TxnRequest::default();
    if words.eat("if") {
        loop {
            request.compare.push(parse_compare(words));
            if !words.eat(",") {
                break;
            }
        }
    }
    for (word, branch) in [("then", &mut request.success), ("else", &mut request.failure)] {
        if words.eat(word) {
            loop {
                let nothing = words.eat("nothing");
                let op = if nothing { None } else { Some(parse_op(words)) };
                branch.push(pb::RequestOp { request: op });
                if !words.eat(",") {
                    break;
                }
            }
        }
    }
    request
}

fn parse_compare(words: &mut Words<'_>) -> pb::Compare {
    let target = match words.next() {
        "version" => 0,
        "create" => 1,
        "mod" => 2,
        "value" => 3,
        "lease" => 4,
        other => number(other),
    };
    let keys = words.next();
    let (key, range_end) =
        keys.split_once("..").map_or((text(keys), Bytes::new()), |(key, end)| (text(key), text(end)));
    let result = match words.next() {
        "=" => 0,
        ">" => 1,
        "<" => 2,
        "!=" => 3,
        other => number(other),
    };
    let operand = words.next();
    let (arm, operand) = operand.split_once(':').map_or((target, operand), |(arm, rest)| (number(arm), rest));
    let target_union = match (arm, operand) {
        (_, "none") => None,
        (0, n) => Some(TargetUnion::Version(number(n))),
        (1, n) => Some(TargetUnion::CreateRevision(number(n))),
        (2, n) => Some(TargetUnion::ModRevision(number(n))),
        (3, value) => Some(TargetUnion::Value(text(value))),
        (4, n) => Some(TargetUnion::Lease(number(n))),
        (arm, _) => panic!("no operand {arm}"),
    };
    pb::Compare { result, target, key, range_end, target_union }
}
