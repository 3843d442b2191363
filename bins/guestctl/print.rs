//! Standard output: buffered, and tables.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use guestctl::bytes::is_steering;
use serde::Serialize;

/// Standard output behind a large buffer; flushed by the caller so that a failed write is seen.
pub fn stdout() -> io::Result<BufWriter<File>> {
    // The descriptor itself: the library's standard output looks for line ends in all that passes.
    Ok(BufWriter::with_capacity(256 << 10, File::from(io::stdout().as_fd().try_clone_to_owned()?)))
}

/// A value as indented JSON on standard output.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = stdout()?;
    crate::json::pretty(&mut out, value)?;
    out.flush()
}

/// Whether a character is a command to a terminal, or changes how later text is shown.
pub fn steers(character: char) -> bool {
    !matches!(character, '\n' | '\t') && (character.is_ascii_control() || is_steering(character))
}

/// Rows under a head, columns as wide as they must be; `right` says which columns hold numbers.
pub fn table(head: &[&str], right: &[bool], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = head.iter().map(|name| name.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = stdout()?;
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths).zip(right).map(|((cell, width), right)| {
            let pad = " ".repeat(width - cell.chars().count());
            if *right { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    out.flush()
}

/// A size in the largest binary unit that leaves three digits: `1.6 GiB`.
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1000.0 || unit == "PiB" {
            return if unit == "B" || value >= 100.0 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.3} {unit}")[..4].trim_end_matches('.').to_owned() + " " + unit
            };
        }
        value /= 1024.0;
    }
    unreachable!("the last unit takes all")
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_keep_three_digits() {
        let sizes = [0, 999, 1000, 1536, 104_857_600, 6_442_450_944, u64::MAX];
        assert_eq!(sizes.map(human), ["0 B", "999 B", "0.97 KiB", "1.50 KiB", "100 MiB", "6.00 GiB", "16384 PiB"]);
    }
}
