//! `guestctl cache doctor`

use clap::Args;
use guestctl::cache::{Calibration, measure};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Say what the store is, and with --calibrate what its filesystem can do now.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Measure the filesystem.
    #[arg(long)]
    calibrate: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    directory: String,
    writable: bool,
    reflink: bool,
    pack_threshold_bytes: u64,
    free_bytes: u64,
    measured: Option<Calibration>,
    advice: Vec<String>,
}

impl Doctor {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let version = store.version();
        let staging = store.path().join("staging");
        let measured = if self.calibrate { Some(measure(&staging)?) } else { None };
        let mut advice = Vec::new();
        if !version.reflink {
            advice.push("files are copied when they come back: XFS or btrfs would share them".to_owned());
        }
        if let Some(measured) = measured.filter(|measured| measured.reflink != version.reflink) {
            let now = if measured.reflink { "can" } else { "cannot" };
            advice.push(format!(
                "the filesystem {now} share storage, and could{} when the store was made",
                if version.reflink { "" } else { " not" }
            ));
        }
        if !store.is_writable() {
            advice.push("nothing can be added: the store is read-only to this user".to_owned());
        }
        let report = Report {
            directory: store.path().display().to_string(),
            writable: store.is_writable(),
            reflink: version.reflink,
            pack_threshold_bytes: version.pack_threshold_bytes,
            free_bytes: store.free_bytes()?,
            measured,
            advice,
        };
        if self.json {
            return Ok(print::json(&report)?);
        }
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let mut rows = vec![
            ("directory", report.directory),
            ("writable", yes(report.writable)),
            ("reflinks", yes(report.reflink)),
            ("packs", format!("files of fewer than {}", print::human(report.pack_threshold_bytes))),
            ("free", print::human(report.free_bytes)),
        ];
        if let Some(measured) = report.measured {
            rows.push(("measured: packs", format!("files of fewer than {}", print::human(measured.pack_threshold))));
            rows.push(("measured: 4 KiB files written", format!("{}/s", measured.small_files_written_per_second)));
            rows.push(("measured: files reflinked", format!("{}/s", measured.files_reflinked_per_second)));
            rows.push(("measured: step of times", format!("{} ns", measured.mtime_step_ns)));
        }
        rows.extend(report.advice.into_iter().map(|advice| ("advice", advice)));
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Ok(print::table(&["CACHE", ""], &[false, false], &rows)?)
    }
}
