//! `Packages`: RPM's headers in a Berkeley DB hash.
//!
//! Integers are in the byte order of the machine that made the file. The metadata page, page 0:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 12 | 4 | magic | 0x061561, which tells the byte order |
//! | 16 | 4 | version | 8 to 10 |
//! | 20 | 4 | page size | a power of two, 512 to 65536 |
//! | 24 | 1 | encryption | 0 |
//! | 25 | 1 | page type | 8 |
//! | 26 | 1 | flags | without 1, a checksum in each page |
//! | 32 | 4 | last page number | |
//! | 72 | 4 | max_bucket, the last bucket in use | at most the last page number |
//! | 96 | 32 · 4 | spares | |
//!
//! Bucket b begins at page b + spares[bits of b]. A page:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 8 | 4 | its own number | |
//! | 16 | 4 | next page of the bucket or item; 0 in the last | a page not yet seen |
//! | 20 | 2 | entries, keys and data by turns | what fits |
//! | 22 | 2 | hf_offset; in an overflow page, bytes of data in it | what fits |
//! | 25 | 1 | type | 2 or 13 hash (or 8, which RPM takes too), 7 overflow |
//! | 26 | 2 each | where each item begins; it ends where the one before begins | descending |
//!
//! An item is its type and its bytes: 1, the bytes themselves; 3, three unused bytes, the first overflow page (4) and
//! `tlen`, the length (4). RPM's keys are package numbers; number 0 keeps the highest number given and is no package.
//!
//! Refused by name: encryption, page checksums, sorted duplicates, the b-tree access method. See "page layout" in
//! Berkeley DB's `dbinc/db_page.h`.

use super::pages::{Seen, Window};
use super::{Gathered, add_header, check_size, record_len};
use crate::block::BlockDevice;
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};

const FORMAT: &str = "rpm berkeley db";
const HASH_MAGIC: u32 = 0x0006_1561;
const BTREE_MAGIC: u32 = 0x0005_3162;
/// Bytes of the metadata page that hold fields.
const METADATA: usize = 512;
const PAGE_HEADER: usize = 26;
const OVERFLOW: u8 = 7;
const KEY_DATA: u8 = 1;
const OFF_PAGE: u8 = 3;

/// Gathers the packages of `database`.
///
/// # Errors
///
/// What reading fails with; [`Corrupt`](crate::ErrorKind::Corrupt) when the metadata page is damaged. Damaged buckets
/// and records are noted.
pub fn read(database: &dyn BlockDevice, gathered: &mut Gathered) -> Result<()> {
    let size = check_size(database)?;
    if size == 0 {
        return Ok(());
    }
    let mut window = Window::new(database);
    let metadata = Metadata::parse(&Record::new(FORMAT, window.read(0, METADATA.min(to_usize(size)))?, 0))?;
    let pages = size.checked_div(to_u64(metadata.page_size)).unwrap_or(0);
    let mut hash = Hash { window, metadata, seen: Seen::new(pages), pages };
    if u64::from(hash.metadata.max_bucket) >= pages {
        let expected = format!("less than the {pages} pages of the file");
        return Err(Error::corrupt(FORMAT, "max_bucket", 72, hash.metadata.max_bucket, expected));
    }
    let mut value = Vec::new();
    for bucket in 0..=hash.metadata.max_bucket {
        let outcome = hash.bucket(bucket, &mut value, gathered);
        gathered.tolerate(outcome)?;
    }
    Ok(())
}

/// The byte order of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, record: &Record<'_>, at: usize) -> Result<u16> {
        match self {
            Self::Little => record.le16(at),
            Self::Big => record.be16(at),
        }
    }

    fn u32(self, record: &Record<'_>, at: usize) -> Result<u32> {
        match self {
            Self::Little => record.le32(at),
            Self::Big => record.be32(at),
        }
    }
}

/// What the metadata page says.
#[derive(Debug)]
struct Metadata {
    order: Order,
    page_size: usize,
    max_bucket: u32,
    spares: [u32; 32],
}

impl Metadata {
    fn parse(page: &Record<'_>) -> Result<Self> {
        let order = match (page.le32(12)?, page.be32(12)?) {
            (HASH_MAGIC, _) => Order::Little,
            (_, HASH_MAGIC) => Order::Big,
            (BTREE_MAGIC, _) | (_, BTREE_MAGIC) => return Err(Error::unsupported(FORMAT, "the b-tree access method")),
            (found, _) => return Err(page.corrupt("magic", 12, format!("{found:#x}"), format!("{HASH_MAGIC:#x}"))),
        };
        let version = order.u32(page, 16)?;
        if !(8..=10).contains(&version) {
            return Err(Error::unsupported(FORMAT, format!("hash version {version}")));
        }
        let page_size = order.u32(page, 20)?;
        if !(512..=65_536).contains(&page_size) || !page_size.is_power_of_two() {
            return Err(page.corrupt("page size", 20, page_size, "a power of two, 512 to 65536"));
        }
        if page.u8(24)? != 0 {
            return Err(Error::unsupported(FORMAT, "encryption"));
        }
        if page.u8(26)? & 1 != 0 {
            return Err(Error::unsupported(FORMAT, "page checksums"));
        }
        let mut spares = [0; 32];
        for (spare, at) in spares.iter_mut().zip((96usize..).step_by(4)) {
            *spare = order.u32(page, at)?;
        }
        let page_size = to_usize(u64::from(page_size));
        Ok(Self { order, page_size, max_bucket: order.u32(page, 72)?, spares })
    }

    /// The first page of `bucket`; a sum past 32 bits leads nowhere.
    fn first_page(&self, bucket: u32) -> u32 {
        let bits = to_usize(u64::from(u32::BITS.saturating_sub(bucket.leading_zeros())));
        self.spares.get(bits).and_then(|spare| spare.checked_add(bucket)).unwrap_or(u32::MAX)
    }
}

/// An open database.
struct Hash<'a> {
    window: Window<'a>,
    metadata: Metadata,
    seen: Seen,
    pages: u64,
}

impl Hash<'_> {
    /// Page `number`, whose number was read from `field` at byte `from`. Each page has one use.
    fn page(&mut self, number: u32, field: &'static str, from: u64) -> Result<Record<'_>> {
        let number = u64::from(number);
        if number == 0 || number >= self.pages {
            return Err(Error::corrupt(FORMAT, field, from, number, format!("1 to {}", self.pages.saturating_sub(1))));
        }
        if !self.seen.mark(number) {
            return Err(Error::corrupt(FORMAT, field, from, number, "a page that is not in use elsewhere"));
        }
        let size = self.metadata.page_size;
        let offset = number.saturating_mul(to_u64(size));
        let page = Record::new(FORMAT, self.window.read(offset, size)?, offset);
        let own = self.metadata.order.u32(&page, 8)?;
        if u64::from(own) != number {
            return Err(page.corrupt("page number", 8, own, number));
        }
        Ok(page)
    }

    /// Adds the packages of one bucket. Damaged records are tolerated, a damaged page ends the bucket.
    fn bucket(&mut self, bucket: u32, value: &mut Vec<u8>, gathered: &mut Gathered) -> Result<()> {
        let order = self.metadata.order;
        let mut number = self.metadata.first_page(bucket);
        let (mut field, mut from) = ("spares", 96);
        loop {
            let page = self.page(number, field, from)?;
            let (bytes, offset) = (page.bytes.to_vec(), page.offset);
            let page = Record::new(FORMAT, &bytes, offset);
            if !matches!(page.u8(25)?, 2 | 8 | 13) {
                return Err(page.corrupt("page type", 25, page.u8(25)?, "2 or 13, a hash page"));
            }
            let entries = usize::from(order.u16(&page, 20)?);
            let items = Items { order, page, starts: page.sub(PAGE_HEADER, entries.saturating_mul(2))? };
            for pair in 0..entries >> 1 {
                let outcome = self.pair(&items, pair.saturating_mul(2), value, gathered);
                gathered.tolerate(outcome)?;
            }
            (number, field, from) = (order.u32(&page, 16)?, "next page number", page.position(16));
            if number == 0 {
                return Ok(());
            }
        }
    }

    /// Adds the package whose key is item `index` and whose header is the next one.
    fn pair(&mut self, items: &Items<'_>, index: usize, value: &mut Vec<u8>, gathered: &mut Gathered) -> Result<()> {
        let key = items.get(index)?;
        match (key.u8(0)?, key.len(), key.array(1)) {
            (KEY_DATA, 5, Ok([0, 0, 0, 0])) => return gathered.charge(0),
            (KEY_DATA, 5, _) => {}
            (kind, len, _) => {
                return Err(key.corrupt("key", 0, format!("type {kind}, {len} bytes"), "a package number"));
            }
        }
        let item = items.get(index.saturating_add(1))?;
        match item.u8(0)? {
            KEY_DATA => {
                let header = item.sub(1, item.len().saturating_sub(1))?;
                gathered.charge(to_u64(header.len()))?;
                add_header(header.bytes, header.offset, gathered)
            }
            OFF_PAGE => {
                self.overflow(items.order, &item, value, gathered)?;
                add_header(value, item.offset, gathered)
            }
            2 | 4 => Err(Error::unsupported(FORMAT, "duplicate keys")),
            other => Err(item.corrupt("item type", 0, other, "1 to 4")),
        }
    }

    /// Puts what an off-page item leads to into `value`.
    fn overflow(
        &mut self,
        order: Order,
        item: &Record<'_>,
        value: &mut Vec<u8>,
        gathered: &mut Gathered,
    ) -> Result<()> {
        let mut number = order.u32(item, 4)?;
        let mut from = item.position(4);
        let len = u64::from(order.u32(item, 8)?);
        if len > self.window.size() {
            return Err(item.corrupt("tlen", 8, len, format!("no more than the file, {} bytes", self.window.size())));
        }
        let len = record_len(len, gathered)?;
        value.clear();
        value.reserve_exact(len);
        while value.len() < len {
            let page = self.page(number, "overflow page number", from)?;
            if page.u8(25)? != OVERFLOW {
                return Err(page.corrupt("page type", 25, page.u8(25)?, "7, an overflow page"));
            }
            let part = usize::from(order.u16(&page, 22)?);
            if part == 0 || part > len.saturating_sub(value.len()) {
                return Err(page.corrupt("hf_offset", 22, part, format!("1 to {}", len.saturating_sub(value.len()))));
            }
            value.extend_from_slice(page.slice(PAGE_HEADER, part)?);
            number = order.u32(&page, 16)?;
            from = page.position(16);
        }
        Ok(())
    }
}

/// The items of a hash page.
struct Items<'a> {
    order: Order,
    page: Record<'a>,
    /// Where each begins, two bytes each.
    starts: Record<'a>,
}

impl<'a> Items<'a> {
    fn get(&self, index: usize) -> Result<Record<'a>> {
        let at = index.saturating_mul(2);
        let start = usize::from(self.order.u16(&self.starts, at)?);
        let end = match at.checked_sub(2) {
            Some(before) => usize::from(self.order.u16(&self.starts, before)?),
            None => self.page.len(),
        };
        match end.checked_sub(start) {
            Some(len) if len > 0 => self.page.sub(start, len),
            _ => Err(self.starts.corrupt("item offset", at, start, format!("less than {end}, where the item ends"))),
        }
    }
}
