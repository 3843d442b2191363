//! What is read, and what is not: shared storage, zeroes, parts that cannot be read.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guestctl::block::{self, BlockDevice, Extent, HostRange, Memory, OpenOptions, SameDirectory};
use guestctl::fs::MountTable;
use guestctl::ops::{
    Change, ChangeKind, DiffFact, DiffIgnore, DiffOptions, DiffProblem, DiffReport, DiffSide, DiffSink, TextOptions,
    diff,
};
use guestctl::progress::{Progress, Silent};
use guestctl::{Error, Result};

use super::program::guestctl;
use super::support::{have, shell};
use super::tree_fs::TreeFs;

/// Keeps everything.
#[derive(Debug, Default)]
struct Kept {
    changes: Vec<Change>,
    problems: Vec<DiffProblem>,
}

impl DiffSink for Kept {
    fn change(&mut self, change: Change) -> Result<()> {
        self.changes.push(change);
        Ok(())
    }

    fn problem(&mut self, problem: DiffProblem) -> Result<()> {
        self.problems.push(problem);
        Ok(())
    }
}

fn compared(old: &MountTable, new: &MountTable, options: &DiffOptions) -> (DiffReport, Kept) {
    let mut kept = Kept::default();
    let report = diff(old, new, options, &mut kept, &Silent).unwrap();
    (report, kept)
}

/// The trees of `TreeFs` have times of their own.
fn without_times() -> DiffOptions {
    DiffOptions { ignore: DiffIgnore { times: true, ..DiffIgnore::default() }, ..DiffOptions::default() }
}

/// Counts what is read of a device, and can hide where its bytes lie.
#[derive(Debug)]
struct Counting {
    device: Arc<dyn BlockDevice>,
    read: Arc<AtomicU64>,
    tells_place: bool,
}

impl BlockDevice for Counting {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.device.read_exact_at(buf, offset)
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.device.next_extent(range)
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        self.device.host_range(range).filter(|_| self.tells_place)
    }
}

/// One side: its namespace, and how much was read of its disk.
fn counted(image: &Path, snapshot: Option<&str>, tells_place: bool) -> (MountTable, Arc<AtomicU64>) {
    let snapshot = snapshot.map(str::to_owned);
    let options = OpenOptions { gate: Arc::new(SameDirectory), snapshot, ..OpenOptions::default() };
    let device = block::open(image, &options).unwrap().device;
    let read = Arc::new(AtomicU64::new(0));
    let counting = Counting { device, read: read.clone(), tells_place };
    (MountTable::with_root("/dev/sda", guestctl::fs::open(Arc::new(counting)).unwrap()), read)
}

const BIG: u64 = 24 << 20;
const CLUSTER: u64 = 64 << 10;

/// A base image with a large file of noise and some small ones, and where the large one begins on the disk.
fn base(directory: &Path) -> u64 {
    shell(
        directory,
        &format!(
            "mkdir tree; head -c {BIG} /dev/urandom >tree/big; head -c 5000000 /dev/urandom >tree/other
             for n in $(seq 300); do head -c 20000 /dev/urandom >tree/small$n; done
             mke2fs -q -F -t ext4 -O ^has_journal -E stride=16,stripe_width=16 -d tree base.raw 80M
             qemu-img convert -O qcow2 base.raw base.qcow2"
        ),
    );
    // The first run of 512 KiB that is in one piece on the disk and whole clusters.
    let blocks = shell(directory, "debugfs -R 'blocks /big' base.raw 2>/dev/null").stdout;
    let size = shell(directory, "debugfs -R 'stats -h' base.raw 2>/dev/null | sed -n 's/^Block size: *//p'").stdout;
    let size: u64 = String::from_utf8(size).unwrap().trim().parse().unwrap();
    let blocks: Vec<u64> = String::from_utf8(blocks).unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
    let run = (512 << 10) / size;
    let at = (100..blocks.len() as u64 - run).find(|at| {
        let first = blocks[*at as usize];
        (first * size).is_multiple_of(CLUSTER) && (0..run).all(|next| blocks[(at + next) as usize] == first + next)
    });
    blocks[at.unwrap() as usize] * size
}

#[test]
fn shared_clusters_of_overlays_are_not_read() {
    if !have("qemu-img") || !have("qemu-io") || !have("mke2fs") || !have("debugfs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let place = base(directory.path());
    // In `same` a cluster is written again with the bytes that it has, in `other` one byte is another.
    shell(
        directory.path(),
        &format!(
            "for o in one same other; do qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 $o.qcow2; done
             dd if=base.raw of=cluster bs=65536 iflag=skip_bytes skip={place} count=1 2>/dev/null
             qemu-io -c 'write -s cluster {place} 65536' same.qcow2 >/dev/null
             qemu-io -c 'write -P 7 {place} 1' other.qcow2 >/dev/null; qemu-img check -q other.qcow2"
        ),
    );
    let content: u64 = BIG + 5_000_000 + 300 * 20_000;
    for (name, read, differs) in [("one", 0, false), ("same", 2 * CLUSTER, false), ("other", 2 * CLUSTER, true)] {
        let (old, old_read) = counted(&at("one.qcow2"), None, true);
        let (new, new_read) = counted(&at(&format!("{name}.qcow2")), None, true);
        let (report, kept) = compared(&old, &new, &DiffOptions::default());
        assert_eq!(report.read_bytes, read, "{name}");
        let facts: Vec<_> = kept.changes.iter().map(|change| (change.path.to_string(), change.facts.clone())).collect();
        if differs {
            assert_eq!(facts, [("/big".to_owned(), vec![DiffFact::Content])]);
            assert!(report.shared_bytes < content);
        } else {
            assert!(facts.is_empty() && report.is_same());
            assert_eq!(report.shared_bytes, content - read / 2, "{name}");
        }
        // Beside the contents there are inode tables and directories.
        for read in [old_read, new_read] {
            assert!(read.load(Ordering::Relaxed) < 2 << 20, "{name}: {read:?} bytes of 80 MiB were read");
        }
        // Without knowing where bytes lie the answer is the same, and everything is read.
        let (old, old_read) = counted(&at("one.qcow2"), None, false);
        let (new, _) = counted(&at(&format!("{name}.qcow2")), None, true);
        let (blind, blind_kept) = compared(&old, &new, &DiffOptions::default());
        let first = |kept: &Kept| kept.changes.iter().map(|change| change.first_difference).collect::<Vec<_>>();
        assert_eq!(first(&blind_kept), first(&kept));
        assert_eq!(blind.shared_bytes, 0);
        let whole = if differs { content - BIG } else { content };
        assert!(old_read.load(Ordering::Relaxed) >= whole, "{name}");
    }
}

#[test]
fn internal_snapshots_of_one_image_share_what_they_share() {
    if !have("qemu-img") || !have("qemu-io") || !have("mke2fs") || !have("debugfs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = base(directory.path());
    shell(
        directory.path(),
        &format!(
            "qemu-img snapshot -c before base.qcow2
             qemu-io -c 'write -P 7 {} 10' base.qcow2 >/dev/null; qemu-img check -q base.qcow2",
            place + 1000
        ),
    );
    let image = directory.path().join("base.qcow2");
    let (old, old_read) = counted(&image, Some("before"), true);
    let (new, new_read) = counted(&image, None, true);
    let (report, kept) = compared(&old, &new, &DiffOptions::default());
    assert_eq!((report.changed, report.added, report.removed, report.read_bytes), (1, 0, 0, 2 * CLUSTER));
    let change = &kept.changes[0];
    // The oracle for the first byte: cmp on what qemu-img makes of both.
    shell(
        directory.path(),
        "qemu-img convert -l snapshot.name=before -O raw base.qcow2 a; qemu-img convert -O raw base.qcow2 b
         debugfs -R 'dump /big a.big' a 2>/dev/null; debugfs -R 'dump /big b.big' b 2>/dev/null
         cmp a.big b.big >difference || true",
    );
    let said = std::fs::read_to_string(directory.path().join("difference")).unwrap();
    let byte: u64 = said.split_whitespace().nth(4).unwrap().trim_end_matches(',').parse().unwrap();
    assert_eq!(change.first_difference, Some(byte - 1), "{said}");
    for read in [old_read, new_read] {
        assert!(read.load(Ordering::Relaxed) < 2 << 20, "{read:?}");
    }
    let image = image.to_str().unwrap();
    let ran = guestctl(["diff", &format!("{image}#before"), image]);
    let expected = format!("~ /big: content from byte {}\n", byte - 1);
    assert_eq!((ran.code, String::from_utf8(ran.out).unwrap(), ran.err.as_str()), (1, expected, ""));
}

/// Bytes of which those from `bad` on cannot be read.
#[derive(Debug)]
struct Bad {
    bytes: Memory,
    bad: Range<u64>,
}

impl BlockDevice for Bad {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset < self.bad.end && offset + buf.len() as u64 > self.bad.start {
            return Err(Error::corrupt("test", "sector", self.bad.start, "nothing", "bytes"));
        }
        self.bytes.read_exact_at(buf, offset)
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.bytes.next_extent(range)
    }
}

fn bad(len: usize, bad: Range<u64>, first: u8) -> Arc<dyn BlockDevice> {
    let bytes = (0..len).map(|at| if at == 0 { first } else { (at % 251) as u8 + 1 }).collect();
    Arc::new(Bad { bytes: Memory::new(bytes), bad })
}

#[test]
fn what_cannot_be_read_is_reported_with_its_offset_and_the_rest_is_compared() {
    let whole = |len: usize| bad(len, 0..0, 1);
    let old = TreeFs::new()
        .device("/a small", whole(50_000))
        .device("/b large", whole(5 << 20))
        .device("/c differs before", bad(5 << 20, (4 << 20)..(4 << 20) + 1, 1))
        .device("/d behind the end", whole(10))
        .broken("/e broken")
        .file("/f", "last")
        .file("/g same", "same");
    let new = TreeFs::new()
        .device("/a small", bad(50_000, 20_480..20_481, 1))
        .device("/b large", bad(5 << 20, 3 << 20..(3 << 20) + 1, 1))
        .device("/c differs before", bad(5 << 20, 0..0, 2))
        .device("/d behind the end", whole(10))
        .broken("/e broken")
        .file("/f", "LAST")
        .file("/g same", "same");
    let (old, new) = (old.mounts(), new.mounts());
    for threads in [1, 2, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (report, kept) = pool.install(|| compared(&old, &new, &without_times()));
        let problem = |problem: &DiffProblem| (problem.path.to_string(), problem.side, problem.offset);
        let problems: Vec<_> = kept.problems.iter().map(problem).collect();
        let expected = [
            ("/a small".to_owned(), DiffSide::New, Some(20_480)),
            ("/b large".to_owned(), DiffSide::New, Some(3 << 20)),
            ("/e broken".to_owned(), DiffSide::Old, None),
            ("/e broken".to_owned(), DiffSide::New, None),
        ];
        assert_eq!(problems, expected, "{threads} threads");
        let changes: Vec<_> =
            kept.changes.iter().map(|change| (change.path.to_string(), change.first_difference)).collect();
        assert_eq!(changes, [("/c differs before".to_owned(), Some(0)), ("/f".to_owned(), Some(0))]);
        assert_eq!((report.unreadable, report.changed, report.compared), (4, 2, 8));
    }
}

#[test]
fn digests_and_texts_of_unreadable_files_are_problems_too() {
    let old = TreeFs::new().file("/t", "text\n");
    let new = TreeFs::new().device("/t", bad(9000, 4096..4097, 1)).device("/new", bad(9000, 8192..8193, 1));
    let options = DiffOptions {
        checksums: vec!["sha256".parse().unwrap()],
        text: Some(TextOptions { whole_files: true, ..TextOptions::default() }),
        ..without_times()
    };
    let (report, kept) = compared(&old.mounts(), &new.mounts(), &options);
    let offsets: Vec<_> = kept.problems.iter().map(|problem| problem.offset).collect();
    assert_eq!(offsets, [Some(8192), Some(8192), Some(4096), Some(4096)]);
    assert_eq!((report.added, report.changed), (1, 1));
    let old = kept.changes[1].old.as_ref().unwrap();
    assert_eq!(old.digests[0].1, "b9e68e1bea3e5b19ca6b2f98b73a54b73daafaa250484902e09982e07a12e733");
}

#[test]
fn zeroes_and_holes_are_equal_without_reading() {
    let size = 1 << 50;
    let old = TreeFs::new().sparse("/sparse", size).sparse("/mixed", 8 << 20);
    let new = TreeFs::new().sparse("/sparse", size).file("/mixed", vec![0; 8 << 20]);
    let (report, kept) = compared(&old.mounts(), &new.mounts(), &without_times());
    assert!(kept.changes.is_empty() && kept.problems.is_empty());
    assert_eq!(report.read_bytes, 8 << 20, "only the side that does not know of its zeroes");
    let mut bytes = vec![0; 8 << 20];
    bytes[7_654_321] = 1;
    let new = TreeFs::new().sparse("/sparse", size).file("/mixed", bytes);
    let (_, kept) = compared(
        &TreeFs::new().sparse("/sparse", size).sparse("/mixed", 8 << 20).mounts(),
        &new.mounts(),
        &without_times(),
    );
    assert_eq!(kept.changes[0].first_difference, Some(7_654_321));
}

#[test]
fn what_becomes_something_else_goes_and_comes() {
    let old = TreeFs::new().file("/x/below/file", "1").file("/y", "2").link("/z", "x");
    let new = TreeFs::new().file("/x", "1").file("/y/in", "2").link("/z", "y");
    let (_, kept) = compared(&old.mounts(), &new.mounts(), &without_times());
    let told = |change: &Change| (change.path.to_string(), change.kind, change.facts.clone());
    let told: Vec<_> = kept.changes.iter().map(told).collect();
    assert_eq!(
        told,
        [
            ("/x".to_owned(), ChangeKind::Changed, vec![DiffFact::Type]),
            ("/x/below".to_owned(), ChangeKind::Removed, vec![]),
            ("/x/below/file".to_owned(), ChangeKind::Removed, vec![]),
            ("/y".to_owned(), ChangeKind::Changed, vec![DiffFact::Type]),
            ("/y/in".to_owned(), ChangeKind::Added, vec![]),
            ("/z".to_owned(), ChangeKind::Changed, vec![DiffFact::Target]),
        ]
    );
}

#[test]
fn a_cancelled_run_ends() {
    struct Stop;
    impl Progress for Stop {
        fn advance(&self, _bytes: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let tree = || TreeFs::new().file("/x", "1").mounts();
    let error = diff(&tree(), &tree(), &DiffOptions::default(), &mut Kept::default(), &Stop).unwrap_err();
    assert_eq!(error.exit_code(), 130);
}
