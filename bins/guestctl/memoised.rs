//! Standard output that is computed once: from the cache when the same was asked of the same images before.

use std::io::{BufWriter, Write};

use guestctl::Guestfs;
use guestctl::cache::{Memo, Tee};
use guestctl::ops::Problems;

use crate::exit::Failure;
use crate::print;

/// Where a command writes what is kept.
pub type Output<'a> = Tee<'a, BufWriter<std::fs::File>>;

/// Prints the result of an operation on the handle's drives. `parts` are all that decides it beside the drives. Where it is
/// not known `compute` writes it; it is kept when that tells of no problems.
pub fn print<'a>(
    g: &Guestfs,
    operation: &str,
    revision: u32,
    parts: impl IntoIterator<Item = (&'a str, String)>,
    compute: impl FnOnce(&mut Output<'_>) -> Result<Problems, Failure>,
) -> Result<Problems, Failure> {
    let mut out = print::stdout()?;
    match g.memo(operation, revision, parts)? {
        Memo::Known(known) => {
            out.write_all(&known.bytes)?;
            out.flush()?;
            Ok(Problems::default())
        }
        Memo::New(mut recording) => {
            let mut out = recording.tee(out);
            let problems = compute(&mut out)?;
            out.flush()?;
            if problems.is_empty() {
                recording.keep();
            }
            Ok(problems)
        }
    }
}
