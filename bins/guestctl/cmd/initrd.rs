//! `guestctl initrd-list` and `guestctl initrd-cat`

use std::io::Write;
use std::ops::ControlFlow;

use clap::Args;
use guestctl::Error;
use guestctl::bytes::escape;
use guestctl::fs::FileType;
use guestctl::ops::{self, InitrdEntry, Packing};
use serde::Serialize;

use crate::args::GuestArgs;
use crate::cmd::cat::to_output;
use crate::exit::Outcome;
use crate::json;
use crate::print;
use crate::record::text;

/// List what is in an initial RAM disk: all archives in it, as they are or packed with gzip, xz, zstd, bzip2 or lz4.
#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct InitrdList {
    #[command(flatten)]
    guest: GuestArgs,
    /// Mode, links, owner, group, size and name.
    #[arg(short = 'l', long, conflicts_with = "json")]
    long: bool,
    /// End each name with a NUL byte and escape nothing.
    #[arg(short = '0', long, conflicts_with_all = ["json", "long"])]
    print0: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    /// The guest path of the initial RAM disk: /boot/initrd.img-6.1.0-25-amd64.
    #[arg(value_name = "INITRD")]
    initrd: String,
}

const JSON: &str = "JSON: path, path_b64 (its bytes, when they are no UTF-8), type, mode, uid, gid, nlink, size, mtime_s, \
                    target and target_b64 (of a symbolic link), rdev, archive (counted from 0), packing (none, gzip, xz, \
                    zstd, bzip2, lz4, lz4-legacy).";

#[derive(Debug, Serialize)]
struct Line {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(rename = "type")]
    file_type: Option<FileType>,
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime_s: u32,
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    rdev: Option<String>,
    archive: usize,
    packing: Packing,
}

impl Line {
    fn new(entry: &InitrdEntry) -> Self {
        let (path, path_b64) = text(&entry.name);
        let (target, target_b64) =
            entry.target.as_deref().map(text).map_or((None, None), |(target, b64)| (Some(target), b64));
        let file_type = FileType::from_mode(entry.mode);
        let is_node = matches!(file_type, Some(FileType::Char | FileType::Block));
        Self {
            path,
            path_b64,
            file_type,
            mode: format!("{:04o}", entry.mode & 0o7777),
            uid: entry.uid,
            gid: entry.gid,
            nlink: entry.links,
            size: entry.size,
            mtime_s: entry.mtime,
            target,
            target_b64,
            rdev: is_node.then(|| format!("{}:{}", entry.rdev.0, entry.rdev.1)),
            archive: entry.archive,
            packing: entry.packing,
        }
    }
}

impl InitrdList {
    pub fn run(self) -> Outcome {
        let image = self.guest.mounted()?.open_content(&self.initrd)?;
        let mut out = print::stdout()?;
        let listed = ops::initrd_each(&image, &mut |entry, _| {
            let written = if self.json {
                json::line(&mut out, &Line::new(entry))
            } else if self.print0 {
                out.write_all(&entry.name).and_then(|()| out.write_all(b"\0"))
            } else if self.long {
                writeln!(out, "{}", long(entry))
            } else {
                writeln!(out, "{}", escape(&entry.name))
            };
            written.map_err(|error| Error::io("write", "the output", error))?;
            Ok(ControlFlow::Continue(()))
        });
        // What was found before something broke is worth having.
        out.flush()?;
        listed.map_err(|error| to_output(error.at_path(self.initrd.as_bytes())))
    }
}

fn long(entry: &InitrdEntry) -> String {
    let letter = FileType::from_mode(entry.mode).map_or('?', FileType::letter);
    let target = entry.target.as_ref().map(|target| format!(" -> {}", escape(target))).unwrap_or_default();
    let size = match letter {
        'c' | 'b' => format!("{}, {}", entry.rdev.0, entry.rdev.1),
        _ => entry.size.to_string(),
    };
    let (mode, name) = (entry.mode & 0o7777, escape(&entry.name));
    format!("{letter}{mode:04o} {:>3} {:>5} {:>5} {size:>10} {name}{target}", entry.links, entry.uid, entry.gid)
}

/// Print files of an initial RAM disk, byte for byte; of several with one name the last, which the kernel would keep.
#[derive(Debug, Args)]
pub struct InitrdCat {
    #[command(flatten)]
    guest: GuestArgs,
    /// The guest path of the initial RAM disk.
    #[arg(value_name = "INITRD")]
    initrd: String,
    /// The files in it: etc/fstab, usr/lib/modules/…
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl InitrdCat {
    pub fn run(self) -> Outcome {
        let image = self.guest.mounted()?.open_content(&self.initrd)?;
        let mut out = print::stdout()?;
        for name in &self.names {
            let content = ops::initrd_cat(&image, name.as_bytes());
            out.write_all(&content.map_err(|error| error.at_path(self.initrd.as_bytes()))?)?;
        }
        Ok(out.flush()?)
    }
}
