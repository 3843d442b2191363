//! qcow2 images that QEMU's tools make, read as QEMU's tools read them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program, and it says what it skips")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guestctl::block::{
    self, BlockDevice, ExtentKind, Image, ImageFormat, ImageInfo, Memory, OpenOptions, SameDirectory, for_each_extent,
};
use serde_json::Value;
use support::{have, shell};

fn tools() -> bool {
    have("qemu-img") && have("qemu-io")
}

fn options() -> OpenOptions {
    OpenOptions { format: Some(ImageFormat::Qcow2), gate: Arc::new(SameDirectory), ..OpenOptions::default() }
}

fn open(path: &Path) -> Image {
    block::open(path, &options()).unwrap_or_else(|error| panic!("{error}"))
}

/// A directory where `script` has run, with `raw` at hand: 3 MiB and some sectors of text that compresses, a stretch of
/// zeroes and some noise.
fn built(script: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut raw = vec![0u8; (3 << 20) + 5 * 512];
    let mut seed = 1u32;
    for (index, byte) in raw.iter_mut().enumerate() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = match index >> 16 {
            5..20 => 0,
            30..34 => (seed >> 24) as u8,
            _ => b'a' + (index / 13 % 23) as u8,
        };
    }
    std::fs::write(directory.path().join("raw"), raw).unwrap();
    let functions = "img() { qemu-img \"$@\" >/dev/null; }\n\
        io() { file=$1; shift; for c in \"$@\"; do qemu-io -f qcow2 -c \"$c\" \"$file\" >/dev/null; done; }\n";
    shell(directory.path(), &format!("{functions}{script}"));
    directory
}

/// Every byte as `qemu-img convert` has it, read in several ways; every claim about zeroes and host ranges true.
fn assert_bytes(device: &dyn BlockDevice, expected: &[u8], what: &str) {
    assert_eq!(device.size(), expected.len() as u64, "{what}: size");
    for step in [1 << 20, 65_536, 4096 + 513] {
        for start in (0..expected.len()).step_by(step) {
            let end = expected.len().min(start + step);
            let bytes = block::read_vec(device, start as u64, end - start).unwrap();
            assert!(bytes == expected[start..end], "{what}: bytes {start}..{end}");
        }
    }
    for_each_extent(device, 0..device.size(), &mut |run, kind| {
        let bytes = &expected[run.start as usize..run.end as usize];
        assert!(kind == ExtentKind::Data || bytes.iter().all(|&byte| byte == 0), "{what}: {run:?} is no {kind:?}");
        Ok(())
    })
    .unwrap();
    let mut at = 0;
    while at < device.size() {
        match device.host_range(at..device.size()) {
            Some(host) => {
                let mut bytes = vec![0; host.len as usize];
                host.file.read_exact_at(&mut bytes, host.offset).unwrap();
                assert!(bytes == expected[at as usize..][..bytes.len()], "{what}: host range at {at}");
                at += host.len;
            }
            None => at += 512,
        }
    }
}

/// Where each run ends, and whether it is data.
type Map = Vec<(u64, bool)>;

/// Runs of data and of zeroes as `qemu-img map` tells them.
fn qemu_map(directory: &Path, name: &str) -> Map {
    let output = shell(directory, &format!("qemu-img map -f qcow2 --output=json {name}"));
    let map: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut runs: Map = Vec::new();
    for extent in map {
        let end = extent["start"].as_u64().unwrap() + extent["length"].as_u64().unwrap();
        let data = extent["data"].as_bool().unwrap() && !extent["zero"].as_bool().unwrap();
        match runs.last_mut() {
            Some(last) if last.1 == data => last.0 = end,
            _ => runs.push((end, data)),
        }
    }
    runs
}

fn our_map(device: &dyn BlockDevice) -> Map {
    let mut runs: Map = Vec::new();
    for_each_extent(device, 0..device.size(), &mut |run, kind| {
        let data = kind == ExtentKind::Data;
        match runs.last_mut() {
            Some(last) if last.1 == data => last.0 = run.end,
            _ => runs.push((run.end, data)),
        }
        Ok(())
    })
    .unwrap();
    runs
}

/// Every key that we print as `qemu-img info` prints it, and none of its keys missing but those we do not know.
fn assert_info(directory: &Path, name: &str) {
    for image in [directory.join(name), PathBuf::from(name)] {
        let script = format!("qemu-img info -f qcow2 --output=json {}", image.display());
        let theirs: Value = serde_json::from_slice(&shell(directory, &script).stdout).unwrap();
        // Without changing this program's directory, the short name is only good for what it is joined with.
        let mut ours = serde_json::to_value(ImageInfo::read(&directory.join(name), &options()).unwrap()).unwrap();
        let ours = ours.as_object_mut().unwrap();
        assert_eq!(ours.remove("probed"), Some(Value::Bool(false)));
        if image.is_relative() {
            ours.insert("filename".into(), name.into());
            ours.entry("full-backing-filename").and_modify(|full| {
                let relative = Path::new(full.as_str().unwrap()).strip_prefix(directory).unwrap().to_owned();
                *full = relative.to_str().unwrap().into();
            });
        }
        let mut theirs = theirs.as_object().unwrap().clone();
        theirs.remove("children");
        let data = theirs["format-specific"]["data"].as_object_mut().unwrap();
        for unknown in ["bitmaps", "encrypt"] {
            data.remove(unknown);
        }
        assert_eq!(Value::Object(ours.clone()), Value::Object(theirs), "{name}");
    }
}

/// Makes `disk` with `script` and compares all there is to compare.
fn assert_like_qemu(script: &str) {
    let (ours, theirs) = compared(script);
    assert_eq!(ours, theirs, "{script}");
}

/// Makes `disk` with `script` and compares all but the maps, which it returns: ours and QEMU's.
fn compared(script: &str) -> (Map, Map) {
    let directory = built(script);
    let path = directory.path();
    shell(path, "qemu-img convert -f qcow2 -O raw disk expected");
    let expected = std::fs::read(path.join("expected")).unwrap();
    let image = open(&path.join("disk"));
    assert_bytes(&*image.device, &expected, script);
    assert_info(path, "disk");
    (our_map(&*image.device), qemu_map(path, "disk"))
}

const WRITES: &str = "'write -P 1 0 100k' 'write -P 2 700k 1' 'write -P 3 1M 600k' 'write -z 1100k 200k' \
    'write -P 4 2900k 100k' 'discard 64k 64k' 'write -P 5 3073k 512'";

#[test]
fn versions_and_cluster_sizes() {
    if !tools() {
        return;
    }
    for options in [
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=2M,refcount_bits=64",
        "lazy_refcounts=on",
    ] {
        assert_like_qemu(&format!("img create -f qcow2 -o {options} disk 3075k; io disk {WRITES}"));
    }
}

#[test]
fn compressed_clusters() {
    if !tools() {
        return;
    }
    for options in ["compat=0.10", "cluster_size=512", "cluster_size=64k", "cluster_size=2M"] {
        assert_like_qemu(&format!("img convert -c -f raw -O qcow2 -o {options} raw disk"));
    }
    for size in ["512", "64k", "2M"] {
        assert_like_qemu(&format!(
            "img convert -c -f raw -O qcow2 -o compression_type=zstd,cluster_size={size} raw disk"
        ));
    }
    assert_like_qemu(
        "img convert -c -f raw -O qcow2 -o extended_l2=on raw disk; io disk 'write -P 9 100k 3k' 'write -z 300k 8k'",
    );
    // Stored clusters between compressed ones.
    assert_like_qemu(&format!("img convert -c -f raw -O qcow2 raw disk; io disk {WRITES}"));
}

#[test]
fn extended_l2_entries() {
    if !tools() {
        return;
    }
    let subclusters = "'write -P 1 0 2k' 'write -P 2 6k 4k' 'write -z 8k 16k' 'write -P 3 126k 3k' \
        'write -z 1M 256k' 'write -P 4 1030k 2k' 'discard 128k 64k' 'write -P 5 2M 64k' 'write -P 6 2200k 1'";
    for size in ["16k", "64k", "2M"] {
        let options = format!("extended_l2=on,cluster_size={size}");
        assert_like_qemu(&format!("img create -f qcow2 -o {options} disk 3M; io disk {subclusters}"));
        assert_like_qemu(&format!("img create -f qcow2 -o {options} -b raw -F raw disk; io disk {subclusters}"));
    }
}

#[test]
fn preallocated_images() {
    if !tools() {
        return;
    }
    // What is preallocated and never written is a hole in the file, and no data.
    assert_like_qemu("img create -f qcow2 -o preallocation=metadata disk 20M; io disk 'write -P 1 5M 1M'");
    for kind in ["falloc", "full"] {
        assert_like_qemu(&format!("img create -f qcow2 -o preallocation={kind} disk 4M"));
    }
}

#[test]
fn external_data_files() {
    if !tools() {
        return;
    }
    assert_like_qemu(&format!("img create -f qcow2 -o data_file=data disk 3075k; io disk {WRITES}"));
    // Of such an image QEMU says that all is data where we see the holes of the data file.
    compared(&format!("img create -f qcow2 -o data_file=data,data_file_raw=on disk 3075k; io disk {WRITES}"));
    assert_like_qemu(&format!(
        "img create -f qcow2 -o data_file=data,extended_l2=on -b raw -F raw disk; io disk {WRITES}"
    ));
    let directory = built("img create -f qcow2 -o data_file=data disk 1M");
    let disk = directory.path().join("disk");
    let denied = block::open(&disk, &OpenOptions::default()).unwrap_err();
    assert_eq!(denied.exit_code(), 5, "{denied}");
    std::fs::remove_file(directory.path().join("data")).unwrap();
    assert_eq!(block::open(&disk, &options()).unwrap_err().exit_code(), 1);
    ImageInfo::read(&disk, &OpenOptions::default()).unwrap();
}

#[test]
fn backing_chains() {
    if !tools() {
        return;
    }
    // Three images of different cluster and disk sizes over one another, in both orders.
    for (bottom, middle, top) in [("2M", "4M", "6M"), ("6M", "4M", "5M"), ("4M", "2M", "6M"), ("3073k", "5M", "4M")] {
        assert_like_qemu(&format!(
            "img create -f qcow2 -o cluster_size=512 bottom {bottom}
            img create -f qcow2 -o compat=0.10,cluster_size=4k -b bottom -F qcow2 middle {middle}
            img create -f qcow2 -o cluster_size=256k -b middle -F qcow2 disk {top}
            io bottom 'write -P 1 0 900k' 'write -P 2 1900k 50k'
            io middle 'write -P 3 300k 7k' 'write -P 4 1000k 100k'
            io disk 'write -P 5 1M 1k' 'write -z 256k 256k' 'write -P 6 1200k 300k'"
        ));
    }
    assert_like_qemu("img create -f qcow2 -b raw -F raw disk 5M; io disk 'write -P 1 3M 64k'");
    assert_like_qemu("img create -f qcow2 -b raw -F raw disk 1M");
    // The format is not stated, as in images of old.
    assert_like_qemu(
        "img create -f qcow2 bottom 1M; io bottom 'write -P 1 0 5k'; img create -f qcow2 -b bottom -F qcow2 disk
        printf x | dd of=disk bs=1 seek=112 conv=notrunc status=none",
    );
    // Compressed below, in clusters larger than those above.
    assert_like_qemu(
        "img convert -c -f raw -O qcow2 -o cluster_size=2M raw bottom
        img create -f qcow2 -o cluster_size=4k -b bottom -F qcow2 disk; io disk 'write -P 1 100k 3k'",
    );
}

#[test]
fn the_longest_chain_reads_to_its_end() {
    if !have("qemu-img") {
        return;
    }
    let directory = built(
        "img convert -f raw -O qcow2 raw disk000; img create -f qcow2 -b disk000 -F qcow2 overlay
        n=0
        while [ $n -lt 201 ]; do
            below=$(printf disk%03d $n); n=$((n + 1))
            sed s/disk000/$below/ overlay > $(printf disk%03d $n)
        done",
    );
    let path = directory.path();
    let begun = Instant::now();
    let image = open(&path.join("disk200"));
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(
        block::read_vec(&*image.device, 0, 1 << 20).unwrap(),
        std::fs::read(path.join("raw")).unwrap()[..1 << 20]
    );
    assert_eq!(our_map(&*image.device), our_map(&*open(&path.join("disk000")).device));
    assert_eq!(block::open(&path.join("disk201"), &options()).unwrap_err().exit_code(), 4);
}

#[test]
fn internal_snapshots() {
    if !tools() {
        return;
    }
    let directory = built(
        "img create -f qcow2 disk 3M; io disk 'write -P 1 0 1M' 'write -P 2 2M 10k'
        img snapshot -c first disk; io disk 'write -P 3 500k 1M' 'discard 2M 64k'
        img snapshot -c 1 disk; io disk 'write -P 4 0 3M'; img resize -f qcow2 disk 5M
        img snapshot -c 'third one' disk; io disk 'write -z 0 5M'",
    );
    let path = directory.path();
    assert_info(path, "disk");
    // A name goes before an id: snapshot "1" is the second.
    for (wanted, name, size) in [("first", "first", 3), ("1", "1", 3), ("2", "1", 3), ("third one", "third one", 5)] {
        shell(path, &format!("qemu-img convert -f qcow2 -l snapshot.name='{name}' -O raw disk expected"));
        let mut expected = std::fs::read(path.join("expected")).unwrap();
        // QEMU shows an old state in the disk's size of today.
        assert!(expected.split_off(size << 20).iter().all(|&byte| byte == 0));
        let options = OpenOptions { snapshot: Some(wanted.into()), ..options() };
        let image = block::open(&path.join("disk"), &options).unwrap();
        assert_bytes(&*image.device, &expected, wanted);
        assert_eq!(image.info.virtual_size, (size as u64) << 20);
    }
    let by_path = block::open(&path.join("disk#first"), &OpenOptions::default()).unwrap();
    assert_eq!(by_path.device.size(), 3 << 20);
    let unknown = block::open(&path.join("disk#none"), &OpenOptions::default()).unwrap_err();
    assert!(unknown.to_string().ends_with("there are: 'first', '1', 'third one'"), "{unknown}");
}

#[test]
fn marks_of_unclean_images_are_told_and_the_images_read() {
    if !tools() {
        return;
    }
    let directory = built("img create -f qcow2 -o lazy_refcounts=on disk 1M; io disk 'write -P 7 0 1M'");
    let path = directory.path().join("disk");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for bits in [1u8, 2, 3] {
        file.write_all_at(&[bits], 79).unwrap();
        assert_info(directory.path(), "disk");
        assert_bytes(&*open(&path).device, &[7; 1 << 20], "marked");
    }
}

#[test]
fn encrypted_images_tell_about_themselves_and_no_more() {
    if !have("qemu-img") {
        return;
    }
    let directory = built(
        "img create --object secret,id=key,data=abc -f qcow2 \
            -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10 disk 1M",
    );
    assert_info(directory.path(), "disk");
    let refused = block::open(&directory.path().join("disk"), &options()).unwrap_err();
    assert_eq!(refused.exit_code(), 7);
    assert!(refused.to_string().contains("encryption (LUKS)"), "{refused}");
}

#[test]
fn a_file_cut_off_in_its_last_cluster_reads_as_qemu_reads_it() {
    if !tools() {
        return;
    }
    let script = "img create -f qcow2 disk 1M; io disk 'write -P 5 0 1M'; truncate -s -40000 disk";
    let directory = built(script);
    shell(directory.path(), "qemu-img convert -f qcow2 -O raw disk expected");
    let expected = std::fs::read(directory.path().join("expected")).unwrap();
    assert_eq!(expected.iter().filter(|&&byte| byte == 5).count(), (1 << 20) - 40_000);
    assert_bytes(&*open(&directory.path().join("disk")).device, &expected, script);
    // QEMU takes whole lost clusters for zeroes too; a disk that silently lost its end helps nobody.
    shell(directory.path(), "truncate -s -40000 disk");
    let error = block::read_vec(&*open(&directory.path().join("disk")).device, 0, 1 << 20).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "L2 table entry");
}

#[test]
fn backing_loops_end_fast() {
    if !have("qemu-img") {
        return;
    }
    let directory = built(
        "img create -f qcow2 -u -b self -F qcow2 other 1G; mv other self
        img create -f qcow2 -u -b right -F qcow2 left 1G; img create -f qcow2 -u -b left -F qcow2 right 1G",
    );
    for name in ["self", "left"] {
        let begun = Instant::now();
        let error = block::open(&directory.path().join(name), &options()).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(error.to_string().contains("backing chain depth"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2));
        ImageInfo::read(&directory.path().join(name), &options()).unwrap();
    }
}

#[test]
fn an_image_in_an_archive_names_no_file() {
    if !have("qemu-img") {
        return;
    }
    let directory = built("img create -f qcow2 -b raw -F raw disk");
    let disk = directory.path().join("disk");
    let bytes = std::fs::read(&disk).unwrap();
    let error = block::open_device(Arc::new(Memory::new(bytes)), &disk, None).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
}
