//! L2 table entries, which say where a guest cluster is: QEMU `docs/interop/qcow2.txt`, sections "Cluster mapping" and
//! "Extended L2 Entries".
//!
//! | bits | standard cluster | compressed cluster (x = 62 - (`cluster_bits` - 8)) |
//! |---|---|---|
//! | 0 | reads as zeroes; version 3, without extended entries | 0 to x - 1: offset of the data, any alignment |
//! | 1–8 | reserved, ignored as QEMU does | |
//! | 9–55 | host offset, a multiple of the cluster size; 0 unallocated | x to 61: 512-byte sectors beyond the first |
//! | 56–61 | reserved, ignored as QEMU does | |
//! | 62 | 0 | 1; refused with an external data file |
//! | 63 | reference count is one; host offset 0 counts with an external data file | ignored |
//!
//! An extended entry has 64 bits more for standard clusters: one bit "allocated" for each of 32 subclusters, then one bit
//! "reads as zeroes" for each. Both at once, or "allocated" without a host offset, is refused.
//!
//! A cluster may pass the end of the file that holds it: QEMU leaves a file short when the rest of its last cluster was
//! never written, and that rest reads as zeroes. A cluster that begins past the end is refused: the file was cut off.

use super::FORMAT;
use crate::error::{Error, Result};

pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub(super) const ZERO: u64 = 1;
pub(super) const COMPRESSED: u64 = 1 << 62;
pub(super) const COPIED: u64 = 1 << 63;

/// Subclusters of a cluster, as bits of their number.
pub(super) const SUBCLUSTER_BITS: u32 = 5;
const SUBCLUSTERS: u32 = 32;

/// What decides how entries are read, the same for the whole image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub version: u32,
    pub cluster_bits: u32,
    pub extended_l2: bool,
    /// Guest data lies in a file of its own.
    pub external: bool,
    /// Bytes of the image file, where tables and compressed clusters lie.
    pub file_size: u64,
    /// Bytes of the file where uncompressed clusters lie.
    pub data_size: u64,
}

/// Where a run of guest bytes is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// Not in this image: in its backing file, or zeroes.
    Unallocated,
    /// Zeroes, whatever lies below.
    Zero,
    /// From this offset of the data file.
    Host(u64),
    /// Inside this compressed cluster.
    Compressed(CompressedCluster),
}

/// Where the data of a compressed cluster lies in the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CompressedCluster {
    pub offset: u64,
    /// Bytes up to the end of its last sector; the data may end earlier, and the file may too.
    pub len: u64,
}

/// A run of guest bytes with one mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub mapping: Mapping,
    pub len: u64,
}

impl Run {
    /// Whether `next` is what this run would be if it were longer.
    pub(super) fn continues_in(&self, next: &Mapping) -> bool {
        match (self.mapping, *next) {
            (Mapping::Unallocated, Mapping::Unallocated) | (Mapping::Zero, Mapping::Zero) => true,
            (Mapping::Host(offset), Mapping::Host(next)) => offset.checked_add(self.len) == Some(next),
            _ => false,
        }
    }
}

/// One L2 table entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct L2Entry {
    pub descriptor: u64,
    /// The subclusters of an extended entry.
    pub bitmap: u64,
    /// Where it stands in the file.
    pub position: u64,
}

impl L2Entry {
    /// The mapping of the guest bytes from `at` on, as far as it is one mapping and at most to the end of the cluster.
    pub(super) fn run(&self, layout: &Layout, at: u64) -> Result<Run> {
        let within = at & layout.offset_mask();
        let rest = layout.cluster_size().saturating_sub(within);
        if self.descriptor & COMPRESSED != 0 {
            return Ok(Run { mapping: Mapping::Compressed(self.compressed(layout)?), len: rest });
        }
        let host = self.host_cluster(layout, at.saturating_sub(within))?;
        let (state, len) = if layout.extended_l2 {
            self.subclusters(layout, host.is_some(), within)?
        } else {
            (self.state(layout, host.is_some())?, rest)
        };
        let mapping = match (state, host) {
            (State::Zero, _) => Mapping::Zero,
            (State::Allocated, Some(host)) => {
                if host >= layout.data_size {
                    let expected = format!("a cluster that begins within the file's {} bytes", layout.data_size);
                    return Err(self.corrupt(format!("{host:#x}"), expected));
                }
                Mapping::Host(host.saturating_add(within))
            }
            _ => Mapping::Unallocated,
        };
        Ok(Run { mapping, len })
    }

    fn compressed(&self, layout: &Layout) -> Result<CompressedCluster> {
        if layout.external {
            return Err(self.corrupt("a compressed cluster", "none, as there is an external data file"));
        }
        let sector_bits = layout.cluster_bits.saturating_sub(8);
        let offset_bits = 62u32.saturating_sub(sector_bits);
        let offset = self.descriptor & low_bits(offset_bits);
        let sectors = self.descriptor.wrapping_shr(offset_bits) & low_bits(sector_bits);
        if offset >= layout.file_size {
            let expected = format!("compressed data within the file's {} bytes", layout.file_size);
            return Err(self.corrupt(format!("{offset:#x}"), expected));
        }
        let len = sectors.saturating_add(1).saturating_mul(512).saturating_sub(offset & 511);
        Ok(CompressedCluster { offset, len })
    }

    /// The host offset, if there is one, of the guest cluster at `guest`.
    fn host_cluster(&self, layout: &Layout, guest: u64) -> Result<Option<u64>> {
        let host = self.descriptor & OFFSET;
        if host == 0 && !(layout.external && self.descriptor & COPIED != 0) {
            return Ok(None);
        }
        if host & layout.offset_mask() != 0 {
            return Err(self.corrupt(format!("{host:#x}"), format!("a multiple of {}", layout.cluster_size())));
        }
        if layout.external && host != guest {
            return Err(self.corrupt(format!("{host:#x}"), format!("the guest's offset {guest:#x} in the data file")));
        }
        Ok(Some(host))
    }

    fn state(&self, layout: &Layout, allocated: bool) -> Result<State> {
        if self.descriptor & ZERO == 0 {
            return Ok(if allocated { State::Allocated } else { State::Unallocated });
        }
        if layout.version < 3 {
            return Err(self.corrupt("a zero cluster", "none in version 2"));
        }
        Ok(State::Zero)
    }

    /// The state of the subcluster `within` bytes into the cluster, and the bytes from there to where it changes.
    fn subclusters(&self, layout: &Layout, has_host: bool, within: u64) -> Result<(State, u64)> {
        let (allocated, zero) = (self.bitmap & low_bits(32), self.bitmap.wrapping_shr(32));
        let wrong = if has_host { allocated & zero } else { allocated };
        if wrong != 0 {
            let expected =
                if has_host { "not allocated and zero at once" } else { "none allocated without a host offset" };
            let position = self.position.saturating_add(8);
            let found = format!("{:#018x}", self.bitmap);
            return Err(Error::corrupt(FORMAT, "subcluster allocation bitmap", position, found, expected));
        }
        let bits = layout.cluster_bits.saturating_sub(SUBCLUSTER_BITS);
        let index = crate::bytes::low_u32(within.wrapping_shr(bits));
        let states = [(State::Allocated, allocated), (State::Zero, zero), (State::Unallocated, !(allocated | zero))];
        for (state, members) in states {
            let run = members.wrapping_shr(index).trailing_ones().min(SUBCLUSTERS.saturating_sub(index));
            if run > 0 {
                let end = u64::from(index.saturating_add(run)).wrapping_shl(bits);
                return Ok((state, end.saturating_sub(within)));
            }
        }
        Ok((State::Unallocated, layout.cluster_size().saturating_sub(within)))
    }

    fn corrupt(&self, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
        Error::corrupt(FORMAT, "L2 table entry", self.position, found, expected)
    }
}

/// What a cluster or subcluster is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unallocated,
    Zero,
    Allocated,
}

impl Layout {
    /// Bytes of a cluster.
    pub(super) fn cluster_size(&self) -> u64 {
        1u64.wrapping_shl(self.cluster_bits)
    }

    /// The bits of an offset that lie within a cluster.
    pub(super) fn offset_mask(&self) -> u64 {
        low_bits(self.cluster_bits)
    }

    /// 64-bit words of one L2 entry, as bits.
    pub(super) fn entry_word_bits(&self) -> u32 {
        u32::from(self.extended_l2)
    }

    /// Entries of an L2 table, as bits.
    pub(super) fn l2_bits(&self) -> u32 {
        self.cluster_bits.saturating_sub(3).saturating_sub(self.entry_word_bits())
    }
}

/// A mask of the lowest `bits` bits, fewer than 64.
pub(super) fn low_bits(bits: u32) -> u64 {
    1u64.wrapping_shl(bits).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 1 << 16;

    fn layout() -> Layout {
        let (file_size, data_size) = (10 * CLUSTER, 10 * CLUSTER - 1000);
        Layout { version: 3, cluster_bits: 16, extended_l2: false, external: false, file_size, data_size }
    }

    fn run(layout: &Layout, descriptor: u64, bitmap: u64, at: u64) -> Result<Run> {
        L2Entry { descriptor, bitmap, position: 0x4_0008 }.run(layout, at)
    }

    fn corrupt(layout: &Layout, descriptor: u64, bitmap: u64) -> (&'static str, u64, String) {
        let error = run(layout, descriptor, bitmap, 5 * CLUSTER).unwrap_err();
        let corrupt = error.as_corrupt().unwrap();
        (corrupt.field, corrupt.offset, corrupt.found.clone())
    }

    #[test]
    fn standard_descriptors() {
        let at = 5 * CLUSTER + 100;
        let rest = CLUSTER - 100;
        let whole = |mapping| Run { mapping, len: rest };
        for (descriptor, mapping) in [
            (0, Mapping::Unallocated),
            (COPIED, Mapping::Unallocated),
            (ZERO, Mapping::Zero),
            (ZERO | COPIED | (3 * CLUSTER), Mapping::Zero),
            (3 * CLUSTER, Mapping::Host(3 * CLUSTER + 100)),
            (COPIED | (3 * CLUSTER) | 0x3f00_0000_0000_01fe, Mapping::Host(3 * CLUSTER + 100)),
            (9 * CLUSTER, Mapping::Host(9 * CLUSTER + 100)),
        ] {
            assert_eq!(run(&layout(), descriptor, 0, at).unwrap(), whole(mapping), "{descriptor:#x}");
        }
    }

    #[test]
    fn bad_descriptors_are_refused_where_they_stand() {
        let version_2 = Layout { version: 2, ..layout() };
        let external = Layout { external: true, ..layout() };
        let entry = |found: &str| ("L2 table entry", 0x4_0008, found.to_owned());
        assert_eq!(corrupt(&layout(), CLUSTER + 512, 0), entry("0x10200"));
        assert_eq!(corrupt(&layout(), ZERO | (CLUSTER + 512), 0), entry("0x10200"));
        assert_eq!(corrupt(&layout(), 10 * CLUSTER, 0), entry("0xa0000"));
        assert_eq!(corrupt(&layout(), OFFSET & !(CLUSTER - 1), 0), entry("0xffffffffff0000"));
        assert_eq!(corrupt(&version_2, ZERO, 0), entry("a zero cluster"));
        assert_eq!(corrupt(&external, COMPRESSED | 1, 0), entry("a compressed cluster"));
        assert_eq!(corrupt(&external, 4 * CLUSTER, 0), entry("0x40000"));
        assert_eq!(corrupt(&layout(), COMPRESSED | (10 * CLUSTER), 0), entry("0xa0000"));
    }

    #[test]
    fn external_data_may_lie_at_offset_zero() {
        let external = Layout { external: true, ..layout() };
        assert_eq!(run(&external, COPIED, 0, 7).unwrap().mapping, Mapping::Host(7));
        assert_eq!(run(&external, 0, 0, 7).unwrap().mapping, Mapping::Unallocated);
    }

    #[test]
    fn compressed_descriptors_at_the_smallest_and_largest_cluster_size() {
        let sized = |cluster_bits| Layout { cluster_bits, file_size: u64::MAX, ..layout() };
        let compressed = |bits, descriptor| match run(&sized(bits), descriptor, 0, 0).unwrap().mapping {
            Mapping::Compressed(CompressedCluster { offset, len }) => (offset, len),
            other => panic!("{other:?}"),
        };
        assert_eq!(compressed(9, COMPRESSED | (1 << 61) | 700), (700, 1024 - 188));
        assert_eq!(compressed(16, COMPRESSED | (3 << 54) | 512), (512, 4 * 512));
        assert_eq!(compressed(21, COMPRESSED | (0x1fff << 49) | 1), (1, 0x2000 * 512 - 1));
    }

    #[test]
    fn subclusters_run_to_where_their_state_changes() {
        let layout = Layout { extended_l2: true, ..layout() };
        let size = CLUSTER / 32;
        // Subclusters 0–2 allocated, 3–4 zero, 5–30 unallocated, 31 allocated.
        let bitmap = 0x8000_0007 | (0x18 << 32);
        let at = |offset| run(&layout, 2 * CLUSTER, bitmap, 5 * CLUSTER + offset).unwrap();
        assert_eq!(at(10), Run { mapping: Mapping::Host(2 * CLUSTER + 10), len: 3 * size - 10 });
        assert_eq!(at(3 * size), Run { mapping: Mapping::Zero, len: 2 * size });
        assert_eq!(at(6 * size), Run { mapping: Mapping::Unallocated, len: 25 * size });
        assert_eq!(at(CLUSTER - 1), Run { mapping: Mapping::Host(3 * CLUSTER - 1), len: 1 });
        let zeroes = run(&layout, 0, 0xffff_ffff << 32, 0).unwrap();
        assert_eq!(zeroes, Run { mapping: Mapping::Zero, len: CLUSTER });
        let bitmap = |found: &str| ("subcluster allocation bitmap", 0x4_0010, found.to_owned());
        assert_eq!(corrupt(&layout, 2 * CLUSTER, 1 | (1 << 32)), bitmap("0x0000000100000001"));
        assert_eq!(corrupt(&layout, 0, 1 << 31), bitmap("0x0000000080000000"));
    }

    #[test]
    fn runs_join_where_the_host_offsets_follow() {
        let run = |mapping| Run { mapping, len: 512 };
        assert!(run(Mapping::Host(1024)).continues_in(&Mapping::Host(1536)));
        assert!(!run(Mapping::Host(1024)).continues_in(&Mapping::Host(2048)));
        assert!(!run(Mapping::Zero).continues_in(&Mapping::Unallocated));
        let compressed = Mapping::Compressed(CompressedCluster { offset: 0, len: 512 });
        assert!(!run(compressed).continues_in(&compressed));
    }
}
