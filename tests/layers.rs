//! The house rules that a compiler does not check: who may import whom, how long a file may be, what lies at the top.
//!
//! Layers import downwards only and never sideways. A path counts wherever it stands (`use`, a signature, a macro), in
//! tests too; comments and strings do not count. Names that `lib.rs` re-exports count as the layer that they come from.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who may import whom, beside itself and what is for [`EVERYONE`]. A layer that is missing here fails the test.
const LAYERS: &[(&str, &[&str])] = &[
    ("bytes", &[]),
    ("error", &["progress"]),
    ("limits", &[]),
    ("sys", &[]),
    ("progress", &[]),
    ("block", &["progress"]),
    ("worker", &["block"]),
    ("volume", &["block"]),
    ("fs", &["block"]),
    ("inspect", &["fs", "volume", "block"]),
    ("host", &["fs", "block", "progress"]),
    ("cache", &["host", "fs", "block", "progress"]),
    ("remote", &["cache"]),
    ("ops", &["host", "fs", "volume", "block", "cache", "progress"]),
    ("guestfs", &["worker", "host", "inspect", "ops", "cache", "fs", "volume", "block", "progress"]),
    ("sandbox", &[]),
    ("batch", &["guestfs", "cache", "remote", "ops", "sandbox", "progress"]),
];

const EVERYONE: &[&str] = &["error", "bytes", "limits", "sys"];

const LINES: usize = 800;

/// What may lie at the top of the repository, beside hidden files and licences.
const TOP: &[&str] =
    &["Cargo.toml", "Cargo.lock", "src", "bins", "benches", "examples", "tests", "images", "README.md", "CHANGELOG.md"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a directory of the repository, by their paths in it.
fn rust_files(directory: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![repository().join(directory)];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && path.file_name().unwrap() != "target" {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(repository()).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// The source's words and marks, without comments, strings and characters.
fn tokens(source: &str) -> Vec<String> {
    let bytes = source.as_bytes();
    let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80;
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(len) = string(rest) {
            len
        } else if let Some(len) = character(rest) {
            len
        } else if is_word(bytes[at]) {
            let len = bytes[at..].iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len());
            tokens.push(rest[..len].to_owned());
            len
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !bytes[at].is_ascii_whitespace() {
                tokens.push(rest[..1].to_owned());
            }
            1
        };
        at += skipped;
    }
    tokens
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a string literal of any kind, if one begins here.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|rest| {
            let body = if prefix.contains('r') { rest.trim_start_matches('#') } else { rest };
            body.starts_with('"')
        })
    })?;
    let rest = &rest[prefix.len()..];
    if prefix.contains('r') {
        let hashes = rest.find('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let body = hashes + 1;
        return Some(prefix.len() + rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len()));
    }
    let mut escaped = false;
    let end = rest.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    Some(prefix.len() + end.map_or(rest.len(), |at| at + 2))
}

/// The length of a character literal, if one begins here; a lifetime has no second quote where it would be.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let first = body.chars().next()?;
    if first == '\\' {
        let end = body.char_indices().skip(2).find(|(_, character)| *character == '\'')?;
        return Some(end.0 + 2);
    }
    body[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

/// The first names of all paths from the crate's root; `depth` is how many modules lie between the root and the file.
fn imports(source: &str, depth: usize) -> Vec<String> {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    let mut found = Vec::new();
    let mut braces = Vec::new();
    for at in 0..tokens.len() {
        match word(at) {
            "{" => braces.push(at >= 2 && word(at - 2) == "mod"),
            "}" => drop(braces.pop()),
            "crate" if word(at + 1) == "::" => found.extend(heads(&tokens, at + 2)),
            "super" if at == 0 || word(at - 1) != "::" => {
                let supers = (at..).step_by(2).take_while(|at| word(*at) == "super" && word(at + 1) == "::").count();
                let inline = braces.iter().filter(|inline| **inline).count();
                if supers > 0 && supers >= depth + inline {
                    found.extend(heads(&tokens, at + 2 * supers));
                }
            }
            _ => {}
        }
    }
    found
}

/// The first name of a path, or of each path in braces.
fn heads(tokens: &[String], at: usize) -> Vec<String> {
    if tokens.get(at).is_none_or(|token| token != "{") {
        return tokens.get(at).cloned().into_iter().collect();
    }
    let mut found = Vec::new();
    let mut depth = 0;
    for pair in tokens[at..].windows(2) {
        match pair[0].as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(pair[0].as_str(), "{" | ",") && pair[1] != "}" {
            found.push(pair[1].clone());
        }
    }
    found
}

/// Re-exported name → layer, from the `pub use` lines of `lib.rs`.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let tokens = tokens(lib);
    let mut exports = BTreeMap::new();
    for at in 0..tokens.len().saturating_sub(4) {
        if tokens[at] == "pub" && tokens[at + 1] == "use" && tokens[at + 3] == "::" {
            exports.extend(heads(&tokens, at + 4).into_iter().map(|name| (name, tokens[at + 2].clone())));
        }
    }
    exports
}

/// What a file imports and may not, in sentences.
fn violations(path: &Path, source: &str, exports: &BTreeMap<String, String>) -> Vec<String> {
    let parts: Vec<_> = path.with_extension("").iter().skip(1).map(|part| part.to_str().unwrap().to_owned()).collect();
    let layer = parts[0].as_str();
    if layer == "lib" {
        return Vec::new();
    }
    let Some((_, may)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{}: the layer {layer} is not in the table", path.display())];
    };
    let depth = parts.iter().filter(|part| *part != "mod").count();
    let foreign = |name: &String| {
        let target = exports.get(name).unwrap_or(name);
        let allowed = target == layer || EVERYONE.contains(&target.as_str()) || may.contains(&target.as_str());
        (!allowed).then(|| format!("{}: {layer} may not import {target} ({name})", path.display()))
    };
    imports(source, depth).iter().filter_map(foreign).collect()
}

#[test]
fn layers_import_downwards_only() {
    let exports = exports(&text(Path::new("src/lib.rs")));
    assert_eq!(exports.get("Guestfs").map(String::as_str), Some("guestfs"));
    let files = rust_files("src");
    assert!(files.len() > 100, "the walk finds the library");
    let found: Vec<_> = files.iter().flat_map(|path| violations(path, &text(path), &exports)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn planted_violations_are_found() {
    let exports = exports("pub use error::{Error, Result};\npub use guestfs::{DriveOptions, Guestfs};");
    let count = |path: &str, source: &str| violations(Path::new(path), source, &exports).len();
    for (path, source, expected) in [
        ("src/fs/ext4/mod.rs", "use crate::block::BlockDevice; use crate::{Error, Result, bytes::Record};", 0),
        ("src/fs/ext4/mod.rs", "use crate::volume::gpt;", 1),
        ("src/fs/ext4/mod.rs", "use crate::{block::{Slice, inspect}, inspect::{self, Guest}, ops};", 2),
        ("src/fs/ext4/mod.rs", "use crate::{\n    Guestfs,\n};", 1),
        ("src/fs/ext4/mod.rs", "use crate::*;", 1),
        ("src/fs/ext4/mod.rs", "// use crate::ops;\n/* crate::ops /* nested */ crate::ops */ pub(crate) fn f() {}", 0),
        (
            "src/fs/ext4/mod.rs",
            r##"const A: &str = "crate::ops \" crate::ops"; const B: &str = r#"" crate::ops"#;"##,
            0,
        ),
        (
            "src/fs/ext4/mod.rs",
            r#"const Q: char = '"'; fn f<'a>(x: &'a crate::ops::Entry) {} const R: char = '\'';"#,
            1,
        ),
        ("src/fs/ext4/mod.rs", "use super::super::ops::walk; use super::Filesystem;", 1),
        ("src/fs/ext4/mod.rs", "mod tests { use super::super::ops; use super::super::super::ops; }", 1),
        ("src/fs/path.rs", "fn f() -> super::super::guestfs::Stat { loop {} }", 1),
        ("src/limits.rs", "fn f() -> super::inspect::Guest { loop {} }", 1),
        ("src/guestfs/files.rs", "use crate::{inspect, ops, fs, volume, block, progress};", 0),
        ("src/helpers.rs", "", 1),
        ("src/misc/mod.rs", "use crate::error::Error;", 1),
    ] {
        assert_eq!(count(path, source), expected, "{path}: {source}");
    }
}

#[test]
fn no_file_is_too_long() {
    for path in ["src", "bins", "tests", "benches", "examples"].into_iter().flat_map(rust_files) {
        let lines = text(&path).lines().count();
        assert!(lines <= LINES, "{} has {lines} lines, {LINES} is the bar", path.display());
    }
}

#[test]
fn the_top_holds_what_it_should() {
    if !repository().join(".git").exists() || !support::have("git") {
        support::skipped(format_args!("needs a git checkout"));
        return;
    }
    let listed = std::process::Command::new("git").arg("ls-files").current_dir(repository()).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in listed.lines().filter_map(|path| path.split('/').next()) {
        let known = TOP.contains(&name) || name.starts_with('.') || name.starts_with("LICENSE");
        assert!(known, "{name} does not belong at the top of the repository");
    }
}
