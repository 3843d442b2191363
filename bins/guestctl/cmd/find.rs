//! `guestctl find`

use std::io::Write;

use clap::Args;
use guestctl::bytes::escape;

use crate::args::GuestArgs;
use crate::exit::Outcome;
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
        let g = self.guest.mounted()?;
        let mut out = print::stdout()?;
        for path in g.find0(&self.path)? {
            if self.print0 {
                out.write_all(&path)?;
                out.write_all(&[0])?;
            } else if self.json {
                let text = String::from_utf8(path).unwrap_or_else(|error| escape(error.as_bytes()));
                print::json_line(&mut out, &text)?;
            } else {
                writeln!(out, "{}", escape(&path))?;
            }
        }
        Ok(out.flush()?)
    }
}
