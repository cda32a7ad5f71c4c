//! What a request under `/v2/keys` asks, out of its method, path and form.
//!
//! Compatibility: etcd's order of checks decides which of several errors is told.

use bytes::Bytes;
use prost::Message as _;

use super::fault::{
    Failure, INDEX_NAN, INVALID_FIELD, PREVIOUS_VALUE_REQUIRED, REFRESH_TTL, REFRESH_VALUE, TTL_NAN,
};
use super::form::Form;
use crate::pb::peer;
use crate::request::{NodeMethod, NodeQuery, NodeWait};
use crate::types::NodePath;

/// Longest time to live: that of the state machine, so that none is cut there.
pub const TTL_MAX_S: u64 = 5_000_000_000;

/// Under which path nodes are.
pub const KEYS: &[u8] = b"/v2/keys";

/// The methods that there are for nodes.
pub const METHODS: &str = "HEAD,GET,PUT,POST,DELETE";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `linearizable`: after everything that was acknowledged before.
    Read {
        query: NodeQuery,
        linearizable: bool,
    },
    Write(Bytes),
    /// `stream`: one change after the other.
    Wait {
        wait: NodeWait,
        stream: bool,
    },
}

/// A request, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAsk {
    pub wanted: Wanted,
    /// The answer shows no node.
    pub shows_nothing: bool,
}

fn integer(form: &Form, name: &str) -> Result<Option<u64>, ()> {
    let Some(value) = form.get(name) else { return Ok(None) };
    let is_decimal = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).map_err(drop)?;
    if is_decimal { text.parse().map(Some).map_err(drop) } else { Err(()) }
}

fn boolean(form: &Form, name: &str) -> Result<Option<bool>, ()> {
    match form.get(name) {
        None => Ok(None),
        Some(b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True") => Ok(Some(true)),
        Some(b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False") => Ok(Some(false)),
        Some(_) => Err(()),
    }
}

impl NodeAsk {
    /// Understands a request. `path` is what follows `/v2/keys`, without escapes; `now_ns` since 1970.
    ///
    /// # Errors
    /// The answer.
    pub fn read(root: &str, method: &str, path: &[u8], form: &Form, now_ns: u64) -> Result<Self, Failure> {
        let invalid =
            |name: &str| Failure::new(INVALID_FIELD, format!("invalid value for \"{name}\"").into_bytes());
        let path = NodePath::clean(root, path)
            .map_err(|fault| Failure::new(INVALID_FIELD, fault.to_string().into_bytes()))?;
        let index = |name: &str| {
            integer(form, name)
                .map_err(|()| Failure::new(INDEX_NAN, format!("invalid value for \"{name}\"").into_bytes()))
        };
        let flag =
            |name: &str| boolean(form, name).map(Option::unwrap_or_default).map_err(|()| invalid(name));
        let previous_index = index("prevIndex")?.unwrap_or_default();
        let wait_index = index("waitIndex")?.unwrap_or_default();
        let recursive = flag("recursive")?;
        // A list is always sorted.
        flag("sorted")?;
        let waits = flag("wait")?;
        let is_directory = flag("dir")?;
        let is_quorum = flag("quorum")?;
        let stream = flag("stream")?;
        if waits && method != "GET" {
            return Err(Failure::of_text(INVALID_FIELD, "\"wait\" can only be used with GET requests"));
        }
        let previous_value = form.get("prevValue");
        if previous_value == Some(b"") {
            return Err(Failure::of_text(PREVIOUS_VALUE_REQUIRED, "\"prevValue\" cannot be empty"));
        }
        let previous_value = Bytes::copy_from_slice(previous_value.unwrap_or_default());
        let shows_nothing = flag("noValueOnSuccess")?;
        let ttl_s = match form.get("ttl") {
            None | Some(b"") => None,
            Some(_) => {
                let ttl_s = integer(form, "ttl").ok().flatten().filter(|ttl_s| *ttl_s <= TTL_MAX_S);
                Some(ttl_s.ok_or_else(|| Failure::of_text(TTL_NAN, "invalid value for \"ttl\""))?)
            }
        };
        let must_exist = boolean(form, "prevExist")
            .map_err(|()| Failure::of_text(INVALID_FIELD, "invalid value for prevExist"))?;
        let refresh = boolean(form, "refresh")
            .map_err(|()| Failure::of_text(INVALID_FIELD, "invalid value for refresh"))?
            .unwrap_or_default();
        let value = form.get("value").unwrap_or_default();
        if refresh && !value.is_empty() {
            return Err(Failure::of_text(REFRESH_VALUE, "A value was provided on a refresh"));
        }
        if refresh && ttl_s.is_none() {
            return Err(Failure::of_text(REFRESH_TTL, "No TTL value set"));
        }
        let is_conditional = previous_index != 0 || !previous_value.is_empty();
        let node_method = match method {
            "PUT" => match must_exist {
                Some(false) => NodeMethod::Create,
                _ if is_conditional => NodeMethod::CompareAndSwap,
                Some(true) => NodeMethod::Update,
                None => NodeMethod::Set,
            },
            "POST" => NodeMethod::CreateInOrder,
            "DELETE" if is_conditional => NodeMethod::CompareAndDelete,
            "DELETE" => NodeMethod::Delete,
            _ if waits && !is_quorum => {
                // An index that no revision can have is one that is never reached.
                let from = i64::try_from(wait_index).unwrap_or(i64::MAX);
                let wait = NodeWait { path, recursive, from, passed: 0 };
                return Ok(Self { wanted: Wanted::Wait { wait, stream }, shows_nothing: false });
            }
            _ => {
                let query = NodeQuery { path, recursive, is_standing: false, at: 0, resume: None };
                let wanted = Wanted::Read { query, linearizable: is_quorum };
                return Ok(Self { wanted, shows_nothing: false });
            }
        };
        let is_put = matches!(method, "PUT" | "POST");
        let expiry = ttl_s.filter(|_| is_put).map(|ttl_s| peer::NodeExpiry {
            at_ns: now_ns.saturating_add(ttl_s.saturating_mul(1_000_000_000)),
            ttl_s,
        });
        let shows_nothing = shows_nothing && method == "PUT";
        let keeps_conditions =
            matches!(node_method, NodeMethod::CompareAndSwap | NodeMethod::CompareAndDelete);
        let write = peer::NodeWrite {
            method: node_method.number(),
            root_bytes: u32::try_from(path.root_bytes()).expect("a path is short"),
            key: path.key().clone(),
            value: if is_put { Bytes::copy_from_slice(value) } else { Bytes::new() },
            is_directory,
            recursive: recursive && node_method == NodeMethod::Delete,
            refresh: refresh && method == "PUT" && node_method != NodeMethod::Create,
            previous_value: if keeps_conditions { previous_value } else { Bytes::new() },
            previous_index: if keeps_conditions { previous_index } else { 0 },
            expiry,
            shows_nothing,
        };
        Ok(Self { wanted: Wanted::Write(write.encode_to_vec().into()), shows_nothing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, query: &str) -> Result<NodeAsk, String> {
        let form = Form::read(b"", query.as_bytes()).unwrap();
        NodeAsk::read("", method, b"/a", &form, 0).map_err(|failure| {
            let mut out = Vec::new();
            failure.put(&mut out);
            String::from_utf8(out).unwrap()
        })
    }

    fn method(http: &str, query: &str) -> NodeMethod {
        let Wanted::Write(body) = read(http, query).unwrap().wanted else { panic!("{query}") };
        NodeMethod::from_number(peer::NodeWrite::decode(body).unwrap().method).unwrap()
    }

    #[test]
    fn conditions_choose_the_method_as_in_etcd() {
        for (http, query, expected) in [
            ("PUT", "value=1", NodeMethod::Set),
            ("PUT", "prevExist=false&prevValue=x", NodeMethod::Create),
            ("PUT", "prevExist=true", NodeMethod::Update),
            ("PUT", "prevExist=true&prevIndex=0", NodeMethod::Update),
            ("PUT", "prevExist=true&prevIndex=3", NodeMethod::CompareAndSwap),
            ("PUT", "prevValue=x", NodeMethod::CompareAndSwap),
            ("POST", "value=1&prevValue=x", NodeMethod::CreateInOrder),
            ("DELETE", "recursive=true", NodeMethod::Delete),
            ("DELETE", "prevIndex=3&recursive=true", NodeMethod::CompareAndDelete),
        ] {
            assert_eq!(method(http, query), expected, "{http} {query}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused_by_its_code_and_cause() {
        for (http, query, code, cause) in [
            ("PUT", "prevIndex=x", 203, "invalid value for \\\"prevIndex\\\""),
            ("GET", "waitIndex=-1", 203, "invalid value for \\\"waitIndex\\\""),
            ("GET", "recursive=yes", 209, "invalid value for \\\"recursive\\\""),
            ("PUT", "wait=true", 209, "\\\"wait\\\" can only be used with GET requests"),
            ("PUT", "prevValue=", 201, "\\\"prevValue\\\" cannot be empty"),
            ("PUT", "ttl=-1", 202, "invalid value for \\\"ttl\\\""),
            ("PUT", "ttl=9223372036854775808", 202, "invalid value for \\\"ttl\\\""),
            ("PUT", "ttl=%2B5", 202, "invalid value for \\\"ttl\\\""),
            ("PUT", "prevExist=", 209, "invalid value for prevExist"),
            ("PUT", "refresh=true&value=x&ttl=5", 211, "A value was provided on a refresh"),
            ("PUT", "refresh=true&ttl=", 212, "No TTL value set"),
            // Of several errors the one that etcd finds first.
            ("PUT", "ttl=x&prevIndex=x&prevExist=x", 203, "invalid value for \\\"prevIndex\\\""),
        ] {
            let told = read(http, query).unwrap_err();
            assert!(told.starts_with(&format!("{{\"errorCode\":{code},")), "{query}: {told}");
            assert!(told.contains(&format!("\"cause\":\"{cause}\",\"index\":0}}")), "{query}: {told}");
        }
    }

    #[test]
    fn a_wait_by_quorum_is_a_read() {
        let is_wait = |query| matches!(read("GET", query).unwrap().wanted, Wanted::Wait { .. });
        assert!(is_wait("wait=true") && is_wait("wait=true&waitIndex=18446744073709551615"));
        assert!(!is_wait("wait=true&quorum=true") && !is_wait("waitIndex=3"));
    }
}
