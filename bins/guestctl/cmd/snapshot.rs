//! `guestctl snapshot`

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use guestctl::block::ImageFormat;
use guestctl::bytes::escape;
use guestctl::ops::{self, SnapshotOptions};

use crate::args::{self, Output};
use crate::exit::Outcome;
use crate::print;

/// List, make, return to and delete an image's internal snapshots.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["create", "apply", "delete"]))]
pub struct Snapshot {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The image's format; without it the format is probed.
    #[arg(short = 'f', long = "input-format", value_name = "FORMAT", value_parser = args::format)]
    format: Option<ImageFormat>,
    /// List the snapshots; the default.
    #[arg(short, long, conflicts_with = "what")]
    list: bool,
    /// Keep the disk as it is now under this name.
    #[arg(short, long, value_name = "NAME")]
    create: Option<String>,
    /// Make the disk what it was when this snapshot was taken.
    #[arg(short, long, value_name = "NAME")]
    apply: Option<String>,
    /// Delete this snapshot.
    #[arg(short, long, value_name = "NAME")]
    delete: Option<String>,
    /// Print the list as JSON with the keys of qemu-img.
    #[arg(long)]
    json: bool,
    /// The same choice in qemu-img's words.
    #[arg(long, value_enum, default_value_t = Output::Human, conflicts_with = "json")]
    output: Output,
}

impl Snapshot {
    pub fn run(self) -> Outcome {
        let options = SnapshotOptions { format: self.format, time: None };
        if let Some(name) = &self.create {
            ops::snapshot_create(&self.image, name, &options)?;
        } else if let Some(name) = &self.apply {
            ops::snapshot_apply(&self.image, name, &options)?;
        } else if let Some(name) = &self.delete {
            ops::snapshot_delete(&self.image, name, &options)?;
        } else {
            return self.show(&options);
        }
        Ok(())
    }

    fn show(&self, options: &SnapshotOptions) -> Outcome {
        let snapshots = ops::snapshots(&self.image, options)?;
        if self.json || self.output == Output::Json {
            return Ok(print::json(&snapshots)?);
        }
        let row = |snapshot: &guestctl::block::SnapshotInfo| {
            let seconds = i64::try_from(snapshot.date_sec).unwrap_or(i64::MAX);
            let taken = guestctl::fs::Timestamp { seconds, nanoseconds: 0 };
            let clock = snapshot.vm_clock_sec;
            vec![
                escape(snapshot.id.as_bytes()),
                escape(snapshot.name.as_bytes()),
                print::human(snapshot.vm_state_size),
                taken.minute().to_string(),
                format!(
                    "{:02}:{:02}:{:02}.{:03}",
                    clock / 3600,
                    clock / 60 % 60,
                    clock % 60,
                    snapshot.vm_clock_nsec / 1_000_000
                ),
            ]
        };
        let rows: Vec<_> = snapshots.iter().map(row).collect();
        Ok(print::table(&["ID", "TAG", "VM SIZE", "DATE", "VM CLOCK"], &[true, false, true, false, true], &rows)?)
    }
}
