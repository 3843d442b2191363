//! `guestctl cache init`

use clap::Args;
use guestctl::cache::{Compression, InitOptions, Store};

use crate::context::Context;
use crate::exit::Outcome;
use crate::{print, size};

/// Make a store, or show what one is that is there.
#[derive(Debug, Args)]
pub struct Init {
    /// none, so that objects can be reflinked; zstd for an archive.
    #[arg(long, value_enum, default_value_t = Kind::None)]
    compression: Kind,
    /// Smaller files go into packs; measured without it.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pack_threshold: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    None,
    Zstd,
}

impl Init {
    pub fn run(self, context: &Context) -> Outcome {
        let compression = match self.compression {
            Kind::None => Compression::None,
            Kind::Zstd => Compression::Zstd,
        };
        let options = InitOptions { pack_threshold: self.pack_threshold, compression };
        let store = Store::init(context.directory()?, &options)?;
        let version = store.version();
        if self.json {
            return Ok(print::json(version)?);
        }
        let rows = [
            ("directory", store.path().display().to_string()),
            ("uuid", version.uuid.clone()),
            ("packs", format!("files of fewer than {}", print::human(version.pack_threshold_bytes))),
            ("reflinks", if version.reflink { "yes" } else { "no" }.to_owned()),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Ok(print::table(&["CACHE", ""], &[false, false], &rows)?)
    }
}
