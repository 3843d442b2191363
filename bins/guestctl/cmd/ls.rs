//! `guestctl ls`: names, long listings as `ls -l` has them, or one JSON line per path.

use std::io::Write;

use clap::Args;
use guestctl::bytes::escape;
use guestctl::fs::{FileType, Follow, GuestPath, Listing, Location, Metadata, MountTable};
use guestctl::ops::{self, Algorithm, Entry, EntrySink, Flow, Owners, Problems};
use guestctl::progress::Silent;
use guestctl::{Error, Guestfs, Result};
use rayon::prelude::*;

use crate::args::GuestArgs;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::json;
use crate::memoised;
use crate::print;
use crate::record::Record;

/// List a guest directory. Hidden files are listed too; control characters in names are escaped.
#[derive(Debug, Args)]
pub struct Ls {
    /// One line per entry: mode, links, owner, group, size, time (UTC), name.
    #[arg(short = 'l', long)]
    long: bool,
    /// Everything below, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// One JSON object per line; with -R the directory itself comes first.
    #[arg(long)]
    json: bool,
    /// With --json: the digest of each regular file, under the algorithm's name; repeatable.
    #[arg(long, value_name = "ALG", requires = "json")]
    checksum: Vec<Algorithm>,
    #[command(flatten)]
    guest: GuestArgs,
    /// The directory, or a file.
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
}

/// Entries that are digested at once, on all cores.
const BATCH: usize = 256;

impl Ls {
    pub fn run(self, context: &Context) -> Outcome {
        // One directory is listed faster than its image is known.
        let is_long_work = self.recursive || !self.checksum.is_empty();
        if !is_long_work {
            return self.list(&self.guest.mounted()?, &mut print::stdout()?);
        }
        let g = self.guest.images.launch_cached(context)?;
        let algorithms: Vec<_> = self.checksum.iter().map(|algorithm| algorithm.name()).collect();
        let flags = [self.long, self.recursive, self.json];
        let parts =
            [("arguments", format!("{flags:?} {algorithms:?} {}", self.path)), ("mounts", self.guest.mount.join("\n"))];
        memoised::print(&g, "ls", 1, parts, |out| {
            self.guest.mount(&g)?;
            self.list(&g, out)?;
            Ok(Problems::default())
        })?;
        Ok(())
    }

    fn list(&self, g: &Guestfs, out: &mut (impl Write + Send)) -> Outcome {
        let mounts = g.mount_table()?;
        let start = mounts.resolve(&GuestPath::parse(&self.path)?, Follow::Links)?;
        if self.json {
            return self.json_lines(&mounts, &start, out);
        }
        let owners = if self.long { Owners::read(&mounts) } else { Owners::default() };
        let metadata = start.metadata()?;
        if metadata.file_type != FileType::Dir {
            let name = escape(start.path.as_bytes());
            write_listing(out, &[(start, metadata, name)], self.long, &owners)?;
            return Ok(out.flush()?);
        }
        let mut pending = vec![start];
        let mut seen = std::collections::HashSet::new();
        while let Some(directory) = pending.pop() {
            if !seen.insert((directory.mount, directory.inode)) {
                let error =
                    Error::corrupt("filesystem", "directory entry", 0, "a second way to a directory", "one parent");
                return Err(error.at_path(directory.path.as_bytes()).into());
            }
            if self.recursive {
                let blank = if seen.len() > 1 { "\n" } else { "" };
                writeln!(out, "{blank}{}:", directory.path)?;
            }
            let below = self.write_directory(out, &mounts, &directory, &owners)?;
            pending.extend(below.into_iter().rev());
        }
        Ok(out.flush()?)
    }

    /// Lists one directory and, with -R, answers with the directories in it. Only a long listing, whose columns are as
    /// wide as they must be, is held in memory.
    fn write_directory(
        &self,
        out: &mut impl Write,
        mounts: &MountTable,
        directory: &Location,
        owners: &Owners,
    ) -> Result<Vec<Location>, Failure> {
        let (mut below, mut rows) = (Vec::new(), Vec::new());
        for (name, inode) in Listing::read(directory)?.iter() {
            let path = directory.path.join(name);
            let location = mounts.cross(Location { inode, path, ..directory.clone() });
            let metadata = location.metadata()?;
            if self.recursive && metadata.file_type == FileType::Dir {
                below.push(location.clone());
            }
            if self.long {
                rows.push((location, metadata, escape(name)));
            } else {
                writeln!(out, "{}", escape(name))?;
            }
        }
        if self.long {
            write_listing(out, &rows, true, owners)?;
        }
        Ok(below)
    }

    fn json_lines(&self, mounts: &MountTable, start: &Location, out: &mut (impl Write + Send)) -> Outcome {
        let mut lines =
            Lines { out, batch: Vec::new(), algorithms: &self.checksum, recursive: self.recursive, failure: None };
        let walked = ops::walk(mounts, start, &mut lines);
        if let Some(failure) = lines.failure.take() {
            return Err(failure);
        }
        walked?;
        lines.finish()
    }
}

type Listed = (Location, Metadata, String);

fn write_listing(out: &mut impl Write, entries: &[Listed], long: bool, owners: &Owners) -> Outcome {
    if long {
        let row = |(location, metadata, name): &Listed| ops::long_row(location, metadata, owners, name);
        let rows = entries.iter().map(row).collect::<Result<Vec<_>>>()?;
        out.write_all(ops::long_listing(&rows).as_bytes())?;
    } else {
        for (.., name) in entries {
            writeln!(out, "{name}")?;
        }
    }
    Ok(())
}

/// Writes the walk as JSON lines; digests are computed in batches on all cores and written in the walk's order.
struct Lines<'a, W: Write> {
    out: W,
    batch: Vec<(Location, Record)>,
    algorithms: &'a [Algorithm],
    recursive: bool,
    failure: Option<Failure>,
}

impl<W: Write + Send> Lines<'_, W> {
    fn write_batch(&mut self) -> Outcome {
        if !self.algorithms.is_empty() {
            let algorithms = self.algorithms;
            self.batch.par_iter_mut().try_for_each(|(location, record)| digest(location, record, algorithms))?;
        }
        for (_, record) in self.batch.drain(..) {
            json::line(&mut self.out, &record)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Outcome {
        self.write_batch()?;
        Ok(self.out.flush()?)
    }
}

/// Adds a regular file's digests to its record.
fn digest(location: &Location, record: &mut Record, algorithms: &[Algorithm]) -> Result<()> {
    if record.file_type != FileType::File {
        return Ok(());
    }
    let at_path = |error: Error| error.at_path(location.path.as_bytes());
    let content = location.fs.open(location.inode).map_err(at_path)?;
    for &algorithm in algorithms {
        let digest = ops::checksum(&content, algorithm, &Silent).map_err(at_path)?;
        record.digests.insert(algorithm.name().to_owned(), digest.into());
    }
    Ok(())
}

impl<W: Write + Send> EntrySink for Lines<'_, W> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        let is_start = entry.relative.is_empty();
        let is_dir = entry.metadata.file_type == FileType::Dir;
        if !is_start || !is_dir || self.recursive {
            let record = Record::new(
                entry.location.path.as_bytes(),
                entry.metadata,
                entry.read_link()?.as_deref(),
                &entry.xattrs()?,
            );
            self.batch.push((entry.location.clone(), record));
        }
        if self.batch.len() >= BATCH
            && let Err(failure) = self.write_batch()
        {
            self.failure = Some(failure);
            return Ok(Flow::Stop);
        }
        Ok(if is_start || self.recursive { Flow::Continue } else { Flow::Skip })
    }
}
