//! Which file imports which, read from the sources' tokens.
//!
//! A file imports another if a path in its code resolves to something that the other file defines. Paths are resolved as
//! the compiler does it: `crate::`, `super::`, `self::`, names brought in by `use`, and child modules; a name that a module
//! only passes on (`pub use child::Name`) is looked for where it is defined. So these are no imports:
//!
//! - `mod child;`, and a parent passing on names of its children;
//! - a child that names something through its parent which the parent does not define itself;
//! - a path that ends at a module (`use crate::os::clock;`): what is then taken out of it counts, and so does
//!   `use module::*`;
//! - code under `#[cfg(test)]`.
//!
//! Calls of methods and uses of fields have no path and are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// A module's place: the crate's name, then the modules down to it.
type Module = Vec<String>;

/// A crate of the workspace.
#[derive(Clone, Debug)]
pub struct Crate {
    /// As paths name it.
    pub name: String,
    /// The package it belongs to.
    pub package: String,
    /// The file of its root module.
    pub root: PathBuf,
}

/// One import between two files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The file whose code has the path, relative to the top of the tree.
    pub from: String,
    /// The file that defines what the path names.
    pub to: String,
    /// The path as written.
    pub path: String,
}

/// A module of the sources: a file, or a part of one.
#[derive(Debug, Default)]
struct Scope {
    file: String,
    /// What it defines.
    items: BTreeSet<String>,
    /// What `use` brings in: the name here, and the path.
    names: BTreeMap<String, Vec<String>>,
    /// The modules of which it brings in everything.
    globs: Vec<Vec<String>>,
    /// Every path of its code.
    paths: Vec<Vec<String>>,
    /// Paths of `pub use`, which count only if they are not of the module's own children.
    passed_on: Vec<Vec<String>>,
}

/// The libraries and programs of the workspace.
///
/// # Panics
/// When cargo does not say.
pub fn crates() -> Vec<Crate> {
    let metadata = crate::json(
        crate::cargo()
            .args(["metadata", "--no-deps", "--offline", "--locked"])
            .args(["--format-version", "1"]),
    );
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            let kinds: Vec<String> = list(&target["kind"]).iter().map(text).collect();
            let is = |kind: &str| kinds.iter().any(|own| own == kind);
            let package = text(&package["name"]);
            let name = match (is("lib") || is("rlib"), is("bin")) {
                (true, _) => text(&target["name"]),
                // Nothing imports a program; its package's name is nobody else's.
                (_, true) => format!("{package}-program"),
                _ => continue,
            };
            found.push(Crate {
                name: name.replace('-', "_"),
                package,
                root: text(&target["src_path"]).into(),
            });
        }
    }
    found
}

/// The imports between the files of some crates, sorted.
///
/// # Panics
/// When a source cannot be read or is not Rust.
pub fn imports(crates: &[Crate]) -> Vec<Import> {
    let mut scopes = BTreeMap::new();
    for Crate { name, root, .. } in crates {
        let folder = root.parent().unwrap_or(root);
        open(root, vec![name.clone()], folder, &mut scopes);
    }
    between(&scopes)
}

/// Reads `file`, which is `module` and has its children in `folder`, and every module below it.
fn open(file: &Path, module: Module, folder: &Path, scopes: &mut BTreeMap<Module, Scope>) {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tokens: TokenStream = text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut reader = Reader {
        file: crate::source::relative(file),
        children: Vec::new(),
        scopes,
    };
    reader.read(tokens, &module, true);
    let children = reader.children;
    for child in children {
        let below = folder.join(child[module.len()..].join("/"));
        let (inside, beside) = (below.join("mod.rs"), below.with_extension("rs"));
        let source = if inside.is_file() { inside } else { beside };
        open(&source, child, &below, scopes);
    }
}

/// Words that come before the name of an item.
const DEFINES: [&str; 9] = [
    "struct",
    "enum",
    "union",
    "trait",
    "type",
    "fn",
    "const",
    "static",
    "macro_rules",
];

struct Reader<'a> {
    file: String,
    /// Modules that are files of their own.
    children: Vec<Module>,
    scopes: &'a mut BTreeMap<Module, Scope>,
}

impl Reader<'_> {
    fn scope(&mut self, module: &Module) -> &mut Scope {
        let file = &self.file;
        self.scopes.entry(module.clone()).or_insert_with(|| Scope {
            file: file.clone(),
            ..Scope::default()
        })
    }

    /// Reads the tokens of `module`; `items` where they stand in the module itself, not inside of a function.
    fn read(&mut self, tokens: TokenStream, module: &Module, items: bool) {
        self.scope(module);
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut public = false;
        while at < tokens.len() {
            let mut next = at + 1;
            let mut stays_public = false;
            match &tokens[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    if let Some(TokenTree::Group(attribute)) = tokens.get(next) {
                        next += 1;
                        if is_test(attribute) {
                            next = after_item(&tokens, next);
                        }
                    } else if matches!(tokens.get(next + 1), Some(TokenTree::Group(_))) {
                        next += 2;
                    }
                }
                TokenTree::Ident(ident) if ident == "pub" => {
                    stays_public = true;
                    if let Some(TokenTree::Group(within)) = tokens.get(next)
                        && names_visibility(within)
                    {
                        next += 1;
                    }
                }
                TokenTree::Ident(ident) if ident == "mod" => {
                    if let Some(TokenTree::Ident(name)) = tokens.get(next) {
                        let child = [module.as_slice(), &[name.to_string()]].concat();
                        match tokens.get(next + 1) {
                            Some(TokenTree::Group(body)) => self.read(body.stream(), &child, true),
                            _ => self.children.push(child),
                        }
                        next += 2;
                    }
                }
                TokenTree::Ident(ident) if ident == "use" => {
                    let end = (next..tokens.len())
                        .find(|end| is(&tokens[*end], ';'))
                        .unwrap_or(tokens.len());
                    let mut found = Vec::new();
                    expand(&tokens[next..end], &[], &mut found);
                    let scope = self.scope(module);
                    for (path, name) in found {
                        if public && items {
                            scope.passed_on.push(path.clone());
                        } else {
                            scope.paths.push(path.clone());
                        }
                        match items.then_some(name) {
                            Some(name) if name == "*" => {
                                scope.globs.push(path[..path.len() - 1].to_vec());
                            }
                            Some(name) => drop(scope.names.insert(name, path)),
                            None => {}
                        }
                    }
                    next = end + 1;
                }
                TokenTree::Ident(ident) => {
                    if items
                        && DEFINES.iter().any(|word| ident == word)
                        && let Some(TokenTree::Ident(name)) = tokens.get(next)
                    {
                        self.scope(module).items.insert(name.to_string());
                    }
                    let mut path = vec![ident.to_string()];
                    while let Some(TokenTree::Ident(part)) =
                        colons(&tokens, next).and_then(|part| tokens.get(part))
                    {
                        path.push(part.to_string());
                        next += 3;
                    }
                    let joined = at >= 2 && colons(&tokens, at - 2) == Some(at);
                    if path.len() > 1 && !joined {
                        self.scope(module).paths.push(path);
                    }
                }
                TokenTree::Group(group) => self.read(group.stream(), module, false),
                _ => {}
            }
            public = stays_public;
            at = next;
        }
    }
}

fn is(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

/// Where the token after a `::` at `at` is, if there is one.
fn colons(tokens: &[TokenTree], at: usize) -> Option<usize> {
    let first = matches!(tokens.get(at), Some(TokenTree::Punct(punct))
        if punct.as_char() == ':' && punct.spacing() == Spacing::Joint);
    (first && tokens.get(at + 1).is_some_and(|token| is(token, ':'))).then_some(at + 2)
}

fn is_test(attribute: &Group) -> bool {
    let text = attribute.stream().to_string();
    text.starts_with("cfg") && text.contains("test") && !text.contains("not")
}

fn names_visibility(group: &Group) -> bool {
    group.delimiter() == Delimiter::Parenthesis
        && matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(ident))
            if ["crate", "super", "self", "in"].iter().any(|word| ident == word))
}

/// Where the item that begins at `at` has ended.
fn after_item(tokens: &[TokenTree], at: usize) -> usize {
    let mut whole = false;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token {
            TokenTree::Ident(ident) => {
                whole |= ["use", "static", "let", "type"]
                    .iter()
                    .any(|word| ident == word);
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && !whole => {
                return index + 1;
            }
            token if is(token, ';') => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The paths of a `use` tree, each with the name it gets.
fn expand(tokens: &[TokenTree], prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    for part in tokens.split(|token| is(token, ',')) {
        let mut path = prefix.to_vec();
        let mut name = None;
        let mut words = part.iter();
        let mut grouped = false;
        while let Some(word) = words.next() {
            match word {
                TokenTree::Ident(ident) if ident == "as" => name = words.next(),
                TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                token if is(token, '*') => path.push("*".to_owned()),
                TokenTree::Group(group) => {
                    grouped = true;
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    expand(&inner, &path, found);
                }
                _ => {}
            }
        }
        if let Some(last) = path.last().filter(|_| !grouped && !part.is_empty()) {
            let name = name.map_or_else(|| last.clone(), ToString::to_string);
            found.push((path.clone(), name));
        }
    }
}

fn between(scopes: &BTreeMap<Module, Scope>) -> Vec<Import> {
    let mut found = BTreeMap::new();
    for (module, scope) in scopes {
        let code = scope.paths.iter().map(|path| (path, false));
        let passed = scope.passed_on.iter().map(|path| (path, true));
        for (path, passed) in code.chain(passed) {
            let Some((at, true)) = resolve(scopes, module, path, 0) else {
                continue;
            };
            let file = &scopes[&at].file;
            let own_child = passed && at.starts_with(module);
            if *file != scope.file && !own_child {
                found
                    .entry((scope.file.clone(), file.clone()))
                    .or_insert_with(|| path.join("::"));
            }
        }
    }
    found
        .into_iter()
        .map(|((from, to), path)| Import { from, to, path })
        .collect()
}

/// The module that `path` leads to, and whether it names something in it.
fn resolve(
    scopes: &BTreeMap<Module, Scope>,
    from: &Module,
    path: &[String],
    depth: usize,
) -> Option<(Module, bool)> {
    // Names that lead back to themselves do not compile; a limit ends the search all the same.
    if depth > 16 {
        return None;
    }
    let mut at = from.clone();
    let mut rest = path;
    let first = rest.first()?;
    if first == "crate" {
        at.truncate(1);
        rest = &rest[1..];
    } else if first == "self" {
        rest = &rest[1..];
    } else if first == "super" {
        while rest.first().is_some_and(|part| part == "super") {
            at.pop();
            rest = &rest[1..];
        }
    } else if scopes[from].names.contains_key(first) || scopes.contains_key(&child(from, first)) {
        // Looked up below.
    } else if scopes.contains_key(std::slice::from_ref(first)) {
        at = vec![first.clone()];
        rest = &rest[1..];
    } else {
        return None;
    }
    while let Some(part) = rest.first() {
        let below = child(&at, part);
        let scope = scopes.get(&at)?;
        if scopes.contains_key(&below) {
            at = below;
        } else if let Some(target) = scope.names.get(part) {
            let (module, named) = resolve(scopes, &at, target, depth + 1)?;
            if named {
                return Some((module, true));
            }
            at = module;
        } else {
            // Everything of another module: whichever of them defines it.
            let elsewhere = scope.globs.iter().find_map(|glob| {
                let (module, _) = resolve(scopes, &at, glob, depth + 1)?;
                (!scope.items.contains(part) && scopes[&module].items.contains(part))
                    .then_some(module)
            });
            return Some((elsewhere.unwrap_or(at), true));
        }
        rest = &rest[1..];
    }
    Some((at, false))
}

fn child(module: &Module, name: &str) -> Module {
    [module.as_slice(), &[name.to_owned()]].concat()
}

/// Groups of files of which each imports every other, directly or through others of the group; sorted.
pub fn circles(imports: &[Import]) -> Vec<BTreeSet<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        next.entry(&import.from).or_default().insert(&import.to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = next
        .keys()
        .map(|file| (*file, reachable(&next, file)))
        .collect();
    let groups: BTreeSet<BTreeSet<String>> = reached
        .iter()
        .filter(|(file, to)| to.contains(**file))
        .map(|(file, to)| {
            to.iter()
                .filter(|other| reached.get(**other).is_some_and(|back| back.contains(file)))
                .map(|other| (*other).to_owned())
                .collect()
        })
        .collect();
    groups.into_iter().collect()
}

/// What can be reached from `start` in one step or more.
pub fn reachable<'a>(
    next: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    start: &str,
) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = vec![start];
    while let Some(file) = open.pop() {
        for to in next.get(file).into_iter().flatten() {
            if found.insert(*to) {
                open.push(to);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The imports of a crate `a` with these files, as `from>to`.
    fn of(files: &[(&str, &str)]) -> Vec<String> {
        let folder = crate::temporary();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let top = format!("{}/", folder.path().display());
        let own = Crate {
            name: "a".to_owned(),
            package: "a".to_owned(),
            root: folder.path().join("lib.rs"),
        };
        imports(&[own])
            .iter()
            .map(|import| format!("{}>{}", import.from, import.to).replace(&top, ""))
            .collect()
    }

    #[test]
    fn names_are_looked_for_where_they_are_defined() {
        let found = of(&[
            ("lib.rs", "pub mod one;\nmod two;\npub use two::Two;"),
            (
                "one/mod.rs",
                "mod inner; mod other;\npub use inner::{Inner as Renamed, *};\npub struct Own;",
            ),
            (
                "one/inner.rs",
                "use super::other::Thing;\npub struct Inner; pub struct Plain; // crate::two::Two\n\
                 #[cfg(test)]\nmod tests { use crate::two::Two; }",
            ),
            // Through the parent, which only passes the name on; and through the crate.
            (
                "one/other.rs",
                "pub struct Thing;\nfn f() -> super::Plain { crate::Two::new() }",
            ),
            (
                "two.rs",
                "use crate::one;\npub struct Two(one::Renamed, pub(crate) one::Own);",
            ),
        ]);
        assert_eq!(
            found,
            [
                "one/inner.rs>one/other.rs",
                "one/other.rs>one/inner.rs",
                "one/other.rs>two.rs",
                "two.rs>one/inner.rs",
                "two.rs>one/mod.rs",
            ]
        );
    }

    #[test]
    fn a_parent_and_a_child_that_use_each_other_are_a_circle_and_passing_on_is_none() {
        let passing = of(&[
            ("lib.rs", "mod child; pub use child::Child; pub struct Own;"),
            ("child.rs", "pub struct Child(super::Own);"),
        ]);
        assert_eq!(passing, ["child.rs>lib.rs"]);
        let circle = of(&[
            ("lib.rs", "mod child; pub struct Own(child::Child);"),
            ("child.rs", "pub struct Child(Box<super::Own>);"),
        ]);
        assert_eq!(circle, ["child.rs>lib.rs", "lib.rs>child.rs"]);
    }

    #[test]
    fn circles_are_found_whole() {
        let import = |from: &str, to: &str| Import {
            from: from.to_owned(),
            to: to.to_owned(),
            path: String::new(),
        };
        let found = circles(&[
            import("a", "b"),
            import("b", "c"),
            import("c", "a"),
            import("c", "d"),
            import("d", "e"),
            import("e", "d"),
            import("f", "a"),
        ]);
        let want = [["a", "b", "c"].as_slice(), &["d", "e"]];
        assert_eq!(
            found,
            want.map(|group| group.iter().map(|file| (*file).to_owned()).collect())
        );
    }
}
