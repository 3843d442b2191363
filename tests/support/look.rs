//! Looking at some of a device or filesystem that may be damaged in any way: what the mutation tests and the fuzz targets
//! do with what they made. Nothing may panic, hang or take much memory, and what is claimed must be true.

use std::ops::ControlFlow;
use std::sync::Arc;

use guestctl::block::{BlockDevice, ExtentKind};
use guestctl::fs::FileType;

/// Extents and entries looked at; a hostile image may have no end of them.
const VISITS: usize = 200;

/// Reads some of a device and holds its claims of zeroes against its bytes.
pub fn look_at_bytes(device: &dyn BlockDevice) {
    let mut at = 0;
    for _ in 0..VISITS {
        if at >= device.size() {
            return;
        }
        let Ok(extent) = device.next_extent(at..device.size()) else { return };
        assert!(extent.len > 0 && extent.len <= device.size() - at);
        let mut bytes = vec![0xaa; extent.len.min(16 << 10) as usize];
        if device.read_exact_at(&mut bytes, at).is_ok() && extent.kind != ExtentKind::Data {
            assert!(bytes.iter().all(|byte| *byte == 0), "bytes {at}.. are no zeroes");
        }
        at += extent.len;
    }
}

/// Opens whatever filesystem there is and walks some of it.
pub fn look_at_files(device: Arc<dyn BlockDevice>) {
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
            let _ = (fs.lookup(directory, &entry.name), fs.xattrs(entry.inode));
            let Ok(metadata) = fs.metadata(entry.inode) else { continue };
            match metadata.file_type {
                FileType::Dir => directories.push(entry.inode),
                FileType::Symlink => drop(fs.read_link(entry.inode)),
                FileType::File => drop(fs.open(entry.inode).map(|file| look_at_bytes(&file))),
                _ => {}
            }
        }
        if visits >= VISITS {
            return;
        }
    }
}
