//! A benchmark of one's own: how long launch, mount, reading, digests and an archive take on an image, as a table.
//!
//! `cargo run --release --example benchmark -- images/demo.qcow2 [RUNS]`

use std::time::{Duration, Instant};

use guestctl::block::BlockDevice;
use guestctl::fs::GuestPath;
use guestctl::ops::{Algorithm, TarOptions, checksum, tar_out};
use guestctl::progress::Silent;
use guestctl::{Error, Guestfs, Result};

/// What is timed: a name, and work that says how many bytes it went through.
type Work<'a> = (&'a str, Box<dyn Fn() -> Result<u64> + 'a>);

fn launched(image: &str) -> Result<Guestfs> {
    let g = Guestfs::new()?;
    g.add_drive_ro(image)?;
    g.launch()?;
    Ok(g)
}

fn mounted(image: &str) -> Result<Guestfs> {
    let g = launched(image)?;
    let root = g.inspect_os()?.into_iter().next();
    let root = root.ok_or_else(|| Error::invalid("no operating system").in_image(image))?;
    g.mount_inspected(&root)?;
    Ok(g)
}

/// The middle and the shortest of several runs, and the bytes of one.
fn time(runs: usize, work: impl Fn() -> Result<u64>) -> Result<(Duration, Duration, u64)> {
    let mut bytes = 0;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let begun = Instant::now();
        bytes = work()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok((times[times.len() / 2], times[0], bytes))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().unwrap_or_else(|| "images/demo.qcow2".to_owned());
    let runs: usize = arguments.next().and_then(|runs| runs.parse().ok()).unwrap_or(5).max(1);
    let g = mounted(&image)?;
    let mounts = g.mount_table()?;
    let device = g.list_devices()?.into_iter().next().unwrap_or_default();
    let works: Vec<Work> = vec![
        ("launch", Box::new(|| launched(&image)?.shutdown().map(|()| 0))),
        ("inspect and mount", Box::new(|| mounted(&image)?.shutdown().map(|()| 0))),
        ("read a file", Box::new(|| Ok(g.read_file("/etc/passwd")?.len() as u64))),
        (
            "read the disk",
            Box::new(|| {
                let content = g.open_content(&device)?;
                let mut buf = vec![0; 1 << 20];
                for at in (0..content.size()).step_by(buf.len()) {
                    let len = (content.size() - at).min(buf.len() as u64) as usize;
                    content.read_exact_at(&mut buf[..len], at)?;
                }
                Ok(content.size())
            }),
        ),
        (
            "SHA-256 of the disk",
            Box::new(|| {
                let content = g.open_content(&device)?;
                checksum(&content, Algorithm::Sha256, &Silent)?;
                Ok(content.size())
            }),
        ),
        (
            "tar of the tree",
            Box::new(|| {
                let mut archive = Counted(0);
                tar_out(&mounts, &GuestPath::root(), &mut archive, &TarOptions::default(), &Silent)?;
                Ok(archive.0)
            }),
        ),
    ];
    println!("{:<20} {:>12} {:>12} {:>12} {:>10}", "work", "median", "shortest", "bytes", "MB/s");
    for (name, work) in works {
        let (median, shortest, bytes) = time(runs, work)?;
        let rate = if bytes == 0 { String::new() } else { format!("{:.0}", bytes as f64 / median.as_secs_f64() / 1e6) };
        println!("{name:<20} {:>12} {:>12} {bytes:>12} {rate:>10}", format!("{median:.1?}"), format!("{shortest:.1?}"));
    }
    Ok(())
}

/// Takes bytes and counts them.
struct Counted(u64);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
