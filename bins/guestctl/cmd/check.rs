//! `guestctl check`: what `qemu-img check` says, with the same JSON keys and exit codes.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use guestctl::ops::{self, CheckOptions, CheckReport, Repair};

use crate::args::{OpenArgs, Output};
use crate::exit::{Failure, Outcome};
use crate::print;

/// Check an image's tables against one another, and repair them.
///
/// Exit codes of its own: 1 the check did not come to an end, 2 corruptions, 3 leaked clusters and nothing worse, 63 the
/// format has nothing to check, or nothing of it can be repaired.
#[derive(Debug, Args)]
pub struct Check {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    /// Repair leaked clusters, or all that can be repaired.
    #[arg(short, long, value_enum, value_name = "WHAT")]
    repair: Option<What>,
    /// Print JSON with the keys of qemu-img.
    #[arg(long)]
    json: bool,
    /// The same choice in qemu-img's words.
    #[arg(long, value_enum, default_value_t = Output::Human, conflicts_with = "json")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Leaks,
    All,
}

impl Check {
    pub fn run(self) -> Outcome {
        let repair = match self.repair {
            None => Repair::None,
            Some(What::Leaks) => Repair::Leaks,
            Some(What::All) => Repair::All,
        };
        let options = CheckOptions { format: self.open.format, repair, gate: self.open.gate()? };
        let report = ops::check(&self.image, &options).map_err(|error| match error.kind() {
            guestctl::ErrorKind::Unsupported { feature, .. }
                if feature == "a consistency check" || feature == "a repair" =>
            {
                Failure::Coded(error, 63)
            }
            _ => Failure::Guest(error),
        })?;
        if self.json || self.output == Output::Json {
            print::json(&report)?;
        } else {
            human(&report)?;
        }
        match report.exit_code() {
            0 => Ok(()),
            code => Err(Failure::Answer(code)),
        }
    }
}

fn human(report: &CheckReport) -> std::io::Result<()> {
    let mut out = print::stdout()?;
    if report.corruptions_fixed + report.leaks_fixed > 0 {
        writeln!(out, "repaired: {} corruptions, {} leaks", report.corruptions_fixed, report.leaks_fixed)?;
    }
    match report.exit_code() {
        0 => writeln!(out, "No errors were found on the image.")?,
        _ => {
            for (count, what) in [
                (
                    report.corruptions,
                    "errors were found on the image: data may be lost, and using it may make it worse",
                ),
                (report.leaks, "leaked clusters were found on the image: space is lost, nothing else"),
                (report.check_errors, "structures could not be checked"),
            ] {
                if count > 0 {
                    writeln!(out, "{count} {what}.")?;
                }
            }
        }
    }
    let (allocated, total) = (report.allocated_clusters, report.total_clusters);
    if total > 0 && allocated > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        writeln!(
            out,
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            percent(allocated, total),
            percent(report.fragmented_clusters, allocated),
            percent(report.compressed_clusters, allocated)
        )?;
    }
    if report.image_end_offset > 0 {
        writeln!(out, "Image end offset: {}", report.image_end_offset)?;
    }
    out.flush()
}
