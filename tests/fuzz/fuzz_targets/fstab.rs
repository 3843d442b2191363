//! fstab, mount units and crypttab: no panic, and never more entries than the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let entries = guestctl::inspect::fstab::parse(&text);
    assert!(entries.len() <= guestctl::limits::FSTAB_ENTRIES);
    for entry in &entries {
        let _ = entry.is_disk();
    }
    let _ = guestctl::inspect::fstab::parse_mount_unit(&text);
    let _ = guestctl::inspect::fstab::parse_crypttab(&text);
});
