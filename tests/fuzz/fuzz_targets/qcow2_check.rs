//! A check of a qcow2 image of any bytes neither panics, nor hangs, nor takes much memory, and counts the same twice.
#![no_main]

use guestctl::block::{Memory, qcow2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The magic is no challenge.
    let mut bytes = bytes.to_vec();
    if let Some(magic) = bytes.get_mut(..4) {
        magic.copy_from_slice(b"QFI\xfb");
    }
    let file = Memory::new(bytes);
    let Ok(findings) = qcow2::check(&file) else { return };
    let again = qcow2::check(&file).expect("what was checked once");
    assert_eq!(format!("{findings:?}"), format!("{again:?}"));
});
