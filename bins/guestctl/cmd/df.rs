//! `guestctl df`

use clap::Args;
use serde::Serialize;

use crate::args::GuestArgs;
use crate::exit::Outcome;
use crate::print;

/// Show the size and free space of a guest's filesystems.
#[derive(Debug, Args)]
pub struct Df {
    #[command(flatten)]
    guest: GuestArgs,
    /// Sizes in KiB, MiB, GiB.
    #[arg(short = 'H', long)]
    human: bool,
    /// Count inodes and not blocks.
    #[arg(short, long)]
    inodes: bool,
    /// Print JSON, sizes in bytes.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    device: String,
    mountpoint: String,
    size_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

impl Df {
    pub fn run(self) -> Outcome {
        let g = self.guest.mounted()?;
        let row = |(device, mountpoint, statfs): (String, String, guestctl::fs::StatFs)| Row {
            device,
            mountpoint,
            size_bytes: statfs.blocks.saturating_mul(statfs.block_size),
            used_bytes: statfs.blocks.saturating_sub(statfs.blocks_free).saturating_mul(statfs.block_size),
            available_bytes: statfs.blocks_available.saturating_mul(statfs.block_size),
            inodes: statfs.files,
            inodes_free: statfs.files_free,
        };
        let rows: Vec<Row> = g.df()?.into_iter().map(row).collect();
        if self.json {
            return Ok(print::json(&rows)?);
        }
        let size = |bytes: u64| if self.human { print::human(bytes) } else { (bytes / 1024).to_string() };
        let cells = |row: &Row| {
            let (total, used, free) = if self.inodes {
                (row.inodes, row.inodes - row.inodes_free.min(row.inodes), row.inodes_free)
            } else {
                (row.size_bytes, row.used_bytes, row.available_bytes)
            };
            let shown = |value: u64| if self.inodes { value.to_string() } else { size(value) };
            // As df does: used of what users can have, rounded up.
            let (part, whole) = (u128::from(used), u128::from(used) + u128::from(free));
            let percent = (part * 100).div_ceil(whole.max(1));
            vec![
                row.device.clone(),
                shown(total),
                shown(used),
                shown(free),
                format!("{percent}%"),
                row.mountpoint.clone(),
            ]
        };
        let head = match (self.inodes, self.human) {
            (true, _) => ["DEVICE", "INODES", "USED", "FREE", "USE%", "MOUNTED ON"],
            (false, true) => ["DEVICE", "SIZE", "USED", "AVAILABLE", "USE%", "MOUNTED ON"],
            (false, false) => ["DEVICE", "1K-BLOCKS", "USED", "AVAILABLE", "USE%", "MOUNTED ON"],
        };
        let rows: Vec<_> = rows.iter().map(cells).collect();
        Ok(print::table(&head, &[false, true, true, true, true, false], &rows)?)
    }
}
