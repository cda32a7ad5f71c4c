//! Which source file uses which other: an index of the `use` declarations and paths of `src/`.
//!
//! Reads text, not types. A name that a module imports or re-exports is followed to the file that defines
//! it, so `use super::Store` in `mvcc/txn.rs` is an arrow to `mvcc/store.rs` and not to `mvcc/mod.rs`. To
//! declare a module or to re-export a name of one's own folder is no arrow. Tests are left out: they may
//! use anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// A place where one file uses another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) from: PathBuf,
    pub(crate) line: usize,
    /// As it is written.
    pub(crate) path: String,
    pub(crate) to: PathBuf,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.from.display(), self.line, self.path)
    }
}

/// Segments of a path from the crate's root.
type ModulePath = Vec<String>;

/// Every use of one file by another, in the order of files and lines. `sources` are paths below `src/`.
pub(crate) fn imports(sources: &[(PathBuf, String)]) -> Vec<Import> {
    let parsed: Vec<Parsed> = sources.iter().map(|(path, text)| Parsed::new(path, text)).collect();
    let only_tests: BTreeSet<ModulePath> =
        parsed.iter().flat_map(|file| file.test_modules.iter().map(|name| file.child(name))).collect();
    let files: BTreeMap<&ModulePath, &Parsed> = parsed.iter().map(|file| (&file.module, file)).collect();
    let modules = Modules { files };
    let mut imports = BTreeSet::new();
    for file in parsed.iter().filter(|file| !only_tests.iter().any(|test| file.module.starts_with(test))) {
        for used in &file.uses {
            if used.kind == UsedIn::Code && file.names.contains_key(&used.segments[0]) {
                continue; // through a `use`, which counts already
            }
            let Some(target) =
                modules.absolute(file, &used.segments).and_then(|path| modules.file_of(&path, 0))
            else {
                continue;
            };
            let is_reexport = used.kind == UsedIn::PublicUse && target.module.starts_with(&file.module);
            if target.path != file.path && !is_reexport {
                imports.insert(Import {
                    from: file.path.clone(),
                    line: used.line,
                    path: used.segments.join("::"),
                    to: target.path.clone(),
                });
            }
        }
    }
    imports.into_iter().collect()
}

struct Modules<'a> {
    files: BTreeMap<&'a ModulePath, &'a Parsed>,
}

impl Modules<'_> {
    /// A path as it is written in `file`, from the crate's root; `None` when it leads to another crate.
    fn absolute(&self, file: &Parsed, segments: &[String]) -> Option<ModulePath> {
        let (first, rest) = segments.split_first()?;
        let mut path = match first.as_str() {
            "crate" => Vec::new(),
            "self" => file.module.clone(),
            "super" => {
                let mut path = file.module.clone();
                let levels = segments.iter().take_while(|segment| *segment == "super").count();
                path.truncate(path.len().checked_sub(levels)?);
                path.extend_from_slice(&segments[levels..]);
                return Some(path);
            }
            name if self.files.contains_key(&file.child(name)) => file.child(name),
            name => self.absolute(file, file.names.get(name).filter(|path| path.first() != Some(first))?)?,
        };
        path.extend_from_slice(rest);
        Some(path)
    }

    /// The file that defines the item.
    fn file_of(&self, path: &[String], depth: usize) -> Option<&Parsed> {
        let known = (0..=path.len()).rev().find(|len| self.files.contains_key(&path[..*len].to_vec()))?;
        let file = self.files[&path[..known].to_vec()];
        // An import that an import leads to, and so on: no name goes through more than a few.
        let imported = path.get(known).filter(|_| depth < 8).and_then(|name| file.names.get(name));
        match imported.and_then(|segments| self.absolute(file, segments)) {
            Some(mut target) => {
                target.extend_from_slice(&path[known + 1..]);
                self.file_of(&target, depth + 1)
            }
            None => Some(file),
        }
    }
}

/// One path in a file.
#[derive(Debug)]
struct Used {
    segments: Vec<String>,
    line: usize,
    kind: UsedIn,
}

/// Where a path stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsedIn {
    PublicUse,
    Use,
    Code,
}

#[derive(Debug)]
struct Parsed {
    path: PathBuf,
    module: ModulePath,
    uses: Vec<Used>,
    /// Names that `use` brings into scope, with the paths they stand for.
    names: BTreeMap<String, Vec<String>>,
    /// Modules that are declared for tests alone.
    test_modules: Vec<String>,
}

impl Parsed {
    fn child(&self, name: &str) -> ModulePath {
        let mut module = self.module.clone();
        module.push(name.to_owned());
        module
    }

    fn new(path: &Path, text: &str) -> Self {
        let mut module: ModulePath =
            path.with_extension("").iter().map(|part| part.to_str().expect("ASCII").to_owned()).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        let mut file = Self {
            path: path.to_owned(),
            module,
            uses: Vec::new(),
            names: BTreeMap::new(),
            test_modules: Vec::new(),
        };
        file.read(&tokens(text));
        file
    }

    fn read(&mut self, tokens: &[Token]) {
        let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        let mut is_for_tests = false;
        let mut is_public = false;
        let mut at = 0;
        while at < tokens.len() {
            match word(at) {
                "#" if ["[", "cfg", "(", "test", ")", "]"]
                    .iter()
                    .enumerate()
                    .all(|(i, w)| word(at + 1 + i) == *w) =>
                {
                    is_for_tests = true;
                    at += 7;
                    continue;
                }
                "mod" if is_for_tests => {
                    if word(at + 2) == "{" {
                        // Tests come last in a file.
                        return;
                    }
                    self.test_modules.push(word(at + 1).to_owned());
                }
                "pub" => {
                    is_public = true;
                    at += 1;
                    if word(at) == "(" {
                        while word(at) != ")" {
                            at += 1;
                        }
                        at += 1;
                    }
                    continue;
                }
                "use" => {
                    let kind = if is_public { UsedIn::PublicUse } else { UsedIn::Use };
                    at = self.read_tree(tokens, at + 1, &mut Vec::new(), kind, is_for_tests);
                }
                name if is_name(name) && word(at + 1) == "::" && (at == 0 || word(at - 1) != "::") => {
                    let line = tokens[at].line;
                    let mut segments = vec![name.to_owned()];
                    while word(at + 1) == "::" && is_name(word(at + 2)) {
                        segments.push(word(at + 2).to_owned());
                        at += 2;
                    }
                    self.uses.push(Used { segments, line, kind: UsedIn::Code });
                }
                _ => {}
            }
            // Attributes may stand between the one that says "tests" and the item.
            is_for_tests &= matches!(word(at), "#" | "[" | "]" | "=" | "path") || word(at).starts_with('"');
            is_public = false;
            at += 1;
        }
    }

    /// Reads what follows `use`, up to the end of this branch, and returns where that is.
    fn read_tree(
        &mut self,
        tokens: &[Token],
        mut at: usize,
        prefix: &mut Vec<String>,
        kind: UsedIn,
        is_for_tests: bool,
    ) -> usize {
        let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        let (depth, line) = (prefix.len(), tokens.get(at).map_or(0, |token| token.line));
        let mut alias = None;
        loop {
            match word(at) {
                "::" => {}
                "{" => {
                    at += 1;
                    while word(at) != "}" && at < tokens.len() {
                        at = self.read_tree(tokens, at, prefix, kind, is_for_tests);
                        at += usize::from(word(at) == ",");
                    }
                    prefix.truncate(depth);
                    return at + 1;
                }
                "as" => {
                    alias = Some(word(at + 1).to_owned());
                    at += 1;
                }
                name if is_name(name) || name == "*" => prefix.push(name.to_owned()),
                _ => break,
            }
            at += 1;
        }
        let mut segments = prefix.clone();
        prefix.truncate(depth);
        let last = segments.last().cloned().unwrap_or_default();
        if 1 < segments.len() && matches!(last.as_str(), "self" | "*") {
            segments.pop();
        }
        if !is_for_tests && !segments.is_empty() {
            if last != "*" {
                let name = alias.unwrap_or_else(|| segments[segments.len() - 1].clone());
                self.names.insert(name, segments.clone());
            }
            self.uses.push(Used { segments, line, kind });
        }
        at
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

#[derive(Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// Names, `::`, and every other sign by itself; without comments, and without what strings say.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("::") => 2,
            '"' => string_length(rest),
            // A character, or the tick of a lifetime.
            '\'' => match rest[1..].chars().next() {
                Some('\\') => {
                    2 + rest[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1)
                }
                Some(c) if rest[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
                _ => 1,
            },
            'r' if rest.starts_with("r\"") || rest.starts_with("r#\"") => {
                let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
                let end = format!("\"{}", "#".repeat(hashes));
                let start = 2 + hashes;
                rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
            }
            c if c.is_alphabetic() || c == '_' => {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            c => c.len_utf8(),
        };
        let token = &rest[..length];
        let is_meant = !first.is_whitespace() && !token.starts_with("//") && first != '\'';
        if is_meant {
            let text = if first == '"' || token.ends_with('"') { "\"" } else { token };
            tokens.push(Token { text: text.to_owned(), line });
        }
        line += token.matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of the string at the front, quotes included.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    text.len()
}

/// Sets of files that use each other in a circle, each set as large as can be.
pub(crate) fn circles(imports: &[Import]) -> Vec<BTreeSet<PathBuf>> {
    let mut uses: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> = BTreeMap::new();
    for import in imports {
        uses.entry(&import.from).or_default().insert(&import.to);
    }
    let reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> = uses
        .keys()
        .map(|&start| {
            let mut reached = BTreeSet::new();
            let mut open = vec![start];
            while let Some(file) = open.pop() {
                open.extend(uses.get(file).into_iter().flatten().filter(|&&next| reached.insert(next)));
            }
            (start, reached)
        })
        .collect();
    let circle_of = |file: &PathBuf| -> BTreeSet<PathBuf> {
        let there =
            reached.iter().filter(|(other, from)| from.contains(file) && reached[file].contains(*other));
        there.map(|(other, _)| (*other).clone()).collect()
    };
    let circles: BTreeSet<BTreeSet<PathBuf>> =
        reached.iter().filter(|(file, from)| from.contains(*file)).map(|(file, _)| circle_of(file)).collect();
    circles.into_iter().collect()
}
