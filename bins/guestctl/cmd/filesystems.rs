//! `guestctl filesystems`

use clap::Args;

use crate::args::ImageArgs;
use crate::exit::Outcome;
use crate::print;

/// List filesystems, partitions and logical volumes.
#[derive(Debug, Args)]
pub struct Filesystems {
    #[command(flatten)]
    images: ImageArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Sizes in bytes.
    #[arg(long)]
    bytes: bool,
}

impl Filesystems {
    pub fn run(self) -> Outcome {
        let g = self.images.launch()?;
        let found = g.list_filesystems_long()?;
        if self.json {
            return Ok(print::json(&found)?);
        }
        let size = |bytes: u64| if self.bytes { bytes.to_string() } else { print::human(bytes) };
        let shown = |text: &Option<String>| {
            text.as_deref().map_or_else(|| "-".to_owned(), |text| guestctl::bytes::escape(text.as_bytes()))
        };
        let rows: Vec<_> = found
            .iter()
            .map(|row| {
                vec![row.device.clone(), row.fs_type.clone(), size(row.size), shown(&row.label), shown(&row.uuid)]
            })
            .collect();
        Ok(print::table(&["DEVICE", "TYPE", "SIZE", "LABEL", "UUID"], &[false, false, true, false, false], &rows)?)
    }
}
