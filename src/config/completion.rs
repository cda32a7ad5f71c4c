//! Completions of the command line for shells, from the tables of flags and commands.
//!
//! Written by hand and not by `clap_complete`, since the flags are no clap's; see `flags`. Each script is complete in
//! itself: it does not call `pinion` while somebody types.

use std::fmt::Write as _;

use super::commands::{COMMANDS, Command, Takes, first_words};
use super::flags::{self, Flag, Kind, Support};

/// The script for one of `SHELLS`.
pub(super) fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// Flags of a member that are worth being offered.
fn offered() -> impl Iterator<Item = &'static Flag> {
    flags::all().filter(|flag| flag.support == Support::Used)
}

/// What a flag's value is, as far as a shell can help with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    /// A file.
    Path,
    Directory,
    Other,
}

fn value_of(flag: &Flag) -> Value {
    match flag.kind {
        Kind::Bool => Value::None,
        _ => value_of_name(flag.name),
    }
}

fn value_of_name(name: &str) -> Value {
    if name.ends_with("-file") {
        Value::Path
    } else if name.ends_with("-dir") || name == "dir" || name == "force-new-cluster" {
        Value::Directory
    } else if matches!(name, "skip-hash-check" | "mark-compacted" | "force-new-cluster-of-older") {
        Value::None
    } else {
        Value::Other
    }
}

/// The first sentence of a help text, or as much of it as a line takes, without what shells give a meaning to.
fn summary(help: &str) -> String {
    const CHARS_MAX: usize = 76;
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = words.split_once(". ").map_or(&*words, |(first, _)| first).trim_end_matches('.');
    let plain: String =
        sentence.chars().filter(|c| !matches!(c, '\'' | '"' | '[' | ']' | '`' | '\\' | '$')).collect();
    if plain.chars().count() <= CHARS_MAX {
        return plain;
    }
    let cut: String = plain.chars().take(CHARS_MAX).collect();
    let whole = cut.rsplit_once(' ').map_or(&*cut, |(whole, _)| whole);
    format!("{}...", whole.trim_end_matches([',', ';', ':']))
}

fn dashed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("--{name}")).collect::<Vec<_>>().join(" ")
}

/// Names of flags of the member and of all commands whose value is of this kind, as a pattern of `case`.
fn pattern(value: Value) -> String {
    let of_commands = COMMANDS.iter().flat_map(|command| command.flags).copied();
    let of_commands = of_commands.filter(|name| value_of_name(name) == value);
    let mut names: Vec<&str> =
        offered().filter(|flag| value_of(flag) == value).map(|flag| flag.name).chain(of_commands).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().map(|name| format!("--{name}")).collect::<Vec<_>>().join("|")
}

fn seconds(first: &str) -> Vec<&'static str> {
    let pairs = COMMANDS.iter().filter_map(|command| command.words.split_once(' '));
    pairs.filter(|(one, _)| *one == first).map(|(_, second)| second).collect()
}

fn bash() -> String {
    let mut text = String::from(
        "# Completions of pinion for bash: pinion completion bash > /etc/bash_completion.d/pinion\n\
         _pinion() {\n\
         \x20   local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" command=\"${COMP_WORDS[1]}\"\n\
         \x20   # Bash takes --flag=value for three words.\n\
         \x20   if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=\"${COMP_WORDS[COMP_CWORD-2]}\"; fi\n\
         \x20   case $prev in\n",
    );
    for (value, how) in [(Value::Path, "-f"), (Value::Directory, "-d")] {
        let names = pattern(value);
        writeln!(text, "        {names}) COMPREPLY=($(compgen {how} -- \"$cur\")); return;;").expect(WRITES);
    }
    text.push_str("    esac\n");
    let firsts: Vec<&str> = first_words().collect();
    let flags = dashed(offered().map(|flag| flag.name));
    writeln!(
        text,
        "    if ((COMP_CWORD == 1)); then COMPREPLY=($(compgen -W \"{} {flags}\" -- \"$cur\")); return; fi",
        firsts.join(" ")
    )
    .expect(WRITES);
    text.push_str("    case $command in\n");
    for first in firsts {
        let seconds = seconds(first);
        if !seconds.is_empty() {
            let words = seconds.join(" ");
            writeln!(
                text,
                "        {first}) if ((COMP_CWORD == 2)); then COMPREPLY=($(compgen -W \"{words}\" -- \"$cur\")); return; fi\n\
                 \x20           command+=\" ${{COMP_WORDS[2]}}\";;"
            )
            .expect(WRITES);
        }
    }
    text.push_str("    esac\n    case $command in\n");
    for command in COMMANDS {
        let Command { words, takes, flags, .. } = command;
        let flags = dashed(flags.iter().copied());
        let also = match takes {
            Takes::Nothing => String::new(),
            Takes::Word(words) => format!(" $(compgen -W \"{}\" -- \"$cur\")", words.join(" ")),
            Takes::Path | Takes::Either => " $(compgen -f -- \"$cur\")".to_owned(),
            Takes::Directory | Takes::Directories => " $(compgen -d -- \"$cur\")".to_owned(),
        };
        let line = format!("        \"{words}\") COMPREPLY=($(compgen -W \"{flags}\" -- \"$cur\"){also});;");
        writeln!(text, "{line}").expect(WRITES);
    }
    writeln!(text, "        *) COMPREPLY=($(compgen -W \"{flags}\" -- \"$cur\"));;").expect(WRITES);
    text.push_str("    esac\n}\ncomplete -F _pinion pinion\n");
    text
}

fn zsh() -> String {
    let mut text = String::from(
        "#compdef pinion\n\
         # Completions of pinion for zsh: pinion completion zsh > \"${fpath[1]}/_pinion\"\n\
         _pinion() {\n\
         \x20   local -a commands flags\n\
         \x20   commands=(\n",
    );
    for first in first_words() {
        let about: Vec<&str> = COMMANDS
            .iter()
            .filter(|command| command.words.split(' ').next() == Some(first))
            .map(|command| command.about)
            .collect();
        writeln!(text, "        '{first}:{}'", summary(&about.join(", or "))).expect(WRITES);
    }
    text.push_str("    )\n    flags=(\n");
    for flag in offered() {
        let value = match value_of(flag) {
            Value::None => "",
            Value::Path => "=:file:_files",
            Value::Directory => "=:directory:_files -/",
            Value::Other => "=:value:",
        };
        let (equals, action) = value.strip_prefix('=').map_or(("", ""), |action| ("=", action));
        let about = summary(flag.help).replace(':', "\\:");
        writeln!(text, "        '--{}{equals}[{about}]{action}'", flag.name).expect(WRITES);
    }
    text.push_str("    )\n    if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then _describe command commands; return; fi\n");
    text.push_str("    case \"$words[2] $words[3]\" in\n");
    for command in COMMANDS {
        let (pattern, first) = match command.words.split_once(' ') {
            Some((one, two)) => (format!("\"{one} {two}\""), None),
            None => (format!("\"{} \"*", command.words), Some(command.words)),
        };
        let flags = command.flags.iter().map(|name| match value_of_name(name) {
            Value::None => format!("'--{name}'"),
            Value::Path => format!("'--{name}=:file:_files'"),
            Value::Directory => format!("'--{name}=:directory:_files -/'"),
            Value::Other => format!("'--{name}=:value:'"),
        });
        let rest = match command.takes {
            Takes::Nothing => None,
            Takes::Path | Takes::Either => Some("'*:file:_files'".to_owned()),
            Takes::Directory | Takes::Directories => Some("'*:directory:_files -/'".to_owned()),
            Takes::Word(words) => Some(format!("'*:word:({})'", words.join(" "))),
        };
        let seconds = first.map(seconds).unwrap_or_default();
        let arguments: Vec<String> = flags.chain(rest).collect();
        let call =
            if arguments.is_empty() { ":".to_owned() } else { format!("_arguments {}", arguments.join(" ")) };
        debug_assert!(seconds.is_empty(), "a command of two words has no form of one");
        writeln!(text, "        {pattern}) {call};;").expect(WRITES);
    }
    for first in first_words() {
        let seconds = seconds(first);
        if !seconds.is_empty() {
            writeln!(text, "        \"{first} \"*) _values command {};;", seconds.join(" ")).expect(WRITES);
        }
    }
    // Loaded by its name from a directory of completions, or sourced.
    text.push_str("        *) _arguments $flags;;\n    esac\n}\n");
    text.push_str(
        "if [[ $funcstack[1] == _pinion ]]; then _pinion \"$@\"; else compdef _pinion pinion; fi\n",
    );
    text
}

fn fish() -> String {
    let mut text = String::from(
        "# Completions of pinion for fish: pinion completion fish > ~/.config/fish/completions/pinion.fish\n\
         complete -c pinion -f\n",
    );
    let firsts: Vec<&str> = first_words().collect();
    let none = format!("not __fish_seen_subcommand_from {}", firsts.join(" "));
    for command in COMMANDS {
        let about = summary(command.about);
        match command.words.split_once(' ') {
            None => writeln!(text, "complete -c pinion -n '{none}' -a {} -d '{about}'", command.words)
                .expect(WRITES),
            Some((one, two)) => {
                let seen =
                    format!("__fish_seen_subcommand_from {one}; and not __fish_seen_subcommand_from {two}");
                writeln!(text, "complete -c pinion -n '{none}' -a {one}").expect(WRITES);
                writeln!(text, "complete -c pinion -n '{seen}' -a {two} -d '{about}'").expect(WRITES);
            }
        }
        let last = command.words.rsplit(' ').next().expect("a text has a last word");
        let seen = format!("__fish_seen_subcommand_from {last}");
        for name in command.flags {
            writeln!(text, "complete -c pinion -n '{seen}' -l {name}{}", taken(value_of_name(name)))
                .expect(WRITES);
        }
        match command.takes {
            Takes::Nothing => {}
            Takes::Path | Takes::Either | Takes::Directory | Takes::Directories => {
                writeln!(text, "complete -c pinion -n '{seen}' -F").expect(WRITES);
            }
            Takes::Word(words) => {
                writeln!(text, "complete -c pinion -n '{seen}' -a '{}'", words.join(" ")).expect(WRITES);
            }
        }
    }
    for flag in offered() {
        let (name, value, about) = (flag.name, taken(value_of(flag)), summary(flag.help));
        writeln!(text, "complete -c pinion -n '{none}' -l {name}{value} -d '{about}'").expect(WRITES);
    }
    text
}

/// How fish is told what a flag takes.
fn taken(value: Value) -> &'static str {
    match value {
        Value::None => "",
        Value::Path | Value::Directory => " -r -F",
        Value::Other => " -x",
    }
}

const WRITES: &str = "a String takes every write";
