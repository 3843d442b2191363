//! `guestctl copy-out`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use guestctl::fs::GuestPath;
use guestctl::ops::{CopyOutOptions, CopyOutReport, Existing, FactCount, ForeignNames, Manifest, Preserve, Problems};
use guestctl::{Error, Result};
use serde::Serialize;

use crate::args::{BulkArgs, GuestArgs};
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::progress::Shown;
use crate::{jobs, print};

/// Copy guest files and directories out as host files: complete under their names or not at all.
///
/// Needs no root. Permissions, times, user attributes, links and holes are kept; owners, set-user-ID bits, devices, ACLs,
/// labels and capabilities only with --preserve. A manifest beside the tree has all of them, one line of JSON for each
/// entry. Contents are shared with the image where the host's filesystem can do that.
#[derive(Debug, Args)]
pub struct CopyOut {
    #[command(flatten)]
    guest: GuestArgs,
    /// Guest paths, and at last the host path: a new name, or a directory in which they get their own names.
    #[arg(value_names = ["REMOTE", "LOCAL"], num_args = 2.., required = true)]
    paths: Vec<OsString>,
    /// Put what is in the guest directory into LOCAL itself, which exists.
    #[arg(long)]
    into: bool,
    /// With --into, replace files that exist; they are never written into.
    #[arg(long, requires = "into")]
    overwrite: bool,
    /// What else host files are given: owner, setid, devices, acls, security, trusted, all; none,mode,times,xattrs say
    /// less than the default.
    #[arg(long, value_name = "WHAT", default_value = "default", hide_default_value = true)]
    preserve: Preserve,
    /// The manifest, instead of LOCAL.guestctl-manifest.jsonl.
    #[arg(long, value_name = "FILE", conflicts_with = "no_manifest")]
    manifest: Option<PathBuf>,
    /// Write no manifest: what the host files are not given is lost.
    #[arg(long)]
    no_manifest: bool,
    /// What to do about names that Windows or macOS do not take, or take for one another.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "report")]
    foreign_names: Foreign,
    #[command(flatten)]
    bulk: BulkArgs,
    /// Copy bytes even where the host's filesystem could share them.
    #[arg(long)]
    no_clone: bool,
    /// Leave it to the system when the files become durable.
    #[arg(long)]
    no_sync: bool,
    /// Print what was done as JSON, sizes in bytes.
    #[arg(long)]
    json: bool,
    /// Show no progress and no notes.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Foreign {
    /// Take them, and say how many there are.
    Report,
    /// Leave them out; the exit code is 3.
    Refuse,
    /// Change them: a%3Ab for a:b, name~2 for a twin of Name.
    Rename,
    /// Take them, and do not look.
    Ignore,
}

#[derive(Debug, Serialize)]
struct Copies {
    copies: Vec<Copied>,
}

#[derive(Debug, Serialize)]
struct Copied {
    remote: String,
    local: PathBuf,
    #[serde(flatten)]
    report: CopyOutReport,
}

impl CopyOut {
    pub fn run(self, context: &Context) -> Outcome {
        let Some((local, remotes)) = self.paths.split_last() else { return Ok(()) };
        let local = Path::new(local);
        if remotes.len() > 1 && !local.is_dir() {
            let error = Error::invalid(format!("{} is no directory for several copies", local.display()));
            return Err(error.into());
        }
        if remotes.len() > 1 && self.manifest.is_some() {
            return Err(Error::invalid("one manifest cannot be that of several copies").into());
        }
        let options = self.options()?;
        let g = self.guest.mounted()?;
        let mut copies = Vec::new();
        for remote in remotes {
            let local = self.target(remote.as_bytes(), local)?;
            let progress = Shown::new("copy-out").quiet(self.quiet);
            let report = jobs::install(context.jobs(self.bulk.jobs), || {
                g.copy_out_with(remote.as_bytes(), &local, &options, &progress)
            })?;
            drop(progress);
            let report = report?;
            if !self.quiet {
                note(&report);
            }
            copies.push(Copied { remote: guestctl::bytes::escape(remote.as_bytes()), local, report });
        }
        let refused = copies.iter().any(|copied| copied.report.refused_what_was_asked());
        let mut problems = Problems::default();
        for Copied { report, .. } in &copies {
            problems.append(report.problems.clone());
        }
        if self.json {
            print::json(&Copies { copies })?;
        }
        exit::partial(&problems)?;
        if refused { Err(Failure::Answer(3)) } else { Ok(()) }
    }

    fn options(&self) -> Result<CopyOutOptions> {
        let mut options = CopyOutOptions::default();
        options.filter = self.bulk.filter()?;
        options.preserve = self.preserve;
        options.into = self.into;
        options.existing = if self.overwrite { Existing::Replace } else { Existing::Refuse };
        options.manifest = match &self.manifest {
            Some(path) => Manifest::File(path.clone()),
            None if self.no_manifest => Manifest::None,
            None => Manifest::Beside,
        };
        options.foreign_names = match self.foreign_names {
            Foreign::Report => ForeignNames::Report,
            Foreign::Refuse => ForeignNames::Refuse,
            Foreign::Rename => ForeignNames::Rename,
            Foreign::Ignore => ForeignNames::Ignore,
        };
        options.clone = !self.no_clone;
        options.sync = !self.no_sync;
        Ok(options)
    }

    /// Where one copy goes.
    fn target(&self, remote: &[u8], local: &Path) -> Result<PathBuf> {
        if self.into || !local.is_dir() {
            return Ok(local.to_owned());
        }
        match GuestPath::parse(remote)?.file_name() {
            Some(b"..") | None => Err(Error::invalid(format!("{} exists", local.display()))
                .with_hint("choose a new name, or copy into the directory with --into")),
            Some(name) => Ok(local.join(std::ffi::OsStr::from_bytes(name))),
        }
    }
}

/// Says what a user may not expect.
#[allow(clippy::print_stderr, reason = "notes are for people")]
fn note(report: &CopyOutReport) {
    let counts = |counts: &[FactCount]| {
        counts.iter().map(|count| format!("{} {}", count.count, count.fact)).collect::<Vec<_>>().join(", ")
    };
    if !report.not_preserved.is_empty() {
        let where_to = if report.manifest.is_some() { "in the manifest alone" } else { "not kept" };
        eprintln!("guestctl: {where_to}: {}", counts(&report.not_preserved));
    }
    if !report.refused.is_empty() {
        eprintln!("guestctl: the host did not take: {}", counts(&report.refused));
    }
    if report.foreign_names.count > 0 {
        let count = report.foreign_names.count;
        eprintln!("guestctl: {count} names that Windows or macOS do not take (--foreign-names rename changes them)");
    }
}
