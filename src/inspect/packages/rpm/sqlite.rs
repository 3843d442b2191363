//! `rpmdb.sqlite`: RPM's headers in an SQLite database, in the table `Packages (hnum INTEGER PRIMARY KEY, blob BLOB)`.
//!
//! All integers are big-endian. The file's header, at the beginning of page 1:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 16 | magic | `SQLite format 3`, NUL |
//! | 16 | 2 | page size | a power of two from 512, or 1 for 65536 |
//! | 19 | 1 | read version | 1 (no write-ahead log), 2 |
//! | 20 | 1 | reserved bytes at the end of each page | leaves 480 or more |
//! | 56 | 4 | text encoding | 0 or 1, UTF-8 |
//!
//! A b-tree page, which on page 1 begins at byte 100:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 1 | type | 5 table interior, 13 table leaf |
//! | 3 | 2 | number of cells | what fits |
//! | 8 | 4 | right-most pointer, in an interior page | a page not yet seen |
//! | 8 or 12 | 2 each | cell pointers | inside the page |
//!
//! An interior cell is a left child's page number (4 bytes) and a key. A leaf cell is the payload's length and the row
//! id, both varints, the payload's beginning, and the number of its first overflow page (4 bytes) if that is not all of
//! it. An overflow page is the next one's number (4 bytes, 0 in the last) and more of the payload, which is a row
//! (`row.rs`). See "Database File Format", sections 1 and 2, on sqlite.org.
//!
//! Pages in the write-ahead log (`wal.rs`) win over the file's. Refused: UTF-16 databases, versions above 2.

use super::pages::{Seen, Window};
use super::row::{Column, varint};
use super::wal::Wal;
use super::{Gathered, add_header, check_size, record_len};
use crate::block::BlockDevice;
use crate::bytes::{Record, low_u32, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "rpmdb.sqlite";
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of the file's header.
const HEADER: usize = 100;
const TABLE_INTERIOR: u8 = 5;
const TABLE_LEAF: u8 = 13;
/// The least that a cell and the pointer to it take.
const CELL: usize = 6;
/// Interior pages above one another. SQLite's limit.
const DEPTH: usize = 20;

/// Gathers the packages of `database`, whose write-ahead log is `wal`.
///
/// # Errors
///
/// What reading fails with; [`Corrupt`](crate::ErrorKind::Corrupt) when the file's header or the schema is damaged.
/// Damaged pages and records below that are noted.
pub fn read(database: &dyn BlockDevice, wal: Option<&dyn BlockDevice>, gathered: &mut Gathered) -> Result<()> {
    if database.size() == 0 {
        return Ok(());
    }
    let mut pager = Pager::open(database, wal)?;
    let mut root = None;
    pager.walk(1, gathered, &mut |row, _| {
        root = root.or(packages_root(row)?);
        Ok(())
    })?;
    let Some(root) = root else {
        return Err(Error::corrupt(FORMAT, "sqlite_schema", 0, "no table Packages", "RPM's tables"));
    };
    pager.walk(root, gathered, &mut |row, gathered| {
        let blob = Column::of(row, 1)?;
        if blob.kind < 12 || blob.kind & 1 != 0 {
            return Err(row.corrupt("serial type", 0, blob.kind, "a blob's in the column blob"));
        }
        add_header(blob.record.bytes, blob.record.offset, gathered)
    })
}

/// The root page in a row (type, name, tbl_name, rootpage, sql) of the schema, if it is the table Packages'.
fn packages_root(row: &Record<'_>) -> Result<Option<u32>> {
    let is_packages = Column::of(row, 0)?.record.bytes == b"table"
        && Column::of(row, 1)?.record.bytes.eq_ignore_ascii_case(b"Packages");
    if !is_packages {
        return Ok(None);
    }
    let column = Column::of(row, 3)?;
    let root = match (column.kind, column.record.bytes) {
        (9, _) => Some(1),
        (1..=6, bytes) => bytes.iter().try_fold(0u32, |value, &byte| value.checked_mul(256)?.checked_add(byte.into())),
        _ => None,
    };
    root.map(Some).ok_or_else(|| row.corrupt("rootpage", 0, format!("serial type {}", column.kind), "a page number"))
}

/// What is done with each row's payload.
type Visit<'a> = dyn FnMut(&Record<'_>, &mut Gathered) -> Result<()> + 'a;

/// The pages of a database, the log's where it has them.
struct Pager<'a> {
    file: Window<'a>,
    wal: Option<Wal<'a>>,
    page_size: usize,
    /// Bytes of a page without those reserved at its end.
    usable: usize,
    page_count: u32,
    seen: Seen,
}

impl<'a> Pager<'a> {
    fn open(database: &'a dyn BlockDevice, wal: Option<&'a dyn BlockDevice>) -> Result<Self> {
        let size = check_size(database)?;
        let mut file = Window::new(database);
        let header = Record::new(FORMAT, file.read(0, HEADER.min(to_usize(size)))?, 0);
        if header.array(0)? != MAGIC {
            return Err(header.corrupt("magic", 0, crate::bytes::escape(header.slice(0, 16)?), "SQLite format 3"));
        }
        let page_size = match header.be16(16)? {
            1 => 65_536,
            size if size >= 512 && size.is_power_of_two() => usize::from(size),
            size => return Err(header.corrupt("page size", 16, size, "a power of two from 512, or 1")),
        };
        let usable = page_size.saturating_sub(usize::from(header.u8(20)?));
        if usable < 480 {
            return Err(header.corrupt("reserved bytes", 20, header.u8(20)?, "480 or more bytes left of a page"));
        }
        match header.be32(56)? {
            0 | 1 => {}
            2 | 3 => return Err(Error::unsupported(FORMAT, "text in UTF-16")),
            other => return Err(header.corrupt("text encoding", 56, other, "1 to 3")),
        }
        let has_wal = match header.u8(19)? {
            1 => false,
            2 => true,
            other => return Err(Error::unsupported(FORMAT, format!("read version {other}"))),
        };
        let wal = wal.filter(|_| has_wal).map(|wal| Wal::open(wal, page_size)).transpose()?;
        let in_file = size.checked_div(to_u64(page_size)).unwrap_or(0);
        let page_count = wal.as_ref().and_then(Wal::page_count).map_or(in_file, u64::from);
        let bytes = page_count.saturating_mul(to_u64(page_size));
        limits::check("bytes of a package database", bytes, limits::PACKAGE_DATABASE_BYTES)?;
        // Page numbers begin with 1.
        let seen = Seen::new(page_count.saturating_add(1));
        Ok(Self { file, wal, page_size, usable, page_count: low_u32(page_count), seen })
    }

    /// Page `number`, as `from` calls it. Each page has one use.
    fn page(&mut self, number: u32, from: &Pointer) -> Result<Record<'_>> {
        if number == 0 || number > self.page_count {
            return Err(from.corrupt(number, format!("a page number, 1 to {}", self.page_count)));
        }
        if !self.seen.mark(u64::from(number)) {
            return Err(from.corrupt(number, "a page that is not in use elsewhere"));
        }
        if let Some(wal) = &mut self.wal
            && let Some(page) = wal.page(number)?
        {
            return Ok(page);
        }
        let offset = u64::from(number).saturating_sub(1).saturating_mul(to_u64(self.page_size));
        Ok(Record::new(FORMAT, self.file.read(offset, self.page_size)?, offset))
    }

    /// Calls `visit` with each row of the table whose b-tree begins at page `root`, in the order of the row ids. Damage
    /// below the root is tolerated.
    fn walk(&mut self, root: u32, gathered: &mut Gathered, visit: &mut Visit<'_>) -> Result<()> {
        let from = Pointer { field: "rootpage", offset: 0 };
        // The next one last.
        let mut pending = vec![Child { number: root, from, depth: 0 }];
        let mut row = Vec::new();
        while let Some(child) = pending.pop() {
            let outcome = self.tree_page(&child, &mut pending, &mut row, gathered, visit);
            if child.depth == 0 { outcome? } else { gathered.tolerate(outcome)? }
        }
        Ok(())
    }

    /// Reads a page of a b-tree: calls `visit` with the rows of a leaf, adds the children of an interior page to `pending`.
    fn tree_page(
        &mut self,
        child: &Child,
        pending: &mut Vec<Child>,
        row: &mut Vec<u8>,
        gathered: &mut Gathered,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let most_cells = self.usable.div_ceil(CELL);
        let page = self.page(child.number, &child.from)?;
        let (bytes, offset) = (page.bytes.to_vec(), page.offset);
        let page = Record::new(FORMAT, &bytes, offset);
        let at = if child.number == 1 { HEADER } else { 0 };
        let kind = page.u8(at)?;
        let header = match kind {
            TABLE_LEAF => 8,
            TABLE_INTERIOR => 12,
            other => return Err(page.corrupt("b-tree page type", at, other, "5 or 13, a table's")),
        };
        let cells = usize::from(page.be16(at.saturating_add(3))?);
        if cells > most_cells {
            return Err(page.corrupt("number of cells", at.saturating_add(3), cells, format!("{most_cells} at most")));
        }
        let pointers = page.sub(at.saturating_add(header), cells.saturating_mul(2))?;
        let cells = pointers.bytes.as_chunks::<2>().0.iter().map(|pointer| usize::from(u16::from_be_bytes(*pointer)));
        if kind == TABLE_INTERIOR {
            return add_children(&page, at, cells, child.depth, pending);
        }
        for cell in cells {
            let outcome = self.payload(&page, cell, row, gathered);
            let outcome = outcome.and_then(|()| visit(&Record::new(FORMAT, row, page.position(cell)), gathered));
            gathered.tolerate(outcome)?;
        }
        Ok(())
    }

    /// Puts the payload of the leaf cell at byte `cell` of `page` into `row`.
    fn payload(&mut self, page: &Record<'_>, cell: usize, row: &mut Vec<u8>, gathered: &mut Gathered) -> Result<()> {
        let (len, at) = varint(page, cell)?;
        let (_row_id, at) = varint(page, at)?;
        let all_pages = u64::from(self.page_count).saturating_mul(to_u64(self.page_size));
        if len > all_pages {
            return Err(page.corrupt("payload size", cell, len, format!("no more than the database, {all_pages}")));
        }
        let len = record_len(len, gathered)?;
        let local = self.local_len(len);
        row.clear();
        row.reserve_exact(len);
        row.extend_from_slice(page.slice(at, local)?);
        let mut pointer_at = at.saturating_add(local);
        let mut next = if local < len { page.be32(pointer_at)? } else { 0 };
        let mut from = Pointer { field: "overflow page number", offset: page.position(pointer_at) };
        while row.len() < len {
            let part = self.usable.saturating_sub(4).min(len.saturating_sub(row.len()));
            let overflow = self.page(next, &from)?;
            row.extend_from_slice(overflow.slice(4, part)?);
            pointer_at = 0;
            next = overflow.be32(pointer_at)?;
            from.offset = overflow.position(pointer_at);
        }
        Ok(())
    }

    /// How much of a payload of `len` bytes lies in its leaf page (section 1.6).
    fn local_len(&self, len: usize) -> usize {
        let usable = self.usable;
        let most = usable.saturating_sub(35);
        if len <= most {
            return len;
        }
        let least = usable.saturating_sub(12).saturating_mul(32).checked_div(255).unwrap_or(0).saturating_sub(23);
        let rest = len.saturating_sub(least).checked_rem(usable.saturating_sub(4)).unwrap_or(0);
        match least.saturating_add(rest) {
            local if local <= most => local,
            _ => least,
        }
    }
}

/// Adds the children of an interior page, whose header is at byte `at`, so that the leftmost comes next.
fn add_children(
    page: &Record<'_>,
    at: usize,
    cells: impl DoubleEndedIterator<Item = usize>,
    depth: usize,
    pending: &mut Vec<Child>,
) -> Result<()> {
    let depth = depth.saturating_add(1);
    if depth > DEPTH {
        return Err(page.corrupt("depth", at, depth, format!("{DEPTH} interior pages above one another")));
    }
    let right_most = ("right-most pointer", at.saturating_add(8));
    for (field, at) in [right_most].into_iter().chain(cells.rev().map(|cell| ("left child page number", cell))) {
        let from = Pointer { field, offset: page.position(at) };
        pending.push(Child { number: page.be32(at)?, from, depth });
    }
    Ok(())
}

/// A page of a b-tree that is still to be read.
struct Child {
    number: u32,
    from: Pointer,
    depth: usize,
}

/// Where a page number was found.
struct Pointer {
    field: &'static str,
    offset: u64,
}

impl Pointer {
    fn corrupt(&self, found: u32, expected: impl std::fmt::Display) -> Error {
        Error::corrupt(FORMAT, self.field, self.offset, found, expected)
    }
}
