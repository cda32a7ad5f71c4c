//! What DNS servers, discovery services and the host's resolv.conf say at the start of a member.
//!
//! Claims, for any bytes: an answer counts only under the query's own id, its records are within the bound
//! and their names are lower-case host names; a registry is complete only with as many members as it says,
//! this one among them, and waits only while some are missing; a resolv.conf always leaves somebody to ask,
//! a bounded number of times.

use std::time::Duration;

use arbitrary::Unstructured;
use pinion::config::Url;
use pinion::discovery::dns::{Query, SrvAnswer};
use pinion::discovery::registry::{Instruction, Registry};
use pinion::discovery::resolv_conf::ResolvConf;
use pinion::pb::mvccpb::KeyValue;

use crate::{below, bytes, one_in};

const ID: u16 = 0x1234;
const NAME: &str = "_etcd-server._tcp.pinion.test";
const RECORDS_MAX: usize = 16;

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 3 {
        0 => dns(&mut Unstructured::new(rest)),
        1 => registry(&mut Unstructured::new(rest)),
        _ => resolv_conf(&String::from_utf8_lossy(rest)),
    }
}

/// A message that begins like an answer to the question, or like nothing.
fn dns(input: &mut Unstructured<'_>) {
    let query = Query::new(NAME, ID, one_in(input, 2)).expect("a name");
    let mut message = if one_in(input, 4) { Vec::new() } else { query.encode() };
    if let Some(head) = message.first_chunk_mut::<12>() {
        head[2] |= 0x80; // an answer
        head[3] = u8::try_from(below(input, 16)).expect("four bits");
        head[7] = u8::try_from(below(input, 24)).expect("a byte");
        head[11] = 0;
    }
    if !one_in(input, 2) {
        // A record of the question's name with the type and class that count, and any content.
        let content = bytes(input, 300);
        message.extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
        message.extend_from_slice(&u16::try_from(content.len()).expect("at most 300").to_be_bytes());
        message.extend_from_slice(content);
    }
    message.extend_from_slice(bytes(input, 2_000));
    let answer = query.read(&message, RECORDS_MAX);
    if !message.starts_with(&ID.to_be_bytes()) {
        assert_eq!(answer, SrvAnswer::NotOurs);
    }
    if let SrvAnswer::Records(records) = answer {
        assert!((1..=RECORDS_MAX).contains(&records.len()));
        for record in records {
            assert!(record.target.len() <= 255 && !record.target.ends_with('.'), "{record:?}");
            assert!(!record.target.bytes().any(|byte| byte.is_ascii_uppercase()), "{record:?}");
        }
    }
}

fn registry(input: &mut Unstructured<'_>) {
    let url = Url::parse("http://10.0.0.1:2380").expect("a URL");
    let mut registry = Registry::new("token", "m1", &[url]).expect("a name");
    let own_key = registry.own_key();
    for _look in 0..4 {
        let size = match below(input, 4) {
            0 => Some(b"3".to_vec()),
            1 => None,
            2 => Some(below(input, 6).to_string().into_bytes()),
            _ => Some(bytes(input, 30).to_vec()),
        };
        let count = below(input, 8);
        let members: Vec<KeyValue> = (0..count).map(|_| member(input, &registry, &own_key)).collect();
        match registry.judge(size.as_deref(), &members) {
            Ok(Instruction::Complete(found)) => {
                assert!(found.iter().any(|(name, _)| name == "m1"), "{found:?}");
                let size: usize = String::from_utf8(size.expect("said")).unwrap().trim().parse().unwrap();
                assert_eq!(found.len(), size);
            }
            Ok(Instruction::Wait(progress)) => assert!(0 < progress.missing, "{progress:?}"),
            Ok(Instruction::Register) => assert!(members.iter().all(|kv| kv.key != own_key.as_bytes())),
            Err(refusal) => assert!(!refusal.to_string().is_empty()),
        }
    }
}

fn member(input: &mut Unstructured<'_>, registry: &Registry, own_key: &str) -> KeyValue {
    let number = below(input, 6);
    let key = match below(input, 4) {
        0 => own_key.to_owned().into_bytes(),
        1 => [registry.members_prefix().as_bytes(), bytes(input, 20)].concat(),
        _ => format!("{}{number:x}", registry.members_prefix()).into_bytes(),
    };
    let value = match below(input, 4) {
        0 => registry.value().to_owned().into_bytes(),
        1 => bytes(input, 60).to_vec(),
        _ => format!("n{number}=http://10.0.0.{}:2380", number + 2).into_bytes(),
    };
    let create_revision = i64::try_from(below(input, 20)).expect("small");
    KeyValue { key: key.into(), value: value.into(), create_revision, ..Default::default() }
}

fn resolv_conf(text: &str) {
    let conf = ResolvConf::parse(text);
    assert!(!conf.servers.is_empty());
    assert!((1..=5).contains(&conf.attempts) && conf.timeout <= Duration::from_secs(30), "{conf:?}");
    let candidates = conf.candidates(NAME);
    assert!(candidates.iter().any(|name| name == NAME));
    assert_eq!(candidates.len(), conf.search.len() + 1);
}
