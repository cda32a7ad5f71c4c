//! DNS messages: the question for a name's SRV records, and what an answer to it says.
//!
//! Invariants: an answer counts only if it has the query's id and repeats its question; otherwise it is
//! `NotOurs`, whatever else it holds, so that the one who asked goes on waiting. Of the answer only SRV
//! records of the name asked for are taken, or of the name that its CNAME records lead to. Targets are
//! host names in lower case without a final dot, so that a server that plays with the case of letters
//! does not change the ids of members.
//! Cost: O(bytes of the answer) and at most 20 passes over it for CNAMEs; no allocation but for the records.
//! Compatibility: RFC 1035, 2782 (SRV), 6891 (EDNS). Bytes are parsed by `domain`.

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::ParsedName;
use domain::base::{Message, Name};
use domain::rdata::Srv;

/// Bytes of an answer by UDP that the question asks for: what passes every network in one piece.
pub const UDP_BYTES_MAX: u16 = 1232;

/// Bytes of a name in a message.
const NAME_BYTES_MAX: usize = 255;

const LABEL_BYTES_MAX: usize = 63;

/// Where one of a service's instances is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrvRecord {
    pub priority: u16,
    /// In lower case, without a final dot; empty for the root, which means that there is no such service.
    pub target: String,
    pub port: u16,
    /// Its share of the clients among those of its priority. The last to be compared: it does not change the order
    /// of members, who derive ids of it.
    pub weight: u16,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SrvAnswer {
    /// At least one.
    Records(Vec<SrvRecord>),
    /// The name has no such records, or does not exist.
    Absent,
    /// There is more than fits; to be asked again by TCP.
    Truncated,
    /// The server does not know EDNS; to be asked again without.
    NoEdns,
    /// This server cannot tell.
    Failed(String),
    /// Not an answer to this question.
    NotOurs,
}

/// A question for SRV records.
#[derive(Debug, Clone)]
pub struct Query {
    id: u16,
    /// As it is in a message.
    name: Vec<u8>,
    has_edns: bool,
}

impl Query {
    /// Asks for the SRV records of `name`, which is absolute; `None` if it is no name. An `id` that nobody
    /// can guess makes forged answers unlikely.
    #[must_use]
    pub fn new(name: &str, id: u16, has_edns: bool) -> Option<Self> {
        let mut wire = Vec::with_capacity(name.len() + 2);
        for label in name.strip_suffix('.').unwrap_or(name).split('.') {
            if label.is_empty() || LABEL_BYTES_MAX < label.len() {
                return None;
            }
            wire.push(u8::try_from(label.len()).ok()?);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        (wire.len() <= NAME_BYTES_MAX).then_some(Self { id, name: wire, has_edns })
    }

    /// The message that asks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(12 + self.name.len() + 4 + 11);
        message.extend_from_slice(&self.id.to_be_bytes());
        // A standard query, and recursion is desired.
        message.extend_from_slice(&[0x01, 0x00]);
        for count in [1, 0, 0, u16::from(self.has_edns)] {
            message.extend_from_slice(&count.to_be_bytes());
        }
        message.extend_from_slice(&self.name);
        message.extend_from_slice(&Rtype::SRV.to_int().to_be_bytes());
        message.extend_from_slice(&Class::IN.to_int().to_be_bytes());
        if self.has_edns {
            // The root's name, OPT, how much is taken, no extended code, version 0, no flags, no options.
            message.push(0);
            message.extend_from_slice(&Rtype::OPT.to_int().to_be_bytes());
            message.extend_from_slice(&UDP_BYTES_MAX.to_be_bytes());
            message.extend_from_slice(&[0; 6]);
        }
        message
    }

    /// What these bytes, from whomever, say to this question. `records_max` bounds the list.
    #[must_use]
    pub fn read(&self, bytes: &[u8], records_max: usize) -> SrvAnswer {
        let Ok(message) = Message::from_octets(bytes) else { return SrvAnswer::NotOurs };
        let header = message.header();
        if header.id() != self.id || !header.qr() || header.opcode() != Opcode::QUERY {
            return SrvAnswer::NotOurs;
        }
        // A server that cannot read the question may leave it out.
        if header.rcode() == Rcode::FORMERR || header.rcode() == Rcode::NOTIMP {
            return match self.has_edns {
                true => SrvAnswer::NoEdns,
                false => SrvAnswer::Failed(format!("the server answers {}", header.rcode())),
            };
        }
        let Ok(question) = message.sole_question() else { return SrvAnswer::NotOurs };
        let own = Name::from_slice(&self.name).expect("checked when it was made");
        if question.qname() != own || question.qtype() != Rtype::SRV || question.qclass() != Class::IN {
            return SrvAnswer::NotOurs;
        }
        match header.rcode() {
            Rcode::NXDOMAIN => return SrvAnswer::Absent,
            Rcode::NOERROR => {}
            rcode => return SrvAnswer::Failed(format!("the server answers {rcode}")),
        }
        if header.tc() {
            return SrvAnswer::Truncated;
        }
        match records(&message, records_max) {
            Ok(records) if !records.is_empty() => SrvAnswer::Records(records),
            // Neither the zone's own server nor one that asks others: it only points elsewhere.
            Ok(_) if !header.aa() && !header.ra() && 0 < message.header_counts().nscount() => {
                SrvAnswer::Failed("the server refers to others and does not ask them".to_owned())
            }
            Ok(_) => SrvAnswer::Absent,
            Err(reason) => SrvAnswer::Failed(reason),
        }
    }
}

fn records(message: &Message<&[u8]>, records_max: usize) -> Result<Vec<SrvRecord>, String> {
    let name = message.canonical_name().ok_or("the answer's CNAME records lead nowhere")?;
    let answer = message.answer().map_err(|error| format!("the answer cannot be read: {error}"))?;
    let mut records = Vec::new();
    for record in answer.limit_to_in::<Srv<_>>() {
        let record = record.map_err(|error| format!("the answer cannot be read: {error}"))?;
        if *record.owner() != name {
            continue;
        }
        if records.len() == records_max {
            return Err(format!("the answer has more than {records_max} records"));
        }
        let data = record.data();
        let target = host_name(data.target())?;
        records.push(SrvRecord {
            priority: data.priority(),
            target,
            port: data.port(),
            weight: data.weight(),
        });
    }
    Ok(records)
}

/// A name that a URL can have.
fn host_name(name: &ParsedName<&[u8]>) -> Result<String, String> {
    let mut text = String::new();
    for label in name.iter().filter(|label| !label.is_root()) {
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label.as_slice() {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_') {
                return Err(format!("the answer has a target that is no host name: {name}"));
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const NAME: &str = "_etcd-server._tcp.example.com";

    fn wire_name(name: &str) -> Vec<u8> {
        Query::new(name, 0, false).unwrap().name
    }

    fn query() -> Query {
        Query::new(NAME, 0x1234, true).unwrap()
    }

    fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let mut record = owner.to_vec();
        record.extend_from_slice(&kind.to_be_bytes());
        record.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        record.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        record.extend_from_slice(data);
        record
    }

    fn srv(owner: &[u8], priority: u8, port: u16, target: &[u8]) -> Vec<u8> {
        let mut data = vec![0, priority, 0, 5];
        data.extend_from_slice(&port.to_be_bytes());
        data.extend_from_slice(target);
        record(owner, 33, &data)
    }

    /// An answer to the query with these flags and answer records.
    fn answer(query: &Query, flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let mut message = query.encode();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        // The question alone comes back; OPT is not echoed.
        message[10..12].copy_from_slice(&[0, 0]);
        message.truncate(12 + query.name.len() + 4);
        message.extend(records.concat());
        message
    }

    const OWNER: [u8; 2] = [0xc0, 12];
    const OK: u16 = 0x8180;

    #[test]
    fn records_of_the_name_are_read_with_compressed_names_in_any_case_and_others_are_left_out() {
        // `M2` and a pointer to `example.com`, 18 bytes into the question's name.
        let compressed = [&[2, b'M', b'2'][..], &[0xc0, 12 + 18]].concat();
        let records = [
            srv(&OWNER, 0, 2380, &wire_name("m1.Example.COM")),
            srv(&OWNER, 7, 2381, &compressed),
            srv(&wire_name("other.example.com"), 0, 1, &wire_name("evil.example.com")),
            record(&OWNER, 1, &[127, 0, 0, 1]),
        ];
        let found = query().read(&answer(&query(), OK, &records), 10);
        let wanted =
            |priority, target: &str, port| SrvRecord { priority, target: target.to_owned(), port, weight: 5 };
        let wanted = vec![wanted(0, "m1.example.com", 2380), wanted(7, "m2.example.com", 2381)];
        assert_eq!(found, SrvAnswer::Records(wanted));
        let many = query().read(&answer(&query(), OK, &records), 1);
        assert!(matches!(many, SrvAnswer::Failed(reason) if reason.contains("more than 1 records")));
    }

    #[test]
    fn alias_is_followed_to_the_records_of_the_name_it_leads_to() {
        let real = wire_name("real.example.com");
        let records = [record(&OWNER, 5, &real), srv(&real, 0, 5, &wire_name("m1.x"))];
        let found = query().read(&answer(&query(), OK, &records), 10);
        assert!(matches!(found, SrvAnswer::Records(records) if records[0].target == "m1.x"));
        let (a, b) = (wire_name("a.x"), wire_name("b.x"));
        let circle = [record(&OWNER, 5, &a), record(&a, 5, &b), record(&b, 5, &a)];
        let found = query().read(&answer(&query(), OK, &circle), 10);
        assert!(matches!(found, SrvAnswer::Failed(reason) if reason.contains("CNAME")));
    }

    #[test]
    fn answer_with_another_id_or_question_and_a_question_are_not_taken_for_the_answer() {
        let records = [srv(&OWNER, 0, 1, &wire_name("m1.x"))];
        let good = answer(&query(), OK, &records);
        assert!(matches!(query().read(&good, 10), SrvAnswer::Records(_)));
        let other_id = Query { id: 0x1235, ..query() };
        assert_eq!(other_id.read(&good, 10), SrvAnswer::NotOurs);
        let other_name = Query::new("_etcd-server._tcp.example.org", 0x1234, true).unwrap();
        assert_eq!(other_name.read(&good, 10), SrvAnswer::NotOurs);
        assert_eq!(query().read(&answer(&query(), OK & 0x7fff, &records), 10), SrvAnswer::NotOurs);
        assert_eq!(query().read(&query().encode(), 10), SrvAnswer::NotOurs);
        assert_eq!(query().read(&[], 10), SrvAnswer::NotOurs);
    }

    #[test]
    fn each_way_not_to_answer_is_told_apart() {
        let read = |flags| query().read(&answer(&query(), flags, &[]), 10);
        assert_eq!(read(0x8183), SrvAnswer::Absent, "NXDOMAIN");
        assert_eq!(read(OK), SrvAnswer::Absent, "no record of that type");
        assert_eq!(read(0x8380), SrvAnswer::Truncated);
        assert_eq!(read(0x8181), SrvAnswer::NoEdns, "FORMERR");
        assert!(matches!(read(0x8182), SrvAnswer::Failed(reason) if reason.contains("SERVFAIL")));
        assert!(matches!(read(0x8185), SrvAnswer::Failed(reason) if reason.contains("REFUSED")));
        let plain = Query { has_edns: false, ..query() };
        assert!(matches!(plain.read(&answer(&plain, 0x8184, &[]), 10), SrvAnswer::Failed(_)));
        // Neither authoritative nor recursive, and a name server in the authority section.
        let mut referral = answer(&query(), 0x8100, &[record(&OWNER, 2, &wire_name("ns.x"))]);
        referral[6..10].copy_from_slice(&[0, 0, 0, 1]);
        assert!(
            matches!(query().read(&referral, 10), SrvAnswer::Failed(reason) if reason.contains("refers"))
        );
    }

    #[test]
    fn target_that_could_not_stand_in_a_url_fails_and_the_root_is_an_empty_one() {
        for bad in [&b"\x03a/b\x00"[..], b"\x02a \x00", b"\x03a=b\x00", b"\x03\xc3\xa4x\x00"] {
            let found = query().read(&answer(&query(), OK, &[srv(&OWNER, 0, 1, bad)]), 10);
            assert!(matches!(found, SrvAnswer::Failed(reason) if reason.contains("no host name")), "{bad:?}");
        }
        let found = query().read(&answer(&query(), OK, &[srv(&OWNER, 0, 0, &[0])]), 10);
        assert!(matches!(found, SrvAnswer::Records(records) if records[0].target.is_empty()));
    }

    #[test]
    fn what_is_no_name_is_never_asked_for() {
        let long = "a.".repeat(128);
        for bad in ["", ".", "a..b", ".a", &"a".repeat(64), &long] {
            assert!(Query::new(bad, 0, true).is_none(), "{bad:?}");
        }
        assert!(Query::new("a.b.", 0, true).is_some());
    }

    #[test]
    fn damaged_and_random_answers_never_panic() {
        let seed = std::env::var_os("PINION_SEED").map_or(7, |s| s.to_str().unwrap().parse().unwrap());
        println!("replay: PINION_SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let records = [
            record(&OWNER, 5, &wire_name("real.example.com")),
            srv(&wire_name("real.example.com"), 0, 2380, &[2, b'm', b'1', 0xc0, 12 + 18]),
        ];
        let good = answer(&query(), OK, &records);
        assert!(matches!(query().read(&good, 10), SrvAnswer::Records(_)));
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..rng.random_range(1..4) {
                // Mostly behind the header, which would only make it somebody else's.
                let first = if rng.random_bool(0.9) { 4 } else { 0 };
                let at = rng.random_range(first..bytes.len());
                bytes[at] = rng.random();
            }
            bytes.truncate(rng.random_range(12..=bytes.len()));
            if let SrvAnswer::Records(records) = query().read(&bytes, 10) {
                assert!(records.len() <= 10 && records.iter().all(|record| record.target.len() <= 253));
            }
        }
    }
}
