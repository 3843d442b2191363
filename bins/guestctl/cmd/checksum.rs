//! `guestctl checksum`

use std::io::Write;

use clap::Args;
use guestctl::bytes::escape;
use guestctl::fs::{FileType, Follow, GuestPath};
use guestctl::ops::{self, Algorithm, ChecksumOptions, Problems};
use guestctl::{Error, Guestfs, Result};
use serde_json::{Map, Value};

use super::cat::to_output;
use crate::args::{BulkArgs, GuestArgs};
use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::progress::Shown;
use crate::{jobs, json, memoised};

/// Print digests of guest files, trees and devices, all cores at work, several digests in one pass.
///
/// Lines are those of sha256sum and its like, which can check them; of several digests, those of `--tag`. Names in a tree
/// begin with `./`, as if made in that directory.
#[derive(Debug, Args)]
pub struct Checksum {
    /// crc, md5, sha1, sha224, sha256, sha384, sha512, blake3 or xxh3; repeatable.
    #[arg(short = 'A', long = "algorithm", value_name = "ALG", default_value = "sha256")]
    algorithms: Vec<Algorithm>,
    /// Name the algorithm in each line: `SHA256 (PATH) = DIGEST`.
    #[arg(long, conflicts_with = "json")]
    tag: bool,
    /// One JSON object per line: path, size_bytes, and each digest under its algorithm's name.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bulk: BulkArgs,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    guest: GuestArgs,
    /// Files, directories with all that is below them, or devices such as /dev/sda1.
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<String>,
}

impl Checksum {
    pub fn run(self, context: &Context) -> Outcome {
        let only_devices = self.paths.iter().all(|path| path.starts_with("/dev/"));
        let g = self.guest.images.launch_cached(context)?;
        let algorithms: Vec<_> = self.algorithms.iter().map(|algorithm| algorithm.name()).collect();
        let entries = &self.bulk.entries;
        let parts = [
            ("arguments", format!("{algorithms:?} {} {} {:?}", self.tag, self.json, self.paths)),
            ("mounts", self.guest.mount.join("\n")),
            ("rules", format!("{:?} {:?}", entries.exclude, entries.include)),
        ];
        let problems = memoised::print(&g, "checksum", 1, parts, |out| {
            if !only_devices {
                self.guest.mount(&g)?;
            }
            let progress = Shown::new("checksum").quiet(self.quiet);
            let done: Result<Result<Problems>> = jobs::install(context.jobs(self.bulk.jobs), || {
                let mut problems = Problems::default();
                for path in &self.paths {
                    problems.append(self.one(&g, path, out, &progress)?);
                }
                Ok(problems)
            });
            drop(progress);
            done?.map_err(to_output)
        })?;
        exit::partial(&problems)
    }

    fn one(&self, g: &Guestfs, path: &str, out: &mut (impl Write + Send), progress: &Shown) -> Result<Problems> {
        let write = |error| Error::io("write", "the output", error);
        let is_tree = g.list_devices()?.iter().all(|device| !path.starts_with(device.as_str()))
            && !g.lvs()?.iter().any(|volume| volume == path)
            && g.mount_table()?.resolve(&GuestPath::parse(path)?, Follow::Links)?.metadata()?.file_type
                == FileType::Dir;
        if !is_tree {
            let content = g.open_content(path)?;
            let digests = ops::checksums(&content, &self.algorithms, progress);
            let digests = digests.map_err(|error| error.at_path(path.as_bytes()))?;
            let digests: Vec<String> = digests.into_iter().map(|(_, digest)| digest).collect();
            self.line(out, path.as_bytes(), content.size(), &digests).map_err(write)?;
            return Ok(Problems::default());
        }
        let mut options = ChecksumOptions::new(self.algorithms.clone());
        options.filter = self.bulk.filter()?;
        let visit = |file: ops::Digested| {
            let path = [b"./", &file.path[..]].concat();
            self.line(&mut *out, &path, file.size, &file.digests).map_err(write)
        };
        let mounts = g.mount_table()?;
        Ok(ops::checksums_out(&mounts, &GuestPath::parse(path)?, &options, visit, progress)?.problems)
    }

    fn line(&self, out: &mut impl Write, path: &[u8], size: u64, digests: &[String]) -> std::io::Result<()> {
        let digests = self.algorithms.iter().zip(digests);
        if self.json {
            let mut object = Map::new();
            let text = std::str::from_utf8(path).map_or_else(|_| escape(path), str::to_owned);
            object.insert("path".to_owned(), Value::from(text));
            object.insert("size_bytes".to_owned(), Value::from(size));
            object.extend(digests.map(|(algorithm, digest)| (algorithm.name().to_owned(), digest.as_str().into())));
            return json::line(out, &Value::Object(object));
        }
        for (algorithm, digest) in digests {
            if self.tag || self.algorithms.len() > 1 {
                ops::write_sum_tag(out, *algorithm, digest, path)?;
            } else {
                ops::write_sum_line(out, *algorithm, digest, size, path)?;
            }
        }
        Ok(())
    }
}
