//! An RPM header as the databases keep it: all of one package's metadata.
//!
//! All integers are big-endian.
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | `il`, the number of index entries | 1 to what fits |
//! | 4 | 4 | `dl`, bytes of the store | 8 + 16 · il + dl is the header's length |
//! | 8 | 16 · il | the index | |
//! | 8 + 16 · il | dl | the store | |
//!
//! An index entry:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | `tag` | those below, all others are passed over |
//! | 4 | 4 | `type` | 4 INT32, 5 INT64, 6 STRING, 8 STRING_ARRAY, 9 I18NSTRING |
//! | 8 | 4 | `offset` of the data in the store | inside it |
//! | 12 | 4 | `count` of values | 1 or more; of an array the first is taken, which in an I18NSTRING is the C locale's |
//!
//! Strings end with a NUL. When a tag occurs twice the later entry holds: it was added after the package was built and
//! signed. See "RPM V4 Package format", "Header Format", in RPM's reference manual.

use super::super::{Package, plain};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::Result;

const FORMAT: &str = "rpm header";

const TAG_NAME: u32 = 1000;
const TAG_VERSION: u32 = 1001;
const TAG_RELEASE: u32 = 1002;
const TAG_EPOCH: u32 = 1003;
const TAG_SUMMARY: u32 = 1004;
const TAG_DESCRIPTION: u32 = 1005;
const TAG_SIZE: u32 = 1009;
const TAG_VENDOR: u32 = 1011;
const TAG_URL: u32 = 1020;
const TAG_ARCH: u32 = 1022;
const TAG_SOURCERPM: u32 = 1044;
const TAG_LONGSIZE: u32 = 5009;

const TYPE_INT32: u32 = 4;
const TYPE_INT64: u32 = 5;
const TYPE_STRING: u32 = 6;
const TYPE_STRING_ARRAY: u32 = 8;
const TYPE_I18NSTRING: u32 = 9;

/// Bytes before the index.
const INTRO: usize = 8;
/// Bytes of an index entry.
const ENTRY: usize = 16;

/// One index entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u32,
    offset: u32,
    count: u32,
    /// Where it lies in the header.
    at: usize,
}

/// The entries of the tags that are of use.
#[derive(Debug, Default, Clone, Copy)]
struct Index {
    name: Option<Entry>,
    version: Option<Entry>,
    release: Option<Entry>,
    epoch: Option<Entry>,
    summary: Option<Entry>,
    description: Option<Entry>,
    size: Option<Entry>,
    vendor: Option<Entry>,
    url: Option<Entry>,
    arch: Option<Entry>,
    source_rpm: Option<Entry>,
    long_size: Option<Entry>,
}

/// The package that a header describes; the header lies at `offset` of its database.
///
/// # Errors
///
/// [`Corrupt`](crate::ErrorKind::Corrupt) when the index does not fit the header, when name, version or release are
/// missing, or when one of the tags of use does not lead to a value of its type.
pub fn parse(blob: &[u8], offset: u64) -> Result<Package> {
    let header = Header::parse(Record::new(FORMAT, blob, offset))?;
    let index = header.index();
    let required = |field, entry| match header.string(field, entry)? {
        Some(text) => Ok(text),
        None => Err(header.record.corrupt(field, 0, "nothing", "a value in every header")),
    };
    let size = match header.integer("LONGSIZE", index.long_size)? {
        None => header.integer("SIZE", index.size)?,
        size => size,
    };
    Ok(Package {
        name: required("NAME", index.name)?,
        epoch: header.integer("EPOCH", index.epoch)?.map_or(0, crate::bytes::low_u32),
        version: required("VERSION", index.version)?,
        release: required("RELEASE", index.release)?,
        arch: header.string("ARCH", index.arch)?.unwrap_or_default(),
        publisher: header.string("VENDOR", index.vendor)?,
        url: header.string("URL", index.url)?,
        source_package: header.string("SOURCERPM", index.source_rpm)?.and_then(source_name),
        summary: header.string("SUMMARY", index.summary)?,
        description: header.string("DESCRIPTION", index.description)?,
        installed_size: size,
        ..Package::default()
    })
}

/// The name in a source package's file name, `name-version-release.src.rpm`. RPM writes `(none)` for its public keys.
fn source_name(file_name: String) -> Option<String> {
    let stem = file_name.strip_suffix(".src.rpm").or_else(|| file_name.strip_suffix(".nosrc.rpm"));
    match stem.and_then(|stem| stem.rsplit_once('-')).and_then(|(rest, _)| rest.rsplit_once('-')) {
        Some((name, _)) => Some(name.to_owned()),
        None => Some(file_name).filter(|name| name != "(none)"),
    }
}

struct Header<'a> {
    record: Record<'a>,
    index: &'a [u8],
    store: Record<'a>,
}

impl<'a> Header<'a> {
    fn parse(record: Record<'a>) -> Result<Self> {
        let (il, dl) = (record.be32(0)?, record.be32(4)?);
        let index_len = u64::from(il).saturating_mul(to_u64(ENTRY));
        let len = to_u64(INTRO).saturating_add(index_len).saturating_add(u64::from(dl));
        if il == 0 || len != to_u64(record.len()) {
            let found = format!("{il} entries and {dl} bytes of store in a header of {} bytes", record.len());
            return Err(record.corrupt("il", 0, found, "at least one entry, and both together the header's length"));
        }
        let store_at = INTRO.saturating_add(to_usize(index_len));
        let index = record.slice(INTRO, to_usize(index_len))?;
        Ok(Self { record, index, store: record.sub(store_at, to_usize(u64::from(dl)))? })
    }

    fn index(&self) -> Index {
        let mut index = Index::default();
        for (number, entry) in self.index.as_chunks::<ENTRY>().0.iter().enumerate() {
            let [t0, t1, t2, t3, k0, k1, k2, k3, o0, o1, o2, o3, c0, c1, c2, c3] = *entry;
            let place = match u32::from_be_bytes([t0, t1, t2, t3]) {
                TAG_NAME => &mut index.name,
                TAG_VERSION => &mut index.version,
                TAG_RELEASE => &mut index.release,
                TAG_EPOCH => &mut index.epoch,
                TAG_SUMMARY => &mut index.summary,
                TAG_DESCRIPTION => &mut index.description,
                TAG_SIZE => &mut index.size,
                TAG_VENDOR => &mut index.vendor,
                TAG_URL => &mut index.url,
                TAG_ARCH => &mut index.arch,
                TAG_SOURCERPM => &mut index.source_rpm,
                TAG_LONGSIZE => &mut index.long_size,
                _ => continue,
            };
            *place = Some(Entry {
                kind: u32::from_be_bytes([k0, k1, k2, k3]),
                offset: u32::from_be_bytes([o0, o1, o2, o3]),
                count: u32::from_be_bytes([c0, c1, c2, c3]),
                at: INTRO.saturating_add(number.saturating_mul(ENTRY)),
            });
        }
        index
    }

    /// The store from where `entry` says its data begins.
    fn data(&self, field: &'static str, entry: Entry) -> Result<Record<'a>> {
        let at = to_usize(u64::from(entry.offset));
        if entry.count == 0 {
            return Err(self.record.corrupt(field, entry.at, "a count of 0", "1 or more"));
        }
        match self.store.len().checked_sub(at) {
            Some(len) if len > 0 => self.store.sub(at, len),
            _ => {
                let found = format!("an offset of {at}");
                Err(self.record.corrupt(field, entry.at, found, format!("less than dl, {}", self.store.len())))
            }
        }
    }

    fn wrong_type(&self, field: &'static str, entry: Entry, expected: &'static str) -> crate::Error {
        self.record.corrupt(field, entry.at, format!("type {}", entry.kind), expected)
    }

    /// The first string of `entry`; `None` when there is no entry or nothing in the string.
    fn string(&self, field: &'static str, entry: Option<Entry>) -> Result<Option<String>> {
        let Some(entry) = entry else { return Ok(None) };
        if !matches!(entry.kind, TYPE_STRING | TYPE_STRING_ARRAY | TYPE_I18NSTRING) {
            return Err(self.wrong_type(field, entry, "a string's, 6, 8 or 9"));
        }
        let data = self.data(field, entry)?;
        match data.bytes.iter().position(|&byte| byte == 0) {
            Some(end) => Ok(data.bytes.get(..end).and_then(plain)),
            None => Err(data.corrupt(field, 0, "a string without end", "a NUL in the store")),
        }
    }

    /// The first integer of `entry`; `None` when there is no entry.
    fn integer(&self, field: &'static str, entry: Option<Entry>) -> Result<Option<u64>> {
        let Some(entry) = entry else { return Ok(None) };
        match entry.kind {
            TYPE_INT32 => Ok(Some(u64::from(self.data(field, entry)?.be32(0)?))),
            TYPE_INT64 => Ok(Some(self.data(field, entry)?.be64(0)?)),
            _ => Err(self.wrong_type(field, entry, "an integer's, 4 or 5")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of (tag, type, count, data), laid out as in the module head.
    fn header(entries: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let (mut index, mut store) = (Vec::new(), Vec::new());
        for (tag, kind, count, data) in entries {
            for number in [*tag, *kind, store.len() as u32, *count] {
                index.extend(number.to_be_bytes());
            }
            store.extend_from_slice(data);
        }
        let intro = [entries.len() as u32, store.len() as u32].map(u32::to_be_bytes).concat();
        [intro, index, store].concat()
    }

    const NVR: [(u32, u32, u32, &[u8]); 3] =
        [(TAG_NAME, 6, 1, b"n\0"), (TAG_VERSION, 6, 1, b"1\0"), (TAG_RELEASE, 6, 1, b"2\0")];

    fn with(more: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        header(&[&NVR, more].concat())
    }

    #[test]
    fn tags_become_fields() {
        let package = parse(
            &with(&[
                (TAG_EPOCH, 4, 1, &[0, 0, 0, 7]),
                (TAG_SUMMARY, 9, 2, b"sum\0Summe\0"),
                (TAG_SIZE, 4, 1, &[0, 0, 1, 0]),
                (TAG_SOURCERPM, 6, 1, b"a-b-1.0-2.src.rpm\0"),
                (9_999, 77, 0, b""),
                (TAG_NAME, 6, 1, b"later\0"),
            ]),
            0,
        )
        .unwrap();
        let expected = Package {
            name: "later".to_owned(),
            epoch: 7,
            version: "1".to_owned(),
            release: "2".to_owned(),
            source_package: Some("a-b".to_owned()),
            summary: Some("sum".to_owned()),
            installed_size: Some(256),
            ..Package::default()
        };
        assert_eq!(package, expected);
    }

    #[test]
    fn the_long_size_is_the_size() {
        let long = 5u64 << 32;
        let entries: [(u32, u32, u32, &[u8]); 2] =
            [(TAG_SIZE, 4, 1, &[255; 4]), (TAG_LONGSIZE, 5, 1, &long.to_be_bytes())];
        assert_eq!(parse(&with(&entries), 0).unwrap().installed_size, Some(long));
    }

    #[test]
    fn damage_is_named() {
        let mut huge = with(&[]);
        huge[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut far = with(&[]);
        far[8 + 8..8 + 12].copy_from_slice(&6u32.to_be_bytes());
        let mut negative = with(&[]);
        negative[8 + 8..8 + 12].copy_from_slice(&(-4i32).to_be_bytes());
        let cases: [(Vec<u8>, &str); 14] = [
            (Vec::new(), "length"),
            (vec![0; 7], "length"),
            (vec![0; 8], "il"),
            (huge, "il"),
            (with(&[])[..20].to_vec(), "il"),
            ([with(&[]), vec![0]].concat(), "il"),
            (header(&NVR[1..]), "NAME"),
            (header(&NVR[..2]), "RELEASE"),
            (far, "NAME"),
            (negative, "NAME"),
            (with(&[(TAG_ARCH, 6, 1, b"x86")]), "ARCH"),
            (with(&[(TAG_ARCH, 4, 1, b"x86\0")]), "ARCH"),
            (with(&[(TAG_URL, 6, 0, b"u\0")]), "URL"),
            (with(&[(TAG_EPOCH, 4, 1, &[0, 0])]), "length"),
        ];
        for (blob, field) in cases {
            assert_eq!(parse(&blob, 0).unwrap_err().as_corrupt().unwrap().field, field, "{blob:?}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let blob = with(&[(TAG_SUMMARY, 9, 1, b"sum\0"), (TAG_EPOCH, 4, 1, &[0; 4])]);
        for len in 0..blob.len() {
            assert!(parse(&blob[..len], 0).is_err(), "{len}");
        }
    }
}
