//! Times operations on images and prints durations and bytes as Prometheus text, for a textfile collector:
//! `cargo run --release --example metrics -- *.qcow2 > guestctl.prom`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guestctl::fs::GuestPath;
use guestctl::ops::{TarOptions, tar_out};
use guestctl::progress::Silent;
use guestctl::{Error, Guestfs, Result};

/// What is known of one operation.
#[derive(Default)]
struct Metric {
    count: u64,
    failures: u64,
    time: Duration,
    bytes: u64,
}

#[derive(Default)]
struct Metrics(BTreeMap<&'static str, Metric>);

impl Metrics {
    /// Does something, and keeps how long it took and whether it went well.
    fn time<T>(&mut self, operation: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let done = work();
        let metric = self.0.entry(operation).or_default();
        metric.count += 1;
        metric.failures += u64::from(done.is_err());
        metric.time += begun.elapsed();
        done
    }

    fn bytes(&mut self, operation: &'static str, bytes: u64) {
        self.0.entry(operation).or_default().bytes += bytes;
    }

    fn print(&self) {
        let families: [(&str, &str, fn(&Metric) -> String); 4] = [
            ("operations_total", "Operations that were begun.", |metric| metric.count.to_string()),
            ("failures_total", "Operations that did not succeed.", |metric| metric.failures.to_string()),
            ("operation_seconds_total", "Time that operations took.", |metric| metric.time.as_secs_f64().to_string()),
            ("bytes_total", "Bytes that operations went through.", |metric| metric.bytes.to_string()),
        ];
        for (name, help, value) in families {
            println!("# HELP guestctl_{name} {help}\n# TYPE guestctl_{name} counter");
            for (operation, metric) in &self.0 {
                println!("guestctl_{name}{{operation=\"{operation}\"}} {}", value(metric));
            }
        }
    }
}

fn measure(image: &str, metrics: &mut Metrics) -> Result<()> {
    let g = Guestfs::new()?;
    metrics.time("add_drive", || g.add_drive_ro(image))?;
    metrics.time("launch", || g.launch())?;
    let roots = metrics.time("inspect", || g.inspect_os())?;
    let root = roots.first().ok_or_else(|| Error::invalid("no operating system").in_image(image))?;
    metrics.time("mount", || g.mount_inspected(root))?;
    let passwd = metrics.time("read_file", || g.read_file("/etc/passwd"))?;
    metrics.bytes("read_file", passwd.len() as u64);
    let mounts = g.mount_table()?;
    let options = TarOptions::default();
    let report =
        metrics.time("tar_out", || tar_out(&mounts, &GuestPath::root(), &mut std::io::sink(), &options, &Silent))?;
    metrics.bytes("tar_out", report.archive_bytes);
    metrics.time("shutdown", || g.shutdown())
}

fn main() {
    let mut metrics = Metrics::default();
    for image in std::env::args().skip(1) {
        if let Err(error) = measure(&image, &mut metrics) {
            eprintln!("{error}");
        }
    }
    metrics.print();
}
