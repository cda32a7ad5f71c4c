//! Guesses at misspelt words.

use super::commands;
use super::flags::{self, Support};

/// The word of `words` that is nearest to `word`, if one is near: a letter in three may be wrong.
fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A letter or two are near to everything. Longer ones are no slips of a finger, and a comparison costs the product
    // of both lengths.
    const CHARS: std::ops::RangeInclusive<usize> = 3..=64;
    let count = word.chars().count();
    if !CHARS.contains(&count) {
        return None;
    }
    let near = words.map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate));
    near.filter(|(distance, _)| *distance <= (count / 3).max(1)).min().map(|(_, candidate)| candidate)
}

/// What to say behind a refusal of a flag of that name, which there is not; perhaps nothing.
pub(super) fn flag_hint(name: &str) -> String {
    let is_meant = |support| matches!(support, Support::Used);
    let names = flags::all().filter(|flag| is_meant(flag.support)).map(|flag| flag.name);
    nearest(name, names).map_or_else(String::new, |name| format!("; did you mean --{name}?"))
}

/// The same of a flag of a command.
pub(super) fn flag_hint_among(name: &str, words: &str) -> String {
    let command = commands::COMMANDS.iter().find(|command| command.words == words);
    let names = command.into_iter().flat_map(|command| command.flags.iter().copied());
    nearest(name, names).map_or_else(String::new, |name| format!("; did you mean --{name}?"))
}

/// The same of a first argument that is no flag.
pub(super) fn command_hint(word: &str) -> String {
    if let Some(command) = nearest(word, commands::first_words()) {
        return format!("; did you mean `pinion {command}`?");
    }
    nearest(word, flags::all().map(|flag| flag.name))
        .map_or_else(String::new, |name| format!("; did you mean --{name}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_a_finger_is_guessed_and_another_word_is_not() {
        assert_eq!(flag_hint("lsten-client-urls"), "; did you mean --listen-client-urls?");
        assert_eq!(flag_hint("data_dir"), "; did you mean --data-dir?");
        assert_eq!(flag_hint("nope"), "");
        assert_eq!(flag_hint(&"data-dir".repeat(1_000)), "");
        assert_eq!(flag_hint_among("bumb-revision", "recover"), "; did you mean --bump-revision?");
        assert_eq!(flag_hint_among("skip-hash-chek", "recover"), "", "a restore's, not a recovery's");
        assert_eq!(command_hint("sttaus"), "; did you mean `pinion status`?");
        assert_eq!(command_hint("recovr"), "; did you mean `pinion recover`?");
        assert_eq!(command_hint("data-dir"), "; did you mean --data-dir?");
        assert_eq!(command_hint("extra"), "");
        assert_eq!(command_hint("-"), "");
    }
}
