//! A FAT volume of any bytes: opening and walking it neither panics, nor hangs, nor takes much memory.
#![no_main]

use std::ops::ControlFlow;
use std::sync::Arc;

use guestctl::block::{BlockDevice, Memory};
use guestctl::fs::{FileType};
use libfuzzer_sys::fuzz_target;

/// Directories and files looked at; a hostile tree may have no end.
const VISITS: usize = 500;

fuzz_target!(|bytes: &[u8]| {
    let device: Arc<dyn BlockDevice> = Arc::new(Memory::new(bytes.to_vec()));
    let Ok(fs) = guestctl::fs::open(device) else { return };
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
            let _ = fs.metadata(entry.inode);
            let _ = fs.lookup(directory, &entry.name);
            if entry.file_type == Some(FileType::Dir) {
                directories.push(entry.inode);
            } else if let Ok(file) = fs.open(entry.inode) {
                let mut head = vec![0; file.size().min(4096) as usize];
                let _ = file.read_exact_at(&mut head, 0);
                let _ = file.read_exact_at(&mut [0], file.size().saturating_sub(1));
            }
        }
        if visits >= VISITS {
            return;
        }
    }
});
