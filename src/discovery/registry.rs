//! What stands in a discovery service about one token, and what a member does about it.
//!
//! ```text
//! /_etcd/registry/<token>/_config/size          3
//! /_etcd/registry/<token>/members/<member id>   m1=http://10.0.0.1:2380
//! ```
//!
//! The first <size> registrations by create revision are the cluster. A member writes its own once, if it
//! is not there, and then waits; a restart finds it again.
//!
//! Invariants: a list is complete only with this member in it, as many members as the size, no name and no
//! URL twice, and each under the id that follows from its URLs and the token; so all members that complete
//! it derive the same ids. What would spoil the token for everybody is refused before it is registered.
//! Cost: O(registrations log registrations + members squared), members being few.
//! Compatibility: keys, values and the first sentence of refusals are etcd's v3 discovery.

use super::MEMBERS_MAX;
use crate::config::{MemberUrls, Url, parse_members};
use crate::membership::member_id;
use crate::pb::mvccpb::KeyValue;
use crate::types::MemberId;

/// One member's view of one token.
#[derive(Debug)]
pub struct Registry {
    token: String,
    name: String,
    id: MemberId,
    urls: Vec<Url>,
    /// What is, or is to be, registered.
    value: String,
    /// Once it was read.
    size: Option<usize>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Put `own_key` and `value`, unless the key exists, and look again.
    Register,
    /// Look again when something changes.
    Wait(Progress),
    /// These begin the cluster.
    Complete(MemberUrls),
}

/// Who has come so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// In the order of registration.
    pub registered: Vec<String>,
    pub missing: usize,
}

/// Why this member does not begin with this token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "discovery: size key not found: nobody has said how many members the cluster of token {token:?} has. Say it \
         with `etcdctl put {key} 3` on the discovery service, or check --discovery-token"
    )]
    SizeMissing { token: String, key: String },
    #[error("discovery: size key is bad: {key} is {value:?}, and should be a number from 1 to {MEMBERS_MAX}")]
    SizeBad { key: String, value: String },
    #[error(
        "discovery: size of the cluster was changed from {was} to {is} ({key}) while members register; some may have \
         begun with the old one. Begin again with a new --discovery-token on all members"
    )]
    SizeChanged { key: String, was: usize, is: usize },
    #[error(
        "discovery: cluster is full: {size} members have registered with token {token:?} before this one ({members}). \
         To add a member to a cluster that runs, use `etcdctl member add` and --initial-cluster-state=existing"
    )]
    Full { size: usize, token: String, members: String },
    #[error(
        "discovery: found duplicate member: this one is registered as {registered:?} and would now register as \
         {value:?}. Start it with the name it had, or delete {key} on the discovery service"
    )]
    Renamed { key: String, registered: String, value: String },
    #[error(
        "discovery: duplicate {what} {duplicate:?}: {a} and {b} both have it. Give each member its own --name and \
         --initial-advertise-peer-urls; a wrong registration has to be deleted on the discovery service: {key}"
    )]
    Duplicate { what: &'static str, duplicate: String, a: String, b: String, key: String },
    #[error(
        "discovery: {key} is not a registration: {reason}. Delete it on the discovery service, or use a new \
         --discovery-token"
    )]
    Garbage { key: String, reason: String },
    #[error(
        "discovery: the name {0:?} cannot be registered: it must not have commas, equal signs or outer spaces"
    )]
    Name(String),
}

/// A registration that was read.
#[derive(Debug)]
struct Registered {
    key: String,
    name: String,
    urls: Vec<Url>,
}

impl Registry {
    /// The view of a member with this name and these peer URLs.
    ///
    /// # Errors
    /// If its name cannot stand in a registration.
    pub fn new(token: &str, name: &str, urls: &[Url]) -> Result<Self, Refusal> {
        let mut pairs: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
        pairs.sort();
        let value = pairs.join(",");
        match parse_members(&value).as_deref() {
            Ok([(read, _)]) if read == name => {}
            _ => return Err(Refusal::Name(name.to_owned())),
        }
        let id = id_of(urls, token);
        let (token, name) = (token.to_owned(), name.to_owned());
        Ok(Self { token, name, id, urls: urls.to_vec(), value, size: None })
    }

    /// What all keys of the token begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("/_etcd/registry/{}/", self.token)
    }

    /// Where the size of the cluster stands.
    #[must_use]
    pub fn size_key(&self) -> String {
        format!("{}_config/size", self.prefix())
    }

    /// What the keys of all registrations begin with.
    #[must_use]
    pub fn members_prefix(&self) -> String {
        format!("{}members/", self.prefix())
    }

    /// Where this member is registered.
    #[must_use]
    pub fn own_key(&self) -> String {
        format!("{}{}", self.members_prefix(), self.id)
    }

    /// What it registers.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Judges what the service holds: the value of the size key, and everything below `members_prefix`,
    /// both of one revision.
    ///
    /// # Errors
    /// [`Refusal`], which is final.
    pub fn judge(&mut self, size: Option<&[u8]>, members: &[KeyValue]) -> Result<Instruction, Refusal> {
        let size = self.read_size(size)?;
        let mut members: Vec<&KeyValue> = members.iter().collect();
        members.sort_by(|a, b| (a.create_revision, &a.key).cmp(&(b.create_revision, &b.key)));
        let own_key = self.own_key();
        let own = members.iter().position(|kv| kv.key == own_key.as_bytes());
        let first = &members[..size.min(members.len())];
        if own.map_or(size <= members.len(), |place| size <= place) {
            let values = first.iter().map(|kv| text(&kv.value)).collect::<Vec<_>>().join(" ");
            return Err(Refusal::Full { size, token: self.token.clone(), members: values });
        }
        if let Some(place) = own
            && first[place].value != self.value.as_bytes()
        {
            let (registered, value) = (text(&first[place].value), self.value.clone());
            return Err(Refusal::Renamed { key: own_key, registered, value });
        }
        let mut registered = first.iter().map(|kv| self.read(kv)).collect::<Result<Vec<_>, _>>()?;
        if own.is_none() {
            let (name, urls) = (self.name.clone(), self.urls.clone());
            registered.push(Registered { key: own_key, name, urls });
            check_distinct(&registered)?;
            return Ok(Instruction::Register);
        }
        check_distinct(&registered)?;
        let missing = size - registered.len();
        if 0 < missing {
            let registered = registered.into_iter().map(|member| member.name).collect();
            return Ok(Instruction::Wait(Progress { registered, missing }));
        }
        Ok(Instruction::Complete(registered.into_iter().map(|member| (member.name, member.urls)).collect()))
    }

    fn read_size(&mut self, value: Option<&[u8]>) -> Result<usize, Refusal> {
        let key = self.size_key();
        let Some(value) = value else {
            return Err(Refusal::SizeMissing { token: self.token.clone(), key });
        };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        let Some(size) = number.filter(|size| (1..=MEMBERS_MAX).contains(size)) else {
            return Err(Refusal::SizeBad { key, value: text(value) });
        };
        match self.size.replace(size) {
            Some(was) if was != size => Err(Refusal::SizeChanged { key, was, is: size }),
            _ => Ok(size),
        }
    }

    fn read(&self, kv: &KeyValue) -> Result<Registered, Refusal> {
        let key = text(&kv.key);
        let garbage = |reason: String| Refusal::Garbage { key: key.clone(), reason };
        let Ok(value) = std::str::from_utf8(&kv.value) else {
            return Err(garbage("its value is not text".to_owned()));
        };
        let mut listed = parse_members(value).map_err(garbage)?;
        let (name, urls) = match (listed.pop(), listed.is_empty()) {
            (Some(member), true) => member,
            _ => return Err(garbage(format!("{value:?} does not name one member"))),
        };
        let id = id_of(&urls, &self.token);
        if key != format!("{}{id}", self.members_prefix()) {
            return Err(garbage(format!("the member id of {value:?} is {id}")));
        }
        Ok(Registered { key, name, urls })
    }
}

/// The id that a member with these URLs has in the cluster of this token.
fn id_of(urls: &[Url], token: &str) -> MemberId {
    let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
    member_id(&urls, token)
}

/// Bytes of strangers, short enough for a log.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn check_distinct(members: &[Registered]) -> Result<(), Refusal> {
    for (place, b) in members.iter().enumerate() {
        for a in &members[..place] {
            let duplicate = if a.name == b.name {
                ("name", a.name.clone())
            } else if let Some(url) = a.urls.iter().find(|url| b.urls.contains(url)) {
                ("URL", url.to_string())
            } else {
                continue;
            };
            let describe = |member: &Registered| {
                let urls = member.urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                format!("{} at {urls}", member.name)
            };
            let (what, duplicate) = duplicate;
            let (a, b, key) = (describe(a), describe(b), a.key.clone());
            return Err(Refusal::Duplicate { what, duplicate, a, b, key });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "t";

    fn urls(list: &str) -> Vec<Url> {
        Url::parse_list(list).unwrap()
    }

    fn registry(name: &str, list: &str) -> Registry {
        Registry::new(TOKEN, name, &urls(list)).unwrap()
    }

    fn entry(name: &str, list: &str, create_revision: i64) -> KeyValue {
        let registry = registry(name, list);
        let (key, value) = (registry.own_key().into(), registry.value().to_owned().into());
        KeyValue { key, value, create_revision, ..Default::default() }
    }

    fn judge(registry: &mut Registry, size: &str, members: &[KeyValue]) -> Result<Instruction, Refusal> {
        registry.judge(Some(size.as_bytes()), members)
    }

    #[test]
    fn keys_and_value_are_those_of_etcd() {
        let registry = registry("m1", "http://b:2,http://a:1");
        assert_eq!(registry.size_key(), "/_etcd/registry/t/_config/size");
        // SHA-1 of "http://a:1http://b:2t" begins so.
        let id = member_id(&["http://a:1".to_owned(), "http://b:2".to_owned()], TOKEN);
        assert_eq!(registry.own_key(), format!("/_etcd/registry/t/members/{id:}"));
        assert_eq!(registry.value(), "m1=http://a:1,m1=http://b:2");
        for name in ["a,b", "a=b", " a"] {
            assert_eq!(
                Registry::new(TOKEN, name, &urls("http://a:1")).unwrap_err(),
                Refusal::Name(name.into())
            );
        }
    }

    #[test]
    fn member_registers_once_waits_for_the_others_and_all_complete_the_same_list() {
        let (mut a, mut b) = (registry("a", "http://a:1"), registry("b", "http://b:1"));
        let (in_a, in_b) = (entry("a", "http://a:1", 7), entry("b", "http://b:1", 5));
        assert_eq!(judge(&mut a, "2", &[]), Ok(Instruction::Register));
        let progress = Progress { registered: vec!["a".to_owned()], missing: 1 };
        assert_eq!(judge(&mut a, "2", std::slice::from_ref(&in_a)), Ok(Instruction::Wait(progress)));
        assert_eq!(judge(&mut b, "2", std::slice::from_ref(&in_a)), Ok(Instruction::Register));
        let list = Instruction::Complete(vec![
            ("b".to_owned(), urls("http://b:1")),
            ("a".to_owned(), urls("http://a:1")),
        ]);
        let both = [in_a, in_b];
        assert_eq!(judge(&mut a, "2", &both).unwrap(), list, "in the order of registration");
        assert_eq!(judge(&mut b, "2", &both).unwrap(), list);
        assert_eq!(judge(&mut registry("a", "http://a:1"), "2", &both).unwrap(), list, "after a restart");
    }

    #[test]
    fn who_comes_later_finds_the_cluster_full_whether_registered_or_not() {
        let all = [entry("a", "http://a:1", 1), entry("b", "http://b:1", 2), entry("c", "http://c:1", 3)];
        let full = |size: &str, members: &[KeyValue]| {
            let refused = judge(&mut registry("c", "http://c:1"), size, members);
            matches!(refused, Err(Refusal::Full { members, .. }) if members.starts_with("a=http://a:1"))
        };
        assert!(full("2", &all[..2]) && full("2", &all) && full("1", &all));
        assert!(!full("3", &all));
        // What was registered too late is not looked at.
        let garbage = KeyValue { key: "x".into(), create_revision: 9, ..Default::default() };
        let members = [all.as_slice(), &[garbage]].concat();
        assert!(matches!(
            judge(&mut registry("c", "http://c:1"), "3", &members),
            Ok(Instruction::Complete(_))
        ));
    }

    #[test]
    fn size_that_is_missing_bad_or_changes_is_refused_with_its_key() {
        let missing = registry("a", "http://a:1").judge(None, &[]).unwrap_err().to_string();
        assert!(missing.contains("etcdctl put /_etcd/registry/t/_config/size 3"), "{missing}");
        for bad in ["", "0", "-1", "three", "3 ", "1001", "99999999999999999999"] {
            let refused = judge(&mut registry("a", "http://a:1"), bad, &[]).unwrap_err();
            assert!(matches!(&refused, Refusal::SizeBad { value, .. } if value == bad), "{refused}");
        }
        for changed in ["2", "4"] {
            let mut a = registry("a", "http://a:1");
            assert_eq!(judge(&mut a, "3", &[]), Ok(Instruction::Register));
            let refused = judge(&mut a, changed, &[entry("a", "http://a:1", 1)]).unwrap_err();
            assert!(matches!(refused, Refusal::SizeChanged { was: 3, .. }), "{refused}");
        }
    }

    #[test]
    fn duplicate_name_or_url_is_refused_before_it_is_registered_and_after() {
        let (a, a2) = (entry("a", "http://a:1", 1), entry("a", "http://b:1", 2));
        let shared = entry("c", "http://a:1,http://c:1", 3);
        let refusals = [
            judge(&mut registry("a", "http://b:1"), "3", std::slice::from_ref(&a)),
            judge(&mut registry("a", "http://b:1"), "3", &[a.clone(), a2.clone()]),
            judge(&mut registry("a", "http://a:1"), "3", &[a.clone(), a2]),
            judge(&mut registry("c", "http://a:1,http://c:1"), "3", std::slice::from_ref(&a)),
            judge(&mut registry("a", "http://a:1"), "3", &[a, shared]),
        ];
        let what: Vec<&str> = refusals
            .iter()
            .map(|refused| match refused {
                Err(Refusal::Duplicate { what, .. }) => *what,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(what, ["name", "name", "name", "URL", "URL"]);
    }

    #[test]
    fn member_that_registered_under_another_name_is_refused_with_both() {
        let refused = judge(&mut registry("new", "http://a:1"), "3", &[entry("old", "http://a:1", 1)]);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("old=http://a:1") && text.contains("new=http://a:1"), "{text}");
    }

    #[test]
    fn garbage_among_the_first_is_refused_with_its_key_and_reason() {
        let own = entry("a", "http://a:1", 1);
        let good = entry("b", "http://b:1", 2);
        for (key, value, reason) in [
            (&good.key[..], &b"\xff"[..], "not text"),
            (&good.key[..], b"", "does not name one member"),
            (&good.key[..], b"b", "is not name=url"),
            (&good.key[..], b"b=unix://b/", "has the path of its file"),
            (&good.key[..], b"b=http://b:1,c=http://c:1", "does not name one member"),
            (&good.key[..], b"b=http://b:2", "the member id of"),
            (b"/_etcd/registry/t/members/b", &good.value[..], "the member id of"),
            (b"/_etcd/registry/t/members/\xff", &good.value[..], "the member id of"),
        ] {
            let (key, value) = (key.to_vec().into(), value.to_vec().into());
            let bad = KeyValue { key, value, create_revision: 2, ..Default::default() };
            match judge(&mut registry("a", "http://a:1"), "3", &[own.clone(), bad]) {
                Err(Refusal::Garbage { reason: found, .. }) => assert!(found.contains(reason), "{found}"),
                other => panic!("{reason}: {other:?}"),
            }
        }
    }
}
