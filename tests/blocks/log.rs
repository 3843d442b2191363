//! A VHDX whose log was not emptied: what `qemu-img check -r all` makes of it is what we read, and the file stays as it is.

use std::path::Path;

use guestctl::block;

use crate::support::{have, shell};
use crate::{MIB, Random, consistent, open, options, raw, same, sparse_disk};

const LOG: usize = MIB;
const GUID: [u8; 16] = [0x5a; 16];
const SECTOR: usize = 4096;

pub enum Change {
    Zero(usize, usize),
    Data(usize, Vec<u8>),
}

/// A log entry as [MS-VHDX] 2.3.1 lays it out.
pub fn entry(number: u64, tail: usize, lengths: (usize, usize), changes: &[Change]) -> Vec<u8> {
    let area = (64 + 32 * changes.len()).next_multiple_of(SECTOR);
    let mut bytes = vec![0; area];
    bytes[..4].copy_from_slice(b"loge");
    bytes[12..16].copy_from_slice(&(tail as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&number.to_le_bytes());
    bytes[24..28].copy_from_slice(&(changes.len() as u32).to_le_bytes());
    bytes[32..48].copy_from_slice(&GUID);
    bytes[48..56].copy_from_slice(&(lengths.0 as u64).to_le_bytes());
    bytes[56..64].copy_from_slice(&(lengths.1 as u64).to_le_bytes());
    for (index, change) in changes.iter().enumerate() {
        let at = 64 + 32 * index;
        let offset = match change {
            Change::Zero(offset, len) => {
                bytes[at..at + 4].copy_from_slice(b"zero");
                bytes[at + 8..at + 16].copy_from_slice(&(*len as u64).to_le_bytes());
                offset
            }
            Change::Data(offset, sector) => {
                bytes[at..at + 4].copy_from_slice(b"desc");
                bytes[at + 4..at + 8].copy_from_slice(&sector[4092..]);
                bytes[at + 8..at + 16].copy_from_slice(&sector[..8]);
                bytes.extend_from_slice(b"data");
                bytes.extend(((number >> 32) as u32).to_le_bytes());
                bytes.extend_from_slice(&sector[8..4092]);
                bytes.extend((number as u32).to_le_bytes());
                offset
            }
        };
        bytes[at + 16..at + 24].copy_from_slice(&(*offset as u64).to_le_bytes());
        bytes[at + 24..at + 32].copy_from_slice(&number.to_le_bytes());
    }
    let len = bytes.len() as u32;
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    seal(&mut bytes);
    bytes
}

/// Repairs a VHDX checksum.
pub fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Puts an entry into the ring of 1 MiB.
fn put(image: &mut [u8], at: usize, entry: &[u8]) {
    for (index, sector) in entry.chunks(SECTOR).enumerate() {
        let at = LOG + (at + index * SECTOR) % MIB;
        image[at..at + SECTOR].copy_from_slice(sector);
    }
}

/// Where the header is that counts.
pub fn header(image: &[u8]) -> usize {
    let number = |at: usize| u64::from_le_bytes(image[at + 8..at + 16].try_into().unwrap());
    if number(64 << 10) > number(128 << 10) { 64 << 10 } else { 128 << 10 }
}

/// Says in the header that counts that there is a log.
fn mark_dirty(image: &mut [u8]) {
    let at = header(image);
    image[at + 48..at + 64].copy_from_slice(&GUID);
    seal(&mut image[at..at + SECTOR]);
}

/// Where the BAT is: the region whose identifier begins so.
pub fn bat(image: &[u8]) -> usize {
    let entry =
        [16, 48].map(|at| (192 << 10) + at).into_iter().find(|at| image[*at..*at + 4] == [0x66, 0x77, 0xc2, 0x2d]);
    u64::from_le_bytes(image[entry.unwrap() + 16..entry.unwrap() + 24].try_into().unwrap()) as usize
}

fn clean(directory: &Path) -> Vec<u8> {
    sparse_disk(&directory.join("disk.raw"), 20 * MIB as u64, 60);
    shell(directory, "qemu-img convert -f raw -O vhdx -o block_size=1M disk.raw image");
    let image = std::fs::read(directory.join("image")).unwrap();
    assert_eq!(u64::from_le_bytes(image[(64 << 10) + 72..(64 << 10) + 80].try_into().unwrap()), LOG as u64);
    image
}

/// Two entries from byte `at` of the ring on, of which the second covers parts of the first.
fn dirty(image: &mut [u8], at: usize) {
    let (bat, len) = (bat(image), image.len());
    let place = |image: &[u8], block: usize| {
        let entry = u64::from_le_bytes(image[bat + block * 8..bat + block * 8 + 8].try_into().unwrap());
        assert_eq!(entry & 7, 6, "block {block} has data");
        (entry >> 20 << 20) as usize
    };
    let mut table = image[bat..bat + SECTOR].to_vec();
    let (one, two) = (table[8..16].to_vec(), table[16..24].to_vec());
    table[8..16].copy_from_slice(&two);
    table[16..24].copy_from_slice(&one);
    let mut random = Random(77);
    let mut noise = || (0..SECTOR).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
    let zero = place(image, 0);
    let data = place(image, 3);
    let first = [
        Change::Data(bat, table.clone()),
        Change::Zero(zero + 65_536, 131_072),
        Change::Data(data + 8192, noise()),
        Change::Zero(data, 4096),
    ];
    // Block 5 moves behind the end of the file.
    table[40..48].copy_from_slice(&(len.next_multiple_of(MIB) as u64 | 6).to_le_bytes());
    let grown = len.next_multiple_of(MIB) + MIB;
    let second = [
        Change::Data(zero + 65_536 + 8192, noise()),
        Change::Data(bat, table),
        Change::Data(grown - MIB + 4096, noise()),
        Change::Data(data + 8192, noise()),
    ];
    let first = entry(100, at, (len, len), &first);
    put(image, at, &first);
    let next = at + first.len();
    // QEMU makes the file longer only when this is not a whole MiB.
    put(image, next, &entry(101, at, (len, grown - 4096), &second));
    // Older and of another log: neither counts.
    put(image, 512 << 10, &entry(90, 512 << 10, (len, len), &[Change::Zero(bat, 4096)]));
    let mut other = entry(200, 600 << 10, (len, len), &[Change::Zero(bat, 4096)]);
    other[32] = 0;
    seal(&mut other);
    put(image, 600 << 10, &other);
    mark_dirty(image);
}

#[test]
fn the_log_is_replayed_over_an_untouched_file() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let undamaged = clean(dir.path());
    let mut image = undamaged.clone();
    dirty(&mut image, 64 << 10);
    std::fs::write(&path, &image).unwrap();
    let ours = open(&path, "vhdx");
    let script = "cp image replayed; qemu-img check -q -r all -f vhdx replayed || true
        qemu-img convert -f vhdx -O raw replayed replayed.raw";
    shell(dir.path(), script);
    let theirs = raw(&dir.path().join("replayed.raw"));
    same(&ours, &theirs, "replayed");
    consistent(&ours, "replayed");
    assert!(std::fs::read(&path).unwrap() == image, "reading changed the file");
    // The first entry passes the end of the ring. QEMU would take the second for a sequence of its own.
    let mut around = undamaged.clone();
    dirty(&mut around, MIB - 2 * SECTOR);
    std::fs::write(&path, &around).unwrap();
    same(&open(&path, "vhdx"), &theirs, "around the end");

    std::fs::write(&path, undamaged).unwrap();
    let before = block::read_vec(&open(&path, "vhdx"), 0, 20 * MIB).unwrap();
    assert!(before != block::read_vec(&theirs, 0, 20 * MIB).unwrap(), "the log changed nothing");
}

#[test]
fn a_log_that_cannot_be_replayed_is_told() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let image = clean(dir.path());
    let bat = bat(&image);
    let field = |log: &[u8]| {
        let mut image = image.clone();
        put(&mut image, 0, log);
        mark_dirty(&mut image);
        std::fs::write(&path, image).unwrap();
        block::open(&path, &options("vhdx")).unwrap_err().as_corrupt().unwrap().field
    };
    let (len, zero) = (image.len(), [Change::Zero(bat, 4096)]);
    let mut damaged = entry(1, 0, (len, len), &zero);
    damaged[200] ^= 1;
    assert_eq!(field(&damaged), "LogGuid");
    assert_eq!(field(&entry(1, 8192, (len, len), &zero)), "LogGuid");
    assert_eq!(field(&entry(1, 0, (len + 1, len + 1), &zero)), "FlushedFileOffset");
    assert_eq!(field(&entry(1, 0, (len, len), &[Change::Zero(bat + 1, 4096)])), "FileOffset");
    assert_eq!(field(&entry(1, 0, (len, len), &[Change::Zero(bat, 4097)])), "FileOffset");
    let mut foreign = entry(1, 0, (len, len), &[Change::Data(bat, vec![0; SECTOR])]);
    foreign[64 + 24] = 2;
    seal(&mut foreign);
    assert_eq!(field(&foreign), "SequenceNumber");
    let mut torn = entry(1, 0, (len, len), &[Change::Data(bat, vec![0; SECTOR])]);
    torn[2 * SECTOR - 1] = 2;
    seal(&mut torn);
    assert_eq!(field(&torn), "data sector");
    let mut unknown = entry(1, 0, (len, len), &zero);
    unknown[64] = b'x';
    seal(&mut unknown);
    assert_eq!(field(&unknown), "Signature");
}
