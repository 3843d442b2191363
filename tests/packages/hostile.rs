//! Databases that lie: each is small and made by hand from the layouts in the module heads, with one thing wrong. What is
//! wrong is named, what is not damaged is still listed, and nothing takes long.

use std::time::Duration;

use guestctl::block::{BlockDevice, Memory};
use guestctl::inspect::packages::rpm::{bdb, ndb, sqlite};
use guestctl::inspect::packages::{Gathered, PackageFormat, PackageList, dpkg};
use guestctl::{Result, limits};

use super::ndb::database as ndb_database;

/// Longer than any of these may take.
const LONG: Duration = Duration::from_secs(2);

/// The processor time of this thread: other tests run beside it.
fn processor_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(schedstat.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0))
}

fn read(read: impl FnOnce(&mut Gathered) -> Result<()>) -> PackageList {
    let start = processor_time();
    let mut gathered = Gathered::default();
    let outcome = read(&mut gathered);
    let list = gathered.finish(PackageFormat::Rpm, "/db".to_owned(), outcome).unwrap();
    let elapsed = processor_time() - start;
    assert!(elapsed < LONG, "{elapsed:?}");
    list
}

fn read_sqlite(bytes: &[u8]) -> PackageList {
    read(|gathered| sqlite::read(&Memory::new(bytes.to_vec()), None, gathered))
}

fn read_ndb(bytes: &[u8]) -> PackageList {
    read(|gathered| ndb::read(&Memory::new(bytes.to_vec()), gathered))
}

fn read_bdb(bytes: &[u8]) -> PackageList {
    read(|gathered| bdb::read(&Memory::new(bytes.to_vec()), gathered))
}

/// Asserts that a list says what is wrong, and has `left` packages.
fn assert_noted(list: &PackageList, what: &str, left: usize, case: &str) {
    assert!(!list.notes.is_empty(), "{case}: nothing is noted");
    assert!(list.notes[0].contains(what), "{case}: {}", list.notes[0]);
    assert_eq!(list.packages.len(), left, "{case}");
}

/// The words in which a note names a corrupt field.
fn at(field: &str) -> String {
    format!(": {field} at byte ")
}

/// No truncation and no damaged byte of `good` makes `read` panic or take long.
fn shake(good: &[u8], read: fn(&[u8]) -> PackageList) {
    for len in 0..good.len() {
        read(&good[..len]);
    }
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.to_vec();
            bytes[at] = value;
            read(&bytes);
        }
    }
}

/// An RPM header with a name, a version, a release and a summary of `len` bytes.
fn header(name: &str, len: usize) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    let texts =
        [(1000, 6, name.to_owned()), (1001, 6, "1".to_owned()), (1002, 6, "2".to_owned()), (1004, 9, "s".repeat(len))];
    for (tag, kind, text) in texts {
        index.extend([tag, kind, store.len() as u32, 1].map(u32::to_be_bytes).concat());
        store.extend([text.as_bytes(), &[0]].concat());
    }
    [[4, store.len() as u32].map(u32::to_be_bytes).concat(), index, store].concat()
}

/// Bytes put into a copy of others.
fn patched(bytes: &[u8], at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

/// Pages of an SQLite database.
mod pages {
    /// Bytes of a page.
    pub(super) const SIZE: usize = 512;

    pub(super) fn varint(value: u64) -> Vec<u8> {
        let digits = (1..9).find(|digits| value >> (7 * digits) == 0).unwrap();
        (0..digits).rev().map(|digit| (value >> (7 * digit)) as u8 & 0x7f | if digit > 0 { 0x80 } else { 0 }).collect()
    }

    /// A record of columns given by serial type and bytes.
    pub(super) fn record(columns: &[(u64, &[u8])]) -> Vec<u8> {
        let kinds: Vec<u8> = columns.iter().flat_map(|(kind, _)| varint(*kind)).collect();
        let values = columns.iter().flat_map(|(_, bytes)| bytes.to_vec());
        [varint(kinds.len() as u64 + 1), kinds].concat().into_iter().chain(values).collect()
    }

    /// A row of the table Packages.
    pub(super) fn row(blob: &[u8]) -> Vec<u8> {
        record(&[(0, b""), (12 + 2 * blob.len() as u64, blob)])
    }

    /// A leaf's cell whose payload is all in it.
    pub(super) fn cell(payload: &[u8]) -> Vec<u8> {
        [varint(payload.len() as u64), varint(1), payload.to_vec()].concat()
    }

    fn page(kind: u8, cells: &[Vec<u8>], right_most: Option<u32>, at: usize) -> Vec<u8> {
        let mut page = vec![0; SIZE];
        page[at] = kind;
        page[at + 3..at + 5].copy_from_slice(&(cells.len() as u16).to_be_bytes());
        let mut pointer = at + 8;
        if let Some(right_most) = right_most {
            page[at + 8..at + 12].copy_from_slice(&right_most.to_be_bytes());
            pointer += 4;
        }
        let mut end = SIZE;
        for cell in cells {
            end -= cell.len();
            page[end..end + cell.len()].copy_from_slice(cell);
            page[pointer..pointer + 2].copy_from_slice(&(end as u16).to_be_bytes());
            pointer += 2;
        }
        page
    }

    pub(super) fn leaf(cells: &[Vec<u8>]) -> Vec<u8> {
        page(13, cells, None, 0)
    }

    pub(super) fn interior(children: &[u32], right_most: u32) -> Vec<u8> {
        let cells: Vec<Vec<u8>> =
            children.iter().map(|child| [child.to_be_bytes().to_vec(), varint(1)].concat()).collect();
        page(5, &cells, Some(right_most), 0)
    }

    pub(super) fn overflow(next: u32, content: &[u8]) -> Vec<u8> {
        let mut page = [next.to_be_bytes().to_vec(), content.to_vec()].concat();
        page.resize(SIZE, 0);
        page
    }

    /// A database whose schema has the row `schema`; the pages from number 2 on follow.
    pub(super) fn with_schema(schema: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
        let mut first = page(13, &[cell(schema)], None, 100);
        first[..16].copy_from_slice(b"SQLite format 3\0");
        first[16..18].copy_from_slice(&(SIZE as u16).to_be_bytes());
        first[18..20].copy_from_slice(&[1, 1]);
        first[59] = 1;
        [vec![first], others.to_vec()].concat().concat()
    }

    /// A database whose table Packages begins on page 2.
    pub(super) fn database(others: &[Vec<u8>]) -> Vec<u8> {
        with_schema(&record(&[(23, b"table"), (29, b"Packages"), (29, b"Packages"), (1, &[2]), (13, b"")]), others)
    }
}

#[test]
fn sqlite_damage_is_named_and_the_rest_is_listed() {
    use pages::{cell, database, interior, leaf, overflow, record, row, varint, with_schema};
    let good_cell = cell(&row(&header("good", 10)));
    let good = database(&[leaf(std::slice::from_ref(&good_cell))]);
    assert_eq!(read_sqlite(&good).packages[0].name, "good");

    // A row that goes on in overflow pages: how much lies in the leaf is section 1.6's, by hand for 512 bytes.
    let long = row(&header("long", 1_200));
    let local = 39 + (long.len() - 39) % 508;
    let long_cell = |next: u32| {
        [varint(long.len() as u64), varint(1), long[..local].to_vec(), next.to_be_bytes().to_vec()].concat()
    };
    let parts: Vec<&[u8]> = long[local..].chunks(508).collect();
    assert_eq!(parts.len(), 2);
    let spread = |next: u32, last: u32| {
        database(&[leaf(&[long_cell(3), good_cell.clone()]), overflow(next, parts[0]), overflow(last, parts[1])])
    };
    assert_eq!(read_sqlite(&spread(4, 0)).packages.len(), 2);

    let bad_row = |payload: &[u8]| database(&[leaf(&[cell(payload), good_cell.clone()])]);
    let twenty_five_deep: Vec<Vec<u8>> = (0..25).map(|level| interior(&[], level + 3)).chain([leaf(&[])]).collect();
    let schema = |root: (u64, &[u8])| {
        with_schema(&record(&[(23, b"table"), (29, b"Packages"), (29, b"Packages"), root, (13, b"")]), &[leaf(&[])])
    };
    let cases: Vec<(&str, Vec<u8>, String, usize)> = vec![
        ("magic", patched(&good, 0, b"s"), at("magic"), 0),
        ("odd page size", patched(&good, 16, &[2, 1]), at("page size"), 0),
        ("page size 256", patched(&good, 16, &[1, 0]), at("page size"), 0),
        ("much reserved", patched(&good, 20, &[40]), at("reserved bytes"), 0),
        ("encoding", patched(&good, 59, &[9]), at("text encoding"), 0),
        ("utf-16", patched(&good, 59, &[2]), "text in UTF-16 is not supported".to_owned(), 0),
        ("version", patched(&good, 19, &[3]), "read version 3 is not supported".to_owned(), 0),
        ("short header", good[..50].to_vec(), at("length"), 0),
        ("no first page", good[..511].to_vec(), at("rootpage"), 0),
        ("no root page", good[..512].to_vec(), at("rootpage"), 0),
        ("schema page type", patched(&good, 100, &[10]), at("b-tree page type"), 0),
        ("no table", patched(&good, 512 - 17, b"x"), at("sqlite_schema"), 0),
        ("text for a root", schema((13 + 2, b"2")), at("rootpage"), 0),
        ("root page 0", schema((8, b"")), at("rootpage"), 0),
        ("root page 1", schema((9, b"")), at("rootpage"), 0),
        ("root page of 8 bytes", schema((6, &[1, 0, 0, 0, 0, 0, 0, 2])), at("rootpage"), 0),
        ("root page type", patched(&good, 512, &[5 + 8 + 1]), at("b-tree page type"), 0),
        ("cells", patched(&good, 515, &[255, 255]), at("number of cells"), 0),
        ("cell pointer", patched(&good, 520, &[255, 255]), at("length"), 0),
        (
            "own child",
            database(&[interior(&[2, 3], 4), leaf(std::slice::from_ref(&good_cell)), leaf(&[])]),
            at("left child page number"),
            1,
        ),
        (
            "own last child",
            database(&[interior(&[3], 2), leaf(std::slice::from_ref(&good_cell))]),
            at("right-most pointer"),
            1,
        ),
        (
            "one child twice",
            database(&[interior(&[3], 3), leaf(std::slice::from_ref(&good_cell))]),
            at("right-most pointer"),
            1,
        ),
        (
            "child 0",
            database(&[interior(&[0], 3), leaf(std::slice::from_ref(&good_cell))]),
            at("left child page number"),
            1,
        ),
        (
            "child type",
            database(&[interior(&[3], 4), vec![1; 512], leaf(std::slice::from_ref(&good_cell))]),
            at("b-tree page type"),
            1,
        ),
        ("depth", database(&twenty_five_deep), at("depth"), 0),
        ("overflow cycle", spread(3, 0), at("overflow page number"), 1),
        ("overflow into the tree", spread(2, 0), at("overflow page number"), 1),
        ("overflow end", spread(0, 0), at("overflow page number"), 1),
        ("overflow far away", spread(u32::MAX, 0), at("overflow page number"), 1),
        (
            "long record",
            database(&[leaf(&[[varint(1 << 40), varint(1)].concat(), good_cell.clone()])]),
            at("payload size"),
            1,
        ),
        ("empty record", bad_row(&[]), at("length"), 1),
        ("one column", bad_row(&record(&[(0, b"")])), at("record header"), 1),
        ("a text", bad_row(&record(&[(0, b""), (15, b"x")])), at("serial type"), 1),
        ("type 11", bad_row(&record(&[(11, b""), (14, b"x")])), at("serial type"), 1),
        ("short value", bad_row(&record(&[(0, b""), (14 + 200, b"x")])), at("length"), 1),
        ("endless value", bad_row(&record(&[((1 << 55) - 1, b""), ((1 << 55) - 2, b"")])), at("length"), 1),
        ("no header", bad_row(&row(b"x")), at("length"), 1),
        ("cut header", bad_row(&row(&header("bad", 10)[..60])), at("il"), 1),
    ];
    for (case, bytes, note, left) in cases {
        assert_noted(&read_sqlite(&bytes), &note, left, case);
    }
    shake(&good, read_sqlite);
    shake(&spread(4, 0), read_sqlite);
}

#[test]
fn an_sqlite_log_that_lies_is_refused() {
    use pages::{cell, database, leaf, row};
    let good = patched(&database(&[leaf(&[cell(&row(&header("good", 10)))])]), 18, &[2, 2]);
    let read_with =
        |wal: Vec<u8>| read(|gathered| sqlite::read(&Memory::new(good.clone()), Some(&Memory::new(wal)), gathered));
    assert_eq!(read_with(log(3_007_000, 512, &[])).packages.len(), 1);
    assert_noted(&read_with(log(3_007_001, 512, &[])), "version 3007001 is not supported", 0, "version");
    assert_noted(&read_with(log(3_007_000, 1_024, &[])), &at("page size"), 0, "page size");
    let huge = log(3_007_000, 512, &[(7, u32::MAX)]);
    assert_noted(&read_with(huge), "bytes of a package database", 0, "database size");
    // The page that the log holds is empty; the root page is then past the end.
    assert_noted(&read_with(log(3_007_000, 512, &[(7, 1)])), &at("rootpage"), 0, "one page");
    // A log is no log of a database that was never in this mode.
    let database = patched(&good, 18, &[1, 1]);
    let list = read(|gathered| sqlite::read(&Memory::new(database), Some(&Memory::new(log(1, 1, &[]))), gathered));
    assert_eq!((list.packages.len(), list.notes.len()), (1, 0));
}

/// A write-ahead log of empty pages, given by number and the database's size after the commit.
fn log(version: u32, page_size: u32, frames: &[(u32, u32)]) -> Vec<u8> {
    let mut sums = (0u32, 0u32);
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(8) {
            let word = |at: usize| u32::from_be_bytes(pair[at..at + 4].try_into().unwrap());
            sums.0 = sums.0.wrapping_add(word(0)).wrapping_add(sums.1);
            sums.1 = sums.1.wrapping_add(word(4)).wrapping_add(sums.0);
        }
        [sums.0, sums.1].map(u32::to_be_bytes).concat()
    };
    let mut log = [0x377f_0683, version, page_size, 0, 11, 22].map(u32::to_be_bytes).concat();
    let sum = add(&log);
    log.extend(sum);
    for &(number, commit) in frames {
        let start = [number, commit].map(u32::to_be_bytes).concat();
        let page = vec![0; page_size as usize];
        add(&start);
        let sum = add(&page);
        log.extend([start, [11, 22].map(u32::to_be_bytes).concat(), sum, page].concat());
    }
    log
}

#[test]
fn ndb_damage_is_named_and_the_rest_is_listed() {
    let bad = header("bad", 10);
    let good = ndb_database(&[(1, bad.clone()), (2, header("good", 10))]);
    assert_eq!(read_ndb(&good).packages.len(), 2);
    // The first package's slot is the fourth of 16 bytes, its blob lies behind the one slot page.
    let (slot, blob) = (48, 4_096);
    let tail = blob + (16 + bad.len() + 12).next_multiple_of(16) - 12;
    let le = |value: u32| value.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, String, usize)> = vec![
        ("magic", patched(&good, 0, b"r"), at("magic"), 0),
        ("version", patched(&good, 4, &[1]), "version 1 is not supported".to_owned(), 0),
        ("no slots", patched(&good, 12, &le(0)), at("slotnpages"), 0),
        ("many slots", patched(&good, 12, &le(u32::MAX)), at("slotnpages"), 0),
        ("short header", good[..31].to_vec(), at("slotnpages"), 0),
        ("slot magic", patched(&good, slot, b"s"), at("slot magic"), 1),
        ("package 0", patched(&good, slot + 4, &le(0)), at("pkgidx"), 1),
        ("blob in the slots", patched(&good, slot + 8, &le(255)), at("blkoff"), 1),
        ("blob past the end", patched(&good, slot + 8, &le(u32::MAX)), at("blkoff"), 1),
        ("blob of no blocks", patched(&good, slot + 12, &le(0)), at("blkcnt"), 1),
        ("blob too long", patched(&good, slot + 12, &le(u32::MAX)), at("blkcnt"), 1),
        ("blob length", patched(&good, slot + 12, &le(3)), at("bloblen"), 1),
        ("blobs overlap", patched(&good, slot + 32 + 8, &le(257)), at("blkoff"), 1),
        ("blob magic", patched(&good, blob, b"b"), at("blob head magic"), 1),
        ("blob's package", patched(&good, blob + 4, &le(9)), at("pkgidx"), 1),
        ("head's length", patched(&good, blob + 12, &le(u32::MAX)), at("bloblen"), 1),
        ("tail's length", patched(&good, tail + 4, &le(1)), at("bloblen"), 1),
        ("tail magic", patched(&good, tail + 8, b"b"), at("blob tail magic"), 1),
        ("header", patched(&good, blob + 16, &[1]), at("il"), 1),
    ];
    for (case, bytes, note, left) in cases {
        assert_noted(&read_ndb(&bytes), &note, left, case);
    }
    shake(&good, read_ndb);
}

/// A Berkeley DB hash of two buckets with pages of 512 bytes, in big-endian order: page 1 is bucket 0 with a short header
/// and what leads to a long one in the overflow pages 3 and 4, page 2 is bucket 1 with a short header.
fn bdb_database() -> Vec<u8> {
    let be = |value: u32| value.to_be_bytes();
    let mut metadata = vec![0; 512];
    metadata[12..24].copy_from_slice(&[0x0006_1561, 9, 512].map(u32::to_be_bytes).concat());
    metadata[25] = 8;
    metadata[32..36].copy_from_slice(&be(4));
    metadata[72..76].copy_from_slice(&be(1));
    metadata[96..104].copy_from_slice(&[1, 1].map(u32::to_be_bytes).concat());
    let page = |number: u32, next: u32, items: &[Vec<u8>]| {
        let mut page = vec![0; 512];
        page[8..12].copy_from_slice(&be(number));
        page[16..20].copy_from_slice(&be(next));
        page[20..22].copy_from_slice(&(items.len() as u16).to_be_bytes());
        page[25] = 13;
        let mut end = 512;
        for (index, item) in items.iter().enumerate() {
            end -= item.len();
            page[end..end + item.len()].copy_from_slice(item);
            page[26 + 2 * index..28 + 2 * index].copy_from_slice(&(end as u16).to_be_bytes());
        }
        page
    };
    let item = |bytes: &[u8]| [&[1], bytes].concat();
    let long = header("long", 700);
    let overflow = |number: u32, next: u32, content: &[u8]| {
        let mut page = page(number, next, &[]);
        page[22..24].copy_from_slice(&(content.len() as u16).to_be_bytes());
        page[25] = 7;
        page[26..26 + content.len()].copy_from_slice(content);
        page
    };
    let off_page = [vec![3, 0, 0, 0], [3, long.len() as u32].map(u32::to_be_bytes).concat()].concat();
    [
        metadata,
        page(1, 0, &[item(&be(0)), item(&be(9)), item(&be(1)), item(&header("short", 10)), item(&be(2)), off_page]),
        page(2, 0, &[item(&be(3)), item(&header("good", 10))]),
        overflow(3, 4, &long[..486]),
        overflow(4, 0, &long[486..]),
    ]
    .concat()
}

#[test]
fn berkeley_db_damage_is_named_and_the_rest_is_listed() {
    let good = bdb_database();
    let list = read_bdb(&good);
    assert_eq!((list.packages.len(), list.notes.len()), (3, 0), "{:?}", list.notes);
    let be = |value: u32| value.to_be_bytes();
    let (first, third) = (512, 3 * 512);
    // Items 3 and 5 of page 1: the short header, and what leads to the long one.
    let start = |index: usize| usize::from(u16::from_be_bytes(good[first + 26 + 2 * index..][..2].try_into().unwrap()));
    let (short, off_page) = (first + start(3), first + start(5));
    let cases: Vec<(&str, Vec<u8>, String, usize)> = vec![
        ("magic", patched(&good, 12, &[1]), at("magic"), 0),
        ("b-tree", patched(&good, 12, &be(0x0005_3162)), "b-tree access method is not supported".to_owned(), 0),
        ("version", patched(&good, 16, &be(11)), "hash version 11 is not supported".to_owned(), 0),
        ("page size", patched(&good, 20, &be(513)), at("page size"), 0),
        ("page size 0", patched(&good, 20, &be(0)), at("page size"), 0),
        ("encryption", patched(&good, 24, &[1]), "encryption is not supported".to_owned(), 0),
        ("checksums", patched(&good, 26, &[1]), "page checksums is not supported".to_owned(), 0),
        ("short metadata", good[..400].to_vec(), at("max_bucket"), 0),
        ("buckets", patched(&good, 72, &be(u32::MAX)), at("max_bucket"), 0),
        ("bucket on page 0", patched(&good, 96, &be(0)), at("spares"), 1),
        ("bucket far away", patched(&good, 96, &be(u32::MAX)), at("spares"), 1),
        ("two buckets in one", patched(&good, 100, &be(0)), at("spares"), 2),
        ("page's number", patched(&good, first + 8, &be(2)), at("page number"), 1),
        ("page type", patched(&good, first + 25, &[5]), at("page type"), 1),
        ("next page", patched(&good, first + 16, &be(1)), at("next page number"), 3),
        ("next page far away", patched(&good, first + 16, &be(99)), at("next page number"), 3),
        ("entries", patched(&good, first + 20, &[255, 255]), at("length"), 1),
        ("item offset", patched(&good, first + 26 + 6, &[2, 0]), at("item offset"), 1),
        ("key type", patched(&good, first + start(2), &[3]), at("key"), 2),
        ("item type", patched(&good, short, &[9]), at("item type"), 2),
        ("duplicates", patched(&good, short, &[2]), "duplicate keys is not supported".to_owned(), 2),
        ("overflow page", patched(&good, off_page + 4, &be(0)), at("overflow page number"), 2),
        ("long overflow", patched(&good, off_page + 8, &be(u32::MAX)), at("tlen"), 2),
        ("short overflow", patched(&good, off_page + 8, &be(100)), at("hf_offset"), 2),
        ("overflow cycle", patched(&good, third + 16, &be(3)), at("overflow page number"), 2),
        ("overflow type", patched(&good, third + 25, &[13]), at("page type"), 2),
        ("nothing in overflow", patched(&good, third + 22, &[0, 0]), at("hf_offset"), 2),
        ("much in overflow", patched(&good, third + 22, &[255, 255]), at("hf_offset"), 2),
        ("header", patched(&good, short + 1, &[1]), at("il"), 2),
    ];
    for (case, bytes, note, left) in cases {
        assert_noted(&read_bdb(&bytes), &note, left, case);
    }
    shake(&good, read_bdb);
}

/// A device of a size that no memory has: some bytes at the beginning, then one byte over and over.
#[derive(Debug)]
struct Endless {
    head: Vec<u8>,
    fill: u8,
    size: u64,
}

impl BlockDevice for Endless {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.fill(self.fill);
        let offset = usize::try_from(offset).unwrap().min(self.head.len());
        let len = buf.len().min(self.head.len() - offset);
        buf[..len].copy_from_slice(&self.head[offset..offset + len]);
        Ok(())
    }

    fn next_extent(&self, range: std::ops::Range<u64>) -> Result<guestctl::block::Extent> {
        Ok(guestctl::block::Extent { kind: guestctl::block::ExtentKind::Data, len: range.end - range.start })
    }
}

#[test]
fn databases_of_any_size_end_soon() {
    let sqlite_head = pages::database(&[]);
    let heads: [(&[u8], fn(&dyn BlockDevice, &mut Gathered) -> Result<()>); 4] = [
        (&sqlite_head, |device, gathered| sqlite::read(device, None, gathered)),
        (&ndb_database(&[(1, header("a", 1))])[..4_096], ndb::read),
        (&bdb_database(), bdb::read),
        (b"Package: x\n", |device, gathered| dpkg::read(device, dpkg::NoStatus::Installed, gathered)),
    ];
    for (index, (head, reader)) in heads.into_iter().enumerate() {
        for size in [limits::PACKAGE_TEXT_BYTES, limits::PACKAGE_DATABASE_BYTES, u64::MAX >> 1] {
            for fill in [0, b'\n', 1, 5, 13, 255] {
                let device = Endless { head: head.to_vec(), fill, size };
                let list = read(|gathered| reader(&device, gathered));
                assert!(!list.notes.is_empty() || !list.packages.is_empty() || index == 1, "{index} {size} {fill}");
            }
        }
    }
}

#[test]
fn a_tree_that_meets_itself_everywhere_ends_soon() {
    // Every page is an interior page that names all others: 65 pages of 72 children.
    let children: Vec<u32> = (2..66).collect();
    let every: Vec<Vec<u8>> = (0..64).map(|_| pages::interior(&children, 2)).collect();
    let list = read_sqlite(&pages::database(&every));
    assert_noted(&list, &at("left child page number"), 0, "cycles");
}

#[test]
fn a_page_of_cells_in_one_place_ends_soon() {
    // One header and tens of thousands of pointers to it, in a page of 65536 bytes.
    let cell = pages::cell(&pages::row(&header("again", 30_000)));
    let mut page = vec![0; 65_536];
    let (count, start) = (10_000u16, 65_536 - cell.len());
    page[0] = 13;
    page[3..5].copy_from_slice(&count.to_be_bytes());
    page[start..].copy_from_slice(&cell);
    for pointer in 0..usize::from(count) {
        page[8 + 2 * pointer..10 + 2 * pointer].copy_from_slice(&(start as u16).to_be_bytes());
    }
    let mut bytes = pages::database(&[]);
    bytes.splice(512.., vec![0; 65_536 - 512]);
    bytes[16..18].copy_from_slice(&[0, 1]);
    let list = read_sqlite(&[bytes, page].concat());
    assert!(list.notes[0].contains("bytes of a package list"), "{}", list.notes[0]);
}
