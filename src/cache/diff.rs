//! What differs between two trees: directories with one subtree digest are not looked into.

use serde::Serialize;

use super::manifest::{Content, Directory, Entry, Manifest};
use crate::error::Result;

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// From the root, without a leading `/`.
    #[serde(skip)]
    pub path: Vec<u8>,
    /// What became of it.
    pub kind: ChangeKind,
    /// What is different: `type`, `content`, `mode`, `owner`, `mtime`, `xattrs`, `links`, `device`.
    pub fields: Vec<&'static str>,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Only the second tree has it.
    Added,
    /// Only the first tree has it.
    Removed,
    /// Both have it, and it is not the same.
    Changed,
}

/// Calls `visit` with each difference, in the order of the walk.
pub fn diff(a: &Manifest, b: &Manifest, visit: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
    let (root_a, root_b) = (a.entry(0)?, b.entry(0)?);
    compare(a, b, &root_a, &root_b, &[], visit)?;
    let mut pending = vec![(Some(0), Some(0), Vec::new())];
    while let Some((in_a, in_b, path)) = pending.pop() {
        let children = |manifest: &Manifest, directory: Option<u32>| -> Result<Option<Directory>> {
            directory.map(|directory| manifest.directory(directory)).transpose()
        };
        let (dir_a, dir_b) = (children(a, in_a)?, children(b, in_b)?);
        if let (Some(dir_a), Some(dir_b)) = (&dir_a, &dir_b)
            && dir_a.subtree == dir_b.subtree
        {
            continue;
        }
        let mut left = dir_a.map(|directory| directory.children()).unwrap_or(0..0);
        let mut right = dir_b.map(|directory| directory.children()).unwrap_or(0..0);
        let mut below = Vec::new();
        while !left.is_empty() || !right.is_empty() {
            let entry_a = (!left.is_empty()).then(|| a.entry(left.start)).transpose()?;
            let entry_b = (!right.is_empty()).then(|| b.entry(right.start)).transpose()?;
            let (entry_a, entry_b) = match (entry_a, entry_b) {
                (Some(x), Some(y)) if x.name < y.name => (Some(x), None),
                (Some(x), Some(y)) if x.name > y.name => (None, Some(y)),
                both => both,
            };
            left.start = left.start.saturating_add(u32::from(entry_a.is_some()));
            right.start = right.start.saturating_add(u32::from(entry_b.is_some()));
            let Some(name) = entry_a.or(entry_b).map(|entry| entry.name) else { break };
            let path = if path.is_empty() { name.to_vec() } else { [&path[..], b"/", name].concat() };
            let kind = match (&entry_a, &entry_b) {
                (Some(x), Some(y)) => {
                    compare(a, b, x, y, &path, visit)?;
                    None
                }
                (Some(_), None) => Some(ChangeKind::Removed),
                _ => Some(ChangeKind::Added),
            };
            if let Some(kind) = kind {
                visit(Change { path: path.clone(), kind, fields: Vec::new() })?;
            }
            let (in_a, in_b) = (directory(entry_a), directory(entry_b));
            if in_a.is_some() || in_b.is_some() {
                below.push((in_a, in_b, path));
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(())
}

fn directory(entry: Option<Entry<'_>>) -> Option<u32> {
    match entry?.content {
        Content::Directory(directory) => Some(directory),
        _ => None,
    }
}

fn compare(
    a: &Manifest,
    b: &Manifest,
    x: &Entry<'_>,
    y: &Entry<'_>,
    path: &[u8],
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let blob = |manifest: &Manifest, entry: &Entry<'_>| match entry.content {
        Content::Blob(blob) => manifest.blob(blob).map(|(digest, _)| Some(digest)),
        _ => Ok(None),
    };
    let runs = |manifest: &Manifest, entry: &Entry<'_>| entry.sparse.map(|map| manifest.sparse(map)).transpose();
    let content = match (x.content, y.content) {
        (Content::Blob(_), Content::Blob(_)) => blob(a, x)? == blob(b, y)? && runs(a, x)? == runs(b, y)?,
        (Content::Directory(_), Content::Directory(_)) | (Content::Device(_), Content::Device(_)) => true,
        (one, other) => one == other && runs(a, x)? == runs(b, y)?,
    };
    let xattrs = |manifest: &Manifest, entry: &Entry<'_>| entry.xattrs.map(|set| manifest.xattrs(set)).transpose();
    let device = |entry: &Entry<'_>| if let Content::Device(device) = entry.content { Some(device) } else { None };
    let mut fields = Vec::new();
    let mut differs = |field, same: bool| {
        if !same {
            fields.push(field);
        }
    };
    differs("type", x.file_type == y.file_type);
    differs("content", x.file_type != y.file_type || (content && x.size == y.size));
    differs("mode", x.permissions == y.permissions);
    differs("owner", (x.uid, x.gid) == (y.uid, y.gid));
    differs("mtime", x.mtime == y.mtime);
    differs("xattrs", xattrs(a, x)? == xattrs(b, y)?);
    differs("links", x.leader.is_some() == y.leader.is_some());
    differs("device", device(x) == device(y));
    if fields.is_empty() {
        return Ok(());
    }
    visit(Change { path: path.to_vec(), kind: ChangeKind::Changed, fields })
}
