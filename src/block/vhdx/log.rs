//! The log: [MS-VHDX] 2.3. Changes to the file's structures go there first; an image that was not closed cleanly has some
//! that are nowhere else. They are found here and shown by [`Replayed`] over a file that stays as it is.
//!
//! The log is a ring of 4 KiB sectors. An entry is a header, descriptors right behind it, filled up to a whole sector, and
//! the data sectors of its data descriptors in their order.
//!
//! | offset | size | field of an entry's header | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | Signature | `loge` |
//! | 4 | 4 | Checksum | CRC-32C over the entry |
//! | 8 | 4 | EntryLength | bytes, a multiple of 4 KiB, at most the log |
//! | 12 | 4 | Tail | bytes from the log's begin to where the sequence begins that ends here |
//! | 16 | 8 | SequenceNumber | not 0; each entry's is one more than that before it |
//! | 24 | 4 | DescriptorCount | |
//! | 32 | 16 | LogGuid | the header's |
//! | 48 | 8 | FlushedFileOffset | bytes; the file is at least as long |
//! | 56 | 8 | LastFileOffset | bytes; the file is made as long, to whole MiB |
//!
//! | offset | size | data descriptor | zero descriptor |
//! |---:|---:|---|---|
//! | 0 | 4 | `desc` | `zero` |
//! | 4 | 4 | TrailingBytes: the sector's last 4 | reserved |
//! | 8 | 8 | LeadingBytes: the sector's first 8 | ZeroLength, bytes, a multiple of 4 KiB |
//! | 16 | 8 | FileOffset, bytes, a multiple of 4 KiB | the same |
//! | 24 | 8 | SequenceNumber, the entry's | the same |
//!
//! A data sector is `data`, the high half of the sequence number, 4084 bytes, its low half.
//!
//! The entries that count are the active sequence (2.3.2): of all runs of entries with consecutive numbers whose last
//! entry has a tail inside the run, the one with the greatest number, from that tail on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::FORMAT;
use super::header::{Header, MIB};
use super::replay::{Patch, Replayed, SECTOR};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, escape, join_u64, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const ENTRY_HEADER: u64 = 64;
const DESCRIPTOR: u64 = 32;
/// How often the log's length is checksummed in all: entries do not overlap, but what older rounds left behind does.
const ROUNDS: u64 = 8;
const CHUNK: u64 = 64 << 10;

/// An entry that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    length: u64,
    tail: u64,
    sequence_number: u64,
    descriptors: u64,
    flushed: u64,
    last: u64,
}

/// The file as it is after the log was replayed; the file itself when there is nothing to replay.
pub(super) fn replay(file: Arc<dyn BlockDevice>, header: &Header) -> Result<Arc<dyn BlockDevice>> {
    if header.log_guid == [0; 16] {
        return Ok(file);
    }
    let log = Log::new(&*file, header)?;
    let entries = log.entries()?;
    let Some(active) = active(&entries, log.length) else {
        return Err(Error::corrupt(FORMAT, "LogGuid", log.start, "no whole sequence of entries", "one to replay"));
    };
    let (_, head) = *active.last().unwrap_or(&(0, EMPTY));
    if file.size() < head.flushed {
        let found = format!("a file of {} bytes", file.size());
        return Err(Error::corrupt(
            FORMAT,
            "FlushedFileOffset",
            log.start,
            found,
            format!("at least {}", head.flushed),
        ));
    }
    // A file grows by whole MiB, though the entry may say where its last bytes end.
    let grown = head.last.checked_next_multiple_of(MIB).unwrap_or(head.last);
    let mut replayed = Replayed::new(Arc::clone(&file), file.size().max(grown));
    let mut budget = limits::VHDX_LOG_DESCRIPTORS;
    for (at, entry) in &active {
        limits::check("VHDX log descriptors", entry.descriptors, budget)?;
        budget = budget.saturating_sub(entry.descriptors);
        log.apply(*at, entry, &mut replayed)?;
    }
    log::debug!("replayed {} entries of the log in memory", active.len());
    Ok(Arc::new(replayed))
}

const EMPTY: Entry = Entry { length: 0, tail: 0, sequence_number: 0, descriptors: 0, flushed: 0, last: 0 };

/// The ring.
struct Log<'a> {
    file: &'a dyn BlockDevice,
    guid: [u8; 16],
    start: u64,
    length: u64,
}

impl<'a> Log<'a> {
    fn new(file: &'a dyn BlockDevice, header: &Header) -> Result<Self> {
        let (start, length) = (header.log_offset, header.log_length);
        if header.log_version != 0 {
            return Err(Error::unsupported(FORMAT, format!("log version {}", header.log_version)));
        }
        limits::check("VHDX log bytes", length, limits::VHDX_LOG_BYTES)?;
        let aligned = start >= MIB && length >= MIB && start.is_multiple_of(MIB) && length.is_multiple_of(MIB);
        if !aligned || start.checked_add(length).is_none_or(|end| end > file.size()) {
            let expected = format!("multiples of 1 MiB inside the file of {} bytes", file.size());
            return Err(Error::corrupt(FORMAT, "LogOffset", 72, format!("{length} bytes at {start:#x}"), expected));
        }
        Ok(Self { file, guid: header.log_guid, start, length })
    }

    /// Where byte `at` of the ring lies in the file.
    fn position(&self, at: u64) -> u64 {
        self.start.saturating_add(at.checked_rem(self.length).unwrap_or(0))
    }

    /// Bytes of the ring, read sector by sector, as it may close in between.
    fn read(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        let position = self.position(at);
        let to_end = self.start.saturating_add(self.length).saturating_sub(position).min(len);
        let mut bytes = read_vec(self.file, position, to_usize(to_end))?;
        if to_end < len {
            bytes.extend(read_vec(self.file, self.start, to_usize(len.saturating_sub(to_end)))?);
        }
        Ok(bytes)
    }

    /// All entries that are whole, by where they begin.
    fn entries(&self) -> Result<BTreeMap<u64, Entry>> {
        let mut found = BTreeMap::new();
        let mut budget = self.length.saturating_mul(ROUNDS);
        let mut at = 0u64;
        while at < self.length {
            let bytes = self.read(at, ENTRY_HEADER)?;
            if bytes.starts_with(b"loge")
                && let Some(entry) = self.parse(&bytes, at)?
            {
                limits::check("VHDX log bytes to check", entry.length, budget)?;
                budget = budget.saturating_sub(entry.length);
                let stated = Record::new(FORMAT, &bytes, self.position(at)).le32(4)?;
                if self.checksum(at, entry.length)? == stated {
                    found.insert(at, entry);
                }
            }
            at = at.saturating_add(SECTOR);
        }
        Ok(found)
    }

    /// The entry whose header is `bytes`, if it is one of this log.
    fn parse(&self, bytes: &[u8], at: u64) -> Result<Option<Entry>> {
        let record = Record::new(FORMAT, bytes, self.position(at));
        let entry = Entry {
            length: record.le32(8)?.into(),
            tail: record.le32(12)?.into(),
            sequence_number: record.le64(16)?,
            descriptors: record.le32(24)?.into(),
            flushed: record.le64(48)?,
            last: record.le64(56)?,
        };
        let lengths = entry.length >= SECTOR && entry.length.is_multiple_of(SECTOR) && entry.length <= self.length;
        let tail = entry.tail.is_multiple_of(SECTOR) && entry.tail < self.length;
        let ours = record.array::<16>(32)? == &self.guid && entry.sequence_number != 0;
        let room = descriptor_bytes(&entry) <= entry.length;
        Ok((lengths && tail && ours && room).then_some(entry))
    }

    fn checksum(&self, at: u64, length: u64) -> Result<u32> {
        let mut sum = 0;
        let mut done = 0u64;
        while done < length {
            let mut chunk = self.read(at.saturating_add(done), CHUNK.min(length.saturating_sub(done)))?;
            if done == 0
                && let Some(field) = chunk.get_mut(4..8)
            {
                field.fill(0);
            }
            sum = crc32c::crc32c_append(sum, &chunk);
            done = done.saturating_add(CHUNK);
        }
        Ok(sum)
    }

    /// Applies the changes of the entry at `at`.
    fn apply(&self, at: u64, entry: &Entry, replayed: &mut Replayed) -> Result<()> {
        let area = descriptor_bytes(entry);
        let bytes = self.read(at, area)?;
        let record = Record::new(FORMAT, &bytes, self.position(at));
        let mut data = area;
        for index in 0..entry.descriptors {
            let within = to_usize(ENTRY_HEADER.saturating_add(index.saturating_mul(DESCRIPTOR)));
            let descriptor = record.sub(within, to_usize(DESCRIPTOR))?;
            let (signature, offset) = (descriptor.array::<4>(0)?, descriptor.le64(16)?);
            if descriptor.le64(24)? != entry.sequence_number {
                let found = descriptor.le64(24)?;
                return Err(descriptor.corrupt("SequenceNumber", 24, found, entry.sequence_number));
            }
            let (length, patch) = match signature {
                b"zero" => (descriptor.le64(8)?, Patch::Zero),
                b"desc" => {
                    let sector = at.saturating_add(data);
                    data = data.saturating_add(SECTOR);
                    if data > entry.length {
                        let found = format!("{} descriptors", entry.descriptors);
                        return Err(record.corrupt("DescriptorCount", 24, found, "a data sector for each"));
                    }
                    self.check_sector(sector, entry)?;
                    let (leading, trailing) = (*descriptor.array(8)?, *descriptor.array(4)?);
                    (SECTOR, Patch::Sector { position: self.position(sector), leading, trailing })
                }
                _ => return Err(descriptor.corrupt("Signature", 0, escape(signature), "desc or zero")),
            };
            let aligned = offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR);
            match offset.checked_add(length).filter(|_| aligned) {
                Some(end) => replayed.patch(offset..end, patch),
                None => {
                    return Err(descriptor.corrupt("FileOffset", 16, offset, "a multiple of 4096, and its length too"));
                }
            }
        }
        Ok(())
    }

    fn check_sector(&self, at: u64, entry: &Entry) -> Result<()> {
        let bytes = self.read(at, SECTOR)?;
        let record = Record::new(FORMAT, &bytes, self.position(at));
        let number = join_u64(record.le32(4)?, record.le32(4092)?);
        if record.array::<4>(0)? != b"data" || number != entry.sequence_number {
            return Err(record.corrupt("data sector", 0, number, format!("data of {}", entry.sequence_number)));
        }
        Ok(())
    }
}

/// The bytes of the entry's header and descriptors.
fn descriptor_bytes(entry: &Entry) -> u64 {
    ENTRY_HEADER.saturating_add(entry.descriptors.saturating_mul(DESCRIPTOR)).next_multiple_of(SECTOR)
}

/// The active sequence, from its tail to its head.
fn active(entries: &BTreeMap<u64, Entry>, length: u64) -> Option<Vec<(u64, Entry)>> {
    let next = |at: u64, entry: &Entry| {
        let at = at.saturating_add(entry.length).checked_rem(length)?;
        let next = entries.get(&at)?;
        (Some(next.sequence_number) == entry.sequence_number.checked_add(1)).then_some((at, *next))
    };
    // Where the run ends that goes through each entry; successors have greater numbers, so they are looked at first.
    let mut by_number: Vec<(u64, Entry)> = entries.iter().map(|(at, entry)| (*at, *entry)).collect();
    by_number.sort_by_key(|(at, entry)| (std::cmp::Reverse(entry.sequence_number), *at));
    let mut heads: BTreeMap<u64, u64> = BTreeMap::new();
    for (at, entry) in &by_number {
        let head = next(*at, entry).and_then(|(next, _)| heads.get(&next)).unwrap_or(at);
        heads.insert(*at, *head);
    }
    let is_head = |at: u64| heads.get(&at) == Some(&at);
    let (_, head) = by_number.iter().find(|(at, entry)| is_head(*at) && heads.get(&entry.tail) == Some(at))?;
    let mut sequence = vec![(head.tail, *entries.get(&head.tail)?)];
    while let Some((at, entry)) = sequence.last()
        && let Some(following) = next(*at, entry)
        && to_u64(sequence.len()) <= to_u64(entries.len())
    {
        sequence.push(following);
    }
    Some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(length: u64, tail: u64, sequence_number: u64) -> Entry {
        Entry { length, tail, sequence_number, ..EMPTY }
    }

    #[test]
    fn the_active_sequence_is_the_newest_whole_one() {
        let numbers = |entries: &[(u64, Entry)]| {
            let found = active(&entries.iter().copied().collect(), 10 << 12);
            found.map(|found| found.iter().map(|(_, entry)| entry.sequence_number).collect::<Vec<_>>())
        };
        let at = |sector: u64| sector << 12;
        // One run; its head's tail leaves the first entry out.
        let run = [(at(0), entry(at(1), 0, 7)), (at(1), entry(at(2), 0, 8)), (at(3), entry(at(1), at(1), 9))];
        assert_eq!(numbers(&run).unwrap(), [8, 9]);
        // A newer entry whose tail was overwritten does not count.
        let broken = [&run[..], &[(at(5), entry(at(1), at(4), 20))]].concat();
        assert_eq!(numbers(&broken).unwrap(), [8, 9]);
        // Around the end of the ring.
        let around =
            [(at(8), entry(at(2), at(8), 3)), (at(0), entry(at(1), at(8), 4)), (at(4), entry(at(1), at(4), 2))];
        assert_eq!(numbers(&around).unwrap(), [3, 4]);
        assert_eq!(numbers(&[(at(1), entry(at(1), at(2), 1))]), None);
        assert_eq!(numbers(&[]), None);
        assert_eq!(numbers(&[(0, entry(at(10), 0, u64::MAX))]).unwrap(), [u64::MAX]);
    }
}
