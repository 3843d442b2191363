//! Hand-made extents: what each table entry means, and which field a broken one is blamed on.

use super::header::tests::sample;
use super::*;
use crate::block::{DenyAll, Memory};

const GRAIN: usize = 64 << 10;

/// 1 MiB in sixteen grains: directory at sector 2, table at 4. Grains 0 and 1 follow one another at sector 128, grain 2
/// lies apart at 512, grain 3 is marked as zero, grain 15 is cut short by the end of the file; the rest is unallocated.
fn image() -> Vec<u8> {
    let mut file = sample();
    file[8] |= 4;
    file.resize(700 * 512, 0);
    for (at, value) in [(1024, 4u32), (2048, 128), (2052, 256), (2056, 512), (2060, 1), (2048 + 60, 640)] {
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    for (at, fill) in [(128, b'a'), (256, b'b'), (512, b'c')] {
        file[at * 512..at * 512 + GRAIN].fill(fill);
    }
    file[640 * 512..].fill(b'd');
    file
}

fn open(file: Vec<u8>) -> Result<Vmdk> {
    let context = OpenContext { path: Path::new("dir/x.vmdk"), gate: &DenyAll, depth: 0, follow: true, snapshot: None };
    Vmdk::open(Arc::new(Memory::new(file)), &context)
}

fn expected() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    for (grain, fill) in [(0, b'a'), (1, b'b'), (2, b'c')] {
        disk[grain * GRAIN..(grain + 1) * GRAIN].fill(fill);
    }
    disk[15 * GRAIN..15 * GRAIN + 60 * 512].fill(b'd');
    disk
}

fn runs(image: &Vmdk) -> Vec<(u64, ExtentKind)> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < image.size() {
        let extent = image.next_extent(at..image.size()).unwrap();
        runs.push((extent.len / GRAIN as u64, extent.kind));
        at += extent.len;
    }
    runs
}

#[test]
fn runs_are_merged_and_every_seam_reads_right() {
    let image = open(image()).unwrap();
    let expected = expected();
    assert_eq!(read_vec(&image, 0, 1 << 20).unwrap(), expected);
    for offset in (0..1 << 20).step_by(GRAIN / 2).chain([1, 511, GRAIN - 1, 3 * GRAIN - 1]) {
        let len = (GRAIN + 3).min((1 << 20) - offset);
        assert_eq!(read_vec(&image, offset as u64, len).unwrap(), expected[offset..offset + len], "{offset}");
    }
    let (data, hole) = (ExtentKind::Data, ExtentKind::Hole);
    assert_eq!(runs(&image), [(2, data), (1, data), (1, ExtentKind::Zero), (11, hole), (1, data)]);
    assert!(read_vec(&image, (1 << 20) - 1, 2).is_err());
    assert!(image.next_extent(1 << 20..(1 << 20) + 1).is_err());
}

#[test]
fn one_without_the_zeroed_grain_flag_is_sector_one() {
    let mut file = image();
    file[8] &= !4;
    let image = open(file.clone()).unwrap();
    assert_eq!(read_vec(&image, 3 * GRAIN as u64, GRAIN).unwrap(), file[512..512 + GRAIN]);
}

#[test]
fn broken_tables_name_their_entry() {
    type Case = (&'static str, u64, fn(&mut Vec<u8>));
    let cases: [Case; 6] = [
        ("gdOffset", 56, |f| f[56] = 0),
        ("gdOffset", 56, |f| f[58] = 1),
        ("grain directory entry", 1024, |f| f[1026] = 1),
        ("grain directory entry", 1024, |f| f[1024..1028].copy_from_slice(&697u32.to_le_bytes())),
        ("grain table entry", 2048, |f| f[2050] = 1),
        ("grain table entry", 2048, |f| f[2048..2052].copy_from_slice(&700u32.to_le_bytes())),
    ];
    for (field, offset, change) in cases {
        let mut file = image();
        change(&mut file);
        let error = open(file).and_then(|image| read_vec(&image, 0, 512)).unwrap_err();
        let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{field}: {error}"));
        assert_eq!((corrupt.field, corrupt.offset), (field, offset), "{error}");
    }
    // What comes before a broken entry stays readable.
    let mut file = image();
    file[2058] = 1;
    let image = open(file).unwrap();
    assert_eq!(image.next_extent(0..1 << 20).unwrap().len, 2 * GRAIN as u64);
    assert!(read_vec(&image, 0, 2 * GRAIN).is_ok() && read_vec(&image, 0, 2 * GRAIN + 1).is_err());
}

#[test]
fn a_directory_larger_than_its_limit_is_refused_before_it_is_read() {
    let mut file = image();
    file[12..20].copy_from_slice(&(1u64 << 54).to_le_bytes());
    assert_eq!(open(file.clone()).unwrap_err().as_corrupt().unwrap().field, "capacity");
    file[12..20].copy_from_slice(&(1u64 << 50).to_le_bytes());
    assert_eq!(open(file).unwrap_err().exit_code(), 4);
}

/// The first grain of the image compressed, its marker at sector 128.
fn compressed(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; data.len() + 100];
    let mut compressor = libdeflater::Compressor::default();
    let len = compressor.zlib_compress(data, &mut out).unwrap();
    let mut file = image();
    (file[10], file[77]) = (3, 1);
    file[128 * 512..].fill(0);
    file[128 * 512 + 8..128 * 512 + 12].copy_from_slice(&(len as u32).to_le_bytes());
    file[128 * 512 + 12..128 * 512 + 12 + len].copy_from_slice(&out[..len]);
    file
}

#[test]
fn compressed_grains_whole_and_in_part() {
    let grain: Vec<u8> = (0..GRAIN).map(|n| ((n * n) >> 7) as u8).collect();
    let image = open(compressed(&grain)).unwrap();
    assert_eq!(read_vec(&image, 0, GRAIN).unwrap(), grain);
    assert_eq!(read_vec(&image, 1000, 5000).unwrap(), grain[1000..6000]);
    assert_eq!(image.next_extent(5..1 << 20).unwrap(), Extent { kind: ExtentKind::Data, len: GRAIN as u64 - 5 });
    assert!(image.host_range(0..10).is_none());
}

#[test]
fn broken_grains_name_what_is_broken() {
    const AT: u64 = 128 * 512;
    let grain = vec![7; GRAIN];
    type Case = (&'static str, u64, fn(&mut [u8]));
    let cases: [Case; 5] = [
        ("grain marker lba", AT, |f| f[AT as usize] = 1),
        ("grain marker size", AT + 8, |f| f[AT as usize + 8..AT as usize + 12].fill(0)),
        ("grain marker size", AT + 8, |f| f[AT as usize + 11] = 1),
        ("compressed grain", AT + 12, |f| f[AT as usize + 12] = 0),
        ("compressed grain", AT + 12, |f| f[AT as usize + 20] ^= 0xff),
    ];
    for (field, offset, change) in cases {
        let mut file = compressed(&grain);
        change(&mut file);
        let error = read_vec(&open(file).unwrap(), 0, 10).unwrap_err();
        let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{field}: {error}"));
        assert_eq!((corrupt.field, corrupt.offset), (field, offset), "{error}");
    }
    for wrong in [GRAIN - 1, GRAIN + 1] {
        let error = read_vec(&open(compressed(&vec![7; wrong])).unwrap(), 0, 10).unwrap_err();
        assert_eq!(error.as_corrupt().unwrap().field, "compressed grain", "{wrong} bytes");
    }
}

fn descriptor(lines: &str) -> Vec<u8> {
    format!("{}\nversion=1\n{lines}\n", descriptor::SIGNATURE).into_bytes()
}

#[test]
fn zero_extents_need_no_file() {
    let image = open(descriptor("CID=1\ncreateType=\"custom\"\nRW 10 ZERO\nRW 0 ZERO\nRW 6 ZERO")).unwrap();
    assert_eq!(image.size(), 16 * 512);
    assert_eq!(read_vec(&image, 0, 16 * 512).unwrap(), [0; 16 * 512]);
    assert_eq!(image.next_extent(512..8192).unwrap(), Extent { kind: ExtentKind::Zero, len: 9 * 512 });
}

#[test]
fn named_files_are_for_the_gate_to_let_in() {
    let denied = |lines: &str| open(descriptor(lines)).unwrap_err().exit_code();
    assert_eq!(denied("RW 10 FLAT \"/etc/passwd\" 0"), 5);
    assert_eq!(denied("RW 10 SPARSE \"x-s001.vmdk\""), 5);
    assert_eq!(denied("parentCID=1\nparentFileNameHint=\"base\"\nRW 10 ZERO"), 5);
    assert_eq!(denied("parentCID=1\nRW 10 ZERO"), 8);
    assert_eq!(denied(""), 8);

    let lines = "parentCID=1\nparentFileNameHint=\"base\"\nRW 10 SPARSE \"s\"\nRW 2 FLAT \"/f\" 0";
    let context = OpenContext { path: Path::new("dir/x"), gate: &DenyAll, depth: 0, follow: false, snapshot: None };
    let image = Vmdk::open(Arc::new(Memory::new(descriptor(lines))), &context).unwrap();
    let info = image.info("dir/x".to_owned());
    assert_eq!((info.virtual_size, info.full_backing_filename.as_deref()), (12 * 512, Some("dir/base")));
    let Some(FormatSpecific::Vmdk { extents, .. }) = info.format_specific else { panic!() };
    assert_eq!(extents.iter().map(|extent| extent.filename.as_str()).collect::<Vec<_>>(), ["dir/s", "/f"]);
    assert!(read_vec(&image, 0, 1).is_err());
}
