//! What is on disk when the machine stops: after every single write, with some of those lost that no flush had ended.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::check::examine;
use super::{Qcow2, WritableQcow2};
use crate::block::gate::SameDirectory;
use crate::block::open::OpenContext;
use crate::block::writable::Resizable;
use crate::block::{BlockDevice, BlockWrite, Extent, ExtentKind, Memory, check_range, range_len, read_vec};
use crate::error::Result;

/// What happened, in order.
#[derive(Debug, Clone)]
enum Event {
    Write(u64, Vec<u8>),
    Zero(Range<u64>),
    Resize(u64),
    Flush,
    /// The guest begins to change this range.
    Begin(Range<u64>),
    /// A flush of the guest's has returned; the disk is this.
    Flushed(Arc<Vec<u8>>),
}

/// A file in memory that remembers how it became what it is.
#[derive(Debug)]
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    fn note(&self, event: Event) {
        apply(&mut self.bytes.lock().unwrap(), &event);
        self.events.lock().unwrap().push(event);
    }
}

fn apply(bytes: &mut Vec<u8>, event: &Event) {
    let mut put = |offset: usize, len: usize, fill: &dyn Fn(&mut [u8])| {
        // A write past an end whose growth was lost makes the file grow itself.
        if bytes.len() < offset + len {
            bytes.resize(offset + len, 0);
        }
        fill(&mut bytes[offset..offset + len]);
    };
    match event {
        Event::Write(offset, new) => put(*offset as usize, new.len(), &|part| part.copy_from_slice(new)),
        Event::Zero(range) if range.start < bytes.len() as u64 => {
            let end = range.end.min(bytes.len() as u64);
            bytes[range.start as usize..end as usize].fill(0);
        }
        Event::Resize(size) => bytes.resize(*size as usize, 0),
        _ => {}
    }
}

impl BlockDevice for Recorder {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        buf.copy_from_slice(&self.bytes.lock().unwrap()[offset as usize..][..buf.len()]);
        Ok(())
    }
    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        Ok(Extent { kind: ExtentKind::Data, len: range_len(&range) })
    }
}

impl BlockWrite for Recorder {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, bytes.len())?;
        self.note(Event::Write(offset, bytes.to_vec()));
        Ok(())
    }
    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.note(Event::Zero(range));
        Ok(())
    }
    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.note(Event::Zero(range));
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        self.note(Event::Flush);
        Ok(())
    }
}

impl Resizable for Recorder {
    fn resize(&self, size: u64) -> Result<()> {
        self.note(Event::Resize(size));
        Ok(())
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

fn sh(directory: &Path, script: &str) -> bool {
    Command::new("sh").arg("-euc").arg(script).current_dir(directory).output().unwrap().status.success()
}

fn has_qemu() -> bool {
    let found = sh(Path::new("/"), "qemu-img --version; qemu-io --version");
    assert!(found || std::env::var_os("CI").is_none(), "qemu-img and qemu-io are missing, and CI must not skip tests");
    found
}

fn context(path: &Path) -> OpenContext<'_> {
    OpenContext { path, gate: &SameDirectory, depth: 0, follow: true, snapshot: None }
}

/// Changes the image that `script` makes as `disk` at random, and looks at it after a stop at every moment.
fn stops(script: &str, rounds: usize) {
    let directory = tempfile::tempdir().unwrap();
    let raw: Vec<u8> = (0..300_000u32).map(|n| b'a' + (n / 13 % 23) as u8).collect();
    std::fs::write(directory.path().join("raw"), raw).unwrap();
    assert!(sh(directory.path(), script), "{script}");
    let path = directory.path().join("disk");
    let original = std::fs::read(&path).unwrap();
    let recorder = Arc::new(Recorder { bytes: Mutex::new(original.clone()), events: Mutex::new(vec![Event::Flush]) });
    let disk = WritableQcow2::open(recorder.clone(), &context(&path)).unwrap();
    let mut model = read_vec(&disk, 0, disk.size() as usize).unwrap();
    recorder.note(Event::Flushed(Arc::new(model.clone())));
    let mut random = Random(script.len() as u64);
    for round in 0..rounds {
        let at = random.below(model.len());
        let most = [300, 3_000, 30_000][random.below(3)].min(model.len() - at);
        let len = random.below(most).max(1);
        let range = at as u64..(at + len) as u64;
        recorder.note(Event::Begin(range.clone()));
        match random.below(8) {
            0..4 => {
                let bytes: Vec<u8> = (0..len).map(|n| (n / 3 + round) as u8 | 1).collect();
                disk.write_all_at(&bytes, range.start).unwrap();
                model[at..at + len].copy_from_slice(&bytes);
            }
            4 => {
                disk.write_zeroes(range).unwrap();
                model[at..at + len].fill(0);
            }
            5 => {
                disk.discard(range).unwrap();
                model[at..at + len].copy_from_slice(&read_vec(&disk, at as u64, len).unwrap());
            }
            _ => {
                disk.flush().unwrap();
                recorder.note(Event::Flushed(Arc::new(model.clone())));
            }
        }
    }
    drop(disk);
    let events = std::mem::take(&mut *recorder.events.lock().unwrap());
    judge(directory.path(), original, &events, &mut random, script);
}

fn judge(directory: &Path, original: Vec<u8>, events: &[Event], random: &mut Random, script: &str) {
    let mut durable = original;
    let mut since_flush: Vec<&Event> = Vec::new();
    let (mut promised, mut touched) = (Arc::new(Vec::new()), Vec::<Range<u64>>::new());
    let mut looked = 0;
    for (number, event) in events.iter().enumerate() {
        match event {
            Event::Flush => since_flush.drain(..).for_each(|event| apply(&mut durable, event)),
            Event::Begin(range) => touched.push(range.clone()),
            Event::Flushed(model) => {
                promised = Arc::clone(model);
                touched.clear();
            }
            event => since_flush.push(event),
        }
        for kept in [100, 50, 10] {
            if kept < 100 && since_flush.is_empty() {
                continue;
            }
            let mut bytes = durable.clone();
            since_flush.iter().filter(|_| random.below(100) < kept).for_each(|event| apply(&mut bytes, event));
            let found = examine(&Memory::new(bytes.clone())).unwrap().findings;
            assert_eq!(found.corruptions, 0, "{script}: event {number} of {}: {found:?}", events.len());
            looked += 1;
            if looked % 4 == 0 && !promised.is_empty() {
                promise(directory, &bytes, &promised, &touched, script);
            }
            if looked % 97 == 0 {
                std::fs::write(directory.join("stopped"), &bytes).unwrap();
                let clean = "qemu-img check -f qcow2 stopped || [ $? -eq 3 ]";
                assert!(sh(directory, clean), "{script}: event {number}: qemu-img check");
            }
        }
    }
    assert!(looked > events.len());
}

/// What a flush has promised is there, where nothing was written since.
fn promise(directory: &Path, bytes: &[u8], promised: &[u8], touched: &[Range<u64>], script: &str) {
    let path = directory.join("disk");
    let image = Qcow2::open(Arc::new(Memory::new(bytes.to_vec())), &context(&path)).unwrap();
    let mut now = read_vec(&image, 0, promised.len()).unwrap();
    for range in touched {
        let range = range.start as usize..range.end as usize;
        now[range.clone()].copy_from_slice(&promised[range]);
    }
    assert!(now == promised, "{script}: what was flushed is lost");
}

#[test]
fn a_stop_at_any_moment_leaves_a_whole_image() {
    if !has_qemu() {
        return;
    }
    for options in ["compat=0.10,cluster_size=512", "cluster_size=512,refcount_bits=64", "cluster_size=4k"] {
        stops(&format!("qemu-img create -f qcow2 -o {options} disk 300k"), 120);
    }
    stops("qemu-img create -f qcow2 -o cluster_size=512,refcount_bits=1 -b raw -F raw disk", 100);
    stops("qemu-img create -f qcow2 -o extended_l2=on,cluster_size=16k -b raw -F raw disk", 100);
    stops("qemu-img convert -c -O qcow2 -o cluster_size=4k raw disk", 100);
}

#[test]
fn snapshots_too_survive_a_stop() {
    if !has_qemu() {
        return;
    }
    let snapshots = "qemu-io -f qcow2 -c 'write -P 1 0 200k' disk; qemu-img snapshot -c one disk
        qemu-io -f qcow2 -c 'write -P 2 50k 100k' disk; qemu-img snapshot -c two disk";
    for options in ["cluster_size=512", "cluster_size=4k,compat=0.10"] {
        stops(&format!("qemu-img create -f qcow2 -o {options} disk 300k; {snapshots}"), 80);
    }
    stops("qemu-img convert -c -O qcow2 -o cluster_size=2k raw disk; qemu-img snapshot -c one disk", 80);
}
