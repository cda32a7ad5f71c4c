//! `--config-file`: one text per flag, as the command line gives, out of YAML, of which JSON is a part.
//!
//! Keys are flags' names, but for those of a section (`SECTIONS`). Types are as strict as etcd's: a number is no
//! text, a quoted number is no number, a duration is whole nanoseconds, and a key without a value is not given. A key
//! that is unknown is passed over, as in etcd, and warned about.
//!
//! No anchors and aliases, with which a small file can stand for a huge one. Of several documents the first is
//! read. A key that comes twice counts as it comes last.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::flags::{self, Flag, Kind, Support};
use super::value;

/// Bytes of a file at most.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys inside of keys, and the flags that they stand for.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
            ("auto-tls", "auto-tls"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("auto-tls", "peer-auto-tls"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    ),
    ("socket-options", &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")]),
    ("discovery-config", &[("token", "discovery-token")]),
    (
        "discovery-config.client",
        &[
            ("endpoints", "discovery-endpoints"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("request-timeout", "discovery-request-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "discovery-config.client.secure",
        &[
            ("cert", "discovery-cert"),
            ("key", "discovery-key"),
            ("cacert", "discovery-cacert"),
            ("insecure-transport", "discovery-insecure-transport"),
            ("insecure-skip-tls-verify", "discovery-insecure-skip-tls-verify"),
        ],
    ),
    ("discovery-config.client.auth", &[("username", "discovery-user"), ("password", "discovery-password")]),
];

/// Flags that a file cannot set.
const NOT_IN_FILES: &[&str] = &[
    "config-file",
    "version",
    "help",
    "help-markdown",
    "raft-read-timeout",
    "raft-write-timeout",
    "client-crl-file",
    "peer-crl-file",
    "discovery-fallback",
];

/// Flags whose value is a list of texts.
const LISTS: &[&str] = &["log-outputs", "cipher-suites", "discovery-endpoints"];

/// A key of the file that stands for a flag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub flag: &'static str,
    /// As the command line would give it.
    pub text: String,
    /// As it is written in the file, with its sections.
    pub key: String,
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub entries: Vec<Entry>,
    pub warnings: Vec<String>,
}

/// Reads a configuration file.
///
/// # Errors
/// What is wrong, and in which line.
pub(super) fn read(text: &str) -> Result<Contents, String> {
    let mut contents = Contents::default();
    for (key, node, line) in mapping(text)? {
        let Some(flag) = flag_of(&key) else {
            contents.warnings.push(format!("line {line}: the key {key} is unknown, and ignored"));
            continue;
        };
        let text = text_of(flag, &node).map_err(|expected| format!("line {line}: {key}: {expected}"))?;
        if let Some(text) = text {
            if contents.entries.iter().any(|entry| entry.flag == flag.name) {
                contents
                    .warnings
                    .push(format!("line {line}: {key} is given twice, and counts as it is here"));
                contents.entries.retain(|entry| entry.flag != flag.name);
            }
            contents.entries.push(Entry { flag: flag.name, text, key });
        }
    }
    Ok(contents)
}

/// The members of a JSON object, or of a YAML mapping: scalars by their names.
///
/// # Errors
/// What is wrong, and in which line.
pub(super) fn scalars(text: &str) -> Result<Vec<(String, Scalar)>, String> {
    let scalar = |(key, node, line)| match node {
        Node::Scalar(scalar) => Ok((key, scalar)),
        Node::List(_) => Err(format!("line {line}: {key} is a list")),
    };
    mapping(text)?.into_iter().map(scalar).collect()
}

/// A value without parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Integer(i64),
    /// Of a number that is too large or not whole, as it is written.
    Number(String),
    Text(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Scalar(Scalar),
    List(Vec<Scalar>),
}

fn flag_of(key: &str) -> Option<&'static Flag> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let name = if section.is_empty() {
        // What has a section has no key of its own.
        let is_inside = SECTIONS.iter().flat_map(|(_, keys)| *keys).any(|(_, flag)| *flag == name);
        (!is_inside).then_some(name)?
    } else {
        let (_, keys) = SECTIONS.iter().find(|(known, _)| *known == section)?;
        keys.iter().find(|(known, _)| *known == name)?.1
    };
    flags::find(name).filter(|flag| !NOT_IN_FILES.contains(&name) && flag.support != Support::Ignored)
}

/// The flag's text; None if the key has no value.
fn text_of(flag: &Flag, node: &Node) -> Result<Option<String>, String> {
    let is_list = LISTS.contains(&flag.name);
    let scalar = match node {
        Node::List(items) if is_list => {
            let texts = items.iter().map(|item| match item {
                Scalar::Text(text) => Ok(text.as_str()),
                _ => Err("expected a list of texts".to_owned()),
            });
            return Ok(Some(texts.collect::<Result<Vec<_>, _>>()?.join(",")));
        }
        Node::List(_) => return Err("expected no list".to_owned()),
        Node::Scalar(Scalar::Null) => return Ok(None),
        Node::Scalar(_) if is_list => return Err("expected a list of texts, as in [a, b]".to_owned()),
        Node::Scalar(scalar) => scalar,
    };
    match (flag.kind, scalar) {
        (Kind::Bool, Scalar::Bool(value)) => Ok(value.to_string()),
        (Kind::Bool, _) => Err("expected true or false, without quotes".to_owned()),
        (Kind::Number, Scalar::Integer(number)) => Ok(number.to_string()),
        // Too large for a signed number; what the flag says of it is as good.
        (Kind::Number, Scalar::Number(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(text.clone())
        }
        (Kind::Number, _) => Err("expected a whole number, without quotes".to_owned()),
        (Kind::Duration, Scalar::Integer(ns)) => Ok(format!("{ns}ns")),
        (Kind::Duration, Scalar::Text(text)) => Err(match value::parse_duration(text) {
            Ok(duration) => {
                format!("expected whole nanoseconds, as etcd does; {text} is {}", duration.as_nanos())
            }
            Err(_) => "expected whole nanoseconds".to_owned(),
        }),
        (Kind::Duration, _) => Err("expected whole nanoseconds".to_owned()),
        (Kind::Text | Kind::Urls, Scalar::Text(text)) => Ok(text.clone()),
        (Kind::Text | Kind::Urls, _) => Err("expected a text; put it into quotes".to_owned()),
    }
    .map(Some)
}

/// The keys of the first document, those of sections behind their section's, with the line of each.
fn mapping(text: &str) -> Result<Vec<(String, Node, usize)>, String> {
    let mut events = Events(Parser::new_from_str(text));
    let (mut found, mut path) = (Vec::new(), Vec::<String>::new());
    loop {
        match events.next()? {
            (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
            (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(found),
            (Event::MappingStart(..), _) => break,
            (Event::Scalar(value, style, _, tag), _)
                if scalar(&value, style, tag.is_some()) == Scalar::Null =>
            {
                return Ok(found);
            }
            (_, line) => return Err(format!("line {line}: expected keys with values")),
        }
    }
    loop {
        let (name, line) = match events.next()? {
            (Event::MappingEnd, _) if path.pop().is_none() => return Ok(found),
            (Event::MappingEnd, _) => continue,
            (Event::Scalar(name, ..), line) => (name.into_owned(), line),
            (_, line) => return Err(format!("line {line}: expected a key")),
        };
        let key = path.iter().map(String::as_str).chain([name.as_str()]).collect::<Vec<_>>().join(".");
        match events.next()? {
            (Event::Scalar(value, style, _, tag), _) => {
                found.push((key, Node::Scalar(scalar(&value, style, tag.is_some())), line));
            }
            (Event::MappingStart(..), _) => path.push(name),
            (Event::SequenceStart(..), _) => found.push((key, Node::List(events.list()?), line)),
            (_, line) => return Err(format!("line {line}: expected a value")),
        }
    }
}

struct Events<'a>(Parser<'a, saphyr_parser::StrInput<'a>>);

impl<'a> Events<'a> {
    /// The next event and its line.
    fn next(&mut self) -> Result<(Event<'a>, usize), String> {
        let next: Option<Result<(Event<'a>, Span), ScanError>> = self.0.next();
        match next {
            None => Ok((Event::StreamEnd, 0)),
            Some(Ok((Event::Alias(_), span))) => {
                Err(format!("line {}: aliases are not read here; write it out", span.start.line()))
            }
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => Err(format!("line {}: {}", error.marker().line(), error.info())),
        }
    }

    /// The rest of a sequence that has begun.
    fn list(&mut self) -> Result<Vec<Scalar>, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (Event::Scalar(value, style, _, tag), _) => items.push(scalar(&value, style, tag.is_some())),
                (_, line) => return Err(format!("line {line}: expected a list of plain values")),
            }
        }
    }
}

/// The value of a scalar by the rules of YAML 1.1, as Go's reader has them. One with a tag is a text.
fn scalar(text: &str, style: ScalarStyle, is_tagged: bool) -> Scalar {
    if style != ScalarStyle::Plain || is_tagged {
        return Scalar::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Scalar::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        _ => {}
    }
    if !text.starts_with(['+', '-', '.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        return Scalar::Text(text.to_owned());
    }
    if let Ok(number) = value::parse_signed(text) {
        return Scalar::Integer(number);
    }
    match text.parse::<f64>() {
        // Whole, and exact: below 2^53.
        Ok(number) if number.fract() == 0.0 && number.abs() < 9.0e15 =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "whole and small, by the line above")]
            Scalar::Integer(number as i64)
        }
        Ok(_) => Scalar::Number(text.to_owned()),
        Err(_) => Scalar::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Vec<(&'static str, String)> {
        read(text).unwrap().entries.into_iter().map(|entry| (entry.flag, entry.text)).collect()
    }

    fn refused(text: &str) -> String {
        read(text).unwrap_err()
    }

    #[test]
    fn a_file_gives_flags_their_texts_in_yaml_or_json() {
        let yaml = "# etcd's sample\nname: 'a'\ndata-dir: /var/lib/x\nsnapshot-count: 10000\nheartbeat-interval: 0x64\n\
                    pre-vote: yes\nlisten-client-urls: http://localhost:1,http://localhost:2\n\
                    grpc-keepalive-interval: 5000000000\nlog-outputs: [stderr, /tmp/x]\nquota-backend-bytes:\n\
                    socket-options:\n  reuse-port: true\ndiscovery-config:\n  token: t\n  client:\n    endpoints: [e]\n";
        let want = [
            ("name", "a"),
            ("data-dir", "/var/lib/x"),
            ("snapshot-count", "10000"),
            ("heartbeat-interval", "100"),
            ("pre-vote", "true"),
            ("listen-client-urls", "http://localhost:1,http://localhost:2"),
            ("grpc-keepalive-interval", "5000000000ns"),
            ("log-outputs", "stderr,/tmp/x"),
            ("socket-reuse-port", "true"),
            ("discovery-token", "t"),
            ("discovery-endpoints", "e"),
        ];
        assert_eq!(given(yaml), want.map(|(flag, text)| (flag, text.to_owned())));
        let json = r#"{"name": "a", "snapshot-count": 1e3, "client-transport-security": {"cert-file": "c"}}"#;
        let want = [("name", "a"), ("snapshot-count", "1000"), ("cert-file", "c")];
        assert_eq!(given(json), want.map(|(flag, text)| (flag, text.to_owned())));
        for nothing in ["", "# nothing\n", "~\n", "---\n...\n", "name: x\n---\nname: y\n"] {
            assert!(given(nothing).len() <= 1, "{nothing:?}");
        }
    }

    /// Each was given to etcd 3.5.30.
    #[test]
    fn types_are_as_strict_as_etcds() {
        for (text, reason) in [
            ("name: 5", "line 1: name: expected a text"),
            ("name: x\nauto-compaction-retention: 1", "line 2: auto-compaction-retention: expected a text"),
            ("snapshot-count: \"100\"", "expected a whole number, without quotes"),
            ("snapshot-count: 1.5", "expected a whole number"),
            ("pre-vote: \"true\"", "expected true or false, without quotes"),
            ("pre-vote: 1", "expected true or false"),
            ("grpc-keepalive-interval: 5s", "expected whole nanoseconds, as etcd does; 5s is 5000000000"),
            ("grpc-keepalive-interval: true", "expected whole nanoseconds"),
            ("log-outputs: stdout", "expected a list of texts"),
            ("log-outputs: [1]", "expected a list of texts"),
            ("cors: ['*']", "expected no list"),
            ("name: y", "expected a text"),
            ("hello", "expected keys with values"),
            ("- name", "expected keys with values"),
            ("name: [x", "while parsing a flow sequence"),
            ("name: &a x\nwal-dir: *a", "line 2: aliases are not read here"),
            ("? [a]\n: b", "expected a key"),
        ] {
            let error = refused(text);
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn unknown_keys_are_passed_over_with_a_warning_and_the_last_of_two_counts() {
        let contents =
            read("no-such-key: 5\nversion: true\ncert-file: c\nname: a\nname: b\nx:\n  y: {z: [1]}\n")
                .unwrap();
        assert_eq!(contents.entries.len(), 1);
        assert_eq!(contents.entries[0].text, "b");
        assert_eq!(contents.warnings.len(), 5, "{:?}", contents.warnings);
        assert!(contents.warnings[0].contains("no-such-key is unknown"));
    }

    #[test]
    fn every_flag_of_a_section_is_in_the_table() {
        for (_, keys) in SECTIONS {
            for (_, flag) in *keys {
                assert!(flags::find(flag).is_some(), "{flag}");
            }
        }
        for flag in NOT_IN_FILES.iter().chain(LISTS) {
            assert!(flags::find(flag).is_some(), "{flag}");
        }
    }

    #[test]
    fn noise_never_panics_the_reader() {
        let seed =
            b"name: x\nlog-outputs: [a, 'b', \"c\\n\"]\nsocket-options: {reuse-port: true}\n? k\n: v\n";
        for cut in 0..seed.len() {
            for flip in [0, 1, 32, 128] {
                let mut bytes = seed.to_vec();
                bytes[cut] ^= flip;
                let text = String::from_utf8_lossy(&bytes);
                drop(read(&text));
                drop(read(&text[..text.floor_char_boundary(cut)]));
            }
        }
    }
}
