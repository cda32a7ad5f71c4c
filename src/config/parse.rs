//! From arguments and variables to one text per flag, by the rules of Go's `flag` package.
//!
//! `-x=v`, `--x=v`, `-x v`, `--x v`; a boolean alone is true and takes a value only after `=`. The
//! first argument that is no flag ends the flags, and is then an error, since there are no commands.
//! The last of two equal flags wins. A flag beats its variable. An empty variable is unset, and an empty
//! list of URLs leaves what stood before it, as in etcd. With `--config-file` all other flags and variables are
//! ignored.
//!
//! Owns nothing but the syntax: what a value means is read in `cluster.rs` and `process.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::flags::{self, FILE_FLAG, Flag, GATES_FLAG, Kind, Support};
use super::url::Url;
use super::value::{self, NumberError};
use super::{file, nearest};

/// Why the process does not start, and with which code it exits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// 2 for the command line itself, 1 for what contradicts itself, as etcd.
    pub exit_code: u8,
    /// One sentence or more, without a line end. Names the flag or variable and the value.
    pub message: String,
}

impl Refused {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: 2, message: message.into() }
    }

    pub(super) fn contradiction(message: impl Into<String>) -> Self {
        Self { exit_code: 1, message: message.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The stronger one is the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Variable,
    Argument,
    /// Beside it nothing else counts.
    Document,
}

/// A flag's text, and the flag or variable that it came by, as the operator wrote it.
#[derive(Debug)]
struct Given {
    text: String,
    origin: Origin,
    written: String,
}

/// What was given, by flag name. What was not given has its default: a profile's, or the table's.
#[derive(Debug, Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, Given>,
    /// Defaults that come before the table's.
    profile: &'static [(&'static str, &'static str)],
    is_of_file: bool,
}

/// Reads arguments (without the program's own name) and variables.
pub(super) fn settings(
    args: impl IntoIterator<Item = String>,
    variables: impl IntoIterator<Item = (String, String)>,
    read_file: impl FnOnce(&str) -> Result<String, String>,
) -> Result<(Settings, Vec<String>), Refused> {
    let mut settings = Settings::default();
    let mut stray = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            stray = Some(arg);
            break;
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            stray = args.next();
            break;
        }
        if body.starts_with(['-', '=']) {
            return Err(Refused::usage(format!("bad flag syntax: {arg}")));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        // Go's spelling of the same wish.
        let name = if name == "h" { "help" } else { name };
        let Some(flag) = flags::find(name) else {
            let hint = nearest::flag_hint(name);
            return Err(Refused::usage(format!("flag provided but not defined: -{name}{hint}")));
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => {
                args.next().ok_or_else(|| Refused::usage(format!("flag needs an argument: -{name}")))?
            }
        };
        if flag.kind == Kind::Urls && value.is_empty() && settings.is_given(flag.name) {
            continue;
        }
        let written = format!("--{name}");
        settings.given.insert(flag.name, Given { text: value, origin: Origin::Argument, written });
    }
    let asks_only =
        ["help", "help-markdown", "help-metrics", "version"].iter().any(|name| settings.is_given(name));
    if let Some(stray) = stray.filter(|_| !asks_only) {
        let hint = nearest::command_hint(&stray);
        return Err(Refused::contradiction(format!("{stray:?} is not a valid flag{hint}")));
    }
    let variables: Vec<(String, String)> = variables.into_iter().collect();
    let mut warnings = match settings.file_of(&variables).filter(|_| !asks_only) {
        Some((path, source)) => settings.take_file(&path, &source, &variables, read_file)?,
        None => settings.take_variables(variables),
    };
    warnings.extend(settings.take_old_names()?);
    for (name, given) in &settings.given {
        let flag = flags::find(name).expect("only names from the table were inserted");
        warnings.extend(settings.check_support(flag, &given.text)?);
    }
    // Nonsense is refused where the rest of the configuration is read, after `--help`.
    if settings.boolean("low-latency") == Ok(true) {
        settings.profile = flags::LOW_LATENCY;
    }
    Ok((settings, warnings))
}

/// Whether two texts mean the same value, so that `0s` and `0` or `F` and `false` do not differ.
fn same(kind: Kind, a: &str, b: &str) -> bool {
    match kind {
        Kind::Bool => match (value::parse_bool(a), value::parse_bool(b)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
        Kind::Duration => match (value::parse_duration(a), value::parse_duration(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        },
        Kind::Number => match (value::parse_signed(a), value::parse_signed(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        },
        Kind::Text | Kind::Urls => a == b,
    }
}

/// What a text should have been, if it is not of this kind. URLs and other texts may be anything here.
fn expected(kind: Kind, text: &str) -> Option<String> {
    match kind {
        Kind::Bool if value::parse_bool(text).is_none() => Some("expected true or false".to_owned()),
        Kind::Number if value::parse_signed(text).is_err() => Some("expected a whole number".to_owned()),
        // etcd takes a negative one for none.
        Kind::Duration => value::parse_duration(text.strip_prefix('-').unwrap_or(text)).err(),
        Kind::Bool | Kind::Number | Kind::Text | Kind::Urls => None,
    }
}

impl Settings {
    /// Refuses what this version does not do, before anything is done; tells what has no effect.
    fn check_support(&self, flag: &Flag, value: &str) -> Result<Option<String>, Refused> {
        // An empty text asks for nothing, whatever the default is.
        let is_empty = value.is_empty() && matches!(flag.kind, Kind::Text | Kind::Urls);
        let is_default = is_empty || same(flag.kind, value, flag.default);
        let source = self.source(flag.name);
        match flag.support {
            Support::Used | Support::Ignored => Ok(None),
            Support::Renamed { .. } | Support::StandsFor { .. } | Support::Gate(_) => {
                unreachable!("old names were replaced by the new ones")
            }
            Support::Missing { .. } | Support::Moot { .. } if is_default => Ok(None),
            Support::Missing { harmless, because } => {
                if harmless.iter().any(|known| same(flag.kind, value, known)) {
                    return Ok(None);
                }
                Err(self.refuse(format!("{source}={value}: {because}")))
            }
            Support::Moot { words, because } => {
                if let Some(reason) = expected(flag.kind, value) {
                    return Err(self.invalid(flag.name, &reason));
                }
                if !words.is_empty() && !words.contains(&value) {
                    return Err(self.invalid(flag.name, &format!("expected one of {}", words.join(", "))));
                }
                Ok(Some(format!("{source}={value} has no effect: {because}")))
            }
        }
    }

    /// The configuration file that was asked for, and by what.
    fn file_of(&self, variables: &[(String, String)]) -> Option<(String, String)> {
        let given = self.given.get(FILE_FLAG).map(|given| (given.text.clone(), given.written.clone()));
        let variable = flags::find(FILE_FLAG).expect("it is in the table").variable();
        let by_variable = || {
            let (_, text) = variables.iter().find(|(name, _)| *name == variable)?;
            Some((text.clone(), variable.clone()))
        };
        given.or_else(by_variable).filter(|(path, _)| !path.is_empty())
    }

    /// Puts what a file says in the place of everything else.
    fn take_file(
        &mut self,
        path: &str,
        source: &str,
        variables: &[(String, String)],
        read_file: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<Vec<String>, Refused> {
        let wrong = |reason: String| Refused::contradiction(format!("{source}={path}: {reason}"));
        let contents = read_file(path).and_then(|text| file::read(&text)).map_err(wrong)?;
        let others = self.given.iter().filter(|(name, _)| **name != FILE_FLAG);
        let mut ignored: Vec<String> = others.map(|(_, given)| given.written.clone()).collect();
        let is_ours = |name: &str| name.starts_with("ETCD_") || name.starts_with("PINION_");
        let set = variables.iter().filter(|(name, value)| is_ours(name) && !value.is_empty());
        ignored.extend(set.map(|(name, _)| name.clone()).filter(|name| name != "ETCD_CONFIG_FILE"));
        ignored.sort();
        let mut warnings = Vec::new();
        if !ignored.is_empty() {
            let ignored = ignored.join(", ");
            warnings.push(format!("{source}={path} is all that counts; ignored: {ignored}"));
        }
        warnings.extend(contents.warnings.into_iter().map(|warning| format!("{path}: {warning}")));
        self.given.clear();
        self.is_of_file = true;
        for entry in contents.entries {
            let written = format!("{} in {path}", entry.key);
            self.given.insert(entry.flag, Given { text: entry.text, origin: Origin::Document, written });
        }
        Ok(warnings)
    }

    /// Whether a file is all that counts.
    pub(super) fn is_of_file(&self) -> bool {
        self.is_of_file
    }

    fn take_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
        let known: BTreeMap<String, &'static Flag> =
            flags::all().map(|flag| (flag.variable(), flag)).collect();
        let mut warnings = Vec::new();
        for (variable, value) in variables {
            // `ETCDCTL_…` does not begin with `ETCD_`.
            if !variable.starts_with("ETCD_") && !variable.starts_with("PINION_") {
                continue;
            }
            match known.get(&variable) {
                // Images that set ETCD_VERSION mean their own contents, not a wish to print it.
                Some(flag) if matches!(flag.name, "version" | "help" | "help-markdown" | "help-metrics") => {
                    warnings.push(format!("environment variable {variable} is ignored"));
                }
                Some(flag) if value.is_empty() && flag.support != Support::Used => {}
                Some(flag) if self.is_given(flag.name) => warnings.push(format!(
                    "recognized environment variable {variable}, but unused: shadowed by flag --{}",
                    flag.name
                )),
                Some(_) if value.is_empty() => {}
                Some(flag) => {
                    let given = Given { text: value, origin: Origin::Variable, written: variable };
                    self.given.insert(flag.name, given);
                }
                None => warnings.push(format!("unrecognized environment variable {variable}")),
            }
        }
        // The environment has no order; a log that people compare should.
        warnings.sort();
        warnings
    }

    /// Puts what came by an older name where today's name belongs; that one wins over it, and an argument over a
    /// variable. Gates are told one by one, and by `--feature-gates` last.
    fn take_old_names(&mut self) -> Result<Vec<String>, Refused> {
        let mut warnings = Vec::new();
        let mut gates = Vec::new();
        for flag in flags::all() {
            let is_old = matches!(
                flag.support,
                Support::Renamed { .. } | Support::StandsFor { .. } | Support::Gate(_)
            );
            let Some(given) = is_old.then(|| self.given.remove(flag.name)).flatten() else { continue };
            let position = value::parse_bool(&given.text);
            if flag.kind == Kind::Bool && position.is_none() {
                let Given { text, written, .. } = given;
                return Err(
                    self.refuse(format!("invalid value {text:?} for {written}: expected true or false"))
                );
            }
            let (to, text) = match flag.support {
                Support::Gate(gate) => {
                    let position = position.expect("gates are booleans");
                    warnings.push(format!(
                        "{} is an older name; write --{GATES_FLAG}={gate}={position}",
                        given.written
                    ));
                    gates.push(format!("{gate}={position}"));
                    continue;
                }
                Support::StandsFor { to, text } if position == Some(true) => (to, text.to_owned()),
                Support::StandsFor { .. } => continue,
                Support::Renamed { to } => (to, given.text),
                _ => unreachable!("only old names come this far"),
            };
            if let Some(known) = self.given.get(to)
                && given.origin <= known.origin
            {
                warnings.push(format!("{} is unused: shadowed by {}", given.written, known.written));
                continue;
            }
            warnings.push(format!("{} is an older name; write --{to}={text}", given.written));
            self.given.insert(to, Given { text, origin: given.origin, written: given.written });
        }
        if !gates.is_empty() {
            let known = self.given.remove(GATES_FLAG);
            let (origin, written) =
                known.as_ref().map_or((Origin::Argument, format!("--{GATES_FLAG}")), |known| {
                    (known.origin, known.written.clone())
                });
            gates.extend(known.map(|known| known.text));
            self.given.insert(GATES_FLAG, Given { text: gates.join(","), origin, written });
        }
        Ok(warnings)
    }

    /// Whether the flag or its variable was given at all.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The flag or variable to blame, as the operator wrote it.
    pub(super) fn source(&self, name: &str) -> String {
        self.given.get(name).map_or_else(|| format!("--{name}"), |given| given.written.clone())
    }

    /// The flag's text: given, or the profile's, or its default.
    pub(super) fn text(&self, name: &str) -> &str {
        if let Some(given) = self.given.get(name) {
            return &given.text;
        }
        if let Some((_, value)) = self.profile.iter().find(|(flag, _)| *flag == name) {
            return value;
        }
        flags::find(name).expect("settings are read by names that the table has").default
    }

    /// A boolean.
    pub(super) fn boolean(&self, name: &str) -> Result<bool, Refused> {
        value::parse_bool(self.text(name)).ok_or_else(|| self.invalid(name, "expected true or false"))
    }

    /// A whole number within `min..=max`.
    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<u64, Refused> {
        let number = match value::parse_unsigned(self.text(name)) {
            Ok(number) => number,
            Err(NumberError::Syntax) => {
                return Err(self.invalid(name, "expected a whole number, not negative"));
            }
            Err(NumberError::TooLarge) => return Err(self.invalid(name, &format!("at most {max}"))),
        };
        if number < min {
            return Err(self.invalid(name, &format!("at least {min}")));
        }
        if number > max {
            return Err(self.invalid(name, &format!("at most {max}")));
        }
        Ok(number)
    }

    /// A whole number of 32 bits within `min..=max`.
    pub(super) fn number_u32(&self, name: &str, min: u32, max: u32) -> Result<u32, Refused> {
        let number = self.number(name, u64::from(min), u64::from(max))?;
        Ok(u32::try_from(number).expect("bounded by a u32 above"))
    }

    /// A duration.
    pub(super) fn duration(&self, name: &str) -> Result<Duration, Refused> {
        value::parse_duration(self.text(name)).map_err(|reason| self.invalid(name, &reason))
    }

    /// A list of URLs, not empty. An empty text stands for the default.
    pub(super) fn urls(&self, name: &str) -> Result<Vec<Url>, Refused> {
        let text = match self.text(name) {
            "" => flags::find(name).expect("settings are read by names that the table has").default,
            text => text,
        };
        Url::parse_list(text).map_err(|error| self.invalid(name, &error.to_string()))
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<T, Refused> {
        let text = self.text(name);
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Err(self.invalid(name, &format!("expected one of {}", known.join(", "))))
    }

    /// The refusal of a value that cannot be read.
    pub(super) fn invalid(&self, name: &str, reason: &str) -> Refused {
        self.refuse(format!("invalid value {:?} for {}: {reason}", self.text(name), self.source(name)))
    }

    /// The refusal of what was given. As in etcd the command line is in order if it names a file that is not.
    fn refuse(&self, message: String) -> Refused {
        if self.is_of_file { Refused::contradiction(message) } else { Refused::usage(message) }
    }
}
