//! Checksums of damaged VHD and VHDX images, made right again, so that what was damaged is looked at.
#![allow(dead_code, reason = "each test program uses a part")]

/// Both footers and the dynamic header of a VHD, where they usually are.
pub fn vhd(bytes: &mut [u8]) {
    let end = bytes.len().saturating_sub(512);
    for (at, len, field) in [(0, 512, 64), (512, 1024, 36), (end, 512, 64)] {
        if let Some(structure) = bytes.get_mut(at..at + len) {
            structure[field..field + 4].fill(0);
            let sum = !structure.iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()));
            structure[field..field + 4].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Headers and region tables of a VHDX, and the first entry of a log at 1 MiB.
pub fn vhdx(bytes: &mut [u8]) {
    const KIB: usize = 1 << 10;
    let log = bytes
        .get(KIB * KIB + 8..KIB * KIB + 12)
        .map_or(0, |len| u32::from_le_bytes(len.try_into().unwrap_or_default()));
    let entry = (KIB * KIB, (log as usize).clamp(8, KIB * KIB));
    let known = [(64 * KIB, 4 * KIB), (128 * KIB, 4 * KIB), (192 * KIB, 64 * KIB), (256 * KIB, 64 * KIB), entry];
    for (at, len) in known {
        if let Some(structure) = bytes.get_mut(at..at + len) {
            structure[4..8].fill(0);
            let sum = crc32c::crc32c(structure);
            structure[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}
