//! `guestctl stat`

use std::io::Write;

use clap::Args;
use guestctl::bytes::escape;
use guestctl::fs::{Follow, GuestPath, Timestamp};

use crate::args::GuestArgs;
use crate::exit::Outcome;
use crate::json;
use crate::print;
use crate::record::Record;

/// Show what is known of guest paths; a symbolic link is shown itself.
#[derive(Debug, Args)]
pub struct Stat {
    #[command(flatten)]
    guest: GuestArgs,
    /// The paths.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
    /// Follow a symbolic link at the end of a path.
    #[arg(short = 'L', long)]
    dereference: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub fn run(self) -> Outcome {
        let g = self.guest.mounted()?;
        let mounts = g.mount_table()?;
        let follow = if self.dereference { Follow::Links } else { Follow::NotLast };
        let mut out = print::stdout()?;
        for path in &self.paths {
            let location = mounts.resolve(&GuestPath::parse(path)?, follow)?;
            let metadata = location.metadata()?;
            let target =
                if metadata.file_type.letter() == 'l' { Some(location.fs.read_link(location.inode)?) } else { None };
            let xattrs = location.fs.xattrs(location.inode)?;
            let mut record = Record::new(location.path.as_bytes(), &metadata, target.as_deref(), &xattrs);
            let nanoseconds = |time: Timestamp| serde_json::json!(time.total_nanoseconds());
            if self.json {
                let more = [
                    ("atime_ns", nanoseconds(metadata.atime)),
                    ("ctime_ns", nanoseconds(metadata.ctime)),
                    ("crtime_ns", metadata.crtime.map_or(serde_json::Value::Null, nanoseconds)),
                    ("blocks_512", metadata.blocks.into()),
                    ("block_size", metadata.block_size.into()),
                    ("encrypted", metadata.encrypted.into()),
                ];
                record.digests.extend(more.map(|(name, value)| (name.to_owned(), value)));
                json::line(&mut out, &record)?;
                continue;
            }
            let arrow = target.map(|target| format!(" -> {}", escape(&target))).unwrap_or_default();
            writeln!(out, "  File: {}{arrow}", location.path)?;
            writeln!(
                out,
                "  Type: {}\tSize: {}\tBlocks: {} x 512",
                metadata.file_type.name(),
                metadata.size,
                metadata.blocks
            )?;
            writeln!(
                out,
                " Inode: {}\tLinks: {}\tDevice: {}",
                metadata.inode,
                metadata.nlink,
                record.rdev.as_deref().unwrap_or("-")
            )?;
            writeln!(out, "  Mode: {}\tUid: {}\tGid: {}", record.mode, metadata.uid, metadata.gid)?;
            for (name, time) in [
                ("Access", Some(metadata.atime)),
                ("Modify", Some(metadata.mtime)),
                ("Change", Some(metadata.ctime)),
                (" Birth", metadata.crtime),
            ] {
                let shown = time.map_or_else(
                    || "-".to_owned(),
                    |time| format!("{}:{:02}.{:09} UTC", time.minute(), time.seconds.rem_euclid(60), time.nanoseconds),
                );
                writeln!(out, "{name}: {shown}")?;
            }
            for xattr in &xattrs {
                writeln!(out, " Xattr: {}={}", escape(&xattr.name), escape(&xattr.value))?;
            }
        }
        Ok(out.flush()?)
    }
}
