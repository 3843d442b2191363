//! Text databases of any bytes, read as dpkg's, apk's and pacman's: none panics, hangs or takes much memory.
#![no_main]

use guestctl::block::Memory;
use guestctl::inspect::packages::{Gathered, apk, dpkg, pacman};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = Memory::new(bytes.to_vec());
    for no_status in [dpkg::NoStatus::Installed, dpkg::NoStatus::NotInstalled] {
        let _ = dpkg::read(&file, no_status, &mut Gathered::default());
    }
    let _ = apk::read(&file, &mut Gathered::default());
    let _ = pacman::parse(bytes);
});
