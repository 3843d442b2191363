//! `guestctl schema`

use std::io::Write;

use clap::Args;

use super::inspect::SCHEMA;
use crate::exit::Outcome;
use crate::print;

/// Print the JSON Schema (2020-12) of what `inspect --json` prints.
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    pub fn run(self) -> Outcome {
        let mut out = print::stdout()?;
        out.write_all(SCHEMA.as_bytes())?;
        Ok(out.flush()?)
    }
}
