//! The project's own Rust sources as tokens, so that a comment or a string never counts as code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// Every file below `folder` whose name ends in `.{extension}`, sorted; `target` and hidden folders left out.
///
/// # Panics
/// When a folder cannot be read.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if path.is_dir() {
                if !(name.starts_with('.') || name == "target" || name == "__pycache__") {
                    open.push(path);
                }
            } else if extension.is_empty() || path.extension().is_some_and(|own| own == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// `path` relative to the top of the tree, with `/`.
pub fn relative(path: &Path) -> String {
    path.strip_prefix(crate::root())
        .unwrap_or(path)
        .to_string_lossy()
        .replace('\\', "/")
}

/// What layering is about, of one file.
#[derive(Debug, Default)]
pub struct Source {
    /// Every identifier, in order.
    pub idents: Vec<String>,
    /// Every path of two or more parts, imports expanded: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
    pub paths: Vec<Vec<String>>,
}

/// Reads a Rust file.
///
/// # Panics
/// When it cannot be read or is not Rust.
pub fn read(path: &Path) -> Source {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tokens: TokenStream = text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut source = Source::default();
    walk(tokens, &[], &mut source);
    source
}

/// `prefix` is the path before the brace of a use group.
fn walk(tokens: TokenStream, prefix: &[String], source: &mut Source) {
    let mut path: Vec<String> = prefix.to_vec();
    // Whether the token before was `::`, which joins what follows to `path`.
    let mut joined = !prefix.is_empty();
    let mut half = false;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                let name = ident.to_string();
                source.idents.push(name.clone());
                if !joined {
                    finish(&mut path, prefix, source);
                }
                path.push(name);
                joined = false;
                half = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                joined = half;
                half = punct.spacing() == Spacing::Joint;
            }
            TokenTree::Group(group) => {
                let inner = if joined && group.delimiter() == Delimiter::Brace {
                    path.clone()
                } else {
                    Vec::new()
                };
                walk(group.stream(), &inner, source);
                if !inner.is_empty() {
                    path = prefix.to_vec();
                }
                joined = false;
                half = false;
            }
            other => {
                if matches!(&other, TokenTree::Punct(punct) if punct.as_char() == ',') {
                    finish(&mut path, prefix, source);
                    joined = !prefix.is_empty();
                } else {
                    joined = false;
                }
                half = false;
            }
        }
    }
    finish(&mut path, prefix, source);
}

fn finish(path: &mut Vec<String>, prefix: &[String], source: &mut Source) {
    if path.len() > 1 && path.len() > prefix.len() {
        source.paths.push(path.clone());
    }
    path.clear();
    path.extend_from_slice(prefix);
}

/// Every source of the product, by relative name (the tests are not part of it).
///
/// # Panics
/// When one cannot be read or is not Rust.
pub fn sources() -> BTreeMap<String, Source> {
    ["core", "capi"]
        .iter()
        .flat_map(|folder| files(&crate::root().join(folder), "rs"))
        .map(|path| (relative(&path), read(&path)))
        .filter(|(file, _)| !file.contains("/tests/"))
        .collect()
}

/// Text files of the project, relative name and content.
///
/// # Panics
/// When a folder cannot be read.
pub fn texts() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = [
        "core",
        "capi",
        "bindings",
        "examples-c",
        "models",
        "tests",
        "yocto",
        ".ci",
    ]
    .iter()
    .map(|folder| crate::root().join(folder))
    .filter(|folder| folder.is_dir())
    .flat_map(|folder| files(&folder, ""))
    .collect();
    let top = std::fs::read_dir(crate::root()).unwrap_or_else(|error| panic!("{error}"));
    paths.extend(
        top.flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file()),
    );
    paths
        .into_iter()
        .filter_map(|path| {
            Some((
                relative(&path),
                String::from_utf8(std::fs::read(&path).ok()?).ok()?,
            ))
        })
        .collect()
}

/// Fails with every line of `broken`, if there are any.
///
/// # Panics
/// When there are.
pub fn report(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_expanded_and_comments_are_not_code() {
        let text = "use crate::{task::search, os::{clock, smaps as s}};\n// use crate::bad::x;\n\
                    fn f() { let x: ort::Value = super::caption::go(\"crate::worse\"); }";
        let mut source = Source::default();
        walk(text.parse().unwrap(), &[], &mut source);
        let paths: Vec<String> = source.paths.iter().map(|path| path.join("::")).collect();
        for want in [
            "crate::task::search",
            "crate::os::clock",
            "ort::Value",
            "super::caption::go",
        ] {
            assert!(
                paths.iter().any(|path| path == want),
                "{want} not in {paths:?}"
            );
        }
        assert!(
            !paths
                .iter()
                .any(|path| path.contains("bad") || path.contains("worse"))
        );
    }
}
