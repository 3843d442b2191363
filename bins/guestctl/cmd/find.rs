//! `guestctl find`

use std::io::Write;

use clap::Args;
use guestctl::bytes::escape;
use guestctl::fs::GuestPath;
use guestctl::ops;

use crate::args::GuestArgs;
use crate::cmd::cat::to_output;
use crate::exit::Outcome;
use crate::json;
use crate::print;

/// List every path below a guest directory, relative to it and sorted.
#[derive(Debug, Args)]
pub struct Find {
    #[command(flatten)]
    guest: GuestArgs,
    /// The directory.
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
    /// End each path with a NUL byte and escape nothing.
    #[arg(short = '0', long, conflicts_with = "json")]
    print0: bool,
    /// One JSON string per line; what is not UTF-8 is escaped.
    #[arg(long)]
    json: bool,
}

impl Find {
    pub fn run(self) -> Outcome {
        let mounts = self.guest.mounted()?.mount_table()?;
        let mut out = print::stdout()?;
        ops::find_each(&mounts, &GuestPath::parse(&self.path)?, &mut |path| {
            self.write(&mut out, path).map_err(|error| guestctl::Error::io("write", "the output", error))
        })
        .map_err(to_output)?;
        Ok(out.flush()?)
    }

    fn write(&self, out: &mut impl Write, path: &[u8]) -> std::io::Result<()> {
        if self.print0 {
            out.write_all(path)?;
            return out.write_all(&[0]);
        }
        if self.json {
            let text = std::str::from_utf8(path).map_or_else(|_| escape(path), str::to_owned);
            return json::line(out, &text);
        }
        writeln!(out, "{}", escape(path))
    }
}
