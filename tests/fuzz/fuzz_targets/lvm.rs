//! LVM2 labels, headers and metadata over arbitrary bytes: errors are fine, panics are not, and every logical volume
//! that is handed out can be read to its end.
//!
//! Checksums would hide everything behind the first check, so the first label and metadata area are given valid ones,
//! and the text is taken from the end of the input.
#![no_main]

use std::sync::Arc;

use guestctl::block::{BlockDevice, Memory};
use guestctl::volume::lvm;
use libfuzzer_sys::fuzz_target;

/// LVM's checksum: CRC-32 with an initial value of its own and no final complement.
fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = 0xf597_a6cfu32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    crc.to_le_bytes()
}

/// Wraps `text` into a physical volume of 1 MiB that holds one metadata area at 4096.
fn volume(text: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
    put(512, b"LABELONE\x01");
    put(532, &[32]);
    put(536, b"LVM2 001");
    put(544, &[b'A'; 32]);
    put(584, &(512u64 << 10).to_le_bytes());
    put(616, &4096u64.to_le_bytes());
    put(624, &(256u64 << 10).to_le_bytes());
    put(4100, b"\x20LVM2\x20x[5A%r0N*>\x01");
    put(4120, &4096u64.to_le_bytes());
    put(4128, &(256u64 << 10).to_le_bytes());
    put(4136, &512u64.to_le_bytes());
    put(4144, &(text.len() as u64).to_le_bytes());
    put(4152, &crc(text));
    put(4608, text);
    let label = crc(&disk[532..1024]);
    disk[528..532].copy_from_slice(&label);
    let area = crc(&disk[4100..4608]);
    disk[4096..4100].copy_from_slice(&area);
    disk
}

fuzz_target!(|data: &[u8]| {
    let text = &data[..data.len().min(200 << 10)];
    for bytes in [data.to_vec(), volume(text)] {
        let disk: Arc<dyn BlockDevice> = Arc::new(Memory::new(bytes));
        let Ok(groups) = lvm::scan(&[("disk".to_owned(), disk)]) else { continue };
        for volume in groups.iter().flat_map(|group| &group.logical_volumes) {
            let size = volume.device.size();
            let mut byte = [0];
            volume.device.read_exact_at(&mut byte, size - 1).expect("a volume can be read to its end");
            volume.device.next_extent(0..size).expect("an extent of a volume");
        }
    }
});
