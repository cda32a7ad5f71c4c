//! Arguments behind a command: flags and what is none, in any order.

use super::nearest;
use super::parse::Refused;
use super::value::parse_signed;

/// What stands behind a command.
#[derive(Default)]
pub(super) struct Words {
    pub(super) positional: Vec<String>,
    /// Name without dashes, and value.
    pub(super) flags: Vec<(String, Option<String>)>,
}

pub(super) fn is_help(arg: &str) -> bool {
    matches!(arg, "-h" | "-help" | "--help")
}

impl Words {
    /// `alone` are the flags whose value comes only behind a `=`.
    pub(super) fn read(args: &[String], alone: &[&str]) -> Result<Self, Refused> {
        let mut words = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(body) =
                arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|body| !body.is_empty())
            else {
                words.positional.push(arg.clone());
                continue;
            };
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None if alone.contains(&body) => (body, None),
                None => (body, args.next().cloned()),
            };
            words.flags.push((name.to_owned(), value));
        }
        Ok(words)
    }

    /// The last value of a flag.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, Refused> {
        let mut found = None;
        for (_, value) in self.flags.extract_if(.., |(given, _)| given == name) {
            found = Some(value.ok_or_else(|| Refused::usage(format!("flag needs an argument: -{name}")))?);
        }
        Ok(found)
    }

    pub(super) fn take_number(&mut self, name: &str) -> Result<Option<i64>, Refused> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        let number = parse_signed(&text);
        number.map(Some).map_err(|_| Refused::usage(format!("--{name}={text}: expected a whole number")))
    }

    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool, Refused> {
        let mut found = false;
        for (_, value) in self.flags.extract_if(.., |(given, _)| given == name) {
            found = match value.as_deref() {
                None | Some("true" | "1") => true,
                Some("false" | "0") => false,
                Some(other) => {
                    return Err(Refused::usage(format!("--{name}={other}: expected true or false")));
                }
            };
        }
        Ok(found)
    }

    /// Refuses flags that nobody took.
    pub(super) fn end(&self, command: &str) -> Result<(), Refused> {
        match self.flags.first() {
            Some((name, _)) => {
                let hint = nearest::flag_hint_among(name, command);
                Err(Refused::usage(format!("flag provided but not defined: -{name}{hint}")))
            }
            None => Ok(()),
        }
    }
}
