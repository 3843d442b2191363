//! The first pass over the log: where does it end, and which of its blocks describe finished transactions?
//!
//! The log goes on as long as blocks begin with the magic and the expected transaction number. What follows is nothing,
//! or left over from an earlier round. A wrong checksum is judged by the commit block behind it: one that is older than
//! the commit before it is left over, and the log ends quietly; any other is damage, and the kernel refuses the mount.
//! With async_commit a wrong checksum in a commit block only means that the transaction did not reach the disk.

use super::log::{COMMIT, Commit, DESCRIPTOR, Log, REVOKE, header};
use super::superblock::{Checksum, FORMAT};
use crate::bytes::{Record, to_u64};
use crate::error::{Error, Result};
use crate::limits;

/// h_chksum_type and h_chksum_size of a CRC-32.
const CRC32: (u8, u8) = (1, 4);

/// The CRC-32 that runs from the high bit down, without inversion at the end.
const CRC: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_MPEG_2);

/// A descriptor or revoke block of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its block in the journal.
    pub block: u32,
    /// Its transaction.
    pub sequence: u32,
    /// Whether it is a descriptor; else it is a revoke block.
    pub describes: bool,
}

/// What the log holds.
#[derive(Debug)]
pub(super) struct Scan {
    /// Descriptor and revoke blocks of the transactions before `end`, in the log's order.
    pub entries: Vec<Entry>,
    /// The transaction after the last finished one.
    pub end: u32,
    /// What the user should know about the log's end.
    pub note: Option<String>,
}

/// How far the pass has come.
struct Walk<'a> {
    log: &'a Log<'a>,
    entries: Vec<Entry>,
    /// The transaction that is read.
    sequence: u32,
    /// The next block.
    block: u32,
    /// Blocks passed, data included.
    passed: u64,
    /// A descriptor or revoke block of this transaction with a wrong checksum: where it is stored.
    suspect: Option<u64>,
    /// The version 1 checksum so far.
    crc: u32,
    /// h_commit_sec of the last finished transaction.
    last_time: u64,
    /// The first transaction that does not count, once that is known before the walk ends.
    end: Option<u32>,
    note: Option<String>,
}

/// Walks the log once.
pub(super) fn scan(log: &Log<'_>) -> Result<Scan> {
    let mut walk = Walk {
        log,
        entries: Vec::new(),
        sequence: log.superblock.sequence,
        block: log.superblock.start,
        passed: 0,
        suspect: None,
        crc: u32::MAX,
        last_time: 0,
        end: None,
        note: None,
    };
    let mut bytes = vec![0; log.block_size()];
    while walk.step(&mut bytes)? {}
    let end = walk.end.unwrap_or(walk.sequence);
    let unfinished = walk.entries.iter().any(|entry| entry.sequence == walk.sequence);
    let note = walk
        .note
        .or_else(|| unfinished.then(|| format!("left out transaction {end} of the journal, which was not finished")));
    let mut entries = walk.entries;
    entries.retain(|entry| is_before(entry.sequence, end));
    Ok(Scan { entries, end, note })
}

/// Whether transaction `a` came before `b`; the numbers wrap.
pub(super) fn is_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

impl Walk<'_> {
    /// Takes the next block; `false` at the log's end.
    fn step(&mut self, bytes: &mut [u8]) -> Result<bool> {
        let record = self.log.read(self.block, bytes)?;
        let Some((kind, sequence)) = header(&record)? else { return Ok(false) };
        if sequence != self.sequence {
            return Ok(false);
        }
        self.pass(1, &record)?;
        match kind {
            DESCRIPTOR => self.descriptor(&record)?,
            REVOKE => {
                self.check(&record)?;
                self.entry(&record, false);
            }
            COMMIT => return self.commit(&record),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Moves on by `blocks`, which lie at and behind `record`. A log cannot be longer than its ring.
    fn pass(&mut self, blocks: u64, record: &Record<'_>) -> Result<()> {
        self.passed = self.passed.saturating_add(blocks);
        let ring = u64::from(self.log.len());
        if self.passed > ring {
            let expected = format!("a log of at most {ring} blocks");
            return Err(record.corrupt("h_sequence", 8, format!("{} blocks of the log", self.passed), expected));
        }
        limits::check("blocks in the journal's log", self.passed, limits::JOURNAL_BLOCKS)?;
        self.block = self.log.after(self.block, blocks);
        Ok(())
    }

    fn entry(&mut self, record: &Record<'_>, describes: bool) {
        let block = record.offset.checked_div(u64::from(self.log.superblock.block_size)).unwrap_or(0);
        let entry = Entry { block: crate::bytes::low_u32(block), sequence: self.sequence, describes };
        self.entries.push(entry);
    }

    /// Remembers a wrong checksum of a descriptor or revoke block until its commit block is seen.
    fn check(&mut self, record: &Record<'_>) -> Result<()> {
        if !self.log.is_entries_block_intact(record)? {
            let end = to_u64(record.len()).saturating_sub(4);
            self.suspect.get_or_insert(record.offset.saturating_add(end));
        }
        Ok(())
    }

    fn descriptor(&mut self, record: &Record<'_>) -> Result<()> {
        self.check(record)?;
        self.entry(record, true);
        let data = self.block;
        let blocks = to_u64(self.log.tags(record)?.len());
        self.pass(blocks, record)?;
        if self.log.superblock.checksum == Checksum::V1 && self.end.is_none() {
            let mut crc = CRC.digest_with_initial(self.crc);
            crc.update(record.bytes);
            self.log.read_data(data, blocks, &mut |_, bytes| {
                crc.update(bytes);
                Ok(())
            })?;
            self.crc = crc.finalize();
        }
        Ok(())
    }

    /// Ends a transaction, or the log.
    fn commit(&mut self, record: &Record<'_>) -> Result<bool> {
        let commit = self.log.commit(record)?;
        if let Some(suspect) = self.suspect {
            return self.damaged("t_checksum", suspect, &commit).map(|()| false);
        }
        if self.log.superblock.checksum == Checksum::V1 && self.end.is_some() {
            // Something was committed after the transaction that did not match: it cannot have been interrupted.
            return Err(damage("h_chksum", record.position(0x10), self.end.unwrap_or(0)));
        }
        if !self.is_intact(record, &commit)? {
            if commit.time < self.last_time || !self.log.superblock.async_commit {
                return self.damaged("h_chksum", record.position(0x10), &commit).map(|()| false);
            }
            self.end = Some(self.sequence);
            self.note = Some(format!("left out transaction {} of the journal, which was not finished", self.sequence));
        } else {
            self.crc = u32::MAX;
        }
        self.last_time = commit.time;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(true)
    }

    fn is_intact(&self, record: &Record<'_>, commit: &Commit) -> Result<bool> {
        let stored = (commit.checksum_type, commit.checksum_size);
        Ok(match self.log.superblock.checksum {
            Checksum::None => true,
            Checksum::V1 => {
                (stored == CRC32 && commit.checksum == self.crc) || (stored == (0, 0) && commit.checksum == 0)
            }
            Checksum::V2 | Checksum::V3 => self.log.is_commit_block_intact(record)?,
        })
    }

    /// A wrong checksum, with the commit block of its transaction: left over from an earlier round, or an error.
    fn damaged(&mut self, field: &'static str, offset: u64, commit: &Commit) -> Result<()> {
        if commit.time >= self.last_time {
            return Err(damage(field, offset, self.sequence));
        }
        self.note = Some(format!(
            "the journal ends before transaction {}, whose checksum is wrong and whose commit is older than the one before",
            self.sequence
        ));
        Ok(())
    }
}

fn damage(field: &'static str, offset: u64, sequence: u32) -> Error {
    let expected = format!("the checksum of transaction {sequence}");
    Error::corrupt(FORMAT, field, offset, "another checksum", expected)
        .with_hint("the kernel refuses to mount this filesystem too; repair a copy of it with e2fsck")
}
