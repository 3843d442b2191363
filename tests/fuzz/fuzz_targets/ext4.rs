//! An ext4 filesystem of any bytes: opening it (with its journal) and walking it neither panics, nor hangs, nor takes
//! much memory. Checksums are switched off, which would hide everything behind the first one.
#![no_main]

use std::ops::ControlFlow;
use std::sync::Arc;

use guestctl::block::{BlockDevice, ExtentKind, Memory};
use guestctl::fs::{FileType};
use libfuzzer_sys::fuzz_target;

/// Entries looked at; a hostile tree may have no end.
const VISITS: usize = 300;
const EXTENTS: usize = 50;

fn content(file: &dyn BlockDevice) {
    let mut at = 0;
    for _ in 0..EXTENTS {
        if at >= file.size() {
            return;
        }
        let Ok(extent) = file.next_extent(at..file.size()) else { return };
        assert!(extent.len > 0 && extent.len <= file.size() - at);
        let mut bytes = vec![0xaa; extent.len.min(4096) as usize];
        if file.read_exact_at(&mut bytes, at).is_ok() && extent.kind != ExtentKind::Data {
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
        at += extent.len;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    let Some(superblock) = bytes.get_mut(1024..2048) else { return };
    superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
    // uninit_bg and metadata_csum.
    superblock[0x64] &= !0x10;
    superblock[0x65] &= !0x04;
    let device: Arc<dyn BlockDevice> = Arc::new(Memory::new(bytes));
    let Ok(fs) = guestctl::fs::ext4::open(device) else { return };
    let _ = (fs.identity(), fs.statfs(), fs.recovery());
    let mut directories = vec![fs.root()];
    let mut visits = 0;
    while let Some(directory) = directories.pop() {
        let mut entries = Vec::new();
        let _ = fs.read_dir(directory, &mut |entry| {
            visits += 1;
            entries.push(entry);
            Ok(if visits < VISITS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        for entry in entries {
            assert!(!entry.name.is_empty() && entry.name != b".." && !entry.name.contains(&b'/'));
            let _ = fs.lookup(directory, &entry.name);
            let _ = fs.xattrs(entry.inode);
            let Ok(metadata) = fs.metadata(entry.inode) else { continue };
            match metadata.file_type {
                FileType::Dir => directories.push(entry.inode),
                FileType::Symlink => drop(fs.read_link(entry.inode)),
                FileType::File => drop(fs.open(entry.inode).map(|file| content(&file))),
                _ => {}
            }
        }
        if visits >= VISITS {
            return;
        }
    }
});
