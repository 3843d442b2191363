//! Reads a whole NBD export, data only, with several threads, and says how fast that was.
//!
//! `cargo run --release --example nbd_read -- 'nbd+unix:///?socket=/run/nbd.sock' [OUTPUT]`

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use guestctl::block::nbd::{Client, NbdOptions};
use guestctl::block::{BlockDevice, ExtentKind};

const CHUNK: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().ok_or("usage: nbd_read URI [OUTPUT]")?;
    let output = arguments.next().map(File::create).transpose()?;
    let begun = Instant::now();
    let client = Client::connect(&uri.parse()?, &NbdOptions::default())?;
    if let Some(output) = &output {
        output.set_len(client.size())?;
    }
    let next = Mutex::new(0);
    let bytes = AtomicU64::new(0);
    let work = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut buf = vec![0; CHUNK as usize];
        loop {
            // The next run of data, at most a chunk of it.
            let (at, len) = {
                let mut next = next.lock().unwrap();
                loop {
                    if *next >= client.size() {
                        return Ok(());
                    }
                    let extent = client.next_extent(*next..client.size())?;
                    let at = *next;
                    if extent.kind == ExtentKind::Data {
                        let len = extent.len.min(CHUNK);
                        *next += len;
                        break (at, len);
                    }
                    *next += extent.len;
                }
            };
            let buf = &mut buf[..len as usize];
            client.read_exact_at(buf, at)?;
            if let Some(output) = &output {
                output.write_all_at(buf, at)?;
            }
            bytes.fetch_add(len, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
    .map_err(|error| error.to_string())?;
    let (bytes, time) = (bytes.into_inner(), begun.elapsed());
    println!(
        "{bytes} bytes of data of {} in {time:.3?}, {:.0} MB/s, {} connections",
        client.size(),
        bytes as f64 / time.as_secs_f64() / 1e6,
        client.connections()
    );
    Ok(())
}
