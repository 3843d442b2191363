//! `guestctl cache show`

use std::io::Write;

use clap::Args;
use guestctl::bytes::escape;
use guestctl::cache::manifest::{Content, Entry, Manifest};
use guestctl::{Error, PathProblem};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::{json, print};

/// Show a tree, or what is below one of its directories.
#[derive(Debug, Args)]
pub struct Show {
    /// The tree.
    #[arg(value_name = "TREE")]
    tree: String,
    /// List what is below this directory.
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// Print JSON; of a listing, a line for each entry.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Summary {
    tree: String,
    subtree: String,
    entries: u32,
    directories: u32,
    blobs: u32,
    blob_bytes: u64,
    manifest_bytes: usize,
}

#[derive(Debug, Serialize)]
struct Line {
    path: String,
    #[serde(rename = "type")]
    file_type: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime_ns: i128,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

fn line(manifest: &Manifest, entry: &Entry<'_>, path: &[u8]) -> guestctl::Result<Line> {
    Ok(Line {
        path: format!("/{}", escape(path)),
        file_type: entry.file_type.name(),
        mode: format!("{:04o}", entry.permissions),
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mtime_ns: entry.mtime.total_nanoseconds(),
        blob: if let Content::Blob(blob) = entry.content { Some(manifest.blob(blob)?.0.to_string()) } else { None },
        target: if let Content::Target(target) = entry.content { Some(escape(target)) } else { None },
    })
}

impl Show {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let manifest = store.tree(&store.resolve(&self.tree)?)?;
        let Some(path) = &self.path else { return self.summary(&manifest) };
        let start =
            manifest.lookup(path.as_bytes())?.ok_or_else(|| Error::path(path.as_bytes(), PathProblem::NotFound))?;
        let mut out = print::stdout()?;
        let mut pending = vec![start.index];
        while let Some(index) = pending.pop() {
            let entry = manifest.entry(index)?;
            let line = line(&manifest, &entry, &manifest.path(index)?)?;
            if self.json {
                json::line(&mut out, &line)?;
            } else {
                let letter = entry.file_type.letter();
                let target = line.target.map(|target| format!(" -> {target}")).unwrap_or_default();
                let Line { mode, uid, gid, size, path, .. } = line;
                let time = entry.mtime.minute();
                writeln!(out, "{letter}{mode} {uid:>5} {gid:>5} {size:>12} {time} {path}{target}")?;
            }
            if let Content::Directory(directory) = entry.content {
                pending.extend(manifest.directory(directory)?.children().rev());
            }
        }
        Ok(out.flush()?)
    }

    fn summary(&self, manifest: &Manifest) -> Outcome {
        let mut blob_bytes = 0;
        for blob in 0..manifest.blobs() {
            blob_bytes += manifest.blob(blob)?.1;
        }
        let summary = Summary {
            tree: manifest.id().to_string(),
            subtree: manifest.directory(0)?.subtree.to_string(),
            entries: manifest.len(),
            directories: manifest.directories(),
            blobs: manifest.blobs(),
            blob_bytes,
            manifest_bytes: manifest.as_bytes().len(),
        };
        if self.json {
            return Ok(print::json(&summary)?);
        }
        let rows = [
            ("tree", summary.tree),
            ("subtree", summary.subtree),
            ("entries", summary.entries.to_string()),
            ("directories", summary.directories.to_string()),
            ("blobs", format!("{} ({})", summary.blobs, print::human(blob_bytes))),
            ("manifest", print::human(summary.manifest_bytes as u64)),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Ok(print::table(&["TREE", ""], &[false, false], &rows)?)
    }
}
